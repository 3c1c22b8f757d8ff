"""What training adds to compression, on CIFAR-10: one network a name, resumable, one command.

    .venv/bin/python benchmarks/compression_train.py NAME...     (no name: lists them; --all)
    .venv/bin/python benchmarks/compression_train.py --table     (writes compression_train.md again)

Needs the shared data folder (``EDGEKIT_SHARED``, default ``../shared``). Trained networks, checkpoints
and the decoded images are kept in ``--cache`` (default ``../cache/compression_train``): what was killed
continues from its last checkpoint, what is finished is only measured again. Every network becomes a row
of ``compression_train.json`` and ``compression_train.md`` beside this file.

Widths of cut networks are written down here. They are the least sum of surgeon losses (see
:mod:`edgekit.compress.surgeon`) of all widths in multiples of 4 (ResNet-8) or 8 (the large one) within
the budget of cycles, by a cycle model fitted to eight profiles of narrower networks
(:func:`edgekit.compress.cost.fitted_cycles`), with at least 0.86 of the saved MACs arriving in cycles.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import api, formats
from edgekit.compress.groups import cut, find_groups
from edgekit.compress.importance import scores
from edgekit.compress.prune import strongest
from edgekit.compress.ptq import QuantizeOptions
from edgekit.compress.repair import repair
from edgekit.compress.simplify import total_macs
from edgekit.compress.steps import StepContext
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
from edgekit.targets.base import CompileOptions

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
RESULTS, PAGE = HERE / "compression_train.json", HERE / "compression_train.md"
TARGET, OPTIMIZE = "cortex-m4", "speed"
R8, LARGE = "ic_resnet8_float", "ic_resnet_large_float"
FREE = "No labels: 5,000 lossless images"
TRAINED = "With training data: 50,000 JPEG images"
INTEGER = "Few bits: the JPEG ResNet-8"


@dataclass(frozen=True)
class Net:
    """section: heading of its table. start: a model of the zoo, a network of this file, or "scratch"
    (ResNet-8 with fresh weights). widths: units that each channel group keeps, in order. data:
    "lossless" (labels unused) or "jpeg". teacher: as start; None: labels alone. labels: their share of
    the loss beside the teacher. against: what the paired differences and the speed-up are taken to.
    integer: "" (post-training int8 of the float network), or "adaround8", "qat8", "adaround4", "qat4"
    of ``start``, which then is what is measured."""

    section: str
    start: str
    data: str
    against: str
    widths: tuple[int, ...] | None = None
    teacher: str | None = None
    labels: float = 0.0
    steps: int = 0
    batch: int = 128
    lr: float = 2e-3
    temperature: float = 2.0
    augment: tuple[Any, ...] = ("flip", "crop")
    weight_decay: float = 0.01
    average: float = 0.999
    variants: int = 40
    integer: str = ""
    title: str = ""


_JPEG: dict[str, Any] = {"section": TRAINED, "data": "jpeg", "against": "j-r8kd", "temperature": 3.0,
                         "steps": 3125, "weight_decay": 0.02, "average": 0.995, "variants": 8}  # fmt: skip
_KD: dict[str, Any] = {**_JPEG, "teacher": "teacher", "labels": 0.3}
_SOFT: dict[str, Any] = {"section": FREE, "data": "lossless", "against": R8, "teacher": R8}
_LARGE: dict[str, Any] = {**_SOFT, "against": LARGE, "teacher": LARGE, "variants": 16}
_LONG = ("flip", "crop", "mixup")
_BITS: dict[str, Any] = {"section": INTEGER, "data": "jpeg", "against": "j-r8kd", "start": "j-r8kd"}

NETS: dict[str, Net] = {
    R8: Net(FREE, R8, "lossless", R8, title="ResNet-8, uncut"),
    LARGE: Net(FREE, LARGE, "lossless", LARGE, title="large ResNet, uncut"),
    "r8-074": Net(start=R8, widths=(12, 12, 28, 28, 52, 64), steps=8000, augment=_LONG, **_SOFT,
                  title="ResNet-8 cut to 0.74 of the cycles"),
    "r8-074b": Net(start="r8-074", steps=1800, lr=7e-4, **_SOFT,
                   title="the same, 1,800 steps more without mixup"),
    "r8-049": Net(start=R8, widths=(8, 8, 16, 16, 64, 64), steps=2500, **_SOFT,
                  title="ResNet-8 cut to 0.49 of the cycles"),
    "l-28": Net(start=LARGE, widths=(32, 24, 56, 72, 72, 160), steps=2500, lr=1e-3,
                **_LARGE, title="large ResNet cut to 0.54 of the cycles"),
    "l-eq": Net(start=LARGE, widths=(16, 16, 16, 24, 64, 144), steps=2500, **_LARGE,
                title="large ResNet cut to the cycles of ResNet-8"),
    "teacher": Net(TRAINED, LARGE, "jpeg", "j-r8kd", steps=1562, lr=1.5e-3, weight_decay=0.02,
                   average=0.0, variants=0, title="teacher: the large ResNet, 4 epochs with labels"),
    "j-r8": Net(start="scratch", lr=6e-3, **_JPEG, title="ResNet-8 from scratch, labels alone"),
    "j-r8kd": Net(start="scratch", lr=6e-3, **_KD, title="ResNet-8 from scratch, taught (control)"),
    "j-r8zoo": Net(start=R8, lr=4e-3, **_KD, title="ResNet-8 as published, then taught as long"),
    "j-eq": Net(start="teacher", widths=(16, 16, 16, 24, 64, 144), lr=4e-3, **_JPEG,
                title="teacher cut to the cycles of ResNet-8, labels alone"),
    "j-eqkd": Net(start="teacher", widths=(16, 16, 16, 24, 64, 144), lr=4e-3, **_KD,
                  title="teacher cut to the cycles of ResNet-8, taught"),
    "j-halfkd": Net(start="teacher", widths=(8, 8, 8, 16, 40, 128), lr=4e-3, **_KD,
                    title="teacher cut to half the cycles of ResNet-8, taught"),
    "qat8": Net(integer="qat8", steps=400, lr=2e-4, title="QAT int8, 400 steps, no labels", **_BITS),
    "qat4": Net(integer="qat4", steps=600, lr=1e-3, title="QAT int4 weights, 600 steps, no labels",
                **_BITS),
}  # fmt: skip


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, file=sys.stderr, flush=True)


class Bench:
    """Data, cache and rows."""

    def __init__(self, cache: Path, seed: int) -> None:
        self.cache, self.seed = cache, seed
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

    def images(self, net: Net, part: str) -> tuple[np.ndarray, np.ndarray]:
        if net.data == "jpeg":
            return self.jpeg(part)
        with np.load(SHARED / "data" / "cifar10.npz") as d:
            return d[f"{part}_x"], d[f"{part}_y"].astype(np.int64)

    # -- networks ----------------------------------------------------------------------------------

    def progress(self, line: str) -> None:
        if time.monotonic() - self._said > 20:
            self._said = time.monotonic()
            say(line)

    def network(self, name: str) -> Graph:
        """The finished network of that name: from the cache, the zoo, or trained now."""
        net = NETS.get(name)
        if net is None or (not net.steps and not net.integer):
            return formats.load(SHARED / "zoo" / f"{name}.tflite")
        file = self.cache / f"{name}-s{self.seed}.ekg"
        if not file.is_file():
            say(f"{name}: training")
            started = time.monotonic()
            formats.save(self.make(net), file)
            say(f"{name}: done after {time.monotonic() - started:.0f} s")
        return formats.load(file)

    def make(self, net: Net) -> Graph:
        x, y = self.images(net, "train")
        options = TrainOptions(
            steps=max(1, net.steps), batch=net.batch, lr=net.lr, weight_decay=net.weight_decay,
            augment=net.augment, average=net.average, variants=net.variants, seed=self.seed,
        )  # fmt: skip
        if net.integer:
            return self.integer(net, x, options)
        if net.start == "scratch":
            some = [x[:256].astype(np.float32)]
            start = reinitialize(self.network(R8), some, self.seed)
        else:
            start = self.network(net.start)
        if net.widths is not None:
            start = self.narrowed(start, net.widths, x)
        work = self.cache / "work"
        if net.teacher is None:
            return fine_tune(start, TrainData((x,), y), options, work=work,
                             progress=self.progress).graph  # fmt: skip
        return distill(start, self.network(net.teacher), TrainData((x,), y), options,
                       temperature=net.temperature, labels=net.labels, work=work,
                       progress=self.progress).graph  # fmt: skip

    def narrowed(self, graph: Graph, widths: tuple[int, ...], x: np.ndarray) -> Graph:
        """Cut to these widths, the rest refitted by least squares; labels are not looked at."""
        some = x[:5000].astype(np.float32)
        groups = find_groups(graph)
        score = scores(groups, StepContext(data=Dataset.of(some), seed=self.seed), "surgeon", 1000)
        keep = {g.name: strongest(score[g.name], k) for g, k in zip(groups, widths, strict=True)}
        return repair(cut(groups, keep), graph, [some], method="least_squares", seed=self.seed)

    def integer(self, net: Net, x: np.ndarray, options: TrainOptions) -> Graph:
        g, bits = self.network(net.start), int(net.integer[-1])
        auto = QuantizeOptions(observer="auto")
        if net.integer.startswith("adaround"):
            pick = np.random.default_rng(self.seed).permutation(len(x))[:400]
            return adaround(g, [x[pick].astype(np.float32)], auto, AdaRoundOptions(1000, bits=bits))
        return qat(g, lambda h: Distillation(h, [g]), TrainData((x,)), options, bits=bits,
                   work=self.cache / "work", progress=self.progress)[0]  # fmt: skip

    # -- measuring ---------------------------------------------------------------------------------

    def compiled(self, name: str, graph: Graph, x: np.ndarray) -> tuple[dict[str, Any], Graph]:
        """Costs on the target, and the integer graph that the device's bytes are checked against."""
        file = self.cache / f"{name}-s{self.seed}.{OPTIMIZE}.json"
        kept = file.with_suffix(".ekg")
        if not file.is_file() or not kept.is_file():
            with tempfile.TemporaryDirectory() as tmp:
                artifact = api.compile(graph, TARGET, Path(tmp) / "a", data=Dataset.of(x[:200]),
                                       options=CompileOptions(optimize=OPTIMIZE))  # fmt: skip
                p = api.profile(artifact)
                formats.save(api.open_artifact(artifact).reference, kept)
            file.write_text(json.dumps({
                "cycles": p["total"]["cycles"], "flash": p["memory"]["flash_bytes"],
                "ram": p["memory"]["ram_bytes"], "tools": p["tools"], "macs": total_macs(graph),
            }))  # fmt: skip
        return json.loads(file.read_text()), formats.load(kept)

    def right(self, name: str, net: Net) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Which validation images the float and the int8 form get right, and the costs."""
        file = self.cache / f"{name}-s{self.seed}.right.npz"
        graph = self.network(name)
        costs, q = self.compiled(name, graph, self.images(net, "train")[0])
        if not file.is_file():
            x, y = self.images(net, "val")
            said8 = run(q, model_inputs(q, Dataset.of(x)))[q.outputs[0]]
            said = said8 if graph.is_quantized else predict(graph, [x])[0]
            found = [s.reshape(len(y), -1).argmax(1) == y for s in (said, said8)]
            np.savez(file, real=found[0], int8=found[1])
        with np.load(file) as d:
            return d["real"], d["int8"], costs

    def row(self, name: str) -> None:
        net = NETS[name]
        real, int8, costs = self.right(name, net)
        real0, int0, costs0 = self.right(net.against, NETS[net.against])
        if net.integer:
            int0 = real0  # the question is what the bits cost
        saved, speedup = costs0["macs"] / costs["macs"], costs0["cycles"] / costs["cycles"]
        rows = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        rows[name] = {
            **asdict(net), **costs, "seed": self.seed, "images": len(real),
            "float": _against(real, real0), "int8": _against(int8, int0), "speedup": speedup,
            "macs_left": 1 / saved, "realised": speedup / saved,
        }  # fmt: skip
        temp = RESULTS.with_suffix(".tmp")
        temp.write_text(json.dumps({n: rows[n] for n in NETS if n in rows}, indent=1) + "\n")
        os.replace(temp, RESULTS)
        PAGE.write_text(page(rows))
        r = rows[name]
        say(f"{name}: float {_points(r['float'])}, int8 {_points(r['int8'])}, {r['cycles']:,} cycles, "
            f"speed-up {speedup:.2f}, realised {r['realised']:.2f}")  # fmt: skip


def _against(right: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    gap = right.astype(float) - reference.astype(float)
    return {"accuracy": float(right.mean()), "difference": float(gap.mean()),
            "standard_error": float(gap.std(ddof=1) / np.sqrt(len(gap)))}  # fmt: skip


def _points(q: dict[str, float]) -> str:
    return f"{100 * q['difference']:+.2f} ± {100 * q['standard_error']:.2f}"


def page(rows: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = [
        "# Compression with training", "",
        "`EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/compression_train.py NAME` makes a row; "
        "its settings are in `compression_train.py`, its figures in `compression_train.json`. "
        "Differences in points, paired on the same images, with their standard error: float to float, "
        "int8 to int8. Cycles: virtual Cortex-M4, *estimated* from exactly counted instructions, "
        f"compiled with `--optimize {OPTIMIZE}`, every network with the same build. *Realised*: "
        "speed-up over the reduction in MACs. Int8 accuracies are those of the integer graph whose "
        "bytes the firmware is checked against. One seed.",
    ]  # fmt: skip
    for section in dict.fromkeys(n.section for n in NETS.values()):
        mine = {k: rows[k] for k, n in NETS.items() if k in rows and n.section == section}
        if not mine:
            continue
        lines += ["", f"## {section}", "",
                  "| name | network | steps | images | float | difference | int8 | difference | MACs "
                  "left | M4 cycles | speed-up | realised | against |",
                  "|" + "---|" * 13]  # fmt: skip
        for name, r in mine.items():
            lines.append(
                f"| `{name}` | {r['title']} | {r['steps']} | {r['images']} | "
                f"{100 * r['float']['accuracy']:.1f} % | {_points(r['float'])} | "
                f"{100 * r['int8']['accuracy']:.1f} % | {_points(r['int8'])} | {r['macs_left']:.3f} | "
                f"{r['cycles']:,} | {r['speedup']:.2f} | {r['realised']:.2f} | `{r['against']}` |"
            )
    notes = HERE / "compression_train_notes.md"
    if notes.is_file():
        lines += ["", notes.read_text().rstrip()]
    tools: dict[str, str] = next((r["tools"] for r in rows.values()), {})
    listed = ", ".join(f"{k} {v}" for k, v in sorted(tools.items()))
    return "\n".join([*lines, "", f"Tools: {listed}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--cache", type=Path, default=ROOT.parent / "cache" / "compression_train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    names = list(NETS) if args.all else args.names
    for name in names:
        if name not in NETS:
            parser.error(f"there is no network '{name}'; there are {', '.join(NETS)}")
    if not names and not args.table:
        for name, net in NETS.items():
            print(f"{name:24} {net.title}")
    bench = Bench(args.cache, args.seed)
    for name in names:
        bench.row(name)
    if args.table:
        PAGE.write_text(page(json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
