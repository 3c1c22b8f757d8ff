"""Sparse training whose layers exchange weights: how many each has is found while it trains.

* Sparse momentum: Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster Training without
  Losing Performance", 2019. The smallest weights of every layer go; what a layer gets back is
  proportional to the mean size of the momentum of its weights, and goes to the missing weights with the
  largest momentum.
* Dynamic sparse reparameterization: Mostafa & Wang, ICML 2019. All weights below one threshold go,
  which doubles or halves to keep their number near its aim; random ones grow, in each layer in
  proportion to the weights that have survived there.

Magnitudes are compared between layers relative to the root mean square that each began with: weights come
in whatever units the network's inputs have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from edgekit.compress.train.masks import Masks
from edgekit.compress.train.module import TrainModule
from edgekit.errors import InputError

Method = Literal["momentum", "dsr"]
_SALT = 78
#: Smoothing of gradients, and how far the number of pruned weights may be off before the threshold moves.
_DECAY, _SLACK = 0.9, 0.1


def apportion(weights: np.ndarray, total: int, room: np.ndarray) -> np.ndarray:
    """``total`` in whole shares proportional to ``weights``, none above ``room``; what does not fit goes
    to the others. int ``[layers]``; sums to ``min(total, room.sum())``."""
    room = np.asarray(room, np.int64)
    out = np.zeros(len(room), np.int64)
    total = min(total, int(room.sum()))
    w = np.maximum(np.asarray(weights, float), 0.0)
    while (left := total - int(out.sum())) > 0:
        open_ = out < room
        share = np.where(open_, w, 0.0)
        if not share.sum() > 0:
            share = np.where(open_, 1.0, 0.0)
        raw = left * share / share.sum()
        add = np.minimum(np.floor(raw).astype(np.int64), room - out)
        if not add.any():  # fewer left than layers: the largest fractions first
            for i in np.argsort(-np.where(open_, raw, -1.0), kind="stable")[:left]:
                add[i] = min(1, int(room[i] - out[i]))
        out += add
    return out


class Redistributing(Masks):
    """Masks that move between layers; their total number stays. share: of all weights that move at once
    (for "momentum" it falls to zero along a cosine). every: steps between two changes; until: share of
    the run after which nothing moves."""

    def __init__(
        self,
        masks: Mapping[str, np.ndarray],
        steps: int,
        *,
        method: Method = "momentum",
        share: float = 0.3,
        every: int = 100,
        until: float = 0.75,
        seed: int = 0,
    ) -> None:
        super().__init__(masks)
        if not 0.0 < share < 1.0 or every < 1:
            raise InputError("share must be in (0, 1) and every at least 1")
        self.steps, self.method, self.share = steps, method, share
        self.every, self.end, self.seed = every, until * steps, seed
        self.watch_gradients = method == "momentum"

    def settings(self) -> str:
        return f"{self.steps} {self.method} {self.share} {self.every} {self.end} {self.seed}"

    def attach(self, module: TrainModule) -> None:
        super().attach(module)
        device = next(module.parameters()).device
        self._unit: dict[str, float] = {}
        self._momentum: dict[str, torch.Tensor] = {}
        for i, name in enumerate(self.start):
            w = module.constant(name).detach()
            self._unit[name] = max(float(w[self.mask(name)].pow(2).mean().sqrt()), 1e-30)
            if self.method == "momentum":
                module.register_buffer(f"momentum_{i}", torch.zeros_like(w))
                self._momentum[name] = getattr(module, f"momentum_{i}")
        module.register_buffer("threshold", torch.zeros((), dtype=torch.float64, device=device))
        self._threshold: torch.Tensor = module.get_buffer("threshold")

    @torch.no_grad()
    def after_backward(
        self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer
    ) -> None:
        for name, kept in self._momentum.items():
            kept.mul_(_DECAY).add_(self.gradient(name), alpha=1.0 - _DECAY)
        self._effective.clear()

    @torch.no_grad()
    def after_step(self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer) -> None:
        if not (0 < step + 1 < self.end and (step + 1) % self.every == 0):
            return
        before = {n: self.mask(n).clone() for n in self.start}
        if self.method == "momentum":
            new, pruned, weights = self._prune_smallest(module, step)
        else:
            new, pruned, weights = self._prune_below(module)
        room = np.array([int((~m).sum()) for m in new.values()])
        counts = apportion(np.array(weights), pruned, room)
        for i, (name, mask) in enumerate(new.items()):
            flat = mask.reshape(-1)
            if self.method == "momentum":
                value = self._momentum[name].abs().reshape(-1)
            else:
                rng = np.random.default_rng([self.seed, _SALT, step, i])
                value = torch.from_numpy(rng.random(flat.numel())).to(flat.device)
            # what has just gone does not come back at once where there is anything else
            value = torch.where(before[name].reshape(-1), -torch.ones_like(value), value)
            value = torch.where(flat, torch.full_like(value, -torch.inf), value)
            order = torch.argsort(value, descending=True, stable=True)
            flat[order[: int(counts[i])]] = True
            self.set(module, optimizer, name, flat.reshape(before[name].shape))

    def _prune_smallest(
        self, module: TrainModule, step: int
    ) -> tuple[dict[str, torch.Tensor], int, list[float]]:
        share = self.share * 0.5 * (1.0 + math.cos(math.pi * (step + 1) / self.end))
        new, pruned, weights = {}, 0, []
        for name in self.start:
            mask = self.mask(name).clone()
            size, momentum = module.constant(name).abs(), self._momentum[name].abs()
            # gradients are in units of loss / weight: relative to the layer's own scale
            weights.append(float(momentum[mask].mean()) * self._unit[name])
            count = min(int(share * int(mask.sum())), int(mask.sum()) - 1)
            order = torch.argsort(torch.where(mask, size, torch.inf).reshape(-1), stable=True)
            mask.reshape(-1)[order[:count]] = False
            new[name] = mask
            pruned += count
        return new, pruned, weights

    def _prune_below(self, module: TrainModule) -> tuple[dict[str, torch.Tensor], int, list[float]]:
        sizes = {n: module.constant(n).abs() / self._unit[n] for n in self.start}
        kept = torch.cat([sizes[n][self.mask(n)] for n in self.start])
        aim = max(1, int(self.share * kept.numel()))
        if float(self._threshold) == 0.0:
            self._threshold.fill_(float(torch.sort(kept).values[aim - 1]))
        threshold = float(self._threshold)
        new, pruned, weights = {}, 0, []
        for name, size in sizes.items():
            old = self.mask(name)
            mask = old & (size > threshold)
            if not bool(mask.any()):  # no layer is cut through
                best = torch.argmax(torch.where(old, size, -1.0).reshape(-1))
                mask.reshape(-1)[best] = True
            pruned += int(old.sum()) - int(mask.sum())
            weights.append(float(mask.sum()))
            new[name] = mask
        if pruned > (1.0 + _SLACK) * aim:
            self._threshold.mul_(0.5)
        elif pruned < (1.0 - _SLACK) * aim:
            self._threshold.mul_(2.0)
        return new, pruned, weights
