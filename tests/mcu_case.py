"""A small int8 network and its artifacts, for the tests of the microcontroller backend."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from netgen import Net, quantized, random_inputs

from edgekit.artifact import Artifact, write_manifest
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions
from edgekit.targets.schema import Target


@cache
def small_net() -> Graph:
    """Residual, depthwise, pooling, reshape, fully connected, softmax; 8x8x3 in, 5 classes out.
    Node names that would break C comments and strings are planted."""
    net = Net(np.random.default_rng(7), (1, 8, 8, 3), 'odd */ "name" \\ ü')
    a = net.conv("x", 8)
    b = net.depthwise(a)
    c = net.conv(b, 8, k=1)
    d = net.op("ADD", [a, c], activation="RELU")
    e = net.op(
        "AVERAGE_POOL_2D", [d], filter=(4, 4), stride=(4, 4), padding="VALID", activation="NONE"
    )
    f = net.op("RESHAPE", [e], new_shape=(1, 32))
    g = net.dense(f, 5)
    graph = quantized(net.finish(net.op("SOFTMAX", [g], beta=1.0)), np.random.default_rng(8))
    first = graph.nodes[0]
    graph.nodes[0] = first.with_(name="evil */ #error \\")
    return graph


def samples(graph: Graph, n: int, seed: int = 0) -> list[np.ndarray]:
    """``n`` random samples of every input, in its own dtype."""
    return random_inputs(graph, np.random.default_rng(seed), n)


def compile_to(
    folder: Path,
    graph: Graph,
    target: str | Target = "cortex-m4",
    optimize: str = "balanced",
    **extra: object,
) -> Artifact:
    """Compile with the ``mcu`` backend into ``folder`` (made here) and open the artifact."""
    folder.mkdir()
    resolved = get_target(target) if isinstance(target, str) else target
    options = CompileOptions(optimize=optimize, extra=extra)  # type: ignore[arg-type]
    compiled = get_backend("mcu").compile(graph, resolved, folder, options)
    write_manifest(
        folder,
        model={"name": "test"},
        recipe={},
        target=resolved,
        compiled=compiled,
        graphs={"graph": compiled.graph or graph},
    )
    return Artifact.open(folder)
