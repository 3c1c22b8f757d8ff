"""What training adds to compression, on CIFAR-10: one row a method, resumable, one command.

    .venv/bin/python benchmarks/compression_train.py STAGE...      (no stage: lists them)

Needs the shared data folder (``EDGEKIT_SHARED``, default ``../shared``). Trained networks and the
decoded images are kept in ``--cache`` (default ``../cache/compression_train``), outside the project:
a stage that was killed continues from its last checkpoint, a finished one is not run again. Every row
is appended to ``rows.json`` there; ``--table`` writes ``benchmarks/compression_train.md`` of it.

Accuracies: the JPEG set's 5,000 validation images, or the 500 lossless ones. Differences are paired
on the same images, with their standard error. Integer networks run in the reference executor, whose
bytes are the device's.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import formats
from edgekit.compress.ptq import QuantizeOptions, quantize
from edgekit.compress.train.adaround import AdaRoundOptions, adaround
from edgekit.compress.train.batches import TrainData
from edgekit.compress.train.distill import distill, fine_tune
from edgekit.compress.train.init import reinitialize
from edgekit.compress.train.objectives import Distillation
from edgekit.compress.train.options import TrainOptions
from edgekit.compress.train.qat import qat
from edgekit.compress.train.trainer import predict
from edgekit.data import Dataset, model_inputs
from edgekit.graph.ir import Graph
from edgekit.graph.reference import run

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


class Bench:
    """Data, cache and rows."""

    def __init__(self, cache: Path, seed: int, epochs: int) -> None:
        self.cache, self.seed, self.epochs = cache, seed, epochs
        cache.mkdir(parents=True, exist_ok=True)
        self._said = 0.0

    # -- data --------------------------------------------------------------------------------------

    def jpeg(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 ``[N, 32, 32, 3]`` and labels; decoded once."""
        file = self.cache / f"{part}.npz"
        if not file.is_file():
            from PIL import Image

            with np.load(SHARED / "data" / "cifar10_jpeg.npz") as d:
                raw, at, y = (d[f"{part}_{k}"] for k in ("jpeg", "offsets", "labels"))
            raw = raw.tobytes()
            x = np.stack([np.asarray(Image.open(io.BytesIO(raw[a:b])))
                          for a, b in itertools.pairwise(at)])  # fmt: skip
            temp = file.with_suffix(".tmp.npz")
            np.savez(temp, x=x, y=y)
            os.replace(temp, file)
        with np.load(file) as d:
            return d["x"], d["y"].astype(np.int64)

    def lossless(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        with np.load(SHARED / "data" / "cifar10.npz") as d:
            return d[f"{part}_x"], d[f"{part}_y"].astype(np.int64)

    def zoo(self, name: str) -> Graph:
        return formats.load(SHARED / "zoo" / f"{name}.tflite")

    # -- results -----------------------------------------------------------------------------------

    def progress(self, line: str) -> None:
        if time.monotonic() - self._said > 20:
            self._said = time.monotonic()
            say(line)

    def network(self, name: str, make: Callable[[], Graph]) -> Graph:
        """The cached network of that name, or a new one."""
        file = self.cache / f"{name}-e{self.epochs}-s{self.seed}.ekg"
        if not file.is_file():
            say(f"{name}: training")
            started = time.monotonic()
            formats.save(make(), file)
            say(f"{name}: done after {time.monotonic() - started:.0f} s")
        return formats.load(file)

    def correct(self, graph: Graph, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Which images are right."""
        if graph.is_quantized:
            out = run(graph, model_inputs(graph, Dataset.of(x)))[graph.outputs[0]]
        else:
            out = predict(graph, [x])[0]
        return np.asarray(out.reshape(len(y), -1).argmax(1) == y)

    def row(self, name: str, right: np.ndarray, reference: np.ndarray | None, **more: Any) -> None:
        entry: dict[str, Any] = {"name": name, "seed": self.seed, "epochs": self.epochs,
                                 "images": len(right), "accuracy": float(right.mean()), **more}  # fmt: skip
        if reference is not None:
            gap = right.astype(float) - reference.astype(float)
            entry["difference"] = float(gap.mean())
            entry["standard_error"] = float(gap.std(ddof=1) / np.sqrt(len(gap)))
        file = self.cache / "rows.json"
        rows = json.loads(file.read_text()) if file.is_file() else []
        same = ("name", "seed", "epochs")
        rows = [r for r in rows if any(r[k] != entry[k] for k in same)] + [entry]
        temp = file.with_suffix(".tmp")
        temp.write_text(json.dumps(rows, indent=1, sort_keys=True))
        os.replace(temp, file)
        say(json.dumps(entry))

    # -- stages ------------------------------------------------------------------------------------

    def resnet8(self) -> Graph:
        """ResNet-8 from scratch on the JPEG set, labels only: the control."""

        def make() -> Graph:
            x, y = self.jpeg("train")
            start = reinitialize(
                self.zoo("ic_resnet8_float"), [x[:256].astype(np.float32)], self.seed
            )
            steps = round(self.epochs * len(x) / 128)
            options = TrainOptions(steps=steps, batch=128, lr=6e-3, weight_decay=0.02,
                                   augment=("flip", "crop"), seed=self.seed)  # fmt: skip
            return fine_tune(start, TrainData((x,), y), options, work=self.cache / "work",
                             progress=self.progress).graph  # fmt: skip

        g = self.network("resnet8", make)
        self.row("ResNet-8 from scratch, labels", self.correct(g, *self.jpeg("val")), None)
        return g

    def quantized(self) -> None:
        """Every way to int8 and int4 of the network of ``resnet8``."""
        g = self.resnet8()
        x, _ = self.jpeg("train")
        val = self.jpeg("val")
        reference = self.correct(g, *val)
        some = [x[np.random.default_rng(self.seed).permutation(len(x))[:400]].astype(np.float32)]
        auto = QuantizeOptions(observer="auto")

        def trained(bits: int) -> Graph:
            options = TrainOptions(steps=1200, batch=128, lr=2e-4 if bits == 8 else 1e-3,
                                   augment=("flip", "crop"), seed=self.seed)  # fmt: skip
            return qat(g, lambda h: Distillation(h, [g]), TrainData((x,)), options, bits=bits,
                       work=self.cache / "work", progress=self.progress)[0]  # fmt: skip

        ways: dict[str, Callable[[], Graph]] = {
            "PTQ int8": lambda: quantize(g, some, auto),
            "AdaRound int8": lambda: adaround(g, some, auto, AdaRoundOptions(2000)),
            "AdaRound int4 weights": lambda: adaround(g, some, auto, AdaRoundOptions(2000, bits=4)),
            "QAT int8, 1200 steps, no labels": lambda: trained(8),
            "QAT int4 weights, 1200 steps, no labels": lambda: trained(4),
        }
        for name, make in ways.items():
            q = self.network(name.split(",")[0].replace(" ", "-").lower(), make)
            self.row(f"ResNet-8: {name}", self.correct(q, *val), reference)

    def born(self) -> None:
        """The control again, taught by itself (born-again), as long."""
        g = self.resnet8()
        x, _ = self.jpeg("train")

        def make() -> Graph:
            start = reinitialize(self.zoo("ic_resnet8_float"), [x[:256].astype(np.float32)],
                                 self.seed + 1)  # fmt: skip
            options = TrainOptions(steps=round(self.epochs * len(x) / 128), batch=128, lr=6e-3,
                                   weight_decay=0.02, augment=("flip", "crop"), seed=self.seed)  # fmt: skip
            return distill(start, g, TrainData((x,)), options, temperature=4.0,
                           work=self.cache / "work", progress=self.progress).graph  # fmt: skip

        val = self.jpeg("val")
        right = self.correct(self.network("born-again", make), *val)
        self.row("ResNet-8 born again", right, self.correct(g, *val))

    def calibration(self) -> None:
        """PTQ and AdaRound of the pretrained ResNet-8 for five random calibration sets."""
        g = self.zoo("ic_resnet8_float")
        x, _ = self.lossless("train")
        val = self.lossless("val")
        reference = self.correct(g, *val)
        auto = QuantizeOptions(observer="auto")
        ways: dict[str, Callable[[list[np.ndarray]], Graph]] = {
            "AdaRound int8": lambda some: adaround(g, some, auto),
            "PTQ int8": lambda some: quantize(g, some, auto),
            "AdaRound int4 weights": lambda some: adaround(g, some, auto, AdaRoundOptions(bits=4)),
        }
        for name, make in ways.items():
            for k in range(5):
                pick = np.random.default_rng([self.seed, k]).permutation(len(x))[:200]
                some = [x[pick].astype(np.float32)]
                file = f"zoo-{name.replace(' ', '-').lower()}-{k}"
                q = self.network(file, lambda some=some, make=make: make(some))
                self.row(f"pretrained ResNet-8: {name}, set {k}", self.correct(q, *val), reference)


STAGES = {"resnet8": Bench.resnet8, "quantized": Bench.quantized, "born": Bench.born,
          "calibration": Bench.calibration}  # fmt: skip


def table(cache: Path) -> str:
    """The rows as Markdown."""
    rows = json.loads((cache / "rows.json").read_text())
    out = [
        "| network | seed | epochs | images | accuracy | paired difference |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        gap = ""
        if "difference" in r:
            gap = f"{100 * r['difference']:+.2f} ± {100 * r['standard_error']:.2f}"
        out.append(f"| {r['name']} | {r['seed']} | {r['epochs']} | {r['images']} | "
                   f"{100 * r['accuracy']:.2f} % | {gap} |")  # fmt: skip
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", choices=[*STAGES, []], metavar="STAGE")
    parser.add_argument("--cache", type=Path, default=ROOT.parent / "cache" / "compression_train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.stages and not args.table:
        for name, stage in STAGES.items():
            print(f"{name:12} {(stage.__doc__ or '').splitlines()[0]}")
    bench = Bench(args.cache, args.seed, args.epochs)
    for name in args.stages:
        STAGES[name](bench)
    if args.table:
        print(table(args.cache), end="")


if __name__ == "__main__":
    main()
