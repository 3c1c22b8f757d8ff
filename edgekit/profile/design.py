"""Which layers a calibration measures: shapes on both sides of every step that hardware makes.

Kernels take channels in blocks, pixels in runs, rows in tiles, and what is left over costs extra. So
channel counts are drawn from around the multiples of 4, 8 and 16 as much as from between them, sizes
odd and even, kernels of every usual form, with every stride, first layers (few channels), depthwise
and dense ones, and what stands between them. The draw is always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.graph.ir import Graph
from edgekit.profile.networks import Builder

#: Multiply-accumulates of a designed layer: enough to see slopes, little enough for an emulator.
MAX_MACS = 1_500_000
_SEED = 20261121


@dataclass(frozen=True)
class Layers:
    """So many layers of one kind. make: adds one to a builder and returns its output."""

    kind: str
    count: int
    quick: int
    make: Callable[[Builder, np.random.Generator], str]


def designed(quick: bool = False, max_macs: int = MAX_MACS) -> list[Graph]:
    """Float graphs of one layer each (what is drawn with more than ``max_macs`` is drawn again)."""
    from edgekit.graph.ops import macs

    graphs: list[Graph] = []
    for k, layers in enumerate(LAYERS):
        rng = np.random.default_rng([_SEED, k])
        wanted = len(graphs) + (layers.quick if quick else layers.count)
        while len(graphs) < wanted:
            b = Builder(rng, f"{layers.kind} {len(graphs)}")
            graph = b.finish(layers.make(b, rng))
            if sum(macs(n, graph) for n in graph.nodes) <= max_macs:
                graphs.append(graph)
    return graphs


def joined(graphs: Sequence[Graph]) -> Graph:
    """One graph in which every one of ``graphs`` stands by itself. The names of graph k's nodes and
    tensors begin with ``k:``."""
    whole = Graph("calibration", {}, [], (), ())
    for k, g in enumerate(graphs):
        for t in g.tensors.values():
            whole.tensors[f"{k}:{t.name}"] = t.with_(name=f"{k}:{t.name}")
        for n in g.nodes:
            whole.nodes.append(
                n.with_(
                    name=f"{k}:{n.name}",
                    inputs=tuple(None if i is None else f"{k}:{i}" for i in n.inputs),
                    outputs=tuple(f"{k}:{o}" for o in n.outputs),
                )
            )
        whole.inputs += tuple(f"{k}:{i}" for i in g.inputs)
        whole.outputs += tuple(f"{k}:{o}" for o in g.outputs)
    return whole.validate()


# -- what is drawn -----------------------------------------------------------------------------


def channels(rng: np.random.Generator, low: int, high: int) -> int:
    """Log-uniform; half of the draws are multiples of 4, 8 or 16, a quarter one beside them."""
    c = int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
    block = int(rng.choice([4, 8, 16]))
    draw = rng.random()
    if draw < 0.75:
        c = max(low, (c + block // 2) // block * block or block)
    if 0.5 <= draw < 0.75:
        c += int(rng.choice([-1, 1]))
    return int(np.clip(c, low, high))


def _size(rng: np.random.Generator, low: int, high: int) -> int:
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))


def _map(rng: np.random.Generator, low: int, high: int) -> tuple[int, int]:
    """Height and width: square two times in three."""
    h = _size(rng, low, high)
    return (h, h) if rng.random() < 2 / 3 else (h, _size(rng, low, high))


def _activation(rng: np.random.Generator) -> str:
    return str(rng.choice(["RELU", "RELU", "RELU", "RELU6", "NONE"]))


def _padding(rng: np.random.Generator) -> str:
    return "SAME" if rng.random() < 0.85 else "VALID"


def _conv(
    kernels: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    inputs: tuple[int, int] = (3, 96),
    outputs: tuple[int, int] = (3, 128),
    sizes: tuple[int, int] = (2, 40),
) -> Callable[[Builder, np.random.Generator], str]:
    def make(b: Builder, rng: np.random.Generator) -> str:
        kernel = kernels[rng.integers(len(kernels))]
        h, w = _map(rng, max(sizes[0], 2), sizes[1])
        h, w = max(h, kernel[0]), max(w, kernel[1])
        x = b.input(h, w, channels(rng, *inputs))
        stride = strides[rng.integers(len(strides))]
        return b.conv(x, channels(rng, *outputs), kernel, stride, _activation(rng), _padding(rng))

    return make


def _depthwise(
    kernels: tuple[tuple[int, int], ...], strides: tuple[int, ...]
) -> Callable[[Builder, np.random.Generator], str]:
    def make(b: Builder, rng: np.random.Generator) -> str:
        kernel = kernels[rng.integers(len(kernels))]
        h, w = _map(rng, 3, 48)
        h, w = max(h, kernel[0]), max(w, kernel[1])
        x = b.input(h, w, channels(rng, 3, 160))
        return b.depthwise(
            x, kernel, strides[rng.integers(len(strides))], _activation(rng), _padding(rng)
        )

    return make


def _dense(b: Builder, rng: np.random.Generator) -> str:
    x = b.input(channels(rng, 4, 2048))
    return b.dense(x, channels(rng, 2, 256), str(rng.choice(["NONE", "RELU", "RELU"])))


def _add(b: Builder, rng: np.random.Generator) -> str:
    h, w = _map(rng, 2, 32)
    c = channels(rng, 3, 64)
    return b.add(b.input(h, w, c), b.input(h, w, c), _activation(rng))


def _mul(b: Builder, rng: np.random.Generator) -> str:
    h, w = _map(rng, 2, 24)
    c = channels(rng, 3, 64)
    other = b.input(h, w, c) if rng.random() < 0.5 else b.input(1, 1, c)
    return b.op("MUL", [b.input(h, w, c), other], activation="NONE")


def _pool(kind: str) -> Callable[[Builder, np.random.Generator], str]:
    def make(b: Builder, rng: np.random.Generator) -> str:
        size, stride = ((2, 2), (2, 2), (3, 2), (3, 1), (4, 4))[rng.integers(5)]
        h, w = _map(rng, 4, 32)
        return b.pool(b.input(h, w, channels(rng, 3, 96)), kind, size, stride, _padding(rng))

    return make


def _global_pool(b: Builder, rng: np.random.Generator) -> str:
    h, w = _map(rng, 2, 25)
    return b.mean(b.input(h, w, channels(rng, 4, 160)), bool(rng.random() < 0.5))


def _concat(b: Builder, rng: np.random.Generator) -> str:
    h, w = _map(rng, 2, 24)
    n = 2 if rng.random() < 0.7 else 3
    return b.concat(*(b.input(h, w, channels(rng, 3, 48)) for _ in range(n)))


def _pad(b: Builder, rng: np.random.Generator) -> str:
    h, w = _map(rng, 3, 32)
    t, u, v, s = (int(i) for i in rng.integers(0, 3, 4))
    x = b.input(h, w, channels(rng, 1, 48))
    return b.op("PAD", [x], paddings=((0, 0), (t, u + 1), (v, s), (0, 0)), value=0.0)


def _softmax(b: Builder, rng: np.random.Generator) -> str:
    return b.softmax(b.input(_size(rng, 2, 200)))


def _elementwise(kind: str, **attrs: object) -> Callable[[Builder, np.random.Generator], str]:
    def make(b: Builder, rng: np.random.Generator) -> str:
        h, w = _map(rng, 2, 24)
        return b.op(kind, [b.input(h, w, channels(rng, 3, 64))], **attrs)

    return make


def _resize(b: Builder, rng: np.random.Generator) -> str:
    h, w = _map(rng, 2, 16)
    x = b.input(h, w, channels(rng, 3, 48))
    kind = "RESIZE_NEAREST_NEIGHBOR" if rng.random() < 0.5 else "RESIZE_BILINEAR"
    return b.op(kind, [x], size=(2 * h, 2 * w), align_corners=False, half_pixel_centers=True)


def _transpose_conv(b: Builder, rng: np.random.Generator) -> str:
    h, w = _map(rng, 2, 12)
    i, o, k = channels(rng, 4, 32), channels(rng, 3, 32), int(rng.choice([2, 3, 4]))
    x = b.input(h, w, i)
    weights = b.graph.add_const("w", rng.normal(0, 0.1, (o, k, k, i)).astype(np.float32))
    bias = b.graph.add_const("b", np.zeros(o, np.float32))
    return b.op(
        "TRANSPOSE_CONV", [x, weights.name, bias.name], stride=(2, 2), padding="SAME",
        output_shape=(1, 2 * h, 2 * w, o), activation="NONE",
    )  # fmt: skip


_SQUARE = ((5, 5), (7, 7))
_ODD = ((3, 1), (1, 3), (5, 1), (1, 5), (10, 4), (2, 2), (4, 4), (8, 3))

LAYERS: tuple[Layers, ...] = (
    Layers("3x3", 84, 6, _conv(((3, 3),), (1,))),
    Layers("3x3 stride 2", 72, 6, _conv(((3, 3),), (2,), sizes=(4, 48))),
    Layers("1x1", 48, 6, _conv(((1, 1),), (1,), (3, 256), (3, 256))),
    Layers("1x1 stride 2", 20, 3, _conv(((1, 1),), (2,), (3, 128), (3, 160))),
    Layers("large kernels", 20, 3, _conv(_SQUARE, (1, 2), (2, 32), (3, 48))),
    Layers("other kernels", 24, 3, _conv(_ODD, (1, 2), (2, 64), (3, 64))),
    Layers("first layer", 32, 4, _conv(((3, 3), (3, 3), (5, 5), (7, 7), (10, 4)), (1, 2), (1, 4),
                                      (4, 48), (12, 96))),
    Layers("depthwise 3x3", 36, 4, _depthwise(((3, 3),), (1,))),
    Layers("depthwise 3x3 stride 2", 24, 3, _depthwise(((3, 3),), (2,))),
    Layers("depthwise", 36, 3, _depthwise(((5, 5), (7, 7), (3, 1), (1, 3), (5, 1)), (1, 2))),
    Layers("dense", 36, 5, _dense),
    Layers("add", 20, 4, _add),
    Layers("mul", 12, 2, _mul),
    Layers("average pool", 18, 3, _pool("AVERAGE")),
    Layers("max pool", 20, 3, _pool("MAX")),
    Layers("global pool", 14, 3, _global_pool),
    Layers("concatenation", 18, 2, _concat),
    Layers("pad", 16, 2, _pad),
    Layers("softmax", 8, 3, _softmax),
    Layers("relu", 4, 2, _elementwise("RELU")),
    Layers("hard swish", 5, 2, _elementwise("HARD_SWISH")),
    Layers("logistic", 5, 2, _elementwise("LOGISTIC")),
    Layers("resize", 14, 2, _resize),
    Layers("transposed", 12, 2, _transpose_conv),
)  # fmt: skip
