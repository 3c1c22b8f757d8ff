"""Sparse training with moving masks: some weights are dropped and as many grown, again and again.

* SET: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
  connectivity", Nature Communications 2018: the smallest weights go, random ones come.
* RigL: Evci et al., "Rigging the Lottery", ICML 2020: those with the largest gradient come; the share
  that moves falls to zero along a cosine.

The number of weights of each layer stays what it was at the start (:func:`erdos_renyi`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from edgekit.compress.train.masks import Masks, maskable
from edgekit.compress.train.module import TrainModule
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

_SALT = 77


def erdos_renyi(graph: Graph, keep: float, seed: int = 0) -> dict[str, np.ndarray]:
    """Random masks, small layers denser: a layer's share is proportional to (sum of the sizes of its
    axes) / (their product), at most 1 (Erdos-Renyi-Kernel of the RigL paper)."""
    if not 0.0 < keep <= 1.0:
        raise InputError(f"the share of weights to keep is {keep}; accepted is a number in (0, 1]")
    shapes = {n: graph.tensor(n).shape for n in maskable(graph)}
    raw = {n: sum(s) / math.prod(s) for n, s in shapes.items()}
    full: set[str] = set()
    wanted = keep * sum(math.prod(s) for s in shapes.values())
    while True:
        rest = [n for n in shapes if n not in full]
        left = wanted - sum(math.prod(shapes[n]) for n in full)
        factor = left / max(1e-12, sum(raw[n] * math.prod(shapes[n]) for n in rest))
        more = {n for n in rest if raw[n] * factor >= 1.0}
        if not more:
            break
        full |= more
    out = {}
    for i, (n, shape) in enumerate(shapes.items()):
        size = math.prod(shape)
        count = size if n in full else max(1, round(raw[n] * factor * size))
        mask = np.zeros(size, bool)
        mask[np.random.default_rng([seed, _SALT, i]).permutation(size)[:count]] = True
        out[n] = mask.reshape(shape)
    return out


class Dynamic(Masks):
    """Masks that move. grow: "gradient" (RigL) or "random" (SET). share: of a layer's weights that move
    at once. every: steps between two changes; until: share of the run after which nothing moves."""

    def __init__(
        self,
        masks: Mapping[str, np.ndarray],
        steps: int,
        *,
        grow: Literal["gradient", "random"] = "gradient",
        share: float = 0.3,
        every: int = 100,
        until: float = 0.75,
        seed: int = 0,
    ) -> None:
        super().__init__(masks)
        if not 0.0 < share < 1.0 or every < 1:
            raise InputError("share must be in (0, 1) and every at least 1")
        self.steps, self.grow, self.share = steps, grow, share
        self.every, self.end, self.seed = every, until * steps, seed

    def settings(self) -> str:
        return f"{self.steps} {self.grow} {self.share} {self.every} {self.end} {self.seed}"

    def _due(self, step: int) -> bool:
        return 0 < step + 1 < self.end and (step + 1) % self.every == 0

    def after_backward(
        self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer
    ) -> None:
        if self.watch_gradients and self._due(step):
            self._gradients = {n: self.gradient(n).detach().abs() for n in self.start}
        # the forward of the next step keeps dense gradients only if they will be used
        self.watch_gradients = self.grow == "gradient" and self._due(step + 1)
        self._effective.clear()

    def attach(self, module: TrainModule) -> None:
        super().attach(module)
        self.watch_gradients = self.grow == "gradient"  # also for a run that continues right here

    @torch.no_grad()
    def after_step(self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer) -> None:
        if not self._due(step):
            return
        share = self.share
        if self.grow == "gradient":
            share *= 0.5 * (1.0 + math.cos(math.pi * (step + 1) / self.end))
        for i, name in enumerate(self.start):
            mask = self.mask(name).reshape(-1)
            count = min(int(share * int(mask.sum())), int((~mask).sum()))
            if count < 1:
                continue
            size = module.constant(name).abs().reshape(-1)
            order = torch.argsort(torch.where(mask, size, torch.inf), stable=True)
            new = mask.clone()
            new[order[:count]] = False
            if self.grow == "gradient":
                value = self._gradients[name].reshape(-1)
            else:
                rng = np.random.default_rng([self.seed, _SALT, step, i])
                value = torch.from_numpy(rng.random(mask.numel())).to(mask.device)
            order = torch.argsort(
                torch.where(mask, -torch.inf, value), descending=True, stable=True
            )
            new[order[:count]] = True
            self.set(module, optimizer, name, new.reshape(self.mask(name).shape))
