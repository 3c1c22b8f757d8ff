"""Thumb instructions, as the timing models see them: a kind, registers read and written.

Decoded with capstone; Helium (MVE) and the low-overhead loop instructions, which capstone 5 does
not know, are told apart by their encodings (Armv8-M Architecture Reference Manual, C2.3 and C2.4).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.devices.blocks import instruction_sizes

_DSP_MULTIPLY = ("smla", "smls", "smul", "smml", "smmul", "smua", "smus")
_FUSED = frozenset({"vmla", "vmls", "vnmla", "vnmls", "vfma", "vfms", "vfnma", "vfnms"})
#: Packed arithmetic, extension, saturation, byte reversal: one such unit on the Cortex-M7.
_SIMD = (
    *("sadd", "ssub", "uadd", "usub", "shadd", "shsub", "uhadd", "uhsub", "qadd", "qsub", "uqadd"),
    *("uqsub", "qdadd", "qdsub", "sasx", "ssax", "uasx", "usax", "qasx", "qsax", "sel", "usad"),
    *("sxt", "uxt", "pkh", "ssat", "usat", "rev", "rbit", "sbfx", "ubfx"),
)
_MOVED = {
    "ldm": "ldm",
    "ldmdb": "ldm",
    "pop": "ldm",
    "stm": "stm",
    "stmdb": "stm",
    "push": "stm",
    "vldmia": "ldm",
    "vldmdb": "ldm",
    "vpop": "ldm",
    "vstmia": "stm",
    "vstmdb": "stm",
    "vpush": "stm",
    "fldmiax": "ldm",
    "fldmdbx": "ldm",
    "fstmiax": "stm",
    "fstmdbx": "stm",
}
_KINDS = {
    "b": "b",
    "bl": "bl",
    "blx": "bx",
    "bx": "bx",
    "bxns": "bx",
    "blxns": "bx",
    "bxj": "bx",
    "cbz": "cb",
    "cbnz": "cb",
    "tbb": "tb",
    "tbh": "tb",
    "it": "it",
    "nop": "nop",
    "hint": "nop",
    "mul": "mul",
    "mla": "mla",
    "mls": "mla",
    "smull": "mull",
    "umull": "mull",
    "smlal": "mlal",
    "umlal": "mlal",
    "umaal": "mlal",
    "sdiv": "div",
    "udiv": "div",
    "dsb": "barrier",
    "dmb": "barrier",
    "isb": "barrier",
    "mrs": "sys",
    "msr": "sys",
    "cps": "sys",
    "bkpt": "sys",
    "svc": "sys",
    "ldrd": "ldrd",
    "strd": "strd",
    "ldrexd": "ldrd",
    "strexd": "strd",
    "vldr": "ldr",
    "vstr": "str",
    "vdiv": "fdiv",
    "vsqrt": "fdiv",
}


@dataclass(frozen=True)
class Ins:
    """kind: what the cost tables are keyed by. count: registers moved (load and store multiple).
    address: registers that form a memory address. pc: writes PC. double: double precision.
    cond: a conditional branch. pipe: Helium pipe (``mem``, ``mac``, ``alu``), else ''.
    late: registers needed after the others (accumulators, data to store). early: shifted operands.
    unit: ``simd``, ``shift`` or ``first`` (issues only as the first of a pair), else ''. narrow: a
    byte or halfword is loaded."""

    kind: str
    size: int
    count: int = 1
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    address: frozenset[str] = frozenset()
    pc: bool = False
    double: bool = False
    cond: bool = False
    pipe: str = ""
    late: frozenset[str] = frozenset()
    early: frozenset[str] = frozenset()
    unit: str = ""
    narrow: bool = False


@functools.cache
def _engine() -> Any:
    import capstone

    md = capstone.Cs(
        capstone.CS_ARCH_ARM,
        capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS | capstone.CS_MODE_V8,
    )
    md.detail = True
    return md


def decode(address: int, code: bytes, helium: bool = False) -> Sequence[Ins]:
    """The instructions of a block. helium: the core has MVE and low-overhead loops."""
    out = []
    at = 0
    for size in instruction_sizes(code):
        word = code[at : at + size]
        ins = _mve(word) if helium and size == 4 else None
        out.append(ins or _one(word, (address + at) & 3, helium))
        at += size
    return out


def _registers(names: Any) -> frozenset[str]:
    """Double and quad registers as the single ones they consist of, so that overlaps are seen."""
    out: set[str] = set()
    for name in names:
        if name[0] in "dq" and name[1:].isdigit():
            width = 2 if name[0] == "d" else 4
            first = width * int(name[1:])
            out.update(f"s{first + i}" for i in range(width))
        elif name != "itstate":
            out.add(name)
    return frozenset(out)


@functools.lru_cache(maxsize=1 << 16)
def _one(word: bytes, alignment: int, helium: bool) -> Ins:
    from capstone import arm_const

    size = len(word)
    ins = next(_engine().disasm(word, 0x1000 + alignment, 1), None)
    if ins is None:
        return Ins("alu", size)
    name = ins.insn_name()
    reads, writes = (_registers(map(ins.reg_name, regs)) for regs in ins.regs_access())
    memory = [o for o in ins.operands if o.type == arm_const.ARM_OP_MEM]
    address = frozenset(ins.reg_name(r) for o in memory for r in (o.mem.base, o.mem.index) if r)
    kind = _MOVED.get(name) or _KINDS.get(name)
    count, double, pc = 1, False, "pc" in writes
    if kind in ("ldm", "stm"):
        lists = [ins.reg_name(o.reg) for o in ins.operands if o.type == arm_const.ARM_OP_REG]
        base = "sp" if name in ("push", "pop", "vpush", "vpop") else lists.pop(0)
        count = sum(2 if r[0] == "d" else 1 for r in lists)
        address = frozenset({base})
        written = _registers(lists)
        reads, writes = (
            (frozenset({base}), written | ({base} & writes))
            if kind == "ldm"
            else (frozenset({base}) | written, frozenset({base} & writes))
        )
        pc = "pc" in writes
    elif kind is None:
        if name.startswith("ldr") or name.startswith("lda"):
            kind = "ldr"
        elif name.startswith("str") or name.startswith("stl"):
            kind = "str"
        elif name.startswith(_DSP_MULTIPLY):
            kind = "dsp"
        elif name[0] == "v":
            kind = "fmac" if name in _FUSED else "fp"
            kind = "fmov" if name in ("vmov", "vmrs", "vmsr") else kind
        else:
            kind = "alu"
    if name[0] == "v" and (kind in ("fp", "fmac", "fdiv", "ldr", "str")):
        double = any(
            o.type == arm_const.ARM_OP_REG and ins.reg_name(o.reg)[0] == "d" for o in ins.operands
        )
        if double and kind in ("ldr", "str"):
            kind += "d"
    if kind == "fmov":
        core = [
            o
            for o in ins.operands
            if o.type == arm_const.ARM_OP_REG and ins.reg_name(o.reg)[0] not in "sdq"
        ]
        count = max(1, len(core))
    if kind == "alu" and pc:
        kind = "bx"
    late, early, unit = _roles(ins, name, kind, writes)
    cond = kind == "cb" or (kind == "b" and ins.cc != arm_const.ARM_CC_AL)
    return Ins(
        kind,
        size,
        count,
        reads,
        writes,
        address,
        pc,
        double,
        cond,
        late=late,
        early=early,
        unit=unit,
        narrow=name.startswith(("ldrb", "ldrh", "ldrsb", "ldrsh")),
    )


def _roles(
    ins: Any, name: str, kind: str, writes: frozenset[str]
) -> tuple[frozenset[str], frozenset[str], str]:
    """Registers read late, registers read early, special unit (see :class:`Ins`)."""
    from capstone import arm_const

    registers = [o for o in ins.operands if o.type == arm_const.ARM_OP_REG]
    late: frozenset[str] = frozenset()
    if kind in ("mla", "dsp") and len(registers) == 4:
        late = frozenset({ins.reg_name(registers[3].reg)})
        late -= {ins.reg_name(o.reg) for o in registers[1:3]}
    elif kind == "fmac":
        late = writes
    elif kind in ("str", "strd"):
        late = _registers(ins.reg_name(o.reg) for o in registers)
    early = frozenset(ins.reg_name(o.reg) for o in registers if o.shift.type)
    unit = ""
    if kind == "alu" and name.startswith(_SIMD):
        unit = "simd"
    elif kind == "alu" and name in ("clz", "bfi", "bfc"):
        unit = "first"
    elif kind == "alu" and (early or name in ("lsl", "lsr", "asr", "ror")):
        unit = "shift"
    return late, early, unit


@functools.lru_cache(maxsize=1 << 16)
def _mve(word: bytes) -> Ins | None:
    """Helium and loop instructions; None for everything else."""
    one = int.from_bytes(word[:2], "little")
    two = int.from_bytes(word[2:], "little")
    if one & 0xFF80 == 0xF000 and two & 0xF001 == 0xC001:
        end = one & 0xF == 0xF
        return Ins("le" if end else "wls", 4, cond=not end)
    if one & 0xFF80 == 0xF000 and two & 0xF001 == 0xE001:
        return Ins("alu", 4)  # DLS, DLSTP, LCTP, VCTP
    if one & 0xEE00 == 0xEC00 and two & 0x0E00 == 0x0E00:
        if one & 0xEFA0 == 0xEC00:
            return Ins("vec", 4, pipe="alu")  # two lanes to or from core registers
        if one & 0xEFA0 == 0xEC80 and not two & 0x1000:
            return Ins("gather", 4, count=16 >> (two >> 7 & 3), pipe="mem")
        if one & 0xFF00 == 0xFD00 and two & 0x1000:
            return Ins("gather", 4, count=2 if two & 0x100 else 4, pipe="mem")
        return Ins("vec", 4, pipe="mem")
    if one & 0xFFB1 == 0xFE31 and two & 0x1FFF == 0x0F4D:
        return Ins("alu", 4)  # VPST
    top = one >> 8
    if top in (0xEF, 0xFF):
        nibble = two >> 8 & 0xF
        mac = nibble in (0x9, 0xB, 0xC) or (nibble == 0xD and top == 0xFF)
        return Ins("vec", 4, pipe="mac" if mac else "alu")
    if top in (0xEE, 0xFE) and two >> 9 & 7 != 5 and two >> 8 & 0xF != 9:
        return Ins("vec", 4, pipe="mac" if two & 0x0E00 == 0x0E00 else "alu")
    return None
