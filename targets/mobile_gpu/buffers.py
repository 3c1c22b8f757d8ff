"""Which buffer holds which tensor: OpenCL memory objects shared by tensors that never live at once.

Greedy for shared objects (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net
Inference"): tensors in some order, each into the object that is free during its life and fits it
best, else into a new one. Large tensors first is the paper's order; others near it are tried, and
the smallest total wins. Objects and not offsets into one arena: every buffer is a memory object of
its own, and no driver has to get overlapping sub-buffers right.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ALIGN = 64  #: sizes of buffers are multiples of it
_TRIES = 300


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
    """Assign every tensor to a buffer. Deterministic: the search is seeded."""
    by_size = sorted(lives, key=lambda t: (-t.bytes, t.first, t.name))
    steps = sorted({t.first for t in lives})
    peak = max(
        (sum(aligned(t.bytes) for t in lives if t.first <= s <= t.last) for s in steps), default=0
    )
    best = _assign(by_size)
    orders = [sorted(lives, key=lambda t: (t.first, -t.bytes, t.name))]
    rng = random.Random(0)
    for k in range(_TRIES):
        if sum(best[0]) == peak:
            break
        order = orders[0] if k == 0 else _perturbed(by_size, rng)
        found = _assign(order)
        if sum(found[0]) < sum(best[0]):
            best, by_size = found, order
    sizes, place = best
    return Plan(tuple(sizes), place, peak, sum(aligned(t.bytes) for t in lives))


def _perturbed(order: list[Life], rng: random.Random) -> list[Life]:
    """The same order with one tensor elsewhere."""
    out = list(order)
    if out:
        out.insert(rng.randrange(len(out)), out.pop(rng.randrange(len(out))))
    return out


def _assign(order: Sequence[Life]) -> tuple[list[int], dict[str, int]]:
    """(bytes of each object, tensor -> object): each into the free object that has to grow least,
    among those the one with least waste."""
    sizes: list[int] = []
    users: list[list[Life]] = []
    place: dict[str, int] = {}
    for t in order:
        need = aligned(t.bytes)
        free = [
            (max(need - sizes[k], 0), max(sizes[k] - need, 0), k)
            for k, others in enumerate(users)
            if all(t.last < o.first or o.last < t.first for o in others)
        ]
        if free:
            chosen = min(free)[2]
            sizes[chosen] = max(sizes[chosen], need)
        else:
            chosen = len(sizes)
            sizes.append(need)
            users.append([])
        users[chosen].append(t)
        place[t.name] = chosen
    return sizes, place
