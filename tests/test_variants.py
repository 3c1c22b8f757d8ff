"""Lowerings: constants that the byte-for-byte tests would notice only once in many thousand values."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.graph import Graph, QuantParams, Tensor
from edgekit.graph.numerics import conv_multipliers
from edgekit.targets.registry import get_target
from edgekit_targets.mcu.variants import candidates


def dense(rng: np.random.Generator) -> Graph:
    s_in, s_out = (np.float32(v) for v in rng.uniform(1e-3, 0.5, 2))
    w_quant = QuantParams.per_tensor(float(np.float32(rng.uniform(1e-4, 0.05))), 0)
    g = Graph("dense", {}, [], ("x",), ("y",))
    g.tensors["x"] = Tensor("x", (1, 8), "int8", QuantParams.per_tensor(float(s_in), 3))
    g.tensors["y"] = Tensor("y", (1, 4), "int8", QuantParams.per_tensor(float(s_out), -5))
    g.add_const("w", rng.integers(-127, 128, (4, 8)).astype(np.int8), w_quant)
    bias = QuantParams.per_tensor(float(s_in * w_quant.scale[0]), 0)
    g.add_const("b", rng.integers(-99, 99, 4).astype(np.int32), bias)
    g.add_node(
        "FULLY_CONNECTED", ["x", "w", "b"], ["y"], {"activation": "NONE", "keep_num_dims": False}
    )
    return g.validate()


@pytest.mark.parametrize("seed", range(40))
def test_dense_layers_multiply_their_scales_in_double(seed: int) -> None:
    """TFLM takes ``s_in * s_w`` in double here. In float32 it is off by one in 2**24, which changes
    about one output byte in 60,000."""
    g = dense(np.random.default_rng(seed))
    node = g.nodes[0]
    x, w, y = (g.tensor(t).quant for t in ("x", "w", "y"))
    assert x is not None and w is not None and y is not None
    mult, shift = conv_multipliers(x.s, w.scale, y.s, 4)
    target = get_target("cortex-m3")
    checked = 0
    for variant in candidates(node, g, target):
        consts = {c.name: c.data for c in variant.lower(node, g, target).consts}
        np.testing.assert_array_equal(consts["mult"], mult)
        np.testing.assert_array_equal(consts["shift"], shift)
        checked += 1
    assert checked >= 1
