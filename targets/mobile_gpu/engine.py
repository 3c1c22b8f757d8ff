"""Engines ``opencl`` and ``opencl-fp16``: TVM's OpenCL kernels, a launch plan, weights, a runner.

Arithmetic is float32 in both. ``opencl-fp16`` keeps weights and activations as float16 in memory,
which is what bounds most layers of a phone's GPU (the GPU delegate calls it F32_F16). A quantized
model is computed by ``opencl`` in float32 on its integers' real values; every activation is rounded
to its own grid, and stored as the integer that it is.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device
from edgekit.errors import DeviceError, UnsupportedError
from edgekit.graph.ir import Graph, Tensor
from edgekit.graph.ops import macs
from edgekit.graph.reference import sample_shape
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
from edgekit_targets.mcu import profile as runner
from edgekit_targets.mcu.backend import pack_inputs, unpack
from edgekit_targets.tvm_ import check
from edgekit_targets.tvm_ import worker as tvm_worker

from . import launch, program, support, worker
from .config import parse
from .device import NAME as VIRTUAL

_REPEATS = 9
_RUNNER = "runner"


class OpenCl:
    """half: float16 in memory."""

    int8 = False

    def __init__(self, half: bool = False) -> None:
        self._half = half
        self.name = "opencl-fp16" if half else "opencl"

    # -- Engine --------------------------------------------------------------------------------

    def info(self, target: Target) -> EngineInfo:
        why = check.why_not() or program.why_missing()
        stored = "float16 in memory, float32 arithmetic" if self._half else "float32"
        what = f"TVM's OpenCL kernels, {stored}"
        return EngineInfo(self.name, why is None, why, what, exact=False)

    def supports(self, graph: Graph, target: Target) -> Sequence[Unsupported]:
        def whole(reason: str) -> list[Unsupported]:
            return [Unsupported(graph.name, "model", reason)]

        if self._half and precision_of(graph) != "float32":
            return whole("the model is quantized; engine 'opencl' takes it, float16 is for float")
        if not graph.nodes:
            return whole("it computes nothing")
        if any(graph.tensor(o).is_const for o in graph.outputs):
            return whole("an output is a constant")
        return support.unsupported(graph)

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        from edgekit.formats import ekg

        refuse_unknown(self.name, options.extra)
        missing = self.supports(graph, target)
        if missing:
            first = missing[0]
            raise UnsupportedError(
                f"engine '{self.name}' of {target.name}: node '{first.node}' ({first.op}): "
                f"{first.reason}",
                [(u.node, u.op, u.reason) for u in missing],
            )
        gpu = parse(target)
        if progress:
            progress(f"generating OpenCL kernels with TVM {check.TESTED_TVM}")
        with tempfile.TemporaryDirectory(prefix="edgekit-opencl-") as scratch:
            work = Path(scratch)
            ekg.write(graph, work / "graph.ekg")
            job = {
                "do": "generate",
                "graph": str(work / "graph.ekg"),
                "half": self._half,
                "limits": asdict(gpu.limits),
                "output": str(work),
            }
            document = tvm_worker.call(job, work, module=worker.MODULE)
            if progress:
                progress("building the runner for Linux and Android")
            files = {n: (work / n).read_bytes() for n in launch.FILES} | program.for_target()
        for name, data in files.items():
            (out / name).write_bytes(data)
        for name in (program.LINUX, program.ANDROID):
            (out / name).chmod(0o755)
        chosen = program.ANDROID if gpu.config.system == "android" else program.LINUX
        return Compiled(
            engine=self.name,
            files=list(files),
            plan=_plan(graph, document),
            memory=_memory(graph, document, files, chosen),
            tools={**check.tools(), **program.tools()},
            details={
                "exact": False,
                "precision": "float16" if self._half else precision_of(graph),
                "arithmetic": "float32",
                "kernels": len(document["kernels"]),
                "functions": len({k["function"] for k in document["kernels"]}),
                "program": chosen,
            },
        )

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        """layers: what each kernel wrote (values inside of a fused kernel never reach memory)."""
        graph: Graph = artifact.graph
        samples, data = pack_inputs(graph, inputs)
        if progress:
            progress(f"running {samples} sample{'s' if samples != 1 else ''} on {device.name}")
        kind = self._push(artifact, device, data)
        self._execute(artifact, device, (kind, "run", "in.bin", "out.bin"))
        outputs = unpack(device.pull("out.bin"), [graph.tensor(o) for o in graph.outputs], samples)
        if not trace_layers:
            return RunOutput(outputs)
        self._execute(artifact, device, (kind, "trace", "in.bin", "trace.bin"))
        return RunOutput(outputs, _traced(artifact, device.pull("trace.bin"), samples))

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        """On a GPU median wall-clock of one inference, and event times of the kernels. On
        ``virtual:opencl`` no latency: event times are the host's, and are called so."""
        graph: Graph = artifact.graph
        if inputs is None:
            inputs = runner.fixed_pattern(graph)
        _, data = pack_inputs(graph, [np.asarray(x)[:1] for x in inputs])
        kind = self._push(artifact, device, data)
        said = self._execute(artifact, device, (kind, "profile", "in.bin", str(_REPEATS)))
        kernels = _document(artifact)["kernels"]
        times = [int(v) for k, v in said if k == "kernel_ns"]
        if len(times) != _REPEATS * len(kernels):
            raise runner.runner_error(f"gave {len(times)} times of {len(kernels)} kernels")
        spent = np.median(np.asarray(times, float).reshape(_REPEATS, -1), axis=0) / 1e6
        found = None
        if device.info().kind == "measured":

            def take(repeats: int) -> measure.Taken:
                whole = self._execute(artifact, device, (kind, "time", "in.bin", str(repeats)))
                lines = "\n".join(f"{k}={v}" for k, v in whole)
                return measure.taken(lines, repeats)

            found = measure.collect(device, take)
        return _profile(artifact, device, kernels, spent, found, dict(said))

    # -- the device ----------------------------------------------------------------------------

    def _push(self, artifact: Any, device: Device, data: bytes) -> str:
        """Push everything; the kind of OpenCL device to run on."""
        virtual = device.name == VIRTUAL
        if device.name == "host" or virtual:
            why = program.why_missing()
            if why is not None:
                raise DeviceError(f"the runner for {device.name} cannot be built: {why}")
            native = device.name == "host" and platform.machine() == "aarch64"
            if native:
                device.push(artifact.file(program.LINUX), _RUNNER)
            else:
                device.push_bytes(program.for_host(), _RUNNER)
        else:
            device.push(artifact.file(artifact.details["program"]), _RUNNER)
        for name in (launch.KERNELS, launch.WEIGHTS, launch.PLAN):
            device.push(artifact.file(name), name)
        device.push_bytes(data, "in.bin")
        return "cpu" if virtual else "gpu"

    def _execute(
        self, artifact: Any, device: Device, args: tuple[str, ...]
    ) -> list[tuple[str, str]]:
        """The runner's key=value lines. DeviceError when the GPU is not the target's."""
        result = runner.execute(device, _RUNNER, args)
        pairs = [line.partition("=")[::2] for line in result.stdout.splitlines() if "=" in line]
        said = dict(pairs)
        wanted = parse(artifact.target).config.device_name
        names = f"{said.get('device', '')} {said.get('version', '')}"
        if device.name != VIRTUAL and wanted.lower() not in names.lower():
            raise DeviceError(
                f"target '{artifact.target.name}' is a {wanted} and the GPU of {device.name} is "
                f"{said.get('device')}: how long it takes would say nothing about the target"
            )
        return pairs


