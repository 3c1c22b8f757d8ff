"""From decoded blocks to cycles. Two models: one instruction at a time with the exceptions that
the pipeline makes (:class:`InOrder`), and pairing (:class:`DualIssue`, in ``dual.py``).

A block's cost is what one pass through it takes when memory never makes it wait; what leaving it by
a taken branch adds is charged per taken exit, so it depends on the run. Kind: ``estimated``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgekit.devices.timing.decode import Ins, decode
from edgekit.errors import InputError


@dataclass(frozen=True)
class BlockCost:
    """cycles: of each instruction, once through. taken: more for an exit by a taken branch.
    entry: more when the block was reached by a branch, not by falling into it.
    mispredict: for an exit that the branch predictor got wrong."""

    cycles: tuple[int, ...]
    taken: int = 0
    entry: int = 0
    mispredict: int = 0


@runtime_checkable
class TimingTable(Protocol):
    """name: as in ``timing.table`` of a target file. source: what the figures come from."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    def block(self, start: int, code: bytes) -> BlockCost: ...


@dataclass(frozen=True)
class InOrder:
    """A single-issue core.

    Costs in cycles. ``*_taken`` is what a taken branch adds. load_next: a load right after an
    independent load. load_use: more when the next instruction needs what was loaded. address_use:
    more when an address was computed by the instruction before. multiple: registers a cycle of
    LDM/STM and what it costs besides. fold_it: IT after a 16-bit instruction is free. unaligned: a
    branch to a 32-bit instruction that is not on a word boundary.
    """

    name: str
    source: str
    load: int = 2
    load_next: int = 1
    load_use: int = 0
    address_use: int = 1
    store: int = 1
    load_double: int = 3
    store_double: int = 3
    multiple: int = 1
    pop_pc_taken: int = 2
    mul: int = 1
    mla: int = 1
    mull: int = 1
    mlal: int = 1
    dsp: int = 1
    div: int = 6
    branch_taken: int = 1
    call_taken: int = 1
    register_taken: int = 2
    table: int = 2
    fold_it: bool = True
    unaligned: int = 1
    barrier: int = 4
    system: int = 2
    fp: int = 1
    fmac: int = 3
    fdiv: int = 14
    fp_double: int = 1
    fp_use: int = 1
    helium: bool = False

    def block(self, start: int, code: bytes) -> BlockCost:
        instructions = decode(start, code, self.helium)
        cycles = []
        before: Ins | None = None
        pipe = self._wrap(instructions)
        for ins in instructions:
            cost = self._cost(ins, before)
            if ins.pipe:
                cost = max(cost, 2) - (1 if pipe and pipe != ins.pipe else 0)
                pipe = ins.pipe
            elif ins.kind != "le":
                pipe = ""
            cycles.append(cost)
            before = ins
        last = instructions[-1]
        entry = self.unaligned if start & 2 and instructions[0].size == 4 else 0
        return BlockCost(tuple(cycles), self._taken(last), entry)

    @staticmethod
    def _wrap(instructions: Sequence[Ins]) -> str:
        """Helium pipe in use when the block starts: in a loop closed by LE, that of its end."""
        if len(instructions) > 1 and instructions[-1].kind == "le":
            return instructions[-2].pipe
        return ""

    def _cost(self, ins: Ins, before: Ins | None) -> int:
        kind = ins.kind
        cost = 1
        if kind == "ldr":
            pipelined = before is not None and before.kind == "ldr"
            free = pipelined and before is not None and not (before.writes & ins.address)
            cost = self.load_next if free else self.load
        elif kind == "str":
            cost = self.store
        elif kind == "ldrd":
            cost = self.load_double
        elif kind == "strd":
            cost = self.store_double
        elif kind in ("ldm", "stm"):
            cost = self.multiple + ins.count
        elif kind == "gather":
            cost = ins.count
        elif kind in ("mul", "mla", "mull", "mlal", "dsp", "div", "barrier", "fmac"):
            cost = getattr(self, kind)
            if kind == "fmac" and ins.double:
                cost *= self.fp_double
        elif kind == "sys":
            cost = self.system
        elif kind == "tb":
            cost = self.table
        elif kind == "it":
            cost = 0 if self.fold_it and before is not None and before.size == 2 else 1
        elif kind == "fp":
            cost = self.fp * (self.fp_double if ins.double else 1)
        elif kind == "fdiv":
            cost = self.fdiv * (2 if ins.double else 1)
        elif kind == "fmov":
            cost = ins.count
        elif kind == "le":
            return 0
        if before is not None:
            cost += self._interlock(ins, before)
        return cost

    def _interlock(self, ins: Ins, before: Ins) -> int:
        if before.kind == "ldr" and before.writes & ins.reads and ins.kind != "ldr":
            return self.load_use
        if before.kind in ("alu", "mul", "dsp") and before.writes & ins.address:
            return self.address_use
        if before.kind in ("fp", "fmac") and before.writes & ins.reads - {"fpscr"}:
            return self.fp_use
        return 0

    def _taken(self, last: Ins) -> int:
        if last.kind in ("b", "cb", "wls"):
            return self.branch_taken
        if last.kind == "bl":
            return self.call_taken
        if last.kind == "tb":
            return self.register_taken
        if last.kind == "bx":
            return self.register_taken
        return self.pop_pc_taken if last.pc else 0


def table_names() -> tuple[str, ...]:
    from edgekit.devices.timing.tables import TABLES

    return tuple(TABLES)


@functools.cache
def load_table(name: str) -> TimingTable:
    """The table called ``name`` (``m4``; ``cortex-m4`` is understood). InputError when unknown."""
    from edgekit.devices.timing.tables import TABLES

    table = TABLES.get(name.removeprefix("cortex-"))
    if table is None:
        raise InputError(f"timing table '{name}' is not known; there are {', '.join(TABLES)}")
    return table
