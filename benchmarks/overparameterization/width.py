"""Study 2: train small, or train large and prune to the same cycles? On digits, and on CIFAR-10.

    .venv/bin/python benchmarks/overparameterization/width.py [--seeds N] [--steps N] [--out FOLDER]
    .venv/bin/python benchmarks/overparameterization/width.py --cifar [--epochs N] [--seed N]

Digits: convolutions of w, 2w, 2w channels for several w. *small* is trained from scratch; *pruned* is
the widest one, trained, its channels cut until it costs no more cycles on the virtual Cortex-M4 than
the small one, and trained on. Both get the same number of steps in all on the same images. Each with
labels only, and with the large network as teacher, so that pruning and teaching can be told apart.
Paired by seed (images, initialisation, order) and by test image. Writes ``width.json``, ``width.md``,
``width.svg``.

``--cifar``: ResNet-8 against the pruned ``ic_resnet_large`` architecture, both trained here on the JPEG
set; it shares networks and rows with ``benchmarks/compression_train.py`` (hours on two cores).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from digits import HERE, accuracy, cost, data, mean_se, network, say
from svg import Series, chart, write

WIDTHS, LARGE = (4, 8, 16), 32
ARMS = {"small": "small", "small_taught": "small, taught by the large one",
        "pruned": "large, pruned", "pruned_taught": "large, pruned, taught by itself"}  # fmt: skip


def convolutions(width: int) -> list[tuple[int, int]]:
    return [(width, 1), (2 * width, 2), (2 * width, 1)]


class Study:
    """One setting; costs are those of shapes, so they are counted once."""

    def __init__(self, steps: int, few: int = 400, widths: tuple[int, ...] = WIDTHS,
                 large: int = LARGE) -> None:  # fmt: skip
        self.steps, self.few, self.widths, self.large = steps, few, widths, large
        self.figures: dict[str, dict[str, int]] = {}
        self.model: Any = None  # the cost of every choice of widths, from the first seed's network

    def options(self, seed: int, share: float) -> Any:
        from edgekit.compress.train.options import TrainOptions

        return TrainOptions(steps=round(self.steps * share), batch=64, lr=4e-3, seed=seed)

    def one_seed(self, seed: int) -> list[dict[str, Any]]:
        from edgekit.compress.train.distill import distill, fine_tune
        from edgekit.compress.train.init import reinitialize

        images, x, y = data(self.few, seed)

        def fresh(width: int) -> Any:
            g = network(convolutions(width), f"digits-{width}")
            return reinitialize(g, images.inputs, seed)

        if self.model is None:
            self._count(fresh(self.large), images)
        large = fine_tune(fresh(self.large), images, self.options(seed, 2 / 3)).graph
        right = accuracy(large, x, y)
        rows = [{"seed": seed, "width": self.large, "arm": "large", "float": float(right.mean()),
                 **self._costs(large, x, y)}]  # fmt: skip
        say(f"seed {seed}: large {right.mean():.4f}")
        for width in self.widths:
            found: dict[str, Any] = {}
            start = fresh(width)
            found["small"] = fine_tune(start, images, self.options(seed, 1)).graph
            found["small_taught"] = distill(start, large, images, self.options(seed, 1)).graph
            limit = self._costs(start, x, y)["cycles"]
            narrow, keep = self.pruned(large, images, limit, seed)
            found["pruned"] = fine_tune(narrow, images, self.options(seed, 1 / 3)).graph
            found["pruned_taught"] = distill(narrow, large, images, self.options(seed, 1 / 3)).graph
            for arm, graph in found.items():
                row = {"seed": seed, "width": width, "arm": arm,
                       "float": float(accuracy(graph, x, y).mean()),
                       **self._costs(graph, x, y)}  # fmt: skip
                if arm.startswith("pruned"):
                    row["widths"] = keep
                rows.append(row)
                say(f"seed {seed}, width {width}, {arm}: {row['float']:.4f}, int8 {row['int8']:.4f}, "
                    f"{row['cycles']:,} cycles")  # fmt: skip
        return rows

    def _costs(self, graph: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        """Cost by shape (counted once), accuracy of the int8 network that would be compiled."""
        from edgekit.data import Dataset
        from edgekit.pipeline import prepare

        shape = str([graph.tensor(n.outputs[0]).shape for n in graph.nodes])
        if shape not in self.figures:
            self.figures[shape] = cost(graph, x[:100])[0]
        integer = prepare(graph, needs_int8=True, data=Dataset.of(x[:100])).reference
        return {**self.figures[shape], "int8": float(accuracy(integer, x, y).mean())}

    def _count(self, start: Any, images: Any) -> None:
        """The cost of every choice of widths, from an untrained network of the large one's shape."""
        from edgekit.compress.groups import find_groups
        from edgekit.compress.prune import cost_of
        from edgekit.compress.steps import StepContext
        from edgekit.data import Dataset
        from edgekit.targets.registry import get_target

        few = Dataset.of(images.inputs[0][:32])
        ctx = StepContext(data=few, target=get_target("cortex-m4"))
        self.model = cost_of(find_groups(start), ctx, "cycles")

    def pruned(self, large: Any, images: Any, cycles: int, seed: int) -> tuple[Any, dict[str, int]]:
        """``large`` cut to at most so many cycles, repaired by least squares on the training images."""
        from edgekit.compress import allocate
        from edgekit.compress.groups import cut, find_groups
        from edgekit.compress.importance import scores
        from edgekit.compress.prune import keep_masks
        from edgekit.compress.repair import repair
        from edgekit.compress.steps import StepContext
        from edgekit.data import Dataset
        from edgekit.targets.registry import get_target

        ctx = StepContext(
            data=Dataset.of(images.inputs[0]), target=get_target("cortex-m4"), seed=seed
        )
        groups = find_groups(large)
        assert self.model is not None
        score = scores(groups, ctx, "surgeon", len(images))
        levels = [allocate.levels(g, 4) for g in groups]
        sums = [np.concatenate([[0.0], np.cumsum(np.sort(score[g.name]))]) for g in groups]
        damage = [{int(k): float(t[g.units - k]) for k in o}
                  for g, o, t in zip(groups, levels, sums, strict=True)]  # fmt: skip
        # estimated cycles are within a percent; equal means no more than the small one's
        kept = allocate.by_damage(self.model, levels, damage, 0.99 * cycles / self.model.total)
        narrow = cut(groups, keep_masks(groups, score, kept))
        out = repair(
            narrow, large, list(images.inputs), method="least_squares", ridge=1e-2, seed=seed
        )
        return out, {g.name: int(k) for g, k in zip(groups, kept, strict=True)}


