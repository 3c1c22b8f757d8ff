"""Random int8 networks from the operator set: what benchmarks and checks are run on besides known models.

    from random_networks import network, mobilenet_v1, mobilenet_v2
    graph = network(seed)          # the same seed, the same network

Each is a small CNN of a random family (plain, residual, depthwise separable, inverted residual, branches,
dense, one-dimensional as of audio), its shapes odd as often as round, quantized on random data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.compress import QuantizeOptions, quantize
from edgekit.graph import Graph, Tensor
from edgekit.graph.ops import infer_shapes

FAMILIES = ("plain", "residual", "separable", "inverted", "branches", "dense", "audio")
#: Most bytes of one activation: what a microcontroller may hold.
MOST_BYTES = 40_000


class _Net:
    """A float graph in the making; methods return the name of the tensor they made."""

    def __init__(self, rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
        self.rng = rng
        self.graph = Graph(name, {}, [], ("x",), ())
        self.graph.tensors["x"] = Tensor("x", shape, "float32")

    def shape(self, x: str) -> tuple[int, ...]:
        return self.graph.tensor(x).shape

    def op(self, kind: str, inputs: Sequence[str], **attrs: object) -> str:
        node = self.graph.add_node(kind, list(inputs), ["pending"], attrs)
        shape = infer_shapes(node, self.graph.ins(node))[0]
        out = self.graph.add_tensor(Tensor(f"{node.name}_out", shape, "float32"))
        self.graph.nodes[-1] = node.with_(outputs=(out.name,))
        return out.name

    def const(self, data: np.ndarray) -> str:
        return self.graph.add_const("c", data.astype(np.float32)).name

    def pick(self, *options: object) -> object:
        return options[int(self.rng.integers(len(options)))]

    def activation(self) -> str:
        return str(self.pick("RELU", "RELU", "RELU6", "NONE"))

    def channels(self, most: int = 48) -> int:
        """Round numbers and any others alike."""
        c = int(self.rng.integers(3, most + 1))
        return c if self.rng.random() < 0.4 else max(4, c // 8 * 8)

    def _filter(self, x: str, size: tuple[int, int]) -> tuple[int, int]:
        h, w = self.shape(x)[1:3]
        return min(size[0], h), min(size[1], w)

    def conv(
        self,
        x: str,
        out: int,
        size: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        activation: str | None = None,
        padding: object = "SAME",
        dilation: tuple[int, int] = (1, 1),
    ) -> str:
        kh, kw = self._filter(x, size)
        c = self.shape(x)[3]
        w = self.rng.normal(0, 1 / np.sqrt(kh * kw * c), (out, kh, kw, c))
        inputs = [x, self.const(w), self.const(self.rng.normal(0, 0.2, out))]
        return self.op(
            "CONV_2D", inputs, stride=stride, dilation=dilation, padding=padding,
            activation=self.activation() if activation is None else activation,
        )  # fmt: skip

    def depthwise(
        self,
        x: str,
        size: tuple[int, int] = (3, 3),
        stride: tuple[int, int] = (1, 1),
        times: int = 1,
    ) -> str:
        kh, kw = self._filter(x, size)
        c = self.shape(x)[3] * times
        w = self.rng.normal(0, 1 / np.sqrt(kh * kw), (1, kh, kw, c))
        inputs = [x, self.const(w), self.const(self.rng.normal(0, 0.2, c))]
        return self.op(
            "DEPTHWISE_CONV_2D", inputs, stride=stride, dilation=(1, 1), padding="SAME",
            activation=self.activation(),
        )  # fmt: skip

    def dense(self, x: str, out: int, activation: str = "NONE") -> str:
        n = int(np.prod(self.shape(x)))
        w = self.rng.normal(0, 1 / np.sqrt(n), (out, n))
        inputs = [x, self.const(w), self.const(self.rng.normal(0, 0.2, out))]
        return self.op("FULLY_CONNECTED", inputs, activation=activation, keep_num_dims=False)

    def pool(self, x: str) -> str:
        h, w = self.shape(x)[1:3]
        size = (min(h, int(self.rng.integers(2, 4))), min(w, int(self.rng.integers(2, 4))))
        return self.op(
            str(self.pick("MAX_POOL_2D", "AVERAGE_POOL_2D")), [x], filter=size,
            stride=(min(2, h), min(2, w)), padding=self.pick("SAME", "VALID"), activation="NONE",
        )  # fmt: skip

    def stride(self, x: str) -> tuple[int, int]:
        h, w = self.shape(x)[1:3]
        return (min(2, h), min(2, w)) if h * w > 36 and self.rng.random() < 0.45 else (1, 1)

    def wide(self, x: str, out: int) -> int:
        """``out`` channels, fewer where their activation would be too large."""
        h, w = self.shape(x)[1:3]
        return max(4, min(out, MOST_BYTES // max(1, h * w)))


def _block(net: _Net, family: str, x: str) -> str:
    rng, c = net.rng, net.shape(x)[3]
    if family == "audio":
        family = str(net.pick("separable", "plain"))
    if family == "residual":
        y = net.conv(x, c)
        return net.op("ADD", [x, net.conv(y, c, activation="NONE")], activation="RELU")
    if family == "separable":
        size = net.pick((3, 3), (3, 3), (5, 5), (3, 1), (2, 4))
        y = net.depthwise(x, size, net.stride(x))  # type: ignore[arg-type]
        return net.conv(y, net.wide(y, net.channels()), (1, 1))
    if family == "inverted":
        y = net.conv(x, net.wide(x, c * int(rng.integers(2, 5))), (1, 1), activation="RELU6")
        stride = net.stride(y)
        y = net.depthwise(y, (3, 3), stride)
        y = net.conv(y, c, (1, 1), activation="NONE")
        return net.op("ADD", [x, y], activation="NONE") if stride == (1, 1) else y
    if family == "branches":
        parts = [
            net.conv(x, net.wide(x, net.channels(16)), net.pick((1, 1), (3, 3), (1, 5)))  # type: ignore[arg-type]
            for _ in range(int(rng.integers(2, 4)))
        ]
        return net.op("CONCATENATION", parts, axis=3, activation="NONE")
    size = net.pick((3, 3), (3, 3), (1, 1), (5, 5), (3, 2), (2, 2))
    dilation = (2, 2) if rng.random() < 0.06 and min(net.shape(x)[1:3]) > 6 else (1, 1)
    stride = (1, 1) if dilation != (1, 1) else net.stride(x)
    padding = net.pick("SAME", "SAME", "VALID") if dilation == (1, 1) else "SAME"
    return net.conv(x, net.wide(x, net.channels()), size, stride, None, padding, dilation)  # type: ignore[arg-type]


def _extra(net: _Net, x: str) -> str:
    """Now and then something other than a convolution."""
    rng = net.rng
    dice = rng.random()
    h, w, c = net.shape(x)[1:]
    if dice < 0.10 and min(h, w) >= 4:
        return net.pool(x)
    if dice < 0.18:
        kind = str(net.pick("HARD_SWISH", "LOGISTIC", "TANH", "LEAKY_RELU", "GELU"))
        attrs: dict[str, dict[str, object]] = {
            "LEAKY_RELU": {"alpha": 0.1},
            "GELU": {"approximate": False},
        }
        return net.op(kind, [x], **attrs.get(kind, {}))
    if dice < 0.24:
        y = net.op("MEAN", [x], axes=(1, 2), keep_dims=True)
        y = net.op("LOGISTIC", [net.conv(y, c, (1, 1), activation="NONE")])
        return net.op("MUL", [x, y], activation="NONE")
    if dice < 0.28 and min(h, w) >= 3:
        return net.op("PAD", [x], paddings=((0, 0), (1, 0), (0, 1), (0, 0)), value=0.0)
    if dice < 0.31 and h * w * c * 4 <= MOST_BYTES // 2:
        kind = str(net.pick("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"))
        size = (2 * h, 2 * w)
        return net.op(kind, [x], size=size, align_corners=False, half_pixel_centers=False)
    if dice < 0.34:
        pair = [x, net.conv(x, c, (1, 1), activation="NONE")]
        if dice < 0.325:
            return net.op("ADD", pair, activation=net.activation())
        kind = str(net.pick("SUB", "MAXIMUM", "MINIMUM"))
        return net.op(kind, pair, **({"activation": "NONE"} if kind == "SUB" else {}))
    return x


def float_network(seed: int) -> Graph:
    """The network of a seed before quantization."""
    rng = np.random.default_rng([20261121, seed])
    family = FAMILIES[seed % len(FAMILIES)]
    if family == "audio":
        shape: tuple[int, ...] = (1, int(rng.integers(16, 50)), int(rng.integers(4, 14)), 1)
    elif family == "dense":
        shape = (1, int(rng.integers(20, 640)))
    else:
        side = int(rng.integers(8, 33))
        shape = (1, side, int(rng.integers(max(6, side - 6), side + 4)), int(rng.integers(1, 5)))
    net = _Net(rng, f"random_{seed:03d}_{family}", shape)
    x = "x"
    if family == "dense":
        for _ in range(int(rng.integers(2, 6))):
            x = net.dense(x, int(rng.integers(4, 160)), net.activation())
    else:
        first = net.pick((3, 3), (3, 3), (5, 5), (4, 10) if family == "audio" else (3, 3))
        x = net.conv(x, net.wide(x, net.channels(32)), first, net.stride(x))  # type: ignore[arg-type]
        for _ in range(int(rng.integers(2, 6))):
            x = _extra(net, _block(net, family, x))
        h, w, _ = net.shape(x)[1:]
        head = rng.random()
        if head < 0.4:
            x = net.op(
                "AVERAGE_POOL_2D", [x], filter=(h, w), stride=(h, w), padding="VALID",
                activation="NONE",
            )  # fmt: skip
        elif head < 0.7:
            x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
        x = net.op("RESHAPE", [x], new_shape=(1, int(np.prod(net.shape(x)))))
    x = net.dense(x, int(rng.integers(2, 20)))
    if rng.random() < 0.7:
        x = net.op("SOFTMAX", [x], beta=1.0)
    net.graph.outputs = (x,)
    net.graph.prune()
    return net.graph.validate()


def _rounded(channels: float) -> int:
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8


def _classifier(net: _Net, x: str, classes: int) -> Graph:
    x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
    net.graph.outputs = (net.op("SOFTMAX", [net.dense(x, classes)], beta=1.0),)
    net.graph.prune()
    return net.graph.validate()


def mobilenet_v1(width: float = 0.25, size: int = 96, classes: int = 2) -> Graph:
    """MobileNetV1 (Howard et al. 2017, table 1) with random weights, int8."""
    net = _Net(np.random.default_rng(1), f"mobilenet_v1_{width}_{size}", (1, size, size, 3))
    x = net.conv("x", _rounded(32 * width), (3, 3), (2, 2), "RELU6")
    for channels, stride in (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1)),
        *((512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
    ):
        x = net.depthwise(x, (3, 3), (stride, stride))
        x = net.conv(x, _rounded(channels * width), (1, 1), (1, 1), "RELU6")
    return _quantized(_classifier(net, x, classes), 1)


def mobilenet_v2(width: float = 0.35, size: int = 96, classes: int = 2) -> Graph:
    """MobileNetV2 (Sandler et al. 2018, table 2) with random weights, int8."""
    net = _Net(np.random.default_rng(2), f"mobilenet_v2_{width}_{size}", (1, size, size, 3))
    x = net.conv("x", _rounded(32 * width), (3, 3), (2, 2), "RELU6")
    for expansion, channels, blocks, first in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)),
        *((6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for k in range(blocks):
            stride = first if k == 0 else 1
            before, c = x, net.shape(x)[3]
            if expansion > 1:
                x = net.conv(x, c * expansion, (1, 1), (1, 1), "RELU6")
            x = net.depthwise(x, (3, 3), (stride, stride))
            x = net.conv(x, _rounded(channels * width), (1, 1), (1, 1), "NONE")
            if net.shape(x) == net.shape(before):
                x = net.op("ADD", [before, x], activation="NONE")
    x = net.conv(x, 1280, (1, 1), (1, 1), "RELU6")
    return _quantized(_classifier(net, x, classes), 2)


def network(seed: int) -> Graph:
    """The int8 network of a seed."""
    return _quantized(float_network(seed), seed)


def _quantized(graph: Graph, seed: int) -> Graph:
    rng = np.random.default_rng([20261122, seed])
    x = rng.normal(0, 1, (4, *graph.tensor("x").shape[1:])).astype(np.float32)
    options = QuantizeOptions(observer="minmax", bias_correction=False)
    result = quantize(graph, [x], options)
    result.name = graph.name
    return result
