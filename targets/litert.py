"""Engine ``litert``: .tflite files for LiteRT (or tflite-runtime) with XNNPACK.

``litert`` takes a model as it is (float32 or integer), ``litert-fp16`` stores float weights as
float16, ``litert-int8`` quantizes a float model first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np

from edgekit.devices.base import Device
from edgekit.formats import tflite
from edgekit.graph.ir import Graph, Node, Tensor, unique
from edgekit.targets.schema import Target
from edgekit.tolerance import precision_of
from edgekit_targets.interpreted import InterpretedEngine


class LiteRt(InterpretedEngine):
    package = "ai-edge-litert"
    module = "ai_edge_litert"

    def __init__(
        self, weights: str = "", *, admit: Callable[[Target, Device], None] | None = None
    ) -> None:
        """weights: ``""`` (as the model has them), ``fp16`` or ``int8``."""
        super().__init__(int8=weights == "int8", admit=admit)
        self.name = f"litert-{weights}" if weights else "litert"
        self._half = weights == "fp16"
        self.what = {
            "": "LiteRT with XNNPACK, the model's own types",
            "fp16": "LiteRT with XNNPACK, float16 weights",
            "int8": "LiteRT with XNNPACK, float models quantized to int8",
        }[weights]

    def model_file(self) -> str:
        return "model.tflite"

    def refuses(self, graph: Graph) -> str | None:
        if self._half and precision_of(graph) != "float32":
            return "the model is quantized; float16 weights are for float models"
        return None

    def why_missing(self) -> str | None:
        if importlib.util.find_spec(self.module) is None:
            return f"the Python package {self.package} is missing: pip install {self.package}"
        return None

    def model_bytes(self, graph: Graph) -> bytes:
        return tflite.write_bytes(with_half_weights(graph) if self._half else graph)

    def precision(self, graph: Graph) -> str:
        return "float16" if self._half else precision_of(graph)


def with_half_weights(graph: Graph) -> Graph:
    """Float32 constants of two or more dimensions become float16 behind a DEQUANTIZE, the form in
    which TFLite stores half-precision weights; values beyond float16's range stay float32."""
    g = graph.copy()
    nodes: list[Node] = []
    names = {n.name for n in g.nodes}
    for t in list(g.tensors.values()):
        if t.data is None or t.dtype != "float32" or len(t.shape) < 2 or t.name in g.outputs:
            continue
        with np.errstate(over="ignore"):
            half = t.data.astype(np.float16)
        if not np.all(np.isfinite(half)):
            continue
        stored = unique(f"{t.name}_fp16", set(g.tensors))
        g.tensors[stored] = Tensor(stored, t.shape, "float16", data=half)
        g.tensors[t.name] = t.with_(data=None)
        name = unique(f"{t.name}_dequantize", names)
        names.add(name)
        nodes.append(Node(name, "DEQUANTIZE", (stored,), (t.name,), {}))
    g.nodes[:0] = nodes
    return g
