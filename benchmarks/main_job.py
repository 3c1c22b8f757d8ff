"""Measure issue by issue what the main job promises; writes ``benchmarks/main_job.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/main_job.py

Every row is one command a user would type; instruction counts are exact and repeat from run to run
(kind ``simulated``), cycles come from the core's timing table (kind ``estimated``), accuracies and
bytes from running the firmware on the virtual device. Wall-clock times are of the machine it ran on
(kind ``measured``) and only there to show the order of magnitude.
"""

from __future__ import annotations

import filecmp
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
ZOO, DATA = SHARED / "zoo", SHARED / "data"
EDGEKIT = [sys.executable, "-m", "edgekit.cli"]

#: Limits of the issue (flash bytes, RAM bytes, instructions) and TFLM + CMSIS-NN's figures.
LIMITS = {
    "ic_resnet8_int8": (110_000, 54_000, 45_000_000),
    "kws_dscnn_int8": (55_000, 22_000, 14_000_000),
    "ad_fcae_int8": (300_000, 2_500, 900_000),
}
CMSIS = {
    "ic_resnet8_int8": ("149,300", "about 56,000", "28,507,000"),
    "kws_dscnn_int8": ("106,936", "about 24,000", "7,225,901"),
    "ad_fcae_int8": ("304,640", "about 3,200", "573,204"),
}


def edgekit(*args: object, status: int = 0) -> tuple[Any, float, str]:
    """(JSON document or None, seconds, stderr) of one command."""
    start = time.perf_counter()
    done = subprocess.run(
        [*EDGEKIT, *map(str, args), *(["--json"] if status == 0 else [])],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=ROOT,
    )
    seconds = time.perf_counter() - start
    if done.returncode != status:
        raise SystemExit(f"edgekit {' '.join(map(str, args))}: {done.returncode}\n{done.stderr}")
    return (json.loads(done.stdout) if status == 0 else None), seconds, done.stderr


