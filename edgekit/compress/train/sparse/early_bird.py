"""Early-bird tickets: You et al., "Drawing Early-Bird Tickets", ICLR 2020.

Which *channels* matter, by the factors of batch norm, is decided long before training has ended. While
the dense network trains, the mask of the ``keep`` share of channels with the largest ``|gamma|`` is
drawn now and then; when it has stopped moving (its Hamming distance to each of the last few is below
a bound), that is the ticket. Channels are cut in groups, so the ticket really is a smaller network.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edgekit.compress.groups import cut, find_groups
from edgekit.compress.train.batches import TrainData
from edgekit.compress.train.module import BatchNorm, TrainModule
from edgekit.compress.train.objectives import Objective
from edgekit.compress.train.options import TrainOptions
from edgekit.compress.train.trainer import Extension, train
from edgekit.errors import InputError
from edgekit.graph.ir import Graph


class MaskDistance(Extension):
    """Draws channel masks of all groups every ``every`` steps. Its record is kept in buffers."""

    def __init__(
        self, graph: Graph, steps: int, keep: float, *, every: int, window: int, bound: float,
        multiple: int = 1,
    ) -> None:  # fmt: skip
        if not 0.0 < keep < 1.0:
            raise InputError(f"the share of channels to keep is {keep}; accepted is (0, 1)")
        self.groups = find_groups(graph)
        if not len(self.groups):
            raise InputError(f"'{graph.name}' has no channels that could be cut")
        self.keep, self.every, self.multiple = keep, max(1, every), multiple
        self.draws = max(1, steps // self.every)
        self.window, self.bound = window, bound
        self.units = sum(g.units for g in self.groups)

    def key(self) -> str:
        settings = (self.keep, self.every, self.draws, self.multiple, self.window, self.bound)
        return f"MaskDistance {settings}"

    def attach(self, module: TrainModule) -> None:
        if not module.norms:
            raise InputError("early-bird tickets need batch norm; the network bears none")
        self._start = self._factors(module)
        module.register_buffer("drawn", torch.zeros(self.draws, self.units, dtype=torch.bool))

    def _factors(self, module: TrainModule) -> dict[str, np.ndarray]:
        """``|gamma|`` by the tensor that the normalized layer makes in the base graph."""
        made = {n.inputs[1]: n.outputs[0] for n in module.base.nodes if len(n.inputs) > 1}
        out = {}
        for key, (weight, _, _) in module._norm_of.items():
            norm = module.norms[key]
            assert isinstance(norm, BatchNorm)
            out[made[weight]] = norm.gamma.detach().abs().cpu().double().numpy()
        return out

    def after_step(self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer) -> None:
        k = (step + 1) // self.every
        if (step + 1) % self.every == 0 and k <= self.draws:
            drawn = module.drawn
            assert isinstance(drawn, torch.Tensor)
            drawn[k - 1] = torch.from_numpy(np.concatenate(list(self.draw(module).values())))

    def settled(self, module: TrainModule) -> int | None:
        """The first draw that is near to each of the ``window`` before it, or None."""
        drawn = module.drawn
        assert isinstance(drawn, torch.Tensor)
        d = drawn.cpu().numpy()
        for k in range(self.window, len(d)):
            if not d[k].any():
                return None
            if all((d[k] != d[k - j]).mean() < self.bound for j in range(1, self.window + 1)):
                return k
        return None

    def finished(self, module: TrainModule) -> bool:
        return self.settled(module) is not None

    def draw(self, module: TrainModule) -> dict[str, np.ndarray]:
        """Masks over the units of each group: the largest factors, relative to a group's mean."""
        factors = {k: v / max(float(self._start[k].mean()), 1e-30)
                   for k, v in self._factors(module).items()}  # fmt: skip
        scores = {}
        for g in self.groups:
            known = [
                factors[t][index].mean(axis=1) for t, index in g.tensors.items() if t in factors
            ]
            scores[g.name] = np.mean(known, axis=0) if known else np.full(g.units, np.inf)
        flat = np.concatenate(list(scores.values()))
        bound = np.sort(flat)[::-1][max(0, round(self.keep * len(flat)) - 1)]
        out = {}
        for name, s in scores.items():
            count = int((s >= bound).sum())
            count = min(len(s), max(self.multiple, -(-count // self.multiple) * self.multiple))
            mask = np.zeros(len(s), bool)
            mask[np.argsort(-s, kind="stable")[:count]] = True
            out[name] = mask
        return out


@dataclass(frozen=True, eq=False)
class EarlyBird:
    """graph: the network with the ticket's channels only, weights of the step it was drawn at. step:
    when the masks had settled (None: not before the end). distances: between neighbouring draws."""

    graph: Graph
    step: int | None
    distances: tuple[float, ...]
    masks: dict[str, np.ndarray]


def early_bird(
    initial: Graph,
    objective: Objective,
    data: TrainData,
    options: TrainOptions,
    *,
    keep: float,
    every: int = 50,
    window: int = 3,
    bound: float = 0.1,
    multiple: int = 1,
    work: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> EarlyBird:
    """Train ``initial`` until its channel mask has settled, and cut it out; train the result on with
    any of the other functions.

    options: of the whole dense run that is cut short. bound: largest distance (share of all units) to
    each of the ``window`` draws before. multiple: channel counts a group keeps are multiples of it.
    """
    watcher = MaskDistance(initial, options.steps, keep, every=every, window=window, bound=bound,
                           multiple=multiple)  # fmt: skip
    run = train(initial, data, objective, options, extensions=[watcher], work=work,
                name="early bird", progress=progress)  # fmt: skip
    drawn = run.module.drawn
    assert isinstance(drawn, torch.Tensor)
    settled = watcher.settled(run.module)
    d = drawn.cpu().numpy()[: watcher.draws if settled is None else settled + 1]
    gaps = tuple(float((a != b).mean()) for a, b in itertools.pairwise(d))
    masks, at = {}, 0
    for g in watcher.groups:
        masks[g.name] = d[-1][at : at + g.units].copy()
        at += g.units
    if not d[-1].any():
        masks = watcher.draw(run.module)
    step = None if settled is None else (settled + 1) * every
    return EarlyBird(cut(find_groups(run.graph), masks), step, gaps, masks)
