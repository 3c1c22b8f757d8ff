"""SNIP: Lee et al., "Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019.

Before training, weights are ranked by how much removing them would change the loss, ``|w dL/dw|``, on
a few batches. The network should be at its initialization (:func:`..init.reinitialize`).
"""

from __future__ import annotations

import numpy as np
import torch

from edgekit.compress.train.batches import Batches, TrainData, as_float, in_batches
from edgekit.compress.train.masks import largest, maskable
from edgekit.compress.train.module import TrainModule
from edgekit.compress.train.objectives import Objective
from edgekit.compress.train.options import TrainOptions
from edgekit.graph.ir import Graph


def sensitivities(
    graph: Graph, data: TrainData, objective: Objective, *, batches: int = 4, seed: int = 0,
    ends: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """``|w dL/dw|`` of the maskable weights (of all with ``ends``), summed over ``batches`` batches of
    128."""
    module = TrainModule(graph, batch_norm=True).eval()
    first = [a[:1024] for a in data.inputs]
    module.measure([as_float(a) for a in part] for part in in_batches(first, 64))
    module.train()
    stream = Batches(data, TrainOptions(batch=128, seed=seed))
    names = maskable(graph, ends=ends)
    total = {n: np.zeros(graph.tensor(n).shape) for n in names}
    for k in range(batches):
        batch = stream.at(k, torch.device("cpu"))
        module.zero_grad(set_to_none=True)
        objective(batch, module.values(batch.inputs, objective.watch)).backward()
        for n in names:
            w = module.constant(n)
            if w.grad is not None:
                total[n] += (w.detach() * w.grad).abs().double().numpy()
    return total


def snip(
    graph: Graph,
    data: TrainData,
    objective: Objective,
    keep: float,
    *,
    batches: int = 4,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Masks of the ``keep`` share of weights whose removal would change the loss most."""
    return largest(sensitivities(graph, data, objective, batches=batches, seed=seed), keep)
