"""Masks: weights that stay zero. The one mechanism of everything sparse.

A mask travels between steps as the zeros of the weight tensors; :class:`Masks` holds them while a
network trains. Which weights are zero, and whether that changes on the way, is each method's own file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from edgekit.compress.train.module import Hook, TrainModule, weighted_nodes
from edgekit.compress.train.trainer import Extension
from edgekit.errors import InputError
from edgekit.graph.ir import Graph


def maskable(graph: Graph, *, ends: bool = False) -> list[str]:
    """Weight tensors that masks are for, in graph order. ends: also the last layer's, and those of
    fewer than 256 elements: a first layer, depthwise filters (cheap, and they hurt most)."""
    names = list(dict.fromkeys(n.inputs[1] or "" for n in weighted_nodes(graph)))
    if ends or len(names) < 3:
        return names
    return [n for n in names[:-1] if graph.tensor(n).elements >= 256] or names


def zeros_of(graph: Graph) -> dict[str, np.ndarray]:
    """Masks (True: kept) of the weight tensors that hold exact zeros."""
    out = {}
    for name in maskable(graph, ends=True):
        data = graph.tensor(name).data
        assert data is not None
        if not data.all():
            out[name] = data != 0
    return out


def sparsity(graph: Graph) -> float:
    """Share of zeros among the weights."""
    arrays = [graph.tensor(n).data for n in maskable(graph, ends=True)]
    total = sum(a.size for a in arrays if a is not None)
    return sum(int((a == 0).sum()) for a in arrays if a is not None) / max(1, total)


def masked(graph: Graph, masks: Mapping[str, np.ndarray]) -> Graph:
    """The graph with everything outside the masks set to zero."""
    g = graph.copy()
    for name, mask in masks.items():
        t = g.tensor(name)
        assert t.data is not None
        g.tensors[name] = t.with_(data=np.where(mask, t.data, 0).astype(t.dtype))
    return g


def largest(scores: Mapping[str, np.ndarray], keep: float, *, per_layer: bool = False,
            ) -> dict[str, np.ndarray]:  # fmt: skip
    """Masks of the ``keep`` share with the largest scores, of all layers together or of each.

    Every layer keeps at least one weight, so that none is cut through.
    """
    if not 0.0 < keep <= 1.0:
        raise InputError(f"the share of weights to keep is {keep}; accepted is a number in (0, 1]")
    if per_layer:
        return {k: _top(v, max(1, round(keep * v.size))) for k, v in scores.items()}
    flat = np.concatenate([v.ravel() for v in scores.values()])
    count = max(1, round(keep * flat.size))
    order = np.argsort(-flat, kind="stable")[:count]
    kept = np.zeros(flat.size, bool)
    kept[order] = True
    out, at = {}, 0
    for k, v in scores.items():
        mask = kept[at : at + v.size].reshape(v.shape)
        at += v.size
        out[k] = mask if mask.any() else _top(v, 1)
    return out


def _top(scores: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def lamp(weights: np.ndarray) -> np.ndarray:
    """Magnitudes that compare between layers of any scale: ``w^2`` over the sum of all squares of the
    layer that are not smaller (Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning",
    ICLR 2021)."""
    squares = weights.astype(np.float64).ravel() ** 2
    order = np.argsort(squares, kind="stable")
    above = np.cumsum(squares[order][::-1])[::-1]
    out = np.zeros(squares.size)
    out[order] = squares[order] / np.maximum(above, 1e-300)
    return out.reshape(weights.shape)


class Masks(Extension):
    """Holds masks during training; :meth:`set` changes one. Gradients outside are zero, and what the
    optimizer remembers of a weight that is switched on again is forgotten."""

    def __init__(self, masks: Mapping[str, np.ndarray]) -> None:
        self.start = {k: np.asarray(v, bool) for k, v in masks.items()}
        self._buffers: dict[str, torch.Tensor] = {}
        self._effective: dict[str, torch.Tensor] = {}
        self.watch_gradients = False

    def key(self) -> str:
        import hashlib

        h = hashlib.sha256()
        for k, v in sorted(self.start.items()):
            h.update(k.encode() + np.packbits(v).tobytes())
        return f"{type(self).__name__} {h.hexdigest()} {self.settings()}"

    def settings(self) -> str:
        """What a subclass depends on, as text."""
        return ""

    def attach(self, module: TrainModule) -> None:
        for i, (name, mask) in enumerate(self.start.items()):
            weight = module.constant(name)
            if tuple(weight.shape) != mask.shape:
                raise InputError(
                    f"the mask of '{name}' is {list(mask.shape)}; {list(weight.shape)} is needed"
                )
            module.register_buffer(f"mask_{i}", torch.from_numpy(mask.copy()).to(weight.device))
            self._buffers[name] = getattr(module, f"mask_{i}")
            module.hook_constant(name, self._hook(name))

    def _hook(self, name: str) -> Hook:
        def hook(weight: torch.Tensor) -> torch.Tensor:
            w = weight * self._buffers[name].to(weight.dtype)
            if self.watch_gradients and w.requires_grad:
                w.retain_grad()
                self._effective[name] = w
            return w

        return hook

    def mask(self, name: str) -> torch.Tensor:
        return self._buffers[name]

    def gradient(self, name: str) -> torch.Tensor:
        """The dense gradient, masked weights included (``watch_gradients`` was on)."""
        grad = self._effective[name].grad
        assert grad is not None
        return grad

    @torch.no_grad()
    def set(
        self, module: TrainModule, optimizer: torch.optim.Optimizer, name: str, mask: torch.Tensor
    ) -> None:
        """Change a mask: weights that were off start from zero, without momentum."""
        weight = module.constant(name)
        new = mask & ~self._buffers[name]
        weight[new] = 0.0
        for value in optimizer.state.get(weight, {}).values():
            if torch.is_tensor(value) and value.shape == weight.shape:
                value[new] = 0.0
        self._buffers[name].copy_(mask)

    def kept(self) -> dict[str, np.ndarray]:
        """The masks as they are now."""
        return {k: v.cpu().numpy().copy() for k, v in self._buffers.items()}
