"""The commands that close the loop: search, study, select."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.common import (
    Data,
    DeviceName,
    InputShape,
    Json,
    Model,
    TargetName,
    app,
    emit,
    progress,
    shapes_of,
)
from edgekit.errors import InputError

Budgets = Annotated[
    list[str] | None,
    typer.Option("--budget", help="metric<=number, such as latency_ms<=20 (repeatable)"),
]
StudyDir = Annotated[Path, typer.Argument(help="the folder of a study (made by search)")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="trials at the same time")]
Live = Annotated[
    bool, typer.Option("--live", help="serve the report on 127.0.0.1 while the search runs")
]
Storage = Annotated[
    str | None, typer.Option("--storage", help="URL of a database (default: SQLite in STUDY)")
]


@app.command()
def search(
    model: Model,
    target: TargetName,
    data: Data,
    out: Annotated[Path, typer.Option("-o", "--out", help="the study's folder")],
    val: Annotated[
        str | None, typer.Option("--val", help="samples that nothing is fitted to, for comparing")
    ] = None,
    device: DeviceName = None,
    budget: Budgets = None,
    objective: Annotated[
        str, typer.Option("--objective", help="what decides, the first metric first")
    ] = "accuracy,latency_ms",
    trials: Annotated[int, typer.Option("--trials", "-n", min=1)] = 100,
    jobs: Jobs = None,
    strategy: Annotated[
        str,
        typer.Option("--strategy", help="knapsack, netadapt, tpe, nsga2, random, uniform or macs"),
    ] = "knapsack",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    larger: Annotated[
        list[str] | None,
        typer.Option(
            "--larger", help="another network for the same task to start from (repeatable)"
        ),
    ] = None,
    optimize: Annotated[
        str, typer.Option("--optimize", help="what the backend prefers; several: speed,ram")
    ] = "speed",
    engine: Annotated[
        str, typer.Option("--engine", help="of the target, or auto; several: tvm,litert")
    ] = "auto",
    factorize: Annotated[
        bool, typer.Option("--factorize", help="low-rank forms of the layers, too")
    ] = False,
    multiple: Annotated[
        int | None, typer.Option("--multiple", min=1, help="channels kept (default: the target's)")
    ] = None,
    importance: Annotated[
        str, typer.Option("--importance", help="what ranks channels: surgeon, fisher, l2, ...")
    ] = "surgeon",
    finetune_steps: Annotated[
        int, typer.Option("--finetune-steps", min=0, help="train the best ones so many steps")
    ] = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", help="seconds that a phase of a trial may take")
    ] = 900.0,
    storage: Storage = None,
    executor: Annotated[
        str, typer.Option("--executor", help="local, or ray (pip install 'edgekit[ray]')")
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", help="of a Ray cluster (default: one of its own)")
    ] = None,
    live: Live = False,
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """Find the best network for a device within budgets, by what is measured on it."""
    from edgekit import api
    from edgekit.search.study import SearchOptions

    if not timeout > 0:
        raise InputError(f"--timeout {timeout} is not a positive number of seconds")
    options = SearchOptions(
        objective=objective,
        strategy=strategy,
        trials=trials,
        jobs=jobs or 1,
        seed=seed,
        optimize=_names(optimize, "--optimize"),
        engines=_names(engine, "--engine"),
        ranks=factorize,
        multiple=multiple,
        importance=importance,
        timeout=timeout,
        storage=storage,
        executor=executor,
        address=address,
        finetune_steps=finetune_steps,
    )
    with _Watch(out, live) as watch:
        document = api.search(
            model,
            target,
            data,
            out,
            val=val,
            device=device,
            budgets=budget,
            options=options,
            larger=larger,
            input_shapes=shapes_of(input_shape),
            watch=watch,
            progress=progress,
        )
    emit(document, json, _searched)
    _exit(document)


@app.command()
def study(
    folder: StudyDir,
    action: Annotated[str, typer.Argument(help="list, show N, resume, pareto or export")] = "list",
    number: Annotated[int | None, typer.Argument(help="of the trial to show")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="where export writes")] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", "-n", min=1, help="resume: go on to so many")
    ] = None,
    jobs: Jobs = None,
    live: Live = False,
    json: Json = False,
) -> None:
    """What a search tried, and why the winner won; resume continues it."""
    from edgekit import api

    show = {"list": _listed, "show": _trial, "pareto": _listed, "export": _exported}
    with _Watch(folder, live and action == "resume") as watch:
        document = api.study(
            folder,
            action,
            number=number,
            out=out,
            trials=trials,
            jobs=jobs,
            watch=watch if action == "resume" else None,
            progress=progress,
        )
    emit(document, json, show.get(action, _searched))
    if action == "resume":
        _exit(document)


@app.command()
def select(
    folder: StudyDir,
    out: Annotated[Path, typer.Option("-o", "--out", help="the artifact folder to write")],
    budget: Budgets = None,
    pick: Annotated[int | None, typer.Option("--pick", help="this trial, not the winner")] = None,
    json: Json = False,
) -> None:
    """The winner of a study (or another trial), compiled and verified."""
    from edgekit import api

    document = api.select(folder, out, pick=pick, budgets=budget, progress=progress)
    emit(document, json, _selected)
    _exit(document, picked=pick is not None)


def _exit(document: dict[str, Any], picked: bool = False) -> None:
    """1 where no network keeps the budgets, or the artifact's bytes are wrong."""
    winner = document["winner"]
    if winner is None or not winner["verify"]["passed"] or (not document["met"] and not picked):
        raise typer.Exit(1)


