"""The winner (or any other point of a study), compiled into an artifact and verified.

The accuracy by which a trial was chosen comes from a fast interpreter; the winner's is computed again from
the oracle's bytes, and a winner that then misses a budget gives way to the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.search import metrics
from edgekit.search.evaluate import CALIBRATION, Evaluator
from edgekit.search.space import Fidelity
from edgekit.search.study import Study, trial_json
from edgekit.search.trial import Trial

#: Winners that are tried one after the other, and samples that are run on the device to verify one.
_TRIES, VERIFY_SAMPLES = 12, 32


def fidelity_of(trial: Trial) -> Fidelity:
    """What the trial's recipe was made with."""
    steps = {s["step"]: s for s in (trial.recipe or {}).get("steps", [])}
    fit = steps.get("reconstruct", {})
    return Fidelity(
        fit.get("samples", 64), fit.get("rows", 1000), fit.get("ridge", 1e-3),
        steps.get("distill", {}).get("steps", 0),
    )  # fmt: skip


def build(
    study: Study, evaluator: Evaluator, trial: Trial, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Compile a trial's network into ``out``, profile and verify it: ``artifact``, ``profile``,
    ``verify``, ``report``, ``values`` (with the accuracy of the oracle's bytes)."""
    from edgekit import api
    from edgekit.compress.job import says_real
    from edgekit.targets.base import CompileOptions

    spec = study.folder.spec
    if trial.key is None:
        raise InputError(f"trial {trial.number} has no network: {trial.why or trial.state}")
    if evaluator.cache.get(trial.key) is None:  # the cache was emptied: make it again
        evaluator.assess(dict(trial.point), fidelity_of(trial))
    graph = evaluator.graph_of(trial.key)
    options = trial.compile or {}
    say(f"compiling trial {trial.number}")
    art = api.compile(
        graph, spec["target"], out, data=evaluator.data, calibration_samples=CALIBRATION,
        options=CompileOptions(options.get("engine", "auto"), options.get("optimize", "balanced")),  # type: ignore[arg-type]
    )  # fmt: skip
    say("profiling")
    profile = api.profile(art, device=spec["device"], data=evaluator.val)
    art.store_result("profile", profile)
    say("verifying")
    checked = api.verify(
        art, evaluator.val, device=spec["device"], samples=VERIFY_SAMPLES, progress=say
    )
    art.store_result("verify", checked)
    api.report(art, Path(out) / "report.html")
    say("comparing with the original")
    exact = evaluator.exact_values(str(trial.tag.get("measured")))
    if exact is None:
        exact = evaluator.compare(says_real(art.reference, evaluator.val))["values"]
    total, memory = profile["total"], profile["memory"]
    values = dict(trial.values)
    values |= {
        m: total[m] for m in ("latency_ms", "cycles", "instructions") if total.get(m) is not None
    }
    values |= {m: memory[m] for m in ("ram_bytes", "flash_bytes") if memory.get(m) is not None}
    values |= exact
    return {
        **trial_json(trial), "values": values, "artifact": str(out),
        "profile": profile, "verify": checked, "report": str(Path(out) / "report.html"),
    }  # fmt: skip


def select(
    study: Study,
    out: str | Path,
    *,
    pick: int | None = None,
    budgets: list[str] | None = None,
    evaluator: Evaluator | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The document of ``edgekit select``: ``winner`` (with ``profile``, ``verify``, ``artifact``) or None,
    and then ``closest`` and ``binding``. budgets: instead of the study's own."""
    say = progress or (lambda _line: None)
    if budgets:
        plan = replace(study.plan, budgets=tuple(metrics.parse_budget(b) for b in budgets))
        study = replace(study, plan=plan)
    evaluator = evaluator or Evaluator(study.folder)
    document: dict[str, Any] = {
        "study": str(study.folder.path), "winner": None, "closest": None, "binding": [],
        "met": False, "message": None, "profile": None, "verify": None,
        "budgets": [str(b) for b in study.plan.budgets],
    }  # fmt: skip
    out = Path(out)
    found: dict[str, Any] | None
    if pick is not None:
        found = build(study, evaluator, study.get(pick), out, say)
        document["met"] = metrics.feasible(study.plan.budgets, found["values"])
    else:
        found = _first_that_holds(study, evaluator, out, say)
        document["met"] = found is not None
    if found is None:
        closest = study.closest
        document["closest"] = None if closest is None else trial_json(closest)
        document["binding"] = study.binding()
        document["message"] = message(study)
        return document
    document |= {"winner": found, "profile": found["profile"], "verify": found["verify"]}
    return document


def _first_that_holds(
    study: Study, evaluator: Evaluator, out: Path, say: Callable[[str], None]
) -> dict[str, Any] | None:
    """The best trial that keeps the budgets by the oracle's figures, too, built."""
    budgets = study.plan.budgets
    for trial in [t for t in study.ranked() if metrics.feasible(budgets, t.values)][:_TRIES]:
        say(f"checking trial {trial.number} with the reference executor")
        exact = evaluator.exact_values(str(trial.tag.get("measured")))
        if exact is not None and not metrics.feasible(budgets, {**trial.values, **exact}):
            say(f"trial {trial.number} misses a budget by the oracle's bytes")
            continue
        found = build(study, evaluator, trial, out, say)
        if metrics.feasible(budgets, found["values"]):
            return found
    return None


def message(study: Study) -> str:
    """One sentence: that the budgets cannot be met, the closest point, and what binds."""
    closest = study.closest
    if closest is None:
        failed = [t for t in study.trials if t.state == "failed"]
        why = f"; the first says: {failed[0].why}" if failed else ""
        return f"no trial was measured ({len(failed)} failed{why})"
    parts = []
    for b in study.binding():
        name = b["budget"].split("<")[0].split(">")[0]
        part = f"{b['budget']} is missed with {b['value']:.6g}"
        if b["best_with_others"] is not None:
            part += (
                f" (best within the other budgets: {b['best_with_others']['value']:.6g}, trial "
                f"{b['best_with_others']['trial']})"
            )
        elif b["best"] is not None:
            part += f" (best {name} of all trials: {b['best']['value']:.6g}, trial {b['best']['trial']})"
        parts.append(part)
    if not parts:
        return (
            f"no network keeps the budgets by the oracle's bytes; trial {closest.number} is nearest"
        )
    return f"the budgets cannot be met: trial {closest.number} is closest, and {'; '.join(parts)}"
