"""Every layer of real models by its portable kernels; and the harness notices what it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kernel_host
import numpy as np
import pytest
from kernel_host import Case

from edgekit.formats import load
from edgekit.graph import reference
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit_targets.mcu import variants

TARGET = kernel_host.plain_core()


def layers(path: Path, samples: int) -> list[Case]:
    """A case for every node and portable variant, fed with what it meets inside the model."""
    graph = load(path)
    rng = np.random.default_rng(0)
    inputs = []
    for name in graph.inputs:
        t = graph.tensor(name)
        limits = np.iinfo(t.dtype)
        shape = (samples, *t.shape[1:])
        inputs.append(rng.integers(limits.min, limits.max + 1, shape).astype(t.dtype))
    values = reference.run(graph, inputs, keep="all")
    cases = []
    for node in graph.nodes:
        fed = tuple(dict.fromkeys(i for i in node.inputs if i and not graph.tensor(i).is_const))
        names = (*(i for i in node.inputs if i), *node.outputs)
        one = Graph(node.name, {n: graph.tensor(n) for n in names}, [node], fed, node.outputs)
        found = variants.candidates(node, one, TARGET)
        assert found, f"{node}: {variants.reject_reason(node, one, TARGET)}"
        cases += [Case(one, [values[i] for i in fed], v.lower(node, one, TARGET)) for v in found]
    return cases


@pytest.mark.parametrize(
    "name",
    [
        "ic_resnet8_int8",
        "kws_dscnn_int8",
        "ad_fcae_int8",
        pytest.param("ic_resnet_large_int8", marks=pytest.mark.slow),
        pytest.param("mobilenet_v2_1.0_224_int8", marks=pytest.mark.slow),
    ],
)
def test_layers_of_a_model(name: str, shared: Path, tmp_path: Path) -> None:
    cases = layers(shared / "zoo" / f"{name}.tflite", 2)
    kernel_host.check(cases, tmp_path, sanitize=not name.startswith("mobilenet"))


# -- the harness itself ----------------------------------------------------------------------------


def relu() -> Case:
    q = QuantParams.per_tensor(0.1, -10)
    x, y = Tensor("x", (1, 32), "int8", q), Tensor("y", (1, 32), "int8", q)
    graph = Graph("t", {"x": x, "y": y}, [], ("x",), ("y",))
    graph.add_node("RELU", ["x"], ["y"], {}, "op")
    case = Case(graph.validate(), [np.arange(-16, 16, dtype=np.int8).reshape(1, 32)])
    case.lowered()
    return case


def with_call(old: str, new: str, **changes: object) -> Case:
    case = relu()
    assert case.call is not None and old in case.call.call
    case.call = replace(case.call, call=case.call.call.replace(old, new), **changes)
    return case


@pytest.mark.parametrize("sanitize", [True, False], ids=["sanitized", "guarded"])
def test_harness_accepts_the_kernel_as_it_is(sanitize: bool, tmp_path: Path) -> None:
    kernel_host.check([relu()], tmp_path, sanitize=sanitize)


@pytest.mark.parametrize("sanitize", [True, False], ids=["sanitized", "guarded"])
def test_harness_notices_one_byte_too_many(sanitize: bool, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="overflow" if sanitize else "wrote beyond a"):
        kernel_host.check([with_call(", 32)", ", 33)")], tmp_path, sanitize=sanitize)


def test_harness_notices_a_wrong_byte(tmp_path: Path) -> None:
    case = relu()
    assert case.call is not None
    table = case.call.consts[0].data.copy()
    table[128] += 1
    case.call = replace(case.call, consts=(replace(case.call.consts[0], data=table),))
    with pytest.raises(AssertionError, match="1 of 32 values differ"):
        kernel_host.check([case], tmp_path)


def test_harness_notices_what_is_wrong_in_place_only(tmp_path: Path) -> None:
    case = with_call(
        "ek_lut_s8_ref(", "memset({out0}, 0, 1); ek_lut_s8_ref("
    )  # clears an input that is the output
    with pytest.raises(AssertionError, match="in place"):
        kernel_host.check([case], tmp_path)


def test_harness_notices_a_wrong_scratch_size(tmp_path: Path, shared: Path) -> None:
    case = next(
        c
        for c in layers(shared / "zoo" / "kws_dscnn_int8.tflite", 1)
        if c.lowered().variant == "conv2d_s8_im2col_ref" and c.lowered().scratch_bytes
    )
    case.call = replace(case.lowered(), scratch_bytes=case.lowered().scratch_bytes + 4)
    with pytest.raises(AssertionError, match="scratch size"):
        kernel_host.check([case], tmp_path)
