"""The process in which TVM generates CUDA code: ``python -m edgekit_targets.cuda_.worker JOB.json``
(the protocol is that of :mod:`edgekit_targets.tvm_.worker`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgekit_targets.cuda_.gpu import Gpu
from edgekit_targets.tvm_ import worker

_SIGNATURE = re.compile(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\) \{")


def source_of(functions: dict[str, Any], gpu: Gpu) -> str:
    """CUDA source of scheduled functions, without the text that TVM puts in front."""
    import tvm

    target = tvm.target.Target(gpu.tvm_target())
    built = tvm.tirx.build(tvm.IRModule(functions), target=target)
    text = "".join(m.inspect_source() for m in built.imports)
    return text[text.index('extern "C" __global__') :]


def signatures(source: str) -> dict[str, list[str]]:
    """Kernel -> its parameters' names."""
    return {
        name: [p.split()[-1].lstrip("*") for p in parameters.split(",")]
        for name, parameters in _SIGNATURE.findall(source)
    }


def launches(functions: dict[str, Any], source: str) -> dict[str, Any]:
    """Function -> its launch; the generator drops and sorts parameters, so they go by name."""
    from edgekit.errors import ToolchainError
    from edgekit_targets.cuda_ import schedule
    from edgekit_targets.cuda_.plan import Launch

    found = signatures(source)
    out = {}
    for name, f in functions.items():
        grid, block = schedule.launch(f)
        names = [f"{p.name}_ptr" for p in f.params]
        kernel = f"{name}_kernel"
        if kernel not in found or not set(found[kernel]) <= set(names):
            raise ToolchainError(f"TVM made no kernel of the arguments that {name} has")
        order = tuple(names.index(p) for p in found[kernel])
        out[name] = Launch(kernel, grid, block, order)
    return out


def _compile(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from edgekit.formats import ekg
    from edgekit_targets.cuda_ import plan
    from edgekit_targets.cuda_.lower import lower

    graph = ekg.read(Path(job["graph"]))
    gpu = Gpu(**job["gpu"])
    lowered = lower(graph, gpu, job["precision"])
    source = source_of(lowered.functions, gpu) if lowered.functions else ""
    how = launches(lowered.functions, source)
    weights, offsets = plan.pack_weights(lowered)
    places = (len(weights), offsets)
    made = plan.make(lowered, graph, how, places)
    trace = plan.make(lowered, graph, how, places, trace=True)
    (folder / "weights.bin").write_bytes(weights)
    (folder / "plan.txt").write_text(made.text, encoding="utf-8")
    (folder / "trace.txt").write_text(trace.text, encoding="utf-8")
    (folder / "kernels.cu").write_text(source, encoding="utf-8")
    stored = {n: [v.stored, list(v.shape)] for n, v in lowered.values.items()}
    return {
        "plan": lowered.plan,
        "arena_bytes": made.arena_bytes,
        "buffers": made.buffers,
        "weights_bytes": len(weights),
        "stored": stored,
        "launches": [[s.node, how[s.function].kernel] for s in lowered.steps],
    }


if __name__ == "__main__":
    np.seterr(all="ignore")
    worker.main(Path(sys.argv[1]), {"compile": _compile})
