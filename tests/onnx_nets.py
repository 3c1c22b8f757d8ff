"""Small ONNX models made by hand, and how edgekit's reading of them is compared with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.formats.onnx_read import from_model
from edgekit.graph.ir import Graph
from edgekit.graph.reference import run


class Net:
    """A model under construction: ``net.op("Conv", x, w, strides=[2, 2])`` returns a name."""

    def __init__(self, opset: int = 21, seed: int = 0) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.inputs: list[Any] = []
        self.nodes: list[Any] = []
        self.inits: list[Any] = []

    def input(self, name: str, *shape: int | str, dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def const(self, value: Any, dtype: Any = np.float32, name: str | None = None) -> str:
        name = name or f"c{len(self.inits)}"
        self.inits.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, *shape: int, name: str | None = None) -> str:
        return self.const(self.rng.normal(size=shape) / 3, name=name)

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def op(self, type: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        outs = [f"{type}_{len(self.nodes)}_{k}" for k in range(outputs)]
        name = f"{type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(type, inputs, outs, name, **attrs))
        return outs[0] if outputs == 1 else outs

    def model(self, *outputs: str) -> onnx.ModelProto:
        outs = [onnx.ValueInfoProto(name=o) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, outs, self.inits)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 10
        inferred = onnx.shape_inference.infer_shapes(model)
        for o in inferred.graph.output:
            if not o.type.tensor_type.elem_type:
                o.type.tensor_type.elem_type = TensorProto.FLOAT
        return inferred


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def session(model: onnx.ModelProto, *, optimized: bool = False) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return session(model).run(None, feeds)


def reference(graph: Graph, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """edgekit's outputs for ONNX inputs, in ONNX's layout and in real units."""
    given = {}
    for name in graph.inputs:
        t, x = graph.tensor(name), feeds[name]
        if f"input_layout:{name}" in graph.metadata:
            x = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        if t.quant is not None and x.dtype.kind == "f":
            info = np.iinfo(t.dtype)
            x = np.round(x / np.float32(t.quant.s)) + t.quant.zp
            x = np.clip(x, info.min, info.max).astype(t.dtype)
        given[name] = x
    out = run(graph, given)
    results = []
    for name in graph.outputs:
        t, y = graph.tensor(name), out[name]
        if t.quant is not None:
            y = ((y.astype(np.float64) - t.quant.zp) * t.quant.s).astype(np.float32)
        if f"output_layout:{name}" in graph.metadata:
            y = nchw(y)
        results.append(y)
    return results


def agree(model: onnx.ModelProto, tolerance: float = 1e-5, seed: int = 1) -> Graph:
    """Read ``model``, run both, compare; returns the graph."""
    graph = from_model(model)
    feeds = random_feeds(model, seed)
    for got, want in zip(reference(graph, feeds), onnxruntime(model, feeds), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return graph


def random_feeds(model: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for i in model.graph.input:
        shape = [d.dim_value or 1 for d in i.type.tensor_type.shape.dim]
        feeds[i.name] = rng.normal(size=shape).astype(np.float32)
    return feeds


def count(graph: Graph, *types: str) -> int:
    return sum(n.type in types for n in graph.nodes)


def types(graph: Graph) -> Sequence[str]:
    return [n.type for n in graph.nodes]
