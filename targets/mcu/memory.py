"""The memory planner: where each activation and each scratch buffer lies in one static arena.

Storing tensors of known lifetimes at fixed offsets so that the arena is smallest is dynamic storage
allocation, NP-hard in general. First fit in a given order is fast, and some order makes first fit
optimal (sort an optimal packing by offset: first fit never places a buffer higher). So the planner
searches orders: every one for a handful of buffers, several good ones plus a deterministic local
search otherwise, and stops as soon as the lower bound (most bytes alive at once) is reached.
"""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgekit.graph.ir import Graph, Node

from .checker import check_plan
from .contract import KernelCall

ALIGN = 8  #: of tensors; scratch is promised 8 bytes, too
EXHAUSTIVE = 7  #: up to so many buffers every order is tried
LOCAL_SEARCH_STEPS = 400
_SEED = 20260101


@dataclass(frozen=True)
class Buffer:
    """Bytes that are alive from step ``first`` to step ``last``, both included.

    Step i is node i; -1 is before the first node (graph inputs), ``len(nodes)`` after the last
    (graph outputs). tensors: names of what lives in it; more than one when nodes work in place.
    """

    name: str
    bytes: int
    first: int
    last: int
    tensors: tuple[str, ...] = ()
    align: int = ALIGN

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
                "name": b.name,
                "offset": self.buffer_offsets[b.name],
                "bytes": b.bytes,
                "first": b.first,
                "last": b.last,
                "tensors": list(b.tensors),
            }
            for b in order
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


def mergeable(graph: Graph, calls: Mapping[str, KernelCall]) -> list[tuple[str, str]]:
    """(input, output) pairs that a node can compute in place and whose input nobody reads later."""
    life = lifetimes(graph)
    pairs = []
    for step, node in enumerate(graph.nodes):
        call = calls.get(node.name)
        for i, o in call.inplace if call else ():
            source, result = node.inputs[i], node.outputs[o]
            if source is None or source not in life or life[source][1] != step:
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
    life = lifetimes(graph)
    root = {name: name for name in life}
    used: set[str] = set()  # outputs and inputs each join one chain only

    for source, result in merge:
        if root[result] != result or source in used:
            continue
        used.add(source)
        root[result] = root[source]
    groups: dict[str, list[str]] = {}
    for name in life:
        groups.setdefault(root[name], []).append(name)
    buffers = [
        Buffer(
            name=head,
            bytes=max(graph.tensor(m).nbytes for m in members),
            first=min(life[m][0] for m in members),
            last=max(life[m][1] for m in members),
            tensors=tuple(members),
        )
        for head, members in groups.items()
    ]
    taken = set(life)
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
    steps = sorted({b.first for b in buffers})
    best, at = 0, 0
    for s in steps:
        total = sum(b.bytes for b in buffers if b.first <= s <= b.last)
        if total > best:
            best, at = total, s
    return best, at


def first_fit(order: Sequence[Buffer]) -> tuple[int, dict[str, int]]:
    """Place each buffer at the lowest aligned offset free during its life. (arena bytes, offsets)"""
    placed: list[tuple[int, int, int, int]] = []  # (offset, end, first, last), by offset
    offsets: dict[str, int] = {}
    arena = 0
    for b in order:
        at, size, first, last, align = 0, b.bytes, b.first, b.last, b.align
        for offset, end, other_first, other_last in placed:
            if first > other_last or other_first > last:
                continue
            if at + size <= offset:
                break
            if end > at:
                at = -(-end // align) * align
        offsets[b.name] = at
        bisect.insort(placed, (at, at + size, first, last))
        arena = max(arena, at + size)
    return arena, offsets


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.bytes, b.first),
    lambda b: (-(b.last - b.first), -b.bytes, b.first),
    lambda b: (-b.bytes * (b.last - b.first + 1), b.first),
    lambda b: (b.first, -b.bytes),
    lambda b: (-b.last, -b.bytes),
)


def pack(buffers: Sequence[Buffer], search: bool = True) -> tuple[int, dict[str, int]]:
    """(arena bytes, offset of each buffer): optimal up to EXHAUSTIVE buffers, else near it.

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
    if len(items) <= EXHAUSTIVE:
        for permutation in itertools.permutations(items):
            result = first_fit(permutation)
            if result[0] < best[0]:
                best = result
                if best[0] <= bound:
                    break
        return best
    rng = random.Random(_SEED)
    current = list(order)
    for _ in range(min(LOCAL_SEARCH_STEPS, 30_000 // len(items))):
        trial = list(current)
        moved = trial.pop(rng.randrange(len(trial)))
        trial.insert(rng.randrange(len(trial) + 1), moved)
        result = first_fit(trial)
        if result[0] <= best[0]:
            current = trial
            if result[0] < best[0]:
                best = result
                if best[0] <= bound:
                    break
    return best


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
    all if that does not cost memory, else one by one. Raises PlanError from the independent checker if
    the result were wrong.
    """
    merge: list[tuple[str, str]] = []
    buffers = make_buffers(graph, calls, merge)
    arena, at = pack(buffers)
    pairs = mergeable(graph, calls)
    attempts = [pairs] if pairs else []  # all at once is nearly always right
    if pairs and pack(make_buffers(graph, calls, pairs))[0] > arena:
        attempts = [_merge_one_by_one(graph, calls, pairs)]
    for attempt in attempts:
        trial = make_buffers(graph, calls, attempt)
        size, where = pack(trial)
        if size <= arena:
            merge, buffers, arena, at = attempt, trial, size, where
    offsets = {t: at[b.name] for b in buffers for t in b.tensors}
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
