"""int4 weights: packed in files and in flash, exact bytes, refused by name where there is no kernel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netgen import Net, dead_network, random_inputs

from edgekit.compress import QuantizeOptions, quantize
from edgekit.compress.int4 import pack_int4, unpack_int4
from edgekit.errors import GraphError
from edgekit.formats import ekg, tflite
from edgekit.graph.int4 import pack, unpack
from edgekit.graph.ir import Graph, Tensor
from edgekit.graph.reference import run


def four_bits(rng: np.random.Generator, g: Graph) -> Graph:
    """The int8 form with random weights in -8..7."""
    q = quantize(g, random_inputs(g, rng, 6), QuantizeOptions("minmax", bias_correction=False))
    for n in q.nodes:
        if n.type in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            w = q.tensor(n.inputs[1])
            data = rng.integers(-8, 8, w.shape).astype(np.int8)
            q.tensors[w.name] = w.with_(data=data)
    return q


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-8, 7), min_size=1, max_size=41))
def test_packing_is_reversible_and_two_to_a_byte(values: list[int]) -> None:
    a = np.array(values, np.int8)
    packed = pack(a)
    assert packed.dtype == np.uint8 and len(packed) == (len(a) + 1) // 2
    assert packed[0] & 0xF == values[0] & 0xF  # the first value in the low half
    np.testing.assert_array_equal(unpack(packed, a.shape), a)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_the_bytes_stay_and_files_keep_them_packed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q = four_bits(rng, dead_network(rng, 0.0))
    g = pack_int4(q)
    weights = [t for t in g.tensors.values() if t.dtype == "int4"]
    assert weights and all(t.nbytes == (t.elements + 1) // 2 for t in weights)
    x = random_inputs(q, rng, 3)
    want = run(q, x)[q.outputs[0]]
    for other in (g, unpack_int4(g), ekg.read_bytes(ekg.write_bytes(g)),
                  tflite.read_bytes(tflite.write_bytes(g), "g")):  # fmt: skip
        np.testing.assert_array_equal(run(other, x)[other.outputs[0]], want)
    again = tflite.read_bytes(tflite.write_bytes(g), "g")
    assert sum(t.dtype == "int4" for t in again.tensors.values()) == len(weights)


def test_the_oracle_unpacks_them_alike() -> None:
    from oracle import graph_to_tflm

    rng = np.random.default_rng(4)
    net = Net(rng, (1, 8, 8, 3))
    x = net.depthwise(net.conv("x", 7))
    g = pack_int4(four_bits(rng, net.finish(net.dense(net.conv(x, 5, k=1), 4))))
    inputs = random_inputs(g, rng, 4)
    np.testing.assert_array_equal(run(g, inputs)[g.outputs[0]], graph_to_tflm(g, inputs)[0])


def test_values_beyond_four_bits_are_refused() -> None:
    with pytest.raises(GraphError, match=r"beyond -8\.\.7"):
        Tensor("w", (1,), "int4", None, np.array([9], np.int8))


def test_backends_name_what_they_cannot_take() -> None:
    from edgekit.targets import registry

    rng = np.random.default_rng(1)
    net = Net(rng, (1, 6, 6, 3))
    g = pack_int4(four_bits(rng, net.finish(net.conv("x", 4))))
    target = registry.get_target("cortex-a53")
    backend = registry.get_backend(target.family)
    missing = backend.supports(g, target, "tvm")
    assert missing and "int4" in str(missing[0])
    assert not backend.supports(g, target, "c")


@pytest.mark.slow
def test_from_a_recipe_to_the_board(tmp_path: Path) -> None:
    """compress to int4, deploy, verify: no byte differs, and the weights take half the flash."""
    from edgekit import api
    from edgekit.targets.base import CompileOptions

    models = Path(__file__).resolve().parent.parent / "models"
    steps = [{"step": "adaround", "bits": 4, "first_and_last": 4, "iterations": 30, "samples": 50}]
    steps = [*steps, {"step": "pack-int4"}]
    recipe, model = tmp_path / "r.json", tmp_path / "four.tflite"
    recipe.write_text(json.dumps({"version": 1, "steps": steps}))
    data = f"{models / 'digits.npz'}:calibration_x"
    api.compress(models / "digits.tflite", recipe, model, data=data)
    small = CompileOptions(optimize="size")
    document = api.deploy(model, "cortex-m4", data, tmp_path / "four", samples=40, options=small)
    assert document["verify"]["mismatched_bytes"] == 0
    made = api.open_artifact(tmp_path / "four").manifest
    kernels = {row["variant"] for row in made["plan"]}
    assert any("unpacked" in k or "4_" in k for k in kernels), kernels
    plain = api.compile(models / "digits.tflite", "cortex-m4", tmp_path / "eight", data=data,
                        options=small)  # fmt: skip
    sizes = [m["memory"]["weights_bytes"] for m in (made, plain.manifest)]
    assert sizes[0] < 0.75 * sizes[1], sizes  # biases and multipliers stay
