"""An artifact of engine ``tvm`` on a device behind TVM's RPC (:class:`edgekit.devices.base.ModuleRunner`):
the library alone is sent, TVM's virtual machine on the other side runs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.devices.base import ModuleRunner
from edgekit.graph.ir import Graph
from edgekit.profile import measure
from edgekit.targets.base import Progress, RunOutput
from edgekit_targets.tvm_.ondevice import MODEL


def _sample(graph: Graph, inputs: Sequence[np.ndarray], k: int) -> list[np.ndarray]:
    """Sample ``k`` in the shapes of the model."""
    return [
        np.asarray(x)[k].reshape(graph.tensor(name).shape)
        for name, x in zip(graph.inputs, inputs, strict=True)
    ]


def run(
    artifact: Any,
    device: ModuleRunner,
    inputs: Sequence[np.ndarray],
    samples: int,
    progress: Progress | None = None,
) -> RunOutput:
    """Layers are not traced: the virtual machine gives outputs only."""
    graph: Graph = artifact.graph
    if progress:
        progress(f"running {samples} sample{'s' if samples != 1 else ''} by TVM RPC")
    device.load_library(artifact.file(MODEL))
    rows = [device.invoke(_sample(graph, inputs, k)) for k in range(samples)]
    outputs = []
    for k, name in enumerate(graph.outputs):
        t = graph.tensor(name)
        batch = t.shape[1:] if t.shape[:1] == (1,) else t.shape
        outputs.append(np.stack([row[k] for row in rows]).reshape(samples, *batch).astype(t.dtype))
    return RunOutput(outputs)


def time(
    artifact: Any, device: ModuleRunner, inputs: Sequence[np.ndarray]
) -> tuple[float | None, dict[str, Any]]:
    """Median milliseconds by the device's own clock, and how it was measured. None where the device is
    an emulator, whose time is nobody's."""
    device.load_library(artifact.file(MODEL))
    if device.info().kind != "measured":  # type: ignore[attr-defined]
        return None, {"absent": "a TVM RPC server counts no instructions"}
    sample = _sample(artifact.graph, inputs, 0)
    found = measure.collect(
        device,  # type: ignore[arg-type]
        lambda n: measure.Taken(device.time_ns(sample, n)),
    )
    return found.median_ms, dict(measure.figures(found))
