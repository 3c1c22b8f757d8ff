"""Keyword spotting, cut and taught without labels, cross-validated; writes ``compression_kws.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/compression_kws.py [MACS STEPS LR]

The 500 inputs are all there is: one half is what the network is cut, repaired and taught on (its labels
are not looked at), the other half is what is reported, and the other way round. The paired difference is
over both halves: every input is reported once, by the network that never saw it. Cycles: virtual
Cortex-M4, estimated from exactly counted instructions, both networks compiled with ``--optimize speed``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from compression import _kws, _model

from edgekit import api
from edgekit.compress.job import compress, float_form, float_samples, says_real
from edgekit.compress.simplify import total_macs
from edgekit.targets.base import CompileOptions

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "compression_kws.json", HERE / "compression_kws.md"
MODEL = "kws_dscnn_int8.tflite"
INTRO = (
    "`EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/compression_kws.py MACS STEPS LR` makes a row. "
    "The 500 inputs are all there is: the network is cut, repaired and taught (by the uncut one) on one "
    "half, without its labels, and measured on the other, and the other way round; differences in points, "
    "paired, over both. Cycles: virtual Cortex-M4, *estimated* from exactly counted instructions, all "
    "compiled with `--optimize speed`; of the two networks the slower one. The settings were chosen by "
    "hand with these figures in sight; all that were tried are rows."
)


def on_device(graph: Any, data: Any) -> tuple[int, dict[str, str], Any]:
    """Cycles, tools, and the integer graph whose bytes the firmware is checked against."""
    with tempfile.TemporaryDirectory() as tmp:
        artifact = api.compile(graph, "cortex-m4", Path(tmp) / "a", data=data,
                               options=CompileOptions(optimize="speed"))  # fmt: skip
        p = api.profile(artifact)
        return p["total"]["cycles"], p["tools"], api.open_artifact(artifact).reference


def recipe(macs: float, steps: int, lr: float) -> dict[str, Any]:
    """Cut and repaired by least squares, then taught by the uncut network (steps 0: not)."""
    cut = {"step": "prune", "importance": "surgeon", "macs": macs, "allocation": "global",
           "multiple": 4, "samples": 1000, "repair": "least_squares", "repair_samples": 2000,
           "rows": 50_000}  # fmt: skip
    taught = {"step": "distill", "steps": steps, "batch": 64, "lr": lr, "temperature": 2.0,
              "augment": ["crop", "mixup"], "training": {"average": 0.995}}  # fmt: skip
    return {"version": 1, "seed": 0, "steps": [cut, taught] if steps else [cut]}


def hits(said: Any, labels: np.ndarray) -> np.ndarray:
    return np.asarray(np.asarray(said).reshape(len(labels), -1).argmax(1) == labels, float)


def measure(macs: float, steps: int, lr: float) -> dict[str, Any]:
    given = _model(MODEL)
    base = float_form(given)
    uncut, tools, _ = on_device(given, None)
    real, int8, cycles, left = [], [], [], []
    for half in (0, 1):
        data = _kws(half, False)()
        val = float_samples(given, _kws(1 - half, True)())
        assert val is not None
        graph, _ = compress(given, recipe(macs, steps, lr), data=data, progress=lambda _: None)
        count, _, integer = on_device(graph, float_samples(given, data))
        real.append(hits(says_real(graph, val), val.y) - hits(says_real(base, val), val.y))
        int8.append(hits(says_real(integer, val), val.y) - hits(says_real(given, val), val.y))
        cycles.append(count)
        left.append(total_macs(graph) / total_macs(base))
    speedup = uncut / max(cycles)
    return {"macs": macs, "steps": steps, "lr": lr, "seed": 0, "uncut": uncut, "cycles": cycles,
            "macs_left": max(left), "speedup": speedup, "realised": speedup * max(left),
            "float": _points(real), "int8": _points(int8), "tools": tools}  # fmt: skip


def _points(gaps: list[np.ndarray]) -> dict[str, Any]:
    every = np.concatenate(gaps)
    return {"difference": float(every.mean()), "halves": [float(g.mean()) for g in gaps],
            "standard_error": float(every.std(ddof=1) / np.sqrt(len(every)))}  # fmt: skip


def page(rows: dict[str, Any]) -> str:
    def points(q: dict[str, Any]) -> str:
        halves = ", ".join(f"{100 * h:+.1f}" for h in q["halves"])
        return f"{100 * q['difference']:+.2f} ± {100 * q['standard_error']:.2f} ({halves})"

    lines = ["# Keyword spotting, cut without labels", "", INTRO, "",
             "| MACs asked | steps | lr | float (halves) | int8 (halves) | MACs left | M4 cycles | "
             "speed-up | realised |", "|" + "---|" * 9]  # fmt: skip
    for r in rows.values():
        lines.append(
            f"| {r['macs']:g} | {r['steps']} | {r['lr']:g} | {points(r['float'])} | "
            f"{points(r['int8'])} | {r['macs_left']:.3f} | {max(r['cycles']):,} | "
            f"{r['speedup']:.2f} | {r['realised']:.2f} |"
        )
    uncut = next(iter(rows.values()))["uncut"]
    tools = ", ".join(f"{k} {v}" for k, v in sorted(next(iter(rows.values()))["tools"].items()))
    return "\n".join([*lines, "", f"Uncut: {uncut:,} cycles. Tools: {tools}.", ""])


def main(arguments: list[str]) -> None:
    macs, steps, lr = arguments or ("0.71", "1000", "7e-4")
    rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rows[f"{macs} {steps} {lr}"] = measure(float(macs), int(steps), float(lr))
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