def check(rows: list[dict[str, Any]]) -> None:
    """Assert that no pruned network costs more than the small one that it is compared with."""
    small = {(r["seed"], r["width"]): r["cycles"] for r in rows if r["arm"] == "small"}
    for r in rows:
        if r["arm"].startswith("pruned"):
            limit = small[r["seed"], r["width"]]
            assert r["cycles"] <= 1.02 * limit, f"{r['cycles']:,} cycles against {limit:,}"


# -- output ----------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]], form: str = "int8") -> list[dict[str, Any]]:
    """By width: mean accuracy of each arm, paired differences to ``small`` and cycles."""
    seeds = sorted({r["seed"] for r in rows})
    at = {(r["seed"], r["width"], r["arm"]): r for r in rows}
    out = []
    for width in sorted({r["width"] for r in rows if r["arm"] == "small"}):
        entry: dict[str, Any] = {"width": width}
        for arm in ARMS:
            mine = [at[s, width, arm] for s in seeds]
            base = [at[s, width, "small"] for s in seeds]
            entry[arm] = {
                "accuracy": mean_se([r[form] for r in mine]),
                "over_small": mean_se([a[form] - b[form] for a, b in zip(mine, base, strict=True)]),
                "cycles": float(np.mean([r["cycles"] for r in mine])),
            }
        entry["pruning_with_teacher"] = mean_se(
            [
                at[s, width, "pruned_taught"][form] - at[s, width, "small_taught"][form]
                for s in seeds
            ]
        )
        out.append(entry)
    return out


