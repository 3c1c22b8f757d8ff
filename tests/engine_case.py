"""Small networks through any engine of any family, for the tests of application processors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from netgen import Net, dead_network, quantized

from edgekit.artifact import Artifact, write_manifest
from edgekit.data import Dataset
from edgekit.devices.aarch64 import find_qemu, has_plugins
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions
from edgekit.targets.schema import Target

QEMU = find_qemu()
needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-aarch64 is not installed (qemu-user)")
needs_plugins = pytest.mark.skipif(
    QEMU is None or not has_plugins(QEMU),
    reason="this qemu-aarch64 takes no plug-ins (the package qemu-user does)",
)
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")


def float_net(seed: int = 3) -> Graph:
    """Convolution, depthwise, residual, pooling, fully connected, softmax: 8x8x3 in, 5 out."""
    net = Net(np.random.default_rng(seed), (1, 8, 8, 3), "float_net")
    a = net.conv("x", 8)
    b = net.conv(net.depthwise(a), 8, k=1)
    c = net.op("ADD", [a, b], activation="RELU")
    d = net.op(
        "AVERAGE_POOL_2D", [c], filter=(4, 4), stride=(4, 4), padding="VALID", activation="NONE"
    )
    e = net.dense(net.op("RESHAPE", [d], new_shape=(1, 32)), 5)
    return net.finish(net.op("SOFTMAX", [e], beta=1.0))


def int8_net(seed: int = 3) -> Graph:
    return quantized(float_net(seed), np.random.default_rng(seed + 1))


def random_net(seed: int, int8: bool) -> Graph:
    rng = np.random.default_rng(seed)
    graph = dead_network(rng, 0.2)
    return quantized(graph, rng) if int8 else graph


def data_for(graph: Graph, n: int = 12, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset.of(
        [rng.normal(0, 1, (n, *graph.tensor(i).shape[1:])).astype(np.float32) for i in graph.inputs]
    )


def changed(target: str, **sections: object) -> Target:
    """A target with some top-level sections replaced."""
    return Target.model_validate({**get_target(target).model_dump(), **sections})


def compile_with(folder: Path, graph: Graph, target: str | Target, engine: str) -> Artifact:
    folder.mkdir()
    resolved = get_target(target) if isinstance(target, str) else target
    compiled = get_backend(resolved.family).compile(
        graph, resolved, folder, CompileOptions(engine=engine)
    )
    write_manifest(
        folder,
        model={"name": "test"},
        recipe={},
        target=resolved,
        compiled=compiled,
        graphs={"graph": graph},
    )
    return Artifact.open(folder)
