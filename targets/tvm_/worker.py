"""The process in which TVM runs: ``python -m edgekit_targets.tvm_.worker JOB.json``.

TVM may crash, hang or exhaust memory; its callers survive because it happens here. A job is a
JSON document with ``do`` and what that needs; the answer is ``RESULT.json`` beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, ToolchainError
from edgekit_targets.tvm_.isa import CpuTarget
from edgekit_targets.tvm_.linear import Tile

TIMEOUT_S = 900


def call(
    job: dict[str, Any],
    folder: Path,
    timeout_s: float = TIMEOUT_S,
    module: str = "edgekit_targets.tvm_.worker",
) -> dict[str, Any]:
    """Run ``job`` in a worker process; its files lie in ``folder``. EdgekitErrors are passed on.
    module: the program, which calls :func:`main`."""
    from edgekit import errors
    from edgekit_targets.tvm_ import check

    check.require()
    path, result = folder / "job.json", folder / "result.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    env = {**os.environ, "TVM_NUM_THREADS": str(job.get("threads", 1)), "PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(path)],
            capture_output=True,
            env=env,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"TVM took longer than {timeout_s:g} s to {job['do']} the model"
        ) from None
    if not result.is_file():
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        raise ToolchainError(f"TVM crashed ({how}) when it was to {job['do']} the model: {last[0]}")
    answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "error" in answer:
        kind = getattr(errors, answer["error"], ToolchainError)
        error = kind(answer["message"])
        if isinstance(error, errors.UnsupportedError):
            error.unsupported = tuple((a, b, c) for a, b, c in answer.get("unsupported", ()))
        raise error
    return answer


def to_json(target: CpuTarget) -> dict[str, Any]:
    return {**vars(target), "features": list(target.features)}


def from_json(value: dict[str, Any]) -> CpuTarget:
    return CpuTarget(**{**value, "features": tuple(value["features"])})


# -- inside the worker ---------------------------------------------------------------------------


def executable(module: Any, target: CpuTarget) -> Any:
    """Compile a Relax module whose nodes are calls of TIR functions and views."""
    import tvm
    from tvm import relax

    t = tvm.target.Target(target.llvm())
    r = relax.transform
    passes = tvm.transform.Sequential(
        [
            r.ToNonDataflow(),
            r.RemovePurityChecking(),
            r.CallTIRRewrite(),
            r.StaticPlanBlockMemory(),
            r.LowerAllocTensor(),
            r.KillAfterLastUse(),
            r.LowerRuntimeBuiltin(),
            r.ComputePrimValue(),
            r.VMShapeLower(),
            r.AttachGlobalSymbol(),
        ]
    )

    @tvm.transform.module_pass(opt_level=0)
    def pipeline(mod: Any, ctx: Any) -> Any:
        with t:
            return passes(mod)

    return relax.build(module, t, relax_pipeline=pipeline)


def linker(target: CpuTarget) -> Callable[..., None]:
    """What ``export_library`` links with: zig's clang, which has every target's C library."""
    from edgekit_targets.tvm_ import zig

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        zig.run(
            [
                "-target",
                zig.triple(target),
                "-shared",
                "-fPIC",
                "-s",
                "-Wl,-z,undefs",
                "-Wl,--build-id=none",
                "-o",
                str(output),
                *map(str, objects),
            ],
            f"linking {Path(output).name}",
        )

    link.output_format = "so"  # type: ignore[attr-defined]
    return link


def _compile(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from edgekit.formats import ekg
    from edgekit_targets.tvm_.lower import lower

    graph = ekg.read(Path(job["graph"]))
    target = from_json(job["target"])
    tiles = {k: Tile.from_json(v) for k, v in job.get("tiles", {}).items()}
    lowered = lower(graph, target, tiles=tiles, trace=bool(job.get("trace")))
    exe = executable(lowered.module, target)
    objects = folder / "objects"
    objects.mkdir(exist_ok=True)
    exe.export_library(job["output"], fcompile=linker(target), workspace_dir=str(objects))
    answer: dict[str, Any] = {"plan": lowered.plan, "tasks": lowered.tasks}
    if job.get("assembly"):
        text = "".join(m.inspect_source("asm") for m in exe.mod.imports if m.kind == "llvm")
        Path(job["assembly"]).write_text(text, encoding="utf-8")
    return answer


_DO: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
    "compile": _compile,
}


def main(path: Path, do: dict[str, Callable[..., dict[str, Any]]] | None = None) -> None:
    """do: what jobs ask for, by name; the ones of this module where it is absent."""
    job = json.loads(path.read_text(encoding="utf-8"))
    try:
        answer = (_DO if do is None else do)[job["do"]](job, path.parent)
    except EdgekitError as e:
        answer = {
            "error": type(e).__name__,
            "message": str(e),
            "unsupported": list(getattr(e, "unsupported", ())),
        }
    except Exception as e:
        lines = [x for x in str(e).strip().splitlines() if x.strip()] or [type(e).__name__]
        answer = {
            "error": "ToolchainError",
            "message": f"TVM could not {job['do']} the model: {lines[-1].strip()}",
        }
    temporary = path.parent / "result.tmp"
    temporary.write_text(json.dumps(answer), encoding="utf-8")
    temporary.replace(path.parent / "result.json")
    sys.stdout.flush()
    os._exit(0)  # TVM's threads and destructors have nothing left to do


if __name__ == "__main__":
    main(Path(sys.argv[1]))
