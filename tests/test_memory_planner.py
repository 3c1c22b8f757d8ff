"""The memory planner: sound for every graph, optimal for small ones; and its checker catches."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.graph.ir import Graph, Tensor
from edgekit_targets.mcu.checker import PlanError, check_plan
from edgekit_targets.mcu.contract import KernelCall
from edgekit_targets.mcu.memory import (
    MERGES,
    Buffer,
    lower_bound,
    make_buffers,
    mergeable,
    pack,
    plan_memory,
)


def call(scratch: int = 0, inplace: tuple[tuple[int, int], ...] = ()) -> KernelCall:
    return KernelCall("v", (), "h.h", ";", scratch_bytes=scratch, inplace=inplace)


def graph_of(sizes: dict[str, int], nodes: list[tuple[str, list[str], list[str]]],
             inputs: list[str], outputs: list[str]) -> Graph:  # fmt: skip
    """int8 vectors of these lengths; nodes as (name, inputs, outputs)."""
    g = Graph("g", {k: Tensor(k, (n,), "int8") for k, n in sizes.items()}, [], (), ())
    for name, ins, outs in nodes:
        g.add_node("ADD", ins, outs, name=name)
    g.inputs, g.outputs = tuple(inputs), tuple(outputs)
    return g


def place_at_best(buffers: list[Buffer]) -> int:
    """Smallest arena, by trying every aligned offset of every buffer (not the planner's way)."""
    step = buffers[0].align
    limit = sum(-(-b.bytes // step) * step for b in buffers)

    def fits(arena: int, k: int, placed: list[tuple[int, Buffer]]) -> bool:
        if k == len(buffers):
            return True
        b = buffers[k]
        for at in range(0, arena - b.bytes + 1, step):
            clash = any(
                b.overlaps(o) and at < o_at + o.bytes and o_at < at + b.bytes for o_at, o in placed
            )
            if not clash and fits(arena, k + 1, [*placed, (at, b)]):
                return True
        return False

    low = lower_bound(buffers)[0]
    return next(a for a in range(low, limit + 1) if fits(a, 0, []))


@st.composite
def buffer_lists(draw: st.DrawFn, most: int, size: int) -> list[Buffer]:
    n = draw(st.integers(1, most))
    out = []
    for k in range(n):
        first = draw(st.integers(0, 6))
        out.append(
            Buffer(
                f"b{k}",
                draw(st.integers(1, size)),
                first,
                first + draw(st.integers(0, 4)),
            )
        )
    return out


def assert_sound(buffers: list[Buffer], arena: int, at: dict[str, int]) -> None:
    for b in buffers:
        assert at[b.name] % b.align == 0 and at[b.name] >= 0
        assert at[b.name] + b.bytes <= arena
    for a, b in itertools.combinations(buffers, 2):
        if a.overlaps(b):
            assert at[a.name] + a.bytes <= at[b.name] or at[b.name] + b.bytes <= at[a.name]


@settings(max_examples=60, deadline=None)
@given(buffer_lists(most=5, size=40))
def test_small_cases_are_optimal(buffers: list[Buffer]) -> None:
    arena, at = pack(buffers)
    assert_sound(buffers, arena, at)
    assert arena == place_at_best(buffers)


@settings(max_examples=25, deadline=None)
@given(buffer_lists(most=8, size=32))
def test_cases_beyond_the_fixed_orders_are_optimal(buffers: list[Buffer]) -> None:
    arena, at = pack(buffers)
    assert_sound(buffers, arena, at)
    assert arena == place_at_best(buffers)


def test_where_every_fixed_order_loses() -> None:
    rng = random.Random(5)
    for _ in range(300):
        buffers = [
            Buffer(f"b{k}", 8 * rng.randint(1, 6), f := rng.randint(0, 6), f + rng.randint(0, 3))
            for k in range(8)
        ]
        best = pack(buffers)[0]
        if best < pack(buffers, search=False)[0]:
            assert best == place_at_best(buffers)
            return
    raise AssertionError("the fixed orders were optimal 300 times")


@settings(max_examples=40, deadline=None)
@given(buffer_lists(most=24, size=5000))
def test_large_cases_are_sound_and_near_the_bound(buffers: list[Buffer]) -> None:
    arena, at = pack(buffers)
    assert_sound(buffers, arena, at)
    bound, _ = lower_bound(buffers)
    assert bound <= arena <= sum(b.bytes + b.align for b in buffers)
    assert pack(buffers) == (arena, at), "the same buffers give the same plan"


@st.composite
def random_graphs(
    draw: st.DrawFn, most: int = 9, size: int = 300, results: int = 2
) -> tuple[Graph, dict[str, KernelCall]]:
    sizes = {"x": draw(st.integers(1, size))}
    nodes, calls = [], {}
    names = ["x"]
    if draw(st.booleans()):
        sizes["x2"] = draw(st.integers(1, size))
        names.append("x2")
    inputs = list(names)
    for k in range(draw(st.integers(1, most))):
        ins = draw(st.lists(st.sampled_from(names[-4:]), min_size=1, max_size=3))
        outs = [f"t{k}_{j}" for j in range(draw(st.integers(1, results)))]
        for o in outs:
            sizes[o] = draw(st.integers(1, size))
        pairs = draw(
            st.lists(
                st.tuples(st.integers(0, len(ins) - 1), st.integers(0, len(outs) - 1)), max_size=2
            )
        )
        nodes.append((f"n{k}", ins, outs))
        calls[f"n{k}"] = call(draw(st.sampled_from([0, 0, 7, size * 2 // 3])), tuple(pairs))
        names += outs
    outputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return graph_of(sizes, nodes, inputs, outputs), calls


@settings(max_examples=80, deadline=None)
@given(random_graphs())
def test_every_graph_gets_a_sound_plan(case: tuple[Graph, dict[str, KernelCall]]) -> None:
    graph, calls = case
    plan = plan_memory(graph, calls)  # the checker ran inside
    assert plan.lower_bound <= plan.arena_bytes
    without = plan_memory(graph, {k: dataclasses.replace(c, inplace=()) for k, c in calls.items()})
    assert plan.arena_bytes <= without.arena_bytes, "working in place never costs memory"


def chain(n: int, size: int = 100) -> Graph:
    names = [f"t{k}" for k in range(n + 1)]
    nodes = [(f"n{k}", [names[k]], [names[k + 1]]) for k in range(n)]
    return graph_of(dict.fromkeys(names, size), nodes, names[:1], names[-1:])


@settings(max_examples=25, deadline=None)
@given(random_graphs(most=4, size=40, results=1))
def test_plans_of_small_graphs_are_the_optimum(case: tuple[Graph, dict[str, KernelCall]]) -> None:
    """Over every set of in-place pairs and every placement, without the planner's own search."""
    graph, calls = case
    pairs = mergeable(graph, calls)
    best = min(
        place_at_best(make_buffers(graph, calls, some))
        for n in range(len(pairs) + 1)
        for some in itertools.combinations(pairs, n)
    )
    assert len(pairs) <= MERGES
    assert plan_memory(graph, calls).arena_bytes == best


def test_a_chain_in_place_takes_one_buffer() -> None:
    g = chain(6, 96)
    plan = plan_memory(g, {n.name: call(inplace=((0, 0),)) for n in g.nodes})
    assert plan.arena_bytes == 96
    assert len(plan.inplace) == 6
    assert plan_memory(g, {n.name: call() for n in g.nodes}).arena_bytes == 192


def test_no_bytes_are_wasted_beyond_alignment() -> None:
    g = chain(1, 97)
    assert plan_memory(g, {"n0": call()}).arena_bytes == 104 + 97


def test_scratch_lies_on_dead_activations() -> None:
    g = graph_of(
        {"x": 400, "a": 8, "b": 8},
        [("n0", ["x"], ["a"]), ("n1", ["a"], ["b"])],
        ["x"],
        ["b"],
    )
    plan = plan_memory(g, {"n0": call(), "n1": call(scratch=384)})
    assert plan.arena_bytes == 408
    assert plan.scratch_bytes == 384


def test_what_is_needed_later_is_not_overwritten() -> None:
    # n1 could write onto t1, but n2 still reads it; and t3 = t2 + t2 reads one tensor twice.
    g = graph_of(
        {"x": 64, "t1": 64, "t2": 64, "t3": 64, "y": 64},
        [
            ("n0", ["x"], ["t1"]),
            ("n1", ["t1"], ["t2"]),
            ("n2", ["t2", "t2"], ["t3"]),
            ("n3", ["t1", "t3"], ["y"]),
        ],
        ["x"],
        ["y", "t1"],
    )
    plan = plan_memory(g, {n.name: call(inplace=((0, 0),)) for n in g.nodes})
    pairs = dict(plan.inplace)
    assert "t1" not in pairs and "t2" not in pairs
    assert plan.offsets["t1"] != plan.offsets["y"]


def test_a_residual_network_reaches_the_bound() -> None:
    # ResNet-8's first stack: three tensors of 16 KB alive at once, and nothing more.
    k16 = 16384
    g = graph_of(
        {"x": 3072, "a": k16, "b": k16, "c": k16, "d": k16, "e": k16 // 2},
        [
            ("conv0", ["x"], ["a"]),
            ("conv1", ["a"], ["b"]),
            ("conv2", ["b"], ["c"]),
            ("add", ["a", "c"], ["d"]),
            ("conv3", ["d"], ["e"]),
        ],
        ["x"],
        ["e"],
    )
    calls = {n.name: call() for n in g.nodes} | {"add": call(inplace=((0, 0), (1, 0)))}
    plan = plan_memory(g, calls)
    assert plan.arena_bytes == plan.lower_bound == 3 * k16


@settings(max_examples=40, deadline=None)
@given(random_graphs(), st.randoms(use_true_random=False))
def test_the_checker_agrees_with_lifetimes(case: tuple[Graph, dict[str, KernelCall]], rng) -> None:
    """Move one tensor onto another: the checker objects exactly when their lives overlap and no
    in-place pair allows it (checked here for graphs without pairs, by lifetimes)."""
    from edgekit_targets.mcu.memory import lifetimes

    graph, calls = case
    calls = {k: dataclasses.replace(c, inplace=(), scratch_bytes=0) for k, c in calls.items()}
    plan = plan_memory(graph, calls)
    names = sorted(plan.offsets)
    if len(names) < 2:
        return
    a, b = rng.sample(names, 2)
    moved = {**plan.offsets, a: plan.offsets[b]}
    life = lifetimes(graph)
    size = {n: graph.tensor(n).nbytes for n in names}

    def clash(p: str, q: str) -> bool:
        alive = life[p][0] <= life[q][1] and life[q][0] <= life[p][1]
        return alive and moved[p] < moved[q] + size[q] and moved[q] < moved[p] + size[p]

    arena = plan.arena_bytes + 400
    if any(clash(p, q) for p, q in itertools.combinations(names, 2)):
        with pytest.raises(PlanError):
            check_plan(graph, calls, arena, moved, plan.scratch)
    else:
        check_plan(graph, calls, arena, moved, plan.scratch)


def test_the_checker_sees_misplaced_buffers() -> None:
    g = chain(2, 16)
    calls = {"n0": call(), "n1": call(scratch=16)}
    good = {"t0": 0, "t1": 16, "t2": 0}
    check_plan(g, calls, 48, good, {"n1": 32})
    for offsets, scratch, arena in [
        ({**good, "t1": 20}, {"n1": 32}, 64),  # misaligned
        ({**good, "t1": 40}, {"n1": 0}, 48),  # outside
        (good, {"n1": 16}, 48),  # scratch on the input
        (good, {}, 48),  # scratch forgotten
        ({"t0": 0, "t2": 0}, {"n1": 32}, 48),  # tensor forgotten
        ({**good, "t1": 0}, {"n1": 32}, 48),  # in place without leave
    ]:
        with pytest.raises(PlanError):
            check_plan(g, calls, arena, offsets, scratch)
