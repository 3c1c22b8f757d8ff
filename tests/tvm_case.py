"""Many random one-operator graphs side by side in one graph: one compilation tests all of them."""

from __future__ import annotations

from importlib import metadata

import numpy as np
import opgen
import opgen_all  # noqa: F401  registers every generator
import pytest

from edgekit.graph.ir import Graph, Node
from edgekit_targets.tvm_ import support
from edgekit_targets.tvm_.isa import CpuTarget

Case = tuple[Graph, list[np.ndarray]]


def needs_tvm() -> None:
    """Skip where Apache TVM is not installed."""
    try:
        metadata.version("apache-tvm")
    except metadata.PackageNotFoundError:
        pytest.skip("apache-tvm is not installed: pip install 'edgekit[tvm]'")


def merge(cases: list[Case]) -> Case:
    """Graphs side by side, with the first two samples of each."""
    g = Graph("merged", {}, [], (), ())
    inputs: list[np.ndarray] = []
    for k, (part, x) in enumerate(cases):

        def new(name: str | None, prefix: str = f"g{k}_") -> str | None:
            return None if name is None else prefix + name

        for t in part.tensors.values():
            g.tensors[f"g{k}_{t.name}"] = t.with_(name=f"g{k}_{t.name}")
        for n in part.nodes:
            ins = tuple(new(i) for i in n.inputs)
            outs = tuple(f"g{k}_{o}" for o in n.outputs)
            g.nodes.append(Node(f"g{k}_{n.name}", n.type, ins, outs, n.attrs))
        g.inputs += tuple(f"g{k}_{i}" for i in part.inputs)
        g.outputs += tuple(f"g{k}_{o}" for o in part.outputs)
        inputs += [np.resize(v, (2, *v.shape[1:])) for v in x]
    g.validate()
    return g, inputs


def supported_cases(
    op_type: str, seeds: range, target: CpuTarget, dtype: str | None = None
) -> list[Case]:
    """Random cases of an operator that the engine takes, of ``dtype`` where the generator can."""
    out = []
    for seed in seeds:
        rng = np.random.default_rng([seed, len(op_type), sum(map(ord, op_type))])
        make = opgen.CASES[op_type]
        graph, x = make(rng) if dtype is None else make(rng, dtype)  # type: ignore[call-arg]
        if not support.unsupported(graph, target):
            out.append((graph, x))
    return out


def mismatches(
    graph: Graph, got: list[np.ndarray], want: dict[str, np.ndarray], tolerance: float = 1e-4
) -> list[str]:
    """Outputs that differ: integers by a byte, floats by more than ``tolerance`` relative."""
    wrong = []
    for name, a in zip(graph.outputs, got, strict=True):
        b = want[name]
        if a.dtype.kind == "f":
            bad = np.abs(a - b) > tolerance * max(1.0, float(np.abs(b).max(initial=0)))
        else:
            bad = a != b
        if np.any(bad):
            node = graph.producers()[name]
            shapes = [None if t is None else t.shape for t in graph.ins(node)]
            wrong.append(f"{name} {node.type} {shapes} {dict(node.attrs)}: {int(bad.sum())} differ")
    return wrong
