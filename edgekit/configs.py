"""One model, many targets: for each the configuration that is best there, and what the others would give.

A configuration is an engine, what it is asked to prefer (speed, flash, RAM) and a quantization. Every one
is compiled and profiled on the target's own device, each figure with its kind: kinds, and so targets, are
not to be compared with one another without saying so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.data import Dataset, accuracy, model_inputs, predictions
from edgekit.errors import DoesNotFitError, EdgekitError, InputError
from edgekit.tolerance import precision_of

if TYPE_CHECKING:
    from edgekit.artifact import Artifact
    from edgekit.graph.ir import Graph
    from edgekit.targets.base import Backend, EngineInfo, Progress
    from edgekit.targets.schema import Target

#: What a choice of configuration may go by: a key of a row.
PREFER = ("latency", "flash", "ram")
#: Families whose compiler trades speed against memory, and how.
_TRADES = {"mcu": ("speed", "balanced", "size", "ram"), "npu": ("speed", "size")}
#: Samples an emulated device would take too long for are run by the reference executor, where an
#: engine is exact: the same bytes.
_SAMPLES = 100


@dataclass
class Row:
    """One configuration on one target. fits: None where it was not found out."""

    target: str
    engine: str
    optimize: str
    fits: bool | None = None
    reason: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def rank(self, prefer: str) -> tuple[float, ...]:
        f = self.figures
        time = f.get("latency_ms") or f.get("cycles") or f.get("instructions") or float("inf")
        own = {"latency": time, "flash": f.get("flash_bytes"), "ram": f.get("ram_bytes")}[prefer]
        return (float("inf") if own is None else float(own), float(time))

    def to_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "engine": self.engine,
            "optimize": self.optimize,
            "fits": self.fits,
            "reason": self.reason,
            **{k: self.figures.get(k) for k in _FIGURES},
        }


_FIGURES = (
    "quantization", "device", "kind", "latency_ms", "cycles", "instructions", "flash_bytes",
    "ram_bytes", "accuracy", "reference_accuracy", "agreement", "samples",
)  # fmt: skip


def configs(
    graph: Graph,
    targets: Sequence[str],
    data: Dataset,
    *,
    prefer: str = "latency",
    samples: int = _SAMPLES,
    calibration_samples: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """``{"model", "prefer", "configs": [best row a target], "tried": {target: [rows]}}``.

    data: calibrates float models and, with labels, gives accuracies. ``agreement``: share of samples on
    which the model as deployed names the class that the given model does. A target that no
    configuration fits has a row with ``fits`` false and the reason.
    """
    from edgekit.targets import registry

    if prefer not in PREFER:
        raise InputError(f"prefer '{prefer}' is unknown; known are {', '.join(PREFER)}")
    names = list(dict.fromkeys(t.strip() for t in targets if t.strip()))
    if not names:
        raise InputError("no target is named; give --target cortex-m4,ethos-u55-128")
    chosen = [registry.get_target(n) for n in names]  # refused before anything is compiled
    if samples < 1:
        raise InputError(f"samples is {samples}; at least one is needed")
    best, tried = [], {}
    for target in chosen:
        rows = _try(graph, target, data, prefer, samples, calibration_samples, progress)
        best.append(rows[0].to_json())
        tried[target.name] = [r.to_json() for r in rows]
    return {"model": graph.name, "prefer": prefer, "configs": best, "tried": tried}


def _try(
    graph: Graph,
    target: Target,
    data: Dataset,
    prefer: str,
    samples: int,
    calibration_samples: int | None,
    progress: Progress | None,
) -> list[Row]:
    """All configurations of a target, the best first."""
    from edgekit.targets import registry

    backend = registry.get_backend(target.family)
    rows: list[Row] = []
    trades = _TRADES.get(target.family, ("balanced",))
    checked: dict[str, dict[str, Any]] = {}
    for info in backend.engines(target):
        if not info.usable:
            rows.append(Row(target.name, info.name, trades[0], None, info.why_not))
            continue
        if info.int8_form_of is not None and precision_of(graph) == "int8":
            continue
        for optimize in trades:
            row = Row(target.name, info.name, optimize)
            rows.append(row)
            if progress:
                progress(f"{target.name}: engine {info.name}, {optimize}")
            _measure(row, graph, target, backend, info, data, samples, calibration_samples, checked)
    good = sorted((r for r in rows if r.fits), key=lambda r: r.rank(prefer))
    rest = [r for r in rows if not r.fits]
    rest.sort(key=lambda r: r.fits is None)
    if not good and not rest:
        rest = [Row(target.name, "-", "-", None, f"target '{target.name}' has no engine here")]
    return good + rest


def _measure(
    row: Row,
    graph: Graph,
    target: Target,
    backend: Backend,
    info: EngineInfo,
    data: Dataset,
    samples: int,
    calibration_samples: int | None,
    checked: dict[str, dict[str, Any]],
) -> None:
    from edgekit import api
    from edgekit.targets.base import CompileOptions

    options = CompileOptions(engine=info.name, optimize=row.optimize)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="edgekit-configs-") as tmp:
        try:
            artifact = api.compile(
                graph, target.name, Path(tmp) / "a", data=data, options=options,
                calibration_samples=calibration_samples,
            )  # fmt: skip
            document = api.profile(artifact)
            if info.name not in checked or not info.exact:
                checked[info.name] = _check(artifact, graph, data.head(samples), info.exact)
        except DoesNotFitError as e:
            row.fits, row.reason = False, str(e)
            return
        except EdgekitError as e:
            row.reason = str(e)
            return
        row.fits = True
        row.figures = {**_costs(document), **checked[info.name], **_quantization(artifact, graph)}


def _costs(document: Mapping[str, Any]) -> dict[str, Any]:
    memory = document["memory"]
    return {
        "device": document["device"],
        "kind": document["kinds"].get("latency_ms", document["kind"]),
        **document["total"],
        "flash_bytes": memory.get("flash_bytes"),
        "ram_bytes": memory.get("ram_bytes"),
    }


def _quantization(artifact: Artifact, graph: Graph) -> dict[str, Any]:
    if artifact.source is not None:
        q = artifact.manifest["recipe"].get("quantize", {})
        scales = "per channel" if q.get("per_channel", True) else "per tensor"
        return {"quantization": f"int8, {scales}, {q.get('observer', 'given ranges')}"}
    precision = str(artifact.details.get("precision") or precision_of(artifact.graph))
    given = precision_of(graph)
    return {"quantization": f"{precision} as given" if precision == given else precision}


def _check(artifact: Artifact, graph: Graph, data: Dataset, exact: bool) -> dict[str, Any]:
    """Accuracy of what is deployed and of the given model, and how often they name the same class."""
    from edgekit import api
    from edgekit.graph.reference import run

    if (
        exact
    ):  # the reference executor gives the device's bytes, and does not take an emulator's time
        reference = artifact.reference
        values = run(reference, model_inputs(reference, data))
        ours = [values[o] for o in reference.outputs]
    else:
        ours = list(api.run(artifact, data).values())
    values = run(graph, model_inputs(graph, data))
    theirs = [values[o] for o in graph.outputs]
    which = next((i for i, o in enumerate(ours) if predictions(o) is not None), None)
    found: dict[str, Any] = {"samples": len(data)}
    if which is None:
        return found
    a, b = predictions(ours[which]), predictions(theirs[which])
    if a is not None and b is not None:
        found["agreement"] = float(np.mean(a == b))
    if data.y is not None:
        found["accuracy"] = accuracy(ours[which], data.y)
        found["reference_accuracy"] = accuracy(theirs[which], data.y)
    return found
