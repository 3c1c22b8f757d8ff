"""A dual-issue, in-order core with branch prediction: the Cortex-M7.

Arm does not publish the M7's instruction timing. What is modelled: two instructions a cycle when
they are independent and the units suffice (two for arithmetic, two for loads, one each for stores,
multiplication, shifts, packed arithmetic, floating point, branches), and results that are ready
some cycles later, counted from the stage in which simple arithmetic reads its operands. Addresses
and shifted operands are needed a stage earlier, accumulators and data to store a stage later. The
units and latencies are those of the scheduling model that Arm has contributed to LLVM
(``CortexM7Model``); dual issue, TCM and BTAC are described in the Technical Reference Manual
(DDI 0489).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.devices.timing.decode import Ins, decode
from edgekit.devices.timing.model import BlockCost

_BRANCHES = frozenset({"b", "bl", "bx", "cb", "tb"})
_FP = frozenset({"fp", "fmac", "fdiv"})
_ALONE = frozenset({"barrier", "sys", "div", "ldm", "stm", "ldrd", "strd", "tb", "it"})
_UNITS = (
    (frozenset({"ldr"}), 2),
    (frozenset({"str"}), 1),
    (frozenset({"mul", "mla", "mull", "mlal", "dsp"}), 1),
    (_FP, 1),
    (_BRANCHES, 1),
)
_MULTIPLIES = _UNITS[2][0]
_FLAGS = frozenset({"cpsr", "apsr", "apsr_nzcv", "fpscr", "fpscr_nzcv"})


@dataclass(frozen=True)
class DualIssue:
    """latency_*: cycles until a dependent instruction may issue. div: cycles of a division.
    register_taken: more for a branch to a register, whose target is not predicted.
    mispredict: for a conditional branch that went the rarer way."""

    name: str
    source: str
    latency_load: int = 1
    latency_narrow: int = 2
    latency_multiply: int = 2
    latency_fp: int = 3
    latency_fmac: int = 6
    fmac_late: int = 3
    div: int = 7
    fdiv: int = 16
    barrier: int = 6
    register_taken: int = 2
    mispredict: int = 6

    def block(self, start: int, code: bytes) -> BlockCost:
        instructions = decode(start, code)
        ready: dict[str, int] = {}
        loaded: frozenset[str] = frozenset()
        cycle, free = 0, 0
        slot: list[Ins] = []
        cycles: list[int] = []
        for ins in instructions:
            begin = max(cycle, free, self._needed(ins, ready, loaded))
            if begin == cycle and slot and not self._pairs(slot, ins):
                begin += 1
            if begin > cycle:
                slot = []
            cycles.append(begin - cycle + (0 if cycles else 1))
            cycle = begin
            slot.append(ins)
            busy = self._busy(ins)
            if busy > 1:
                free = cycle + busy
            results = ins.writes - _FLAGS
            for register in results:
                ready[register] = cycle + self._latency(ins)
            for register in results & ins.address:
                ready[register] = cycle  # a base's update is bypassed to the next address
            loaded = (loaded - results) | (results if ins.kind == "ldr" else frozenset())
        if free > cycle + 1:
            cycles[-1] += free - cycle - 1
        last = instructions[-1]
        indirect = last.kind in ("bx", "tb") or (last.pc and last.kind not in _BRANCHES)
        taken = self.register_taken if indirect else 0
        return BlockCost(tuple(cycles), taken, 0, self.mispredict if last.cond else 0)

    def _needed(self, ins: Ins, ready: dict[str, int], loaded: frozenset[str]) -> int:
        """First cycle in which all operands are there."""
        begin = 0
        # Flags are forwarded to a branch or an IT in the same cycle.
        for register in ins.reads - _FLAGS:
            if register not in ready:
                continue
            at = ready[register]
            if register in ins.address or (register in ins.early and register not in loaded):
                at += 1
            elif register in ins.late:
                at -= self.fmac_late if ins.kind == "fmac" else 1
            begin = max(begin, at)
        return begin

    @staticmethod
    def _pairs(slot: list[Ins], ins: Ins) -> bool:
        if len(slot) > 1 or slot[0].kind in _ALONE or ins.kind in _ALONE:
            return False
        other = slot[0]
        if other.kind in _BRANCHES or other.pc or ins.unit in ("simd", "first"):
            return False
        if (other.writes & ins.writes) - _FLAGS or (other.writes & ins.reads) - _FLAGS:
            return False
        if ins.kind not in _BRANCHES and other.writes & ins.reads & _FLAGS:
            return False
        if other.unit == ins.unit == "shift":
            return False
        pair = (other.kind, ins.kind)
        return all(sum(kind in unit for kind in pair) <= most for unit, most in _UNITS)

    def _busy(self, ins: Ins) -> int:
        """Cycles in which nothing else issues."""
        if ins.kind in ("ldm", "stm"):
            return 1 + (ins.count + 1) // 2
        if ins.kind == "div":
            return self.div
        if ins.kind == "barrier":
            return self.barrier
        return 2 if ins.kind in ("sys", "tb") else 1

    def _latency(self, ins: Ins) -> int:
        kind = ins.kind
        wide = 2 if ins.double else 1
        if kind == "ldr":
            return self.latency_narrow if ins.narrow else self.latency_load
        if kind in _MULTIPLIES:
            return self.latency_multiply
        if kind in ("div", "ldm"):
            return self._busy(ins)
        if kind == "fp":
            return self.latency_fp * wide
        if kind == "fmac":
            return self.latency_fmac * wide
        if kind == "fdiv":
            return self.fdiv * wide
        return self.latency_fp if kind == "fmov" else 1