# -- documents ---------------------------------------------------------------------------------


def _document(artifact: Any) -> dict[str, Any]:
    import json

    return dict(json.loads(artifact.file(launch.LAYERS).read_text("utf-8")))


def _traced(artifact: Any, raw: bytes, samples: int) -> list[dict[str, np.ndarray]]:
    graph: Graph = artifact.graph
    written = [k["writes"] for k in _document(artifact)["kernels"]]
    width = sum(w["bytes"] for w in written)
    if len(raw) != width * samples:
        raise runner.runner_error(f"traced {len(raw)} bytes for {samples} samples of {width}")
    result, at = [], 0
    for _ in range(samples):
        layers = {}
        for w in written:
            t = graph.tensor(w["tensor"])
            value = np.frombuffer(raw, np.dtype(w["stored"]).newbyteorder("<"), t.elements, at)
            layers[t.name] = value.astype(t.dtype).reshape(sample_shape(t, 1))
            at += w["bytes"]
        result.append(layers)
    return result


def _plan(graph: Graph, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a node: the first node of a kernel carries its geometry and constants."""
    kernels: dict[str, list[int]] = {}
    for k, row in enumerate(document["kernels"]):
        for name in row["nodes"]:
            kernels.setdefault(name, []).append(k)
    sizes = {c["name"]: c["bytes"] for c in document["constants"]}
    rows = []
    for n in graph.nodes:
        mine = kernels.get(n.name, [])
        first = document["kernels"][mine[0]] if mine else None
        leads = first is not None and first["nodes"][0] == n.name
        if first is None:
            variant, details = "view", {}
        elif leads:
            variant = first["function"]
            details = {"kernels": mine, "global": first["global"], "local": first["local"]}
        else:
            variant, details = f"fused into {first['nodes'][0]}", {"kernels": mine}
        used = {w for k in mine for w in document["kernels"][k]["weights"]} if leads else set()
        rows.append(
            {
                "name": n.name,
                "op": n.type,
                "variant": variant,
                "macs": macs(n, graph),
                "flash_bytes": sum(sizes[w] for w in used),
                "scratch_bytes": first["local_memory_bytes"] if leads and first else 0,
                "input_shapes": [
                    _shape(t) for t in graph.ins(n) if t is not None and not t.is_const
                ],
                "output_shapes": [_shape(t) for t in graph.outs(n)],
                "details": details,
            }
        )
    return rows


def _shape(t: Tensor) -> list[int]:
    return list(t.shape)


def _memory(
    graph: Graph, document: Mapping[str, Any], files: Mapping[str, bytes], chosen: str
) -> dict[str, Any]:
    """flash_bytes: what goes to the device. arena_bytes: the shared buffers. buffers: tensors with
    the place of their buffer, were all laid behind one another; first and last are layers."""
    starts = np.cumsum([0, *document["buffers"]])
    place = {n.name: i for i, n in enumerate(graph.nodes)}
    layer = [place[k["nodes"][-1]] for k in document["kernels"]]
    deployed = [launch.KERNELS, launch.WEIGHTS, launch.PLAN, chosen]
    return {
        "flash_bytes": sum(len(files[n]) for n in deployed),
        "code_bytes": len(files[launch.KERNELS]) + len(files[launch.PLAN]) + len(files[chosen]),
        "constants_bytes": len(files[launch.WEIGHTS]),
        "weights_bytes": len(files[launch.WEIGHTS]),
        "kernel_source_bytes": len(files[launch.KERNELS]),
        "arena_bytes": int(starts[-1]),
        "shared_buffers": len(document["buffers"]),
        "peak_alive_bytes": document["peak_bytes"],
        "unshared_bytes": document["unshared_bytes"],
        "ram_bytes": int(starts[-1]) + len(files[launch.WEIGHTS]),
        "buffers": [
            {
                "name": t["tensor"],
                "offset": int(starts[t["buffer"]]),
                "bytes": t["bytes"],
                "first": layer[t["first"]],
                "last": layer[t["last"]],
            }
            for t in document["tensors"]
        ],
    }


def _profile(
    artifact: Any,
    device: Device,
    kernels: Sequence[Mapping[str, Any]],
    spent: np.ndarray,
    found: measure.Measurement | None,
    said: Mapping[str, str],
) -> Profile:
    manifest, info = artifact.manifest, device.info()
    measured = info.kind == "measured"
    layers = []
    for row in manifest["plan"]:
        mine = row["details"].get("kernels", []) if not row["variant"].startswith("fused") else []
        time_ms = float(sum(spent[k] for k in mine))
        details = {
            "variant": row["variant"],
            "input_shapes": row["input_shapes"],
            "output_shapes": row["output_shapes"],
        }
        if not measured:
            details["host_time_ms"] = time_ms
        layers.append(
            LayerProfile(
                row["name"],
                row["op"],
                row["macs"],
                time_ms=time_ms if measured else None,
                details=details,
            )
        )
    extra: dict[str, Any] = {
        "opencl_device": said.get("device"),
        "opencl_version": said.get("version"),
        "opencl_driver": said.get("driver"),
        "precision": manifest["details"]["precision"],
        "kernels": [k["function"] for k in kernels],
        "repeats": _REPEATS,
        **measure.figures(found),
        "device": dict(info.details),
    }
    if measured:
        extra["kernels_ms"] = [float(t) for t in spent]
    else:
        extra["absent"] = (
            f"latency: the kernels ran on {info.details['cpu']}, whose times say nothing about "
            f"{artifact.target.board}"
        )
        extra["host_kernels_ms"] = [float(t) for t in spent]
        extra["host_times"] = f"OpenCL event times on {info.details['cpu']}, not on the target"
    memory = {k: v for k, v in manifest["memory"].items() if isinstance(v, int)}
    return Profile(
        device=device.name,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind=info.kind,
        instructions=None,
        cycles=None,
        latency_ms=None if found is None else found.median_ms,
        memory=memory,
        layers=layers,
        kinds={"latency_ms": "measured", "time_ms": "measured"} if measured else {},
        tools={**manifest["tools"], "opencl": f"{said.get('platform')} {said.get('driver')}"},
        details=extra,
    )
