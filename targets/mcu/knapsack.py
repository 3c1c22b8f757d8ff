"""Least cost within a limit of bytes, one option a node, where options share code that is paid once.

A multiple-choice knapsack with fixed charges, as in facility location. Labels are extended node by
node, each with its cost, its bytes and the code it has paid for; a label falls when another has all its
code for no more cost and bytes, or when a Lagrangian bound says that nothing better than what is
known can come of it: bytes cost ``price`` each, and code not yet paid is split between the nodes that
could still use it, which never overstates it. Kellerer, Pferschy and Pisinger, "Knapsack Problems" (2004),
chapter 11, has the knapsack; the split is the simplest dual of the uncapacitated facility location
problem (Erlenkotter 1978).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Labels kept after each node. Below it the result is proved; at it the most promising are kept.
MOST_LABELS = 1500
_PRICES = 12  #: steps of the search for the price
_INFINITE = 1 << 62


@dataclass(frozen=True)
class Item:
    """One option of a node: its cost, its own bytes, and the indices of the code it uses."""

    cost: int
    bytes: int
    uses: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Code:
    """What using it once costs, and its bytes."""

    bytes: int
    cost: int = 0


@dataclass(frozen=True)
class Solution:
    """picks: the option of each node. proved: no other choice within the limit costs less."""

    picks: tuple[int, ...]
    cost: int
    bytes: int
    proved: bool


def solve(
    nodes: Sequence[Sequence[Item]], code: Sequence[Code], limit: int | None = None
) -> Solution | None:
    """The cheapest choice of at most ``limit`` bytes; None where none is found. Deterministic."""
    if limit is None:
        limit = _INFINITE
    search = _Labels(nodes, code, limit)
    found = search.run()
    if found is None:
        return None
    cost, used = _total(nodes, code, found)
    return Solution(found, cost, used, not search.cut)


def _total(
    nodes: Sequence[Sequence[Item]], code: Sequence[Code], picks: Sequence[int]
) -> tuple[int, int]:
    items = [options[k] for options, k in zip(nodes, picks, strict=True)]
    used = frozenset().union(*(i.uses for i in items))
    cost = sum(i.cost for i in items) + sum(code[s].cost for s in used)
    return cost, sum(i.bytes for i in items) + sum(code[s].bytes for s in used)


@dataclass(frozen=True)
class _Label:
    """A choice for the first nodes. paid: bits of the code used. The choice itself is a linked list."""

    cost: int
    bytes: int
    paid: int
    pick: int
    before: _Label | None


class _Labels:
    def __init__(self, nodes: Sequence[Sequence[Item]], code: Sequence[Code], limit: int) -> None:
        self.nodes, self.code, self.limit = nodes, code, limit
        self.cut = False
        # nodes that share code one after the other, so that what is paid soon stops mattering
        self.order = sorted(range(len(nodes)), key=lambda n: (self._family(n), n))
        self.masks = [[_mask(i.uses) for i in options] for options in nodes]
        self.left = self._left()

    def _family(self, n: int) -> tuple[int, ...]:
        return tuple(sorted(frozenset().union(*(i.uses for i in self.nodes[n]))))

    def _left(self) -> list[list[int]]:
        """By step and code: how many of the nodes from that step on could use it."""
        rows = [[0] * len(self.code)]
        for n in reversed(self.order):
            row = list(rows[-1])
            for s in frozenset().union(*(i.uses for i in self.nodes[n])):
                row[s] += 1
            rows.append(row)
        return rows[::-1]

    # -- what is known before ------------------------------------------------------------------

    def _descend(self, price: float, start: list[int]) -> list[int]:
        """Exchange one node's option at a time while cost plus price times bytes falls."""
        picks = list(start)
        users = [0] * len(self.code)
        for options, k in zip(self.nodes, picks, strict=True):
            for s in options[k].uses:
                users[s] += 1
        worth = [c.cost + price * c.bytes for c in self.code]
        changed = True
        while changed:
            changed = False
            for n, options in enumerate(self.nodes):
                for s in options[picks[n]].uses:
                    users[s] -= 1
                values = [
                    i.cost + price * i.bytes + sum(worth[s] for s in i.uses if not users[s])
                    for i in options
                ]
                best = min(range(len(options)), key=lambda k: (values[k], k))
                if values[best] < values[picks[n]] - 1e-9:
                    picks[n], changed = best, True
                for s in options[picks[n]].uses:
                    users[s] += 1
        return picks

    def _starts(self, price: float) -> list[list[int]]:
        """The best option of each node by itself, and each piece of code wherever it can be."""

        def value(i: Item) -> float:
            return i.cost + price * i.bytes

        alone = [min(range(len(o)), key=lambda k: (value(o[k]), k)) for o in self.nodes]
        starts = [alone]
        for s in range(len(self.code)):
            picks = list(alone)
            for n, options in enumerate(self.nodes):
                with_s = [k for k, i in enumerate(options) if s in i.uses]
                if with_s:
                    picks[n] = min(with_s, key=lambda k: (value(options[k]), k))
            if picks not in starts:
                starts.append(picks)
        return starts

    def _known(self) -> tuple[tuple[int, ...] | None, int, float]:
        """(a good choice or None, its cost, a price of a byte)."""
        best: tuple[int, ...] | None = None
        best_cost = _INFINITE

        def consider(price: float) -> bool:
            nonlocal best, best_cost
            fits = False
            for start in self._starts(price):
                picks = self._descend(price, start)
                cost, used = _total(self.nodes, self.code, picks)
                if used <= self.limit:
                    fits = True
                    if cost < best_cost:
                        best, best_cost = tuple(picks), cost
            return fits

        if consider(0.0):
            return best, best_cost, 0.0
        low, high = 0.0, 1.0
        for _ in range(60):
            if consider(high):
                break
            low, high = high, high * 4
        for _ in range(_PRICES):
            middle = (low + high) / 2
            if consider(middle):
                high = middle
            else:
                low = middle
        return best, best_cost, high

    # -- labels --------------------------------------------------------------------------------

    def _rest(
        self, step: int, paid: int, price: float, cache: dict[tuple[int, int], float]
    ) -> float:
        """What the nodes from ``step`` on cost at least, bytes at ``price``."""
        left = self.left[step]
        live = 0
        for s, n in enumerate(left):
            if n:
                live |= 1 << s
        key = (step, paid & live)
        if key not in cache:
            share = [
                0.0 if not n or paid >> s & 1 else (c.cost + price * c.bytes) / n
                for s, (c, n) in enumerate(zip(self.code, left, strict=True))
            ]
            cache[key] = sum(
                min(i.cost + price * i.bytes + sum(share[s] for s in i.uses) for i in options)
                for options in (self.nodes[n] for n in self.order[step:])
            )
        return cache[key]

    def _price(self, price: float) -> float:
        """A price near ``price`` whose bound is best."""
        if self.limit == _INFINITE:
            return 0.0

        def bound(p: float) -> float:
            return self._rest(0, 0, p, {}) - p * self.limit

        trials = [price * f for f in (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.3)]
        return max([0.0, *trials], key=bound)

    def run(self) -> tuple[int, ...] | None:
        best, known, price = self._known()
        price = self._price(price)
        floor = min  # an alias keeps the inner loop's line short
        least = [0]  # bytes that the nodes from a step on need at least
        for n in reversed(self.order):
            least.append(least[-1] + floor(i.bytes for i in self.nodes[n]))
        least.reverse()
        cache: dict[tuple[int, int], float] = {}
        labels = [_Label(0, 0, 0, -1, None)]
        for step, n in enumerate(self.order):
            made: list[tuple[float, _Label]] = []
            for label in labels:
                for k, (item, mask) in enumerate(zip(self.nodes[n], self.masks[n], strict=True)):
                    cost, used = label.cost + item.cost, label.bytes + item.bytes
                    new = mask & ~label.paid
                    for s in _bits(new):
                        cost += self.code[s].cost
                        used += self.code[s].bytes
                    if used + least[step + 1] > self.limit:
                        continue
                    paid = label.paid | mask
                    bound = cost + self._rest(step + 1, paid, price, cache)
                    if price:
                        bound += price * (used - self.limit)
                    # integers: what is not at least 1 better is no better
                    if bound > known - 1 + 1e-6 * known:
                        continue
                    made.append((bound, _Label(cost, used, paid, k, label)))
            labels = self._undominated(made, step + 1)
        if labels:
            end = floor(labels, key=lambda x: (x.cost, x.bytes))
            picks = [0] * len(self.nodes)
            at: _Label | None = end
            for n in reversed(self.order):
                assert at is not None
                picks[n], at = at.pick, at.before
            if end.cost < known:
                return tuple(picks)
        return best

    def _undominated(self, made: list[tuple[float, _Label]], step: int) -> list[_Label]:
        live = 0
        for s, n in enumerate(self.left[step]):
            if n:
                live |= 1 << s
        made.sort(key=lambda m: (m[1].bytes, m[1].cost))
        kept: list[tuple[float, _Label]] = []
        fronts: dict[int, int] = {}  # code that matters -> least cost so far, bytes rising
        for bound, label in made:
            have = label.paid & live
            if any(cost <= label.cost and have & ~other == 0 for other, cost in fronts.items()):
                continue
            fronts[have] = label.cost
            kept.append((bound, label))
        if len(kept) > MOST_LABELS:
            self.cut = True
            kept.sort(key=lambda m: m[0])
            del kept[MOST_LABELS:]
        return [label for _, label in kept]


def _mask(uses: frozenset[int]) -> int:
    return sum(1 << s for s in uses)


def _bits(mask: int) -> list[int]:
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found
