"""Engines ``cuda``, ``cuda-tf32``, ``cuda-fp16`` and ``cuda-int8`` of NVIDIA GPUs.

``cuda`` takes a model in its own types: float32, or int8, whose bytes are then the oracle's.
``cuda-tf32`` and ``cuda-fp16`` compute float models with less precision; ``cuda-int8`` quantizes a
float model first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device, Kind, RunRequest, RunResult
from edgekit.errors import DeviceError, UnsupportedError
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
from edgekit_targets.cuda_ import build, support, virtual
from edgekit_targets.cuda_.gpu import Gpu, Precision
from edgekit_targets.cuda_.lower import Value
from edgekit_targets.cuda_.plan import from_stored, traced
from edgekit_targets.mcu.backend import pack_inputs, unpack

FILES = ("kernels.cubin", "kernels.ptx", "weights.bin", "plan.txt", "trace.txt")
_BUDGET_NS, _FEWEST, _MOST = 1_000_000_000, 20, 500
_TIMEOUT_S = 900


class CudaEngine:
    """gpu: target -> what code is generated for. mode: "", "tf32", "fp16" or "int8"."""

    def __init__(self, gpu: Callable[[Target], Gpu], mode: str = "") -> None:
        self._gpu = gpu
        self._mode = mode
        self.name = f"cuda-{mode}" if mode else "cuda"
        self.int8 = mode == "int8"
        modes: dict[str, Precision] = {"tf32": "tf32", "fp16": "float16"}
        self._precision: Precision = modes.get(mode, "float32")

    def info(self, target: Target) -> EngineInfo:
        why = build.why_not()
        what = {
            "": "TVM kernels, the model's own types",
            "tf32": "TVM kernels, float matrix products in tf32",
            "fp16": "TVM kernels, float16 with float32 sums",
            "int8": "TVM kernels, float models quantized to int8",
        }[self._mode]
        exact = self._mode in ("", "int8")
        plain = "cuda" if self.int8 else None
        return EngineInfo(self.name, why is None, why, what, exact, plain)

    def _refuses(self, graph: Graph) -> str | None:
        if self._mode in ("tf32", "fp16") and precision_of(graph) != "float32":
            return f"the model is quantized; {self._mode} is for float models"
        return None

    def supports(self, graph: Graph, target: Target) -> Sequence[Unsupported]:
        reason = self._refuses(graph)
        if reason is not None:
            return [Unsupported(graph.name, "model", reason)]
        return support.unsupported(graph)

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        refuse_unknown(self.name, options.extra)
        reason = self._refuses(graph)
        if reason is not None:
            raise UnsupportedError(f"engine '{self.name}' of {target.name}: {reason}")
        if progress:
            progress("generating and compiling CUDA kernels")
        gpu = self._gpu(target)
        made = build.compile_model(graph, gpu, self._precision, out)
        integer = precision_of(graph) == "int8"
        return Compiled(
            engine=self.name,
            files=made.files,
            plan=made.plan,
            memory=made.memory,
            tools=made.tools,
            details={
                "exact": integer,
                "precision": "int8" if integer else self._precision,
                "compute_capability": gpu.compute_capability,
                "stored": made.stored,
                "launches": [list(x) for x in made.launches],
            },
        )

    # -- running -------------------------------------------------------------------------------

    def _push(self, artifact: Any, device: Device, data: bytes) -> None:
        if not isinstance(device, virtual.CudaDevice):
            raise DeviceError(
                f"engine '{self.name}' runs on the devices cuda and {virtual.NAME}, "
                f"not on {device.name}"
            )
        for name in (*FILES, "runner"):
            device.push(artifact.file(name), name)
        device.push_bytes(data, "in.bin")
        if device.virtual:
            kernels = artifact.file("kernels.cu").read_text("utf-8")
            device.push(virtual.build_driver(kernels), virtual.LIBRARY)

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
        if progress:
            progress(f"running {samples} sample{'s' if samples != 1 else ''} on {device.name}")
        self._push(artifact, device, data)
        execute(device, ("run", "in.bin", "out.bin"))
        outputs = unpack(device.pull("out.bin"), [graph.tensor(o) for o in graph.outputs], samples)
        if not trace_layers:
            return RunOutput(outputs)
        execute(device, ("trace", "in.bin", "trace.bin"))
        return RunOutput(outputs, self._layers(artifact, device.pull("trace.bin"), samples))

    def _layers(self, artifact: Any, raw: bytes, samples: int) -> list[dict[str, np.ndarray]]:
        stored, names = artifact.details["stored"], traced(artifact.graph)
        values = [Value(n, tuple(stored[n][1]), stored[n][0]) for n in names]
        arrays = from_stored(raw, values, samples)
        return [{n: a[i] for n, a in zip(names, arrays, strict=True)} for i in range(samples)]

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        """On a GPU: median wall-clock of one inference, copies to and from the GPU included, and
        each kernel's time from CUDA events. ``virtual:cuda``: what the compiler says, no time."""
        from edgekit_targets.mcu import profile as runner

        graph: Graph = artifact.graph
        if inputs is None:
            inputs = runner.fixed_pattern(graph)
        _, data = pack_inputs(graph, [np.asarray(x)[:1] for x in inputs])
        self._push(artifact, device, data)
        if device.info().kind != "measured":
            why = (
                virtual.why_no_gpu() or f"the kernels were not run on the GPU but on {device.name}"
            )
            return self._profile(artifact, device, None, {}, {"absent": why})
        lines: dict[str, list[str]] = {}
        on_gpu: list[float] = []

        def take(repeats: int) -> measure.Taken:
            lines.update(execute(device, ("time", "in.bin", str(repeats))))
            on_gpu.extend(int(v) / 1e6 for v in lines["gpu_ns"])
            return measure.taken("\n".join(f"total_ns={v}" for v in lines["total_ns"]), repeats)

        found = measure.collect(device, take)
        repeats = int(np.clip(_BUDGET_NS / 1e6 / found.median_ms, _FEWEST, _MOST))
        each = execute(device, ("layers", "in.bin", str(min(repeats, 100))))
        kernels: dict[int, list[float]] = {}
        for index, ns in zip(each["launch"], each["launch_ns"], strict=True):
            kernels.setdefault(int(index), []).append(int(ns) / 1e6)
        details = {
            **measure.figures(found),
            "gpu_ms": float(np.median(on_gpu)),
            "gpu": lines["device"][0],
            "driver": lines["driver"][0],
            "module": lines["module"][0],
        }
        layers: dict[int, float] = {}
        for k, (node, _) in enumerate(artifact.details["launches"]):
            layers[node] = layers.get(node, 0.0) + float(np.median(kernels[k]))
        return self._profile(artifact, device, found.median_ms, layers, details)

    def _profile(
        self,
        artifact: Any,
        device: Device,
        latency_ms: float | None,
        times: dict[int, float],
        details: dict[str, Any],
    ) -> Profile:
        manifest, info = artifact.manifest, device.info()
        kinds: dict[str, Kind] = {} if latency_ms is None else {"latency_ms": "measured"}
        memory = manifest["memory"]
        return Profile(
            device=device.name,
            target=artifact.target.name,
            engine=manifest["engine"],
            kind=info.kind,
            instructions=None,
            cycles=None,
            latency_ms=latency_ms,
            memory={k: memory[k] for k in ("flash_bytes", "ram_bytes", "weights_bytes")},
            layers=[
                LayerProfile(
                    r["name"],
                    r["op"],
                    r["macs"],
                    time_ms=times.get(i),
                    details={"kernels": r["kernels"]},
                )
                for i, r in enumerate(manifest["plan"])
            ],
            kinds=kinds,
            tools=dict(manifest["tools"]),
            details={
                "precision": manifest["details"]["precision"],
                "device": dict(info.details),
                **details,
            },
        )


def execute(device: Device, arguments: tuple[str, ...]) -> dict[str, list[str]]:
    """The runner's ``key=value`` lines by key; DeviceError with its own words when it fails."""
    done: RunResult = device.run(RunRequest("runner", arguments, timeout_s=_TIMEOUT_S))
    lines: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            lines.setdefault(key, []).append(value)
    if done.exit_code:
        why = lines.get("error", [f"exit code {done.exit_code}"])[0]
        raise DeviceError(
            why if why.startswith("no NVIDIA GPU") else f"the cuda runner failed: {why}"
        )
    return lines
