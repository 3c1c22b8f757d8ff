"""Weights of few bits, int16 activations and zeros on a Cortex-M4; writes ``benchmarks/lowbit.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/lowbit.py [--only int4-ad,codebook-ad,...]

Instructions are exact (kind ``simulated``: Unicorn), cycles come from the core's timing table without a
board's flash waits (kind ``estimated``). Every row was run on the virtual core with random inputs and its
bytes compared with the reference executor's. How int4 and codebook networks are made here is told beside
the tables: rounding is enough to count; networks that are accurate are trained
(``benchmarks/compression.md``).
A part that is asked for by ``--only`` replaces its section of the file, the others stay.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
OUT = ROOT / "benchmarks" / "lowbit.md"
TARGET = "cortex-m4"

MODELS = {
    "IC ResNet-8": "ic_resnet8_int8",
    "KWS DS-CNN": "kws_dscnn_int8",
    "AD FC-AE": "ad_fcae_int8",
}
WEIGHTED = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}


def zoo(name: str):
    """The int8 network without dead channels: what every row of it begins with."""
    from edgekit.compress import simplify
    from edgekit.formats import load

    return simplify(load(SHARED / "zoo" / f"{name}.tflite")).graph


def rounded(graph, top: int = 7):
    """The integer graph with its weights rounded to the nearest of -top..top, scales a channel as
    before, biases in the new unit."""
    from edgekit.graph.ir import QuantParams

    out = graph.copy()
    for n in graph.nodes:
        if n.type not in WEIGHTED:
            continue
        w = out.tensor(n.inputs[1])
        axes = tuple(i for i in range(w.data.ndim) if i != WEIGHTED[n.type])
        peak = np.abs(w.data.astype(np.int64)).max(axis=axes if w.quant.is_per_channel else None)
        step = np.maximum(np.atleast_1d(peak), 1) / top
        shape = [1] * w.data.ndim
        shape[WEIGHTED[n.type]] = -1
        data = np.rint(w.data / step.reshape(shape if len(step) > 1 else [1])).astype(np.int8)
        scale = (w.quant.scale * step).astype(np.float32)
        zeros = np.zeros(len(scale), np.int32)
        quant = QuantParams(scale, zeros, w.quant.axis)
        out.tensors[w.name] = w.with_(data=data, quant=quant)
        if len(n.inputs) > 2 and n.inputs[2] is not None:
            b = out.tensor(n.inputs[2])
            x = out.tensor(n.inputs[0]).quant
            bq = QuantParams(np.float32(x.s) * scale, zeros, 0 if w.quant.is_per_channel else None)
            out.tensors[b.name] = b.with_(data=np.rint(b.data / step).astype(np.int32), quant=bq)
    return out.validate()


def cost(graph, optimize: Any) -> dict[str, int]:
    """Compile, run some random inputs on the virtual core, compare, profile."""
    from edgekit.artifact import Artifact, write_manifest
    from edgekit.devices.registry import open_device
    from edgekit.graph.reference import run
    from edgekit.targets import get_backend, get_target
    from edgekit.targets.base import CompileOptions

    target, backend = get_target(TARGET), get_backend("mcu")
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) / "a"
        folder.mkdir()
        compiled = backend.compile(graph, target, folder, CompileOptions(optimize=optimize))
        write_manifest(folder, model={"name": graph.name}, recipe={}, target=target,
                       compiled=compiled, graphs={"graph": compiled.graph or graph})  # fmt: skip
        artifact = Artifact.open(folder)
        rng = np.random.default_rng(0)
        x = [rng.integers(-128, 128, (2, *graph.tensor(i).shape[1:])).astype(np.int8)
             for i in graph.inputs]  # fmt: skip
        with open_device(f"virtual:{TARGET}", target=target) as device:
            got = backend.run(artifact, device, x).outputs
            profile = backend.profile(artifact, device)
    want = run(graph, x)
    differ = sum(
        int((np.asarray(a) != want[o]).sum()) for a, o in zip(got, graph.outputs, strict=True)
    )
    memory = artifact.manifest["memory"]
    return {
        "flash": memory["flash_bytes"],
        "weights": memory["weights_bytes"],
        "arena": memory["arena_bytes"],
        "instructions": sum(layer.instructions or 0 for layer in profile.layers),
        "cycles": sum(layer.cycles or 0 for layer in profile.layers),
        "differ": differ,
    }


def table(head: str, rows: list[list[object]]) -> list[str]:
    """A Markdown table; numbers with thousands separators, to the right."""
    columns = head.split("|")
    lines = [f"| {' | '.join(columns)} |"]
    right = [all(isinstance(r[i], (int, float)) for r in rows) for i in range(len(columns))]
    lines.append("|" + "|".join("---:" if r else "---" for r in right) + "|")
    for r in rows:
        lines.append(
            "| " + " | ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in r) + " |"
        )
    return lines


COSTS = "flash bytes|constants|arena bytes|instructions|cycles|bytes that differ"


def costs_row(c: dict[str, int]) -> list[object]:
    return [c[k] for k in ("flash", "weights", "arena", "instructions", "cycles", "differ")]


# -- the parts ---------------------------------------------------------------------------------


def int4(label: str, say: Callable[[str], None]) -> list[str]:
    from edgekit.compress.int4 import pack_int4

    g = zoo(MODELS[label])
    rows: list[list[object]] = []
    for optimize in ("balanced", "size"):
        for kind, graph in (("int8", g), ("int4", pack_int4(rounded(g)))):
            say(f"int4: {label} {optimize} {kind}")
            rows.append([optimize, kind, *costs_row(cost(graph, optimize))])
    return [
        "Weights of all layers rounded to the nearest of -7..7, int8 beside them.",
        "",
        *table(f"--optimize|weights|{COSTS}", rows),
    ]


def codebook(label: str, say: Callable[[str], None]) -> list[str]:
    from edgekit.compress.codebook import codebook as step

    g = zoo(MODELS[label])
    rows: list[list[object]] = []
    for values in (64, 16, 4):
        say(f"codebook: {label} {values} values")
        graph, lost = step(g, values)
        worst = f"{100 * max(lost.values()):.2f} %"
        rows.append([values, worst, *costs_row(cost(graph, "size"))])
    return [
        "Integer weights clustered (step `codebook`), `--optimize size` (balanced keeps int8 kernels where "
        "codes would take RAM or many cycles); the int8 rows are above. "
        "*lost*: of the weights' energy, in the layer that loses most.",
        "",
        *table(f"values|lost|{COSTS}", rows),
    ]


def mixed(say: Callable[[str], None]) -> list[str]:
    from edgekit.compress.job import float_form
    from edgekit.compress.mixed import mixed as step
    from edgekit.data import Dataset, model_inputs
    from edgekit.formats import load
    from edgekit.graph.reference import run

    g = float_form(load(ROOT / "models" / "digits.tflite"))
    with np.load(ROOT / "models" / "digits.npz") as d:
        x = d["calibration_x"].astype(np.float32)
        val_x, val_y = d["val_x"].astype(np.float32), d["val_y"]
    rows: list[list[object]] = []
    for share in (0.0, 0.1, 0.5, 1.0):
        say(f"mixed: {share}")
        found = step(g, [x], share=share)
        q = found.graph
        out = run(q, model_inputs(q, Dataset.of(val_x)))[q.outputs[0]].reshape(len(val_y), -1)
        accuracy = f"{100 * float((out.argmax(1) == val_y).mean()):.1f} %"
        rows.append([f"{share:g}", len(found.chosen), f"{found.error:.2e}", accuracy,
                     *costs_row(cost(q, "balanced"))])  # fmt: skip
    return [
        "The digits network (step `quantize-mixed`). *error*: squared error of the logits on the "
        "calibration samples, as a share of their variance. int16 kernels are portable C: the price of "
        "each is in the cycles.",
        "",
        *table(f"MACs that may be int16|int16 activations|error|accuracy|{COSTS}", rows),
    ]


def layers() -> Iterator[tuple[str, object, tuple[int, ...], tuple[int, ...]]]:
    yield "fully connected 640 -> 128", "FULLY_CONNECTED", (1, 640), (128, 640)
    yield "1x1, 25x5x64 -> 64", "CONV_2D", (1, 25, 5, 64), (64, 1, 1, 64)
    yield "3x3, 8x8x64 -> 64", "CONV_2D", (1, 8, 8, 64), (64, 3, 3, 64)


def one_layer(op: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], zeros: float):
    """A layer with random weights, of which that share of the blocks of four is zero."""
    from edgekit.graph.ir import Graph, QuantParams, Tensor

    rng = np.random.default_rng(1)
    rows = rng.integers(-60, 61, (w_shape[0], int(np.prod(w_shape[1:]))))
    blocks = rows.shape[1] // 4
    gone = rng.permutation(np.arange(len(rows) * blocks) < zeros * len(rows) * blocks)
    rows = rows * ~np.repeat(gone.reshape(len(rows), blocks), 4, axis=1)
    y_shape = (*x_shape[:-1], w_shape[0])
    g = Graph("layer", {}, [], ("x",), ("y",))
    g.tensors["x"] = Tensor("x", x_shape, "int8", QuantParams.per_tensor(0.05, -128))
    g.tensors["y"] = Tensor("y", y_shape, "int8", QuantParams.per_tensor(0.2, -128))
    scale = QuantParams.per_tensor(0.004, 0)
    if op == "CONV_2D":
        scale = QuantParams.per_channel(np.full(w_shape[0], 0.004), 0)
    g.add_const("w", rows.reshape(w_shape).astype(np.int8), scale)
    attrs: dict[str, object] = {"activation": "RELU"}
    if op == "CONV_2D":
        attrs |= {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME"}
    else:
        attrs |= {"keep_num_dims": False}
    g.add_node(op, ["x", "w"], ["y"], attrs, "layer")
    return g.validate()


def sparse(say: Callable[[str], None]) -> list[str]:
    from edgekit.targets import get_target
    from edgekit_targets.mcu import choose, toolchain
    from edgekit_targets.mcu.config import parse

    mcu = parse(get_target(TARGET))
    compiler = toolchain.arm_compiler(mcu.toolchain, "auto")
    rows: list[list[object]] = []
    for label, op, x_shape, w_shape in layers():
        for zeros in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            say(f"sparse: {label} {zeros}")
            g = one_layer(str(op), x_shape, w_shape, zeros)
            picked = choose.choose(g, mcu, compiler, "speed")
            counted = [o for o in picked.options["layer"] if o.cost and o.cost.cycles is not None]

            def best(is_sparse: bool, lean: bool = False, counted=counted, g=g) -> tuple[int, int]:
                most = g.tensor("w").nbytes * 5 // 4 + 32 * g.tensor("w").shape[0]
                found = [o for o in counted if ("sparse" in o.call.variant) == is_sparse
                         and (not lean or o.const_bytes <= most)]  # fmt: skip
                o = min(found, key=lambda o: o.cost.cycles)
                return o.cost.cycles, o.const_bytes

            (mine, flash), (lean, least), (dense, most) = best(True), best(False, True), best(False)
            (chosen,) = picked.calls.values()
            rows.append([label, f"{100 * zeros:.0f} %", mine, lean, dense, flash, least, most,
                         chosen.variant])  # fmt: skip
    return [
        "One layer at a time; so many of its blocks of four weights are zero. *dense, int8*: the fastest "
        "dense kernel that stores no more than int8 weights; *dense*: the fastest of all (Winograd with "
        "its weights transformed, int16 weights). *fastest*: what `--optimize speed` runs.",
        "",
        *table(
            "layer|zero blocks|cycles, sparse|cycles, dense int8|cycles, dense|constants, sparse|"
            "constants, dense int8|constants, dense|fastest",
            rows,
        ),
    ]


def fewbits(say: Callable[[str], None]) -> list[str]:
    from edgekit.compress.train.batches import TrainData
    from edgekit.compress.train.fewbits import KINDS, few_bits
    from edgekit.compress.train.objectives import Distillation
    from edgekit.compress.train.options import TrainOptions
    from edgekit.data import Dataset, model_inputs
    from edgekit.formats import load
    from edgekit.graph.reference import run

    g = load(ROOT / "models" / "digits.tflite")
    with np.load(ROOT / "models" / "digits.npz") as d:
        data = TrainData((d["calibration_x"].astype(np.float32),))
        val_x, val_y = d["val_x"].astype(np.float32), d["val_y"]
    rows: list[list[object]] = []
    for kind in KINDS:
        accuracy = []
        for steps in (0, 400):
            say(f"fewbits: {kind} {steps} steps")
            q, _ = few_bits(g, lambda h: Distillation(h, [g]), data, kind,
                            TrainOptions(steps=steps, batch=32, lr=1e-3))  # fmt: skip
            out = run(q, model_inputs(q, Dataset.of(val_x)))[q.outputs[0]].reshape(len(val_y), -1)
            accuracy.append(f"{100 * float((out.argmax(1) == val_y).mean()):.1f} %")
        rows.append([kind, *accuracy, *costs_row(cost(q, "size"))])
    return [
        "The digits network (3 KB of weights; 99.2 % in float on these 360 images), its two 1x1 "
        "convolutions with weights of few values; 200 unlabelled images, taught by the float network, seed "
        "0. Costs with `--optimize size`.",
        "",
        *table(f"weights|untrained|400 steps|{COSTS}", rows),
    ]


PARTS: dict[str, tuple[str, Callable[[Callable[[str], None]], list[str]]]] = {
    "int4-ad": ("int4 weights: AD FC-AE", partial(int4, "AD FC-AE")),
    "int4-kws": ("int4 weights: KWS DS-CNN", partial(int4, "KWS DS-CNN")),
    "int4-ic": ("int4 weights: IC ResNet-8", partial(int4, "IC ResNet-8")),
    "codebook-ad": ("Codebooks: AD FC-AE", partial(codebook, "AD FC-AE")),
    "codebook-ic": ("Codebooks: IC ResNet-8", partial(codebook, "IC ResNet-8")),
    "mixed": ("int8 and int16 activations", mixed),
    "sparse": ("Zeros: where block-sparse kernels win", sparse),
    "fewbits": ("Ternary and binary weights", fewbits),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(PARTS))
    wanted = parser.parse_args().only.split(",")
    old = OUT.read_text("utf-8") if OUT.is_file() else ""
    kept = dict(re.findall(r"^## (.*?)\n\n(.*?)(?=^## |\Z)", old, re.DOTALL | re.MULTILINE))
    for part in wanted:
        title, run = PARTS[part]
        kept[title] = "\n".join(run(lambda text: print(text, file=sys.stderr))) + "\n\n"
        head = [
            "# Few bits on a Cortex-M4",
            "",
            "Written by `python benchmarks/lowbit.py`. Instructions are simulated (Unicorn "
            f"{version('unicorn')}), cycles estimated from the core's timing table, code by zig "
            f"{version('ziglang')}; networks of MLPerf Tiny.",
            "",
        ]
        body = [f"## {t}\n\n{kept[t].strip()}\n\n" for t, _ in PARTS.values() if t in kept]
        text = "\n".join(head) + "\n" + "".join(body).rstrip() + "\n"
        temporary = OUT.with_suffix(".md.part")
        temporary.write_text(text, "utf-8")
        os.replace(temporary, OUT)


if __name__ == "__main__":
    main()
