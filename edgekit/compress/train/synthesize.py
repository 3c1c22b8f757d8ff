"""Training inputs from the network itself, for when there is no data at all.

The inputs start as smooth noise over the input range (energy falling with frequency, as in natural
images) and are moved by gradient descent until the network is certain about them, with its classes
spread evenly (Nayak et al., "Zero-Shot Knowledge Distillation", ICML 2019), smoothly over positions.

Where statistics of the layers' sums are known they are matched too (Yin et al., "DeepInversion", CVPR
2020). A folded batch norm does not give them back: weights hold ``gamma / sigma`` and ``beta - mu
gamma / sigma``, from which ``mu`` and ``sigma`` cannot be told. :func:`measure` takes them once where
the data is: numbers that hold no sample, to be used where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from edgekit.compress.train.batches import as_float, in_batches
from edgekit.compress.train.module import TrainModule, split_activations, weighted_nodes
from edgekit.compress.train.objectives import heads
from edgekit.compress.train.trainer import few_threads, work_of
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

#: Mean and variance of each channel of a layer's sums, by the name of the node.
Statistics = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SynthesisOptions:
    """samples: how many. low, high: range of the inputs, in the model's own units. steps: of gradient
    descent a batch; 0: random smooth inputs only. lr: share of the range a step. batch, seed."""

    samples: int = 1000
    low: float = 0.0
    high: float = 255.0
    steps: int = 60
    lr: float = 0.03
    batch: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch < 1 or self.steps < 0:
            raise InputError("samples and batch must be at least 1, steps at least 0")
        if not self.low < self.high or not np.isfinite(self.high - self.low):
            raise InputError(
                f"the input range is [{self.low:g}, {self.high:g}]; low < high would be accepted"
            )


def measure(graph: Graph, inputs: Sequence[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Statistics of the layers' sums on samples: numbers that hold no sample, to be used later."""
    module, names = _sums(graph)
    totals: dict[str, list[np.ndarray]] = {}
    with torch.no_grad():
        for part in in_batches(inputs, 100):
            values = module.values([as_float(a) for a in part], names.values())
            for node, name in names.items():
                flat = values[name].reshape(-1, values[name].shape[-1]).double()
                row = [
                    np.full(flat.shape[1], len(flat)),
                    flat.sum(0).numpy(),
                    (flat**2).sum(0).numpy(),
                ]
                totals[node] = row if node not in totals else [
                    a + b for a, b in zip(totals[node], row, strict=True)]  # fmt: skip
    out = {}
    for node, (count, total, squares) in totals.items():
        mean = total / count
        out[node] = mean, np.maximum(squares / count - mean**2, 0.0)
    return out


def _sums(graph: Graph) -> tuple[TrainModule, dict[str, str]]:
    """A module that shows every layer's sums, and their tensors by node."""
    nodes = [n.name for n in weighted_nodes(graph)]
    split = split_activations(graph, nodes)
    names = {n.name: n.outputs[0] for n in split.nodes if n.name in nodes}
    return TrainModule(split).eval().requires_grad_(False), names


def smooth_noise(
    shape: tuple[int, ...], low: float, high: float, rng: np.random.Generator
) -> np.ndarray:
    """Random inputs ``[N, ...]`` whose energy falls with frequency as in natural images (1/f); white
    where there are no positions."""
    x = rng.normal(size=shape)
    if len(shape) == 4 and min(shape[1:3]) > 1:
        fy = np.fft.fftfreq(shape[1])[:, None, None]
        fx = np.fft.fftfreq(shape[2])[None, :, None]
        f = np.sqrt(fy**2 + fx**2)
        f[0, 0] = 1.0 / max(shape[1:3])
        x = np.fft.ifft2(np.fft.fft2(x, axes=(1, 2)) / f, axes=(1, 2)).real
        grey = x.mean(axis=3, keepdims=True)  # colours of natural images mostly move together
        x = x + 1.5 * grey * np.sqrt(shape[3])
    axes = tuple(range(1, len(shape)))
    x = x / np.maximum(x.std(axis=axes, keepdims=True), 1e-9)
    contrast = rng.uniform(0.1, 0.35, (len(x), *[1] * (x.ndim - 1)))
    middle = rng.uniform(0.3, 0.7, contrast.shape)
    return (low + (high - low) * np.clip(middle + contrast * x, 0, 1)).astype(np.float32)


