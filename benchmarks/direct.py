"""``--engine auto`` beside ONNX Runtime, LiteRT and TVM called directly; writes ``benchmarks/direct.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/direct.py [--rounds N] [--tune N]

ResNet-8 and MobileNetV2, int8 and float32, one thread. For each model ``edgekit deploy --target
x86-64-host --tune N`` chooses an engine; then the kept artifact (``edgekit profile``) and the runtimes
take turns, so that all see the same machine. ONNX Runtime and LiteRT are called here in a few lines, on
files that edgekit did not write where there are such files; TVM is the runner of the tvm engine's
artifact, started by hand. For a float model there is a second comparison, with the fastest of the
engines that stay in float32. The figure is the least of the rounds' medians: a machine with neighbours
only ever adds time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import targets  # benchmarks/targets.py
from edgekit.devices.local import cpu_model

#: Runs a model file N times and prints the median in milliseconds; a process of its own each time.
_DIRECT = """
import sys, time
import numpy as np
path, repeats = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
if path.endswith(".tflite"):
    from ai_edge_litert.interpreter import Interpreter
    runner = Interpreter(model_path=path, num_threads=1)
    runner.allocate_tensors()
    given = runner.get_input_details()[0]
    x = rng.integers(0, 100, given["shape"]).astype(given["dtype"])
    def run():
        runner.set_tensor(given["index"], x)
        runner.invoke()
else:
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    x = {given.name: rng.integers(0, 100, given.shape).astype(np.float32)}
    def run():
        session.run(None, x)
end = time.perf_counter() + 0.05
while time.perf_counter() < end:
    run()
times = []
for _ in range(repeats):
    start = time.perf_counter_ns()
    run()
    times.append(time.perf_counter_ns() - start)
print(np.median(times) / 1e6)
"""
_EXPORT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import mobilenet_v2
net, x = mobilenet_v2.factory()
torch.onnx.export(net, x, sys.argv[2], dynamo=True)
"""
TARGET = "x86-64-host"
REPEATS = 200


def say(text: str) -> None:
    print(f"{time.monotonic() - BEGAN:5.0f} s  {text}", file=sys.stderr)


BEGAN = time.monotonic()


def models(work: Path) -> dict[str, tuple[str, str, int]]:
    """Name -> (model, data, samples)."""
    rng = np.random.default_rng(0)
    np.savez(work / "bytes.npz", x=rng.integers(0, 256, (4, 224, 224, 3)).astype(np.uint8))
    np.savez(work / "reals.npz", x=rng.normal(0, 1, (4, 224, 224, 3)).astype(np.float32))
    cifar = f"{targets.DATA}/cifar10.npz:val_x,val_y"
    zoo, ours = targets.ZOO, targets.ROOT / "models"
    return {
        "ResNet-8 int8": (f"{zoo}/ic_resnet8_int8.tflite", cifar, 200),
        "ResNet-8 float32": (f"{zoo}/ic_resnet8_float.tflite", cifar, 200),
        "MobileNetV2 int8": (f"{zoo}/mobilenet_v2_1.0_224_int8.tflite", f"{work}/bytes.npz:x", 4),
        "MobileNetV2 float32": (f"{ours}/mobilenet_v2.py:factory", f"{work}/reals.npz:x", 4),
    }


def run(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900, check=True)
    return done.stdout


def once(path: Path) -> float:
    """Milliseconds of a model file in its runtime, or of the runner in a tvm artifact."""
    if path.is_dir():
        done = run(["./runner", "time", "in.bin", str(REPEATS)], path)
        stamps = [int(x.split("=")[1]) for x in done.splitlines() if x.startswith("total_ns=")]
        return float(np.median(stamps)) / 1e6
    return float(run([sys.executable, "-c", _DIRECT, str(path), str(REPEATS)]).split()[-1])


def profiled(artifact: Path) -> float:
    document = json.loads(run([*targets.EDGEKIT, "profile", str(artifact), "--json"]))
    return float(document["total"]["latency_ms"])


def compiled(model: str, data: str, engine: str, out: Path) -> Path:
    run([*targets.EDGEKIT, "compile", model, "--target", TARGET, "--engine", engine, "--data", data,
         "--calibration-samples", "4" if "mobilenet" in model else "200", "-o", str(out)])  # fmt: skip
    return out


