"""Run and time a folder made by :mod:`.build`: natively, or under qemu-user for another machine."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DeviceError, ToolchainError
from edgekit.graph.ir import Graph
from edgekit_targets.tvm_.isa import CpuTarget

TIMEOUT_S = 600
_SYSROOTS = ("/usr/aarch64-linux-gnu", "/usr/aarch64-linux-musl", "/")


def sysroot() -> Path | None:
    """A folder with aarch64's dynamic linker, C and C++ libraries (``QEMU_LD_PREFIX`` wins)."""
    given = os.environ.get("QEMU_LD_PREFIX")
    for place in ([given] if given else []) + list(_SYSROOTS):
        if (Path(place) / "lib" / "ld-linux-aarch64.so.1").exists():
            return Path(place)
    return None


def command(folder: Path, target: CpuTarget) -> tuple[list[str], dict[str, str]]:
    """What starts the runner on this machine, and the environment it needs.

    Under emulation the CPU is pinned (``QEMU_CPU``): never QEMU's default, which has features that
    the target lacks. ToolchainError where the emulator or its libraries are missing.
    """
    env = {**os.environ, "TVM_NUM_THREADS": "1"}
    env.pop("EDGEKIT_MODEL", None)
    program = [str((folder / "runner").resolve())]
    if target.arch == platform.machine():
        return program, env
    qemu = shutil.which(f"qemu-{target.arch}-static") or shutil.which(f"qemu-{target.arch}")
    if qemu is None:
        raise ToolchainError(
            f"running {target.arch} code here needs qemu-{target.arch}-static: "
            "apt-get install qemu-user-static"
        )
    root = sysroot()
    if root is None:
        raise ToolchainError(
            f"running {target.arch} code here needs its C and C++ libraries: apt-get install "
            "libc6-arm64-cross libstdc++6-arm64-cross, or QEMU_LD_PREFIX set to where they are"
        )
    if target.qemu_cpu:
        env["QEMU_CPU"] = target.qemu_cpu
    return [qemu, "-L", str(root), *program], env


def _run(
    folder: Path, target: CpuTarget, arguments: Sequence[str], model: str, timeout_s: float
) -> list[tuple[str, str]]:
    start, env = command(folder, target)
    env["EDGEKIT_MODEL"] = str((folder / model).resolve())
    try:
        done = subprocess.run(
            [*start, *arguments],
            env=env,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"the tvm runner did not end within {timeout_s:g} s") from None
    except OSError as e:
        raise DeviceError(f"the tvm runner cannot be started ({e.strerror})") from None
    text = done.stdout.decode("utf-8", "replace")
    lines = [(k, v) for k, e, v in (x.partition("=") for x in text.splitlines()) if e]
    if done.returncode:
        why = next((v for k, v in lines if k == "error"), "")
        if not why:
            why = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[0]
        code = done.returncode
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        raise DeviceError(f"the tvm runner failed ({how}): {why}")
    return lines


def _write(graph: Graph, inputs: Sequence[np.ndarray], path: Path, samples: int | None) -> int:
    count = inputs[0].shape[0] if inputs else 1
    with path.open("wb") as f:
        for i in range(count if samples is None else min(count, samples)):
            for name, x in zip(graph.inputs, inputs, strict=True):
                t = graph.tensor(name)
                f.write(np.ascontiguousarray(x[i], t.dtype).tobytes())
    return count


def _read(path: Path, graph: Graph, names: Sequence[str], samples: int) -> list[np.ndarray]:
    data = path.read_bytes()
    sizes = [graph.tensor(n).nbytes for n in names]
    if len(data) != samples * sum(sizes):
        raise DeviceError(
            f"the tvm runner gave {len(data)} bytes for {samples} samples; "
            f"{samples * sum(sizes)} were expected"
        )
    out: list[np.ndarray] = []
    rows = np.frombuffer(data, np.uint8).reshape(samples, sum(sizes))
    at = 0
    for n, size in zip(names, sizes, strict=True):
        t = graph.tensor(n)
        shape = (samples, *(t.shape[1:] if t.shape[:1] == (1,) else t.shape))
        part = np.ascontiguousarray(rows[:, at : at + size])
        out.append(part.reshape(-1).view(t.dtype).reshape(shape))
        at += size
    return out


def _real(target: CpuTarget) -> None:
    """Times are taken on real silicon only."""
    if target.arch != platform.machine():
        raise DeviceError(
            f"{target.arch} code runs here under emulation, whose wall-clock is no latency; "
            "a device of that kind is needed"
        )


