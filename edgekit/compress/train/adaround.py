"""AdaRound: weights are rounded up or down so that each layer's *output* keeps its values.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020. Layer after
layer, on the inputs that the quantized layers before give, against the outputs of the float network
(the asymmetric form, behind the fused activation): a soft decision ``h(V)`` in [0, 1] for each weight
is moved by gradient descent while a regularizer pushes it to 0 or 1. Biases move along. Where the
hard decisions are no better than rounding to nearest on samples that the search has not seen, the
layer keeps those.

The result is the integer graph of post-training quantization with other integers in it: nothing else
changes, so every engine runs it bit for bit alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgekit.compress.ptq import Plan, QuantizeOptions, planned
from edgekit.compress.train.batches import as_float
from edgekit.compress.train.integer import (
    QMAX,
    IntegerWeights,
    fake_activation,
    float_weights,
    integer_layers,
    scale_shape,
    start_scale,
    with_weights,
)
from edgekit.compress.train.trainer import few_threads, work_of
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node
from edgekit.graph.to_torch.module import GraphModule, Step

Progress = Callable[[str], None]
_ZETA, _GAMMA = 1.1, -0.1
_CHUNK = 64


@dataclass(frozen=True)
class AdaRoundOptions:
    """iterations: of gradient descent a layer. batch: samples an iteration. bits: of the weights, 8 or
    4. first_and_last: bits of the first and the last layer (8: they are small and hurt most). lr: of
    the decisions. seed: of the batches."""

    iterations: int = 500
    batch: int = 32
    bits: int = 8
    first_and_last: int = 8
    lr: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("bits", "first_and_last"):
            if getattr(self, name) not in (8, 4):
                raise InputError(f"{name} is {getattr(self, name)!r}; 8 and 4 would be accepted")
        if self.iterations < 0 or self.batch < 1:
            raise InputError("iterations must be at least 0 and batch at least 1")


def adaround(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    quantize: QuantizeOptions | None = None,
    options: AdaRoundOptions | None = None,
    progress: Progress | None = None,
) -> Graph:
    """The int8 form of a float graph, with learned rounding.

    inputs: calibration samples as for :func:`edgekit.compress.quantize`; a fifth of them (at most 64)
    only judges. Memory: a few times the activations of all samples at one place of the network.
    """
    options = options or AdaRoundOptions()
    plan = planned(graph, inputs, quantize or QuantizeOptions(observer="auto"), progress)
    if not all(plan.graph.tensor(i).shape[:1] == (1,) for i in plan.graph.inputs):
        raise InputError(f"AdaRound runs samples together; '{graph.name}' has no sample axis")
    with few_threads(work_of(plan.graph) * options.batch):
        return _Rounding(plan, inputs, options, progress).run()


class _Rounding:
    """Walks the graph once with two values a tensor: the float network's, the quantized one's."""

    def __init__(
        self,
        plan: Plan,
        inputs: Sequence[np.ndarray],
        options: AdaRoundOptions,
        progress: Progress | None,
    ) -> None:
        self.plan, self.options, self.progress = plan, options, progress
        self.module = GraphModule(plan.graph)
        names = plan.graph.inputs
        self.exact = {n: as_float(a) for n, a in zip(names, inputs, strict=True)}
        self.coarse = {n: self._on_grid(n, v) for n, v in self.exact.items()}
        self.samples = len(inputs[0])
        self.judges = min(64, self.samples // 5)

    def _on_grid(self, name: str, value: torch.Tensor) -> torch.Tensor:
        quant = self.plan.params.get(name)
        return value if quant is None else fake_activation(value, quant)

    def run(self) -> Graph:
        g = self.plan.graph
        layers = {n.name: n for n in integer_layers(self.plan)}
        ends = {next(iter(layers), ""), next(reversed(layers), "")}
        last = {t: i for i, n in enumerate(g.nodes) for t in n.inputs if t is not None}
        found: dict[str, IntegerWeights] = {}
        for i, (node, step) in enumerate(zip(g.nodes, self.module._steps, strict=True)):
            exact = self._apply(node, step, self.exact, None)
            new = None
            if node.name in layers:
                if self.progress:
                    self.progress(f"rounding {node.name} ({len(found) + 1} of {len(layers)})")
                bits = self.options.first_and_last if node.name in ends else self.options.bits
                new = found[node.name] = self._round(node, step, exact[0], bits)
            coarse = self._apply(node, step, self.coarse, new)
            for k, name in enumerate(node.outputs):
                self.exact[name] = exact[k]
                self.coarse[name] = self._on_grid(name, coarse[k])
            for t in dict.fromkeys(node.inputs):
                if t is not None and last[t] == i:
                    self.exact.pop(t, None)
                    self.coarse.pop(t, None)
        out = with_weights(self.plan.integer, found)
        how = self.plan.integer.metadata.get("quantized", "edgekit post-training int8")
        out.metadata["quantized"] = f"{how}, AdaRound"
        return out

    def _ins(
        self, node: Node, values: dict[str, torch.Tensor], chosen: slice | torch.Tensor
    ) -> list[torch.Tensor | None]:
        out: list[torch.Tensor | None] = []
        for name in node.inputs:
            if name is None:
                out.append(None)
            elif name in values:
                v = values[name]
                out.append(v[chosen] if len(v) == self.samples else v)
            else:
                out.append(self.module.constant(name).detach())
        return out

    @torch.no_grad()
    def _apply(
        self, node: Node, step: Step, values: dict[str, torch.Tensor], new: IntegerWeights | None
    ) -> list[torch.Tensor]:
        parts = []
        for start in range(0, self.samples, _CHUNK):
            ins = self._ins(node, values, slice(start, start + _CHUNK))
            if new is not None:
                scale = new.scale.reshape(scale_shape(node, new.scale))
                ins[1:3] = as_float(new.values * scale), as_float(new.bias)
            parts.append(step(ins))
            if not any(i in values for i in node.inputs):
                return parts[0]  # the same for every sample
        return [torch.cat([p[k] for p in parts]) for k in range(len(node.outputs))]

    def _round(self, node: Node, step: Step, target: torch.Tensor, bits: int) -> IntegerWeights:
        w, b = float_weights(self.plan, node)
        scale, qmax = start_scale(self.plan, node, bits), QMAX[bits]
        shaped = as_float(scale.reshape(scale_shape(node, scale)))
        below = torch.floor(as_float(w) / shaped)
        rest = as_float(w) / shaped - below
        decision = torch.log((rest - _GAMMA) / (_ZETA - rest)).requires_grad_()
        spread = float(target.std()) or 1.0
        bias = as_float(b).clone().requires_grad_()  # in real units; its rate is in the layer's
        optimizer = torch.optim.Adam(
            [{"params": [decision], "lr": self.options.lr},
             {"params": [bias], "lr": 1e-4 * spread}]
        )  # fmt: skip
        train, judge = slice(0, self.samples - self.judges), slice(self.samples - self.judges, None)
        if not self.judges:
            judge = train
        nearest = torch.clamp(torch.round(as_float(w) / shaped), -qmax, qmax)
        corrected = as_float(b) + self._shift(
            node, step, target, nearest * shaped, as_float(b), train
        )
        base = self._error(node, step, target, nearest * shaped, corrected, judge)
        best = nearest, corrected, base
        weight = base / max(1, decision.numel())
        rng = np.random.default_rng([self.options.seed, decision.numel()])
        total = self.options.iterations
        for k in range(total):
            pick = torch.from_numpy(
                rng.integers(0, train.stop, min(self.options.batch, train.stop))
            )
            soft = torch.clamp(torch.sigmoid(decision) * (_ZETA - _GAMMA) + _GAMMA, 0, 1)
            value = torch.clamp(below + soft, -qmax, qmax) * shaped
            loss = self._loss(node, step, target, value, bias, pick)
            if k >= 0.2 * total:
                sharp = 2.0 + 18.0 * 0.5 * (1 + np.cos(np.pi * (k / total - 0.2) / 0.8))
                loss = loss + weight * (1 - (2 * soft - 1).abs() ** sharp).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            hard = torch.clamp(below + (decision >= 0), -qmax, qmax)
            moved = bias.detach()
            error = self._error(node, step, target, hard * shaped, moved, judge)
        if error < best[2]:
            best = hard, moved, error
        return IntegerWeights(best[0].numpy().astype(np.int8), scale,
                              best[1].double().numpy())  # fmt: skip

    def _out(
        self, node: Node, step: Step, weights: torch.Tensor, bias: torch.Tensor,
        chosen: slice | torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        ins = self._ins(node, self.coarse, chosen)
        ins[1:3] = weights, bias
        return step(ins)[0]

    def _loss(
        self, node: Node, step: Step, target: torch.Tensor, weights: torch.Tensor,
        bias: torch.Tensor, chosen: slice | torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Squared error, as a share of the target's variance."""
        out = self._out(node, step, weights, bias, chosen)
        return ((out - target[chosen]) ** 2).mean() / target.var().clamp_min(1e-12)

    @torch.no_grad()
    def _error(
        self, node: Node, step: Step, target: torch.Tensor, weights: torch.Tensor,
        bias: torch.Tensor, chosen: slice,
    ) -> float:  # fmt: skip
        parts, count = 0.0, 0
        for start in range(chosen.start or 0, chosen.stop or self.samples, _CHUNK):
            part = slice(start, min(start + _CHUNK, chosen.stop or self.samples))
            n = part.stop - part.start
            parts += float(self._loss(node, step, target, weights, bias, part)) * n
            count += n
        return parts / max(1, count)

    @torch.no_grad()
    def _shift(
        self, node: Node, step: Step, target: torch.Tensor, weights: torch.Tensor,
        bias: torch.Tensor, chosen: slice,
    ) -> torch.Tensor:  # fmt: skip
        """Mean error a channel that the bias can take back (bias correction)."""
        total, count = torch.zeros(target.shape[-1], dtype=torch.float64), 0
        for start in range(chosen.start or 0, chosen.stop or self.samples, _CHUNK):
            part = slice(start, min(start + _CHUNK, chosen.stop or self.samples))
            gap = (target[part] - self._out(node, step, weights, bias, part)).double()
            flat = gap.reshape(-1, gap.shape[-1])
            total += flat.sum(0)
            count += len(flat)
        return (total / max(1, count)).float()
