"""Between a float graph in training and the integer graph that runs: fake quantization, and export.

Fake quantization computes in float what the integer kernels compute in integers: values on the grid
``scale * (q - zero_point)``; rounding passes gradients straight through (Bengio et al., 2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from edgekit.compress.ptq import Plan
from edgekit.compress.train.module import WEIGHT_AXIS
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node, QuantParams

#: Largest weight value of a number of bits; symmetric, so the lowest code is not used.
QMAX = {8: 127, 4: 7, 2: 1}


@dataclass(frozen=True, eq=False)
class IntegerWeights:
    """values: integers in the weights' layout. scale: ``[channels]`` or ``[1]``, float32. bias: float,
    ``[channels]``, in real units."""

    values: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def integer_layers(plan: Plan) -> list[Node]:
    """Nodes of ``plan.graph`` with weights of their own that are integers in ``plan.integer``."""
    uses: dict[str, int] = {}
    for n in plan.graph.nodes:
        for i in n.inputs:
            if i is not None:
                uses[i] = uses.get(i, 0) + 1
    integer = {n.name: n for n in plan.integer.nodes if n.type in WEIGHT_AXIS}
    return [
        n
        for n in plan.graph.nodes
        if n.name in integer
        and uses[n.inputs[1] or ""] == 1
        and plan.integer.tensor(integer[n.name].inputs[1]).dtype == "int8"
    ]


def float_weights(plan: Plan, node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias (zeros where there is none) of a float node."""
    w = plan.graph.tensor(node.inputs[1]).data
    assert w is not None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        b = plan.graph.tensor(node.inputs[2]).data
        assert b is not None
        return w, b.reshape(-1)
    return w, np.zeros(w.shape[WEIGHT_AXIS[node.type]], np.float32)


def scale_shape(node: Node, scale: np.ndarray) -> tuple[int, ...]:
    """The shape in which scales broadcast over the weights."""
    if len(scale) == 1:
        return (1, 1) if node.type == "FULLY_CONNECTED" else (1, 1, 1, 1)
    shape = [1] * (2 if node.type == "FULLY_CONNECTED" else 4)
    shape[WEIGHT_AXIS[node.type]] = -1
    return tuple(shape)


def start_scale(plan: Plan, node: Node, bits: int) -> np.ndarray:
    """The weight scales to start from: post-training quantization's for 8 bits; for fewer, those of
    the smallest squared error among shrunken ranges."""
    layer = plan.integer.node(node.name)
    quant = plan.integer.tensor(layer.inputs[1]).quant
    assert quant is not None
    if bits == 8:
        return quant.scale.copy()
    w, _ = float_weights(plan, node)
    qmax = QMAX[bits]
    per_channel = len(quant.scale) > 1
    moved = np.moveaxis(w, WEIGHT_AXIS[node.type], 0).reshape(w.shape[WEIGHT_AXIS[node.type]], -1)
    rows = moved.astype(np.float64) if per_channel else moved.reshape(1, -1).astype(np.float64)
    peak = np.abs(rows).max(axis=1)
    best, scale = np.full(len(rows), np.inf), quant.scale * (127.0 / qmax)
    for shrink in np.linspace(1.0, 0.35, 40):
        s = np.where(peak > 0, peak * shrink / qmax, scale)
        q = np.clip(np.rint(rows / s[:, None]), -qmax, qmax) * s[:, None]
        error = ((rows - q) ** 2).sum(axis=1)
        scale = np.where(error < best, s, scale)
        best = np.minimum(best, error)
    return np.maximum(scale, quant.scale * 1e-3).astype(np.float32)


def with_weights(integer: Graph, layers: Mapping[str, IntegerWeights]) -> Graph:
    """The integer graph with other weights and biases, by node name."""
    out = integer.copy()
    for name, new in layers.items():
        node = out.node(name)
        x, w, b = (out.tensor(i) for i in node.inputs[:3])
        assert x.quant is not None and w.quant is not None
        if np.abs(new.values).max(initial=0) > 127:
            raise InputError(f"node '{name}' would get integer weights beyond [-127, 127]")
        axis = w.quant.axis
        quant = QuantParams(new.scale, np.zeros(len(new.scale), np.int32), axis)
        out.tensors[w.name] = w.with_(data=new.values.astype(np.int8), quant=quant)
        b_scale = np.float32(x.quant.s) * new.scale.astype(np.float32)
        limit = 2.0**31 - 1
        data = np.clip(np.rint(new.bias / b_scale.astype(np.float64)), -limit, limit)
        b_quant = QuantParams(
            b_scale, np.zeros(len(b_scale), np.int32), None if axis is None else 0
        )
        out.tensors[b.name] = b.with_(data=data.astype(np.int32), quant=b_quant)
    return out.validate()


# -- fake quantization -----------------------------------------------------------------------------


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Round, with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


def fake_activation(x: torch.Tensor, quant: QuantParams) -> torch.Tensor:
    """An activation on the int8 grid of a fixed quantization."""
    q = torch.clamp(torch.round(x / quant.s) + quant.zp, -128, 127)
    return (q - quant.zp) * quant.s
