"""The MLPerf Tiny int8 models on Cortex-M, by every preference; writes ``benchmarks/mlperf_tiny.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/mlperf_tiny.py [--samples N]

Every row is ``edgekit compile MODEL --target T --optimize O [--toolchain C] [--option flash_limit=B]``,
then ``edgekit verify`` (bytes against the oracle) and ``edgekit profile``. Instructions are exact (kind
``simulated``: Unicorn, QEMU for the M55); cycles come from the core's timing table, without a board's
flash waits (kind ``estimated``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
EDGEKIT = [sys.executable, "-m", "edgekit.cli"]

MODELS = {
    "IC ResNet-8": "ic_resnet8_int8",
    "KWS DS-CNN": "kws_dscnn_int8",
    "AD FC-AE": "ad_fcae_int8",
}
#: Weights in int8 and biases in int32; "lean" may take this and 25 KiB of flash.
CONSTANTS = {"ic_resnet8_int8": 78_752, "kws_dscnn_int8": 24_376, "ad_fcae_int8": 270_880}

#: (target, preference, toolchain, lean)
RUNS = (
    ("cortex-m4", "balanced", "auto", False),
    ("cortex-m4", "speed", "zig", False),
    ("cortex-m4", "speed", "gcc", False),
    ("cortex-m4", "speed", "zig", True),
    ("cortex-m4", "speed", "gcc", True),
    ("cortex-m4", "ram", "auto", False),
    ("cortex-m4", "size", "auto", False),
    ("cortex-m7", "speed", "auto", False),
    ("cortex-m33", "speed", "auto", False),
    ("cortex-m55", "speed", "zig", False),
    ("cortex-m55", "speed", "gcc", False),
)

#: TFLM with CMSIS-NN, best build, QEMU, November 2026: instructions of the whole model.
CMSIS_NN = {
    ("cortex-m4", "ic_resnet8_int8"): 28_507_000,
    ("cortex-m4", "kws_dscnn_int8"): 7_225_901,
    ("cortex-m4", "ad_fcae_int8"): 573_204,
    ("cortex-m7", "ic_resnet8_int8"): 30_025_340,
    ("cortex-m7", "kws_dscnn_int8"): 7_643_019,
    ("cortex-m7", "ad_fcae_int8"): 583_166,
    ("cortex-m55", "ic_resnet8_int8"): 4_812_856,
    ("cortex-m55", "kws_dscnn_int8"): 1_784_640,
    ("cortex-m55", "ad_fcae_int8"): 149_915,
}

SILICON = """
## Published results of silicon

MLPerf Tiny's logs, Mcycles on real boards (kind measured, by others; flash waits included), to stand
beside the estimates above, which have none.

| who | core | IC | KWS | AD |
|---|---|---|---|---|
| Plumerai 1.1 | Cortex-M4 | 20.1 | 5.73 | 0.486 |
| ST X-CUBE-AI 9.0 | Cortex-M4 | 19.8 | 5.18 | 0.63 |
| ST X-CUBE-AI 9.0 | Cortex-M7 | 11.4 | 3.17 | 0.34 |
"""


def edgekit(*args: object) -> dict[str, Any]:
    """One command's JSON document; its sentence on stderr where it refuses."""
    done = subprocess.run(
        [*EDGEKIT, *map(str, args), "--json"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode not in (0, 1):
        return {"refused": done.stderr.strip().splitlines()[-1].removeprefix("edgekit: ")}
    return json.loads(done.stdout)


def row(model: str, run: tuple[str, str, str, bool], folder: Path, data: Path) -> str:
    target, optimize, toolchain, lean = run
    options: list[object] = ["--toolchain", toolchain]
    if lean:
        options += ["--option", f"flash_limit={CONSTANTS[model] + 25 * 1024}"]
    artifact = folder / "artifact"
    made = edgekit(
        "compile", SHARED / "zoo" / f"{model}.tflite", "--target", target, "--optimize", optimize,
        *options, "-o", artifact,
    )  # fmt: skip
    name = f"| {target} | {optimize}{', lean' if lean else ''} "
    if "refused" in made:
        return f"{name}| | {made['refused']} | | | | | |"
    compiler = next(f"{k} {v}" for k, v in made["tools"].items() if k in ("zig", "gcc"))
    checked = edgekit("verify", artifact, "--data", data)
    profile = edgekit("profile", artifact)
    total, memory = profile["total"], profile["memory"]
    theirs = CMSIS_NN.get((target, model))
    factor = f"{theirs / total['instructions']:.2f}x fewer" if theirs else ""
    return (
        f"{name}| {compiler} | {total['instructions']:,} | {profile['details']['core_cycles']:,} "
        f"| {memory['flash_bytes']:,} | {memory['ram_bytes']:,} | {checked['mismatched_bytes']} "
        f"| {factor} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=10)
    args = parser.parse_args()
    from edgekit.formats import load

    lines = [
        "# MLPerf Tiny on Cortex-M",
        "",
        "Made by `EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/mlperf_tiny.py`: each row is",
        "`edgekit compile MODEL --target T --optimize O` (*lean*: `--option flash_limit=` int8 weights",
        "and biases + 25 KiB), `verify` and `profile`. Instructions: kind simulated, exact, whole",
        "inference. Cycles: kind estimated, the core's timing table without flash waits. Flash and RAM:",
        "the linked firmware, its test program and the measured stack included. Differing bytes: of",
        f"{args.samples} random inputs, against TensorFlow Lite Micro. Last column: instructions of TFLM",
        "with CMSIS-NN on the same virtual core (GCC 12.2, November 2026) over ours.",
        f"Tools: edgekit {version('edgekit')}, unicorn {version('unicorn')}, QEMU (M55).",
    ]
    with tempfile.TemporaryDirectory() as tmp:
        for title, model in MODELS.items():
            graph = load(SHARED / "zoo" / f"{model}.tflite")
            shape = graph.tensor(graph.inputs[0]).shape[1:]
            x = np.random.default_rng(0).integers(-128, 128, (args.samples, *shape), np.int8)
            data = Path(tmp) / "data.npz"
            np.savez(data, x=x)
            lines += [
                "",
                f"## {title} (`{model}.tflite`)",
                "",
                "| target | optimize | compiler | instructions | cycles | flash | RAM | differing "
                "| TFLM + CMSIS-NN |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for k, run in enumerate(RUNS):
                folder = Path(tmp) / f"{model}-{k}"
                folder.mkdir()
                lines.append(row(model, run, folder, data))
                print(lines[-1], file=sys.stderr, flush=True)
    page = Path(__file__).with_suffix(".md")
    aside = page.with_suffix(".md.part")
    aside.write_text("\n".join(lines) + "\n" + SILICON, encoding="utf-8")
    os.replace(aside, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
