"""A dual-issue, in-order core with branch prediction: the Cortex-M7.

Arm does not publish the M7's instruction timing. The model is what its Technical Reference Manual
(DDI 0489, 1.1 and 4.6: dual issue, dual 32-bit load, 64-bit TCM, BTAC) and measurements by users
support: pairs of independent instructions, one multiplier, one divider, one store a cycle, loaded
and multiplied values a cycle later.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.devices.timing.decode import Ins, decode
from edgekit.devices.timing.model import BlockCost

_BRANCHES = frozenset({"b", "bl", "bx", "cb", "tb"})
_LOADS = frozenset({"ldr", "ldrd"})
_STORES = frozenset({"str", "strd"})
_MULTIPLIES = frozenset({"mul", "mla", "mull", "mlal", "dsp"})
_ALONE = frozenset({"barrier", "sys", "div", "ldm", "stm", "it"})
_FLAGS = frozenset({"cpsr", "apsr", "apsr_nzcv", "fpscr", "fpscr_nzcv"})


@dataclass(frozen=True)
class DualIssue:
    """latency_*: cycles until a dependent instruction may issue. loads: per cycle."""

    name: str
    source: str
    loads: int = 2
    latency_load: int = 2
    latency_multiply: int = 2
    latency_fp: int = 3
    latency_fmac: int = 5
    div: int = 7
    fdiv: int = 14
    barrier: int = 6
    register_taken: int = 2
    call_taken: int = 0
    mispredict: int = 7

    def block(self, start: int, code: bytes) -> BlockCost:
        instructions = decode(start, code)
        ready: dict[str, int] = {}
        cycle, free = 0, 0
        slot: list[Ins] = []
        cycles: list[int] = []
        for ins in instructions:
            needed = max((ready.get(r, 0) for r in self._sources(ins)), default=0)
            begin = max(cycle, free, needed)
            if begin == cycle and slot and not self._pairs(slot, ins):
                begin += 1
            if begin > cycle:
                slot = []
            first = not cycles
            cycles.append(begin - cycle + (1 if first else 0))
            cycle = begin
            slot.append(ins)
            busy = self._busy(ins)
            free = max(free, cycle + busy if busy > 1 else 0)
            for register in ins.writes - _FLAGS:
                ready[register] = cycle + self._latency(ins)
            for register in ins.writes & ins.address:
                ready[register] = cycle + 1  # write-back of a base register
        if free > cycle + 1:
            cycles[-1] += free - cycle - 1
        last = instructions[-1]
        taken = 0
        if last.kind in ("bx", "tb") or (last.pc and last.kind not in ("b", "bl", "cb")):
            taken = self.register_taken
        elif last.kind == "bl":
            taken = self.call_taken
        return BlockCost(tuple(cycles), taken, 0, self.mispredict if last.cond else 0)

    @staticmethod
    def _sources(ins: Ins) -> frozenset[str]:
        # Flags are forwarded to a branch or an IT in the same cycle.
        return ins.reads - _FLAGS

    def _pairs(self, slot: list[Ins], ins: Ins) -> bool:
        if len(slot) > 1 or slot[0].kind in _ALONE or ins.kind in _ALONE:
            return False
        other = slot[0]
        if other.kind in _BRANCHES or other.pc:
            return False
        if (other.writes & ins.writes) - _FLAGS:
            return False
        if ins.kind not in _BRANCHES and other.writes & ins.reads & _FLAGS:
            return False
        for unit, most in ((_LOADS, self.loads), (_STORES, 1), (_MULTIPLIES, 1)):
            if sum(i.kind in unit for i in (other, ins)) > most:
                return False
        memory = (other.kind in _LOADS | _STORES, ins.kind in _LOADS | _STORES)
        mixed = {other.kind in _LOADS, ins.kind in _LOADS} == {True, False}
        if all(memory) and mixed:
            return False
        fp = ("fp", "fmac", "fdiv")
        return not (other.kind in fp and ins.kind in fp)

    def _busy(self, ins: Ins) -> int:
        """Cycles in which nothing else issues."""
        if ins.kind in ("ldm", "stm"):
            return 1 + (ins.count + 1) // 2
        if ins.kind == "div":
            return self.div
        if ins.kind == "barrier":
            return self.barrier
        if ins.kind == "sys":
            return 2
        return 1

    def _latency(self, ins: Ins) -> int:
        kind = ins.kind
        if kind in _LOADS:
            return self.latency_load
        if kind == "ldm":
            return self._busy(ins) + 1
        if kind in _MULTIPLIES:
            return self.latency_multiply
        if kind == "div":
            return self.div
        if kind == "fp":
            return self.latency_fp * (2 if ins.double else 1)
        if kind == "fmac":
            return self.latency_fmac * (2 if ins.double else 1)
        if kind == "fdiv":
            return self.fdiv * (2 if ins.double else 1)
        if kind == "fmov":
            return 2
        return 1
