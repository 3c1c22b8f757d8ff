"""Runs lowered kernel calls (targets/mcu/contract.KernelCall) outside any generated project.

The calls of many single-operator cases are rendered into one C file: built for the host with
sanitizers it reads inputs from a file and allocates every buffer at its exact size; built for a
Cortex-M4 each case is a function that Unicorn calls, instructions counted by basic block.
"""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.graph.ir import Graph
from edgekit.targets.schema import Core, Memory, Target
from edgekit_targets.mcu.contract import KernelCall

KERNELS = Path(__file__).resolve().parent.parent / "kernels"
CTYPES = {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t"}


def m4() -> Target:
    """A Cortex-M4 with the DSP extension, without reading a YAML file."""
    return Target(
        name="m4",
        family="mcu",
        description="Cortex-M4",
        board="none",
        source="test",
        cores=(Core(name="cortex-m4", isa="armv7e-m", clock_hz=1, count=1, features=("dsp",)),),
        memories=(Memory(name="flash", role="flash", size=1 << 20, wait_states=0),),
    )


@dataclass
class Case:
    """A graph of one node, its lowering, and inputs for one sample (shapes as in the graph)."""

    graph: Graph
    call: KernelCall
    inputs: list[np.ndarray]
    inplace: int | None = None  #: on the host, write the output over this input

    @property
    def activations(self) -> list[int]:
        """Positions of the node's inputs that are not constants."""
        node = self.graph.nodes[0]
        return [
            i
            for i, n in enumerate(node.inputs)
            if n is not None and not self.graph.tensor(n).is_const
        ]

    @property
    def out_bytes(self) -> int:
        return self.graph.tensor(self.graph.outputs[0]).nbytes


def _subst(text: str, names: dict[str, str]) -> str:
    text = re.sub(r"\{([a-z_.0-9]+)\}", lambda m: names[m.group(1)], text)
    return text.replace("{{", "{").replace("}}", "}")


def render(cases: Sequence[Case]) -> str:
    """C source: constants, ``void case_<i>(in0, in1, out0, scratch)`` and a scratch query each."""
    headers = sorted({h for c in cases for h in (c.call.header, *c.call.more_headers)})
    lines = ["#include <stdint.h>", "#include <stddef.h>"]
    lines += [f'#include "{h}"' for h in headers]
    for i, case in enumerate(cases):
        call = case.call
        names = {"scratch": "scratch", "out0": "out0", "p": f"params_{i}"}
        for j, pos in enumerate(case.activations):
            names[f"in{pos}"] = f"in{j}"
        for const in call.consts:
            cname = f"k{i}_{const.name}"
            names[f"c.{const.name}"] = cname
            assert str(const.data.dtype) + "_t" == const.ctype, (const.name, const.data.dtype)
            body = ",".join(str(int(v)) if v != -(2**31) else "INT32_MIN" for v in const.data)
            lines.append(
                f"static const {const.ctype} {cname}[] __attribute__((aligned({const.align})))"
                f" = {{{body}}};"
            )
        if call.params_type:
            lines.append(
                f"static const {call.params_type} params_{i} = {_subst(call.params or '', names)};"
            )
        lines.append(
            f"void case_{i}(const int8_t *in0, const int8_t *in1, int8_t *out0, void *scratch);\n"
            f"void case_{i}(const int8_t *in0, const int8_t *in1, int8_t *out0, void *scratch) {{"
            f" (void)in0; (void)in1; (void)scratch; {_subst(call.call, names)} }}"
        )
        stem = Path(call.sources[0]).stem
        # portable kernels and those without parameters may have no query
        own = call.details.get("inner_scratch", call.scratch_bytes)  # less what is unpacked there
        asks = own or (call.params_type and not stem.endswith("_ref"))
        query = f"ek_{stem}_scratch_bytes(&params_{i})" if asks else "0"
        lines.append(f"int32_t scratch_{i}(void);\nint32_t scratch_{i}(void) {{ return {query}; }}")
    return "\n".join(lines) + "\n"


_MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
typedef void (*fn)(const int8_t *, const int8_t *, int8_t *, void *);
typedef struct {
  fn run;
  int32_t (*scratch)(void);
  size_t in0, in1, out, scratch_bytes;
  int inplace;
} entry;
static const entry table[] = {
@TABLE@
};
static int8_t *get(FILE *f, size_t n) {
  int8_t *p = malloc(n ? n : 1);
  if (n && fread(p, 1, n, f) != n) exit(3);
  return p;
}
int main(int argc, char **argv) {
  FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
  (void)argc;
  for (size_t i = 0; i < sizeof table / sizeof table[0]; ++i) {
    const entry *e = &table[i];
    if (e->scratch() != (int32_t)e->scratch_bytes) {
      fprintf(stderr, "case %d wants %d bytes of scratch\n", (int)i, (int)e->scratch());
      return 4;
    }
    int8_t *a = get(in, e->in0), *b = get(in, e->in1);
    int8_t *y = e->inplace == 0 ? a : e->inplace == 1 ? b : malloc(e->out);
    void *s = e->scratch_bytes ? malloc(e->scratch_bytes) : NULL;
    e->run(a, b, y, s);
    fwrite(y, 1, e->out, out);
    if (e->inplace < 0) free(y);
    free(a); free(b); free(s);
  }
  return fclose(out) || fclose(in);
}
"""


def _sources(cases: Sequence[Case]) -> list[str]:
    return [str(KERNELS / s) for s in sorted({s for c in cases for s in c.call.sources})]


def run_host(cases: Sequence[Case], folder: Path, compiler: str = "gcc") -> list[np.ndarray]:
    """Outputs of all cases (int8, flat), from a build with address and UB sanitizers."""
    table = []
    data = bytearray()
    for i, c in enumerate(cases):
        sizes = [x.nbytes for x in c.inputs] + [0] * (2 - len(c.inputs))
        for x in c.inputs:
            data += np.ascontiguousarray(x).tobytes()
        table.append(
            f"  {{case_{i}, scratch_{i}, {sizes[0]}, {sizes[1]}, {c.out_bytes}, "
            f"{c.call.scratch_bytes}, {-1 if c.inplace is None else c.inplace}}},"
        )
    (folder / "cases.c").write_text(render(cases) + _MAIN.replace("@TABLE@", "\n".join(table)))
    (folder / "in.bin").write_bytes(bytes(data))
    flags = ["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    files = [str(folder / "cases.c"), *_sources(cases)]
    subprocess.run(
        [compiler, *flags, f"-I{KERNELS / 'include'}", "-o", str(folder / "cases"), *files],
        check=True,
        timeout=300,
    )
    subprocess.run(
        [str(folder / "cases"), str(folder / "in.bin"), str(folder / "out.bin")],
        check=True,
        timeout=300,
    )
    flat = np.frombuffer((folder / "out.bin").read_bytes(), np.int8)
    ends = np.cumsum([c.out_bytes for c in cases])
    assert flat.size == ends[-1]
    return np.split(flat, ends[:-1])


# -- Cortex-M4 ---------------------------------------------------------------------------------

_LINK = """
ENTRY(case_0)
SECTIONS {
  . = 0x1000;
  .text : { KEEP(*(.text*)) } .rodata : { KEEP(*(.rodata*)) }
  /DISCARD/ : { *(.ARM.ex*) *(.comment*) }
}
"""
_SHIM = "#include <stddef.h>\nvoid *memcpy(void *, const void *, size_t);\n"
_SHIM += "void *memset(void *, int, size_t);\n"
_LIBC = """
#include <stddef.h>
void *memcpy(void *restrict d, const void *restrict s, size_t n);
void *memset(void *d, int v, size_t n);
void *memcpy(void *restrict d, const void *restrict s, size_t n) {
  char *a = d; const char *b = s; while (n--) *a++ = *b++; return d; }
void *memset(void *d, int v, size_t n) { char *a = d; while (n--) *a++ = (char)v; return d; }
"""


@dataclass
class M4Result:
    output: np.ndarray
    instructions: int
    cycles: int  #: estimated, core table ``m4``, memory that never makes it wait
    functions: dict[str, int]
    stack_bytes: int


class M4Program:
    """The cases linked for a Cortex-M4 and loaded into Unicorn."""

    RAM, STACK, RETURN = 0x20000000, 0x200F0000, 0x00FFF000

    def __init__(
        self, cases: Sequence[Case], folder: Path, compiler: str = "zig", opt: str = "-O2"
    ) -> None:
        from elftools.elf.elffile import ELFFile

        self.cases = cases
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "string.h").write_text(_SHIM)
        (folder / "libc.c").write_text(_LIBC)
        (folder / "link.ld").write_text(_LINK)
        (folder / "cases.c").write_text(render(cases))
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi"]
        cc = {
            "zig": [*zig, "-mcpu=cortex_m4", "-fno-sanitize=undefined"],
            "gcc": ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb"],
        }[compiler]
        flags = ["-std=c11", "-g", opt, "-Wall", "-Wextra", "-Werror", "-ffunction-sections"]
        flags += ["-nostdlib", "-ffreestanding", f"-I{folder}", f"-I{KERNELS / 'include'}"]
        flags += [
            "-T",
            str(folder / "link.ld"),
            "-Wl,--entry=case_0",
            "-o",
            str(folder / "cases.elf"),
        ]
        files = [str(folder / "cases.c"), str(folder / "libc.c"), *_sources(cases)]
        files += ["-lgcc"] if compiler == "gcc" else []
        subprocess.run([*cc, *flags, *files], check=True, timeout=300)
        with (folder / "cases.elf").open("rb") as f:
            elf = ELFFile(f)
            self.segments = [
                (s["p_vaddr"], s.data()) for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"
            ]
            table: Any = elf.get_section_by_name(".symtab")
            symbols = [s for s in table.iter_symbols() if s["st_info"]["type"] == "STT_FUNC"]
        self.symbols = {s.name: s["st_value"] | 1 for s in symbols}
        self.sizes = {s.name: s["st_size"] for s in symbols}
        self._starts = sorted((s["st_value"] & ~1, s.name) for s in symbols)

    def run(self, index: int) -> M4Result:
        """Run one case; counts executed instructions of its call by function."""
        import bisect

        import unicorn as uc
        from unicorn import arm_const as arm

        from edgekit.devices.timing import load_table

        case = self.cases[index]
        mu = uc.Uc(uc.UC_ARCH_ARM, uc.UC_MODE_THUMB)
        mu.ctl_set_cpu_model(arm.UC_CPU_ARM_CORTEX_M4)
        mu.mem_map(0, 0x1000000)
        mu.mem_map(self.RAM, 0x100000)
        code = bytearray(0x400000)
        for address, data in self.segments:
            mu.mem_write(address, data)
            code[address : address + len(data)] = data
        at, args = self.RAM, []
        for size in [x.nbytes for x in case.inputs] + [0] * (2 - len(case.inputs)):
            args.append(at)
            at += size + 15 & ~15
        for a, x in zip(args, case.inputs, strict=False):
            mu.mem_write(a, np.ascontiguousarray(x).tobytes())
        out, scratch = at, (at + case.out_bytes + 15) & ~15
        mu.mem_write(scratch, b"\xa5" * case.call.scratch_bytes)
        guard = scratch + case.call.scratch_bytes
        mu.mem_write(guard, b"\x5a" * 64)
        mu.mem_write(self.STACK - 8192, b"\xee" * 8192)
        starts = [a for a, _ in self._starts]
        blocks: dict[tuple[int, int], int] = {}
        jumps: dict[tuple[int, int], tuple[int, int]] = {}  # left by, entered by a taken branch
        last = [(0, 0)]

        def on_block(_mu, address, size, _user):
            blocks[address, size] = blocks.get((address, size), 0) + 1
            if sum(last[0]) != address:
                left, entered = jumps.get(last[0], (0, 0))
                jumps[last[0]] = left + 1, entered
                left, entered = jumps.get((address, size), (0, 0))
                jumps[address, size] = left, entered + 1
            last[0] = address, size

        mu.hook_add(uc.UC_HOOK_BLOCK, on_block)
        for r, v in zip(
            (arm.UC_ARM_REG_R0, arm.UC_ARM_REG_R1, arm.UC_ARM_REG_R2, arm.UC_ARM_REG_R3),
            (args[0], args[1], out, scratch),
            strict=True,
        ):
            mu.reg_write(r, v)
        mu.reg_write(arm.UC_ARM_REG_SP, self.STACK)
        mu.reg_write(arm.UC_ARM_REG_LR, self.RETURN | 1)
        mu.emu_start(self.symbols[f"case_{index}"], self.RETURN)
        assert bytes(mu.mem_read(guard, 64)) == b"\x5a" * 64, "wrote beyond its scratch"
        functions: dict[str, int] = {}
        table, cycles = load_table("m4"), 0
        for (address, size), times in blocks.items():
            if address == self.RETURN:
                continue
            cost = table.block(address, bytes(code[address : address + size]))
            left, entered = jumps.get((address, size), (0, 0))
            cycles += times * sum(cost.cycles) + left * cost.taken + entered * cost.entry
            count, pos = 0, address
            while pos < address + size:
                (half,) = struct.unpack_from("<H", code, pos)
                pos += 4 if half >> 11 >= 29 else 2
                count += 1
            name = self._starts[bisect.bisect_right(starts, address) - 1][1]
            functions[name] = functions.get(name, 0) + count * times
        stack = bytes(mu.mem_read(self.STACK - 8192, 8192))
        used = 8192 - (len(stack) - len(stack.lstrip(b"\xee")))
        y = np.frombuffer(bytes(mu.mem_read(out, case.out_bytes)), np.int8)
        return M4Result(y, sum(functions.values()), cycles, functions, used)
