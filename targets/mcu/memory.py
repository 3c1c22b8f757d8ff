"""The memory planner: where each activation and each scratch buffer lies in one static arena.

Storing tensors of known lifetimes at fixed offsets so that the arena is smallest is dynamic storage
allocation, NP-hard in general. First fit in a given order is fast, and some order makes first fit
optimal (sort an optimal packing by offset: first fit never places a buffer higher). So the planner
searches orders: several good ones, then all of them by branch and bound (which ends for some twenty
buffers), then a deterministic local search; it stops as soon as the lower bound (most bytes alive at
once) is reached.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.graph.ir import Graph, Node, Tensor

from .checker import check_plan
from .contract import KernelCall

ALIGN = 8  #: of tensors; scratch is promised 8 bytes, too
EXACT = 20  #: up to so many buffers orders are enumerated,
EXACT_NODES = 1500  #: as long as that takes no more partial orders
MERGES = 5  #: up to so many in-place pairs every subset is tried
LOCAL_SEARCH_STEPS = 400
LOCAL_SEARCH_PLACEMENTS = 80_000
_SEED = 20260101


@dataclass(frozen=True)
class Part:
    """Bytes ``offset``.. of a buffer, alive from step ``first`` to step ``last``, both included."""

    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Buffer:
    """Bytes that are placed together; alive from step ``first`` to step ``last``, both included.

    Step i is node i; -1 is before the first node (graph inputs), ``len(nodes)`` after the last
    (graph outputs). tensors: names of what lives in it; more than one when nodes work in place, or
    are the parts of a concatenation: those lie at the offsets in ``inner``. pieces: where rows are
    written or read for the last time one after the other, the life of each range of bytes.
    """

    name: str
    bytes: int
    first: int
    last: int
    tensors: tuple[str, ...] = ()
    align: int = ALIGN
    inner: Mapping[str, int] = field(default_factory=dict, hash=False)
    pieces: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.pieces or (Part(0, self.bytes, self.first, self.last),)

    def overlaps(self, other: Buffer) -> bool:
        """Whether both are alive at some step."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """offsets: tensor name -> byte offset in the arena; scratch: node name -> byte offset.

    lower_bound: most bytes alive at one step, whatever the layout. peak_step: such a step.
    """

    arena_bytes: int
    lower_bound: int
    buffers: tuple[Buffer, ...]
    buffer_offsets: Mapping[str, int]
    offsets: Mapping[str, int]
    scratch: Mapping[str, int]
    peak_step: int = 0
    scratch_bytes: int = 0  #: largest scratch of any node
    inplace: tuple[tuple[str, str], ...] = field(default=())  #: (input, output) that share

    def to_json(self) -> list[dict[str, object]]:
        """Buffers for the manifest's memory map, by offset."""
        order = sorted(self.buffers, key=lambda b: (self.buffer_offsets[b.name], b.first, b.name))
        return [
            {
                "name": b.name
                if len(b.parts) == 1
                else f"{b.name}[{p.offset}:{p.offset + p.bytes}]",
                "offset": self.buffer_offsets[b.name] + p.offset,
                "bytes": p.bytes,
                "first": p.first,
                "last": p.last,
                "tensors": list(b.tensors),
            }
            for b in order
            for p in b.parts
        ]


def lifetimes(graph: Graph) -> dict[str, tuple[int, int]]:
    """Activation -> (first, last) step at which its bytes must stand."""
    life = dict.fromkeys(graph.inputs, (-1, -1))
    for step, node in enumerate(graph.nodes):
        for o in node.outputs:
            life[o] = (step, step)
        for i in node.inputs:
            if i is not None and i in life:
                life[i] = (life[i][0], step)
    for o in graph.outputs:
        if o in life:
            life[o] = (life[o][0], len(graph.nodes))
    return life


def joined_parts(graph: Graph, node: Node) -> list[tuple[str, int]]:
    """(input, byte offset in the output) of a concatenation that only puts its inputs one behind the
    other, so that nothing has to be copied if they are made there; else nothing."""
    if node.type != "CONCATENATION" or node.attr("activation", "NONE") != "NONE":
        return []
    result = graph.tensor(node.outputs[0])
    if any(d != 1 for d in result.shape[: node.attrs["axis"]]):
        return []
    parts, at = [], 0
    for t in graph.ins(node):
        if t is None or t.is_const or not _same_values(t, result):
            return []
        parts.append((t.name, at))
        at += t.nbytes
    return parts


