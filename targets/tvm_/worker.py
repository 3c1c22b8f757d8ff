"""The process in which TVM runs: ``python -m edgekit_targets.tvm_.worker JOB.json``.

TVM may crash, hang or exhaust memory; its callers survive because it happens here. A job is a
JSON document with ``do`` and what that needs; the answer is ``RESULT.json`` beside it. Without an
argument the worker reads paths of jobs from stdin, one a line, and says ``done`` after each: TVM is
imported only once (:class:`Session`).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.errors import EdgekitError, ToolchainError
from edgekit_targets.tvm_.isa import CpuTarget
from edgekit_targets.tvm_.linear import Tile

TIMEOUT_S = 900


def _environment(threads: int = 1) -> dict[str, str]:
    return {**os.environ, "TVM_NUM_THREADS": str(threads), "PYTHONHASHSEED": "0"}


def _write_job(job: dict[str, Any], folder: Path) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(job), encoding="utf-8")
    (folder / "result.json").unlink(missing_ok=True)
    return path


def _too_long(job: dict[str, Any], timeout_s: float) -> ToolchainError:
    return ToolchainError(f"TVM took longer than {timeout_s:g} s to {job['do']} the model")


def _answer(
    job: dict[str, Any], folder: Path, returncode: int | None, stderr: bytes
) -> dict[str, Any]:
    """The answer in ``folder``; what the worker raised, or how it ended, as an EdgekitError."""
    from edgekit import errors

    result = folder / "result.json"
    if not result.is_file():
        last = stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
        code = 0 if returncode is None else returncode
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        raise ToolchainError(f"TVM crashed ({how}) when it was to {job['do']} the model: {last[0]}")
    answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    if "error" in answer:
        kind = getattr(errors, answer["error"], ToolchainError)
        error = kind(answer["message"])
        if isinstance(error, errors.UnsupportedError):
            error.unsupported = tuple((a, b, c) for a, b, c in answer.get("unsupported", ()))
        raise error
    return answer


def call(
    job: dict[str, Any],
    folder: Path,
    timeout_s: float = TIMEOUT_S,
    module: str = "edgekit_targets.tvm_.worker",
) -> dict[str, Any]:
    """Run ``job`` in a worker process; its files lie in ``folder``. EdgekitErrors are passed on.
    module: the program, which calls :func:`main`."""
    from edgekit_targets.tvm_ import check

    check.require()
    path = _write_job(job, folder)
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, str(path)],
            capture_output=True,
            env=_environment(),
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise _too_long(job, timeout_s) from None
    return _answer(job, folder, done.returncode, done.stderr)


class Session:
    """A worker that stays for many jobs; a context manager. After a crash or a time-out the next
    job gets a new one."""

    MOST_JOBS = 40  #: then a new process: TVM keeps what it compiled

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Any = None
        self._jobs = 0

    def call(
        self, job: dict[str, Any], folder: Path, timeout_s: float = TIMEOUT_S
    ) -> dict[str, Any]:
        """As :func:`call`."""
        from edgekit_targets.tvm_ import check

        check.require()
        path = _write_job(job, folder)
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        self._jobs += 1
        try:
            process.stdin.write(f"{path}\n".encode())
            process.stdin.flush()
            ready, _, _ = select.select([process.stdout], [], [], timeout_s)
            if not ready:
                self.close()
                raise _too_long(job, timeout_s)
            process.stdout.readline()
        except BrokenPipeError:
            pass
        if (folder / "result.json").is_file():
            return _answer(job, folder, 0, b"")
        process.wait(timeout=60)  # its end is why there is no answer
        self._errors.seek(0)
        text, code = self._errors.read(), process.returncode
        self.close()
        return _answer(job, folder, code, text)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._jobs >= self.MOST_JOBS:
            self.close()
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edgekit_targets.tvm_.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=_environment(),
            )
        return self._process

    def close(self) -> None:
        self._jobs = 0
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._errors.close()
            self._process = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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

    lowered = lower(graph, target, tiles=tiles)
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


def work(path: Path, do: Mapping[str, Callable[..., dict[str, Any]]]) -> None:
    """Do one job; its answer is written aside and renamed."""
    job = json.loads(path.read_text(encoding="utf-8"))
    try:
        answer = do[job["do"]](job, path.parent)
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


def main(
    path: Path | None = None, do: Mapping[str, Callable[..., dict[str, Any]]] | None = None
) -> None:
    """do: what jobs ask for, by name; the ones of this module where it is absent."""
    do = _DO if do is None else do
    if path is not None:
        work(path, do)
    else:
        answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what TVM prints is no answer
        for line in sys.stdin:
            work(Path(line.rstrip("\n")), do)
            answers.write("done\n")
            answers.flush()
    sys.stdout.flush()
    os._exit(0)  # TVM's threads and destructors have nothing left to do


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
