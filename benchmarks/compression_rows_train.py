"""Rows of ``compression.py`` in which something is trained: distillation without labels behind a cut,
trained quantization, sparse training. The number in a name is that of optimizer steps."""

from __future__ import annotations

from typing import Any

from compression import FIT, REALISED, Row

KD = {"step": "distill", "batch": 64, "lr": 1e-3, "temperature": 2.0, "augment": ["flip", "crop"]}


def _cut(cycles: float, importance: str = "surgeon", **more: Any) -> dict[str, Any]:
    return {"step": "prune", "importance": importance, "cycles": cycles, "allocation": "global",
            "realised": REALISED, "samples": 1000, **FIT, **more}  # fmt: skip


def rows() -> list[Row]:
    """In the order in which they are worth their time."""
    section = "No labels, trained"
    out = []
    for share, steps in ((0.75, 600), (0.75, 1600), (0.5, 1600), (0.75, 4000), (0.5, 4000)):
        out.append(Row(f"surgeon {share:g}, distilled {steps}",
                       [_cut(share), {**KD, "steps": steps}], section))  # fmt: skip
    for name, more in (
        ("attention hints", {"hints": "attention"}),
        ("feature hints", {"hints": "feature"}),
        ("mixup", {"augment": ["flip", "crop", "mixup"]}),
        ("no batch norm", {"training": {"batch_norm": False}}),
    ):
        out.append(Row(f"surgeon 0.6, distilled 1600, {name}",
                       [_cut(0.6), {**KD, "steps": 1600, **more}], section))  # fmt: skip
    plain = {"steps": 1600, "batch": 64, "lr": 1e-3, "augment": ["flip", "crop"]}
    for step in (
        {"step": "distill", **plain},
        {"step": "born-again", **plain, "generations": 2},
        {"step": "snapshot-distill", **plain, "cycles": 3},
        {"step": "mutual", **plain},
    ):
        out.append(Row(f"surgeon 0.6, {step['step']} 1600", [_cut(0.6), step], section))
    out.append(Row("gradual channels 0.6, 1600", [
        {"step": "gradual-channels", "cycles": 0.6, "importance": "surgeon", **plain},
    ], section))  # fmt: skip
    made = {"step": "distill-data-free", "low": 0.0, "high": 255.0, "samples": 5000}
    for macs in (0.74, 0.6):
        out.append(Row(f"l2 {macs:g}, data-free 1600", [
            {"step": "prune", "importance": "l2", "macs": macs, "allocation": "uniform"},
            {**made, "steps": 1600, "batch": 64, "lr": 1e-3}], "No data"))  # fmt: skip
    for bits in (8, 4):
        out.append(Row(f"AdaRound, int{bits} weights", [
            {"step": "adaround", "bits": bits, "iterations": 1000, "samples": 400}],
            "Quantization, no labels"))  # fmt: skip
        out.append(Row(f"QAT 1600, int{bits} weights", [
            {"step": "qat", "bits": bits, "steps": 1600, "lr": 2e-4 if bits == 8 else 1e-3,
             "augment": ["flip", "crop"]}], "Quantization, no labels"))  # fmt: skip
    out.append(Row("Deep Compression: gradual magnitude 0.5, 1600, share 32 values", [
        {"step": "gradual-magnitude", "keep": 0.5, **plain}, {"step": "share", "values": 32}],
        "Zeros, no labels"))  # fmt: skip
    for keep in (0.5, 0.2):
        out.append(Row(f"gradual magnitude {keep:g}, 1600", [
            {"step": "gradual-magnitude", "keep": keep, **plain}], "Zeros, no labels"))  # fmt: skip
    out.append(Row("large, surgeon 0.55, distilled 4000", [_cut(0.55), {**KD, "steps": 4000}], section,
                   model="ic_resnet_large_float.tflite"))  # fmt: skip
    out.append(Row("large, surgeon 0.25, distilled 4000", [_cut(0.25), {**KD, "steps": 4000}], section,
                   model="ic_resnet_large_float.tflite"))  # fmt: skip
    return out
