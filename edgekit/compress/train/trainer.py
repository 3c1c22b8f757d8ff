"""Graph -> torch -> trained -> Graph.

*Repeatable.* Order and augmentation are functions of (seed, step), so a run that was killed and
resumed from its checkpoint gives, on the same machine, the same bits as one that was not.

*One learning rate for all networks.* Weights come folded, in whatever units the network's inputs
have: a first layer that reads pixels 0..255 has weights a hundred times smaller than one that reads
0..1. Each parameter therefore has a scale of its own (of weights: their root mean square over that of
He's initialization; of batch norm: its gamma), and the optimizer works on parameter / scale. With
AdamW this is exactly a learning rate times the scale.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgekit.compress.train import checkpoint
from edgekit.compress.train.batches import Batches, TrainData, as_float, in_batches
from edgekit.compress.train.module import WEIGHT_AXIS, BatchNorm, TrainModule
from edgekit.compress.train.objectives import Objective, graph_key
from edgekit.compress.train.options import TrainOptions
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs

Progress = Callable[[str], None]
#: Multiply-accumulates of a batch from which bfloat16 pays on a processor that has it natively.
_BF16_MACS = 100_000_000
#: Multiply-accumulates of a batch from which more than one thread pays.
_THREADED_MACS = 50_000_000
#: Samples whose statistics start the batch norms.
_MEASURED = 1024
_SECONDS_BETWEEN = 30.0


class Diverged(InputError):
    """The loss became infinite or NaN. ``graph``: the network at the last good checkpoint or start."""

    graph: Graph | None = None


class Extension:
    """Something that takes part in training: masks, fake quantization. Its state lives in buffers or
    parameters that it registers on the module, so that checkpoints hold it."""

    def key(self) -> str:
        return type(self).__name__

    def attach(self, module: TrainModule) -> None:
        """Before the optimizer is made: hooks, buffers, parameters."""

    def after_backward(
        self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Gradients are there; the optimizer has not moved yet."""

    def after_step(self, module: TrainModule, step: int, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer has moved."""

    def scales(self, module: TrainModule) -> dict[int, float]:
        """Scales of parameters of its own, by ``id``."""
        return {}

    def finished(self, module: TrainModule) -> bool:
        """True ends the run before its last step. A function of the module's state alone."""
        return False

    def finish(self, graph: Graph) -> Graph:
        """The trained graph, as this extension wants it."""
        return graph


@dataclass(frozen=True, eq=False)
class Trained:
    """graph: the result. loss: (step, mean loss since the entry before). precision: what was used.
    resumed: the step that a checkpoint continued from (0: none). seconds: of this process."""

    graph: Graph
    loss: tuple[tuple[int, float], ...]
    precision: str
    resumed: int
    seconds: float
    module: TrainModule = field(repr=False)


def train(
    graph: Graph,
    data: TrainData,
    objective: Objective,
    options: TrainOptions | None = None,
    *,
    extensions: Sequence[Extension] = (),
    work: Path | None = None,
    name: str = "training",
    progress: Progress | None = None,
) -> Trained:
    """Train the float constants of ``graph``; the graph itself is not changed.

    work: folder for checkpoints (made where it is missing). A checkpoint belongs to one set of graph,
    data, options, objective and extensions; another set starts afresh beside it. A finished run's
    checkpoint gives its result again at once. Raises InputError for data that does not fit, labels
    out of range, no GPU where one is asked for; :class:`Diverged` when the loss is not finite.
    """
    options = options or TrainOptions()
    _check(graph, data, objective, options)
    device = torch.device(options.device)
    module = TrainModule(graph, batch_norm=options.batch_norm).to(device)
    batches = Batches(data, options)
    module.eval()
    first = [a[: min(len(data), _MEASURED)] for a in data.inputs]
    module.measure([as_float(a).to(device) for a in part] for part in in_batches(first, 64))
    objective.to(device)
    for e in extensions:
        e.attach(module)
    precision = choose_precision(graph, options, batches.size)
    scales = _scales(module)
    for other in objective.modules():
        if isinstance(other, TrainModule):
            scales.update(_scales(other))
    for e in extensions:
        scales.update(e.scales(module))
    optimizer = _optimizer(module, objective, options, scales)
    path = None
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    key = _key(graph, data, objective, options, extensions)
    if options.variants:
        objective.remember(work, batches.key(precision))
    if work is not None:
        path = work / f"{name.replace(' ', '-')}-{key[:16]}.ckpt"
    run = _Run(module, objective, optimizer, options, batches, precision, extensions, path, key, name,
               progress)  # fmt: skip
    started = time.monotonic()
    with _repeatable(device, work_of(graph) * batches.size):
        run.go()
    module.eval()
    result = module.finished()
    for e in extensions:
        result = e.finish(result)
    return Trained(
        result, tuple(run.losses), precision, run.resumed,
        time.monotonic() - started, module,
    )  # fmt: skip


def choose_precision(graph: Graph, options: TrainOptions, batch: int) -> str:
    """ "float32" or "bfloat16" for ``options.precision``."""
    if options.precision != "auto":
        return options.precision
    if work_of(graph) * batch < _BF16_MACS:
        return "float32"
    if options.device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    native = any(
        bool(getattr(torch.cpu, name, lambda: False)())
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    )
    return "bfloat16" if native else "float32"


def _check(graph: Graph, data: TrainData, objective: Objective, options: TrainOptions) -> None:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda' and torch finds no GPU here; 'cpu' would be accepted")
    if len(data.inputs) != len(graph.inputs):
        raise InputError(
            f"the training data has {len(data.inputs)} arrays; '{graph.name}' takes "
            f"{len(graph.inputs)} inputs"
        )
    if objective.needs_labels:
        if data.labels is None:
            raise InputError("training with labels needs labels; the data has none")
        classes = graph.tensor(graph.outputs[0]).elements
        watched = getattr(objective, "classes", classes)
        low, high = int(data.labels.min()), int(data.labels.max())
        if low < 0 or high >= watched:
            raise InputError(
                f"the labels run from {low} to {high}; the model has {watched} classes, "
                "numbered from 0"
            )


def _key(
    graph: Graph,
    data: TrainData,
    objective: Objective,
    options: TrainOptions,
    extensions: Sequence[Extension],
) -> str:
    kept = {k: v for k, v in options.to_json().items() if k != "checkpoint_every"}
    text = [graph_key(graph), data.key(), objective.key(), json.dumps(kept, sort_keys=True)]
    text += [e.key() for e in extensions]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def work_of(graph: Graph) -> int:
    """Multiply-accumulates of one sample."""
    return sum(macs(n, graph) for n in graph.nodes)


@contextmanager
def few_threads(batch_macs: int) -> Iterator[None]:
    """One thread for small work: several would wait for each other most of the time, and on a busy
    machine nearly all of it."""
    before = torch.get_num_threads()
    if batch_macs < _THREADED_MACS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _repeatable(device: torch.device, batch_macs: int) -> Iterator[None]:
    if device.type != "cuda":
        with few_threads(batch_macs):
            yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


# -- scales and optimizer --------------------------------------------------------------------------


def _rms(p: torch.Tensor) -> float:
    return float(p.detach().double().pow(2).mean().sqrt())


def _scales(module: TrainModule) -> dict[int, float]:
    """The scale of each parameter by ``id``; missing ones have scale 1."""
    out: dict[int, float] = {}
    for n in module.graph.nodes:
        if n.type not in WEIGHT_AXIS or n.inputs[1] not in module.names:
            continue
        w = module.constant(n.inputs[1])
        fan_in = w.numel() / w.shape[WEIGHT_AXIS[n.type]]
        out[id(w)] = _clamped(_rms(w) * math.sqrt(fan_in / 2.0))
    for norm in module.norms.values():
        assert isinstance(norm, BatchNorm)
        out[id(norm.gamma)] = out[id(norm.beta)] = _clamped(_rms(norm.gamma))
    for p in module.parameters():
        if id(p) not in out and p.ndim > 1:
            out[id(p)] = _clamped(_rms(p))
    return out


def _clamped(scale: float) -> float:
    return min(max(scale, 1e-6), 1e6) if scale > 0.0 else 1.0


def _optimizer(
    module: TrainModule, objective: Objective, options: TrainOptions, scales: dict[int, float]
) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = []
    for p in [*module.parameters(), *objective.parameters()]:
        if not p.requires_grad:
            continue
        k = scales.get(id(p), 1.0)
        decay = options.weight_decay if p.ndim > 1 else 0.0
        power = 1 if options.optimizer == "adamw" else 2
        groups.append({"params": [p], "scale": k**power, "weight_decay": decay / k**power})
    if not groups:
        raise InputError("the model has no float constants that could be trained")
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr, eps=1e-10, fused=True)
    return torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True)


