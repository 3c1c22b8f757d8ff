"""What a reader should notice: everything that limits what the figures of the page mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.graph.ir import Graph
from edgekit.report.layers import Column, Layer
from edgekit.report.memory_map import Usage
from edgekit.report.text import figure, mapping, number, percent, short, whole
from edgekit.targets.schema import Target

FULL = 0.9  #: share of a memory above which it is said to be nearly full
ACCURACY_DROP = 0.01
DOMINANT = 0.5  #: share of the cost above which one layer is worth naming
FEW_SAMPLES = 100

Level = Literal["bad", "warn", "note"]
_ORDER: Mapping[Level, int] = {"bad": 0, "warn": 1, "note": 2}


@dataclass(frozen=True)
class Remark:
    level: Level
    title: str
    text: str


def remarks(
    *,
    target: Target,
    graph: Graph,
    layers: Sequence[Layer],
    column: Column | None,
    usages: Sequence[Usage],
    profile: Mapping[str, Any] | None,
    verify: Mapping[str, Any] | None,
    details: Mapping[str, Any] | None = None,
) -> list[Remark]:
    """All remarks, the worst first."""
    found = [
        *_of_check(verify),
        *_of_memory(usages),
        *_of_floats(graph),
        *_of_layers(target, layers, column),
        *_of_profile(target, profile),
        *_of_tuning(mapping(details)),
    ]
    return sorted(found, key=lambda r: _ORDER[r.level])


def divergence(verify: Mapping[str, Any]) -> str | None:
    """The first divergent layer as a sentence, or None."""
    d = mapping(verify.get("first_divergent_layer"))
    if not d:
        return None
    where = f"sample {number(whole(d.get('sample')))}"
    if d.get("layer") is None:
        return f"In {where}: {d.get('reason') or 'the layer is not known'}."
    index = d.get("index")
    return (
        f"In {where}, layer {short(str(d['layer']), 60)} ({d.get('op')}) is the first that differs: "
        f"{number(whole(d.get('mismatched')))} of {number(whole(d.get('elements')))} values, "
        f"the first at index {index if isinstance(index, list) else '?'}: "
        f"{number(d.get('got'))} instead of {number(d.get('expected'))}."
    )


def _of_check(verify: Mapping[str, Any] | None) -> Iterator[Remark]:
    if verify is None:
        yield Remark(
            "warn",
            "Not verified yet",
            "Nobody has compared this artifact's bytes with the oracle's: "
            "edgekit verify DIR --data file.npz.",
        )
        return
    wrong = whole(verify.get("mismatched_bytes"))
    if wrong and verify.get("passed") is True:
        yield Remark(
            "note",
            "Not the oracle's bytes",
            f"{number(wrong)} of {number(whole(verify.get('bytes')))} output bytes differ from the "
            "oracle's: this engine rounds in its own way and is held to a tolerance, which it keeps; "
            "engine c gives the oracle's bytes.",
        )
    elif wrong is None or wrong > 0:
        yield Remark(
            "bad",
            "Wrong bytes",
            f"{number(wrong)} of {number(whole(verify.get('bytes')))} output bytes differ from the "
            f"oracle's over {number(whole(verify.get('samples')))} samples, by "
            f"{number(verify.get('max_abs_diff'))} at most. {divergence(verify) or ''}".strip(),
        )
    ours, theirs = figure(verify.get("accuracy")), figure(verify.get("reference_accuracy"))
    if ours is not None and theirs is not None and theirs - ours > ACCURACY_DROP:
        yield Remark(
            "warn",
            "Accuracy dropped",
            f"{percent(ours)} on the device, {percent(theirs)} for "
            f"{verify.get('reference', 'the source model')}: "
            f"{100 * (theirs - ours):.2f} points are lost.",
        )
    samples = whole(verify.get("samples")) or 0
    if samples < FEW_SAMPLES:
        yield Remark(
            "note",
            "Few samples",
            f"The check ran on {number(samples)} samples; {FEW_SAMPLES} or more say more.",
        )
    if str(verify.get("oracle", "")).startswith("edgekit"):
        yield Remark(
            "note",
            "Checked against our own reference",
            "TensorFlow Lite Micro's interpreter is not installed or does not take this model, so the "
            "oracle was edgekit's reference executor, which the tests hold to the same bytes.",
        )


def _of_memory(usages: Sequence[Usage]) -> Iterator[Remark]:
    for u in usages:
        if u.share is None or u.share <= FULL:
            continue
        over = u.share > 1
        yield Remark(
            "bad" if over else "warn",
            f"{u.name} {'is too small' if over else 'is nearly full'}",
            f"{number(u.used)} of {number(u.available)} bytes ({percent(u.share, 1)}) are used before "
            "the rest of your program is added.",
        )


def _of_floats(graph: Graph) -> Iterator[Remark]:
    floats = [
        n
        for n in graph.nodes
        if any(t is not None and t.is_float for t in [*graph.ins(n), *graph.outs(n)])
    ]
    work = [n for n in floats if n.type not in ("QUANTIZE", "DEQUANTIZE")]
    if work:
        names = ", ".join(f"{short(n.name)} ({n.type})" for n in work[:4])
        more = f" and {len(work) - 4} more" if len(work) > 4 else ""
        yield Remark(
            "warn", "Floating point inside", f"These layers compute with floats: {names}{more}."
        )
    elif floats:
        yield Remark(
            "note",
            "Float inputs or outputs",
            f"{len(floats)} layer{'s convert' if len(floats) > 1 else ' converts'} between float and "
            "integer at the edge of the network; an integer interface would save that.",
        )


def _of_layers(target: Target, layers: Sequence[Layer], column: Column | None) -> Iterator[Remark]:
    if column is None:
        return
    costs = {la.index: la.cost(column.key) or 0.0 for la in layers}
    total = sum(costs.values())
    if total <= 0:
        return
    what = "time" if column.key == "time_ms" else column.key
    for la in layers:
        share = costs[la.index] / total
        if share > DOMINANT and len(layers) > 1:
            yield Remark(
                "note",
                "One layer dominates",
                f"Layer {la.index}, {short(la.name)} ({la.op}), takes {percent(share, 0)} of the {what}.",
            )
    if target.family == "npu" or not (target.has("dsp") or target.has("mve")):
        return
    if target.has("mve") and not any(la.variant.endswith("_mve") for la in layers):
        yield Remark(
            "note",
            "Helium is idle",
            f"{target.core.name} has vector instructions, and no kernel of this artifact uses them.",
        )
    slow = [la for la in layers if la.macs and la.variant.endswith("_ref")]
    share = sum(costs[la.index] for la in slow) / total
    if share > 0.05:
        names = ", ".join(f"{la.index} {short(la.name, 24)}" for la in slow[:5])
        yield Remark(
            "note",
            "Portable kernels at work",
            f"{percent(share, 0)} of the {what} goes to kernels without this core's SIMD "
            f"instructions: layers {names}{' and more' if len(slow) > 5 else ''}.",
        )


def _of_tuning(details: Mapping[str, Any]) -> Iterator[Remark]:
    missing, tunable = whole(details.get("untuned")), whole(details.get("tunable"))
    if missing:
        yield Remark(
            "warn",
            "Untuned kernels",
            f"{number(missing)} of {number(tunable)} kernels have no tuning record and take a default "
            "tile: the times on this page may be slower than what this engine can do; "
            "edgekit tune MODEL --target T, then compile again.",
        )


def _of_profile(target: Target, profile: Mapping[str, Any] | None) -> Iterator[Remark]:
    if profile is None:
        yield Remark(
            "note",
            "Not profiled yet",
            "There are no costs on this page until somebody runs: edgekit profile DIR.",
        )
        return
    kinds = mapping(profile.get("kinds"))
    details = mapping(profile.get("details"))
    if "estimated" in (kinds.get("cycles"), kinds.get("latency_ms"), profile.get("kind")):
        text = "Cycles and latency come from a model of the pipeline, not from a clock"
        if details.get("timing_table"):
            text += f" (table {details['timing_table']}"
            scale = figure(details.get("cycle_scale"))
            if scale is not None and scale != 1:
                text += (
                    f", times {scale:g}: {details.get('cycle_scale_source') or 'no source named'}"
                )
            text += ")"
        exact = mapping(profile.get("total")).get("instructions") is not None
        text += ". Instruction counts are exact." if exact else "."
        yield Remark("note", "Cycles are estimated", text)
    taken = mapping(details.get("measurement"))
    if taken.get("quality") not in (None, "ok"):
        reasons = [str(r) for r in taken.get("reasons") or ()]
        yield Remark(
            "warn",
            f"The latency is {taken['quality']}",
            f"It is not one to bet on: {'; '.join(reasons) or 'no reason was given'}.",
        )
    if details.get("complete") is False:
        yield Remark(
            "warn",
            "The total is incomplete",
            "At least one layer has no cost, so that an inference takes longer than it says here.",
        )
    if profile.get("target") not in (None, target.name):
        yield Remark(
            "warn",
            "Profile of another target",
            f"The stored profile says target {profile.get('target')}; this artifact is for "
            f"{target.name}.",
        )
