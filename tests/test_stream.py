"""Row streaming: the same bytes from less RAM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcu_case import compile_to, samples
from netgen import Net, quantized

from edgekit.devices.registry import open_device
from edgekit.graph import Graph
from edgekit.graph.reference import run
from edgekit.targets import get_backend, get_target
from edgekit_targets.mcu import stream
from edgekit_targets.mcu.choose import find_options
from edgekit_targets.mcu.memory import plan_memory


def wide_net(seed: int = 3, size: int = 16, blocks: int = 2) -> Graph:
    """Residual and depthwise-separable blocks, strides, pooling: wide at the start."""
    net = Net(np.random.default_rng(seed), (1, size, size - 1, 3), "wide")
    x = net.conv("x", 16)
    for k in range(blocks):
        a = net.conv(x, 16)
        b = net.depthwise(a)
        x = net.op("ADD", [x, b], activation="RELU" if k else "NONE")
    x = net.conv(x, 8, stride=2)
    h, w = net.g.tensor(x).shape[1:3]
    x = net.op(
        "AVERAGE_POOL_2D", [x], filter=(h, w), stride=(h, w), padding="VALID", activation="NONE"
    )
    x = net.op("RESHAPE", [x], new_shape=(1, 8))
    return quantized(net.finish(net.dense(x, 4)), np.random.default_rng(seed + 1))


def same_bytes(a: Graph, b: Graph, seed: int = 0) -> None:
    xs = samples(a, 3, seed)
    for left, right in zip(run(a, xs).values(), run(b, xs).values(), strict=True):
        np.testing.assert_array_equal(left, right)


conv = st.tuples(
    st.just("conv"), st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 2]), st.integers(1, 5)
)
other = st.tuples(
    st.sampled_from(["depthwise", "max", "average", "add", "join"]),
    st.sampled_from([2, 3]),
    st.sampled_from([1, 2]),
    st.just(0),
)


@st.composite
def networks(draw) -> Graph:
    net = Net(np.random.default_rng(draw(st.integers(0, 99))), (1, draw(st.integers(6, 13)), 5, 3))
    x = net.conv("x", 4)
    for kind, k, stride, channels in draw(st.lists(st.one_of(conv, other), min_size=2, max_size=6)):
        padding = draw(st.sampled_from(["SAME", "VALID"]))
        h, w = net.g.tensor(x).shape[1:3]
        if padding == "VALID" and min(h, w) < k:
            padding = "SAME"
        if kind == "conv":
            x = net.conv(x, channels, k=k, stride=stride, padding=padding)
        elif kind == "depthwise":
            x = net.depthwise(x, k=k)
        elif kind in ("max", "average"):
            x = net.op(
                f"{kind.upper()}_POOL_2D", [x],
                filter=(k, k), stride=(stride, stride), padding=padding, activation="NONE",
            )  # fmt: skip
        else:
            y = net.conv(x, net.channels(x), k=k)
            if kind == "add":
                x = net.op("ADD", [x, y], activation="RELU")
            else:
                x = net.op("CONCATENATION", [x, y], axis=3, activation="NONE")
    return quantized(net.finish(x), np.random.default_rng(1))


@settings(max_examples=25, deadline=None)
@given(networks(), st.data())
def test_any_stream_of_any_network_gives_the_same_bytes(graph: Graph, data) -> None:
    first = data.draw(st.integers(0, len(graph.nodes) - 1))
    last = data.draw(st.integers(first, len(graph.nodes) - 1))
    rows = data.draw(st.integers(1, 5))
    made = stream.stream(graph, first, last, rows)
    if made is None:
        return
    assert len(made[0].nodes) > len(graph.nodes)
    same_bytes(graph, made[0])
    # every row of every layer is computed once
    for node in graph.nodes[first : last + 1]:
        pieces = [n for n, of in made[1].items() if of == node.name]
        rows_made = sum(made[0].tensor(made[0].node(p).outputs[0]).shape[1] for p in pieces)
        assert rows_made <= graph.tensor(node.outputs[0]).shape[1]
    target = get_target("cortex-m4")
    found = find_options(made[0], target)[0]
    if len(made[0].nodes) > 80:  # the planner would search long
        return
    plan_memory(
        made[0], {name: options[0].call for name, options in found.items()}
    )  # checks itself


def test_a_wide_network_runs_in_less_ram_with_the_same_bytes(tmp_path: Path) -> None:
    graph = wide_net()
    fast = compile_to(tmp_path / "speed", graph, optimize="speed")
    usual = compile_to(tmp_path / "balanced", graph)
    small = compile_to(tmp_path / "ram", graph, optimize="ram")
    tight = compile_to(tmp_path / "tight", graph, optimize="speed", ram_limit=10800)
    arena = {a: a.manifest["memory"]["arena_bytes"] for a in (fast, usual, small, tight)}
    assert arena[small] < 0.75 * arena[fast] and arena[small] <= arena[usual]
    assert arena[tight] + 2048 <= 10800
    xs = samples(graph, 4)
    expected = next(iter(run(graph, xs).values()))
    backend = get_backend("mcu")
    for artifact in (fast, small, tight):
        with open_device("virtual:cortex-m4", target=artifact.target) as device:
            out = backend.run(artifact, device, xs)
            np.testing.assert_array_equal(out.outputs[0].reshape(expected.shape), expected)


def test_what_would_not_fit_whole_is_streamed_without_being_asked(tmp_path: Path) -> None:
    graph = wide_net()
    whole = compile_to(tmp_path / "whole", graph).manifest["memory"]["arena_bytes"]
    limit = int(0.8 * whole) + 2048
    tight = compile_to(tmp_path / "tight", graph, ram_limit=limit)
    assert tight.manifest["memory"]["arena_bytes"] <= limit - 2048
    assert len(tight.graph.nodes) > len(graph.nodes)
    xs = samples(graph, 3)
    with open_device("virtual:cortex-m4", target=tight.target) as device:
        out = get_backend("mcu").run(tight, device, xs)
    expected = next(iter(run(graph, xs).values()))
    np.testing.assert_array_equal(out.outputs[0].reshape(expected.shape), expected)


@pytest.mark.parametrize("rows", [1, 3])
def test_joining_and_slicing_rows_costs_no_copy_where_it_can(rows: int) -> None:
    """Rows that are made in their place, and the whole they belong to, are one buffer."""
    from edgekit_targets.mcu.codegen import is_alias

    graph = wide_net(blocks=1)
    made = stream.stream(graph, 0, 2, rows)
    assert made is not None
    found = find_options(made[0], get_target("cortex-m4"))[0]
    plan = plan_memory(made[0], {name: options[0].call for name, options in found.items()})
    joins = [n for n in made[0].nodes if n.type == "CONCATENATION"]
    assert joins and any(is_alias(made[0], n, plan) for n in joins)
