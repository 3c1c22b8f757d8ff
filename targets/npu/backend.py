"""The backend of the ``npu`` family: compile with Vela, profile by its model, run the int8 .tflite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device, TransportInfo
from edgekit.errors import DoesNotFitError, InputError, UnsupportedError
from edgekit.graph.int4 import widened
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops import macs
from edgekit.targets.base import (
    Compiled,
    CompileOptions,
    EngineInfo,
    Profile,
    Progress,
    RunOutput,
    Unsupported,
    refuse_unknown,
)
from edgekit.targets.schema import Target

from . import vela
from .config import NpuTarget, parse
from .device import NAME, VERIFIED, EstimateDevice, check_device
from .outputs import Outputs
from .placement import Placement, counts, place, safe_names
from .profile import memory_of, profile

ENGINE = "vela"
SOURCE = "model_int8.tflite"
OPTIMISED = "model_vela.tflite"
SUMMARY = "vela.json"


class NpuBackend:
    """Arm Ethos-U: an optimised .tflite for TensorFlow Lite Micro with the Ethos-U driver."""

    family = "npu"

    def engines(self, target: Target) -> Sequence[EngineInfo]:
        parse(target)
        why = vela.why_missing()
        what = "Arm's Ethos-U compiler, run as a subprocess"
        options = {"timeout_s": "seconds that Vela may take"}
        return [EngineInfo(ENGINE, why is None, why, what, options=options)]

    def supports(self, graph: Graph, target: Target, engine: str = ENGINE) -> Sequence[Unsupported]:
        """Float arithmetic is refused; all else Vela places, on the NPU or the CPU."""
        _check_engine(engine)
        return [
            Unsupported(n.name, n.type, "it computes in float; quantize the whole model first")
            for n in graph.nodes
            if n.type not in ("QUANTIZE", "DEQUANTIZE") and _is_float(n, graph)
        ]

    def needs_int8(self, target: Target, engine: str = ENGINE) -> bool:
        return True

    def default_device(self, target: Target) -> str:
        return NAME

    def open_device(self, name: str, target: Target) -> Device | None:
        """The family's own devices (see :func:`edgekit.devices.open_device`)."""
        return EstimateDevice(target) if name == NAME else None

    def transports(self) -> Sequence[TransportInfo]:
        """Lines of ``edgekit devices``."""
        why = vela.why_missing()
        return [TransportInfo("estimate", why is None, why, (NAME,))]

    # -- compile -------------------------------------------------------------------------------

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        """``options.extra["timeout_s"]``: how long Vela may take. Raises UnsupportedError (float
        nodes, or nothing that the NPU takes), ToolchainError, DoesNotFitError."""
        from edgekit.formats import tflite

        _check_engine(ENGINE if options.engine == "auto" else options.engine)
        timeout_s = _timeout(options.extra)
        npu = parse(target)
        missing = self.supports(graph, target)
        if missing:
            first = missing[0]
            raise UnsupportedError(
                f"{target.name} cannot take node '{first.node}' ({first.op}): {first.reason}"
            )
        optimise = "Performance" if options.optimize in ("balanced", "speed") else "Size"
        # Vela crashes on int4; the NPU's own coder makes them short again
        safe, renamed = safe_names(widened(graph))
        source = tflite.write_bytes(safe)
        if progress:
            progress(f"compiling with Vela for {npu.config.accelerator}")
        outputs, tool = vela.compile_tflite(
            source, npu, model=graph.name, optimise=optimise, timeout_s=timeout_s
        )
        placements, stray = place(safe, outputs, npu.generation, tool.version)
        _check_used(graph, placements, outputs, npu)
        _check_clock(npu, outputs)
        memory = memory_of(outputs, npu)
        _check_fit(target, npu, memory)
        (out / SOURCE).write_bytes(source)
        (out / OPTIMISED).write_bytes(outputs.tflite)
        document = {
            "summary": dict(outputs.summary),
            "layers": None
            if outputs.rows is None
            else [
                {
                    "operator": r.source_op,
                    "npu_operator": r.op,
                    "on_npu": r.on_npu,
                    "cycles": r.cycles,
                    "macs": r.macs,
                    "name": r.name,
                }
                for r in outputs.rows
            ],
        }
        (out / SUMMARY).write_text(
            json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n", "utf-8"
        )
        return Compiled(
            engine=ENGINE,
            files=[OPTIMISED, SOURCE, SUMMARY],
            plan=_plan(graph, placements),
            memory=memory,
            tools={vela.DISTRIBUTION: tool.version},
            details={
                "accelerator": npu.config.accelerator,
                "system_config": npu.config.system_config,
                "memory_mode": npu.config.memory_mode,
                "optimise": optimise,
                "operators": dict(counts(placements)),
                "command_streams": outputs.streams,
                "unattributed": [{"name": r.name, "op": r.op, "cycles": r.cycles} for r in stray],
                "renamed_tensors": renamed,
                "verified": VERIFIED,
            },
        )

    # -- run, profile --------------------------------------------------------------------------

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        """The int8 .tflite that Vela compiled, read back and run by the reference executor: the same
        integers the NPU has to give, which nothing here executes."""
        from edgekit.formats import tflite
        from edgekit.graph.reference import run

        check_device(device.name)
        graph = tflite.read(artifact.file(SOURCE))
        if progress:
            progress(f"reference executor on {SOURCE}")
        if not trace_layers:
            values = run(graph, list(inputs))
            return RunOutput([values[o] for o in graph.outputs])
        old = dict(artifact.details.get("renamed_tensors", {}))
        known = artifact.graph.tensors
        values = run(graph, list(inputs), keep="all")
        produced = [o for n in graph.nodes for o in n.outputs if old.get(o, o) in known]
        layers = [
            {old.get(t, t): values[t][k : k + 1] for t in produced} for k in range(len(inputs[0]))
        ]
        return RunOutput([values[o] for o in graph.outputs], layers)

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        """Vela's estimate for the NPU, and the host core's engine for what is left to the CPU; data
        makes no difference."""
        check_device(device.name)
        try:
            document = json.loads(artifact.file(SUMMARY).read_text("utf-8"))
            summary = dict(document["summary"])
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(
                f"'{artifact.path}' has an unreadable {SUMMARY} ({e}); compile the model again"
            ) from None
        return profile(artifact, device.name, summary, parse(artifact.target))