# -- the loop --------------------------------------------------------------------------------------


@dataclass
class _Run:
    module: TrainModule
    objective: Objective
    optimizer: torch.optim.Optimizer
    options: TrainOptions
    batches: Batches
    precision: str
    extensions: Sequence[Extension]
    path: Path | None
    key: str
    name: str
    progress: Progress | None
    losses: list[tuple[int, float]] = field(default_factory=list)
    resumed: int = 0
    averaged: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.options.average > 0.0:
            self.averaged = {k: v.clone() for k, v in self._live().items()}

    def _live(self) -> dict[str, torch.Tensor]:
        state = self.module.state_dict()
        return {k: v.detach() for k, v in state.items() if v.is_floating_point()}

    def go(self) -> None:
        step = self.resumed = self._resume()
        total, device = self.options.steps, torch.device(self.options.device)
        self.module.train()
        self.objective.train()
        pending: list[torch.Tensor] = []
        started = said = kept = time.monotonic()
        good = step
        while step < total and not any(e.finished(self.module) for e in self.extensions):
            pending.append(self._step(step, device))
            step += 1
            now = time.monotonic()
            every = self.options.checkpoint_every
            keep = step % every == 0 if every else now - kept >= _SECONDS_BETWEEN
            # one look at the loss waits for the device: every step on a CPU, now and then elsewhere
            if device.type == "cpu" or len(pending) >= 16 or keep or step == total:
                self._note(step, pending, good)
                pending = []
            if self.progress and (now - said >= 1.0 or step == total):
                left = (now - started) / (step - self.resumed) * (total - step)
                loss = self.losses[-1][1] if self.losses else math.nan
                self.progress(f"{self.name}: step {step} of {total}, loss {loss:.4g}, "
                              f"{duration(left)} left")  # fmt: skip
                said = now
            if keep:
                self._keep(step)
                good, kept = step, now
        if pending:
            self._note(step, pending, good)
        if good != step:
            self._keep(step)
        if self.averaged:
            self.module.load_state_dict(self.averaged, strict=False)
        self.objective.save()

    def _step(self, step: int, device: torch.device) -> torch.Tensor:
        for g in self.optimizer.param_groups:
            g["lr"] = self.options.lr * self.options.rate(step) * g["scale"]
        batch = self.batches.at(step, device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            values = self.module.values(batch.inputs, self.objective.watch)
            loss = self.objective(batch, values)
        loss.backward()
        for e in self.extensions:
            e.after_backward(self.module, step, self.optimizer)
        if self.options.clip > 0:
            self._clip()
        self.optimizer.step()
        for e in self.extensions:
            e.after_step(self.module, step, self.optimizer)
        if self.averaged:
            # the first steps count less: the start is far from where the run goes
            kept = min(self.options.average, (1.0 + step) / (10.0 + step))
            live = self._live()
            torch._foreach_lerp_(
                [*self.averaged.values()], [live[k] for k in self.averaged], 1 - kept
            )
        return loss.detach()

    def _clip(self) -> None:
        """Clip the norm of the gradient with respect to parameter / scale."""
        power = 1.0 if self.options.optimizer == "adamw" else 0.5
        scaled = [(p.grad, g["scale"] ** power) for g in self.optimizer.param_groups
                  for p in g["params"] if p.grad is not None]  # fmt: skip
        all_norms = torch._foreach_norm([grad for grad, _ in scaled])
        norms = torch.stack([n * k for n, (_, k) in zip(all_norms, scaled, strict=True)])
        factor = (self.options.clip / (norms.norm() + 1e-12)).clamp_max(1.0)
        torch._foreach_mul_([grad for grad, _ in scaled], factor)

    def _note(self, step: int, pending: list[torch.Tensor], good: int) -> None:
        values = torch.stack(pending).float().cpu()
        if not bool(torch.isfinite(values).all()):
            bad = step - len(pending) + int(torch.nonzero(~torch.isfinite(values))[0]) + 1
            error = Diverged(
                f"{self.name}: the loss is {float(values[bad - 1 - step + len(pending)])} at step {bad} "
                f"of {self.options.steps}; the model is as it was before, and a learning rate below "
                f"{self.options.lr:g} would be accepted"
            )
            error.graph = self._last_good() if good else self.module.base
            raise error
        self.losses.append((step, float(values.mean())))
        if len(self.losses) > 4000:  # halve: a curve needs no more
            self.losses = self.losses[1::2]

    def _last_good(self) -> Graph | None:
        state = None if self.path is None else checkpoint.load(self.path, self.key)
        if state is None:
            return self.module.base
        self.module.load_state_dict(state["module"])
        return self.module.eval().finished()

    # -- checkpoints -------------------------------------------------------------------------------

    def _keep(self, step: int) -> None:
        if self.path is None:
            return
        state = {
            "key": self.key,
            "step": step,
            "module": self.module.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": [list(v) for v in self.losses],
            "averaged": self.averaged,
        }
        for value in self.module.state_dict().values():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                return  # the loss of the next step will say so; the last good state stays
        checkpoint.save(self.path, state)

    def _resume(self) -> int:
        state = None if self.path is None else checkpoint.load(self.path, self.key)
        if state is None:
            return 0
        self.module.load_state_dict(state["module"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.losses = [(int(a), float(b)) for a, b in state["losses"]]
        for k, v in state["averaged"].items():
            self.averaged[k].copy_(v)
        if self.progress and state["step"]:
            self.progress(f"{self.name}: continuing after step {state['step']}")
        return int(state["step"])


def duration(seconds: float) -> str:
    """``42 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def predict(graph: Graph, inputs: Sequence[np.ndarray], device: str = "cpu") -> list[np.ndarray]:
    """The outputs of a float graph on many samples, computed in torch (float32)."""
    module = TrainModule(graph).to(device).eval()
    out: list[list[np.ndarray]] = [[] for _ in graph.outputs]
    with few_threads(work_of(graph) * 250), torch.no_grad():
        for part in in_batches(inputs, 250):
            results = module(*[as_float(a).to(device) for a in part])
            results = results if isinstance(results, tuple) else (results,)
            for k, r in enumerate(results):
                out[k].append(r.cpu().numpy())
    return [np.concatenate(o) for o in out]
