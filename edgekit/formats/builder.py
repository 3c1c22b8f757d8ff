"""Building a graph node by node: what every importer that emits operators one after another shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.errors import FormatError
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor, unique
from edgekit.graph.ops import infer_shapes

#: A name like ``x~~nhwc`` is an intermediate of ``x`` that takes the plain name when it is free.
HIDDEN = "~~"


@dataclass
class Builder:
    """A graph under construction: shapes are inferred, names made unique, constants checked."""

    graph: Graph
    node_names: set[str] = field(default_factory=set, kw_only=True)

    def const(self, name: str, data: np.ndarray, quant: QuantParams | None = None) -> str:
        """Add a constant (floats as float32); FormatError when it is not finite."""
        data = np.asarray(data)
        if data.dtype.kind == "f":
            if not np.all(np.isfinite(data)):
                raise FormatError(f"constant '{name}' holds NaN or infinity")
            data = np.ascontiguousarray(data, np.float32).reshape(data.shape)
            if not np.all(np.isfinite(data)):
                raise FormatError(f"constant '{name}' does not fit into float32")
        return self.graph.add_const(name, data, quant).name

    def scalar(self, value: float, like: str) -> str:
        """A float32 constant of shape [1]."""
        return self.const(f"{like}{HIDDEN}const", np.asarray([value], np.float32))

    def emit(
        self,
        type: str,
        inputs: Sequence[str | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        out: str,
        dtype: str | None = None,
        quant: QuantParams | None = None,
        name: str | None = None,
    ) -> str:
        """Emit a node with one output; shape by inference, dtype and quantization like input 0."""
        return self.emit_many(type, inputs, attrs, outs=[out], dtype=dtype, quant=quant, name=name)[
            0
        ]

    def emit_many(
        self,
        type: str,
        inputs: Sequence[str | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        outs: Sequence[str],
        dtype: str | None = None,
        quant: QuantParams | None = None,
        name: str | None = None,
    ) -> list[str]:
        g = self.graph
        node_name = unique(name or outs[0].split(HIDDEN)[0] or type.lower(), self.node_names)
        self.node_names.add(node_name)
        draft = Node(node_name, type, tuple(inputs), tuple(outs), attrs or {})
        shapes = infer_shapes(draft, g.ins(draft))
        first = g.tensor(inputs[0])
        if dtype is None:
            dtype = "float32" if type == "DEQUANTIZE" else first.dtype
        if quant is None and type not in ("QUANTIZE", "DEQUANTIZE") and dtype == first.dtype:
            quant = first.quant
        names = [
            g.add_tensor(Tensor(o, shape, dtype, quant)).name
            for o, shape in zip(outs, shapes, strict=True)
        ]
        g.nodes.append(draft.with_(outputs=tuple(names)))
        return names

    def transpose(self, x: str, perm: Sequence[int], out: str) -> str:
        return self.emit("TRANSPOSE", [x], {"perm": tuple(int(p) for p in perm)}, out=out)

    def reshape(self, x: str, shape: Sequence[int], out: str) -> str:
        return self.emit("RESHAPE", [x], {"new_shape": tuple(int(s) for s in shape)}, out=out)
