"""The model card of an export: where the model came from, what was done to it, what it costs on what,
and whose licence each part has. ``MODEL_CARD.md`` for people, ``model_card.json`` for programs.

What a card should say: Mitchell et al., "Model Cards for Model Reporting", FAT* 2019; the parts about
people's data and intended use are the model owner's to add, and the card says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgekit.artifact import json_text
from edgekit.export.base import Order

#: Licences of what an exported package needs at run time, by engine.
_RUNTIMES: Mapping[str, tuple[str, str]] = {
    "litert": ("LiteRT / TensorFlow Lite", "Apache-2.0"),
    "onnxruntime": ("ONNX Runtime", "MIT"),
    "tvm": ("Apache TVM runtime", "Apache-2.0"),
}


def describe(order: Order, form: str) -> dict[str, Any]:
    """The card as a JSON-ready document."""
    artifact = order.artifact
    m = artifact.manifest
    graph = artifact.graph

    def values(names: Any) -> list[dict[str, Any]]:
        rows = []
        for n in names:
            t = graph.tensor(n)
            q = t.quant if t.quant is not None and not t.quant.is_per_channel else None
            rows.append(
                {
                    "name": t.name,
                    "dtype": t.dtype,
                    "shape": list(t.shape),
                    "scale": None if q is None else q.s,
                    "zero_point": None if q is None else q.zp,
                }
            )
        return rows

    runtime = next((v for k, v in _RUNTIMES.items() if artifact.engine.startswith(k)), None)
    licences = [
        {"part": "the model and its weights", "licence": order.license},
        {"part": "generated code, kernels, packaging", "licence": "Apache-2.0"},
    ]
    if runtime is not None:
        licences.append({"part": f"{runtime[0]}, needed at run time", "licence": runtime[1]})
    profile, verify = artifact.result("profile"), artifact.result("verify")
    return {
        "name": order.name,
        "form": form,
        "version": order.version,
        "edgekit": m["edgekit"],
        "model": dict(m["model"]),
        "recipe": dict(m["recipe"]),
        "target": {k: m["target"].get(k) for k in ("name", "family", "board", "source")},
        "engine": artifact.engine,
        "tools": dict(m["tools"]),
        "inputs": values(graph.inputs),
        "outputs": values(graph.outputs),
        "memory": {k: v for k, v in m["memory"].items() if isinstance(v, int)},
        "profile": _figures(profile),
        "verify": _checks(verify),
        "licences": licences,
        "artifact_files": dict(m["files"]),
    }


def _figures(profile: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    kept = ("device", "kind", "kinds", "total", "memory", "tools", "quality")
    return {k: profile[k] for k in kept if k in profile}


def _checks(verify: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if verify is None:
        return None
    kept = ("device", "samples", "mismatched_bytes", "max_abs_diff", "oracle", "accuracy",
            "reference_accuracy", "data")  # fmt: skip
    return {k: verify[k] for k in kept if k in verify}


def files(order: Order, form: str) -> dict[str, str]:
    card = describe(order, form)
    return {"model_card.json": json_text(card), "MODEL_CARD.md": _markdown(card)}


def _markdown(c: Mapping[str, Any]) -> str:
    model = c["model"]
    source = model.get("source") or model["name"]
    lines = [
        f"# {c['name']}: model card",
        "",
        f"Made by edgekit {c['edgekit']} for {c['target']['name']} ({c['target']['board']}), engine "
        f"`{c['engine']}`; tools: "
        + (", ".join(f"{k} {v}" for k, v in sorted(c["tools"].items())) or "none")
        + ".",
        "",
        "## Provenance",
        "",
        f"- Model: `{source}` ({model.get('format', 'in memory')}), SHA-256 "
        f"`{model.get('sha256', 'unknown')}`",
        f"- Recipe: `{json.dumps(c['recipe'], sort_keys=True)}`",
        "",
        "## Interface",
        "",
        "| | name | type | shape | scale | zero point |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("inputs", "outputs"):
        for t in c[kind]:
            lines.append(
                f"| {kind[:-1]} | {t['name']} | {t['dtype']} | {t['shape']} | "
                f"{_or_none(t['scale'])} | {_or_none(t['zero_point'])} |"
            )
    lines += [
        "",
        "Values are quantized where there is a scale: real = scale * (q - zero point).",
        "",
    ]
    lines += ["## Accuracy and verification", ""]
    v = c["verify"]
    if v is None:
        lines += ["Not verified: run `edgekit verify` on the artifact before exporting it.", ""]
    else:
        lines.append(
            f"- {v['mismatched_bytes']} differing bytes over {v['samples']} samples on {v['device']} "
            f"(reference: {v.get('oracle')})"
        )
        if v.get("accuracy") is not None:
            lines.append(
                f"- Accuracy {100 * v['accuracy']:.2f} % on the device, "
                f"{100 * v['reference_accuracy']:.2f} % of the reference (data: {v.get('data')})"
            )
        lines.append("")
    lines += ["## Cost of one inference", ""]
    p = c["profile"]
    if p is None:
        lines += ["Not profiled: run `edgekit profile` on the artifact before exporting it.", ""]
    else:
        kinds = p.get("kinds") or {}
        lines += [f"Device: {p['device']}.", "", "| figure | value | kind |", "|---|---|---|"]
        for key, value in p["total"].items():
            if value is not None:
                text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
                lines.append(f"| {key} | {text} | {kinds.get(key, p['kind'])} |")
        for key in ("flash_bytes", "ram_bytes"):
            if key in p["memory"]:
                lines.append(f"| {key} | {p['memory'][key]:,} | {kinds.get(key, p['kind'])} |")
        lines.append("")
    lines += ["## Licences", "", "| part | licence (SPDX) |", "|---|---|"]
    for row in c["licences"]:
        lines.append(f"| {row['part']} | {row['licence'] or 'not stated; ask its owner'} |")
    lines += [
        "",
        "## For the owner to add",
        "",
        "Intended use, the data the model was trained on, and known limits: none of that is in a model "
        "file.",
        "",
    ]
    return "\n".join(lines)


def _or_none(value: Any) -> str:
    return "-" if value is None else f"{value:g}"
