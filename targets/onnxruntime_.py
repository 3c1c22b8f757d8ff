"""Engine ``onnxruntime``: .onnx files, float32 or QDQ int8, for ONNX Runtime's CPU provider.

``onnxruntime`` takes a model as it is, ``onnxruntime-int8`` quantizes a float model first.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from edgekit.devices.base import Device
from edgekit.graph.ir import Graph
from edgekit.targets.schema import Target
from edgekit_targets.interpreted import InterpretedEngine


class OnnxRuntime(InterpretedEngine):
    package = "onnxruntime"
    module = "onnxruntime"

    def __init__(
        self, weights: str = "", *, admit: Callable[[Target, Device], None] | None = None
    ) -> None:
        """weights: ``""`` (as the model has them) or ``int8``."""
        super().__init__(int8=weights == "int8", admit=admit)
        self.name = f"onnxruntime-{weights}" if weights else "onnxruntime"
        self.what = {
            "": "ONNX Runtime's CPU provider, float32 or QDQ int8 as the model is",
            "int8": "ONNX Runtime's CPU provider, float models quantized to QDQ int8",
        }[weights]

    def model_file(self) -> str:
        return "model.onnx"

    def why_missing(self) -> str | None:
        for module in ("onnx", self.module):
            if importlib.util.find_spec(module) is None:
                return f"the Python package {module} is missing: pip install {module}"
        return None

    def model_bytes(self, graph: Graph) -> bytes:
        from edgekit.formats import onnx_write

        return onnx_write.to_model(graph).SerializeToString(deterministic=True)
