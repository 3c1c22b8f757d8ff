"""What each kernel variant costs on the virtual core: all candidates of a model in one program.

Every (node, variant) that may be chosen becomes a layer of one firmware. What the layers compute is
not looked at (the variants' own tests do that), only what they execute. Counts
of a virtual core are deterministic, so they are kept on disk under everything they depend on, and a
second compilation measures nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Count
from edgekit.errors import EdgekitError
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.targets.base import Progress

from . import codegen, profile
from .config import McuTarget
from .contract import KernelCall
from .memory import Plan
from .project import build_firmware, kernels_dir, write_project
from .toolchain import OPTIMIZE_FLAGS, Compiler, Optimize

#: Constants and RAM of one measuring program: what the smallest memory map of a virtual core holds.
MAX_CONST_BYTES = 6 << 20
MAX_ARENA_BYTES = 6 << 20
_ALIGN = 16
_SEED = 1
_PATTERN = "pattern"
_FORMAT = 2  #: of the stored costs; a new number forgets the old ones


@dataclass(frozen=True)
class Cost:
    """One execution of a kernel on the core. cycles: of the core's timing table, without the board's
    scale; None where there is no table."""

    instructions: int
    cycles: int | None


@dataclass(frozen=True)
class Costs:
    """by_call: (node, variant) -> cost; missing where it could not be measured. code_bytes: C source
    -> bytes of code and tables of its object file. absent: why nothing was measured, else None."""

    by_call: Mapping[tuple[str, str], Cost]
    code_bytes: Mapping[str, int]
    absent: str | None = None


@dataclass(frozen=True)
class _Case:
    node: Node
    call: KernelCall


def measure(
    graph: Graph,
    lowered: Mapping[str, Sequence[KernelCall]],
    mcu: McuTarget,
    compiler: Compiler,
    optimize: Optimize,
    progress: Progress | None = None,
    beside: Sequence[KernelCall] = (),
) -> Costs:
    """Costs of every call in ``lowered`` (node name -> calls) on the target's virtual core; of the
    calls ``beside`` them only the bytes of code.

    Nothing is raised: what cannot be measured here (no emulator, a kernel that does not link) leaves
    ``absent`` with the reason, and the caller falls back on the variants' order.
    """
    if mcu.counted_on is None:
        return Costs({}, {}, f"{mcu.target.name} has no virtual core to count on")
    cases = [_Case(graph.node(name), call) for name, calls in lowered.items() for call in calls]
    salt = _salt(mcu, compiler, optimize)
    store = _Store(_folder())
    costs: dict[tuple[str, str], Cost] = {}
    sizes: dict[str, int] = {}
    batches = list(_batches(graph, cases))
    for k, batch in enumerate(batches):
        extra = beside if k == 0 else ()
        key = _key(salt, graph, batch, extra)
        found = store.load(key, len(batch))
        if found is None:
            if progress:
                part = f" ({k + 1} of {len(batches)})" if len(batches) > 1 else ""
                core = mcu.counted_on.removeprefix("virtual:")
                progress(f"measuring kernels: {len(batch)} on {core}{part}")
            try:
                found = _count(graph, batch, mcu, compiler, optimize, extra)
            except EdgekitError as e:
                return Costs({}, {}, str(e))
            store.save(key, *found)
        costs.update(
            ((c.node.name, c.call.variant), n) for c, n in zip(batch, found[0], strict=True)
        )
        sizes.update(found[1])
    return Costs(costs, sizes)


# -- the program -------------------------------------------------------------------------------


def _batches(graph: Graph, cases: Iterable[_Case]) -> Iterable[list[_Case]]:
    """Cases in programs that fit the virtual core's memory; one that never fits is left out."""
    batch: list[_Case] = []
    for case in cases:
        if not _fits(graph, [case]):
            continue
        if not _fits(graph, [*batch, case]):
            yield batch
            batch = []
        batch.append(case)
    if batch:
        yield batch