def page(rows: list[dict[str, Any]], steps: int) -> list[str]:
    seeds = len({r["seed"] for r in rows})
    large = [r for r in rows if r["arm"] == "large"]
    level, se = mean_se([r["int8"] for r in large])
    lines = [
        "# Train small, or train large and prune to the same cycles: digits",
        "",
        f"`width.py --seeds {seeds} --steps {steps}`. Accuracy of the int8 networks on 1,397 images that "
        "nothing is fitted to (training: 400), mean ± standard error over seeds; differences paired by "
        "seed, in points. Cycles: virtual Cortex-M4, *estimated*, compiled for speed. Equal steps of "
        "training in "
        f"all. The large network: {100 * level:.2f} ± {100 * se:.2f} % at "
        f"{np.mean([r['cycles'] for r in large]):,.0f} cycles.",
        "", "![width sweep](width.svg)", "",
        "| w | small: cycles, accuracy | taught by large | pruned: cycles, accuracy | pruned, taught | "
        "pruned - small | both taught: pruned - small |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip

    def points(p: tuple[float, float], sign: str = "") -> str:
        return f"{100 * p[0]:{sign}.2f} ± {100 * p[1]:.2f}"

    for e in summary(rows):
        lines.append(
            f"| {e['width']} | {e['small']['cycles']:,.0f}, {points(e['small']['accuracy'])} | "
            f"{points(e['small_taught']['accuracy'])} | {e['pruned']['cycles']:,.0f}, "
            f"{points(e['pruned']['accuracy'])} | {points(e['pruned_taught']['accuracy'])} | "
            f"{points(e['pruned']['over_small'], '+')} | {points(e['pruning_with_teacher'], '+')} |"
        )
    return lines


def draw(rows: list[dict[str, Any]]) -> str:
    found = summary(rows)
    series = [
        Series(name, [e[arm]["cycles"] / 1000 for e in found],
               [100 * e[arm]["accuracy"][0] for e in found], "both", k, "taught" in arm,
               [100 * e[arm]["accuracy"][1] for e in found])
        for k, (arm, name) in enumerate(ARMS.items())
    ]  # fmt: skip
    return chart("Digits: int8 accuracy at equal cycles", "thousand cycles on the Cortex-M4 (log)",
                 "accuracy, %", series, log_x=True)  # fmt: skip


# -- CIFAR-10 --------------------------------------------------------------------------------------


def cifar(bench: Any) -> None:
    """The same on the JPEG set: rows are added to those of ``compression_train.py``."""
    from edgekit.compress.recipe import run_step
    from edgekit.compress.steps import StepContext
    from edgekit.compress.train.batches import TrainData
    from edgekit.compress.train.distill import distill, fine_tune
    from edgekit.compress.train.init import reinitialize
    from edgekit.compress.train.options import TrainOptions
    from edgekit.data import Dataset
    from edgekit.targets.registry import get_target

    x, y = bench.jpeg("train")
    val = bench.jpeg("val")
    images, work = TrainData((x,), y), bench.cache / "work"
    some = x[:1000].astype(np.float32)

    def options(share: float, lr: float) -> Any:
        steps = max(1, round(share * bench.epochs * len(x) / 128))
        return TrainOptions(steps=steps, batch=128, lr=lr, weight_decay=0.02,
                            augment=("flip", "crop"), seed=bench.seed)  # fmt: skip

    def make_large() -> Any:
        start = reinitialize(bench.zoo("ic_resnet_large_float"), [some[:256]], bench.seed)
        return fine_tune(
            start, images, options(2 / 3, 6e-3), work=work, progress=bench.progress
        ).graph

    small = bench.resnet8()
    large = bench.network("width-large", make_large)
    budget = 0.99 * cost(small, some[:100])[0]["cycles"] / cost(large, some[:100])[0]["cycles"]

    def make_narrow() -> Any:
        ctx = StepContext(data=Dataset.of(some), target=get_target("cortex-m4"), seed=bench.seed)
        return run_step("prune", large, ctx, importance="surgeon", cycles=budget, realised=0.86,
                        repair="least_squares", repair_samples=1000, rows=40_000)  # fmt: skip

    narrow = bench.network("width-narrow", make_narrow)
    start = reinitialize(bench.zoo("ic_resnet8_float"), [some[:256]], bench.seed)
    arms = {
        "small, taught by the large one": lambda: distill(
            start, large, images, options(1, 6e-3), temperature=4.0, work=work).graph,
        "large, pruned": lambda: fine_tune(narrow, images, options(1 / 3, 3e-3), work=work).graph,
        "large, pruned, taught by itself": lambda: distill(
            narrow, large, images, options(1 / 3, 3e-3), temperature=4.0, work=work).graph,
    }  # fmt: skip
    reference = bench.correct(small, *val)
    bench.row("width study: small", reference, None, **cost(small, some[:100])[0])
    bench.row("width study: large", bench.correct(large, *val), reference,
              **cost(large, some[:100])[0])  # fmt: skip
    for name, make in arms.items():
        graph = bench.network("width-" + name.replace(", ", "-").replace(" ", "-"), make)
        bench.row(f"width study: {name}", bench.correct(graph, *val), reference,
                  **cost(graph, some[:100])[0])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--cifar", action="store_true")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    if args.cifar:
        sys.path.insert(0, str(HERE.parent))
        from compression_train import ROOT, Bench

        cache = args.cache or ROOT.parent / "cache" / "compression_train"
        cifar(Bench(cache, args.seed, args.epochs))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    study, rows = Study(args.steps), []
    for seed in range(args.seeds):
        rows += study.one_seed(seed)
        check(rows)
        document = {"steps": args.steps, "rows": rows, "summary": summary(rows)}
        write(args.out / "width.json", json.dumps(document, indent=1) + "\n")
        write(args.out / "width.svg", draw(rows))
        write(args.out / "width.md", "\n".join(page(rows, args.steps)) + "\n")
    print("\n".join(page(rows, args.steps)))


if __name__ == "__main__":
    main()