def _is_float(node: Node, graph: Graph) -> bool:
    return any(t is not None and t.is_float for t in [*graph.ins(node), *graph.outs(node)])


def _check_engine(engine: str) -> None:
    if engine not in ("auto", ENGINE):
        raise InputError(f"family 'npu' has no engine '{engine}'; it has: {ENGINE}")


def _timeout(extra: Mapping[str, Any]) -> float:
    refuse_unknown(ENGINE, extra, ("timeout_s",))
    try:
        value = float(extra.get("timeout_s", vela.TIMEOUT_S))
    except (TypeError, ValueError):
        value = 0.0
    if not 0 < value < 1e6:
        raise InputError(f"option timeout_s is '{extra['timeout_s']}'; seconds above 0 are needed")
    return value


def _check_used(
    graph: Graph, placements: Sequence[Placement], outputs: Outputs, npu: NpuTarget
) -> None:
    """Vela ends well with nothing on the NPU; that is no artifact for one."""
    if outputs.streams:
        return
    reasons = [
        f"node '{n.name}' ({n.type}): {p.reason}"
        for n, p in zip(graph.nodes, placements, strict=True)
        if not p.on_npu
    ]
    more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    raise UnsupportedError(
        f"no operator of model '{graph.name}' runs on the {npu.generation} "
        f"({'; '.join(reasons[:3]) or 'it has none'}{more}); a target such as "
        f"'{npu.config.host_target}' takes it"
    )


def _check_clock(npu: NpuTarget, outputs: Outputs) -> None:
    if outputs.number("core_clock") != npu.config.npu_clock_hz:
        raise InputError(
            f"target '{npu.target.name}' says npu_clock_hz {npu.config.npu_clock_hz}, its system "
            f"configuration {npu.config.system_config} says {outputs.number('core_clock'):.0f}"
        )


def _check_fit(target: Target, npu: NpuTarget, memory: Mapping[str, Any]) -> None:
    limits = (
        ("SRAM", memory["sram_bytes"], npu.sram_bytes),
        ("flash", memory["flash_bytes"], npu.flash_bytes),
    )
    if any(limit is not None and used > limit for _, used, limit in limits):
        text = " and ".join(
            f"{used:,} bytes of {what} ({target.name} has {limit:,}"
            f"{': too little' if used > limit else ''})"
            for what, used, limit in limits
            if limit is not None
        )
        raise DoesNotFitError(f"the model does not fit {target.name}: it needs {text}")


def _plan(graph: Graph, placements: Sequence[Placement]) -> list[dict[str, Any]]:
    return [
        {
            "name": n.name,
            "op": n.type,
            "variant": p.variant,
            "macs": macs(n, graph),
            "flash_bytes": sum(t.nbytes for t in graph.ins(n) if t is not None and t.is_const),
            "scratch_bytes": 0,
            "input_shapes": [
                list(t.shape) for t in graph.ins(n) if t is not None and not t.is_const
            ],
            "output_shapes": [list(t.shape) for t in graph.outs(n)],
            "details": p.to_json(),
        }
        for n, p in zip(graph.nodes, placements, strict=True)
    ]
