"""Tuning: which register blocking every linear layer takes, measured on the device.

A round compiles the whole model with another candidate for every task at once and reads the cost of
each layer from the runner: the layers are measured where they will run, among their neighbours, on
any device that can run the runner, and no Python is needed there. Every candidate is put on record
(:mod:`.records`) as soon as it was tried, failures too, so that a run that was killed goes on where
it was.

MetaSchedule is not used. Its spaces do not contain these kernels, and the VNNI intrinsics that
TVM 0.27 would tensorise with are refused by the LLVM in its own package: they pass vectors of
32-bit integers where that LLVM declares vectors of bytes.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.devices.base import Kind
from edgekit.errors import EdgekitError, ToolchainError
from edgekit.graph.ir import Graph
from edgekit_targets.tvm_ import build, linear, worker
from edgekit_targets.tvm_.isa import CpuTarget
from edgekit_targets.tvm_.linear import Tile
from edgekit_targets.tvm_.records import Records

#: Library and its plan -> cost of each kernel by its function's name.
Measure = Callable[[Path, Sequence[Mapping[str, object]]], Mapping[str, float]]
COMPILE_TIMEOUT_S = 300.0


def tasks_of(graph: Graph, target: CpuTarget) -> dict[str, list[Tile]]:
    """Every tunable task of a graph with its candidates, the default first, the others shuffled
    (always alike). No TVM needed."""
    out: dict[str, list[Tile]] = {}
    for node in graph.nodes:
        if linear.is_tiled(node, graph):
            win = linear.window_of(node, graph)
            key = linear.task_key(node, win, graph.tensor(node.inputs[0]).dtype, target)
            if key not in out:
                first, *rest = linear.tiles(node, win, target)
                random.Random(key).shuffle(rest)
                out[key] = [first, *rest]
    return out


@dataclass(frozen=True)
class Tuned:
    """tasks: kernels that can be tuned. tried, failed: candidates in this run. before, after: cost
    of all tunable layers with the default and with the best tiles, milliseconds (kind ``measured``)
    or instructions (``simulated``)."""

    tasks: int
    tried: int
    failed: int
    before: float
    after: float


def tune_model(
    graph: Graph,
    target: CpuTarget,
    records: Records,
    measure: Measure,
    *,
    device: str,
    kind: Kind = "measured",
    trials: int = 12,
    progress: Callable[[str], None] | None = None,
    compile_timeout_s: float = COMPILE_TIMEOUT_S,
) -> Tuned:
    """Measure candidates until every task of ``graph`` has ``trials`` of them on record.

    device: what records are kept for. A candidate that does not compile or run, or takes too long,
    is recorded as such. Raises what compiling and measuring the defaults raises.
    """
    tasks = tasks_of(graph, target)
    run = _Run(graph, target, records, measure, device, kind, compile_timeout_s)
    known = {t: records.tried(t, device) for t in tasks}
    todo = {
        t: [c for c in candidates[:trials] if c not in known[t]] for t, candidates in tasks.items()
    }
    rounds = max((len(c) for c in todo.values()), default=0)
    for t, found in known.items():
        for tile, cost in found.items():
            run.learn(t, tile, cost)
    with tempfile.TemporaryDirectory() as name, worker.Session() as session:
        for k in range(rounds):
            now = {t: c[k] for t, c in todo.items() if k < len(c)}
            if progress:
                progress(f"tuning round {k + 1} of {rounds}: {len(now)} of {len(tasks)} kernels")
            first = not any(run.best.values())
            run.attempt(now, tasks, Path(name), session, must_work=first)
    default = {t: records.tried(t, device).get(c[0]) for t, c in tasks.items()}
    return Tuned(
        len(tasks),
        run.tried,
        run.failed,
        sum(v for v in default.values() if v is not None),
        sum(b[0] for b in run.best.values()),
    )


class _Run:
    def __init__(
        self,
        graph: Graph,
        target: CpuTarget,
        records: Records,
        measure: Measure,
        device: str,
        kind: Kind,
        timeout_s: float,
    ) -> None:
        self.graph, self.target, self.records = graph, target, records
        self.measure, self.device, self.kind = measure, device, kind
        self.timeout_s = timeout_s
        self.best: dict[str, tuple[float, Tile]] = {}
        self.tried = self.failed = 0

    def learn(self, task: str, tile: Tile, cost: float | None) -> None:
        if cost is not None and (task not in self.best or cost < self.best[task][0]):
            self.best[task] = (cost, tile)

    def attempt(
        self,
        now: Mapping[str, Tile],
        tasks: Mapping[str, list[Tile]],
        folder: Path,
        session: worker.Session,
        must_work: bool,
    ) -> None:
        """Compile and measure with these candidates, the others at their best; where that fails,
        halves of them, until the one that fails is known."""
        tiles = {t: self.best[t][1] if t in self.best else c[0] for t, c in tasks.items()}
        tiles |= now
        try:
            costs = self._costs(tiles, folder, session)
        except EdgekitError as e:
            if must_work:
                raise
            if len(now) == 1:
                ((task, tile),) = now.items()
                self.records.put(self.device, self.kind, [(task, tile, None, str(e))])
                self.tried, self.failed = self.tried + 1, self.failed + 1
                return
            items = list(now.items())
            for part in (items[: len(items) // 2], items[len(items) // 2 :]):
                self.attempt(dict(part), tasks, folder, session, False)
            return
        self.records.put(
            self.device, self.kind, [(t, tiles[t], cost, None) for t, cost in costs.items()]
        )
        self.tried += len(now)
        for task, cost in costs.items():
            self.learn(task, tiles[task], cost)

    def _costs(
        self, tiles: Mapping[str, Tile], folder: Path, session: worker.Session
    ) -> dict[str, float]:
        library = folder / "model.so"
        answer = build.compile_library(
            self.graph,
            self.target,
            library,
            tiles={t: tile.to_json() for t, tile in tiles.items()},
            timeout_s=self.timeout_s,
            session=session,
        )
        found = self.measure(library, answer["plan"])
        costs: dict[str, list[float]] = {}
        for row in answer["plan"]:
            if "function" in row:
                if row["function"] not in found:
                    raise ToolchainError(f"no cost was taken of '{row['function']}'")
                costs.setdefault(answer["tasks"][row["name"]], []).append(found[row["function"]])
        return {t: min(v) for t, v in costs.items()}
