"""Studies as the command line knows them: search, resume, list, show, Pareto front, export."""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import json_text, write_text
from edgekit.data import Dataset
from edgekit.errors import EdgekitError, InputError
from edgekit.graph.ir import Graph
from edgekit.search import metrics
from edgekit.search.executors import Executor, LocalExecutor
from edgekit.search.folder import StudyFolder, without_password
from edgekit.search.ledger import Ledger
from edgekit.search.loop import Loop, Plan, Watch
from edgekit.search.metrics import QUALITY, parse_budget, parse_objectives
from edgekit.search.space import Fidelity
from edgekit.search.strategies import NAMES
from edgekit.search.trial import Trial, best, pareto, rank
from edgekit.targets.base import Progress

QUICK = Fidelity(samples=300, rows=4_000, ridge=1e-2)
THOROUGH = Fidelity(samples=1000, rows=16_000, ridge=1e-3)


@dataclass(frozen=True)
class SearchOptions:
    """What a search may be told besides model, target, data and budgets.

    larger: further networks for the same task to start from. optimize, engines: what the backend may be
    asked to prefer, and engines; several make a dimension of the space. multiple: of channels kept
    (None: the target's). data_samples, val_samples: most that are kept in the study. timeout: seconds a
    phase of a trial may take. storage: URL of a database (None: SQLite in the folder). executor: "local" or
    "ray"; address: of the Ray cluster (None: one of its own, on this machine). predictor: use the
    calibrated latency table where there is one.
    """

    objective: str = "latency_ms"
    strategy: str = "knapsack"
    trials: int = 100
    jobs: int = 1
    seed: int = 0
    larger: Sequence[Graph] = ()
    optimize: Sequence[str] = ("speed",)
    engines: Sequence[str] = ("auto",)
    ranks: bool = False
    multiple: int | None = None
    smallest: float = 0.125
    importance: str = "surgeon"
    importance_samples: int = 1000
    data_samples: int = 4000
    val_samples: int = 2000
    timeout: float = 900.0
    storage: str | None = None
    executor: str = "local"
    address: str | None = None
    predictor: bool = True
    quick: Fidelity = QUICK
    thorough: Fidelity = THOROUGH
    finetune_steps: int = 0


def _checked(options: SearchOptions, budgets: Sequence[str]) -> None:
    if options.strategy not in NAMES:
        raise InputError(f"strategy '{options.strategy}' is unknown; known are {', '.join(NAMES)}")
    for name, least in (("trials", 1), ("jobs", 1), ("seed", 0)):
        if getattr(options, name) < least:
            raise InputError(f"--{name} {getattr(options, name)} is less than {least}")
    if options.executor not in ("local", "ray"):
        raise InputError(f"executor '{options.executor}' is unknown; known are local and ray")
    known = ("balanced", "speed", "size", "ram")
    for o in options.optimize:
        if o not in known:
            raise InputError(f"--optimize '{o}' is unknown; known are {', '.join(known)}")
    parse_objectives(options.objective)
    for b in budgets:
        parse_budget(b)