def synthesize(
    graph: Graph,
    options: SynthesisOptions | None = None,
    *,
    statistics: Statistics | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[np.ndarray]:
    """Inputs for training without data: one float32 array a graph input.

    statistics: mean and variance of the layers' sums by node name; layers without an entry are free.
    The classes that the network is moved to name are spread evenly.
    """
    options = options or SynthesisOptions()
    rng = np.random.default_rng([options.seed, 5])
    shapes = [graph.tensor(i).shape for i in graph.inputs]
    out: list[list[np.ndarray]] = [[] for _ in shapes]
    module, names = _sums(graph)
    known = {k: v for k, v in (statistics or {}).items() if k in names}
    head, kind = heads(module.graph)[0]
    classes = module.graph.tensor(head).elements if kind == "softmax" else 0
    for start in range(0, options.samples, options.batch):
        count = min(options.batch, options.samples - start)
        fresh = [smooth_noise((count, *s[1:]), options.low, options.high, rng) for s in shapes]
        wanted = (start + np.arange(count)) % max(1, classes)
        if options.steps and (classes or known):
            if progress:
                progress(f"making inputs: {start} of {options.samples}")
            with few_threads(work_of(graph) * count):
                fresh = _improve(module, fresh, wanted, head if classes else None,
                                 {names[k]: v for k, v in known.items()}, options, rng)  # fmt: skip
        for k, a in enumerate(fresh):
            out[k].append(a)
    return [np.concatenate(o) for o in out]


def _improve(
    module: TrainModule,
    start: list[np.ndarray],
    wanted: np.ndarray,
    head: str | None,
    known: Mapping[str, tuple[np.ndarray, np.ndarray]],
    options: SynthesisOptions,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    span = options.high - options.low
    x = [as_float((a - options.low) / span).requires_grad_() for a in start]
    optimizer = torch.optim.Adam(x, lr=options.lr)
    target = torch.from_numpy(wanted.astype(np.int64))
    watch = [*known, *([head] if head else [])]
    bounds = {k: (as_float(m), as_float(v)) for k, (m, v) in known.items()}
    for step in range(options.steps):
        for g in optimizer.param_groups:
            g["lr"] = options.lr * 0.5 * (1 + np.cos(np.pi * step / options.steps))
        inputs = [options.low + span * v for v in x]
        values = module.values([_jittered(v, rng) for v in inputs], watch)
        loss = torch.zeros(())
        if head:
            logits = values[head].reshape(len(target), -1)
            loss = loss + F.cross_entropy(logits, target, label_smoothing=0.1)
        for name, (mean, var) in bounds.items():
            flat = values[name].reshape(-1, values[name].shape[-1])
            unit = var.mean().clamp_min(1e-12)
            gap = (flat.mean(0) - mean) ** 2 / unit
            spread = (
                torch.sqrt(flat.var(0) + 1e-6 * unit) - torch.sqrt(var + 1e-6 * unit)
            ) ** 2 / unit
            loss = loss + (gap.mean() + spread.mean()) * 10.0 / len(bounds)
        for v in x:
            if v.ndim == 4:  # natural images are smooth
                loss = loss + 2.0 * ((v[:, 1:] - v[:, :-1]) ** 2).mean()
                loss = loss + 2.0 * ((v[:, :, 1:] - v[:, :, :-1]) ** 2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for v in x:
                v.clamp_(0.0, 1.0)
    return [(options.low + span * v.detach()).numpy() for v in x]


def _jittered(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Images shifted by up to 1/16: what is found should not hang on single pixels."""
    if x.ndim != 4:
        return x
    reach = [max(1, s // 16) for s in x.shape[1:3]]
    dy, dx = (int(rng.integers(-r, r + 1)) for r in reach)
    return torch.roll(x, (dy, dx), (1, 2))
