"""Artifacts for the report's tests: written by hand from a small network, without a compiler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from netgen import Net, quantized

from edgekit.artifact import Artifact, new_folder, write_manifest
from edgekit.compress import simplify
from edgekit.graph import Graph
from edgekit.graph.ops import macs
from edgekit.targets.base import Compiled
from edgekit.targets.registry import get_target

Rename = Callable[[str], str]


def small_net() -> Graph:
    """Three convolutions, an addition, pooling and a dense layer; some channels are dead."""
    net = Net(np.random.default_rng(3), (1, 8, 8, 3), "small")
    x = net.conv(net.conv("x", 8, dead=0.5), 8, k=1)
    y = net.conv(x, 8, activation="NONE")
    x = net.op("ADD", [x, y], activation="RELU")
    x = net.op("AVERAGE_POOL_2D", [x], filter=(2, 2), stride=(2, 2), padding="VALID",
               activation="NONE")  # fmt: skip
    x = net.op("RESHAPE", [x], new_shape=(1, net.g.tensor(x).elements))
    return net.finish(net.op("SOFTMAX", [net.dense(x, 5)], beta=1.0))


def renamed(graph: Graph, rename: Rename) -> Graph:
    """The graph with every node's and tensor's name changed."""
    tensors = {rename(t.name): t.with_(name=rename(t.name)) for t in graph.tensors.values()}
    nodes = [
        n.with_(
            name=rename(n.name),
            inputs=tuple(None if i is None else rename(i) for i in n.inputs),
            outputs=tuple(rename(o) for o in n.outputs),
        )
        for n in graph.nodes
    ]
    return Graph(
        rename(graph.name),
        tensors,
        nodes,
        tuple(map(rename, graph.inputs)),
        tuple(map(rename, graph.outputs)),
    ).validate()


def make(
    out: Path,
    *,
    target: str = "cortex-m4",
    rename: Rename | None = None,
    memory: dict[str, Any] | None = None,
    variant: str = "conv2d_s8_halfword_dsp",
    floats: bool = False,
) -> Artifact:
    """An artifact with the keys that the ``mcu`` backend writes, and a file that stands for code.

    memory: entries that replace those of the memory map. floats: leave the network float.
    """
    source = small_net()
    reference = source if floats else quantized(source, np.random.default_rng(5))
    result = simplify(reference)
    graph = result.graph if rename is None else renamed(result.graph, rename)
    chosen = get_target(target)
    with new_folder(out) as folder:
        (folder / "model.c").write_text("int edgekit_model;\n")
        write_manifest(
            folder,
            model={"name": graph.name, "format": "tflite", "source": "small.tflite"},
            recipe={
                "simplify": result.to_json(),
                "quantize": {"observer": "minmax", "samples": 8, "data": "small.npz:x"},
                "engine": "c",
                "optimize": "speed",
            },
            target=chosen,
            compiled=Compiled(
                engine="c",
                files=["model.c"],
                plan=[
                    {
                        "name": n.name,
                        "op": n.type,
                        "variant": variant,
                        "macs": macs(n, graph),
                        "flash_bytes": sum(t.nbytes for t in graph.ins(n) if t and t.is_const),
                        "scratch_bytes": 64,
                        "output_shapes": [list(t.shape) for t in graph.outs(n)],
                    }
                    for n in graph.nodes
                ],
                memory=_memory(graph) | (memory or {}),
                tools={"zig": "0.0.1"},
            ),
            graphs={"graph": graph},
        )
    return Artifact.open(out)


def _memory(graph: Graph) -> dict[str, Any]:
    """Two halves of the arena in turn (right for a chain with one skip over two layers), scratch on
    top."""
    half = max(t.nbytes for t in graph.tensors.values() if not t.is_const)
    last = {
        i: k for k, n in enumerate(graph.nodes) for i in n.inputs if i in (*graph.tensors,)
    } | dict.fromkeys(graph.outputs, len(graph.nodes))
    values = [(i, -1) for i in graph.inputs]
    values += [(o, k) for k, n in enumerate(graph.nodes) for o in n.outputs]
    buffers: list[dict[str, Any]] = [
        {
            "name": name,
            "offset": (k % 3) * half,
            "bytes": graph.tensor(name).nbytes,
            "first": first,
            "last": last[name],
            "tensors": [name],
        }
        for k, (name, first) in enumerate(values)
    ]
    buffers.append(
        {"name": f"scratch:{graph.nodes[0].name}", "offset": 3 * half, "bytes": 64, "first": 0,
         "last": 0, "tensors": []}
    )  # fmt: skip
    return {
        "arena_bytes": 3 * half + 64,
        "lower_bound_bytes": 2 * half,
        "scratch_bytes": 64,
        "weights_bytes": 3000,
        "constants_bytes": 3400,
        "code_bytes": 9000,
        "flash_bytes": 12400,
        "static_ram_bytes": 3 * half + 64,
        "data_bss_bytes": 0,
        "flash_available": 2 << 20,
        "ram_available": 640 << 10,
        "peak_node": graph.nodes[1].name,
        "buffers": buffers,
    }


def profile_of(art: Artifact, **changes: Any) -> dict[str, Any]:
    """A profile document as a virtual device gives it; more MACs, more cycles."""
    layers = [
        {
            "name": p["name"],
            "op": p["op"],
            "macs": p["macs"],
            "instructions": 500 + p["macs"],
            "cycles": 1000 + 2 * p["macs"] + k,
            "time_ms": None,
        }
        for k, p in enumerate(art.manifest["plan"])
    ]
    cycles = sum(la["cycles"] for la in layers) + 9
    return {
        "device": "virtual:cortex-m4",
        "target": art.target.name,
        "engine": "c",
        "kind": "simulated",
        "kinds": {"instructions": "simulated", "cycles": "estimated", "latency_ms": "estimated"},
        "total": {
            "instructions": sum(la["instructions"] for la in layers) + 3,
            "cycles": cycles,
            "latency_ms": 1e3 * cycles / art.target.core.clock_hz,
        },
        "memory": {"flash_bytes": 12400, "ram_bytes": 4000, "stack_bytes": 456},
        "layers": layers,
        "tools": {"emulator": "unicorn 2.1.4"},
        "details": {"timing_table": "m4", "cycle_scale": 1.3, "clock_hz": 120_000_000},
    } | changes


def verify_of(**changes: Any) -> dict[str, Any]:
    return {
        "device": "virtual:cortex-m4",
        "oracle": "tflite-micro 0.0.1",
        "samples": 100,
        "bytes": 500,
        "mismatched_bytes": 0,
        "max_abs_diff": 0,
        "accuracy": 0.91,
        "reference_accuracy": 0.914,
        "reference": "the float source model",
        "data": "small.npz:x,y",
        "first_divergent_layer": None,
    } | changes