def make_study(
    model: Graph,
    target: str,
    data: Dataset,
    val: Dataset,
    out: str | Path,
    *,
    device: str | None = None,
    budgets: Sequence[str] = (),
    options: SearchOptions | None = None,
) -> StudyFolder:
    """Write the folder of a study (or open it, where it is the same one). InputError for anything that
    cannot work, before any work is done."""
    from edgekit import __version__
    from edgekit.compress.importance import NAMES as IMPORTANCES
    from edgekit.compress.job import float_form, float_samples
    from edgekit.compress.simplify import clean
    from edgekit.compress.steps import chosen
    from edgekit.devices import open_device
    from edgekit.targets import registry

    options = options or SearchOptions()
    _checked(options, budgets)
    if options.importance not in IMPORTANCES:
        raise InputError(
            f"importance '{options.importance}' is unknown; known are {', '.join(IMPORTANCES)}"
        )
    if Path(target).is_file():  # a YAML file of the user's: the study is continued from anywhere
        target = os.path.abspath(target)
    chip = registry.get_target(target)
    backend = registry.get_backend(chip.family)
    device = device or backend.default_device(chip)
    open_device(device, target=chip).close()
    names = {e.name for e in backend.engines(chip)}
    for e in options.engines:
        if e != "auto" and e not in names:
            raise InputError(
                f"target '{chip.name}' has no engine '{e}'; it has {', '.join(sorted(names))}"
            )
    originals = [model, *options.larger]
    bases = [clean(float_form(g)) for g in originals]
    for g, o in zip(bases[1:], originals[1:], strict=True):
        same = [
            [(bases[0].tensor(t).shape) for t in bases[0].inputs] == [g.tensor(t).shape for t in g.inputs],
            [(bases[0].tensor(t).shape) for t in bases[0].outputs]
            == [g.tensor(t).shape for t in g.outputs],
        ]  # fmt: skip
        if not all(same):
            raise InputError(
                f"model '{o.name}' has other inputs or outputs than '{model.name}'; networks to start "
                "from do the same task"
            )
    samples = float_samples(model, chosen(data, options.data_samples, options.seed))
    checks = float_samples(model, chosen(val, options.val_samples, options.seed))
    assert samples is not None and checks is not None
    if len(samples) < 2:
        raise InputError(
            f"{samples.source} holds {len(samples)} samples; a search needs at least 2"
        )
    spec = {
        "edgekit": __version__,
        "study_name": f"{Path(os.path.abspath(out)).name}-{uuid.uuid4().hex[:12]}",
        "target": target,
        "device": device,
        "objectives": list(parse_objectives(options.objective)),
        "budgets": [str(parse_budget(b)) for b in budgets],
        "strategy": options.strategy,
        "seed": options.seed,
        "trials": options.trials,
        "jobs": options.jobs,
        "executor": {"name": options.executor, "address": options.address},
        "storage": without_password(options.storage),
        "timeout": options.timeout,
        "prices": _table(options, chip.name, device),
        "finetune_steps": options.finetune_steps,
        "fidelity": {"quick": asdict(options.quick), "thorough": asdict(options.thorough)},
        "space": {
            "multiple": options.multiple,
            "ranks": options.ranks,
            "optimize": list(options.optimize),
            "engines": list(options.engines),
            "smallest": options.smallest,
            "importance": options.importance,
            "importance_samples": options.importance_samples,
        },
    }
    folder = StudyFolder.create(out, spec, bases, originals, samples, checks)
    folder.storage = options.storage
    return folder


def _table(options: SearchOptions, target: str, device: str) -> str | None:
    """Which latency table the study starts from, if the device was calibrated: decided once, so that a
    study goes on as it began."""
    if not options.predictor or options.strategy == "macs":
        return None
    from edgekit.profile.predictor import load_predictor

    try:
        return load_predictor(target, device, options.engines[0], options.optimize[0]).table_id
    except EdgekitError:
        return None