def direct_files(model: str, data: str, work: Path) -> dict[str, Path]:
    """Runtime -> model file (or artifact) for it."""
    from edgekit import formats
    from edgekit.formats import onnx_write

    files: dict[str, Path] = {}
    onnx = work / f"{len(list(work.iterdir()))}.onnx"
    if model.endswith(".tflite"):
        files["LiteRT (the file itself)"] = Path(model)
        onnx_write.write(formats.load(model), onnx)
        files["ONNX Runtime (edgekit's file)"] = onnx
    else:
        run([sys.executable, "-c", _EXPORT, str(targets.ROOT / "models"), str(onnx)])
        files["ONNX Runtime (torch's export)"] = onnx
        files["LiteRT (edgekit's file)"] = (
            compiled(model, data, "litert", work / "l") / "model.tflite"
        )
    tvm = compiled(model, data, "tvm", work / f"tvm{len(list(work.iterdir()))}")
    words = (tvm / "model.io").read_text().split()[1:]
    bits, shape = int(words[0]), [int(d) for d in words[3:]]
    (tvm / "in.bin").write_bytes(bytes(int(np.prod(shape)) * bits // 8))
    (tvm / "runner").chmod(0o755)
    files["TVM (its runner)"] = tvm
    return files


def compare(
    name: str, given: tuple[str, str, int], work: Path, rounds: int, tune: int
) -> tuple[list[str], dict[str, Any]]:
    model, data, samples = given
    say(f"{name}: edgekit deploy")
    out = work / f"artifact{len(list(work.iterdir()))}"
    more = ["--tune", str(tune)] if tune else []
    more += ["--calibration-samples", str(min(samples, 200))]
    document = targets.deploy(model, data, TARGET, samples, out, more)
    if "error" in document:
        raise SystemExit(f"{name}: {document['error']}")
    artifacts = {f"auto ({document['engine']})": out}
    kept = next(e for e in document["engines"] if e["name"] == document["engine"])
    if name.endswith("float32") and kept["precision"] != "float32":
        floats = [e for e in document["engines"] if e["verified"] and e["precision"] == "float32"]
        best = min(floats, key=lambda e: e["total"]["latency_ms"])["name"]
        place = work / f"float{len(list(work.iterdir()))}"
        artifacts[f"auto, float32 only ({best})"] = compiled(model, data, best, place)
    files = direct_files(model, data, work)
    ours: dict[str, list[float]] = {k: [] for k in artifacts}
    theirs: dict[str, list[float]] = {k: [] for k in files}
    for k in range(rounds):
        say(f"{name}: round {k + 1} of {rounds}")
        for label, path in artifacts.items():
            ours[label].append(profiled(path))
        for label, path in files.items():
            theirs[label].append(once(path))
    least = {k: min(v) for k, v in theirs.items()}
    best = min(least.values())
    listed = "; ".join(f"{k} {v:.3f}" for k, v in least.items())
    tvm = least["TVM (its runner)"]
    others = min(v for k, v in least.items() if not k.startswith("TVM"))
    lines = [
        f"| {name} | {label} | {min(v):.3f} | {listed} | {min(v) / best:.2f} | {others / tvm:.2f} |"
        for label, v in ours.items()
    ]
    figures = {"auto_ms": ours, "direct_ms": theirs, "engines": document["engines"]}
    print("\n".join(lines))
    return lines, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tune", type=int, default=4, help="candidates a kernel, engine tvm")
    parser.add_argument("--only", default="", help="models whose name holds this text")
    options = parser.parse_args()
    lines, figures = [], {}
    with tempfile.TemporaryDirectory(prefix="edgekit-direct-") as folder:
        work = Path(folder)
        for name, given in models(work).items():
            if options.only in name:
                more, figures[name] = compare(name, given, work, options.rounds, options.tune)
                lines += more
    say("done")
    text = [
        "# `--engine auto` beside the runtimes called directly",
        "",
        "Made by `benchmarks/direct.py`. Milliseconds of one inference, one thread, `measured`: the "
        f"least of {options.rounds} rounds' medians, taking turns. Machine: {cpu_model()}. Tools: "
        f"{targets.tools()}. TVM's kernels are tuned with {options.tune} candidates each.",
        "",
        "| model | kept engine | auto, ms | called directly, ms | auto / best direct | "
        "TVM's speed / best other's |",
        "|---|---|---|---|---|---|",
        *lines,
        "",
        "For a float model `auto` may keep the int8 form, which the runtimes called directly do not make; "
        "the line below it is the fastest engine that stays in float32.",
        "",
    ]
    place = targets.ROOT / "benchmarks"
    (place / "direct.md").write_text("\n".join(text), "utf-8")
    (place / "direct.json").write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
