"""The mobile GPUs' engines on PoCL; writes ``benchmarks/mobile_gpu.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/mobile_gpu.py [--only TEXT]

Each row is one artifact, made and verified by the commands a user would type (``edgekit compile``,
``edgekit verify``). Errors are of the deployed kernels, layer by layer, against the reference
executor. Kernel times are OpenCL event times on this machine's CPU: they are what the program
measured here, and say nothing about a phone.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.artifact import Artifact
from edgekit.data import load_dataset, model_inputs
from edgekit.devices import open_device
from edgekit.devices.local import cpu_model
from edgekit_targets.mobile_gpu import probe
from edgekit_targets.mobile_gpu.layers import layer_errors

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
ZOO, DATA = SHARED / "zoo", SHARED / "data"
EDGEKIT = [sys.executable, "-m", "edgekit.cli"]
TOOLS = ("edgekit", "apache-tvm", "apache-tvm-ffi", "ziglang", "ai-edge-litert", "tflite-micro")
TARGET = "adreno-650"
ENGINES = ("opencl", "opencl-fp16", "litert-fp16")

#: MobileNetV2 (Sandler et al. 2018, table 2) with random weights.
_MOBILENET_V2 = """
import torch
from torch import nn

ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
        (6, 320, 1, 1))


def unit(cin, cout, k=1, stride=1, groups=1, act=True):
    layers = [nn.Conv2d(cin, cout, k, stride, k // 2, groups=groups, bias=False)]
    layers += [nn.BatchNorm2d(cout)] + ([nn.ReLU6()] if act else [])
    return nn.Sequential(*layers)


class Block(nn.Module):
    def __init__(self, cin, cout, stride, expand):
        super().__init__()
        mid = cin * expand
        layers = [] if expand == 1 else [unit(cin, mid)]
        layers += [unit(mid, mid, 3, stride, mid), unit(mid, cout, act=False)]
        self.body = nn.Sequential(*layers)
        self.add = stride == 1 and cin == cout

    def forward(self, x):
        return x + self.body(x) if self.add else self.body(x)


def make(width, size):
    def scaled(c):
        near = max(8, int(c * width + 4) // 8 * 8)
        return near + 8 if near < 0.9 * c * width else near

    torch.manual_seed(0)
    c = scaled(32)
    layers = [unit(3, c, 3, 2)]
    for expand, channels, repeats, stride in ROWS:
        for k in range(repeats):
            layers.append(Block(c, scaled(channels), stride if k == 0 else 1, expand))
            c = scaled(channels)
    layers += [unit(c, 1280), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)]
    net = nn.Sequential(*layers, nn.Softmax(-1)).eval()
    for m in net.modules():  # torch's own would let the values fade away layer by layer
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="linear")
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.bias, 0, 0.3)
    return net, torch.zeros(1, 3, size, size)


def small():
    return make(0.35, 96)


def full():
    return make(1.0, 224)
