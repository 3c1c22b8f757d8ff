"""Networks as they were at chosen steps of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgekit.compress.train.module import TrainModule
from edgekit.compress.train.trainer import Extension
from edgekit.graph.ir import Graph


class Capture(Extension):
    """Keeps the network after each of the given numbers of steps, in buffers of the module (so that a
    resumed run has them too)."""

    def __init__(self, after: Sequence[int]) -> None:
        self.after = list(after)
        self._names: list[str] = []

    def key(self) -> str:
        return f"Capture {self.after}"

    def attach(self, module: TrainModule) -> None:
        state = module.state_dict()
        self._names = list(state)
        for k in range(len(self.after)):
            for i, name in enumerate(self._names):
                module.register_buffer(f"captured_{k}_{i}", state[name].detach().clone())

    def after_step(self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer) -> None:
        if step + 1 in self.after:
            k, state = self.after.index(step + 1), module.state_dict()
            for i, name in enumerate(self._names):
                state[f"captured_{k}_{i}"].copy_(state[name])

    def graphs(self, module: TrainModule) -> list[Graph]:
        """The captured networks, in order."""
        here = {k: v.clone() for k, v in module.state_dict().items()}
        out = []
        for k in range(len(self.after)):
            kept = {n: here[f"captured_{k}_{i}"] for i, n in enumerate(self._names)}
            module.load_state_dict({**here, **kept})
            out.append(module.eval().finished())
        module.load_state_dict(here)
        return out
