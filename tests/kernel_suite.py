"""Runs the table of ``kernel_cases`` on every instruction set: support, bytes, cost.

A *set* is a target whose variants are asked for and, besides the host, where they run:

    portable   Cortex-M0+   Unicorn      mve      Cortex-M55   QEMU
    dsp        Cortex-M4    Unicorn      aarch64  Cortex-A76   QEMU
                                         i8mm     Cortex-X3    QEMU

On the host portable, dsp and mve kernels run in their portable form under address and
undefined-behaviour sanitizers, each buffer exactly as large as its tensor. On a device all cases are
layers of one program.
A new set is one more row of :data:`SETS`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import kernel_host
import numpy as np
from kernel_cases import TableCase, single_sample

from edgekit.devices.base import Count
from edgekit.devices.registry import open_device
from edgekit.graph import reference
from edgekit.graph.ir import Graph, Node
from edgekit.targets import get_backend, get_target
from edgekit.targets.schema import Target
from edgekit_targets.arm_cpu.config import parse as parse_process
from edgekit_targets.mcu import codegen, profile, toolchain, variants
from edgekit_targets.mcu.config import Config, McuTarget, parse
from edgekit_targets.mcu.contract import KernelCall
from edgekit_targets.mcu.measure import _batches, _Case, _layout, _program
from edgekit_targets.mcu.project import build_firmware, build_host, write_project

#: set -> target
SETS = {
    "portable": "cortex-m0plus",
    "dsp": "cortex-m4",
    "mve": "cortex-m55",
    "aarch64": "cortex-a76",
    "i8mm": "galaxy-s23",
}
#: Those whose kernels have a portable form. NEON's have none: their tests put every buffer before a
#: protected page instead (``neon_harness``).
ON_HOST = ("portable", "dsp", "mve")


#: In one program: linker scripts leave room for the code of so many.
MOST_LAYERS = 120


@dataclass(frozen=True)
class Entry:
    """One kernel on one case. expected: outputs of each sample."""

    case: TableCase
    graph: Graph
    inputs: list[np.ndarray]
    call: KernelCall
    rank: int

    @property
    def node(self) -> Node:
        return self.graph.nodes[0]

    @property
    def portable(self) -> bool:
        return self.rank >= variants.REF_RANK


@dataclass(frozen=True)
class Support:
    entries: tuple[Entry, ...]
    refused: tuple[tuple[str, str, str], ...]  #: (case, variant, reason)


def support(cases: Iterable[TableCase], target: Target) -> Support:
    """Every variant that takes a case on the target, and why others do not."""
    entries: list[Entry] = []
    refused: list[tuple[str, str, str]] = []
    for case in cases:
        graph, inputs = case.make()
        node = graph.nodes[0]
        for v in variants.variants_of(node.type):
            reason = v.reject(node, graph, target)
            if reason is not None:
                refused.append((case.name, v.name, reason))
            else:
                entries.append(Entry(case, graph, inputs, v.lower(node, graph, target), v.rank))
    return Support(tuple(entries), tuple(refused))


@dataclass(frozen=True)
class Result:
    """wrong: bytes that differ, of all samples run. None: not counted there."""

    entry: Entry
    wrong: int
    instructions: int | None = None
    cycles: int | None = None


def _wrong(got: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> int:
    return sum(
        int(np.count_nonzero(np.frombuffer(a.tobytes(), np.uint8) != np.frombuffer(b.tobytes(), np.uint8)))
        for a, b in zip(got, expected, strict=True)
    )  # fmt: skip


def on_host(entries: Sequence[Entry]) -> list[Result]:
    """All samples under sanitizers; AssertionError with their words."""
    cases = [kernel_host.Case(e.graph, e.inputs, e.call) for e in entries]
    with tempfile.TemporaryDirectory() as tmp:
        got = kernel_host.run_cases(cases, Path(tmp))
    return [Result(e, _wrong(g, c.expected())) for e, c, g in zip(entries, cases, got, strict=True)]


def _joined(entries: Sequence[Entry]) -> tuple[Graph, list[_Case]]:
    """One graph of all cases, each under names of its own; kernels of a case share its node's inputs."""
    merged = Graph("cases", {}, [], (), ())
    cases: list[_Case] = []
    known: dict[int, Node] = {}
    for e in entries:
        node = known.get(id(e.graph))
        if node is None:
            index = len(known)
            names: dict[str, str] = {}
            for t in e.graph.tensors.values():
                names[t.name] = f"{index}/{t.name}"
                merged.tensors[names[t.name]] = replace(t, name=names[t.name])
            node = replace(
                e.node,
                name=f"case {index}",
                inputs=tuple(None if i is None else names[i] for i in e.node.inputs),
                outputs=tuple(names[o] for o in e.node.outputs),
            )
            known[id(e.graph)] = node
            merged.nodes.append(node)
        cases.append(_Case(node, e.call))
    return merged, cases