def run_study(
    folder: StudyFolder,
    *,
    jobs: int | None = None,
    trials: int | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Loop:
    """Work on a study until it has its trials; another process may do so at the same time."""
    if trials is not None and trials > int(folder.spec["trials"]):
        folder = folder.update(trials=trials)
    say = progress or (lambda _line: None)
    loop = Loop(folder, lambda: executor_of(folder, jobs), watch, predictor_of(folder, say))
    loop.run()
    return loop


def executor_of(folder: StudyFolder, jobs: int | None) -> Executor:
    spec = folder.spec
    count = int(jobs or spec["jobs"])
    if spec["executor"]["name"] == "ray":
        from edgekit.search.ray_ import RayExecutor

        return RayExecutor(folder, count, float(spec["timeout"]), spec["executor"]["address"])
    return LocalExecutor(folder.path, count, float(spec["timeout"]))


def predictor_of(folder: StudyFolder, say: Callable[[str], None]) -> Any:
    """The calibrated predictor that the study began with, or None."""
    spec = folder.spec
    if spec["prices"] is None:
        return None
    from edgekit.profile.predictor import load_predictor

    try:
        found = load_predictor(
            spec["target"],
            spec["device"],
            spec["space"]["engines"][0],
            spec["space"]["optimize"][0],
        )
    except EdgekitError as e:
        say(f"the study goes on without its latency table ({e})")
        return None
    if found.table_id != spec["prices"]:
        say("the latency table has changed since the study began")
    return found


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """A study's trials, read once."""

    folder: StudyFolder
    plan: Plan
    trials: tuple[Trial, ...]

    @staticmethod
    def open(path: str | Path | StudyFolder) -> Study:
        folder = path if isinstance(path, StudyFolder) else StudyFolder.open(path)
        plan = Plan.of(folder)
        ledger = Ledger(folder, plan.objectives, plan.budgets)
        try:
            return Study(folder, plan, tuple(ledger.trials()))
        finally:
            ledger.close()

    @property
    def winner(self) -> Trial | None:
        """The best measured trial that keeps the budgets."""
        found = self.closest
        if found is not None and metrics.feasible(self.plan.budgets, found.values):
            return found
        return None

    @property
    def closest(self) -> Trial | None:
        """The best measured trial, budgets or not."""
        return best(self.trials, self.plan.objectives, self.plan.budgets)

    def ranked(self) -> list[Trial]:
        measured = [t for t in self.trials if t.measured]
        return sorted(measured, key=lambda t: rank(t, self.plan.objectives, self.plan.budgets))

    def axes(self) -> tuple[str, str]:
        """Quality and cost that the front is about, whatever the objectives."""
        asked = [*self.plan.objectives, *(b.metric for b in self.plan.budgets)]
        quality = next((m for m in self.plan.objectives if m in QUALITY), "accuracy")
        cost = next((m for m in asked if m not in QUALITY), metrics.cost_metric((), ()))
        return quality, cost

    def front(self) -> list[Trial]:
        return pareto(self.trials, self.axes())

    def get(self, number: int) -> Trial:
        for t in self.trials:
            if t.number == number:
                return t
        raise InputError(
            f"study '{self.folder.path.name}' has no trial {number}; it has {len(self.trials)} "
            "trials, numbered from 0"
        )

    def prediction(self) -> dict[str, Any]:
        """How often the predicted cost was wrong: of the trials that were measured."""
        offs, wrong = [], 0
        for t in self.trials:
            if t.off is None or not t.predicted:
                continue
            offs.append(abs(t.off))
            claimed = float(t.predicted["error"]) / max(float(t.predicted["value"]), 1e-30)
            wrong += abs(t.off) > claimed
        return {
            "metric": self.plan.metric,
            "compared": len(offs),
            "wrong": wrong,
            "median_error": float(np.median(offs)) if offs else None,
            "p95_error": float(np.quantile(offs, 0.95)) if offs else None,
            "first_half": float(np.median(offs[: len(offs) // 2])) if len(offs) > 3 else None,
            "second_half": float(np.median(offs[len(offs) // 2 :])) if len(offs) > 3 else None,
        }

    def binding(self) -> list[dict[str, Any]]:
        """What keeps every trial from all budgets: each missed budget with the best that was reached,
        alone and among the trials that keep the others."""
        measured = [t for t in self.trials if t.measured]
        found = []
        closest = self.closest
        if closest is None:
            return []
        for b in self.plan.budgets:
            value = closest.value(b.metric)
            if b.violation(value) <= 0:
                continue
            others = [o for o in self.plan.budgets if o is not b]
            keeping = [t for t in measured if metrics.feasible(others, t.values)]
            found.append({
                "budget": str(b), "value": value, "limit": b.limit,
                "best": _extreme(measured, b.metric), "best_with_others": _extreme(keeping, b.metric),
            })  # fmt: skip
        return found

    def to_json(self) -> dict[str, Any]:
        """The document of ``study list``."""
        spec = self.folder.spec
        states = [t.state for t in self.trials]
        winner, closest = self.winner, self.closest
        axes = self.axes()
        return {
            "study": str(self.folder.path),
            "models": [m["name"] for m in spec["models"]],
            "target": spec["target"],
            "device": spec["device"],
            "objectives": list(self.plan.objectives),
            "budgets": [str(b) for b in self.plan.budgets],
            "strategy": self.plan.strategy,
            "seed": self.plan.seed,
            "quality": "accuracy" if spec["val"]["labels"] else "agreement",
            "asked": self.plan.trials,
            "counts": {s: states.count(s) for s in sorted(set(states))},
            "winner": None if winner is None else winner.number,
            "closest": None if closest is None else closest.number,
            "binding": [] if winner is not None else self.binding(),
            "axes": list(axes),
            "pareto": [t.number for t in self.front()],
            "prediction": self.prediction(),
            "trials": [trial_json(t) for t in self.trials],
        }


def _extreme(trials: Sequence[Trial], metric: str) -> dict[str, Any] | None:
    known = [t for t in trials if t.value(metric) is not None]
    if not known:
        return None
    t = min(known, key=lambda t: metrics.loss(metric, t.value(metric)))
    return {"trial": t.number, "value": t.value(metric)}


def trial_json(trial: Trial) -> dict[str, Any]:
    document = trial.to_json()
    document["feasible"] = None
    return {k: v for k, v in document.items() if k != "feasible"}


def layers_of(study: Study, trial: Trial) -> list[dict[str, Any]]:
    """Per layer of the network as given: cost before (the uncut trial) and after."""
    from edgekit.search.folder import Cache

    cache = Cache(study.folder.cache)

    def profile(t: Trial | None) -> list[dict[str, Any]]:
        key = None if t is None else t.tag.get("measured")
        document = None if key is None else cache.json(str(key), "profile.json")
        return [] if document is None else list(document["layers"])

    base = trial.point.get("base", 0)
    uncut = next(
        (t for t in study.trials
         if t.measured and t.tag.get("as") == "uncut" and t.point.get("base", 0) == base),
        None,
    )  # fmt: skip
    before, after = profile(uncut), profile(trial)
    there = {la["name"]: la for la in after}
    rows = []
    for la in before:
        mine = there.pop(la["name"], None)
        rows.append(_row(la, la, mine))
    rows += [_row(la, None, la) for la in there.values()]
    return rows


def _row(layer: dict[str, Any], before: Any, after: Any) -> dict[str, Any]:
    def of(la: Any, key: str) -> Any:
        return None if la is None else la.get(key)

    return {
        "name": layer["name"], "op": layer["op"],
        **{f"{k}_before": of(before, k) for k in ("macs", "cycles", "time_ms", "output_shapes", "variant")},
        **{f"{k}_after": of(after, k) for k in ("macs", "cycles", "time_ms", "output_shapes", "variant")},
    }  # fmt: skip


def show(study: Study, number: int) -> dict[str, Any]:
    """The document of ``study show N``."""
    trial = study.get(number)
    over = metrics.violations(study.plan.budgets, trial.values)
    document = trial_json(trial)
    document["budgets"] = [
        {"budget": str(b), "value": trial.value(b.metric), "kept": over[str(b)] <= 0}
        for b in study.plan.budgets
    ]
    document["layers"] = layers_of(study, trial)
    document["model"] = f"models/{trial.point.get('base', 0)}.ekg"
    return document


def export(study: Study, out: Path) -> dict[str, Any]:
    """The front's recipes as files, and all trials as a table: ``recipe-N.yaml``, ``trials.csv``,
    ``study.json``. Returns the names."""
    import yaml

    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"output '{out}' is there and not empty; name a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    front = study.front()
    winner = study.winner
    chosen = {t.number: t for t in [*front, *([winner] if winner else [])]}
    files = []
    for number, t in sorted(chosen.items()):
        head = (
            f"# trial {number} of {study.folder.path.name}: "
            + ", ".join(f"{k} {v:g}" for k, v in sorted(t.values.items()) if v is not None)
            + f"\n# edgekit compress STUDY/models/{t.point.get('base', 0)}.ekg --target "
            f"{study.folder.spec['target']} --recipe recipe-{number}.yaml --data DATA -o OUT.ekg"
            f"\n# edgekit compile OUT.ekg --optimize {(t.compile or {}).get('optimize')} "
            f"--engine {(t.compile or {}).get('engine')}\n"
        )
        name = f"recipe-{number}.yaml"
        write_text(out / name, head + yaml.safe_dump(dict(t.recipe or {}), sort_keys=False))
        files.append(name)
    table = io.StringIO()
    columns = [m for m in metrics.METRICS if any(t.value(m) is not None for t in study.trials)]
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["number", "state", "rung", *columns, "predicted", "off", "why"])
    for t in study.trials:
        rows.writerow([
            t.number, t.state, t.rung or "", *("" if (v := t.value(m)) is None else v for m in columns),
            "" if not t.predicted else t.predicted["value"], "" if t.off is None else t.off, t.why or "",
        ])  # fmt: skip
    write_text(out / "trials.csv", table.getvalue())
    write_text(out / "study.json", json_text(study.to_json()))
    return {"study": str(study.folder.path), "out": str(out),
            "files": [*files, "trials.csv", "study.json"]}  # fmt: skip
