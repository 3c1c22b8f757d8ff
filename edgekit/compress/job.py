"""``edgekit compress`` and ``edgekit sensitivity`` as functions: a model file in, a model file and a
report out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import json_text
from edgekit.compress import recipe as recipes
from edgekit.compress.execute import compare, is_classifier, says
from edgekit.compress.groups import forget_origin
from edgekit.compress.recipe import Recipe, size_of
from edgekit.compress.sensitivity import METHODS, sensitivity
from edgekit.compress.simplify import clean
from edgekit.compress.steps import StepContext, checked_labels
from edgekit.data import Dataset, model_inputs
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.graph.numerics import dequantize
from edgekit.graph.to_torch import dequantized
from edgekit.targets.schema import Target

_WRITABLE = (".ekg", ".tflite", ".onnx")


def float_form(model: Graph) -> Graph:
    """What compression works on: the model itself, or the float network that an integer one stands
    for."""
    if any(t.quant is not None or t.dtype == "float16" for t in model.tensors.values()):
        model = dequantized(model)
    return model.validate()


def float_samples(model: Graph, data: Dataset | None) -> Dataset | None:
    """The samples as the float form takes them, checked once (an integer model's own integers become
    real values); float data stays as it is. InputError for shapes, numbers or labels that do not fit."""
    if data is None:
        return None
    if data.y is not None and is_classifier(model):
        checked_labels(model, data)
    tensors = [model.tensor(i) for i in model.inputs]
    if all(t.is_float for t in tensors):
        model_inputs(model, data.head(1))
        return data
    x = {}
    for t, a in zip(tensors, model_inputs(model, data), strict=True):
        x[t.name] = a if t.quant is None or t.is_float else dequantize(a, t.quant)
    return Dataset(x, data.y, data.source)


def device_of(device: str) -> str:
    """ "cpu" or "cuda"; "auto" takes the GPU where torch sees one. InputError otherwise."""
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device '{device}' is unknown; known are auto, cpu, cuda")
    if device == "cpu":
        return device
    try:
        import torch

        found = torch.cuda.is_available()
    except ImportError:
        found = False
    if device == "cuda" and not found:
        raise InputError("device 'cuda' is not here: torch sees no GPU; accepted are auto and cpu")
    return "cuda" if found else "cpu"


def says_real(graph: Graph, data: Dataset, device: str = "cpu") -> np.ndarray:
    """:func:`.execute.says` for any graph, integer ones included."""
    if all(t.quant is None for t in graph.tensors.values()):
        return says(graph, model_inputs(graph, data), device)
    from edgekit.compress.execute import log_softmax, logits_graph
    from edgekit.graph.reference import run

    g, _ = logits_graph(graph)
    name = g.outputs[0]
    out = run(g, model_inputs(graph, data), keep=[name])[name]
    quant = g.tensor(name).quant
    real = out.astype(np.float64) if quant is None else dequantize(out, quant)
    if is_classifier(graph):
        return log_softmax(real)
    return real.reshape(len(real), -1).astype(np.float64)


def quality(before: Graph, after: Graph, data: Dataset, device: str = "cpu") -> dict[str, Any]:
    """What ``after`` says against ``before`` on the same samples (:class:`.execute.Comparison`)."""
    classes = is_classifier(before)
    labels = data.y if classes else None
    return compare(
        says_real(before, data, device), says_real(after, data, device), labels, classes
    ).to_json()


def compress(
    model: Graph,
    recipe: Recipe | str | Path | dict[str, Any],
    *,
    data: Dataset | None = None,
    val: Dataset | None = None,
    target: Target | None = None,
    device: str = "auto",
    work: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Graph, dict[str, Any]]:
    """Apply a recipe; returns the graph and the report.

    The report: ``recipe``, ``before`` and ``after`` (macs, parameters, weight_bytes), ``steps`` (what
    each did), ``quality`` (against the original, on ``val``, or on ``data`` when there is no ``val``:
    then ``fitted_on_these`` is true), or None without samples.
    """
    if isinstance(recipe, dict):
        recipe = recipes.parse(recipe)
    elif not isinstance(recipe, Recipe):
        recipe = recipes.read(recipe)
    original = float_form(model)
    samples, checks = float_samples(model, data), float_samples(model, val)
    ctx = StepContext(
        data=samples, val=checks, target=target, original=original, seed=recipe.seed,
        device=device_of(device), work=work,
    )  # fmt: skip
    if progress is not None:
        ctx.progress = progress
    graph = forget_origin(clean(recipes.apply(recipe, original, ctx)))
    on = checks or samples
    report = {
        "model": model.name,
        "recipe": recipe.to_json(),
        "target": None if target is None else target.name,
        "before": size_of(original),
        "after": size_of(graph),
        "steps": ctx.log,
        "quality": None,
    }
    if on is not None:
        ctx.progress("comparing with the original")
        report["quality"] = {
            "data": on.source,
            "fitted_on_these": checks is None,
            **quality(original, graph, on, ctx.device),
        }
    return graph, report


def compress_to(
    model: Graph,
    recipe: Recipe | str | Path,
    out: Path,
    *,
    work: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """:func:`compress` into a file, with its report beside (``NAME.report.json``).

    Without ``work`` the checkpoints are in a hidden folder beside ``out`` that goes when all is done; the
    same command continues from it after a kill.
    """
    from edgekit.formats import save

    out = Path(out)
    if out.suffix.lower() not in _WRITABLE:
        raise InputError(
            f"output '{out.name}' has no suffix that can be written; accepted are {', '.join(_WRITABLE)}"
        )
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise InputError(f"output '{out}' is a folder, or its folder does not exist")
    chosen = recipe if isinstance(recipe, Recipe) else recipes.read(recipe)
    temporary = work is None
    if work is None:
        text = json.dumps(chosen.to_json(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        work = out.absolute().parent / f".{out.name}.{digest}.work"
    graph, report = compress(model, chosen, work=work, **options)
    save(graph, out)
    page = out.with_suffix(".report.json")
    temp = page.with_name(f".{page.name}.{os.getpid()}.tmp")
    temp.write_text(json_text({**report, "output": out.name}), encoding="utf-8")
    os.replace(temp, page)
    if temporary:
        shutil.rmtree(work, ignore_errors=True)
    return {**report, "output": str(out), "report": str(page)}


def examine(
    model: Graph,
    *,
    data: Dataset | None,
    val: Dataset | None = None,
    target: Target | None = None,
    methods: Sequence[str] | None = None,
    importance: str = "l2",
    samples: int = 500,
    seed: int = 0,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The sensitivity document of a model (:func:`.sensitivity.sensitivity`)."""
    from edgekit.compress.importance import NAMES

    if importance not in NAMES:
        raise InputError(f"importance '{importance}' is unknown; known are {', '.join(NAMES)}")
    ctx = StepContext(
        data=float_samples(model, data), val=float_samples(model, val), target=target, seed=seed,
        device=device_of(device),
    )  # fmt: skip
    if progress is not None:
        ctx.progress = progress
    return sensitivity(
        float_form(model), ctx, methods=methods or METHODS, importance=importance, samples=samples  # type: ignore[arg-type]
    )  # fmt: skip


__all__ = ["compress", "compress_to", "examine", "quality"]
