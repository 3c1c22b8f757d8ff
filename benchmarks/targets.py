"""Every family and engine on the zoo's models; writes ``benchmarks/targets.md`` (and ``.json``).

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/targets.py [--samples N] [--only TEXT]
        [--targets T,T,...] [--tune N]

Each table is one command a user would type: ``edgekit deploy MODEL --target T --data D -o DIR``, whose
``--engine auto`` compiles, verifies and profiles every engine of the family. One target of every
family that is installed, unless told. Figures carry their kind: ``measured`` (a clock, one thread),
``simulated`` (executed instructions, exact), ``estimated`` (a vendor's model).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.aarch64 import find_qemu
from edgekit.devices.local import cpu_model
from edgekit.targets import registry

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
ZOO, DATA = SHARED / "zoo", SHARED / "data"
EDGEKIT = [sys.executable, "-m", "edgekit.cli"]
#: Taken where they are installed; of any other family the first target.
PREFERRED = (
    "x86-64-host", "raspberry-pi-3", "raspberry-pi-5", "adreno-740", "ethos-u55-128", "ethos-u85-256",
    "h200",
)  # fmt: skip
#: Microcontrollers have benchmarks of their own.
LEFT_OUT = ("mcu",)
TOOLS = (
    "edgekit", "ziglang", "ai-edge-litert", "onnxruntime", "onnxruntime-gpu", "apache-tvm",
    "apache-tvm-ffi", "ethos-u-vela", "pyopencl", "onnx", "tflite-micro", "torch",
)  # fmt: skip


def models(work: Path) -> dict[str, tuple[str, str]]:
    """Name -> (model, data) as the command line takes them."""
    rng = np.random.default_rng(0)
    np.savez(work / "ad.npz", x=rng.integers(-128, 128, (100, 640)).astype(np.int8))
    np.savez(work / "image.npz", x=rng.integers(0, 256, (4, 224, 224, 3)).astype(np.uint8))
    np.savez(work / "small.npz", x=rng.normal(0, 1, (32, 96, 96, 3)).astype(np.float32))
    return {
        "ic_resnet8_int8": (f"{ZOO}/ic_resnet8_int8.tflite", f"{DATA}/cifar10.npz:val_x,val_y"),
        "kws_dscnn_int8": (f"{ZOO}/kws_dscnn_int8.tflite", f"{DATA}/kws01.npz:x,y"),
        "ad_fcae_int8": (f"{ZOO}/ad_fcae_int8.tflite", f"{work}/ad.npz:x"),
        "mobilenet_v2 int8": (
            f"{ZOO}/mobilenet_v2_1.0_224_int8.tflite",
            f"{work}/image.npz:x",
        ),
        "mobilenet_v2 0.35 96, float, torch": (
            f"{ROOT}/models/mobilenet_v2.py:small",
            f"{work}/small.npz:x",
        ),
    }


def chosen_targets() -> list[str]:
    """The preferred targets that are installed, and one of each family that has none among them."""
    entries = [e for e in registry.list_targets() if e.error is None and e.family not in LEFT_OUT]
    names = {e.name: e.family for e in entries}
    found = [t for t in PREFERRED if t in names]
    families = {names[t] for t in found}
    for e in entries:
        if e.family not in families:
            families.add(e.family)
            found.append(e.name)
    return found


def deploy(
    model: str, data: str, target: str, samples: int, out: Path, more: Sequence[str] = ()
) -> dict[str, Any]:
    """The JSON document of ``deploy``, or ``{"error": sentence}``."""
    command = [*EDGEKIT, "deploy", model, "--target", target, "--data", data, "-o", str(out)]
    command += ["--samples", str(samples), "--json", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
    if done.returncode not in (0, 1):
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return {"error": last[0].removeprefix("edgekit: ")}
    return dict(json.loads(done.stdout))


def _figure(total: Mapping[str, Any] | None) -> str:
    if total is None:
        return "-"
    if total["latency_ms"] is not None:
        return f"{total['latency_ms']:.3f} ms"
    for key in ("cycles", "instructions"):
        if total[key] is not None:
            return f"{total[key]:,} {key}"
    return "-"


def _held(row: Mapping[str, Any]) -> str:
    if not row["verified"]:
        return "no"
    return "yes, every byte" if row["exact"] else "yes, within tolerance"


def rows(name: str, target: str, document: Mapping[str, Any]) -> list[str]:
    if "error" in document:
        reason = str(document["error"]).replace("|", "/")
        return [f"| {name} | {target} | | | no | - | | | {reason} |"]
    lines = []
    for e in document["engines"]:
        kept = e["name"] == document["engine"]
        note = "**kept**" if kept else e["reason"] or "slower"
        if e.get("untuned"):
            note += f"; {e['untuned']} kernels untuned"
        lines.append(
            f"| {name} | {target} | {e['name']} | {e['precision'] or ''} | {_held(e)} | "
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


def _tuned(target: str, trials: int) -> list[str]:
    """``--tune`` for targets whose own device has a clock and that have something to tune."""
    resolved = registry.get_target(target)
    backend = registry.get_backend(resolved.family)
    usable = any(getattr(e, "tunable", False) and e.usable for e in backend.engines(resolved))
    on_host = backend.default_device(resolved) == "host"
    return ["--tune", str(trials)] if trials and usable and on_host else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--only", default="", help="models whose name holds this text")
    parser.add_argument("--targets", default="", help="these instead, by comma")
    parser.add_argument("--tune", type=int, default=4, help="candidates a kernel, engine tvm")
    options = parser.parse_args()
    chosen = options.targets.split(",") if options.targets else chosen_targets()
    table, documents = [], {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgekit-targets-") as folder:
        work = Path(folder)
        for name, (model, data) in models(work).items():
            if options.only not in name:
                continue
            for target in chosen:
                print(f"{time.monotonic() - began:5.0f} s  {name} on {target}", file=sys.stderr)
                out = work / f"{len(documents)}"
                more = _tuned(target, options.tune)
                document = deploy(model, data, target, options.samples, out, more)
                documents[f"{name} on {target}"] = {
                    k: document.get(k) for k in ("engine", "engines", "error", "verify")
                }
                table += rows(name, target, document)
    print(f"{time.monotonic() - began:5.0f} s  done", file=sys.stderr)
    text = [
        "# Families and engines",
        "",
        "Made by `benchmarks/targets.py`; one row is one engine tried by "
        f"`edgekit deploy MODEL --target TARGET --data DATA` (`--tune {options.tune}` where the "
        "target's device is this machine).",
        "",
        f"Machine: {cpu_model()}, {platform.system()}; one thread. Tools: {tools()}.",
        "",
        f"Verified on the first {options.samples} samples (4 random images for MobileNetV2 int8, 32 for "
        "the float one, whose weights are random: only its speed means something). "
        "*Every byte*: equal to the oracle's (TensorFlow Lite Micro). *Within tolerance*: int8 rms "
        "difference at most 3 % of the output's range and 95 % of the classes, float32 1e-4 and "
        "float16 1e-2 of the largest value (`edgekit/tolerance.py`); with labels such an engine is kept "
        "only if it loses at most one point of accuracy. Kinds: `measured` by a clock, `simulated` "
        "executed instructions, `estimated` by a model; figures of different kinds cannot be compared, "
        "and emulated time is no latency and not shown. Size: of the model file (for `tvm`: the library "
        "with kernels and weights, without TVM's runtime) or, for engine c, of the constants, in bytes.",
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