def _fits(graph: Graph, batch: Sequence[_Case]) -> bool:
    const = sum(c.data.nbytes for case in batch for c in case.call.consts)
    return const <= MAX_CONST_BYTES and _layout(graph, batch).arena <= MAX_ARENA_BYTES


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _activations(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    found = {t.name: t for t in tensors if t is not None and not t.is_const}
    return list(found.values())


@dataclass(frozen=True)
class _Layout:
    """inputs: (node, tensor) -> offset, the same for all variants of a node. written: where all
    outputs, and behind them all scratch, begin. pattern: what the inputs hold."""

    inputs: Mapping[tuple[str, str], int]
    written: int
    arena: int
    sizes: tuple[int, ...]

    def pattern(self) -> bytes:
        """Every input is filled from the same seed, so that a count does not depend on what else
        the program measures; few kernels care, but some do."""
        data = bytearray(self.arena)
        at = 0
        for size in self.sizes:
            fill = np.random.default_rng(_SEED).integers(0, 256, size, np.uint8)
            data[at : at + size] = fill.tobytes()
            at += _aligned(size)
        return bytes(data)


def _layout(graph: Graph, batch: Sequence[_Case]) -> _Layout:
    at, inputs, sizes, most = 0, {}, [], 0
    for case in batch:
        for t in _activations(graph.ins(case.node)):
            if (case.node.name, t.name) not in inputs:
                inputs[case.node.name, t.name] = at
                sizes.append(t.nbytes)
                at += _aligned(t.nbytes)
        outputs = sum(_aligned(t.nbytes) for t in _activations(graph.outs(case.node)))
        most = max(most, outputs + case.call.scratch_bytes)
    return _Layout(inputs, at, max(at + most, _ALIGN), tuple(sizes))


def _program(
    graph: Graph, batch: Sequence[_Case], layout: _Layout
) -> tuple[Graph, dict[str, KernelCall], Plan]:
    """A graph whose nodes are the cases, and a plan in which they share inputs and results."""
    tensors: dict[str, Tensor] = {}
    nodes: list[Node] = []
    calls: dict[str, KernelCall] = {}
    offsets: dict[str, int] = {_PATTERN: 0}
    scratch: dict[str, int] = {}
    for k, case in enumerate(batch):
        names: dict[str, str] = {}
        for t in (*graph.ins(case.node), *graph.outs(case.node)):
            if t is not None:
                names[t.name] = f"{k}:{t.name}"
                tensors[names[t.name]] = replace(t, name=names[t.name])
        for t in _activations(graph.ins(case.node)):
            offsets[names[t.name]] = layout.inputs[case.node.name, t.name]
        at = layout.written
        for t in _activations(graph.outs(case.node)):
            offsets[names[t.name]] = at
            at += _aligned(t.nbytes)
        node = replace(
            case.node,
            name=f"case {k}",
            inputs=tuple(None if i is None else names[i] for i in case.node.inputs),
            outputs=tuple(names[o] for o in case.node.outputs),
        )
        nodes.append(node)
        calls[node.name] = case.call
        scratch[node.name] = at
    tensors[_PATTERN] = Tensor(_PATTERN, (layout.arena,), "int8")
    program = Graph("kernels", tensors, nodes, (_PATTERN,), ())
    return program, calls, Plan(layout.arena, layout.arena, (), {}, offsets, scratch)


def _count(
    graph: Graph,
    batch: Sequence[_Case],
    mcu: McuTarget,
    compiler: Compiler,
    optimize: Optimize,
    beside: Sequence[KernelCall],
) -> tuple[list[Cost], dict[str, int]]:
    from edgekit.devices.registry import open_device

    assert mcu.counted_on is not None
    layout = _layout(graph, batch)
    program, calls, plan = _program(graph, batch, layout)
    source = codegen.generate(program, calls, plan)
    code: dict[str, int] = {}
    with (
        tempfile.TemporaryDirectory(prefix="edgekit-kernels-") as tmp,
        open_device(mcu.counted_on, target=mcu.target) as device,
    ):
        folder = Path(tmp)
        built = calls | {f"beside {k}": call for k, call in enumerate(beside)}
        project = write_project(folder, program, built, source, mcu, optimize)
        elf, *_ = build_firmware(
            folder, project, plan, sum(source.const_bytes), mcu, compiler, optimize, code
        )
        device.push(folder / elf, elf)
        device.push_bytes(layout.pattern(), "in.bin")
        symbols = [s for s in source.layers if s]
        result = profile.execute(
            device, elf, ("profile", "in.bin"), [profile.INVOKE, *symbols, profile.END]
        )
    if result.trace is None:
        raise profile.runner_error(f"was not counted on {device.name}")
    sections = {c.name: c for c in result.trace.sections}
    timed = result.trace.cycles is not None
    costs = []
    for symbol in source.layers:
        count = sections.get(symbol or "", Count("", 0, 0))
        costs.append(Cost(count.instructions, count.cycles if timed else None))
    return costs, code


# -- what is kept ------------------------------------------------------------------------------


def _salt(mcu: McuTarget, compiler: Compiler, optimize: Optimize) -> str:
    """Everything but the call that a count depends on: core, flags, compiler, kernels, timing."""
    from edgekit.devices import timing

    digest = hashlib.sha256()
    core = (mcu.toolchain, mcu.virtual)
    if mcu.process is not None:
        core = (mcu.process, mcu.target.toolchain, mcu.target.virtual)  # type: ignore[assignment]
    flags = (*core, compiler.name, compiler.version, compiler.flags)
    digest.update(repr((_FORMAT, flags, OPTIMIZE_FLAGS[optimize])).encode())
    ours = [*sorted((kernels_dir() / "include").glob("*.h"))]
    ours += sorted(Path(timing.__file__).parent.glob("*.py"))
    for path in ours:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _key(salt: str, graph: Graph, batch: Sequence[_Case], beside: Sequence[KernelCall] = ()) -> str:
    """A hash of all that a program's counts depend on. Constants count with their values: some
    kernels choose their path a channel by its multiplier. The whole program is the unit, because an
    address that takes one instruction more or less to form belongs to its neighbours, too."""
    digest = hashlib.sha256(salt.encode())
    for case in batch:
        call = case.call
        shapes = [
            None if t is None else (t.dtype, t.shape, t.is_const)
            for t in (*graph.ins(case.node), *graph.outs(case.node))
        ]
        text = (call.variant, call.call, call.params_type, call.params, call.scratch_bytes, shapes)
        digest.update(repr(text).encode())
        for c in call.consts:
            digest.update(f"{c.name} {c.ctype} {c.align} {c.data.size};".encode())
            digest.update(np.ascontiguousarray(c.data).tobytes())
    sources = {s for call in (*(c.call for c in batch), *beside) for s in call.sources}
    for name in sorted(sources):
        digest.update(name.encode() + (kernels_dir() / name).read_bytes())
    return digest.hexdigest()[:40]


def _folder() -> Path | None:
    """Where costs are kept, None when there is no folder of the user's own."""
    from edgekit.devices.native.build import cache_dir

    try:
        return cache_dir().parent / "kernel-costs"
    except OSError:
        return None


class _Store:
    """One small JSON file a program. A folder that cannot be written only costs time."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def load(self, key: str, cases: int) -> tuple[list[Cost], dict[str, int]] | None:
        if self.folder is None:
            return None
        try:
            document: Any = json.loads((self.folder / f"{key}.json").read_text("utf-8"))
            code = {str(s): int(n) for s, n in document["code_bytes"].items()}
            costs = [Cost(int(i), None if c is None else int(c)) for i, c in document["costs"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return (costs, code) if len(costs) == cases else None

    def save(self, key: str, costs: Sequence[Cost], code: Mapping[str, int]) -> None:
        if self.folder is None:
            return
        document = {
            "costs": [[c.instructions, c.cycles] for c in costs],
            "code_bytes": dict(code),
        }
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            fd, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                json.dump(document, f, sort_keys=True)
            os.replace(temporary, self.folder / f"{key}.json")
