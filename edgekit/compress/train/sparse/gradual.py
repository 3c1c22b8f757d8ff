"""Gradual magnitude pruning: Zhu & Gupta, "To prune, or not to prune", 2017.

Every few steps the smallest weights are masked so that the share of zeros follows
``s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (t1 - t0))^3``: fast while there is much to spare, slowly
towards the end. Masked weights stay masked.
"""

from __future__ import annotations

import numpy as np
import torch

from edgekit.compress.train.masks import Masks, lamp, largest, maskable, zeros_of
from edgekit.compress.train.module import TrainModule
from edgekit.errors import InputError
from edgekit.graph.ir import Graph


class Gradual(Masks):
    """Masks that close during a run of ``steps`` steps.

    keep: share of the maskable weights left at the end. begin, end: shares of the run between which
    the masks close; what remains is training at the final masks. every: steps between two changes.
    per_layer: the same share in each layer, or the smallest of all layers by LAMP score.
    """

    def __init__(
        self,
        graph: Graph,
        steps: int,
        keep: float,
        *,
        begin: float = 0.0,
        end: float = 0.7,
        every: int = 10,
        per_layer: bool = False,
    ) -> None:
        if not 0.0 < keep <= 1.0:
            raise InputError(f"the share of weights to keep is {keep}; accepted is (0, 1]")
        if not 0.0 <= begin < end <= 1.0:
            raise InputError(f"gradual pruning from {begin} to {end} of the run; 0 <= begin < end <= 1 "
                             "would be accepted")  # fmt: skip
        zeros = zeros_of(graph)
        names = maskable(graph)
        super().__init__({n: zeros.get(n, np.ones(graph.tensor(n).shape, bool)) for n in names})
        self.steps, self.keep, self.per_layer = steps, keep, per_layer
        self.first, self.last = round(begin * steps), max(1, round(end * steps))
        self.every = max(1, min(every, self.last - self.first))

    def settings(self) -> str:
        return f"{self.steps} {self.keep} {self.first} {self.last} {self.every} {self.per_layer}"

    def share(self, step: int) -> float:
        """Share of weights kept after ``step`` steps."""
        start = sum(int(m.sum()) for m in self.start.values()) / max(
            1, sum(m.size for m in self.start.values())
        )
        done = np.clip((step - self.first) / max(1, self.last - self.first), 0.0, 1.0)
        return float(self.keep + (start - self.keep) * (1.0 - done) ** 3)

    def after_step(self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer) -> None:
        step += 1
        due = step == self.last or (step < self.last and (step - self.first) % self.every == 0)
        if not due or step <= self.first:
            return
        with torch.no_grad():
            effective = {n: (module.constant(n) * self.mask(n)).cpu().numpy() for n in self.start}
        scores = {n: np.abs(w) if self.per_layer else lamp(w) for n, w in effective.items()}
        masks = largest(scores, min(1.0, self.share(step)), per_layer=self.per_layer)
        for name, mask in masks.items():
            kept = torch.from_numpy(mask).to(self.mask(name).device) & self.mask(name)
            self.set(module, optimizer, name, kept)
