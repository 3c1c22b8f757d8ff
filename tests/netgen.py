"""Random small networks for tests: float graphs with dead channels planted, and their int8 forms."""

from __future__ import annotations

import numpy as np

from edgekit.compress import QuantizeOptions, quantize
from edgekit.graph import Graph, Tensor
from edgekit.graph.ops import infer_shapes


class Net:
    """Builds a float graph node by node; every method returns the output tensor's name."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...], name: str = "net") -> None:
        self.rng = rng
        self.g = Graph(name, {}, [], ("x",), ())
        self.g.tensors["x"] = Tensor("x", shape, "float32")

    def op(self, kind: str, inputs: list[str | None], **attrs: object) -> str:
        node = self.g.add_node(kind, inputs, ["pending"], attrs)
        (shape,) = infer_shapes(node, self.g.ins(node))
        out = self.g.add_tensor(Tensor(node.name + "_out", shape, "float32"))
        self.g.nodes[-1] = node.with_(outputs=(out.name,))
        return out.name

    def const(self, name: str, data: np.ndarray) -> str:
        return self.g.add_const(name, data.astype(np.float32)).name

    def channels(self, name: str) -> int:
        return self.g.tensor(name).shape[-1]

    def _weights(self, shape: tuple[int, ...], out_axis: int, dead: float) -> tuple[str, str]:
        """Weights and bias; a share ``dead`` of the output channels has zero weights (and a bias
        that is 0 or not), and some input columns are zero."""
        rng = self.rng
        fan = max(1, int(np.prod(shape)) // shape[out_axis])
        w = rng.normal(0, 1.0 / np.sqrt(fan), shape)
        b = rng.normal(0, 0.4, shape[out_axis])
        gone = rng.random(shape[out_axis]) < dead
        w = np.where(gone.reshape([-1 if i == out_axis else 1 for i in range(w.ndim)]), 0.0, w)
        b = np.where(gone & (rng.random(len(b)) < 0.4), 0.0, b)
        if out_axis == 0 and rng.random() < 0.5:
            w[..., rng.random(shape[-1]) < dead / 2] = 0.0
        return self.const("w", w), self.const("b", b)

    def conv(self, x: str, out: int, k: int = 3, stride: int = 1, dead: float = 0.0,
             activation: str = "RELU", padding: object = "SAME") -> str:  # fmt: skip
        w, b = self._weights((out, k, k, self.channels(x)), 0, dead)
        return self.op("CONV_2D", [x, w, b], stride=(stride, stride), dilation=(1, 1),
                       padding=padding, activation=activation)  # fmt: skip

    def depthwise(self, x: str, k: int = 3, dead: float = 0.0, activation: str = "RELU") -> str:
        w, b = self._weights((1, k, k, self.channels(x)), 3, dead)
        return self.op("DEPTHWISE_CONV_2D", [x, w, b], stride=(1, 1), dilation=(1, 1),
                       padding="SAME", activation=activation)  # fmt: skip

    def dense(self, x: str, out: int, dead: float = 0.0, activation: str = "NONE") -> str:
        n = self.g.tensor(x).elements
        w, b = self._weights((out, n), 0, dead)
        return self.op("FULLY_CONNECTED", [x, w, b], activation=activation, keep_num_dims=False)

    def finish(self, *outputs: str) -> Graph:
        self.g.outputs = tuple(outputs)
        self.g.prune()
        return self.g.validate()


def dead_network(rng: np.random.Generator, dead: float) -> Graph:
    """A float network with residuals, depthwise, concatenation, pooling, padding and a share
    ``dead`` of its channels dead."""
    net = Net(rng, (1, int(rng.integers(6, 11)), int(rng.integers(6, 11)), int(rng.integers(1, 5))))
    c = int(rng.integers(6, 17))
    x = net.conv("x", c, dead=dead, activation=str(rng.choice(["RELU", "RELU6", "NONE"])))
    if rng.random() < 0.7:
        y = net.conv(x, c, dead=dead, activation="NONE")
        x = net.op("ADD", [x, y], activation="RELU")
    if rng.random() < 0.7:
        x = net.depthwise(x, dead=dead)
        x = net.conv(x, int(rng.integers(5, 13)), k=1, dead=dead)
    if rng.random() < 0.5:
        a = net.conv(x, int(rng.integers(2, 7)), k=1, dead=dead)
        b = net.conv(x, int(rng.integers(2, 7)), k=3, dead=dead, activation="RELU6")
        x = net.op("CONCATENATION", [a, b], axis=3, activation="NONE")
    if rng.random() < 0.4:
        x = net.op("PAD", [x], paddings=((0, 0), (1, 0), (0, 1), (0, 0)), value=0.0)
    kind = str(rng.choice(["MAX_POOL_2D", "AVERAGE_POOL_2D"]))
    x = net.op(kind, [x], filter=(2, 2), stride=(2, 2), padding="SAME", activation="NONE")
    if rng.random() < 0.3:
        x = net.op("HARD_SWISH", [x])
    x = net.conv(x, int(rng.integers(4, 9)), stride=int(rng.integers(1, 3)), dead=dead,
                 padding="SAME" if rng.random() < 0.5 else (1, 0, 0, 1))  # fmt: skip
    head = rng.random()
    if head < 0.4:
        x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
    elif head < 0.8:
        x = net.op("RESHAPE", [x], new_shape=(1, net.g.tensor(x).elements))
    x = net.dense(x, int(rng.integers(6, 12)), dead=dead, activation="RELU")
    x = net.dense(x, 5)
    return net.finish(net.op("SOFTMAX", [x], beta=1.0))


def quantized(graph: Graph, rng: np.random.Generator, samples: int = 8) -> Graph:
    """int8 form, calibrated on random data."""
    xs = [
        rng.normal(0, 1, (samples, *graph.tensor(i).shape[1:])).astype(np.float32)
        for i in graph.inputs
    ]
    return quantize(graph, xs, QuantizeOptions(observer="minmax", bias_correction=False))


def random_inputs(graph: Graph, rng: np.random.Generator, samples: int) -> list[np.ndarray]:
    """Random inputs of the graph's own dtypes, extremes included."""
    out = []
    for i in graph.inputs:
        t = graph.tensor(i)
        shape = (samples, *t.shape[1:])
        if t.is_float:
            out.append(rng.normal(0, 1, shape).astype(t.dtype))
            continue
        info = np.iinfo(t.dtype)
        a = rng.integers(info.min, info.max + 1, shape).astype(t.dtype)
        a[0] = info.min
        a[-1] = info.max
        out.append(a)
    return out
