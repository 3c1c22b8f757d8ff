"""Lossless simplification: the same bytes from less, on networks that are mostly dead."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from netgen import Net, dead_network, quantized, random_inputs

from edgekit import formats
from edgekit.compress import clean, simplify
from edgekit.compress.intervals import analyse
from edgekit.graph import Graph
from edgekit.graph.reference import run


def assert_same_bytes(a: Graph, b: Graph, rng: np.random.Generator, samples: int = 5) -> None:
    x = random_inputs(a, rng, samples)
    before, after = run(a, x), run(b, x)
    for i, j in zip(a.outputs, b.outputs, strict=True):
        np.testing.assert_array_equal(before[i], after[j])


def check_dead_network(seed: int, dead: float) -> None:
    rng = np.random.default_rng(seed)
    g = quantized(dead_network(rng, dead), rng)
    s = simplify(g)
    assert_same_bytes(g, s.graph, rng)
    assert s.macs <= s.macs_before
    again = simplify(s.graph)
    assert again.dead.channels == 0, "a second run finds nothing more"


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@example(1135, 0.25)  # a branch folded last left a channel unread
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.6, 0.9]))
def test_same_bytes_from_dead_networks(seed: int, dead: float) -> None:
    check_dead_network(seed, dead)


@pytest.mark.slow
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.95))
def test_same_bytes_from_many_dead_networks(seed: int, dead: float) -> None:
    check_dead_network(seed, dead)


def test_nine_tenths_dead_become_a_tenth_of_the_work() -> None:
    """Of 40 channels a layer 36 are dead with constants away from zero: the padded readers keep a
    pair or two of those, and the rest of the work goes."""
    rng = np.random.default_rng(3)
    net = Net(rng, (1, 12, 12, 3))
    x = "x"
    for _ in range(3):
        w, _ = net._weights((40, 3, 3, net.channels(x)), 0, 0.0)
        data = np.array(net.g.tensor(w).data)
        data[4:] = 0
        bias = np.full(40, 0.5)
        bias[4:] = rng.uniform(0.1, 1.0, 36)
        x = net.op(
            "CONV_2D",
            [x, net.const("w", data), net.const("b", bias)],
            stride=(1, 1), dilation=(1, 1), padding="SAME", activation="RELU",
        )  # fmt: skip
    x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
    g = quantized(net.finish(net.dense(x, 10)), rng)
    s = simplify(g)
    assert_same_bytes(g, s.graph, rng, 20)
    widths = [s.graph.tensor(n.outputs[0]).shape[-1] for n in s.graph.nodes if n.type == "CONV_2D"]
    assert widths[0] <= 7 and widths[1] <= 7, widths
    assert widths[2] == 4, "MEAN and the dense layer take constants in the bias"
    assert s.macs * 15 < s.macs_before


def test_unread_channels_go() -> None:
    rng = np.random.default_rng(1)
    net = Net(rng, (1, 8, 8, 2))
    x = net.conv("x", 16)
    w, b = net._weights((8, 3, 3, 16), 0, 0.0)
    data = np.array(net.g.tensor(w).data)
    data[..., 5:] = 0
    y = net.op("CONV_2D", [x, net.const("w", data), b], stride=(1, 1), dilation=(1, 1),
               padding="SAME", activation="NONE")  # fmt: skip
    g = quantized(net.finish(y), rng)
    s = simplify(g)
    assert s.graph.tensor(s.graph.nodes[0].outputs[0]).shape[-1] == 5
    assert_same_bytes(g, s.graph, rng)


def test_provably_constant_with_weights_goes() -> None:
    """A ReLU channel whose bias lies below all its weights can reach is constant, though its weights
    are not zero."""
    rng = np.random.default_rng(2)
    net = Net(rng, (1, 6, 6, 4))
    w, b = net._weights((8, 3, 3, 4), 0, 0.0)
    bias = np.array(net.g.tensor(b).data)
    bias[2] = -100.0
    x = net.op("CONV_2D", ["x", w, net.const("b", bias)], stride=(1, 1), dilation=(1, 1),
               padding="SAME", activation="RELU")  # fmt: skip
    g = quantized(net.finish(net.conv(x, 3)), rng)
    assert g.tensor(g.nodes[0].inputs[1]).data[2].any()
    assert analyse(g)[g.nodes[0].outputs[0]].constant.sum() == 1
    s = simplify(g)
    assert s.graph.tensor(s.graph.nodes[0].outputs[0]).shape[-1] == 7
    assert_same_bytes(g, s.graph, rng)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_intervals_hold_every_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = quantized(dead_network(rng, 0.4), rng)
    bounds = analyse(g)
    values = run(g, random_inputs(g, rng, 4), keep="all")
    for name, v in values.items():
        b = bounds[name]
        flat = v.reshape(-1, len(b.lo)).astype(np.float64)
        assert (flat >= b.lo).all() and (flat <= b.hi).all(), name


def test_batch_norm_and_padding_fuse() -> None:
    rng = np.random.default_rng(4)
    net = Net(rng, (1, 7, 7, 3))
    x = net.op("PAD", ["x"], paddings=((0, 0), (1, 1), (1, 1), (0, 0)), value=0.0)
    x = net.conv(x, 6, activation="NONE", padding="VALID")
    x = net.op("MUL", [x, net.const("gamma", rng.normal(1, 0.2, (6,)))], activation="NONE")
    x = net.op("ADD", [x, net.const("beta", rng.normal(0, 1, (1, 1, 1, 6)))], activation="NONE")
    x = net.op("RELU", [x])
    g = net.finish(x)
    c = clean(g)
    assert [n.type for n in c.nodes] == ["CONV_2D"]
    assert c.nodes[0].attrs["activation"] == "RELU"
    assert tuple(c.nodes[0].attrs["padding"]) == (1, 1, 1, 1)
    data = random_inputs(g, rng, 3)
    np.testing.assert_allclose(
        run(g, data)[g.outputs[0]], run(c, data)[c.outputs[0]], rtol=1e-5, atol=1e-5
    )


def test_identities_and_pairs_go_but_outputs_stay() -> None:
    rng = np.random.default_rng(5)
    net = Net(rng, (1, 4, 6, 3))
    x = net.op("TRANSPOSE", ["x"], perm=(0, 3, 1, 2))
    x = net.op("TRANSPOSE", [x], perm=(0, 2, 3, 1))
    x = net.op("RESHAPE", [x], new_shape=(1, 4, 6, 3))
    x = net.op("RELU", [x])
    y = net.op("RESHAPE", [x], new_shape=(1, 4, 6, 3))
    g = net.finish(y)
    c = clean(g)
    assert [n.type for n in c.nodes] == ["RELU"]
    assert c.outputs == g.outputs
    data = random_inputs(g, rng, 2)
    np.testing.assert_array_equal(run(g, data)[y], run(c, data)[y])


@pytest.mark.parametrize("model", ["ic_resnet_large_int8", "mobilenet_v2_1.0_224_int8"])
def test_real_models_lose_channels_and_no_byte(shared: Path, model: str) -> None:
    g = formats.load(shared / "zoo" / f"{model}.tflite")
    s = simplify(g)
    assert s.macs < s.macs_before
    assert_same_bytes(g, s.graph, np.random.default_rng(0), 2)
