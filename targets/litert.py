"""Engine ``litert``: .tflite files for LiteRT (or tflite-runtime) with XNNPACK.

``litert`` takes a model as it is (float32 or integer), ``litert-fp16`` stores float weights as
float16, ``litert-int8`` quantizes a float model first.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from edgekit.devices.base import Device
from edgekit.errors import DeviceError, InputError
from edgekit.formats import tflite
from edgekit.graph.ir import Graph, Node, Tensor, unique
from edgekit.targets.base import EngineInfo, refuse_unknown
from edgekit.targets.schema import Target
from edgekit.tolerance import precision_of
from edgekit_targets.interpreted import InterpretedEngine

#: Names the Python that runs .tflite models on this machine: one with ai-edge-litert or with
#: tflite-runtime, whose numpy<2 needs an environment of its own.
VARIABLE = "EDGEKIT_TFLITE_PYTHON"
PACKAGES = {"ai-edge-litert": "ai_edge_litert", "tflite-runtime": "tflite_runtime"}
_ASK = """
import importlib.util as u, importlib.metadata as m
for p, i in (("ai-edge-litert", "ai_edge_litert"), ("tflite-runtime", "tflite_runtime")):
    if u.find_spec(i) is not None and u.find_spec("numpy") is not None:
        print(p, m.version(p))
        break
"""


@dataclass(frozen=True)
class Runtime:
    """What interprets .tflite files on this machine: its Python, package and version."""

    python: str
    package: str
    version: str


@cache
def _asked(python: str) -> Runtime:
    try:
        done = subprocess.run(
            [python, "-c", _ASK],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        raise DeviceError(
            f"{VARIABLE} names '{python}', which does not start; a Python with "
            f"{' or '.join(PACKAGES)} is needed"
        ) from None
    words = done.stdout.split()
    if done.returncode or len(words) != 2:
        raise DeviceError(
            f"{VARIABLE} names '{python}', which has neither {' nor '.join(PACKAGES)} with numpy"
        )
    return Runtime(python, words[0], words[1])


def runtime() -> Runtime:
    """The one that :data:`VARIABLE` names, else this environment's; DeviceError without any."""
    named = os.environ.get(VARIABLE)
    if named:
        return _asked(named)
    for package, module in PACKAGES.items():
        if importlib.util.find_spec(module) is not None:
            try:
                return Runtime(sys.executable, package, version(package))
            except PackageNotFoundError:
                continue
    raise DeviceError(
        "running .tflite models on the host needs the Python package ai-edge-litert: pip install "
        f"ai-edge-litert, or {VARIABLE} set to a Python that has it or tflite-runtime"
    )


class LiteRt(InterpretedEngine):
    package = "ai-edge-litert"
    module = "ai_edge_litert"

    def __init__(
        self, weights: str = "", *, admit: Callable[[Target, Device], None] | None = None
    ) -> None:
        """weights: ``""`` (as the model has them), ``fp16`` or ``int8``."""
        super().__init__(int8=weights == "int8", admit=admit)
        self.name = f"litert-{weights}" if weights else "litert"
        self._half = weights == "fp16"
        self.what = {
            "": "LiteRT with XNNPACK, the model's own types",
            "fp16": "LiteRT with XNNPACK, float16 weights",
            "int8": "LiteRT with XNNPACK, float models quantized to int8",
        }[weights]

    def model_file(self) -> str:
        return "model.tflite"

    def refuses(self, graph: Graph) -> str | None:
        if self._half and precision_of(graph) != "float32":
            return "the model is quantized; float16 weights are for float models"
        return None

    def why_missing(self) -> str | None:
        if importlib.util.find_spec(self.module) is None:
            return f"the Python package {self.package} is missing: pip install {self.package}"
        return None

    def host_python(self) -> str:
        return runtime().python

    def info(self, target: Target) -> EngineInfo:
        kernels = "auto (XNNPACK) or reference (the runtime's own reference kernels)"
        return replace(super().info(target), options={"kernels": kernels})

    def tools(self) -> dict[str, str]:
        try:
            found = runtime()
        except DeviceError:
            return {}
        return {found.package: found.version}

    def settings(self, extra: Mapping[str, Any]) -> dict[str, Any]:
        """Option ``kernels``: ``auto`` (XNNPACK) or ``reference`` (the runtime's own reference
        kernels; those of tflite-runtime 2.14 give the oracle's bytes)."""
        refuse_unknown(self.name, extra, ("kernels",))
        kernels = extra.get("kernels", "auto")
        if kernels not in ("auto", "reference"):
            raise InputError(f"option kernels is '{kernels}'; there are auto and reference")
        return {} if kernels == "auto" else {"kernels": kernels}

    def model_bytes(self, graph: Graph) -> bytes:
        return tflite.write_bytes(with_half_weights(graph) if self._half else graph)

    def precision(self, graph: Graph) -> str:
        return "float16" if self._half else precision_of(graph)


def with_half_weights(graph: Graph) -> Graph:
    """Float32 constants of two or more dimensions become float16 behind a DEQUANTIZE, the form in
    which TFLite stores half-precision weights; values beyond float16's range stay float32."""
    g = graph.copy()
    nodes: list[Node] = []
    names = {n.name for n in g.nodes}
    for t in list(g.tensors.values()):
        if t.data is None or t.dtype != "float32" or len(t.shape) < 2 or t.name in g.outputs:
            continue
        with np.errstate(over="ignore"):
            half = t.data.astype(np.float16)
        if not np.all(np.isfinite(half)):
            continue
        stored = unique(f"{t.name}_fp16", set(g.tensors))
        g.tensors[stored] = Tensor(stored, t.shape, "float16", data=half)
        g.tensors[t.name] = t.with_(data=None)
        name = unique(f"{t.name}_dequantize", names)
        names.add(name)
        nodes.append(Node(name, "DEQUANTIZE", (stored,), (t.name,), {}))
    g.nodes[:0] = nodes
    return g
