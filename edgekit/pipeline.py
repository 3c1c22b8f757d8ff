"""From a loaded model to the graph a backend compiles: clean, quantize, remove what is dead.

Kept apart from :mod:`edgekit.api` because ``search`` runs the same steps with other recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekit.compress import QuantizeOptions, quantize, simplify
from edgekit.data import Dataset, model_inputs
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.targets.base import Progress

#: Samples used for calibration when the data set has more.
CALIBRATION_SAMPLES = 200


@dataclass(frozen=True)
class Prepared:
    """source: the float model, or None when the model came quantized. reference: the integer graph
    whose bytes are law. graph: what is compiled (the reference after lossless passes). recipe:
    JSON-ready description of what was done."""

    source: Graph | None
    reference: Graph
    graph: Graph
    recipe: dict[str, Any]


def prepare(
    model: Graph,
    *,
    needs_int8: bool,
    data: Dataset | None,
    options: QuantizeOptions | None = None,
    simplify_dead: bool = True,
    samples: int = CALIBRATION_SAMPLES,
    progress: Progress | None = None,
) -> Prepared:
    """Make ``model`` what the target wants. InputError when a float model comes without data."""
    recipe: dict[str, Any] = {}
    source = None
    reference = model
    if needs_int8 and _has_float_arithmetic(model):
        if data is None:
            raise InputError(
                f"model '{model.name}' is float and the target needs int8; "
                "give calibration data with --data file.npz[:x_key[,y_key]]"
            )
        options = options or QuantizeOptions()
        chosen = data.head(samples)
        source = model
        reference = quantize(model, model_inputs(model, chosen), options, progress)
        recipe["quantize"] = {
            **options.to_json(),
            "samples": len(chosen),
            "data": chosen.source,
            "result": reference.metadata.get("quantized", ""),
        }
    if progress:
        progress("looking for dead channels")
    result = simplify(reference, dead_channels=simplify_dead)
    recipe["simplify"] = result.to_json()
    return Prepared(source, reference, result.graph, recipe)


def _has_float_arithmetic(model: Graph) -> bool:
    """The model is float through and through (a partly quantized one is left to the backend, which
    names the nodes it cannot take)."""
    quantized = any(t.quant is not None for t in model.tensors.values())
    return not quantized and any(t.is_float for t in model.tensors.values())
