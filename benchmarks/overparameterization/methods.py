"""Study 4: all methods at equal cost on the target, from the rows of ``benchmarks/compression.json``.

    .venv/bin/python benchmarks/overparameterization/methods.py [--rows FILE] [--out FOLDER]

Nothing is run: rows are made by ``benchmarks/compression.py``. One table a model and cost: rows whose
cycles are within 5 % of a share of the uncut network's, best first; what saves no cycles stands in a
table of its own. Rows that differ in their seed only are averaged. Writes ``methods.md`` and
``methods.svg``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from svg import Series, chart, write

HERE = Path(__file__).resolve().parent
SHARES, SLACK = (0.75, 0.6, 0.5, 0.33, 0.25), 0.05


def merged(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows without baselines; those that differ in their seed only as one, with ``seeds``, ``spread``."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, row in rows.items():
        if not name.startswith("baseline "):
            groups[re.sub(r", seed \d+$", "", name)].append(row)
    out = {}
    for name, some in groups.items():
        points = [
            100 * r["int8"]["difference"] for r in some if r["int8"]["difference"] is not None
        ]
        if not points:
            continue
        out[name] = {
            "model": some[0]["model"], "section": some[0]["section"], "seeds": len(some),
            "accuracy": float(np.mean([100 * r["int8"]["accuracy"] for r in some])),
            "difference": float(np.mean(points)),
            "error": float(np.mean([100 * r["int8"]["standard_error"] for r in some])),
            "spread": float(np.std(points, ddof=1)) if len(points) > 1 else None,
            **{k: float(np.mean([r[k] for r in some]))
               for k in ("cycles", "flash", "ram", "macs_left", "speedup", "realised")},
        }  # fmt: skip
    return out


def tables(rows: dict[str, dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    left = merged(rows)
    for model in dict.fromkeys(r["model"] for r in left.values()):
        mine = {k: r for k, r in left.items() if r["model"] == model and r["macs_left"] is not None}
        for share in (1.0, *SHARES):
            low, high = (1 - SLACK) * share, (1 + SLACK) * share
            near = {k: r for k, r in mine.items() if low <= 1 / r["speedup"] <= high}
            if not near:
                continue
            title = "no cycles saved" if share == 1.0 else f"{share:g} of the cycles"
            lines += [
                "", f"## {model.removesuffix('.tflite')}: {title}", "",
                "| method | int8 accuracy | difference | cycles | flash | RAM | MACs left | seeds |",
                "|---|---|---|---|---|---|---|---|",
            ]  # fmt: skip
            for name, r in sorted(near.items(), key=lambda e: -e[1]["difference"]):
                spread = "" if r["spread"] is None else f" (seeds ± {r['spread']:.1f})"
                lines.append(
                    f"| {name} | {r['accuracy']:.1f} % | {r['difference']:+.1f} ± {r['error']:.1f}"
                    f"{spread} | {r['cycles']:,.0f} | {r['flash']:,.0f} | "
                    f"{r['ram']:,.0f} | {r['macs_left']:.2f} | "
                    f"{r['seeds']} |"
                )
    return lines


def draw(rows: dict[str, dict[str, Any]], model: str) -> str:
    mine = [r for r in merged(rows).values() if r["model"] == model]
    series = []
    for k, section in enumerate(dict.fromkeys(r["section"] for r in mine)):
        some = sorted((r for r in mine if r["section"] == section), key=lambda r: r["cycles"])
        series.append(Series(section[:30], [r["cycles"] / 1e6 for r in some],
                             [r["accuracy"] for r in some], "points", k))  # fmt: skip
    return chart(f"{model.removesuffix('.tflite')}: int8 accuracy and cost", "Mcycles on the Cortex-M4",
                 "accuracy, %", series)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=Path, default=HERE.parent / "compression.json")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    rows = json.loads(args.rows.read_text(encoding="utf-8"))
    lines = [
        "# Every method at equal cost on the target",
        "",
        "`methods.py`, from the rows of `benchmarks/compression.py`: int8 networks on the virtual "
        "Cortex-M4 (cycles *estimated*, compiled for speed). Differences in points to the uncut int8 "
        "network, paired on the same images, ± their standard error. Cycles within "
        f"{100 * SLACK:.0f} % of the heading's share.",
        "", "![accuracy and cost](methods.svg)", *tables(rows),
    ]  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    write(args.out / "methods.svg", draw(rows, "ic_resnet8_float.tflite"))
    write(args.out / "methods.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
