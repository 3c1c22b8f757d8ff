"""Quantization-aware training with learned step sizes, exported to the bit-exact integer graph.

LSQ: Esser et al., "Learned Step Size Quantization", ICLR 2020; zero points move too where values go
below zero (LSQ+, Bhalgat et al., 2020). Batch norm is folded before: what is trained are the weights
that the device multiplies (Jacob et al., CVPR 2018), so nothing is left to fold at export.

Activations that must share a quantization share its parameters; those with a fixed one (SOFTMAX,
LOGISTIC, TANH) keep it. Scales are trained as ``scale * exp(p)``: always positive, and one learning
rate for all units.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgekit.compress.ptq import _FIXED, Plan, QuantizeOptions, planned
from edgekit.compress.train.batches import TrainData
from edgekit.compress.train.integer import (
    QMAX,
    IntegerWeights,
    integer_layers,
    rounded,
    scale_shape,
    start_scale,
    with_weights,
)
from edgekit.compress.train.module import Hook, TrainModule
from edgekit.compress.train.objectives import Objective
from edgekit.compress.train.options import TrainOptions
from edgekit.compress.train.trainer import Extension, Trained, train
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, QuantParams

Progress = Callable[[str], None]
#: Zero points are trained in units of this many steps.
_ZERO_POINT_UNIT = 10.0
_CALIBRATION = 200


class LearnedSteps(Extension):
    """Fake quantization of a planned graph's activations and weights, with learned scales.

    bits: of the weights (8 or 4) by node name; first and last layers are usually left at 8.
    """

    def __init__(self, plan: Plan, bits: dict[str, int]) -> None:
        self.plan = plan
        self.bits = bits
        self.layers = integer_layers(plan)
        fixed = {n.outputs[0] for n in plan.graph.nodes if n.type in _FIXED}
        members: dict[int, list[str]] = {}
        for name, quant in plan.params.items():
            members.setdefault(id(quant), []).append(name)
        self.groups = [(plan.params[m[0]], m, not fixed.intersection(m)) for m in members.values()]
        self._scale: dict[int, nn.Parameter] = {}
        self._zero: dict[int, nn.Parameter] = {}
        self._weight: dict[str, nn.Parameter] = {}
        self._start = {n.name: start_scale(plan, n, bits.get(n.name, 8)) for n in self.layers}
        self._starts: dict[str, torch.Tensor] = {}
        self._module: TrainModule | None = None

    def key(self) -> str:
        h = hashlib.sha256()
        for quant, names, _ in self.groups:
            h.update(f"{quant.s!r} {quant.zp} {names}".encode())
        return f"LearnedSteps {h.hexdigest()} {sorted(self.bits.items())}"

    def attach(self, module: TrainModule) -> None:
        self._module = module
        integer = set(self.plan.integer.tensors)
        for i, (quant, names, learned) in enumerate(self.groups):
            p = nn.Parameter(torch.zeros(()), requires_grad=learned)
            z = nn.Parameter(torch.zeros(()), requires_grad=learned and quant.zp > -128)
            module.register_parameter(f"activation_{i}_scale", p)
            module.register_parameter(f"activation_{i}_zero", z)
            self._scale[i], self._zero[i] = p, z
            for name in names:
                if self.plan.integer.tensors[name].is_float if name in integer else True:
                    continue  # stays float between DEQUANTIZE and QUANTIZE
                module.hook_value(name, self._activation_hook(i, quant))
        for k, node in enumerate(self.layers):
            p = nn.Parameter(torch.zeros(len(self._start[node.name])))
            module.register_parameter(f"weight_{k}_scale", p)
            self._weight[node.name] = p
            start = torch.from_numpy(self._start[node.name].copy())
            self._starts[node.name] = start.to(next(module.parameters()).device)
            name = node.inputs[1] or ""
            shape = scale_shape(node, self._start[node.name])
            module.hook_constant(name, self._weight_hook(node.name, shape))

    def _activation_hook(self, i: int, quant: QuantParams) -> Hook:
        def hook(x: torch.Tensor) -> torch.Tensor:
            gain = 1.0 / math.sqrt(x.numel() * 127.0)
            s = quant.s * torch.exp(_slowed(self._scale[i], gain))
            zp = quant.zp + _ZERO_POINT_UNIT * _slowed(self._zero[i], gain)
            zp = rounded(torch.clamp(zp, -128, 127))
            q = torch.clamp(rounded(x / s) + zp, -128, 127)
            return (q - zp) * s

        return hook

    def _weight_hook(self, name: str, shape: tuple[int, ...]) -> Hook:
        qmax = QMAX[self.bits.get(name, 8)]

        def hook(w: torch.Tensor) -> torch.Tensor:
            s = self._weight_scale(name, w.numel() * qmax).reshape(shape)
            return torch.clamp(rounded(w / s), -qmax, qmax) * s

        return hook

    def _weight_scale(self, name: str, count: int = 0) -> torch.Tensor:
        p = self._weight[name]
        start = self._starts[name]
        value = _slowed(p, math.sqrt(p.numel() / count)) if count else p
        return start * torch.exp(value)

    # -- export ------------------------------------------------------------------------------------

    @torch.no_grad()
    def integer_graph(self) -> Graph:
        """The integer graph with the trained weights and quantizations."""
        module = self._module
        assert module is not None
        params = dict(self.plan.params)
        for i, (quant, names, learned) in enumerate(self.groups):
            if not learned:
                continue
            s = float((quant.s * torch.exp(self._scale[i])).cpu())
            z = float((quant.zp + _ZERO_POINT_UNIT * self._zero[i]).cpu())
            new = QuantParams.per_tensor(s, int(np.clip(np.rint(z), -128, 127)))
            params.update(dict.fromkeys(names, new))
        found = {}
        for node in self.layers:
            qmax = QMAX[self.bits.get(node.name, 8)]
            w = module.constant(node.inputs[1] or "")
            steps = self._weight_scale(node.name)
            shape = scale_shape(node, self._start[node.name])
            q = torch.clamp(torch.round(w / steps.reshape(shape)), -qmax, qmax)
            b = module.constant(module.base.node(node.name).inputs[2] or "")
            found[node.name] = IntegerWeights(
                q.cpu().numpy().astype(np.int8),
                steps.cpu().numpy(),
                b.double().cpu().numpy().reshape(-1),
            )
        out = with_weights(self.plan.with_params(params), found)
        low = sorted({b for b in self.bits.values() if b != 8})
        out.metadata["quantized"] = "edgekit quantization-aware int8" + (
            f", weights of {low[0]} bits" if low else ""
        )
        return out


def _slowed(p: torch.Tensor, gain: float) -> torch.Tensor:
    """``p`` with its gradient times ``gain`` (LSQ's gradient scale)."""
    return p * gain + (p - p * gain).detach()


def weight_bits(plan: Plan, bits: int, first_and_last: int = 8) -> dict[str, int]:
    """Bits of the weights by node: ``bits`` for all but the first and the last layer."""
    names = [n.name for n in integer_layers(plan)]
    if not names:
        raise InputError(f"'{plan.graph.name}' has no layers with weights that could be quantized")
    return {n: first_and_last if n in (names[0], names[-1]) else bits for n in names}


def qat(
    graph: Graph,
    objective: Callable[[Graph], Objective],
    data: TrainData,
    options: TrainOptions | None = None,
    *,
    quantize: QuantizeOptions | None = None,
    bits: int = 8,
    first_and_last: int = 8,
    work: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Graph, Trained]:
    """Train a float graph under int8 arithmetic; returns the integer graph and the run.

    objective: makes the objective for the graph that is trained (a lowered form of ``graph``), for
    example ``lambda g: Distillation(g, [teacher])``. bits: of the weights, 8 or 4 (stored in int8, or
    packed by :mod:`edgekit.compress.int4`). Runs in float32: bfloat16 has fewer digits than int8 needs.
    """
    for name, value in (("bits", bits), ("first_and_last", first_and_last)):
        if value not in (8, 4):
            raise InputError(f"{name} is {value!r}; 8 and 4 would be accepted")
    options = replace(options or TrainOptions(lr=5e-4), batch_norm=False, precision="float32")
    some = [np.asarray(a[:_CALIBRATION], np.float32) for a in data.inputs]
    plan = planned(graph, some, quantize or QuantizeOptions(observer="auto"), progress)
    steps = LearnedSteps(plan, weight_bits(plan, bits, first_and_last))
    run = train(plan.graph, data, objective(plan.graph), options, extensions=[steps], work=work,
                name="qat", progress=progress)  # fmt: skip
    return steps.integer_graph(), run