def rows_read(graph: Graph, node: Node) -> tuple[int, int] | None:
    """The bytes ``[from, to)`` of its input that a slice of whole rows reads; None for any other
    node."""
    if node.type != "STRIDED_SLICE":
        return None
    x = graph.tensor(node.inputs[0])
    a = node.attrs
    whole = [b == 0 and e == d for b, e, d in zip(a["begin"], a["end"], x.shape, strict=True)]
    axis = whole.index(False) if False in whole else len(whole) - 1
    forward = all(s == 1 for s in a["strides"])
    if not forward or not all(whole[axis + 1 :]) or any(d != 1 for d in x.shape[:axis]):
        return None
    row = x.nbytes // x.shape[axis]
    return a["begin"][axis] * row, a["end"][axis] * row


def _pieces(
    graph: Graph,
    members: Sequence[str],
    views: Mapping[str, tuple[str, int]],
    life: Mapping[str, tuple[int, int]],
) -> tuple[Part, ...]:
    """Lives of the ranges of a buffer that is written or read for the last time in several steps;
    nothing where one life says it all."""
    parts = [m for m in members if m in views]
    wholes = [m for m in members if m not in views]
    reads: list[tuple[int, int, int, int]] = []  # (from, to, first, last)
    sliced = False
    for name in wholes:
        size = graph.tensor(name).nbytes
        born, dies = life[name]
        own = [m for m in parts if views[m][0] == name]
        if not own:
            reads.append((0, size, born, born))
        if dies == len(graph.nodes):
            reads.append((0, size, born, dies))
        for step, node in enumerate(graph.nodes):
            if name in node.inputs:
                span = rows_read(graph, node)
                sliced |= span is not None
                reads.append((*(span or (0, size)), born, step))
    for m in parts:
        at = views[m][1]
        reads.append((at, at + graph.tensor(m).nbytes, *life[m]))
    if not parts and not sliced:
        return ()
    edges = sorted({e for r in reads for e in r[:2]})
    found: list[Part] = []
    for low, high in itertools.pairwise(edges):
        lives = [r for r in reads if r[0] < high and r[1] > low]
        if not lives:
            continue
        first, last = min(r[2] for r in lives), max(r[3] for r in lives)
        if found and (found[-1].first, found[-1].last) == (first, last):
            found[-1] = Part(found[-1].offset, high - found[-1].offset, first, last)
        else:
            found.append(Part(low, high - low, first, last))
    return tuple(found) if len(found) > 1 else ()


def _same_values(a: Tensor, b: Tensor) -> bool:
    """Whether a byte means the same in both."""
    same = a.quant is b.quant or (a.quant is not None and a.quant.same_as(b.quant))
    return a.dtype == b.dtype and same


def _views(graph: Graph) -> dict[str, tuple[str, int]]:
    """Tensor -> (the concatenation it is made inside of, byte offset). Each tensor lies in at most
    one, and only at an offset that keeps its alignment."""
    made = {o for n in graph.nodes for o in n.outputs}
    last = {i: step for step, n in enumerate(graph.nodes) for i in n.inputs}
    views: dict[str, tuple[str, int]] = {}
    for step, node in enumerate(graph.nodes):
        parts = joined_parts(graph, node)
        names = [name for name, _ in parts]
        if (
            parts
            and len(set(names)) == len(names)
            and all(n in made and n not in views and n not in graph.outputs for n in names)
            and all(last[n] == step for n in names)  # from here on its bytes are the whole's
            and all(at % ALIGN == 0 for _, at in parts)
        ):
            views |= {name: (node.outputs[0], at) for name, at in parts}
    # a part that is itself a concatenation's result would need its own parts moved along
    return {n: v for n, v in views.items() if v[0] not in views}