def _names(text: str, option: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
    if not names:
        raise InputError(f"{option} '{text}' names nothing")
    return names


# -- while it runs ---------------------------------------------------------------------------------


class _Watch:
    """Progress, best so far and time left, on stderr; with ``live`` the report over HTTP."""

    def __init__(self, folder: Path, live: bool) -> None:
        self.folder, self.live = folder, live
        self.server: Any = None
        self.began: tuple[float, int] | None = None
        self.last = 0.0
        self.shown = -1

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            self.server.close()

    def __call__(self, loop: Any) -> None:
        if self.live and self.server is None:
            from edgekit.search.live import LiveServer

            self.server = LiveServer(self.folder)
            progress(f"live report at {self.server.url}")
        now = time.monotonic()
        if now - self.last < 0.5:
            return
        self.last = now
        progress(self.line(loop))

    def line(self, loop: Any) -> str:
        from edgekit.search.trial import best

        settled, running = loop.history()
        total, done = loop.plan.total, len(settled)
        if self.began is None:
            self.began = (time.monotonic(), done)
        since, first = self.began
        text = f"searching: {done} of {total} trials"
        found = best(settled, loop.plan.objectives, loop.plan.budgets)
        if found is not None:
            figures = [
                f"{o} {found.value(o):.6g}"
                for o in loop.plan.objectives
                if found.value(o) is not None
            ]
            text += f", best {', '.join(figures)} (trial {found.number})"
        if done > first:
            left = (time.monotonic() - since) / (done - first) * (total - done)
            text += f", {_duration(left)} left"
        return text + (f", {len(running)} running" if len(running) > 1 else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# -- tables ----------------------------------------------------------------------------------------


def _figure(metric: str, value: Any) -> str:
    if value is None:
        return ""
    if metric in ("accuracy", "accuracy_drop"):
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from edgekit.cli.compression import _table as table

    table(title, columns, rows)


def _metrics(d: dict[str, Any]) -> list[str]:
    asked = [*d["axes"], *d.get("objectives", [])]
    asked += [b.split("<")[0].split(">")[0] for b in d.get("budgets", [])]
    return list(dict.fromkeys(asked))


def _listed(d: dict[str, Any]) -> None:
    names = _metrics(d)
    front = set(d["pareto"])
    rows = []
    for t in d["trials"]:
        mark = "*" if t["number"] in front else ""
        won = " winner" if t["number"] == d.get("winner") else ""
        rows.append([
            f"{t['number']}{mark}", t["state"] + won, *(_figure(m, t["values"].get(m)) for m in names),
            "" if t["off"] is None else f"{t['off']:+.1%}", (t["why"] or t["tag"].get("as", ""))[:60],
        ])  # fmt: skip
    _table(d["study"], ["trial", "state", *names, "prediction off", "what, or why not"], rows)
    print("* on the front of " + " and ".join(d["axes"]))
    if "prediction" in d:
        _prediction(d["prediction"])


def _prediction(p: dict[str, Any]) -> None:
    if p["compared"]:
        print(
            f"predicted {p['metric']}: off by {p['median_error']:.1%} in the median, wrong (beyond its "
            f"error) in {p['wrong']} of {p['compared']} measured trials"
        )


def _trial(t: dict[str, Any]) -> None:
    import yaml

    rows = [[m, _figure(m, v), t["kinds"].get(m, "")] for m, v in t["values"].items()]
    _table(f"trial {t['number']}: {t['state']}", ["metric", "value", "kind"], rows)
    if t["why"]:
        print(t["why"])
    rows = [
        [la["name"], la["op"], *(_figure(k, la[k]) for k in
         ("macs_before", "macs_after", "cycles_before", "cycles_after"))] for la in t["layers"]
    ]  # fmt: skip
    if rows:
        _table("layers", ["layer", "op", "MACs", "now", "cycles", "now"], rows)
    print(yaml.safe_dump(t["recipe"], sort_keys=False))


def _exported(d: dict[str, Any]) -> None:
    print(f"{d['out']}: {', '.join(d['files'])}")


def _searched(d: dict[str, Any]) -> None:
    _selected(d)
    _prediction(d["prediction"])
    print(f"study: {d['study']}")


def _selected(d: dict[str, Any]) -> None:
    w = d["winner"]
    if w is None:
        print(d["message"])
        return
    rows = [[m, _figure(m, v)] for m, v in w["values"].items() if v is not None]
    _table(f"trial {w['number']} -> {w['artifact']}", ["metric", "value"], rows)
    v = w["verify"]
    print(
        f"verified: {v['mismatched_bytes']} wrong bytes in {v['samples']} samples on {v['device']}"
        + ("" if d["met"] else "; it does not keep all budgets")
    )
