"""Random networks as people have them on small devices: the same ones for every seed.

Seven families (residual, depthwise-separable, inverted bottlenecks, plain, audio, auto-encoders,
branches), channel counts as designed (multiples of 8), as pruned by hand (multiples of 4) and as left
over by pruning (anything). Weights are random, scaled so that activations keep their size.

    from predictor_networks import network, quantized
    graph = quantized(network(seed))            # int8; network(seed) is float
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.compress import QuantizeOptions, quantize
from edgekit.graph import Graph
from edgekit.graph.ops import macs
from edgekit.profile.networks import Builder

#: What a microcontroller runs in a fraction of a second.
MACS = (300_000, 12_000_000)


class _Draw:
    """Random decisions of one network."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.step = int(rng.choice([1, 1, 4, 8]))

    def channels(self, usual: float) -> int:
        """Around ``usual``, in the network's own steps."""
        c = usual * float(np.exp(self.rng.normal(0, 0.35)))
        return max(3, self.step, round(c / self.step) * self.step)

    def one_of(self, *values: object) -> object:
        return values[int(self.rng.integers(len(values)))]

    def number(self, *values: int) -> int:
        return int(self.one_of(*values))  # type: ignore[call-overload]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)


def _head(b: Builder, d: _Draw, x: str) -> str:
    if d.chance(0.7):
        x = b.mean(x)
    else:
        h, w = b.shape(x)[1:3]
        x = b.flatten(b.pool(x, "AVERAGE", 2, 2) if min(h, w) >= 4 and d.chance(0.6) else x)
    if d.chance(0.25):
        x = b.dense(x, d.channels(48), "RELU")
    x = b.dense(x, d.number(2, 3, 5, 6, 10, 12, 20))
    return b.softmax(x) if d.chance(0.7) else x


def _image(b: Builder, d: _Draw) -> str:
    size = d.number(16, 20, 24, 28, 32, 32, 40, 48, 64, 96)
    return b.input(size, size, d.number(1, 3, 3))


def residual(b: Builder, d: _Draw) -> str:
    """ResNet v1, as MLPerf Tiny's: three stages, a projection where the size changes."""
    x = b.conv(_image(b, d), d.channels(16), 3, d.number(1, 1, 2))
    width = 16.0
    for stage in range(d.number(2, 3, 3)):
        for block in range(d.number(1, 1, 2)):
            stride = 2 if stage and not block else 1
            out = d.channels(width) if not block else b.shape(x)[3]
            y = b.conv(x, d.channels(width), 3, stride)
            y = b.conv(y, out, 3, 1, "NONE")
            if stride > 1 or b.shape(x)[3] != out:
                x = b.conv(x, out, 1, stride, "NONE")
            x = b.add(x, y)
        width *= 2
    return _head(b, d, x)


def separable(b: Builder, d: _Draw) -> str:
    """MobileNet v1: depthwise 3x3 and pointwise, in turn."""
    activation = str(d.one_of("RELU", "RELU", "RELU6"))
    x = b.conv(_image(b, d), d.channels(12), 3, 2, activation)
    width = 20.0
    for _ in range(d.number(3, 4, 5, 6)):
        stride = 2 if d.chance(0.4) and min(b.shape(x)[1:3]) > 5 else 1
        x = b.depthwise(x, d.number(3, 3, 3, 5), stride, activation)
        width *= 1.6 if stride == 2 else 1.1
        x = b.conv(x, d.channels(width), 1, 1, activation)
    return _head(b, d, x)


def inverted(b: Builder, d: _Draw) -> str:
    """MobileNet v2 and MCUNet: expand, depthwise, project, and a residual where shapes allow."""
    x = b.conv(_image(b, d), d.channels(12), 3, 2, "RELU6")
    width = 12.0
    for _ in range(d.number(2, 3, 4, 5)):
        stride = 2 if d.chance(0.4) and min(b.shape(x)[1:3]) > 5 else 1
        width *= 1.5 if stride == 2 else 1.0
        c = b.shape(x)[3]
        out = c if stride == 1 and d.chance(0.6) else d.channels(width)
        y = b.conv(x, d.channels(c * d.number(2, 3, 4, 6)), 1, 1, "RELU6")
        y = b.depthwise(y, d.number(3, 3, 5, 7), stride, "RELU6")
        y = b.conv(y, out, 1, 1, "NONE")
        x = b.add(x, y, "NONE") if stride == 1 and out == c else y
    return _head(b, d, x)


