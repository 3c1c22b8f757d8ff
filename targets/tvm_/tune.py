"""Tuning: which register blocking every linear layer takes, measured on the device.

A *task* is a kernel's operator, types, geometry and CPU target
(:func:`edgekit_targets.tvm_.linear.task_key`); a *record* is the best tile found for it with one
version of the tools. A round compiles the whole model with another candidate for every task at
once and reads the time of each layer from the runner: the layers are measured where they will
run, among their neighbours, on any device that can run the runner, and no Python is needed there.

MetaSchedule is not used. Its spaces do not contain these kernels, and the VNNI intrinsics that
TVM 0.27 would tensorise with are refused by the LLVM in its own package: they pass vectors of
32-bit integers where that LLVM declares vectors of bytes.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import EdgekitError, InputError, ToolchainError
from edgekit.graph.ir import Graph
from edgekit_targets.tvm_ import build, check, linear, runner
from edgekit_targets.tvm_.isa import CpuTarget
from edgekit_targets.tvm_.linear import Tile

SCHEMA = 1
Measure = Callable[[Path], Mapping[str, float]]  #: folder -> milliseconds of each function


class Records:
    """The database: a JSON file. One record a task, device and versions of the tools.

    device: a name for where times were taken (``host``, a board's name): a record of one device is
    not used for another.
    """

    def __init__(self, path: Path, device: str = "host") -> None:
        self.path, self.device = path, device
        self._all: dict[str, dict[str, object]] = {}
        if not path.exists():
            return
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']}")
            self._all = {
                str(k): {"tile": Tile.from_json(v["tile"]).to_json(), "ms": float(v["ms"])}
                for k, v in document["records"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
            raise InputError(
                f"'{path.name}' is no file of tuning records ({e}); delete it, or give another"
            ) from None

    def _key(self, task: str) -> str:
        versions = ",".join(f"{k}={v}" for k, v in sorted(check.tools().items()))
        return f"{task}|{self.device}|{versions}"

    def tiles(self, tasks: Sequence[str]) -> dict[str, list[int]]:
        """The records of these tasks, as ``compile_model`` takes them; others are left out."""
        found = {t: self._all.get(self._key(t)) for t in tasks}
        return {t: list(r["tile"]) for t, r in found.items() if r}  # type: ignore[call-overload]

    def put(self, task: str, tile: Tile, ms: float) -> None:
        """Remember ``tile``, unless a faster one is on record."""
        key = self._key(task)
        old = self._all.get(key)
        if old is None or ms < float(old["ms"]):  # type: ignore[arg-type]
            self._all[key] = {"tile": tile.to_json(), "ms": ms}

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"schema": SCHEMA, "records": self._all}, indent=1, sort_keys=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.path)


def tasks_of(graph: Graph, target: CpuTarget) -> dict[str, list[Tile]]:
    """Every tunable task of a graph with its candidates, the default first. No TVM needed."""
    out: dict[str, list[Tile]] = {}
    for node in graph.nodes:
        if linear.is_tiled(node, graph):
            win = linear.window_of(node, graph)
            key = linear.task_key(node, win, graph.tensor(node.inputs[0]).dtype, target)
            out.setdefault(key, linear.tiles(node, win, target))
    return out


@dataclass(frozen=True)
class Tuned:
    """before, after: milliseconds of all tunable layers with the default and the best tiles."""

    tasks: int
    rounds: int
    failed: int
    before: float
    after: float


def _inputs(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    out = []
    for name in graph.inputs:
        t = graph.tensor(name)
        shape = (1, *(t.shape[1:] if t.shape[:1] == (1,) else t.shape))
        if t.is_float:
            out.append(rng.standard_normal(shape).astype(t.dtype))
        else:
            out.append(rng.integers(0, 100, shape).astype(t.dtype))
    return out


def measure_here(graph: Graph, target: CpuTarget, repeats: int = 100) -> Measure:
    """Measure on this machine. InputError where the target cannot run here without emulation."""
    import platform

    if target.arch != platform.machine():
        raise InputError(
            f"{target.arch} code cannot be tuned on this machine; a device of that kind is needed"
        )

    def measure(folder: Path) -> Mapping[str, float]:
        return runner.time_layers(folder, graph, target, _inputs(graph), repeats, fastest=True)

    return measure


def tune_model(
    graph: Graph,
    target: CpuTarget,
    records: Records,
    *,
    rounds: int = 12,
    measure: Measure | None = None,
    progress: Callable[[str], None] | None = None,
) -> Tuned:
    """Measure candidates for every task of ``graph`` and put the best ones on record (and save).

    rounds: how many compilations; the first is that of the defaults. measure: how a folder is
    timed on the device (default: on this machine). A candidate that does not compile or run
    counts as infinitely slow. Raises what compiling and measuring the defaults raises.
    """
    measure = measure or measure_here(graph, target)
    tasks = tasks_of(graph, target)
    order = {}
    for key, candidates in tasks.items():
        rest = candidates[1:]
        random.Random(key).shuffle(rest)
        order[key] = [candidates[0], *rest]
    longest = max((len(c) for c in order.values()), default=0)
    rounds = max(1, min(rounds, longest))
    best: dict[str, tuple[float, Tile]] = {}
    before: dict[str, float] = {}
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build.build_runner(target, folder)
        (folder / "runner").chmod(0o755)
        (folder / "model.io").write_text(build.describe(graph), encoding="utf-8")
        for k in range(rounds):
            # tasks with few candidates repeat their best, and are measured once more
            now = {
                key: c[k] if k < len(c) else best.get(key, (0.0, c[0]))[1]
                for key, c in order.items()
            }
            if progress:
                progress(f"tuning round {k + 1} of {rounds}: {len(now)} kernels")
            try:
                answer = build.compile_library(
                    graph,
                    target,
                    folder / "fresh.so",
                    tiles={key: t.to_json() for key, t in now.items()},
                )
                shutil.move(folder / "fresh.so", folder / "model.so")
                times = measure(folder)
            except EdgekitError:
                if k == 0:
                    raise
                failed += 1
                continue
            sums: dict[str, float] = {}
            for row in answer["plan"]:
                if "function" in row:
                    if row["function"] not in times:
                        raise ToolchainError(f"no time was taken of '{row['function']}'")
                    key = answer["tasks"][row["name"]]
                    sums[key] = sums.get(key, 0.0) + times[row["function"]]
            before = before or sums
            for key, ms in sums.items():
                if key not in best or ms < best[key][0]:
                    best[key] = (ms, now[key])
    for key, (ms, tile) in best.items():
        records.put(key, tile, ms)
    records.save()
    return Tuned(
        len(tasks), rounds, failed, sum(before.values()), sum(ms for ms, _ in best.values())
    )