def shown(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def verified_models(work: Path) -> list[str]:
    rng = np.random.default_rng(0)
    noise = work / "ad.npz"
    np.savez(noise, x=rng.integers(-128, 128, (100, 640)).astype(np.int8))
    data = {
        "ic_resnet8_int8": f"{DATA}/cifar10.npz:val_x,val_y",
        "kws_dscnn_int8": f"{DATA}/kws01.npz:x,y",
        "ad_fcae_int8": f"{noise}:x",
    }
    lines = [
        "## Deployed, verified, profiled",
        "",
        "`edgekit deploy MODEL --target TARGET --data DATA -o DIR`; data: the 500 validation images "
        "of `cifar10.npz`, the 500 inputs of `kws01.npz`, 100 random int8 inputs for the "
        "autoencoder. Beside it: TFLM + CMSIS-NN as measured for this project on QEMU (see the "
        "table's last column), and the limits of the issue in parentheses.",
        "",
        "| model | target, device | mismatched bytes / samples | accuracy: device, source | "
        "instructions (simulated) | cycles (estimated) | flash bytes | RAM bytes | "
        "TFLM + CMSIS-NN on M4: instructions, flash, RAM |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for target in ("cortex-m4", "cortex-m55", "cortex-m7", "cortex-m33", "cortex-m3"):
        for model, d in data.items():
            out = work / f"{model}-{target}"
            doc, _, _ = edgekit("deploy", ZOO / f"{model}.tflite", "--target", target,
                                "--data", d, "-o", out)  # fmt: skip
            p, v = doc["profile"], doc["verify"]
            flash, ram, insns = LIMITS[model]
            limit = target == "cortex-m4"

            def cell(value: int, bound: int, show: bool = limit) -> str:
                return f"{value:,}" + (f" (<= {bound:,})" if show else "")

            lines.append(
                f"| {model} | {target}, {p['device']} | {v['mismatched_bytes']} / {v['samples']} | "
                f"{shown(v['accuracy'])}, {shown(v['reference_accuracy'])} | "
                f"{cell(p['total']['instructions'], insns)} | {p['total']['cycles']:,} | "
                f"{cell(p['memory']['flash_bytes'], flash)} | "
                f"{cell(p['memory']['ram_bytes'], ram)} | "
                f"{', '.join((CMSIS[model][2], *CMSIS[model][:2])) if limit else ''} |"
            )
            print(lines[-1], flush=True)
    lines += ["", f"Oracle: {v['oracle']}. Tools: {p['tools']}.", ""]
    return lines


def one_network_three_formats(work: Path) -> list[str]:
    from edgekit import formats

    onnx = work / "ic_resnet8.onnx"
    formats.save(formats.load(ZOO / "ic_resnet8_float.tflite"), onnx)
    lines = [
        "## One network in three formats (post-training quantization)",
        "",
        "`edgekit deploy MODEL --target cortex-m4 --data cifar10.npz:train_x "
        "--val cifar10.npz:val_x,val_y -o DIR` (200 calibration images, 500 validation images).",
        "",
        "| model | float accuracy | int8 on the device | mismatched bytes | same class as the "
        ".tflite deployment |",
        "|---|---|---|---|---|",
    ]
    first: np.ndarray | None = None
    for model in (ZOO / "ic_resnet8_float.tflite", ZOO / "ic_resnet8_keras.h5", onnx):
        out = work / f"fmt-{model.suffix[1:]}"
        doc, _, _ = edgekit("deploy", model, "--target", "cortex-m4", "--data",
                            f"{DATA}/cifar10.npz:train_x", "--val",
                            f"{DATA}/cifar10.npz:val_x,val_y", "-o", out)  # fmt: skip
        edgekit("run", out, "--input", f"{DATA}/cifar10.npz:val_x", "-o", work / "o.npz")
        with np.load(work / "o.npz") as z:
            classes = z[z.files[0]].reshape(500, -1).argmax(axis=1)
        first = classes if first is None else first
        v = doc["verify"]
        lines.append(
            f"| {model.name} | {shown(v['reference_accuracy'])} | {shown(v['accuracy'])} | "
            f"{v['mismatched_bytes']} | {shown(float((classes == first).mean()))} |"
        )
        print(lines[-1], flush=True)
    shipped, _, _ = edgekit("deploy", ZOO / "ic_resnet8_int8.tflite", "--target", "cortex-m4",
                            "--data", f"{DATA}/cifar10.npz:val_x,val_y", "-o", work / "s")  # fmt: skip
    lines += [
        "",
        f"The int8 model that ships with the benchmark: {shown(shipped['verify']['accuracy'])} on "
        "the same images; allowed is half a point less.",
        "",
    ]
    return lines


def the_rest(work: Path) -> list[str]:
    lines = ["## The rest", ""]
    net = ZOO / "mobilenet_v2_1.0_224_int8.tflite"
    np.savez(work / "mn.npz",
             x=np.random.default_rng(0).integers(0, 256, (10, 224, 224, 3)).astype(np.uint8))  # fmt: skip
    doc, _, _ = edgekit("deploy", net, "--target", "host", "--data", work / "mn.npz", "-o",
                        work / "mn")  # fmt: skip
    v, p = doc["verify"], doc["profile"]
    lines.append(
        f"- MobileNetV2 (uint8 in and out) on the host engine: {v['mismatched_bytes']} of "
        f"{v['bytes']:,} bytes differ over {v['samples']} samples (oracle {v['oracle']}); "
        f"{p['total']['latency_ms']:.1f} ms an inference (measured, one thread, portable C)."
    )
    _, _, err = edgekit("deploy", net, "--target", "cortex-m4", "--data", work / "mn.npz", "-o",
                        work / "no", status=2)  # fmt: skip
    lines.append(f"- The same for the M4: exit 2, `{err.strip().splitlines()[-1]}`")
    ic = ZOO / "ic_resnet8_int8.tflite"
    # As cold as it gets: no caches of edgekit's or the compiler's.
    for name in ("cold", "second"):
        cache = {"XDG_CACHE_HOME": str(work / "cache"), "ZIG_GLOBAL_CACHE_DIR": str(work / "zig")}
        os.environ.update(cache)
        _, compile_s, _ = edgekit("compile", ic, "--target", "cortex-m4", "-o", work / f"c-{name}")
        _, deploy_s, _ = edgekit("deploy", ic, "--target", "cortex-m4", "--data",
                                 f"{DATA}/cifar10.npz:val_x,val_y", "--samples", "100",
                                 "-o", work / f"d-{name}")  # fmt: skip
        lines.append(
            f"- ResNet-8 int8, caches {'empty' if name == 'cold' else 'filled'}: compile "
            f"{compile_s:.1f} s, deploy with 100 samples {deploy_s:.1f} s (measured; limits 5, 20)."
        )
    same = _same_tree(work / "c-cold", work / "c-second")
    lines.append(f"- Two compiles of it are byte-identical: {'yes' if same else 'NO'}.")
    firmware = work / "c-cold" / "firmware.elf"
    times = []
    for _ in range(3):
        profile, seconds, _ = edgekit("profile", work / "c-cold")
        times.append(seconds)
    lines.append(
        f"- `edgekit profile` of it (one inference, {profile['total']['instructions']:,} "
        f"instructions, with interpreter start): {min(times):.2f} s (measured)."
    )
    assert firmware.is_file()
    return [*lines, ""]


def _same_tree(a: Path, b: Path) -> bool:
    names = sorted(str(p.relative_to(a)) for p in a.rglob("*") if p.is_file())
    if names != sorted(str(p.relative_to(b)) for p in b.rglob("*") if p.is_file()):
        return False
    return all(filecmp.cmp(a / n, b / n, shallow=False) for n in names)


def main() -> None:
    if not ZOO.is_dir():
        raise SystemExit("no shared models: set EDGEKIT_SHARED to a folder with zoo/ and data/")
    with tempfile.TemporaryDirectory() as tmp:
        work = Path(tmp)
        lines = [
            "# The main job: a trained network onto a Cortex-M",
            "",
            "Made by `.venv/bin/python benchmarks/main_job.py` (needs `EDGEKIT_SHARED`).",
            f"edgekit {version('edgekit')}, Python {platform.python_version()}, "
            f"zig {version('ziglang')}, unicorn {version('unicorn')}, {os.cpu_count()} cores.",
            "",
            *verified_models(work),
            *one_network_three_formats(work),
            *the_rest(work),
        ]
    text = "\n".join(lines).replace(str(work), "DIR").replace(str(SHARED), "$EDGEKIT_SHARED")
    (ROOT / "benchmarks" / "main_job.md").write_text(text)


if __name__ == "__main__":
    main()
