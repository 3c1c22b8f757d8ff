"""Executed instructions of engine ``c`` on 64-bit Arm beside LiteRT with XNNPACK; writes
``benchmarks/kernels_neon.{md,json}``.

    .venv/bin/python benchmarks/kernels_neon.py [--models DIR] [--targets a,b] [--out FILE] [--resume]

Both run on the same virtual device (QEMU's user-mode emulation), one after the other, one thread, the same
input, and are counted the same way: the instructions of a whole run of four inferences, less those of a run
of two, by two. A run of engine ``c`` reads its input file for every inference, LiteRT's only calls
``invoke()``. Each layer's count is the profile's. Bytes are compared with the reference executor.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit import api
from edgekit.devices.base import Device, RunRequest
from edgekit.devices.registry import open_device
from edgekit.graph import reference
from edgekit.targets import get_target
from edgekit.targets.base import CompileOptions
from edgekit_targets.mcu.backend import pack_inputs
from edgekit_targets.mcu.profile import fixed_pattern

ROOT = Path(__file__).resolve().parent.parent
MODELS = {
    "ic_resnet8_int8": "ResNet-8",
    "kws_dscnn_int8": "DS-CNN",
    "ad_fcae_int8": "FC-AE",
    "mobilenet_v2_1.0_224_int8": "MobileNetV2",
}
IN_FULL = ("ic_resnet8_int8", "mobilenet_v2_1.0_224_int8")  #: models whose layers are listed
TARGETS = ("cortex-a76", "cortex-a72", "galaxy-s23", "cortex-a55", "cortex-a53")
LAYERS_OF = ("cortex-a76", "cortex-a72", "galaxy-s23")  #: targets whose layers are listed
FEW, MANY = 2, 4

_LITERT = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
runner = Interpreter(model_path=sys.argv[1], num_threads=1)
runner.allocate_tensors()
data = open("in.bin", "rb").read()
given = runner.get_input_details()[0]
runner.set_tensor(given["index"], np.frombuffer(data, given["dtype"]).reshape(given["shape"]))
for _ in range(int(sys.argv[2])):
    runner.invoke()
"""


def counted(device: Device, program: str, args: Sequence[str]) -> int:
    """Instructions of one inference: ``args`` and the number of inferences follow the program."""
    totals = []
    for n in (FEW, MANY):
        done = device.run(RunRequest(program, (*args, str(n)), timeout_s=1800, trace=True))
        if done.exit_code or done.trace is None:
            raise SystemExit(f"{program} failed: {done.stderr[-400:]}")
        totals.append(done.trace.instructions)
    return (totals[1] - totals[0]) // (MANY - FEW)


def measure(target: str, model: Path, folder: Path) -> dict[str, Any]:
    """One model on one target: counts, mismatched bytes, layers."""
    artifact = api.compile(
        model, target, folder / "c", options=CompileOptions(engine="c", optimize="speed")
    )
    graph = artifact.graph
    xs = fixed_pattern(graph)
    _, data = pack_inputs(graph, xs)
    want = reference.run(graph, xs)
    with open_device("virtual:aarch64", target=get_target(target)) as device:
        device.push(artifact.file("runner"), "runner")
        device.push_bytes(data, "in.bin")
        ours = counted(device, "runner", ("time", "in.bin"))
        device.run(RunRequest("runner", ("run", "in.bin", "out.bin"), timeout_s=600))
        got = device.pull("out.bin")
        device.push_bytes(_LITERT.encode(), "count.py")
        device.push(model, "given.tflite")
        theirs = counted(device, "count.py", ("given.tflite",))
        info = device.info().details
    expected = b"".join(np.ascontiguousarray(want[o]).tobytes() for o in graph.outputs)
    profile = api.profile(artifact)
    return {
        "ours": ours,
        "theirs": theirs,
        "wrong": sum(a != b for a, b in zip(got, expected, strict=True)),
        "profile": profile,
        "plan": artifact.manifest["plan"],
        "arena": artifact.manifest["memory"]["arena_bytes"],
        "constants": artifact.manifest["memory"]["weights_bytes"],
        "tools": {**artifact.manifest["tools"], "emulator": info["backend"]},
        "cpu": info["cpu"],
    }


def layer_rows(found: dict[str, Any]) -> list[str]:
    rows = ["| layer | kernel | MACs | instructions | a MAC |", "|---|---|---|---|---|"]
    for layer, plan in zip(found["profile"]["layers"], found["plan"], strict=True):
        n, macs = layer["instructions"], layer["macs"]
        shape = "x".join(map(str, plan["output_shapes"][0][1:]))
        each = f"{n / macs:.3f}" if macs else ""
        rows.append(f"| {plan['op']} {shape} | {plan['variant']} | {macs:,} | {n:,} | {each} |")
    return rows


def main() -> int:
    """Write the tables; exit status 1 when bytes differ from the reference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "kernels_neon.md")
    parser.add_argument("--resume", action="store_true", help="keep the rows of an earlier run")
    args = parser.parse_args()

    kept = args.out.with_suffix(".json")
    rows: dict[str, Any] = json.loads(kept.read_text("utf-8")) if args.resume else {}
    for stem, name in MODELS.items():
        for target in args.targets.split(","):
            key = f"{name}, {target}"
            if key in rows:
                continue
            print(key, file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as tmp:
                found = measure(target, args.models / f"{stem}.tflite", Path(tmp))
            rows[key] = {
                "row": f"| {target} ({found['cpu']}) | {name} | {found['ours']:,} "
                f"| {found['theirs']:,} | {found['theirs'] / found['ours']:.2f} "
                f"| {found['arena']:,} | {found['constants']:,} | {found['wrong']} |",
                "layers": layer_rows(found) if target in LAYERS_OF and stem in IN_FULL else [],
                "wrong": found["wrong"],
                "tools": found["tools"],
            }
            kept.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
            args.out.write_text(page(rows), "utf-8")
    return 1 if any(r["wrong"] for r in rows.values()) else 0


def page(rows: dict[str, Any]) -> str:
    from edgekit.devices.aarch64_python import WHEELS

    tools = next(iter(rows.values()))["tools"]
    ordered = [f"{n}, {t}" for t in TARGETS for n in MODELS.values() if f"{n}, {t}" in rows]
    layers = [
        line
        for key in ordered
        if rows[key]["layers"]
        for line in (f"\n## {key}\n", *rows[key]["layers"])
    ]

    litert = next(w for w in WHEELS if w.startswith("ai-edge-litert"))
    text = [
        "# Engine `c` on 64-bit Arm: executed instructions of one inference\n",
        "Made by `python benchmarks/kernels_neon.py`. Simulated: QEMU's user-mode emulation "
        f"({tools['emulator']}), executed\ninstructions, exact; one thread. zig {tools['zig']}, "
        f"`-O3`. LiteRT with XNNPACK: {litert.replace('==', ' ')}. Both in one run of this\n"
        "script on the same device, both counted as (run of four inferences - run of two) / 2: "
        "engine `c` reads its input anew\neach time, LiteRT only invokes. Instructions are no "
        "time: how many a core completes in a cycle differs by\ninstruction and core.\n",
        "| target (CPU model) | model | `c` | LiteRT | LiteRT / `c` | arena | constants "
        "| mismatched bytes |",
        "|---|---|---|---|---|---|---|---|",
        *(rows[key]["row"] for key in ordered),
        *layers,
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    raise SystemExit(main())
