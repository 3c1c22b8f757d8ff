"""Training under ternary and binary weights: what a layer multiplies has two to four values.

* ``ternary``: -a, 0, a, zero below 0.7 of the mean magnitude (Li et al., "Ternary Weight Networks", 2016).
* ``binary``: -a, a with a the mean magnitude (Rastegari et al., "XNOR-Net", ECCV 2016).
* ``dorefa``: four equally spaced values of tanh(w) (Zhou et al., "DoReFa-Net", 2016, with 2 bits); their
  scale is the least-squares one, where DoReFa leaves it to batch norm, which is folded here.
* ``abc``: two binary bases of shifted signs, with least-squares coefficients a layer (Lin et al.,
  "ABC-Net", NIPS 2017).

Scales are a channel's where the layer has scales a channel. Activations stay int8, with learned scales
(LSQ, see :mod:`.qat`), and so do the other layers' weights. The gradient passes straight through what makes
the values (Bengio et al., 2013). The integer graph holds the values as int8 codes; microcontroller kernels
read them as 1, 2 or 4 bits (``edgekit.compress.codebook`` says how).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from edgekit.compress.ptq import Plan, QuantizeOptions, planned
from edgekit.compress.train.batches import TrainData
from edgekit.compress.train.integer import IntegerWeights, integer_layers, with_weights
from edgekit.compress.train.module import WEIGHT_AXIS, Hook
from edgekit.compress.train.objectives import Objective
from edgekit.compress.train.options import TrainOptions
from edgekit.compress.train.qat import _CALIBRATION, LearnedSteps
from edgekit.compress.train.trainer import Trained, train
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

Kind = Literal["ternary", "binary", "dorefa", "abc"]
KINDS: tuple[Kind, ...] = ("ternary", "binary", "dorefa", "abc")
Progress = Callable[[str], None]

#: Ternary weights: the share of the mean magnitude below which they are zero.
_THRESHOLD = 0.7
_TINY = 1e-12


def few_values(rows: torch.Tensor, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    """``[C, n]`` float weights as (integer codes ``[C, n]``, scales ``[C, 1]``): values ``codes * scales``.

    Codes lie within -127..127; those of ``abc`` are a layer's two coefficients in its largest sum's
    steps of 127.
    """
    size = rows.abs()
    if kind == "ternary":
        codes = torch.sign(rows) * (size > _THRESHOLD * size.mean(1, keepdim=True))
        scale = (size * codes.abs()).sum(1, keepdim=True) / codes.abs().sum(1, keepdim=True).clamp(
            min=1
        )
    elif kind == "binary":
        codes = torch.where(rows >= 0, 1.0, -1.0)
        scale = size.mean(1, keepdim=True)
    elif kind == "dorefa":
        unit = torch.tanh(rows / size.mean().clamp(min=_TINY))
        top = unit.abs().amax(1, keepdim=True).clamp(min=_TINY)
        codes = 2 * torch.round(3 * (unit / (2 * top) + 0.5)) - 3
        scale = (rows * codes).sum(1, keepdim=True) / (codes * codes).sum(1, keepdim=True)
    else:
        return _two_bases(rows)
    return codes, scale.abs().clamp(min=_TINY)


def _two_bases(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """ABC-Net with two bases, sign(w - mean -+ std): coefficients for the whole layer, of weights in
    units of their channels' deviations."""
    spread = rows.std(1, keepdim=True, unbiased=False).clamp(min=_TINY)
    unit = rows / spread
    mean = unit.mean(1, keepdim=True)
    bases = [torch.where(unit - mean + shift >= 0, 1.0, -1.0) for shift in (-1.0, 1.0)]
    # the normal equations of two bases of signs: [[n, g], [g, n]]
    n, g = float(unit.numel()), (bases[0] * bases[1]).sum()
    first, second = ((x * unit).sum() for x in bases)
    det = (n * n - g * g).clamp(min=_TINY)
    a = torch.stack([n * first - g * second, n * second - g * first]) / det
    value = a[0] * bases[0] + a[1] * bases[1]
    step = a.abs().sum().clamp(min=_TINY) / 127.0
    return torch.round(value / step), step * spread