def plain(b: Builder, d: _Draw) -> str:
    """Convolutions and max pools, dense layers behind them."""
    x = _image(b, d)
    width = 10.0
    for _ in range(d.number(2, 3, 4)):
        for _ in range(d.number(1, 1, 2)):
            padding = str(d.one_of("SAME", "SAME", "VALID")) if b.shape(x)[1] > 8 else "SAME"
            x = b.conv(x, d.channels(width), d.number(3, 3, 3, 5), 1, "RELU", padding)
        if min(b.shape(x)[1:3]) >= 6:
            x = b.pool(x, str(d.one_of("MAX", "MAX", "AVERAGE")), 2, 2)
        width *= 1.7
    return _head(b, d, x)


def audio(b: Builder, d: _Draw) -> str:
    """Spectrograms: DS-CNN with a tall first kernel, or convolutions along time."""
    x = b.input(d.number(25, 49, 61, 98), d.number(10, 13, 16, 40), 1)
    if d.chance(0.6):
        x = b.conv(x, d.channels(48), (10, 4), 2)
        for _ in range(d.number(2, 3, 4)):
            x = b.conv(b.depthwise(x), d.channels(48), 1)
    else:
        x = b.conv(x, d.channels(20), (3, b.shape(x)[2]), 1, "RELU", "VALID")
        for _ in range(d.number(2, 3, 4)):
            x = b.conv(x, d.channels(28), (d.number(3, 5, 9), 1), (d.number(1, 2), 1))
    return _head(b, d, x)


def autoencoder(b: Builder, d: _Draw) -> str:
    """Dense layers narrowing to a code and widening again."""
    n = d.number(64, 128, 256, 320, 640)
    x = b.input(n)
    width, code = d.channels(96), d.channels(8)
    layers = d.number(2, 3, 4)
    for k in range(2 * layers + 1):
        x = b.dense(x, code if k == layers else width, "RELU")
    return b.dense(x, n)


def branches(b: Builder, d: _Draw) -> str:
    """SqueezeNet's and Inception's: parallel convolutions, concatenated."""
    x = b.conv(_image(b, d), d.channels(12), 3, 2)
    for k in range(d.number(1, 2, 3)):
        s = b.conv(x, d.channels(8 + 4 * k), 1)
        parts = [b.conv(s, d.channels(12 + 6 * k), 1), b.conv(s, d.channels(12 + 6 * k), 3)]
        if d.chance(0.3):
            parts.append(b.conv(s, d.channels(8), 5))
        x = b.concat(*parts)
        if min(b.shape(x)[1:3]) >= 6 and d.chance(0.7):
            x = b.pool(x, "MAX", d.number(2, 3), 2)
    return _head(b, d, x)


FAMILIES: tuple[Callable[[Builder, _Draw], str], ...] = (
    residual, separable, inverted, plain, audio, autoencoder, branches,
)  # fmt: skip


def network(seed: int, most: int = MACS[1]) -> Graph:
    """The float network of a seed, with at most ``most`` multiply-accumulates (at least
    ``MACS[0]``, dense networks aside)."""
    family = FAMILIES[seed % len(FAMILIES)]
    for attempt in range(1000):
        rng = np.random.default_rng([20261121, seed, attempt])
        b = Builder(rng, f"{family.__name__}-{seed}")
        graph = b.finish(family(b, _Draw(rng)))
        size = sum(macs(n, graph) for n in graph.nodes)
        if size <= most and (size >= MACS[0] or family is autoencoder):
            return graph
    raise AssertionError(f"no network of the family of seed {seed} is that small")


def quantized(graph: Graph, samples: int = 4) -> Graph:
    """The int8 form, calibrated on noise; weights are random, so no other data fits better."""
    rng = np.random.default_rng(7)
    inputs = [
        rng.normal(0, 1, (samples, *graph.tensor(i).shape[1:])).astype(np.float32)
        for i in graph.inputs
    ]
    return quantize(graph, inputs, QuantizeOptions(observer="minmax"))
