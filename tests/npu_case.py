"""Networks and a stand-in for Vela, for the tests of the ``npu`` family."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
from netgen import Net, quantized

from edgekit.graph.ir import Graph

TARGET = "ethos-u55-128"


def _installed() -> bool:
    try:
        version("ethos-u-vela")
    except PackageNotFoundError:
        return False
    return True


needs_vela = pytest.mark.skipif(
    not _installed(), reason="ethos-u-vela is not installed: pip install 'edgekit[npu]'"
)


@cache
def float_net() -> Graph:
    net = Net(np.random.default_rng(5), (1, 16, 16, 3), "tiny")
    x = net.conv("x", 8, stride=2)
    x = net.depthwise(x)
    x = net.op("ADD", [net.conv(x, 8, k=1, activation="NONE"), x], activation="RELU")
    x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
    return net.finish(net.op("SOFTMAX", [net.dense(x, 5)], beta=1.0))


@cache
def int8_net() -> Graph:
    """Every operator of it runs on every Ethos-U."""
    return quantized(float_net(), np.random.default_rng(6))


@cache
def mixed_net() -> Graph:
    """On an Ethos-U55 the resize (scales differ) and the slice (backwards) stay on the CPU."""
    net = Net(np.random.default_rng(3), (1, 16, 16, 3), "mixed")
    x = net.conv("x", 8)
    x = net.op("RESIZE_NEAREST_NEIGHBOR", [x], size=(24, 20), align_corners=False,
               half_pixel_centers=False)  # fmt: skip
    x = net.conv(x, 8, stride=2)
    x = net.op("STRIDED_SLICE", [x], begin=(0, 11, 0, 0), end=(1, -1, 10, 8),
               strides=(1, -1, 1, 1), shrink_axes=())  # fmt: skip
    x = net.op("MEAN", [x], axes=(1, 2), keep_dims=False)
    return quantized(net.finish(net.dense(x, 5)), np.random.default_rng(1))


@cache
def cpu_net() -> Graph:
    """Not one operator of it runs on an Ethos-U."""
    net = Net(np.random.default_rng(4), (1, 8, 8, 2), "backwards")
    x = net.op("STRIDED_SLICE", ["x"], begin=(0, 7, 0, 0), end=(1, -1, 8, 2),
               strides=(1, -1, 1, 1), shrink_axes=())  # fmt: skip
    return quantized(net.finish(x), np.random.default_rng(2))


def evil(graph: Graph) -> Graph:
    """The same with tensor and node names that would break tables and warnings."""
    names = {t: f"{t}, 'a' \"b\"\nü" for t in graph.tensors}
    return Graph(
        graph.name,
        {names[k]: t.with_(name=names[k]) for k, t in graph.tensors.items()},
        [
            n.with_(
                name=f"{n.name},\n'x'",
                inputs=tuple(None if i is None else names[i] for i in n.inputs),
                outputs=tuple(names[o] for o in n.outputs),
            )
            for n in graph.nodes
        ],
        tuple(names[i] for i in graph.inputs),
        tuple(names[o] for o in graph.outputs),
    )


def stand_in(folder: Path, body: str, *, real: bool = False) -> Path:
    """An executable ``vela`` that answers --version and then runs ``body`` (shell). ``$out`` is the
    output folder; ``real``: Vela itself has run before."""
    path = folder / "vela"
    start = f'"{sys.executable}" -P -m ethosu.vela "$@" || exit $?\n' if real else ""
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo 5.2.0; exit 0; fi\n'
        'for a in "$@"; do case "$a" in --output-dir=*) out="${a#--output-dir=}";; esac; done\n'
        f"{start}{body}\n"
    )
    path.chmod(0o755)
    return path