class FewBits(LearnedSteps):
    """:class:`LearnedSteps` with weights of few values in some layers.

    layers: names of nodes; the others have int8 weights.
    """

    def __init__(self, plan: Plan, kind: Kind, layers: Collection[str]) -> None:
        super().__init__(plan, {})
        self.kind: Kind = kind
        self.few = [n for n in self.layers if n.name in set(layers)]

    def key(self) -> str:
        return f"FewBits {self.kind} {sorted(n.name for n in self.few)} {super().key()}"

    def _rows(self, name: str, w: torch.Tensor) -> torch.Tensor:
        """The weights, a row a scale."""
        axis = WEIGHT_AXIS[self.plan.graph.node(name).type]
        if len(self._start[name]) == 1:
            return w.reshape(1, -1)
        return torch.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)

    def _back(self, name: str, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        axis = WEIGHT_AXIS[self.plan.graph.node(name).type]
        if len(self._start[name]) == 1:
            return rows.reshape(like.shape)
        moved = torch.moveaxis(like, axis, 0).shape
        return torch.moveaxis(rows.reshape(moved), 0, axis)

    def _weight_hook(self, name: str, shape: tuple[int, ...]) -> Hook:
        if name not in {n.name for n in self.few}:
            return super()._weight_hook(name, shape)

        def hook(w: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                codes, scale = few_values(self._rows(name, w), self.kind)
                value = self._back(name, codes * scale, w)
            return w + (value - w).detach()

        return hook

    @torch.no_grad()
    def integer_graph(self) -> Graph:
        out = super().integer_graph()
        module = self._module
        assert module is not None
        found = {}
        for node in self.few:
            w = module.constant(node.inputs[1] or "")
            codes, scale = few_values(self._rows(node.name, w), self.kind)
            b = module.constant(module.base.node(node.name).inputs[2] or "")
            found[node.name] = IntegerWeights(
                self._back(node.name, codes, w).cpu().numpy().astype(np.int8),
                scale.reshape(-1).cpu().numpy().astype(np.float32),
                b.double().cpu().numpy().reshape(-1),
            )
        out = with_weights(out, found)
        out.metadata["quantized"] = f"edgekit quantization-aware int8, {self.kind} weights"
        return out


def few_bits(
    graph: Graph,
    objective: Callable[[Graph], Objective],
    data: TrainData,
    kind: Kind,
    options: TrainOptions | None = None,
    *,
    layers: Collection[str] | None = None,
    quantize: QuantizeOptions | None = None,
    work: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Graph, Trained]:
    """Train a float graph with weights of few values; returns the integer graph and the run.

    layers: nodes (of the graph as it is lowered) that get them; None: all but the first, the last and
    depthwise ones, which bear it badly. Otherwise as :func:`edgekit.compress.train.qat.qat`.
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; {', '.join(KINDS)} would be accepted")
    options = replace(options or TrainOptions(lr=5e-4), batch_norm=False, precision="float32")
    some = [np.asarray(a[:_CALIBRATION], np.float32) for a in data.inputs]
    plan = planned(graph, some, quantize or QuantizeOptions(observer="auto"), progress)
    names = [n.name for n in integer_layers(plan)]
    if layers is None:
        kinds = {n.name: n.type for n in plan.graph.nodes}
        layers = [n for n in names[1:-1] if kinds[n] != "DEPTHWISE_CONV_2D"]
    for name in layers:
        if name not in names:
            raise InputError(f"'{name}' is no layer with integer weights of its own")
    if not layers:
        raise InputError(
            f"'{graph.name}' has no layers between the first and the last to make {kind}"
        )
    steps = FewBits(plan, kind, layers)
    run = train(plan.graph, data, objective(plan.graph), options, extensions=[steps], work=work,
                name="few-bits", progress=progress)  # fmt: skip
    return steps.integer_graph(), run
