"""Layer by layer: what the kernels wrote against the reference executor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.devices.base import Device
from edgekit.graph.reference import run

from .engine import OpenCl

if TYPE_CHECKING:
    from edgekit.artifact import Artifact


@dataclass(frozen=True)
class LayerError:
    """error: largest difference as a share of the reference's largest magnitude in that tensor (of
    integers: in steps). Differences of earlier layers are in it: the network runs as deployed."""

    node: str
    op: str
    tensor: str
    error: float


def layer_errors(
    artifact: Artifact, device: Device, inputs: Sequence[np.ndarray]
) -> list[LayerError]:
    """One entry a kernel, in the order in which they run; the worst of all samples. inputs: as for
    ``Backend.run``, a few samples."""
    graph = artifact.graph
    traced = OpenCl(artifact.engine == "opencl-fp16").run(artifact, device, inputs, True).layers
    expected = run(graph, list(inputs), keep="all")
    producers = graph.producers()
    found = []
    for name in traced[0]:
        worst = 0.0
        for sample, layers in enumerate(traced):
            want = expected[name][sample].astype(np.float64).ravel()
            difference = float(np.abs(layers[name].ravel() - want).max(initial=0.0))
            largest = float(np.abs(want).max(initial=0.0)) if layers[name].dtype.kind == "f" else 1
            worst = max(worst, difference / largest if largest else difference)
        found.append(LayerError(producers[name].name, producers[name].type, name, worst))
    return found