def mergeable(graph: Graph, calls: Mapping[str, KernelCall]) -> list[tuple[str, str]]:
    """(input, output) pairs that a node can compute in place and whose input nobody reads later."""
    life = lifetimes(graph)
    views = _views(graph)
    pairs = []
    for step, node in enumerate(graph.nodes):
        call = calls.get(node.name)
        for i, o in call.inplace if call else ():
            source, result = node.inputs[i], node.outputs[o]
            if source is None or source not in life or life[source][1] != step:
                continue
            if source in views or result in views:  # they have their place already
                continue
            # The same tensor read twice by one node (x + x) still may be overwritten only if the
            # kernel says so for each operand; be careful and leave it.
            if sum(name == source for name in node.inputs) > 1:
                continue
            pairs.append((source, result))
    return pairs


def make_buffers(
    graph: Graph,
    calls: Mapping[str, KernelCall],
    merge: Sequence[tuple[str, str]] = (),
) -> list[Buffer]:
    """One buffer for each activation (or chain of in-place activations) and each scratch."""
    return activation_buffers(graph, merge) + scratch_buffers(graph, calls)


def activation_buffers(graph: Graph, merge: Sequence[tuple[str, str]] = ()) -> list[Buffer]:
    """The activations' part of :func:`make_buffers`."""
    life = lifetimes(graph)
    root = {name: name for name in life}
    views = _views(graph)
    for name, (whole, _) in views.items():
        root[name] = whole
    used: set[str] = set()  # outputs and inputs each join one chain only

    for source, result in merge:
        if root[result] != result or source in used:
            continue
        used.add(source)
        root[result] = root[source]
    groups: dict[str, list[str]] = {}
    for name in life:
        groups.setdefault(root[name], []).append(name)
    return [
        Buffer(
            name=head,
            bytes=max(graph.tensor(m).nbytes for m in members if m not in views),
            first=min(life[m][0] for m in members),
            last=max(life[m][1] for m in members),
            tensors=tuple(members),
            inner={m: views[m][1] for m in members if m in views},
            pieces=_pieces(graph, members, views, life),
        )
        for head, members in groups.items()
    ]


def scratch_buffers(graph: Graph, calls: Mapping[str, KernelCall]) -> list[Buffer]:
    """The scratch's part of :func:`make_buffers`."""
    buffers = []
    taken = set(graph.inputs).union(*(n.outputs for n in graph.nodes))
    for step, node in enumerate(graph.nodes):
        call = calls.get(node.name)
        if call is not None and call.scratch_bytes > 0:
            name = _scratch_name(node, taken)
            buffers.append(Buffer(name, call.scratch_bytes, step, step))
    return buffers


def _scratch_name(node: Node, taken: set[str]) -> str:
    name = f"scratch:{node.name}"
    while name in taken:
        name += "_"
    return name


def lower_bound(buffers: Sequence[Buffer]) -> tuple[int, int]:
    """(most bytes alive at one step, the first such step)."""
    change: dict[int, int] = {}
    for b in buffers:
        for p in b.parts:
            change[p.first] = change.get(p.first, 0) + p.bytes
            change[p.last + 1] = change.get(p.last + 1, 0) - p.bytes
    best = at = total = 0
    for step in sorted(change):
        total += change[step]
        if total > best:
            best, at = total, step
    return best, at


def alive_bytes(buffers: Sequence[Buffer], steps: int) -> list[int]:
    """Bytes alive at each step from -1 to ``steps``, both included."""
    change = [0] * (steps + 3)
    for b in buffers:
        for p in b.parts:
            change[p.first + 1] += p.bytes
            change[p.last + 2] -= p.bytes
    return list(itertools.accumulate(change[:-1]))


Placed = list[tuple[int, int, int, int]]  #: (offset, end, first, last), by offset


