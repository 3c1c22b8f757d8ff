"""Which buffer holds which tensor: OpenCL memory objects shared by tensors that never live at once.

"Greedy by size for shared objects" (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep
Neural Net Inference"): tensors from large to small, each into the smallest object that is free
during its life, else into a new one. Objects and not offsets into one arena, because overlapping
sub-buffers are what phone drivers get wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGN = 64  #: sizes of buffers are multiples of it


@dataclass(frozen=True)
class Life:
    """A tensor's bytes and the first and last step (kernel) in which they are needed."""

    name: str
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Plan:
    """sizes: bytes of each buffer. place: tensor -> buffer. peak: most bytes alive at one step,
    which no plan can beat. total: bytes of all tensors, had each a buffer of its own."""

    sizes: tuple[int, ...]
    place: Mapping[str, int]
    peak: int
    total: int


def aligned(n: int) -> int:
    return -(-max(n, 1) // ALIGN) * ALIGN


def plan(lives: Sequence[Life]) -> Plan:
    """Assign every tensor to a buffer. Deterministic: ties are broken by step, then name."""
    order = sorted(lives, key=lambda t: (-t.bytes, t.first, t.name))
    sizes: list[int] = []
    users: list[list[Life]] = []
    place: dict[str, int] = {}
    for t in order:
        free = [
            k
            for k, others in enumerate(users)
            if all(t.last < o.first or o.last < t.first for o in others)
        ]
        if free:
            chosen = min(free, key=lambda k: (sizes[k], k))  # all are as large: order is by size
        else:
            chosen = len(sizes)
            sizes.append(aligned(t.bytes))
            users.append([])
        users[chosen].append(t)
        place[t.name] = chosen
    steps = sorted({t.first for t in lives})
    peak = max(
        (sum(aligned(t.bytes) for t in lives if t.first <= s <= t.last) for s in steps), default=0
    )
    return Plan(tuple(sizes), place, peak, sum(aligned(t.bytes) for t in lives))
