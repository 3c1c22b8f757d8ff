"""Engine ``tvm``: integer and float kernels generated with TVM for the target's own CPU, run by a
small C program on TVM's runtime library; no Python on the device.

``tvm`` takes a model as it is (int8 stays integer, and its bytes are the oracle's), ``tvm-int8``
quantizes a float model first.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device, Kind, ModuleRunner
from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph
from edgekit.profile import measure
from edgekit.targets.base import (
    Compiled,
    CompileOptions,
    EngineInfo,
    LayerProfile,
    Profile,
    Progress,
    RunOutput,
    Unsupported,
    refuse_unknown,
)
from edgekit.targets.schema import Target
from edgekit.tolerance import precision_of
from edgekit_targets.mcu import profile as runner_of_mcu
from edgekit_targets.mcu import toolchain
from edgekit_targets.mcu.backend import pack_inputs, unpack
from edgekit_targets.tvm_ import build, check, ondevice, over_rpc, runner, support, tune
from edgekit_targets.tvm_.isa import CpuTarget
from edgekit_targets.tvm_.records import Records

_BUDGET_MS, _FEWEST, _MOST = 500.0, 20, 50  #: inferences with each layer timed


class TvmEngine:
    """``code``: target -> the CPU that code is generated for. ``admit``: as for
    :class:`edgekit_targets.native_c.CEngine`."""

    def __init__(
        self,
        code: Callable[[Target], CpuTarget],
        weights: str = "",
        *,
        admit: Callable[[Target, Device], None] | None = None,
    ) -> None:
        """weights: ``""`` (as the model has them) or ``int8``."""
        self.int8 = weights == "int8"
        self.name = f"tvm-{weights}" if weights else "tvm"
        self._code, self._admit = code, admit or (lambda _target, _device: None)

    def info(self, target: Target) -> EngineInfo:
        why = check.why_not() or toolchain.why_missing("zig")
        form = "float models quantized to int8" if self.int8 else "float32 or int8 as the model is"
        return EngineInfo(
            self.name,
            why is None,
            why,
            f"kernels generated with TVM, {form}",
            True,
            "tvm" if self.int8 else None,
            tunable=True,
        )

    def supports(self, graph: Graph, target: Target) -> Sequence[Unsupported]:
        return support.unsupported(graph, self._code(target))

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        """``model.so`` (kernels and weights), ``model.io``, ``runner`` and TVM's two runtime
        libraries. Kernels without a tuning record take a default tile and are marked."""
        refuse_unknown(self.name, options.extra)
        check.require()
        cpu = self._code(target)
        missing = support.unsupported(graph, cpu)
        if missing:
            u = missing[0]
            raise UnsupportedError(
                f"engine '{self.name}' of {target.name} cannot take node '{u.node}' ({u.op}): "
                f"{u.reason}",
                [(u.node, u.op, u.reason) for u in missing],
            )
        if progress:
            progress(f"generating code with TVM for {cpu.cpu}")
        tasks = tune.tasks_of(graph, cpu)
        best = Records().best(tasks, _this_machine(cpu))
        tiles = {t: b.tile.to_json() for t, b in best.items()}
        built = build.compile_model(graph, cpu, out, tiles=tiles)
        plan = []
        for row in built.plan:
            entry = {k: v for k, v in row.items() if k != "function"}
            entry["variant"] = _variant(row, cpu)
            record = best.get(built.tasks.get(row["name"], ""))
            if record is not None:
                entry["tuned_on"] = f"{record.device}, {record.kind}"
            plan.append(entry)
        sizes = {f: (out / f).stat().st_size for f in built.files}
        weights = sum(t.nbytes for t in graph.tensors.values() if t.is_const)
        tunable = sum(1 for row in plan if "tuned" in row)
        return Compiled(
            engine=self.name,
            files=list(built.files),
            plan=plan,
            memory={
                "flash_bytes": sizes[ondevice.MODEL],
                "model_bytes": sizes[ondevice.MODEL],
                "weights_bytes": weights,
                "runtime_bytes": sum(sizes.values()) - sizes[ondevice.MODEL],
            },
            tools={**built.tools, "ziglang": check.version("ziglang") or ""},
            details={
                "exact": not computes_in_float(graph),
                "precision": precision_of(graph),
                "threads": 1,
                "program": ondevice.PROGRAM,
                "llvm_target": cpu.llvm(),
                "dot_product": cpu.dot_name,
                "runs_on": f"{cpu.arch} Linux with glibc 2.28 or later",
                "tunable": tunable,
                "untuned": len(built.untuned),
            },
        )

    # -- on the device ---------------------------------------------------------------------------

    def _push(self, artifact: Any, device: Device, data: bytes) -> None:
        self._admit(artifact.target, device)
        names = [n for n in artifact.manifest["files"] if not n.endswith(".ekg")]
        ondevice.push(device, {n: artifact.file(n) for n in names}, data)

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        graph: Graph = artifact.graph
        samples, data = pack_inputs(graph, inputs)
        if isinstance(device, ModuleRunner):
            return over_rpc.run(artifact, device, inputs, samples, progress)
        if progress:
            progress(f"running {samples} sample{'s' if samples != 1 else ''} on {device.name}")
        self._push(artifact, device, data)
        runner_of_mcu.execute(device, ondevice.PROGRAM, ("run", "in.bin", "out.bin"))
        tensors = [graph.tensor(o) for o in graph.outputs]
        outputs = unpack(device.pull("out.bin"), tensors, samples)
        if not trace_layers:
            return RunOutput(outputs)
        runner_of_mcu.execute(device, ondevice.PROGRAM, ("trace", "in.bin", "trace.bin"))
        rows = artifact.manifest["plan"]
        values = [np.asarray(x) for x in inputs]
        return RunOutput(outputs, runner.read_trace(device.pull("trace.bin"), graph, rows, values))

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        """On real silicon the median wall-clock of one inference, one thread, after a warm-up, and of
        each layer (from an instrumented run); on a virtual device executed instructions, where it
        counts them."""
        graph: Graph = artifact.graph
        if inputs is None:
            inputs = runner_of_mcu.fixed_pattern(graph)
        _, data = pack_inputs(graph, [np.asarray(x)[:1] for x in inputs])
        rows = artifact.manifest["plan"]
        if isinstance(device, ModuleRunner):
            layers = [_layer(row) for row in rows]
            latency, details = over_rpc.time(artifact, device, [np.asarray(x)[:1] for x in inputs])
            return _profile(artifact, device, layers, latency, None, details)
        self._push(artifact, device, data)
        if device.info().kind != "measured":
            return self._count(artifact, device, rows)
        found = measure.collect(device, lambda n: ondevice.times(device, n))
        layers = [_layer(row) for row in rows]
        if measure.current().layers:
            repeats = int(np.clip(_BUDGET_MS / found.median_ms, _FEWEST, _MOST))
            each = ondevice.layer_times(device, runner.calls_of(rows), repeats)
            middles = list(np.median(each, axis=0) / 1e6)
            layers = [
                _layer(row, time_ms=float(sum(mine)))
                for row, mine in zip(rows, runner.by_row(rows, middles), strict=True)
            ]
        details = measure.figures(found)
        return _profile(artifact, device, layers, found.median_ms, None, details)

    def _count(self, artifact: Any, device: Device, rows: Sequence[Mapping[str, Any]]) -> Profile:
        found = ondevice.counts(device, runner.calls_of(rows)) if _counts(device) else None
        if found is None:
            layers = [_layer(row) for row in rows]
            details = {"absent": f"device '{device.name}' counts no instructions here"}
            return _profile(artifact, device, layers, None, None, details)
        total, each = found
        layers = []
        for row, mine in zip(rows, runner.by_row(rows, each), strict=True):
            known = [v for v in mine if v is not None]
            layers.append(_layer(row, instructions=sum(known) if len(known) == len(mine) else None))
        details = {"counted": "a second inference, TVM's virtual machine included"}
        return _profile(artifact, device, layers, None, total, details)

    # -- tuning ----------------------------------------------------------------------------------

    def tune(
        self,
        graph: Graph,
        target: Target,
        device: Device,
        trials: int,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Measure up to ``trials`` candidates a kernel on the device and put them on record."""
        check.require()
        self._admit(target, device)
        cpu = self._code(target)
        records, kind = Records(), ondevice.kind_of(device)
        inputs = runner_of_mcu.fixed_pattern(graph)
        _, data = pack_inputs(graph, inputs)
        with tempfile.TemporaryDirectory(prefix="edgekit-tune-") as name:
            folder = Path(name)
            files = build.build_runner(cpu, folder)
            (folder / "model.io").write_text(build.describe(graph), encoding="utf-8")
            (folder / ondevice.PROGRAM).chmod(0o755)
            ondevice.push(device, {f: folder / f for f in (*files, "model.io")}, data)
            tuned = tune.tune_model(
                graph,
                cpu,
                records,
                ondevice.measure(device),
                device=ondevice.record_name(device),
                kind=kind,
                trials=trials,
                progress=progress,
            )
        return {
            "kernels": tuned.tasks,
            "tried": tuned.tried,
            "failed": tuned.failed,
            "before": tuned.before,
            "after": tuned.after,
            "unit": "ms" if kind == "measured" else "instructions",
            "kind": kind,
            "device": ondevice.record_name(device),
            "records": str(records.path),
            "tools": check.tools(),
        }