def on_device(
    entries: Sequence[Entry],
    target: Target,
    compiler: str = "zig",
    optimize: toolchain.Optimize = "speed",
) -> list[Result]:
    """The first sample of every entry on the target's virtual core."""
    merged, cases = _joined(entries)
    by_case = {id(c): e for c, e in zip(cases, entries, strict=True)}
    results: dict[int, Result] = {}
    chunks = [cases[k : k + MOST_LAYERS] for k in range(0, len(cases), MOST_LAYERS)]
    for batch in (b for chunk in chunks for b in _batches(merged, chunk)):
        for case, result in zip(
            batch,
            _run_batch(merged, batch, [by_case[id(c)] for c in batch], target, compiler, optimize),
            strict=True,
        ):
            results[id(case)] = result
    missing = [c.node.name for c in cases if id(c) not in results]
    assert not missing, f"too large for a virtual core: {missing}"
    return [results[id(c)] for c in cases]


def _run_batch(
    merged: Graph,
    batch: list[_Case],
    entries: list[Entry],
    target: Target,
    compiler: str,
    optimize: toolchain.Optimize,
) -> list[Result]:
    layout = _layout(merged, batch)
    program, calls, plan = _program(merged, batch, layout)
    arena = np.frombuffer(layout.pattern(), np.uint8).copy()
    for case, e in zip(batch, entries, strict=True):
        values = single_sample(e.graph, e.inputs, 0)
        by_name = dict(zip(e.graph.inputs, values, strict=True))
        for i, joined in zip(e.node.inputs, case.node.inputs, strict=True):
            if i in by_name and joined is not None:
                at = layout.inputs[case.node.name, joined]
                value = np.frombuffer(by_name[i].tobytes(), np.uint8)
                arena[at : at + value.size] = value
    source = codegen.generate(program, calls, plan)
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        if target.family == "mcu":
            mcu = parse(target)
            assert mcu.toolchain is not None
            cc = toolchain.arm_compiler(mcu.toolchain, compiler)
            project = write_project(folder, program, calls, source, mcu, optimize)
            sizes = sum(source.const_bytes)
            names = build_firmware(folder, project, plan, sizes, mcu, cc, optimize)[:2]
        else:
            mcu = McuTarget(target, None, None, Config(host=True))
            machine = parse_process(target).toolchain
            cc = toolchain.process_compiler(machine.triple, machine.cpu)
            project = write_project(folder, program, calls, source, mcu, optimize)
            names = build_host(folder, project, cc, optimize)
        backend = get_backend(target.family)
        with open_device(backend.default_device(target), target=target) as device:
            for name in names:
                device.push(folder / name, name)
            device.push_bytes(arena.tobytes(), "in.bin")
            profile.execute(device, names[1], ("trace", "in.bin", "out.bin"))
            raw = device.pull("out.bin")
            symbols = [s for s in source.layers if s]
            counted = profile.execute(
                device, names[0], ("profile", "in.bin"), [profile.INVOKE, *symbols, profile.END]
            )
    sections = {c.name: c for c in counted.trace.sections} if counted.trace else {}
    timed = counted.trace is not None and counted.trace.cycles is not None
    results = []
    at = 0
    for k, (case, e) in enumerate(zip(batch, entries, strict=True)):
        expected = reference.run(e.graph, [x[:1] for x in e.inputs])
        wrong = 0
        for o, t in zip(e.graph.outputs, merged.outs(case.node), strict=True):
            got = np.frombuffer(raw, np.uint8, t.nbytes, at + 12)
            at += 12 + t.nbytes
            wrong += int(np.count_nonzero(got != np.frombuffer(expected[o].tobytes(), np.uint8)))
        count = sections.get(source.layers[k] or "", Count("", 0, 0)) if sections else None
        results.append(
            Result(
                e,
                wrong,
                count.instructions if count else None,
                count.cycles if count and timed else None,
            )
        )
    assert at == len(raw)
    return results


def target_of(name: str) -> Target:
    return get_target(SETS[name])
