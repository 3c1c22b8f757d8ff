"""``--engine auto`` beside ONNX Runtime and LiteRT called directly; writes ``benchmarks/direct.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/direct.py [--rounds N]

For each model: ``edgekit deploy --target x86-64-host`` chooses an engine; then the kept artifact
(``edgekit profile``) and the runtimes (called here in a few lines, one thread, on files that edgekit did
not write where there are such files) take turns, so that all see the same machine. The figure is the
least of the rounds' medians: a machine with neighbours only ever adds time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

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
import mobile
net, x = mobile.model()
torch.onnx.export(net, (x,), sys.argv[2], dynamo=True)
"""


def once(path: Path, repeats: int) -> float:
    command = [sys.executable, "-c", _DIRECT, str(path), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return float(done.stdout.split()[-1])


def profiled(artifact: Path) -> float:
    command = [*targets.EDGEKIT, "profile", str(artifact), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return float(json.loads(done.stdout)["total"]["latency_ms"])


def direct_files(name: str, model: str, work: Path) -> dict[str, Path]:
    """Runtime -> model file for it."""
    from edgekit import formats
    from edgekit.formats import onnx_write

    files = {}
    onnx = work / f"{len(list(work.iterdir()))}.onnx"
    if name.endswith("torch"):
        command = [sys.executable, "-c", _EXPORT, str(work), str(onnx)]
        subprocess.run(command, capture_output=True, timeout=600, check=True)
        files["ONNX Runtime (torch's export)"] = onnx
        return files
    files["LiteRT (the file itself)"] = Path(model)
    onnx_write.write(formats.load(model), onnx)
    files["ONNX Runtime (edgekit's file)"] = onnx
    return files


def compare(name: str, model: str, data: str, work: Path, rounds: int) -> list[str]:
    out = work / f"artifact{len(list(work.iterdir()))}"
    document: dict[str, Any] = targets.deploy(model, data, "x86-64-host", 500, out)
    files = direct_files(name, model, work)
    ours, theirs = [], {k: [] for k in files}
    for _ in range(rounds):
        ours.append(profiled(out))
        for k, path in files.items():
            theirs[k].append(once(path, 200))
    best = min(theirs, key=lambda k: min(theirs[k]))
    ratio = min(ours) / min(theirs[best])
    print(name, document["engine"], min(ours), {k: min(v) for k, v in theirs.items()})
    listed = "; ".join(f"{k} {min(v):.3f}" for k, v in theirs.items())
    return [f"| {name} | {document['engine']} | {min(ours):.3f} | {listed} | {ratio:.2f} |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    lines = []
    with tempfile.TemporaryDirectory(prefix="edgekit-direct-") as folder:
        work = Path(folder)
        known = targets.models(work)
        chosen = {k: known[k] for k in known if k.startswith(("ic_resnet8", "mobilenet"))}
        float_model = (
            f"{targets.ZOO}/ic_resnet8_float.tflite",
            f"{targets.DATA}/cifar10.npz:val_x,val_y",
        )
        for name, (model, data) in {**chosen, "ic_resnet8 float32": float_model}.items():
            lines += compare(name, model, data, work, rounds)
    text = [
        "# `--engine auto` beside the runtimes called directly",
        "",
        "Made by `benchmarks/direct.py`. Milliseconds of one inference, one thread, `measured`: the "
        f"least of {rounds} rounds' medians, taking turns. Machine: {cpu_model()}. Tools: "
        f"{targets.tools()}.",
        "",
        "| model | kept engine | auto, ms | called directly, ms | auto / best direct |",
        "|---|---|---|---|---|",
        *lines,
        "",
        "For a float model `auto` may keep the int8 form, which the runtimes called directly do not make.",
        "",
    ]
    (targets.ROOT / "benchmarks" / "direct.md").write_text("\n".join(text), "utf-8")


if __name__ == "__main__":
    main()