"""


def edgekit(*args: object) -> Any:
    done = subprocess.run(
        [*EDGEKIT, *map(str, args), "--json"],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        cwd=ROOT,
    )
    if done.returncode not in (0, 1):
        words = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise RuntimeError(words.removeprefix("edgekit: "))
    return json.loads(done.stdout)


def models(work: Path) -> dict[str, tuple[str, str]]:
    """Name -> (model, data)."""
    (work / "mobilenet.py").write_text(_MOBILENET_V2, "utf-8")
    rng = np.random.default_rng(0)
    for name, shape in (("96", (4, 96, 96, 3)), ("224", (2, 224, 224, 3))):
        np.savez(work / f"{name}.npz", x=rng.normal(0, 1, shape).astype(np.float32))
    images = rng.integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    np.savez(work / "bytes.npz", x=images)
    np.savez(work / "ad.npz", x=rng.integers(-128, 128, (8, 640)).astype(np.int8))
    cifar = f"{DATA}/cifar10.npz:val_x,val_y"
    return {
        "ic_resnet8 float": (f"{ZOO}/ic_resnet8_float.tflite", cifar),
        "MobileNetV2 0.35 96x96, torch, random weights": (
            f"{work}/mobilenet.py:small",
            f"{work}/96.npz:x",
        ),
        "MobileNetV2 1.0 224x224, torch, random weights": (
            f"{work}/mobilenet.py:full",
            f"{work}/224.npz:x",
        ),
        "ic_resnet8 int8": (f"{ZOO}/ic_resnet8_int8.tflite", cifar),
        "kws_dscnn int8": (f"{ZOO}/kws_dscnn_int8.tflite", f"{DATA}/kws01.npz:x,y"),
        "ad_fcae int8": (f"{ZOO}/ad_fcae_int8.tflite", f"{work}/ad.npz:x"),
        "mobilenet_v2 1.0 224 int8": (
            f"{ZOO}/mobilenet_v2_1.0_224_int8.tflite",
            f"{work}/bytes.npz:x",
        ),
    }


def measure(model: str, data: str, engine: str, samples: int, out: Path) -> dict[str, Any]:
    """Everything about one artifact."""
    edgekit("compile", model, "--target", TARGET, "--engine", engine, "-o", out)
    small = out.parent / "samples.npz"
    dataset = load_dataset(data).head(samples)
    np.savez(
        small, x=next(iter(dataset.x.values())), **({} if dataset.y is None else {"y": dataset.y})
    )
    check = edgekit("verify", out, "--data", f"{small}:x" + ("" if dataset.y is None else ",y"))
    artifact = Artifact.open(out)
    row: dict[str, Any] = {"check": check, "manifest": artifact.manifest, "layers": []}
    row["bytes"] = {n: artifact.file(n).stat().st_size for n in artifact.manifest["files"]}
    if engine != "litert-fp16":
        x = model_inputs(artifact.graph, dataset.head(2))
        with open_device("virtual:opencl", target=artifact.target) as device:
            row["layers"] = layer_errors(artifact, device, x)
        row["profile"] = edgekit("profile", out)
    return row


def result(name: str, engine: str, row: Mapping[str, Any]) -> str:
    check, manifest, memory = row["check"], row["manifest"], row["manifest"]["memory"]
    c = check["criterion"]
    unit = ""
    worst = max(row["layers"], key=lambda e: e.error, default=None)
    if worst is not None and manifest["details"]["precision"] == "int8":
        unit = " steps"
    layer = "-" if worst is None else f"{worst.error:.2g}{unit} ({worst.op})"
    accuracy = "-"
    if check["accuracy"] is not None:
        accuracy = f"{check['accuracy']:.3f} / {check['reference_accuracy']:.3f}"
    kernels = "-"
    if "kernels" in manifest["details"]:
        details = manifest["details"]
        kernels = f"{details['kernels']} ({details['functions']} functions, {len(manifest['plan'])} nodes)"
    arena = "-"
    if "arena_bytes" in memory:
        arena = f"{memory['arena_bytes']:,} ({memory['peak_alive_bytes']:,}; {memory['unshared_bytes']:,})"
    weights = row["bytes"].get("weights.bin") or row["bytes"].get("model.tflite")
    return (
        f"| {name} | {engine} | {'yes' if check['passed'] else 'no'}, {check['samples']} samples | "
        f"{c['error']:.2g} (limit {c['error_limit']:g}) | {layer} | {accuracy} | {kernels} | {arena} | "
        f"{weights:,} | {memory['flash_bytes']:,} |"
    )


def kernel_times(name: str, row: Mapping[str, Any]) -> list[str]:
    """The kernels of one artifact, with the host's event times."""
    lines = [
        f"### {name}",
        "",
        "| kernel | nodes | global size | local size | event time on the host's CPU, ms |",
        "|---|---|---|---|---:|",
    ]
    for r in row["profile"]["layers"]:
        plan = next(p for p in row["manifest"]["plan"] if p["name"] == r["name"])
        if "global" not in plan["details"]:
            continue
        mine = plan["details"]["kernels"]
        nodes = [p["op"] for p in row["manifest"]["plan"] if p["details"].get("kernels") == mine]
        sizes = [" x ".join(map(str, plan["details"][k])) for k in ("global", "local")]
        lines.append(
            f"| {r['variant']} | {' + '.join(nodes)} | {sizes[0]} | {sizes[1]} | {r['host_time_ms']:.3f} |"
        )
    return [*lines, ""]


def tools() -> str:
    found = probe.cpu()
    opencl = "none" if found is None else f"{found.platform} {found.driver}"
    return ", ".join([*(f"{t} {version(t)}" for t in TOOLS), opencl])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="models whose name contains this text")
    only = parser.parse_args().only
    head = [
        "# Mobile GPUs",
        "",
        "Made by `benchmarks/mobile_gpu.py`, target " + f"`{TARGET}`" + ", run on `virtual:opencl` "
        "(PoCL: the kernels a phone would run, on this machine's CPU; kind `simulated`). No phone was "
        "there: nothing here is a phone's latency.",
        "",
        f"Machine: {cpu_model()}, {platform.system()}. Tools: {tools()}.",
        "",
        "*Error*: floats, largest difference as a share of the reference's largest magnitude; int8, "
        "root mean square as a share of the type's range, against the oracle. *Worst layer*: the "
        "same share over all tensors that kernels write (float), or steps of the tensor's grid "
        "(int8), differences of earlier layers included. *Activations*: bytes of the shared "
        "buffers (most bytes alive at once; every tensor in a buffer of its own). *Deployed*: "
        "kernels, plan, weights and runner, or the .tflite. `litert-fp16` is the file for the GPU "
        "delegate, run here by LiteRT on the CPU. Quantized models are for `opencl` alone: the float16 "
        "engines refuse them. Weights of the torch networks are random, of gain 1; where layers amplify "
        "noise (untrained networks with gain sqrt 2), float16 rounding grows by some 9 % a layer and "
        "leaves its tolerance after about 40 layers, which `verify` then says.",
        "",
        "| model | engine | verified | error | worst layer | accuracy, here / float or source | "
        "kernels | activations, bytes | weights, bytes | deployed, bytes |",
        "|---|---|---|---|---|---|---|---|---:|---:|",
    ]
    times: list[str] = ["", "## Kernels", ""]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for name, (model, data) in models(work).items():
            if only not in name:
                continue
            for engine in ENGINES[:1] if "int8" in name else ENGINES:
                print(f"{name}: {engine}", file=sys.stderr, flush=True)
                samples = 50 if "resnet8" in name or "kws" in name else 8
                try:
                    row = measure(model, data, engine, samples, work / f"artifact-{len(head)}")
                except RuntimeError as e:
                    head.append(f"| {name} | {engine} | - | - | - | - | - | - | - | {e} |")
                    continue
                head.append(result(name, engine, row))
                if engine == "opencl" and ("resnet8 float" in name or "0.35" in name):
                    times += kernel_times(f"{name}, float32", row)
    if not only:
        (ROOT / "benchmarks" / "mobile_gpu.md").write_text("\n".join([*head, *times]), "utf-8")
    print("\n".join([*head, *times]))


if __name__ == "__main__":
    main()
