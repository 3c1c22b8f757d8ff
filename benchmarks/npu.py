"""Vela's estimates for the int8 models of the zoo on Ethos-U, whole models, versions stamped.

    python benchmarks/npu.py [--models DIR] [--targets T,T,...] > benchmarks/npu.md

Each model goes through edgekit twice: as it is (what Vela says about the file itself), and after
the lossless removal of dead channels. Operators that stay on the CPU are costed on the virtual
Cortex-M55 and part of the total. The int8 .tflite that Vela compiled is verified on random inputs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MODELS = (
    "ic_resnet8_int8",
    "ic_resnet_large_int8",
    "kws_dscnn_int8",
    "ad_fcae_int8",
    "mobilenet_v2_1.0_224_int8",
)
#: The network that edgekit ships; float, so it is quantized on its calibration samples first.
DIGITS = ROOT / "models" / "digits.tflite"
TARGETS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256")
SAMPLES = 2


def measure(path: Path, target: str, simplify: bool) -> tuple[Any, dict[str, Any]]:
    """(artifact's verify document, profile document)."""
    from edgekit import api
    from edgekit.data import Dataset

    with tempfile.TemporaryDirectory() as folder:
        data = f"{DIGITS.with_suffix('.npz')}:calibration_x" if path == DIGITS else None
        artifact = api.compile(path, target, Path(folder) / "a", data=data, simplify=simplify)
        rng = np.random.default_rng(0)
        x = []
        for name in artifact.reference.inputs:
            t = artifact.reference.tensor(name)
            shape = (SAMPLES, *t.shape[1:])
            if t.is_float:
                x.append(rng.random(shape, np.float32))
                continue
            info = np.iinfo(t.dtype)
            x.append(rng.integers(info.min, info.max, shape, t.dtype, endpoint=True))
        checked = api.verify(artifact, Dataset.of(x))
        return checked, api.profile(artifact)


def kib(n: int) -> str:
    return f"{n / 1024:,.4g}"


def lines(models: Sequence[Path], targets: Sequence[str]) -> list[str]:
    rows, setups, tools, oracle = [], {}, {}, ""
    for path in models:
        for target in targets:
            print(f"{path.stem} on {target}", file=sys.stderr)
            checked, p = measure(path, target, simplify=False)
            _, small = measure(path, target, simplify=True)
            d, m = p["details"], p["memory"]
            oracle = checked["oracle"]
            tools |= p["tools"]
            setups[target] = (
                f"| {target} | {d['system_config']} | {d['memory_mode']} | "
                f"{d['clock_hz'] / 1e6:g} |"
            )
            ops = d["operators"]
            whole = "" if d["complete"] else " (CPU part missing)"
            rows.append(
                f"| {path.stem} | {target} | {p['total']['latency_ms']:.3f}{whole} | "
                f"{small['total']['latency_ms']:.3f} | {p['total']['cycles']:,} | "
                f"{kib(m['sram_bytes'])} | {kib(m['dram_bytes'])} | "
                f"{kib(m['off_chip_flash_bytes'] + m['on_chip_flash_bytes'])} | "
                f"{ops['npu']} / {ops['cpu']} | {'no' if checked['mismatched_bytes'] else 'yes'} |"
            )
    stamp = ", ".join(f"{k} {v}" for k, v in sorted(tools.items()))
    return [
        "# Ethos-U: latency and memory of whole models",
        "",
        f"Made by `python benchmarks/npu.py`. Tools: {stamp}. Kind: estimated (Vela's performance",
        "model; no silicon was measured). The bytes of the int8 .tflite that Vela compiled are",
        f"verified against {oracle} on {SAMPLES} random inputs; the NPU's own arithmetic was not",
        "executed. The second latency is after the lossless removal of dead channels. digits, the",
        "network that edgekit ships, is quantized first.",
        "",
        "| target | system configuration | memory mode | MHz |",
        "|---|---|---|---|",
        *setups.values(),
        "",
        "| model | target | ms | ms, no dead channels | cycles | SRAM KiB | DRAM KiB | flash KiB "
        "| operators NPU / CPU | verified |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shared = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--models", type=Path, default=shared / "zoo")
    parser.add_argument("--targets", default=",".join(TARGETS))
    arguments = parser.parse_args()
    models = [p for p in (arguments.models / f"{m}.tflite" for m in MODELS) if p.is_file()]
    if arguments.models == shared / "zoo" or not models:
        models.append(DIGITS)
    if not models[0].is_file():
        print(f"no models in '{arguments.models}': name a folder with --models", file=sys.stderr)
        return 2
    print("\n".join(lines(models, arguments.targets.split(","))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
