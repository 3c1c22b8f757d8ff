"""Models on NVIDIA GPUs: verified, compiled size, registers, and time where there is a GPU.

    python benchmarks/cuda.py [--models DIR] [--target h100] [--samples N] > benchmarks/cuda.md

Without a GPU the kernels run on ``virtual:cuda`` (the same source and launch plan, executed thread by
thread on the processor): outputs are verified, and there is no time. With one, the same command fills
in the latency (host clock, copies included) and the time of the kernels (CUDA events), with its name.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MODELS = (
    "ic_resnet8_int8",
    "ic_resnet8_float",
    "kws_dscnn_int8",
    "ad_fcae_int8",
    "mobilenet_v2_1.0_224_int8",
)
ENGINES = ("cuda", "cuda-tf32", "cuda-fp16", "onnxruntime-tensorrt", "onnxruntime-cuda")


def inputs_of(graph: Any, samples: int) -> Any:
    from edgekit.data import Dataset

    rng, x = np.random.default_rng(0), []
    for name in graph.inputs:
        t = graph.tensor(name)
        shape = (samples, *t.shape[1:])
        if t.is_float:
            x.append(rng.normal(0, 1, shape).astype(np.float32))
        else:
            info = np.iinfo(t.dtype)
            x.append(rng.integers(info.min, info.max, shape, t.dtype, endpoint=True))
    return Dataset.of(x)


def row(path: Path, target: str, engine: str, samples: int, tools: dict[str, str]) -> str:
    """One line of the table; an engine that cannot be used says why."""
    from edgekit import api
    from edgekit.errors import EdgekitError
    from edgekit.targets.base import CompileOptions

    with tempfile.TemporaryDirectory() as folder:
        try:
            art = api.compile(path, target, Path(folder) / "a", options=CompileOptions(engine))
            data = inputs_of(art.reference, samples)
            checked, p = api.verify(art, data), api.profile(art, data=data)
        except EdgekitError as e:
            return f"| {path.stem} | {engine} | | | | | | | {str(e).partition(': ')[2] or e} |"
        tools.update(p["tools"])
        gpu = p["details"].get("gpu") or p["details"]["device"].get("gpu")
        if gpu:
            tools["GPU"] = f"{gpu}, driver {p['details'].get('driver', 'unknown')}"
        kernels = [k for r in art.manifest["plan"] for k in r.get("kernels", ())]
        most = max((k["registers"] for k in kernels), default=None)
        exact = checked["criterion"]["exact"]
        verified = "no" if not checked["passed"] else "every byte" if exact else "tolerance"
        ms, on_gpu = p["total"]["latency_ms"], p["details"].get("gpu_ms")
        return (
            f"| {path.stem} | {engine} | {verified} | {'' if ms is None else f'{ms:.4f}'} | "
            f"{'' if on_gpu is None else f'{on_gpu:.4f}'} | {len(kernels) or ''} | {most or ''} | "
            f"{art.manifest['memory']['flash_bytes'] / 1024:,.0f} | {p['details'].get('absent', '')} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shared = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--models", type=Path, default=shared / "zoo")
    parser.add_argument("--target", default="h100")
    parser.add_argument("--samples", type=int, default=2)
    a = parser.parse_args()
    models = [p for p in (a.models / f"{m}.tflite" for m in MODELS) if p.is_file()]
    if not models:
        print(f"no models in '{a.models}': name a folder with --models", file=sys.stderr)
        return 2
    rows, tools = [], {}
    for path in models:
        for engine in ENGINES:
            if engine in ("cuda-tf32", "cuda-fp16") and "float" not in path.stem:
                continue
            print(f"{path.stem}, {engine}", file=sys.stderr)
            rows.append(row(path, a.target, engine, a.samples, tools))
    stamp = ", ".join(f"{k} {v}" for k, v in sorted(tools.items()))
    print(
        "\n".join(
            [
                f"# NVIDIA GPUs: {a.target}",
                "",
                f"Made by `python benchmarks/cuda.py --target {a.target}`. Tools: {stamp}.",
                f"Verified on {a.samples} random inputs. Latency and kernel times are `measured`, on a",
                "GPU only; without one the columns are empty, and outputs are those of the same",
                "kernels and launch plan executed on the processor (`virtual:cuda`). Registers: the",
                "most of any kernel, from the assembler. Size: machine code and weights.",
                "",
                "| model | engine | verified | latency ms | kernels ms | kernels | registers | KiB | |",
                "|---|---|---|---|---|---|---|---|---|",
                *rows,
            ]
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
