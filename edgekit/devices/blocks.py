"""The record that every emulator backend produces, and what is computed from it.

A *block* is a straight run of Thumb instructions that was entered at its first one. Backends record
how often each was executed in each section and how often it was left for another address than the
one that follows it (``taken``). Instructions are exact from that; cycles come from a timing table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.devices.base import Count, Trace
from edgekit.devices.elf import Firmware

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
    by_function: dict[str, _Sum] = {}
    by_section = [_Sum() for _ in range(len(sections) + 1)]
    decoded: dict[tuple[int, bytes], tuple[list[tuple[str, int, int]], int, bool]] = {}
    for block in blocks:
        key = (block.start, block.code)
        if key not in decoded:
            decoded[key] = _by_function(block, firmware, table)
        parts, taken_extra, is_entry = decoded[key]
        section = by_section[block.section]
        last = len(parts) - 1
        for i, (name, count, cost) in enumerate(parts):
            cycles = cost * block.executions
            if i == last:
                cycles += taken_extra * block.taken
            instructions = count * block.executions
            function = by_function.setdefault(name, _Sum())
            function.instructions += instructions
            function.cycles += cycles
            section.instructions += instructions
            section.cycles += cycles
        if is_entry:
            by_function[parts[0][0]].calls += block.executions
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


def _by_function(
    block: Block, firmware: Firmware, table: object
) -> tuple[list[tuple[str, int, int]], int, bool]:
    """(function, instructions, cycles) of one execution, cycles of a taken exit, starts a function?

    A block that runs on from one function into the next is divided between them.
    """
    from edgekit.devices.timing import TimingTable

    sizes = instruction_sizes(block.code)
    if isinstance(table, TimingTable):
        cost = table.block(block.start, block.code)
        costs, taken = cost.cycles, cost.taken
    else:
        costs, taken = (0,) * len(sizes), 0
    address, end, name = block.start, 0, ""
    first = firmware.function_at(block.start)
    counts: list[tuple[str, int, int]] = []
    for size, cycles in zip(sizes, costs, strict=True):
        if address >= end:
            function = firmware.function_at(address)
            name = function.name if function else UNKNOWN
            end = function.end if function else address + 1
        if counts and counts[-1][0] == name:
            counts[-1] = (name, counts[-1][1] + 1, counts[-1][2] + cycles)
        else:
            counts.append((name, 1, cycles))
        address += size
    return counts, taken, first is not None and first.start == block.start
