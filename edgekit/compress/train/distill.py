"""Fine-tuning and distillation as functions: Graph -> Graph.

* :func:`fine_tune`: cross-entropy with labels.
* :func:`distill`: follow a teacher (Hinton et al., 2015), without labels or with them.
* :func:`born_again`: generations that learn from the one before (Furlanello et al., ICML 2018).
* :func:`snapshots`: one run with restarts, whose minima teach together (Huang et al., "Snapshot
  Ensembles", ICLR 2017).
* :func:`mutual`: two students that teach each other while they learn (Zhang et al., "Deep Mutual
  Learning", CVPR 2018).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgekit.compress.train.batches import Batch, TrainData
from edgekit.compress.train.capture import Capture
from edgekit.compress.train.masks import Masks, zeros_of
from edgekit.compress.train.module import TrainModule
from edgekit.compress.train.objectives import (
    CrossEntropy,
    Distillation,
    Objective,
    graph_key,
    heads,
    soft_loss,
)
from edgekit.compress.train.options import TrainOptions
from edgekit.compress.train.trainer import Extension, Trained, train
from edgekit.graph.ir import Graph

Progress = Callable[[str], None]


def _zeros(graph: Graph, keep_zeros: bool) -> list[Extension]:
    masks = zeros_of(graph) if keep_zeros else {}
    return [Masks(masks)] if masks else []


def fine_tune(
    graph: Graph,
    data: TrainData,
    options: TrainOptions | None = None,
    *,
    label_smoothing: float = 0.0,
    keep_zeros: bool = True,
    work: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train with labels. keep_zeros: weights that are exactly zero (pruned) stay so."""
    return train(graph, data, CrossEntropy(graph, label_smoothing), options,
                 extensions=_zeros(graph, keep_zeros), work=work, name="fine-tune",
                 progress=progress)  # fmt: skip


def distill(
    graph: Graph,
    teachers: Graph | Sequence[Graph],
    data: TrainData,
    options: TrainOptions | None = None,
    *,
    keep_zeros: bool = True,
    work: Path | None = None,
    progress: Progress | None = None,
    name: str = "distill",
    **loss: Any,
) -> Trained:
    """Train ``graph`` to say what the teachers say (the mean of their logits where there are several).

    loss: the options of :class:`.objectives.Distillation`: temperature, labels, hints, ...
    """
    several = [teachers] if isinstance(teachers, Graph) else list(teachers)
    return train(graph, data, Distillation(graph, several, **loss), options,
                 extensions=_zeros(graph, keep_zeros), work=work, name=name,
                 progress=progress)  # fmt: skip


def born_again(
    graph: Graph,
    teacher: Graph,
    data: TrainData,
    options: TrainOptions | None = None,
    *,
    generations: int = 2,
    work: Path | None = None,
    progress: Progress | None = None,
    **loss: Any,
) -> Trained:
    """Generation 1 learns from ``teacher``, each later one (from ``graph`` again) from the one before
    together with ``teacher``."""
    options = options or TrainOptions()
    result: Trained | None = None
    for k in range(generations):
        teachers = [teacher] if result is None else [result.graph, teacher]
        result = distill(graph, teachers, data, replace(options, seed=options.seed + k), work=work,
                         progress=progress, name=f"generation {k + 1}", **loss)  # fmt: skip
    assert result is not None
    return result


def _ends(options: TrainOptions) -> list[int]:
    """Numbers of steps after which the learning rate rises again, and the last."""
    rates = [options.rate(s) for s in range(options.steps)]
    warm = options.warmup * options.steps
    inner = [s + 1 for s in range(options.steps - 1) if s >= warm and rates[s + 1] > rates[s]]
    return [*inner, options.steps]


def snapshots(
    graph: Graph,
    objective: Objective,
    data: TrainData,
    options: TrainOptions | None = None,
    *,
    cycles: int = 3,
    work: Path | None = None,
    progress: Progress | None = None,
) -> list[Graph]:
    """``cycles`` networks from one run with cosine restarts; the last is the run's result. Their
    ensemble is a teacher: give the list to :func:`distill`."""
    options = replace(options or TrainOptions(), schedule="cyclic", cycles=cycles)
    capture = Capture(_ends(options))
    run = train(graph, data, objective, options, extensions=[capture], work=work,
                name="snapshots", progress=progress)  # fmt: skip
    return capture.graphs(run.module)


class _Peer(Objective):
    """A second network inside the objective: each follows the labels or the teacher, and the other."""

    def __init__(
        self, graph: Graph, own: Objective, peer_graph: Graph, peer: Objective, weight: float
    ) -> None:
        super().__init__()
        self.own, self.peer_objective, self.weight = own, peer, weight
        self.peer = TrainModule(peer_graph)
        self.heads, self.peer_heads = heads(graph), heads(peer_graph)
        self.needs_labels = own.needs_labels
        self._key = hashlib.sha256(f"{own.key()}{peer.key()}{graph_key(peer_graph)}".encode())
        self.watch = tuple(dict.fromkeys([*own.watch, *(n for n, _ in self.heads)]))

    def key(self) -> str:
        return f"mutual {self._key.hexdigest()} {self.weight}"

    def forward(self, batch: Batch, values: dict[str, torch.Tensor]) -> torch.Tensor:
        names = [*self.peer_objective.watch, *(n for n, _ in self.peer_heads)]
        others = self.peer.values(batch.inputs, names)
        loss = self.own(batch, values) + self.peer_objective(batch, others)
        for (a, kind), (b, _) in zip(self.heads, self.peer_heads, strict=True):
            loss = loss + self.weight * soft_loss(values[a], others[b].detach(), kind, 1.0)
            loss = loss + self.weight * soft_loss(others[b], values[a].detach(), kind, 1.0)
        return loss


def mutual(
    graph: Graph,
    peer: Graph,
    data: TrainData,
    options: TrainOptions | None = None,
    *,
    teacher: Graph | None = None,
    weight: float = 1.0,
    work: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train ``graph`` beside ``peer`` (a network for the same task, any size): each follows the
    teacher (or the labels, where there is no teacher) and the other one. The result is ``graph``'s."""

    def objective(g: Graph) -> Objective:
        return CrossEntropy(g) if teacher is None else Distillation(g, [teacher])

    both = _Peer(graph, objective(graph), peer, objective(peer), weight)
    return train(graph, data, both, options, work=work, name="mutual", progress=progress)
