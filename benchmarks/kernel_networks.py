"""Whole networks by the chosen kernels and by the portable ones, layer by layer: a part of
``benchmarks/kernels.py``."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from random_networks import mobilenet_v1, mobilenet_v2, network

from edgekit.artifact import Artifact, write_manifest
from edgekit.devices.registry import open_device
from edgekit.graph import Graph, reference
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions, Profile

SAMPLES = 3


@dataclass(frozen=True)
class Slow:
    """A layer whose chosen kernel costs more than the portable one."""

    network: str
    layer: str
    kernel: str
    portable: str
    cycles: tuple[int, int]


@dataclass(frozen=True)
class Row:
    name: str
    layers: int
    instructions: tuple[int, int]  #: chosen, portable
    cycles: tuple[int, int]
    flash: tuple[int, int]
    ram: tuple[int, int]
    wrong: int  #: bytes, of all samples
    slow: tuple[Slow, ...]
    compiler: str

    def line(self) -> str:
        i, c, f, r = self.instructions, self.cycles, self.flash, self.ram
        return (
            f"| {self.name} | {self.layers} | {i[0]:,} | {i[1] / i[0]:.2f}x | {c[0]:,} "
            f"| {c[1] / c[0]:.2f}x | {f[0]:,} ({f[1]:,}) | {r[0]:,} ({r[1]:,}) | {len(self.slow)} "
            f"| {self.wrong} |"
        )


HEADER = (
    "| network | layers | instructions | fewer than portable | cycles | fewer | flash (portable) "
    "| RAM (portable) | slower layers | wrong bytes |\n|---|---|---|---|---|---|---|---|---|---|"
)


def compiled(folder: Path, graph: Graph, target: str, **extra: object) -> Artifact:
    folder.mkdir()
    resolved = get_target(target)
    options = CompileOptions(optimize="speed", extra=extra)
    made = get_backend("mcu").compile(graph, resolved, folder, options)
    write_manifest(
        folder, model={"name": graph.name}, recipe={}, target=resolved, compiled=made,
        graphs={"graph": made.graph or graph},
    )  # fmt: skip
    return Artifact.open(folder)


def counted(artifact: Artifact, xs: list[np.ndarray]) -> tuple[Profile, list[np.ndarray]]:
    backend = get_backend("mcu")
    with open_device(backend.default_device(artifact.target), target=artifact.target) as device:
        outputs = backend.run(artifact, device, xs).outputs
        return backend.profile(artifact, device), list(outputs)


def compare(graph: Graph, target: str, toolchain: str) -> Row:
    """Both programs of one network: bytes against the reference, and every layer's cost."""
    rng = np.random.default_rng(0)
    xs = [
        rng.integers(-128, 128, (SAMPLES, *graph.tensor(i).shape[1:]), np.int8)
        for i in graph.inputs
    ]
    expected = reference.run(graph, xs)
    with tempfile.TemporaryDirectory() as tmp:
        ours = compiled(Path(tmp) / "a", graph, target, toolchain=toolchain)
        plain = compiled(Path(tmp) / "b", graph, target, toolchain=toolchain, kernels="portable")
        (mine, outputs), (theirs, others) = counted(ours, xs), counted(plain, xs)
    wrong = 0
    for name, *values in zip(graph.outputs, outputs, others, strict=True):
        wrong += sum(int(np.count_nonzero(v != expected[name])) for v in values)
    slow = []
    for a, b in zip(mine.layers, theirs.layers, strict=True):
        same = a.details["variant"] == b.details["variant"]
        if not same and (a.cycles or 0) > (b.cycles or 0):
            kernels = str(a.details["variant"]), str(b.details["variant"])
            slow.append(Slow(graph.name, a.name, *kernels, (a.cycles or 0, b.cycles or 0)))

    def core(p: Profile) -> int:
        return int(p.details["core_cycles"] or 0)

    (name, version), *_ = ours.manifest["tools"].items()
    return Row(
        graph.name,
        len(graph.nodes),
        (mine.instructions or 0, theirs.instructions or 0),
        (core(mine), core(theirs)),
        (mine.memory["flash_bytes"], theirs.memory["flash_bytes"]),
        (mine.memory["ram_bytes"], theirs.memory["ram_bytes"]),
        wrong,
        tuple(slow),
        f"{name} {version}",
    )


def networks(random: Iterable[int]) -> Iterator[Callable[[], Graph]]:
    yield mobilenet_v1
    yield mobilenet_v2
    for seed in random:
        yield lambda seed=seed: network(seed)  # type: ignore[misc]


def rows(target: str, random: Iterable[int], toolchain: str) -> Iterator[Row]:
    for make in networks(random):
        row = compare(make(), target, toolchain)
        print(row.line(), file=sys.stderr, flush=True)
        for s in row.slow:
            print(f"    {s}", file=sys.stderr, flush=True)
        yield row
