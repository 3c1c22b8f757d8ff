"""Graph -> a folder that runs: ``model.so``, ``model.io``, ``runner`` and TVM's two runtime
libraries. Files appear only when all of them are there."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.graph.ir import Graph
from edgekit_targets.tvm_ import check, runtime_libs, worker, zig
from edgekit_targets.tvm_.isa import CpuTarget

_CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}
_DOT = re.compile(r"^\s*(vpdpbusd|sdot|vpmaddwd|smlal2?|vfmadd\w+|fmla)\b", re.MULTILINE)
RUNNER = Path(__file__).resolve().parent / "runtime" / "runner.c"


@dataclass(frozen=True)
class Built:
    """files: names inside the folder. plan: one row a node, with ``tile`` and ``tuned`` where the
    kernel has tiles. tasks: node -> tuning task. untuned: tasks without a record (a mark that
    belongs in the artifact and the report). instructions: dot products and multiply-adds in the
    generated assembly, counted in its text (with ``assembly``)."""

    files: Sequence[str]
    plan: Sequence[Mapping[str, Any]]
    tasks: Mapping[str, str]
    untuned: Sequence[str]
    tools: Mapping[str, str]
    instructions: Mapping[str, int] = field(default_factory=dict)


def describe(graph: Graph) -> str:
    """The text of ``model.io``: what the runner must know of the inputs."""
    lines = []
    for name in graph.inputs:
        t = graph.tensor(name)
        kind = t.dtype.rstrip("0123456789")
        bits = t.nbytes * 8 // max(t.elements, 1)
        dims = [bits, _CODES[kind], len(t.shape), *t.shape]
        lines.append("input " + " ".join(map(str, dims)))
    return "\n".join(lines) + "\n"


def compile_library(
    graph: Graph,
    target: CpuTarget,
    output: Path,
    *,
    tiles: Mapping[str, Sequence[int]] | None = None,
    assembly: Path | None = None,
    timeout_s: float = worker.TIMEOUT_S,
    session: worker.Session | None = None,
) -> dict[str, Any]:
    """``output`` (a shared library with the model) in a worker process; returns plan and tasks.

    session: a worker that is there already.
    """
    from edgekit.formats import ekg

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ekg.write(graph, folder / "model.ekg")
        job = {
            "do": "compile",
            "graph": str(folder / "model.ekg"),
            "target": worker.to_json(target),
            "tiles": {k: list(v) for k, v in (tiles or {}).items()},
            "output": str(folder / "out.so"),
            "assembly": str(folder / "out.s") if assembly else None,
        }
        call = session.call if session else worker.call
        answer = call(job, folder, timeout_s)
        shutil.move(folder / "out.so", output)
        if assembly:
            shutil.move(folder / "out.s", assembly)
    return answer


def build_runner(target: CpuTarget, folder: Path) -> list[str]:
    """``runner`` and the libraries it needs, into ``folder``; names of the files.

    For machines that are emulated here its functions have fixed addresses and names (among the
    dynamic symbols: the others go, with the paths in zig's debug information), so that instructions
    can be counted by kernel.
    """
    libraries = runtime_libs.libraries(target.arch)
    for path in libraries:
        shutil.copyfile(path, folder / path.name)
    names = [p.name for p in libraries]
    shutil.copyfile(RUNNER, folder / RUNNER.name)
    try:
        zig.run(
            [
                "-target",
                zig.triple(target),
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-std=c11",
                "-s",
                *([] if target.arch == "x86_64" else ["-DEK_CALL_MARKERS", "-no-pie", "-rdynamic"]),
                "-D_GNU_SOURCE",
                f"-I{runtime_libs.headers()}",
                RUNNER.name,
                "-Wl,--no-as-needed",
                *names,
                "-Wl,--allow-shlib-undefined",
                "-Wl,-rpath,$ORIGIN",
                "-Wl,--build-id=none",
                "-o",
                "runner",
            ],
            "building the runner",
            folder,
        )
    finally:
        (folder / RUNNER.name).unlink()
    return ["runner", *names]


def compile_model(
    graph: Graph,
    target: CpuTarget,
    folder: Path,
    *,
    tiles: Mapping[str, Sequence[int]] | None = None,
    assembly: bool = False,
    timeout_s: float = worker.TIMEOUT_S,
) -> Built:
    """Everything that is needed to run ``graph`` on ``target``, into ``folder``.

    tiles: tuning records (:func:`edgekit_targets.tvm_.tune.Records.tiles`). assembly: also
    ``model.s``.
    Raises UnsupportedError naming nodes, ToolchainError when TVM or zig fails.
    """
    check.require()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        asm = work / "model.s" if assembly else None
        answer = compile_library(
            graph,
            target,
            work / "model.so",
            tiles=tiles,
            assembly=asm,
            timeout_s=timeout_s,
        )
        files = ["model.so", "model.io"]
        (work / "model.io").write_text(describe(graph), encoding="utf-8")
        files += build_runner(target, work)
        counts: Counter[str] = Counter()
        if asm:
            counts.update(_DOT.findall(asm.read_text(encoding="utf-8")))
            files.append("model.s")
        folder.mkdir(parents=True, exist_ok=True)
        for f in files:
            shutil.move(work / f, folder / f)
        (folder / "runner").chmod(0o755)
    untuned = [row["name"] for row in answer["plan"] if row.get("tuned") is False]
    return Built(
        files, answer["plan"], answer["tasks"], untuned, check.tools(), dict(sorted(counts.items()))
    )
