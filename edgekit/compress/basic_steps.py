"""The lossless and post-training passes as recipe steps."""

from __future__ import annotations

from typing import Annotated, Literal

from edgekit.compress.equalize import equalize
from edgekit.compress.ptq import QuantizeOptions, quantize
from edgekit.compress.simplify import simplify
from edgekit.compress.steps import Count, StepContext, Within, step
from edgekit.graph.ir import Graph


@step("simplify")
def simplify_step(graph: Graph, ctx: StepContext, *, dead_channels: bool = True) -> Graph:
    """Lossless: constant folding, fusing, channels that are dead."""
    result = simplify(graph, dead_channels=dead_channels)
    ctx.note(removed_channels=result.to_json()["removed_channels"])
    return result.graph


@step("equalize", cites="Nagel et al., Data-Free Quantization, ICCV 2019")
def equalize_step(graph: Graph, ctx: StepContext) -> Graph:
    """Lossless: per-channel scales moved between layers, so that int8 weights lose less."""
    return equalize(simplify(graph, dead_channels=False).graph)


@step("quantize", cites="Jacob et al., CVPR 2018")
def quantize_step(
    graph: Graph,
    ctx: StepContext,
    *,
    observer: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto",
    percentile: Annotated[float, Within(50, 100)] = 99.99,
    per_channel: bool = True,
    bias_correction: bool = True,
    equalize: bool = False,
    samples: Count = 200,
) -> Graph:
    """Post-training quantization to int8, calibrated on the samples."""
    options = QuantizeOptions(
        observer=observer,
        percentile=percentile,
        per_channel=per_channel,
        bias_correction=bias_correction,
        equalize=equalize,
    )
    return quantize(graph, ctx.inputs(graph, "quantize", samples), options, ctx.progress)
