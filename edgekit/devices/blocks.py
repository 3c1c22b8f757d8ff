"""The record that every emulator backend produces, and what is computed from it.

A *block* is a straight run of Thumb instructions that was entered at its first one. Backends record
how often each was executed in each section and how often it was left for another address than the
one that follows it (``taken``). Instructions are exact from that; cycles come from a timing table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.devices.base import Count, Trace
from edgekit.devices.elf import Firmware

if TYPE_CHECKING:
    from edgekit.devices.timing import BlockCost, TimingTable

#: Functions have names; code without a symbol is reported under this one.
UNKNOWN = "(no symbol)"


@dataclass(frozen=True)
class Block:
    """section: index, 0 before any section was entered. start: address. code: its bytes."""

    section: int
    start: int
    code: bytes
    executions: int
    taken: int


def instruction_sizes(code: bytes) -> list[int]:
    """Sizes in bytes (2 or 4) of the Thumb instructions in ``code``.

    The first halfword of a 32-bit instruction has 0b11101, 0b11110 or 0b11111 in its top five bits
    (Armv7-M Architecture Reference Manual, A5.1).
    """
    sizes = []
    i = 1
    while i < len(code):
        size = 4 if code[i] >= 0xE8 else 2
        sizes.append(size)
        i += size
    return sizes


class _Sum:
    __slots__ = ("calls", "cycles", "instructions")

    def __init__(self) -> None:
        self.instructions = self.cycles = self.calls = 0


def summarize(
    blocks: Iterable[Block],
    firmware: Firmware,
    core: str,
    timing: str | None,
    backend: str,
    sections: Sequence[str] = (),
) -> Trace:
    """Add a run's blocks up by function and by section.

    sections: names in the order of their indices, without the leading ``""``. A function's
    ``calls`` is how often it was entered at its first instruction. Cycles are None without a
    ``timing`` table.
    """
    from edgekit.devices.timing import load_table

    table = load_table(timing) if timing else None
    blocks = list(blocks)
    fallen = _fallen_into(blocks)
    by_function: dict[str, _Sum] = {}
    by_section = [_Sum() for _ in range(len(sections) + 1)]
    decoded: dict[tuple[int, bytes], _Decoded] = {}
    for block in blocks:
        key = (block.start, block.code)
        if key not in decoded:
            decoded[key] = _decode(block, firmware, table)
        one = decoded[key]
        section = by_section[block.section]
        extra = one.cost.taken * block.taken
        extra += one.cost.mispredict * min(block.taken, block.executions - block.taken)
        branched = max(0, block.executions - fallen.get((block.section, block.start), 0))
        for i, (name, count, cost) in enumerate(one.parts):
            cycles = cost * block.executions
            if i == 0:
                cycles += one.cost.entry * branched
            if i == len(one.parts) - 1:
                cycles += extra
            instructions = count * block.executions
            function = by_function.setdefault(name, _Sum())
            function.instructions += instructions
            function.cycles += cycles
            section.instructions += instructions
            section.cycles += cycles
        if one.is_entry:
            by_function[one.parts[0][0]].calls += block.executions
    functions = sorted(by_function.items(), key=lambda kv: (-kv[1].instructions, kv[0]))
    named = zip(["", *sections], by_section, strict=True)
    return Trace(
        core=core,
        backend=backend,
        instructions=sum(s.instructions for s in by_section),
        cycles=sum(s.cycles for s in by_section) if table else None,
        timing=timing if table else None,
        functions=tuple(Count(n, s.instructions, s.cycles, s.calls) for n, s in functions),
        sections=tuple(Count(n, s.instructions, s.cycles) for n, s in named),
    )


@dataclass(frozen=True)
class _Decoded:
    """parts: (function, instructions, cycles) of one execution; a block that runs on from one
    function into the next is divided between them. is_entry: starts at a function's start."""

    parts: tuple[tuple[str, int, int], ...]
    cost: BlockCost
    is_entry: bool


def _fallen_into(blocks: Sequence[Block]) -> dict[tuple[int, int], int]:
    """(section, address) -> how often it was reached by running on, not by a branch."""
    out: dict[tuple[int, int], int] = {}
    for block in blocks:
        key = (block.section, block.start + len(block.code))
        out[key] = out.get(key, 0) + block.executions - block.taken
    return out


def _decode(block: Block, firmware: Firmware, table: TimingTable | None) -> _Decoded:
    from edgekit.devices.timing import BlockCost

    sizes = instruction_sizes(block.code)
    cost = table.block(block.start, block.code) if table else BlockCost((0,) * len(sizes))
    parts: list[tuple[str, int, int]] = []
    address, end, name = block.start, 0, ""
    for size, cycles in zip(sizes, cost.cycles, strict=True):
        if address >= end:
            function = firmware.function_at(address)
            name = function.name if function else UNKNOWN
            end = function.end if function else address + 1
        if parts and parts[-1][0] == name:
            parts[-1] = (name, parts[-1][1] + 1, parts[-1][2] + cycles)
        else:
            parts.append((name, 1, cycles))
        address += size
    first = firmware.function_at(block.start)
    return _Decoded(tuple(parts), cost, first is not None and first.start == block.start)