def _lowest(b: Buffer, placed: Placed) -> int:
    """The lowest aligned offset that is free during the buffer's life."""
    if b.pieces:
        return _lowest_for_pieces(b, placed)
    at, size, first, last, align = 0, b.bytes, b.first, b.last, b.align
    for offset, end, other_first, other_last in placed:
        if first > other_last or other_first > last:
            continue
        if at + size <= offset:
            break
        if end > at:
            at = -(-end // align) * align
    return at


def _put(b: Buffer, at: int, placed: Placed) -> None:
    for p in b.parts:
        bisect.insort(placed, (at + p.offset, at + p.offset + p.bytes, p.first, p.last))


def first_fit(order: Sequence[Buffer]) -> tuple[int, dict[str, int]]:
    """Place each buffer at the lowest aligned offset free during its life. (arena bytes, offsets)"""
    found = _first_fit(order, 0, {}, None)
    assert found is not None
    return found


def _first_fit(
    order: Sequence[Buffer], known: int, offsets: Mapping[str, int], most: int | None
) -> tuple[int, dict[str, int]] | None:
    """:func:`first_fit` where the first ``known`` buffers lie at ``offsets``; None as soon as the arena
    takes more than ``most`` bytes."""
    placed: Placed = []
    result: dict[str, int] = {}
    arena = 0
    for k, b in enumerate(order):
        at = offsets[b.name] if k < known else _lowest(b, placed)
        arena = max(arena, at + b.bytes)
        if most is not None and arena > most:
            return None
        result[b.name] = at
        _put(b, at, placed)
    return arena, result


def _lowest_for_pieces(b: Buffer, placed: Sequence[tuple[int, int, int, int]]) -> int:
    """The lowest offset at which no piece meets anything. Whatever a piece meets it has to pass, so
    moving up past it never skips a place."""
    at, settled = 0, 0
    while settled < len(b.pieces):
        settled = 0
        for p in b.pieces:
            low, high = at + p.offset, at + p.offset + p.bytes
            for offset, end, first, last in placed:
                if offset >= high:
                    break
                if end > low and p.first <= last and first <= p.last:
                    at = -(-(end - p.offset) // b.align) * b.align
                    low, high = at + p.offset, at + p.offset + p.bytes
                    settled = -1
            if settled < 0:
                break
            settled += 1
        settled = max(settled, 0)
    return at


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.bytes, b.first),
    lambda b: (-(b.last - b.first), -b.bytes, b.first),
    lambda b: (-b.bytes * (b.last - b.first + 1), b.first),
    lambda b: (b.first, -b.bytes),
    lambda b: (-b.last, -b.bytes),
)


