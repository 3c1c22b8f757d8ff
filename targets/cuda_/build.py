"""Graph -> the files of an artifact: kernels, weights, launch plans, runner."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import ToolchainError
from edgekit.graph.ir import Graph
from edgekit_targets.cuda_ import toolchain
from edgekit_targets.cuda_.gpu import Gpu, Precision
from edgekit_targets.tvm_ import check, worker, zig

RUNTIME = Path(__file__).resolve().parent / "runtime"
#: The runner: any Linux with this C library or a newer one.
TRIPLE = f"x86_64-linux-gnu.{zig.GLIBC}"


@dataclass(frozen=True)
class Built:
    """plan: one row a node, with its kernels and their resources. stored: tensor -> (type in
    memory, shape). launches: (node, kernel) in order."""

    files: Sequence[str]
    plan: Sequence[Mapping[str, Any]]
    memory: Mapping[str, Any]
    stored: Mapping[str, Any]
    launches: Sequence[tuple[int, str]]
    tools: Mapping[str, str]


def why_not() -> str | None:
    """Why no model can be compiled on this machine, or None."""
    return check.why_not() or toolchain.why_not()


def build_runner(folder: Path) -> None:
    """``runner`` into ``folder``: needs the C library alone, and loads the driver when it starts."""
    source = folder / "runner.c"
    shutil.copyfile(RUNTIME / "runner.c", source)
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=c11", "-s", "-D_GNU_SOURCE"]
    link = ["-Wl,--build-id=none", "-ldl", "-o", "runner"]
    try:
        zig.run(["-target", TRIPLE, *flags, "runner.c", *link], "building the runner", folder)
    finally:
        source.unlink()


def compile_model(
    graph: Graph,
    gpu: Gpu,
    precision: Precision,
    folder: Path,
    timeout_s: float = worker.TIMEOUT_S,
) -> Built:
    """Everything that is needed to run ``graph``, into ``folder``; nothing is left there on failure.

    Raises UnsupportedError naming nodes, ToolchainError when TVM, nvcc, NVRTC or zig fail.
    """
    from edgekit.formats import ekg

    check.require()
    toolchain.require()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        ekg.write(graph, work / "model.ekg")
        job = {
            "do": "compile",
            "graph": str(work / "model.ekg"),
            "gpu": {"name": gpu.name, "compute_capability": gpu.compute_capability},
            "precision": precision,
        }
        answer = worker.call(job, work, timeout_s, "edgekit_targets.cuda_.worker")
        prelude = (RUNTIME / "prelude.cuh").read_text("utf-8")
        kernels = (work / "kernels.cu").read_text("utf-8")
        (work / "kernels.cu").write_text(f"{prelude}\n{kernels}", encoding="utf-8")
        cubin, ptx, found, compiler = toolchain.compile_all(f"{prelude}\n{kernels}", gpu)
        (work / "kernels.cubin").write_bytes(cubin)
        (work / "kernels.ptx").write_bytes(ptx)
        code = toolchain.kernels_in(cubin)
        missing = sorted({k for _, k in answer["launches"]} - set(code))
        if missing:
            raise ToolchainError(f"the compiled module lacks the kernel {missing[0]}")
        build_runner(work)
        files = ["kernels.cubin", "kernels.ptx", "kernels.cu", "weights.bin", "plan.txt"]
        files += ["trace.txt", "runner"]
        folder.mkdir(parents=True, exist_ok=True)
        for f in files:
            shutil.move(work / f, folder / f)
        (folder / "runner").chmod(0o755)
    plan = []
    for row in answer["plan"]:
        used = [f"{k}_kernel" for k in row["kernels"]]
        plan.append({**row, "kernels": [{"name": k, **found.get(k, {})} for k in used]})
    memory = {
        "flash_bytes": len(cubin) + answer["weights_bytes"],
        "code_bytes": len(cubin),
        "weights_bytes": answer["weights_bytes"],
        "ram_bytes": answer["arena_bytes"],
        "arena_bytes": answer["arena_bytes"],
        "buffers": answer["buffers"],
    }
    tools = {**check.tools(), **compiler.tools()}
    launches = [(int(n), str(k)) for n, k in answer["launches"]]
    return Built(files, plan, memory, answer["stored"], launches, tools)
