"""Lottery tickets: magnitude pruning with rewinding.

Frankle & Carbin, "The Lottery Ticket Hypothesis", ICLR 2019 (rewind to initialization); Frankle et
al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020 (rewind to an early
step); Renda et al., ICLR 2020 (keep the weights, rewind the learning rate). Train, drop the smallest
weights, go back, train again with the masks; several rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from edgekit.compress.train.batches import TrainData
from edgekit.compress.train.capture import Capture
from edgekit.compress.train.init import reinitialize
from edgekit.compress.train.masks import Masks, lamp, largest, maskable, masked
from edgekit.compress.train.objectives import Objective
from edgekit.compress.train.options import TrainOptions
from edgekit.compress.train.trainer import train
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

Rewind = Literal["start", "early", "learning-rate", "fresh"]


@dataclass(frozen=True, eq=False)
class Ticket:
    """graph: trained, with zeros outside masks. start: where the last round began. masks: the ticket."""

    graph: Graph
    start: Graph
    masks: dict[str, np.ndarray]


def lottery(
    initial: Graph,
    objective: Callable[[Graph], Objective],
    data: TrainData,
    options: TrainOptions,
    *,
    keep: float,
    rounds: int = 3,
    rewind: Rewind = "early",
    early: float = 0.05,
    per_layer: bool = False,
    work: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Ticket:
    """Find a ticket of the ``keep`` share of the weights in ``rounds`` rounds of equal shares.

    initial: the network before training. Each round trains for ``options.steps`` steps. rewind: "start"
    to ``initial``; "early" to where the first run was after the ``early`` share of its steps;
    "learning-rate" keeps the weights; "fresh" draws new ones for the found masks (the control).
    """
    if rounds < 1 or not 0.0 < keep <= 1.0:
        raise InputError(f"keep is {keep} and rounds {rounds}; keep in (0, 1] and 1 round or more "
                         "would be accepted")  # fmt: skip
    capture = Capture([max(1, round(early * options.steps))])
    run = train(initial, data, objective(initial), options, extensions=[capture], work=work,
                name="lottery dense", progress=progress)  # fmt: skip
    rewound = capture.graphs(run.module)[0] if rewind == "early" else initial
    masks = {n: np.ones(initial.tensor(n).shape, bool) for n in maskable(initial)}
    graph, start = run.graph, rewound
    for k in range(1, rounds + 1):
        weights = {}
        for n in masks:
            w = masked(graph, masks).tensor(n).data
            assert w is not None
            weights[n] = w
        scores = {n: np.abs(w) if per_layer else lamp(w) for n, w in weights.items()}
        masks = largest(scores, keep ** (k / rounds), per_layer=per_layer)
        start = rewound
        if rewind == "learning-rate":
            start = graph
        elif rewind == "fresh":
            start = reinitialize(initial, data.inputs, options.seed + 1000 + k)
        start = masked(start, masks)
        graph = train(start, data, objective(start), replace(options, seed=options.seed + k),
                      extensions=[Masks(masks)], work=work, name=f"lottery round {k}",
                      progress=progress).graph  # fmt: skip
    return Ticket(graph, start, masks)
