"""Study 3: lottery tickets. Rewound against re-initialised masks at 50 to 95 % sparsity, on digits.

    .venv/bin/python benchmarks/overparameterization/lottery.py [--seeds N] [--steps N] [--out FOLDER]

Frankle & Carbin, "The Lottery Ticket Hypothesis", ICLR 2019; Frankle et al., ICML 2020. A dense network
is trained, the smallest weights are dropped, and what is left starts again: from its own initial
weights, from an early step of the dense run (5 %), from fresh random weights; and a random mask of the
same size from fresh weights, the control of the mask itself. Iterative: each sparsity begins from the
mask before. Paired by seed (data, initialisation, order). Writes ``lottery.json``, ``lottery.md``,
``lottery.svg``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from digits import HERE, accuracy, data, mean_se, network, say
from svg import Series, chart, write

KEEPS = (0.5, 0.3, 0.2, 0.1, 0.05)
WAYS = {"start": "rewound to the start", "early": "rewound to 5 % of the run",
        "fresh": "same masks, fresh weights", "random": "random masks, fresh weights"}  # fmt: skip


def one_seed(seed: int, steps: int, few: int = 400, hidden: int = 128,
             keeps: tuple[float, ...] = KEEPS) -> list[dict[str, Any]]:  # fmt: skip
    """Rows (keep, way, accuracy) of one seed; the dense network first."""
    from edgekit.compress.train.capture import Capture
    from edgekit.compress.train.init import reinitialize
    from edgekit.compress.train.masks import Masks, lamp, largest, maskable, masked
    from edgekit.compress.train.objectives import CrossEntropy
    from edgekit.compress.train.options import TrainOptions
    from edgekit.compress.train.trainer import train

    train_data, x, y = data(few, seed)
    options = TrainOptions(steps=steps, batch=64, lr=4e-3, batch_norm=False, seed=seed)
    start = reinitialize(network([], "mlp", hidden), train_data.inputs, seed)
    capture = Capture([max(1, round(0.05 * steps))])
    dense = train(start, train_data, CrossEntropy(start), options, extensions=[capture])
    early = capture.graphs(dense.module)[0]
    rows = [{"seed": seed, "keep": 1.0, "way": "dense",
             "accuracy": float(accuracy(dense.graph, x, y).mean())}]  # fmt: skip
    names = maskable(start)
    for way in WAYS:
        graph, masks = dense.graph, {n: np.ones(start.tensor(n).shape, bool) for n in names}
        for k, keep in enumerate(keeps):
            if way == "random":
                rng = np.random.default_rng([seed, k, 9])
                masks = largest({n: rng.random(start.tensor(n).shape) for n in names}, keep)
            else:
                sparse = masked(graph, masks)
                masks = largest({n: lamp(np.asarray(sparse.tensor(n).data)) for n in names}, keep)
            fresh = reinitialize(start, train_data.inputs, seed + 1000 + k)
            begin = masked({"start": start, "early": early}.get(way, fresh), masks)
            graph = train(begin, train_data, CrossEntropy(begin), options,
                          extensions=[Masks(masks)]).graph  # fmt: skip
            right = accuracy(graph, x, y).mean()
            rows.append({"seed": seed, "keep": keep, "way": way, "accuracy": float(right)})
            say(f"seed {seed}, {way}, {keep:g} left: {right:.4f}")
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """By way and share kept: mean and standard error, and paired differences to ``fresh``."""
    seeds = sorted({r["seed"] for r in rows})
    at = {(r["seed"], r["keep"], r["way"]): r["accuracy"] for r in rows}
    out: dict[str, Any] = {"dense": mean_se([at[s, 1.0, "dense"] for s in seeds]), "ways": {}}
    for way in WAYS:
        out["ways"][way] = [
            {"keep": k, "accuracy": mean_se([at[s, k, way] for s in seeds]),
             "over_fresh": mean_se([at[s, k, way] - at[s, k, "fresh"] for s in seeds])}
            for k in sorted({r["keep"] for r in rows if r["way"] == way}, reverse=True)
        ]  # fmt: skip
    return out


def page(rows: list[dict[str, Any]], steps: int) -> list[str]:
    s = summary(rows)
    seeds = len({r["seed"] for r in rows})
    dense, se = s["dense"]
    lines = [
        "# Lottery tickets on digits",
        "",
        f"`lottery.py --seeds {seeds} --steps {steps}`. A dense network 64-128-64-10, 400 training images, "
        f"accuracy on the other 1,397, mean ± standard error over seeds; dense: {100 * dense:.2f} ± "
        f"{100 * se:.2f} %. Differences are paired by seed, in points, to the same masks with fresh "
        "weights.",
        "", "![lottery tickets](lottery.svg)", "",
        "| zeros | " + " | ".join(WAYS.values()) + " | start - fresh | early - fresh |",
        "|---" * (len(WAYS) + 3) + "|",
    ]  # fmt: skip

    def points(pair: tuple[float, float], sign: bool = False) -> str:
        return f"{100 * pair[0]:{'+' if sign else ''}.2f} ± {100 * pair[1]:.2f}"

    for i, entry in enumerate(s["ways"]["fresh"]):
        cells = [points(s["ways"][w][i]["accuracy"]) for w in WAYS]
        cells += [points(s["ways"][w][i]["over_fresh"], True) for w in ("start", "early")]
        lines.append(f"| {100 * (1 - entry['keep']):.0f} % | " + " | ".join(cells) + " |")
    return lines


def draw(rows: list[dict[str, Any]]) -> str:
    s = summary(rows)
    series = [
        Series(name, [100 * (1 - e["keep"]) for e in s["ways"][way]],
               [100 * e["accuracy"][0] for e in s["ways"][way]], "both", k, way in ("fresh", "random"),
               [100 * e["accuracy"][1] for e in s["ways"][way]])
        for k, (way, name) in enumerate(WAYS.items())
    ]  # fmt: skip
    level = 100 * s["dense"][0]
    series.append(Series("dense", [50, 95], [level, level], "line", 5, True))
    return chart("Lottery tickets on digits", "zeros, %", "accuracy, %", series)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in range(args.seeds):
        rows += one_seed(seed, args.steps)
        # after each seed: what is there is a result
        document = {"steps": args.steps, "rows": rows, "summary": summary(rows)}
        write(args.out / "lottery.json", json.dumps(document, indent=1) + "\n")
        write(args.out / "lottery.svg", draw(rows))
        write(args.out / "lottery.md", "\n".join(page(rows, args.steps)) + "\n")
    print("\n".join(page(rows, args.steps)))


if __name__ == "__main__":
    main()
