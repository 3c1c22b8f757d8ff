"""Networks, and what the tests of the mobile GPUs need of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

import numpy as np
import pytest
from netgen import Net

from edgekit.devices import open_device
from edgekit.devices.base import Device
from edgekit.graph.ir import Graph
from edgekit.targets import get_target
from edgekit_targets.mobile_gpu import probe


def needs_opencl() -> None:
    """Skip where no kernels can be generated or run."""
    try:
        metadata.version("apache-tvm")
    except metadata.PackageNotFoundError:
        pytest.skip("apache-tvm is not installed: pip install 'edgekit[tvm]'")
    why = probe.why_no_cpu()
    if why is not None:
        pytest.skip(f"no OpenCL on the CPU: {why}")


@contextmanager
def virtual() -> Iterator[Device]:
    with open_device("virtual:opencl", target=get_target("adreno-650")) as device:
        yield device


def small_net(seed: int = 5) -> Graph:
    """Odd sizes and channels, a residual, a chain, a view, softmax: 9x7x3 in, 5 out."""
    net = Net(np.random.default_rng(seed), (1, 9, 7, 3), "small_net")
    a = net.conv("x", 8)
    b = net.conv(net.depthwise(a), 8, k=1, activation="NONE")
    c = net.op("ADD", [a, b], activation="RELU6")
    d = net.op("HARD_SWISH", [net.conv(c, 12, stride=2, padding=(0, 1, 1, 0), activation="NONE")])
    e = net.op("MEAN", [d], axes=(1, 2), keep_dims=False)
    f = net.op("MUL", [d, net.op("LOGISTIC", [net.dense(e, 12)])], activation="NONE")
    g = net.op("RESHAPE", [f], new_shape=(1, net.g.tensor(f).elements))
    return net.finish(net.op("SOFTMAX", [net.dense(g, 5)], beta=1.0))


#: expansion, channels, repeats, stride (Sandler et al. 2018, "MobileNetV2", table 2)
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(width: float, size: int, classes: int = 100) -> Graph:
    """MobileNetV2 with random weights; channels are multiples of 8, as in the paper's code."""

    def scaled(channels: int) -> int:
        near = max(8, int(channels * width + 4) // 8 * 8)
        return near + 8 if near < 0.9 * channels * width else near

    net = Net(np.random.default_rng(0), (1, size, size, 3), "mobilenet_v2")

    def depthwise(x: str, stride: int) -> str:
        c = net.channels(x)
        w = net.const("w", net.rng.normal(0, 0.5, (1, 3, 3, c)))
        b = net.const("b", net.rng.normal(0, 0.2, c))
        return net.op(
            "DEPTHWISE_CONV_2D",
            [x, w, b],
            stride=(stride, stride),
            dilation=(1, 1),
            padding="SAME",
            activation="RELU6",
        )

    x = net.conv("x", scaled(32), stride=2, activation="RELU6")
    for expansion, channels, repeats, stride in _MOBILENET_V2:
        for k in range(repeats):
            mid = x
            if expansion > 1:
                mid = net.conv(x, expansion * net.channels(x), k=1, activation="RELU6")
            mid = depthwise(mid, stride if k == 0 else 1)
            y = net.conv(mid, scaled(channels), k=1, activation="NONE")
            same = net.g.tensor(y).shape == net.g.tensor(x).shape
            x = net.op("ADD", [x, y], activation="NONE") if same else y
    x = net.conv(x, max(1280, scaled(1280)), k=1, activation="RELU6")
    x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
    return net.finish(net.op("SOFTMAX", [net.dense(x, classes)], beta=1.0))