def run(
    folder: Path,
    graph: Graph,
    target: CpuTarget,
    inputs: Sequence[np.ndarray],
    *,
    timeout_s: float = TIMEOUT_S,
) -> list[np.ndarray]:
    """Outputs for samples stacked along axis 0 of every input, as ``reference.run`` takes them."""
    with tempfile.TemporaryDirectory() as name:
        source, result = Path(name) / "in.bin", Path(name) / "out.bin"
        samples = _write(graph, inputs, source, None)
        _run(folder, target, ["run", str(source), str(result)], "model", timeout_s)
        return _read(result, graph, graph.outputs, samples)


def trace(
    folder: Path,
    graph: Graph,
    plan: Sequence[Mapping[str, Any]],
    target: CpuTarget,
    inputs: Sequence[np.ndarray],
    *,
    timeout_s: float = TIMEOUT_S,
) -> list[dict[str, np.ndarray]]:
    """:func:`read_trace` of a run. plan: that of the compilation."""
    with tempfile.TemporaryDirectory() as name:
        source, result = Path(name) / "in.bin", Path(name) / "out.bin"
        _write(graph, inputs, source, None)
        _run(folder, target, ["trace", str(source), str(result)], "model", timeout_s)
        return read_trace(result.read_bytes(), graph, plan, inputs)


def calls_of(plan: Sequence[Mapping[str, Any]]) -> list[str]:
    """The kernels in the order in which one inference calls them; equal ones have one name."""
    return [f for row in plan for f in row["functions"]]


def by_row(plan: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> list[list[Any]]:
    """One value a call, sorted into the rows of the plan."""
    rest = iter(values)
    return [[next(rest) for _ in row["functions"]] for row in plan]


def read_trace(
    data: bytes, graph: Graph, plan: Sequence[Mapping[str, Any]], inputs: Sequence[np.ndarray]
) -> list[dict[str, np.ndarray]]:
    """What every node gave, by tensor name in execution order, one dict a sample.

    data: the file of the runner's ``trace``. Nodes that call no kernel (views) have the bytes of
    their input. inputs: the samples that were run.
    """
    calls = calls_of(plan)
    at, found = 0, []
    for k in range(inputs[0].shape[0] if inputs else 1):
        written: list[bytes] = []
        for expected in [*calls, ""]:
            try:
                (length,) = struct.unpack_from("<Q", data, at)
                name = data[at + 8 : at + 8 + length].decode("utf-8", "replace")
                (size,) = struct.unpack_from("<Q", data, at + 8 + length)
            except struct.error:
                name = "(the end)"
            if name != expected:
                raise DeviceError(
                    f"the tvm runner's trace has '{name}' where '{expected}' was expected; "
                    "compile the artifact again"
                )
            at += 16 + length
            written.append(data[at : at + size])
            at += size
        values = {n: np.asarray(x[k]) for n, x in zip(graph.inputs, inputs, strict=True)}
        layers: dict[str, np.ndarray] = {}
        for node, mine in zip(graph.nodes, by_row(plan, written), strict=True):
            outs = graph.outs(node)
            if not mine:
                source = graph.tensor(node.inputs[0])
                given = values.get(source.name) if source.data is None else source.data
                mine = [b"" if given is None else given.tobytes()]
            for t, raw in zip(outs, mine[-len(outs) :], strict=False):
                if len(raw) == t.nbytes:
                    dtype = np.dtype(t.dtype).newbyteorder("<")
                    values[t.name] = layers[t.name] = np.frombuffer(raw, dtype).reshape(t.shape)
        found.append(layers)
    return found


def time_model(
    folder: Path,
    graph: Graph,
    target: CpuTarget,
    inputs: Sequence[np.ndarray],
    repeats: int = 200,
    *,
    timeout_s: float = TIMEOUT_S,
) -> list[float]:
    """Milliseconds of each of ``repeats`` inferences of the first sample, one thread, after a
    warm-up. DeviceError where the code would run under emulation."""
    _real(target)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in.bin"
        _write(graph, inputs, source, 1)
        lines = _run(folder, target, ["time", str(source), str(repeats)], "model", timeout_s)
        return [int(v) / 1e6 for k, v in lines if k == "total_ns"]


def time_layers(
    folder: Path,
    graph: Graph,
    target: CpuTarget,
    inputs: Sequence[np.ndarray],
    repeats: int = 50,
    *,
    fastest: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, float]:
    """Median (or least) milliseconds of each function of the model, in execution order. DeviceError
    where the code would run under emulation."""
    _real(target)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in.bin"
        _write(graph, inputs, source, 1)
        lines = _run(folder, target, ["layers", str(source), str(repeats)], "model", timeout_s)
    times: dict[str, list[float]] = {}
    current = ""
    for key, value in lines:
        if key == "layer":
            current = value
        elif key == "layer_ns":
            times.setdefault(current, []).append(int(value) / 1e6)
    return {k: min(v) if fastest else float(np.median(v)) for k, v in times.items()}
