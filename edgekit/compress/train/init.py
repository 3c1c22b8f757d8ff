"""Fresh weights for a known architecture: the control of every "train it from scratch".

Weights from He et al., ICCV 2015; then layer after layer the sums get mean 0 and variance 1 on data
(Mishkin & Matas, "All you need is a good init", ICLR 2016), whatever the unit of the inputs. Behind
that, putting batch norm in gives the usual start: gamma 1, beta 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgekit.compress.train.batches import as_float
from edgekit.compress.train.module import (
    WEIGHT_AXIS,
    Hook,
    TrainModule,
    split_activations,
    weighted_nodes,
    with_biases,
)
from edgekit.graph.ir import Graph

_SAMPLES = 256


def reinitialize(graph: Graph, inputs: Sequence[np.ndarray], seed: int = 0) -> Graph:
    """The float graph with new random weights and no trace of the old ones but their shapes.

    inputs: samples for the scale of the sums, one array a graph input (the first 256 are used). Other
    float constants (PRELU slopes, LAYER_NORM factors, elementwise operands) stay as they are.
    """
    base = with_biases(graph)
    rng = np.random.default_rng([seed, 0xFEED])
    nodes = weighted_nodes(base)
    for n in nodes:
        for name in n.inputs[1:3]:
            t = base.tensor(name)
            fan = t.elements / t.shape[WEIGHT_AXIS[n.type]] if name == n.inputs[1] else 1.0
            data = rng.normal(0.0, np.sqrt(2.0 / fan), t.shape) if name == n.inputs[1] else 0.0
            new = np.broadcast_to(np.asarray(data, t.dtype), t.shape)
            base.tensors[t.name] = t.with_(data=np.ascontiguousarray(new))
    split = split_activations(base, [n.name for n in nodes])
    module = TrainModule(split).eval()
    sums = {n.outputs[0]: n for n in split.nodes if n.name in {m.name for m in nodes}}
    shared = {n.inputs[1] for n in nodes if sum(n.inputs[1] in m.inputs for m in nodes) > 1}

    def normalized(name: str) -> Hook:
        node = sums[name]
        weight, bias = (module.constant(i or "") for i in node.inputs[1:3])
        shape = [1] * weight.ndim
        shape[WEIGHT_AXIS[node.type]] = -1

        def hook(z: torch.Tensor) -> torch.Tensor:
            flat = z.reshape(-1, z.shape[-1])
            mean, std = flat.mean(0), flat.std(0, unbiased=False)
            std = torch.where(std > 0, std, torch.ones_like(std))
            weight.div_(std.reshape(shape))
            bias.copy_(((bias - mean) / std).reshape(bias.shape))
            return (z - mean) / std

        return hook

    for name, node in sums.items():
        if node.inputs[1] not in shared:
            module.on_value[name] = normalized(name)
    with torch.no_grad():
        module(*[as_float(a[:_SAMPLES]) for a in inputs])
    out = base.copy()
    trained = module.to_graph()
    for n in nodes:
        for name in n.inputs[1:3]:
            out.tensors[name or ""] = trained.tensor(name)
    return out.validate()
