"""Engine ``litert-fp16``: a .tflite with float16 weights for TFLite's (LiteRT's) GPU delegate.

The delegate runs float16 weights as they are and computes in float16 where the GPU has it. It does
not exist off the phone, so here the same file is run by LiteRT on the host's CPU: what is verified
is the file, and the artifact says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device, DeviceInfo
from edgekit.errors import DeviceError
from edgekit.graph.ir import Graph
from edgekit.targets.base import Compiled, CompileOptions, LayerProfile, Profile, Progress
from edgekit.targets.schema import Target
from edgekit_targets.litert import LiteRt
from edgekit_targets.mcu.backend import pack_inputs

from .device import NAME as VIRTUAL

VERIFIED = "the float16 .tflite, run by LiteRT on the host's CPU; the GPU delegate was not executed"
#: Operators that the delegate takes (tensorflow/lite/delegates/gpu/common/model_builder.cc); the
#: interpreter runs the others on the CPU, and what they need is copied there and back.
ON_GPU = frozenset(
    [
        "ABS",
        "ADD",
        "AVERAGE_POOL_2D",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "DEQUANTIZE",
        "DIV",
        "EXP",
        "FULLY_CONNECTED",
        "GATHER",
        "GELU",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LOG",
        "LOGISTIC",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MUL",
        "NEG",
        "PAD",
        "PRELU",
        "QUANTIZE",
        "REDUCE_MAX",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "RSQRT",
        "SOFTMAX",
        "SPLIT",
        "SQRT",
        "SQUARED_DIFFERENCE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TRANSPOSE",
        "TRANSPOSE_CONV",
        "BATCH_MATMUL",
    ]
)


class GpuDelegate(LiteRt):
    """Float models only."""

    def __init__(self) -> None:
        super().__init__("fp16")
        self.what = "float16 .tflite for the GPU delegate of LiteRT"

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        made = super().compile(graph, target, out, options, progress)
        rows = [{**r, "variant": _where(str(r["op"]))} for r in made.plan]
        on_cpu = [r["name"] for r in rows if r["variant"] != "GPU delegate"]
        details = {**made.details, "verified": VERIFIED, "on_cpu": on_cpu}
        return replace(made, plan=rows, details=details)

    def _push(self, artifact: Any, device: Device, data: bytes) -> str:
        if device.name not in (VIRTUAL, "host"):
            raise DeviceError(
                f"engine '{self.name}' has no program for {device.name}: its .tflite is for an app "
                f"with LiteRT's GPU delegate; it can be verified on {VIRTUAL}"
            )
        return super()._push(artifact, _AsHost(device), data)

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        """No figure: the delegate runs on phones only."""
        graph: Graph = artifact.graph
        if inputs is not None:
            pack_inputs(graph, [np.asarray(x)[:1] for x in inputs])
        manifest, info = artifact.manifest, device.info()
        return Profile(
            device=device.name,
            target=artifact.target.name,
            engine=manifest["engine"],
            kind="simulated",
            instructions=None,
            cycles=None,
            latency_ms=None,
            memory={"flash_bytes": manifest["memory"]["flash_bytes"]},
            layers=[
                LayerProfile(r["name"], r["op"], r["macs"], details={"variant": r["variant"]})
                for r in manifest["plan"]
            ],
            tools=dict(manifest["tools"]),
            details={
                "absent": "latency: the GPU delegate runs on phones only",
                "precision": manifest["details"]["precision"],
                "device": dict(info.details),
            },
        )


class _AsHost:
    """``virtual:opencl`` seen as the host that it is: its Python is this one."""

    name = "host"

    def __init__(self, device: Device) -> None:
        self._device = device

    def info(self) -> DeviceInfo:
        return replace(self._device.info(), transport="local")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)


def _where(op: str) -> str:
    return "GPU delegate" if op in ON_GPU else f"CPU: the delegate lacks {op}"