def pack(buffers: Sequence[Buffer], search: bool = True) -> tuple[int, dict[str, int]]:
    """(arena bytes, offset of each buffer): optimal where the enumeration ends, else near it.

    search: False stops after the fixed orders, which is fast and mostly as good."""
    if not buffers:
        return 0, {}
    items = sorted(buffers, key=lambda b: (b.first, b.last, -b.bytes, b.name))
    bound, peak = lower_bound(items)

    candidates: list[list[Buffer]] = [sorted(items, key=key) for key in _ORDERS]
    # What is alive at the fullest step first: it has to be packed without holes.
    candidates.append(
        sorted(items, key=lambda b: (not b.first <= peak <= b.last, -b.bytes, b.first))
    )
    best: tuple[int, dict[str, int]] | None = None
    order = candidates[0]
    for candidate in candidates:
        result = first_fit(candidate)
        if best is None or result[0] < best[0]:
            best, order = result, candidate
        if best[0] <= bound:
            return best
    assert best is not None
    if not search:
        return best
    if len(items) <= EXACT and not any(b.pieces for b in items):
        better, proved = _enumerate(items, bound, best[0])
        best = better or best
        if proved:
            return best
        offsets = best[1]
        order = sorted(items, key=lambda b: (offsets[b.name], b.first, b.name))
    rng = random.Random(_SEED)
    current, (height, at) = list(order), first_fit(order)
    for _ in range(min(LOCAL_SEARCH_STEPS, LOCAL_SEARCH_PLACEMENTS // len(items))):
        trial = list(current)
        source = rng.randrange(len(trial))
        moved = trial.pop(source)
        to = rng.randrange(len(trial) + 1)
        trial.insert(to, moved)
        tried = _first_fit(trial, min(source, to), at, height)
        if tried is not None:
            current, (height, at) = trial, tried
            if height < best[0]:
                best = tried
                if height <= bound:
                    break
    return best


def _enumerate(
    items: Sequence[Buffer], bound: int, height: int
) -> tuple[tuple[int, dict[str, int]] | None, bool]:
    """(the smallest packing below ``height`` or None, whether that is proved).

    Only orders by rising offset are tried: a packing in which nothing can move down is what first fit
    makes of it in that order. What is not placed yet lies above what was placed last. (With pieces that
    is not so: something may move down between the pieces of what lies higher.)
    """
    steps = sorted({p.first for b in items for p in b.parts})
    alive = [
        [sum(p.bytes for p in b.parts if p.first <= s <= p.last) for s in steps] for b in items
    ]
    best: tuple[int, dict[str, int]] | None = None
    budget = EXACT_NODES

    def extend(
        left: Sequence[int], placed: Placed, offsets: dict[str, int], low: int, last: int, top: int
    ) -> bool:
        """False when the budget or the search is over."""
        nonlocal best, height, budget
        if not left:
            best, height = (top, dict(offsets)), top
            return top > bound
        budget -= 1
        if budget < 0:
            return False
        places = [(_lowest(items[k], placed), k) for k in left]
        if any(at + items[k].bytes >= height for at, k in places):
            return True
        for at, k in sorted(places):
            if (at, k) <= (low, last) and offsets:
                continue
            b = items[k]
            rest = [other for other in left if other != k]
            if rest:
                most = max(sum(alive[o][s] for o in rest) for s in range(len(steps)))
                if at + most >= height:
                    continue
            deeper = list(placed)
            _put(b, at, deeper)
            offsets[b.name] = at
            going = extend(rest, deeper, offsets, at, k, max(top, at + b.bytes))
            del offsets[b.name]
            if not going:
                return False
            if any(a + items[j].bytes >= height for a, j in places):
                return True
        return True

    ended = extend(range(len(items)), [], {}, 0, -1, 0)
    proved = ended or (best is not None and best[0] <= bound)
    return best, proved


def _merge_one_by_one(
    graph: Graph, calls: Mapping[str, KernelCall], pairs: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The pairs that do not make the arena larger, taken in graph order."""
    kept: list[tuple[str, str]] = []
    best, _ = pack(make_buffers(graph, calls), search=False)
    for pair in pairs:
        size, _ = pack(make_buffers(graph, calls, [*kept, pair]), search=False)
        if size <= best:
            best = size
            kept.append(pair)
    return kept


def plan_memory(graph: Graph, calls: Mapping[str, KernelCall]) -> Plan:
    """Plan the arena for ``graph`` with its nodes in their order.

    calls: node name -> lowered node (scratch and in-place pairs are read). In-place pairs are taken
    all if that does not cost memory, else one by one, or the best of few. Raises PlanError from the
    independent checker if the result were wrong.
    """
    pairs = mergeable(graph, calls)
    plain = make_buffers(graph, calls)
    merge: list[tuple[str, str]] = []
    buffers, (arena, at) = plain, pack(plain)

    def attempt(chosen: Sequence[tuple[str, str]], worth: int) -> None:
        nonlocal merge, buffers, arena, at
        trial = make_buffers(graph, calls, chosen)
        if lower_bound(trial)[0] > worth:
            return
        size, where = pack(trial)
        if size <= worth:
            merge, buffers, arena, at = list(chosen), trial, size, where

    attempt(pairs, arena)  # all at once is nearly always right
    if pairs and not merge:
        attempt(_merge_one_by_one(graph, calls, pairs), arena)
    if len(pairs) <= MERGES and arena > lower_bound(plain)[0]:
        for n in range(1, len(pairs)):
            for some in itertools.combinations(pairs, n):
                attempt(some, arena - 1)
    offsets = {t: at[b.name] + b.inner.get(t, 0) for b in buffers for t in b.tensors}
    scratch = {graph.nodes[b.first].name: at[b.name] for b in buffers if not b.tensors}
    bound, peak = lower_bound(buffers)
    plan = Plan(
        arena_bytes=arena,
        lower_bound=bound,
        buffers=tuple(buffers),
        buffer_offsets=at,
        offsets=offsets,
        scratch=scratch,
        peak_step=peak,
        scratch_bytes=max((c.scratch_bytes for c in calls.values()), default=0),
        inplace=tuple((s, r) for s, r in merge if offsets[s] == offsets[r]),
    )
    check_plan(graph, calls, plan.arena_bytes, plan.offsets, plan.scratch)
    return plan
