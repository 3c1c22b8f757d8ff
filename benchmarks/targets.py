"""Every family and engine on the zoo's models; writes ``benchmarks/targets.md`` (and ``.json``).

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/targets.py [--samples N] [--only TEXT]

Each table is one command a user would type: ``edgekit deploy MODEL --target T --data D -o DIR``, whose
``--engine auto`` compiles, verifies and profiles every engine of the family. Times are of the machine
it ran on (kind ``measured``, one thread), instructions are exact (kind ``simulated``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.aarch64 import find_qemu
from edgekit.devices.local import cpu_model

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
ZOO, DATA = SHARED / "zoo", SHARED / "data"
EDGEKIT = [sys.executable, "-m", "edgekit.cli"]
TARGETS = ("x86-64-host", "raspberry-pi-3", "raspberry-pi-5")
TOOLS = ("edgekit", "ziglang", "ai-edge-litert", "onnxruntime", "onnx", "tflite-micro", "torch")

#: A float network of MobileNetV2's kind with random weights: only its speed means something.
_FLOAT_MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, cin, cout, stride, expand):
        super().__init__()
        mid = cin * expand
        layers = [] if expand == 1 else [nn.Conv2d(cin, mid, 1, bias=False)]
        layers += [] if expand == 1 else [nn.BatchNorm2d(mid), nn.ReLU6()]
        layers += [nn.Conv2d(mid, mid, 3, stride, 1, groups=mid, bias=False)]
        layers += [nn.BatchNorm2d(mid), nn.ReLU6()]
        layers += [nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout)]
        self.body = nn.Sequential(*layers)
        self.add = stride == 1 and cin == cout

    def forward(self, x):
        return x + self.body(x) if self.add else self.body(x)


def model():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    cin = 16
    for expand, cout, count, stride in ((1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 2, 2), (6, 48, 2, 2)):
        for i in range(count):
            layers.append(Block(cin, cout, stride if i == 0 else 1, expand))
            cin = cout
    layers += [nn.Conv2d(cin, 160, 1, bias=False), nn.BatchNorm2d(160), nn.ReLU6()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10)]
    net = nn.Sequential(*layers).eval()
    return net, torch.zeros(1, 3, 96, 96)
"""


def models(work: Path) -> dict[str, tuple[str, str]]:
    """Name -> (model, data) as the command line takes them."""
    rng = np.random.default_rng(0)
    np.savez(work / "ad.npz", x=rng.integers(-128, 128, (100, 640)).astype(np.int8))
    np.savez(work / "image.npz", x=rng.integers(0, 256, (10, 224, 224, 3)).astype(np.uint8))
    np.savez(work / "small.npz", x=rng.normal(0, 1, (32, 96, 96, 3)).astype(np.float32))
    (work / "mobile.py").write_text(_FLOAT_MODEL)
    return {
        "ic_resnet8_int8": (f"{ZOO}/ic_resnet8_int8.tflite", f"{DATA}/cifar10.npz:val_x,val_y"),
        "kws_dscnn_int8": (f"{ZOO}/kws_dscnn_int8.tflite", f"{DATA}/kws01.npz:x,y"),
        "ad_fcae_int8": (f"{ZOO}/ad_fcae_int8.tflite", f"{work}/ad.npz:x"),
        "mobilenet_v2 int8": (
            f"{ZOO}/mobilenet_v2_1.0_224_int8.tflite",
            f"{work}/image.npz:x",
        ),
        "mobilenet class, float, torch": (f"{work}/mobile.py:model", f"{work}/small.npz:x"),
    }


def deploy(model: str, data: str, target: str, samples: int, out: Path) -> dict[str, Any]:
    """The JSON document of ``deploy``, or ``{"error": sentence}``."""
    command = [*EDGEKIT, "deploy", model, "--target", target, "--data", data, "-o", str(out)]
    command += ["--samples", str(samples), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode == 2:
        return {"error": done.stderr.strip().splitlines()[-1].removeprefix("edgekit: ")}
    return dict(json.loads(done.stdout))


def _figure(total: Mapping[str, Any] | None) -> str:
    if total is None:
        return "-"
    if total["latency_ms"] is not None:
        return f"{total['latency_ms']:.3f} ms"
    if total["instructions"] is not None:
        return f"{total['instructions']:,} instructions"
    return "-"


def _held(document: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if not row["verified"]:
        return "no"
    return "yes, every byte" if row["exact"] else "yes, within tolerance"


def rows(name: str, target: str, document: Mapping[str, Any]) -> list[str]:
    if "error" in document:
        return [f"| {name} | {target} | | | no | - | | | {document['error']} |"]
    lines = []
    for e in document["engines"]:
        kept = e["name"] == document["engine"]
        note = "**kept**" if kept else e["reason"] or "slower"
        lines.append(
            f"| {name} | {target} | {e['name']} | {e['precision'] or ''} | {_held(document, e)} | "
            f"{_figure(e['total'])} | {e['kind'] or ''} | {_size(e)} | {note.replace('|', '/')} |"
        )
    return lines


def _size(row: Mapping[str, Any]) -> str:
    return "" if row.get("artifact_bytes") is None else f"{row['artifact_bytes']:,}"


def tools() -> str:
    found = []
    for name in TOOLS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    qemu = find_qemu()
    if qemu:
        text = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False)
        found.append(text.stdout.splitlines()[0].split("(")[0].strip())
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--only", default="", help="models whose name holds this text")
    options = parser.parse_args()
    table, documents = [], {}
    with tempfile.TemporaryDirectory(prefix="edgekit-targets-") as folder:
        work = Path(folder)
        for name, (model, data) in models(work).items():
            if options.only not in name:
                continue
            for target in TARGETS:
                print(f"{name} on {target}", file=sys.stderr)
                out = work / f"{len(documents)}"
                document = deploy(model, data, target, options.samples, out)
                documents[f"{name} on {target}"] = {
                    k: document.get(k) for k in ("engine", "engines", "error", "verify")
                }
                table += rows(name, target, document)
    text = [
        "# Families and engines",
        "",
        "Made by `benchmarks/targets.py`; one row is one engine tried by "
        "`edgekit deploy MODEL --target TARGET --data DATA`.",
        "",
        f"Machine: {cpu_model()}, {platform.system()}; one thread. Tools: {tools()}.",
        "",
        f"Verified on the first {options.samples} samples (10 random images for MobileNetV2). "
        "*Every byte*: equal to the oracle's (TensorFlow Lite Micro). *Within tolerance*: int8 rms "
        "difference at most 3 % of the output's range and 95 % of the classes, float32 1e-4 and "
        "float16 1e-2 of the largest value (`edgekit/tolerance.py`); with labels such an engine is kept "
        "only if it loses at most one point of accuracy. Times are `measured`, "
        "instructions `simulated`; emulated time is no latency and not shown. Size: of the model file "
        "or, for engine c, of the constants, in bytes.",
        "",
        "| model | target | engine | type | verified | figure | kind | size | |",
        "|---|---|---|---|---|---|---|---|---|",
        *table,
        "",
    ]
    place = ROOT / "benchmarks"
    (place / "targets.md").write_text("\n".join(text), "utf-8")
    (place / "targets.json").write_text(json.dumps(documents, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
