"""Float networks node by node, with random weights: what calibration and its benchmarks measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.graph import Graph, Tensor
from edgekit.graph.ops import infer_shapes


class Builder:
    """Every method adds a node and returns the name of its output. Weights are drawn from ``rng``
    (He's initialization), so that activations keep their size through the network."""

    def __init__(self, rng: np.random.Generator, name: str) -> None:
        self.rng = rng
        self.graph = Graph(name, {}, [], (), ())

    def input(self, *shape: int) -> str:
        """A graph input of shape ``(1, *shape)``."""
        t = self.graph.add_tensor(Tensor("x", (1, *shape), "float32"))
        self.graph.inputs = (*self.graph.inputs, t.name)
        return t.name

    def shape(self, name: str) -> tuple[int, ...]:
        return self.graph.tensor(name).shape

    def op(self, kind: str, inputs: Sequence[str | None], **attrs: object) -> str:
        node = self.graph.add_node(kind, inputs, ["pending"], attrs)
        (shape,) = infer_shapes(node, self.graph.ins(node))
        out = self.graph.add_tensor(Tensor(f"{node.name}_out", shape, "float32"))
        self.graph.nodes[-1] = node.with_(outputs=(out.name,))
        return out.name

    def _weights(self, shape: tuple[int, ...], fan_in: int, outputs: int) -> tuple[str, str]:
        w = self.rng.normal(0, np.sqrt(2.0 / max(1, fan_in)), shape).astype(np.float32)
        b = self.rng.normal(0, 0.05, outputs).astype(np.float32)
        return self.graph.add_const("w", w).name, self.graph.add_const("b", b).name

    def conv(
        self,
        x: str,
        out: int,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        activation: str = "RELU",
        padding: object = "SAME",
    ) -> str:
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        strides = (stride, stride) if isinstance(stride, int) else stride
        c = self.shape(x)[3]
        w, b = self._weights((out, kh, kw, c), kh * kw * c, out)
        return self.op(
            "CONV_2D", [x, w, b], stride=strides, dilation=(1, 1), padding=padding,
            activation=activation,
        )  # fmt: skip

    def depthwise(
        self,
        x: str,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        activation: str = "RELU",
        padding: object = "SAME",
    ) -> str:
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        strides = (stride, stride) if isinstance(stride, int) else stride
        c = self.shape(x)[3]
        w, b = self._weights((1, kh, kw, c), kh * kw, c)
        return self.op(
            "DEPTHWISE_CONV_2D", [x, w, b], stride=strides, dilation=(1, 1), padding=padding,
            activation=activation,
        )  # fmt: skip

    def dense(self, x: str, out: int, activation: str = "NONE") -> str:
        n = self.graph.tensor(x).elements
        w, b = self._weights((out, n), n, out)
        return self.op("FULLY_CONNECTED", [x, w, b], activation=activation, keep_num_dims=False)

    def add(self, x: str, y: str, activation: str = "RELU") -> str:
        return self.op("ADD", [x, y], activation=activation)

    def pool(self, x: str, kind: str, size: int, stride: int, padding: str = "VALID") -> str:
        return self.op(
            f"{kind}_POOL_2D", [x], filter=(size, size), stride=(stride, stride), padding=padding,
            activation="NONE",
        )  # fmt: skip

    def mean(self, x: str, keep_dims: bool = False) -> str:
        return self.op("MEAN", [x], axes=(1, 2), keep_dims=keep_dims)

    def flatten(self, x: str) -> str:
        return self.op("RESHAPE", [x], new_shape=(1, self.graph.tensor(x).elements))

    def softmax(self, x: str) -> str:
        return self.op("SOFTMAX", [x], beta=1.0)

    def concat(self, *xs: str) -> str:
        return self.op("CONCATENATION", list(xs), axis=3, activation="NONE")

    def finish(self, *outputs: str) -> Graph:
        self.graph.outputs = outputs
        self.graph.prune()
        return self.graph.validate()
