"""The page about a study: the front, what was tried when, predicted against measured, recipes."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifact import write_text
from edgekit.errors import InputError
from edgekit.report import study_plots as plots
from edgekit.report import text
from edgekit.report.page import _KINDS, _asset, environment

#: Trials whose recipe and layers are on the page: the winner, the front, and the best of the rest.
_DETAILED = 120


@dataclass(frozen=True)
class Detail:
    """One trial in full. widths: (group, units kept, units). layers: before and after."""

    trial: Any
    look: str
    values: list[tuple[str, Any, str]]
    widths: list[tuple[str, int, int]]
    choices: list[tuple[str, Any]]
    layers: list[dict[str, Any]]
    cost: str
    recipe: str


def write_study_report(folder: str | Path, out: Path) -> Path:
    """Write one self-contained HTML page about the study in ``folder``; returns ``out``."""
    out = Path(out)
    if out.is_dir():
        raise InputError(f"output '{out}' is a folder; name a file such as {out.name}/report.html")
    write_text(out, render_study(folder))
    return out


def render_study(folder: str | Path, live: bool = False) -> str:
    """The page as text. live: it asks its server now and then whether there is something new."""
    from markupsafe import Markup

    from edgekit.search.study import Study

    study = Study.open(folder)
    script = _asset("study.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = environment({"page": _asset("study.html.jinja"), "macros": _asset("macros.html.jinja")})
    document = json.dumps(study.to_json(), sort_keys=True, separators=(",", ":"), default=str)
    safe = document.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return str(
        page.get_template("page").render(
            style=Markup(_asset("style.css") + _asset("study.css")),
            script=Markup(script),
            script_digest=digest,
            data=Markup(safe),
            live=live,
            **view(study),
        )
    )


def version_of(folder: str | Path) -> str:
    """Changes whenever the page would."""
    from edgekit.search.study import Study

    return str(hash(tuple((t.number, t.state) for t in Study.open(folder).trials)))


def view(study: Any) -> dict[str, Any]:
    """What the template gets."""
    from edgekit.search.winner import message

    spec = study.folder.spec
    quality, cost = study.axes()
    names = list(
        dict.fromkeys(
            [quality, cost, *study.plan.objectives, *(b.metric for b in study.plan.budgets)]
        )
    )
    winner = study.winner
    front = {t.number for t in study.front()}
    first = [
        *([winner] if winner else []),
        *study.front(),
        *study.ranked(),
        *reversed(study.trials),
    ]
    detailed = list({t.number: t for t in first}.values())[:_DETAILED]
    won = None if winner is None else winner.number
    drawings = (
        ("front", "Quality and cost", plots.pareto_plot(study, names)),
        ("timeline", "Trial by trial", plots.timeline(study, names)),
        ("predicted", "Predicted and measured", plots.predicted_plot(study, names)),
    )
    return {
        "title": f"{spec['models'][0]['name']} for {spec['target']}: {len(study.trials)} trials",
        "study": study,
        "spec": spec,
        "names": names,
        "kinds": _KINDS,
        "winner": winner,
        "uncut": next((t for t in study.trials if t.measured and t.tag.get("as") == "uncut"), None),
        "closest": study.closest,
        "trouble": None if winner is not None or study.closest is None else message(study),
        "counts": study.to_json()["counts"],
        "prediction": study.prediction(),
        "drawings": [d for d in drawings if d[2] is not None],
        "parallel": plots.parallel(study, names),
        "details": [_detail(study, t, plots.look(t, front, won)) for t in detailed],
        "known": {t.number for t in detailed},
        "looks": {t.number: plots.look(t, front, won) for t in study.trials},
    }


def _detail(study: Any, trial: Any, look: str) -> Detail:
    import yaml

    from edgekit.search.study import layers_of

    layers = layers_of(study, trial) if trial.measured else []
    cost = "cycles" if any(la["cycles_after"] is not None for la in layers) else "time_ms"
    widths, choices = [], []
    full: dict[str, int] = {}
    for t in study.trials:
        if t.tag.get("as") == "uncut":
            full |= {k: int(v) for k, v in t.point.items() if "channels:" in k}
    for k, v in trial.point.items():
        if "channels:" in k:
            widths.append((k.partition("channels:")[2], int(v), full.get(k, int(v))))
        elif v != 1.0:
            choices.append((k, v))
    recipe = yaml.safe_dump(dict(trial.recipe), sort_keys=False) if trial.recipe else ""
    recipe = "\n".join(text.clean(line) for line in recipe.split("\n"))
    values = [(m, v, trial.kinds.get(m, "")) for m, v in trial.values.items() if v is not None]
    return Detail(trial, look, values, widths, choices, layers, cost, recipe)
