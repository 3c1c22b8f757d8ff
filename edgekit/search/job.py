"""``edgekit search`` and ``edgekit study`` as functions: folders in, documents out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.data import Dataset
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.search.folder import StudyFolder
from edgekit.search.ledger import one_at_a_time
from edgekit.search.loop import Loop, Watch
from edgekit.search.study import (
    SearchOptions,
    Study,
    export,
    make_study,
    run_study,
    show,
    trial_json,
)
from edgekit.search.winner import select
from edgekit.targets.base import Progress

ACTIONS = ("list", "show", "resume", "pareto", "export")


def search(
    model: Graph,
    target: str,
    data: Dataset,
    val: Dataset,
    out: str | Path,
    *,
    device: str | None = None,
    budgets: Sequence[str] = (),
    options: SearchOptions | None = None,
    larger: Sequence[Graph] = (),
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The document of ``edgekit search``: what ``select`` says about the winner, with ``pareto``,
    ``trials`` (how many of each state), ``prediction`` and ``seconds``."""
    options = replace(options or SearchOptions(), larger=tuple(larger))
    folder = make_study(
        model, target, data, val, out, device=device, budgets=budgets, options=options
    )
    if options.trials > int(folder.spec["trials"]):
        folder = folder.update(trials=options.trials)
    loop = run_study(folder, jobs=options.jobs, watch=watch, progress=progress)
    return finished(loop, progress)


def finished(loop: Loop, progress: Progress | None) -> dict[str, Any]:
    """The winner of a study whose trials are there, built and verified."""
    loop.ledger.close()
    study = Study.open(loop.folder)
    with one_at_a_time(loop.folder.path / ".winner.lock"):
        document = select(
            study, loop.folder.path / "winner", evaluator=loop.evaluator, progress=progress
        )
    listed = study.to_json()
    keys = ("target", "device", "objectives", "strategy", "seed", "quality", "axes", "pareto",
            "prediction", "counts")  # fmt: skip
    return {**document, **{k: listed[k] for k in keys}, "seconds": seconds_of(loop)}


def seconds_of(loop: Loop) -> dict[str, float]:
    """Where this process's time went. ``waiting``: for workers, which repair, compile and measure;
    ``overhead``: everything else, that is the machinery of the search."""
    spent = {k: round(v, 3) for k, v in loop.spent.items()}
    spent["overhead"] = round(max(0.0, loop.spent["all"] - loop.spent["waiting"]), 3)
    return spent


def study(
    path: str | Path,
    action: str,
    *,
    number: int | None = None,
    out: str | Path | None = None,
    trials: int | None = None,
    jobs: int | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The documents of ``edgekit study``."""
    if action not in ACTIONS:
        raise InputError(f"a study has no action '{action}'; it has {', '.join(ACTIONS)}")
    if action == "resume":
        return finished(
            run_study(
                StudyFolder.open(path), jobs=jobs, trials=trials, watch=watch, progress=progress
            ),
            progress,
        )
    opened = Study.open(path)
    if action == "list":
        return opened.to_json()
    if action == "show":
        if number is None:
            raise InputError("study show needs the number of a trial, such as: study STUDY show 7")
        return show(opened, number)
    if action == "pareto":
        front = opened.front()
        return {"study": str(opened.folder.path), "axes": list(opened.axes()),
                "pareto": [t.number for t in front], "trials": [trial_json(t) for t in front]}  # fmt: skip
    if out is None:
        raise InputError("study export needs a folder to write to: -o DIR")
    return export(opened, Path(out))
