"""The recipe step of :mod:`.fewbits` (apart from it, so that torch is only imported where it runs)."""

from __future__ import annotations

from typing import Any, Literal

from edgekit.compress.steps import Count, StepContext, step
from edgekit.compress.train.options import Augmentation
from edgekit.compress.train.steps import (
    Rate,
    Unit,
    facts,
    float_graph,
    options_of,
    training_data,
)
from edgekit.graph.ir import Graph


@step(
    "few-bits",
    cites="XNOR-Net, ECCV 2016; TWN, 2016; DoReFa-Net, 2016; ABC-Net, NIPS 2017",
)
def few_bits(
    graph: Graph,
    ctx: StepContext,
    *,
    kind: Literal["ternary", "binary", "dorefa", "abc"] = "ternary",
    layers: list[str] | None = None,
    observer: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto",
    steps: Count | None = None,
    epochs: Rate | None = None,
    batch: Count = 64,
    lr: Rate = 5e-4,
    augment: list[Augmentation] = [],  # noqa: B006 - read only
    temperature: Rate = 2.0,
    labels: Unit = 0.0,
    training: dict[str, Any] | None = None,
) -> Graph:
    """Train with ternary or binary weights, taught by the original; gives the integer graph."""
    from edgekit.compress.ptq import QuantizeOptions
    from edgekit.compress.train.fewbits import few_bits as function
    from edgekit.compress.train.objectives import Distillation

    data = training_data(float_graph(graph, "few-bits"), ctx, "few-bits", labels > 0)
    options = options_of(ctx, len(data), steps, epochs, batch, lr, augment, training)
    out, run = function(
        graph,
        lambda g: Distillation(g, [ctx.original or graph], temperature=temperature, labels=labels),
        data, kind, options, layers=layers, quantize=QuantizeOptions(observer=observer),
        work=ctx.work, progress=ctx.progress,
    )  # fmt: skip
    ctx.note(kind=kind, **facts(run, options))
    return out