def computes_in_float(graph: Graph) -> bool:
    """Whether any operator but a conversion has floats in or out: those sum in another order than the
    reference and are held to a tolerance."""
    return any(
        t is not None and t.is_float
        for n in graph.nodes
        if n.type not in ("QUANTIZE", "DEQUANTIZE")
        for t in (*graph.ins(n), *graph.outs(n))
    )


def _counts(device: Device) -> bool:
    return bool(device.info().details.get("counts_instructions", True))


def _this_machine(cpu: CpuTarget) -> str | None:
    """The name of this machine in records, where it can run the code."""
    if platform.machine() != cpu.arch:
        return None
    from edgekit.devices.local import LocalDevice

    with LocalDevice() as device:
        return ondevice.record_name(device)


def _variant(row: Mapping[str, Any], cpu: CpuTarget) -> str:
    """The kernel in words: ``tvm vnni 12x2`` is 12 pixels by 2 vectors of channels at a time."""
    if not row["functions"]:
        return "none (in place)"
    if "tile" not in row:
        return "tvm"
    pixels, vectors, _ = row["tile"]
    mark = "" if row["tuned"] else ", untuned"
    return f"tvm {pixels}x{vectors}{mark}"


def _layer(row: Mapping[str, Any], **figures: Any) -> LayerProfile:
    details = {k: row[k] for k in ("variant", "tile", "tuned", "tuned_on") if k in row}
    return LayerProfile(row["name"], row["op"], row["macs"], details=details, **figures)


def _profile(
    artifact: Any,
    device: Device,
    layers: Sequence[LayerProfile],
    latency_ms: float | None,
    instructions: int | None,
    details: Mapping[str, Any],
) -> Profile:
    manifest, info = artifact.manifest, device.info()
    kinds: dict[str, Kind] = {}
    if latency_ms is not None:
        kinds |= {"latency_ms": "measured", "time_ms": "measured"}
    if instructions is not None:
        kinds["instructions"] = "simulated"
    tools = dict(manifest["tools"])
    if info.kind == "simulated":
        tools["emulator"] = str(info.details.get("backend"))
    kept = ("precision", "threads", "tunable", "untuned")
    return Profile(
        device=device.name,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind=info.kind,
        instructions=instructions,
        cycles=None,
        latency_ms=latency_ms,
        memory={"flash_bytes": manifest["memory"]["flash_bytes"]},
        layers=layers,
        kinds=kinds,
        tools=tools,
        details={
            **{k: manifest["details"][k] for k in kept},
            "device": dict(info.details),
            **details,
        },
    )
