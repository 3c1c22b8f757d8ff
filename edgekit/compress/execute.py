"""Running float graphs over many samples, whole or node by node, and comparing what they say.

With torch installed (and a torch form of every operator) the arithmetic is torch's; without it the
NumPy reference is used: the same values up to float rounding, more slowly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.errors import InputError, UnsupportedError
from edgekit.graph.ir import Graph, Node
from edgekit.graph.reference import run

#: Samples in one torch call.
BATCH = 250


def have_torch() -> bool:
    try:
        import torch  # noqa: F401
    except ImportError:
        return False
    return True


def forward(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    keep: Iterable[str] | None = None,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Values of ``keep`` (default: the outputs) for all samples, ``[samples, ...]`` by name."""
    names = list(dict.fromkeys(graph.outputs if keep is None else keep))
    direct = {n: np.asarray(inputs[graph.inputs.index(n)]) for n in names if n in graph.inputs}
    wanted = [n for n in names if n not in direct]
    if not wanted:
        return direct
    part = graph.copy()
    part.outputs = tuple(wanted)
    part.prune()
    for i in graph.inputs:  # prune keeps them named; validate wants them there
        part.tensors.setdefault(i, graph.tensor(i))
    if have_torch():
        try:
            return direct | _torch_forward(part, inputs, wanted, device)
        except UnsupportedError:
            pass
    return direct | run(part, list(inputs), keep=wanted)


def _torch_forward(
    graph: Graph, inputs: Sequence[np.ndarray], names: list[str], device: str
) -> dict[str, np.ndarray]:
    import torch

    module: Any = graph.to_torch().to(device).eval()
    parts: list[list[np.ndarray]] = [[] for _ in names]
    with torch.inference_mode():
        for i in range(0, len(inputs[0]), BATCH):
            batch = [torch.from_numpy(np.ascontiguousarray(a[i : i + BATCH])) for a in inputs]
            out = module(*(b.to(device) for b in batch))
            out = out if isinstance(out, tuple) else (out,)
            for p, o in zip(parts, out, strict=True):
                p.append(o.cpu().numpy())
    return {
        n: p[0] if len(p) == 1 else np.concatenate(p) for n, p in zip(names, parts, strict=True)
    }


#: Bytes that the values of all samples may take while a network is walked through node by node.
_WALK_BYTES = 2 << 30


def affordable(graph: Graph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """As many of the samples, from the first on, as fit in memory while two networks of this size are
    walked through at once; at least two."""
    widest = max((t.nbytes for t in graph.tensors.values() if not t.is_const), default=1)
    count = max(2, _WALK_BYTES // (6 * widest))
    return [a[:count] for a in inputs]


class Walker:
    """A graph run node by node over all samples: values are dropped after their last reader.

    The constants of the graph may be replaced between steps (:meth:`set_constant`).
    """

    def __init__(self, graph: Graph, inputs: Sequence[np.ndarray], device: str = "cpu") -> None:
        self.graph = graph.copy()
        self.device = device
        self.values = dict(zip(graph.inputs, inputs, strict=True))
        self._next = 0
        self._last = {t: i for i, n in enumerate(graph.nodes) for t in n.inputs if t is not None}

    @property
    def node(self) -> Node | None:
        """The node that runs next."""
        return self.graph.nodes[self._next] if self._next < len(self.graph.nodes) else None

    def set_constant(self, name: str, data: np.ndarray) -> None:
        t = self.graph.tensor(name)
        self.graph.tensors[name] = t.with_(data=np.ascontiguousarray(data, dtype=t.dtype))

    def step(self, hold: Iterable[str] = ()) -> Node:
        """Run the next node; values nobody needs any more go, except those in ``hold``."""
        node = self.node
        assert node is not None
        ins = [i for i in dict.fromkeys(node.inputs) if i is not None]
        varying = [i for i in ins if i in self.values]
        g = Graph(self.graph.name, {}, [node], tuple(varying), node.outputs)
        g.tensors = {n: self.graph.tensor(n) for n in (*ins, *node.outputs)}
        if varying:
            self.values.update(forward(g, [self.values[i] for i in varying], None, self.device))
        else:
            samples = len(next(iter(self.values.values())))
            for name, v in run(g, []).items():
                self.values[name] = np.repeat(v.reshape(1, *v.shape[1:]), samples, 0)
        for name in ins:
            if self._last.get(name) == self._next and name not in hold:
                self.values.pop(name, None)
        self._next += 1
        return node

    def until(self, tensor: str, hold: Iterable[str] = ()) -> np.ndarray:
        """Run on until ``tensor`` has a value, and return it."""
        while tensor not in self.values:
            if self.node is None:
                raise InputError(f"'{tensor}' is not computed by the graph")
            self.step(hold)
        return self.values[tensor]


# -- what a network says ---------------------------------------------------------------------------


def logits_graph(graph: Graph) -> tuple[Graph, bool]:
    """The graph with its first output before the final SOFTMAX, and True; or the graph, and False
    when the first output is no SOFTMAX over classes."""
    producers = graph.producers()
    name = graph.outputs[0]
    node = producers.get(name)
    while node is not None and node.type in ("RESHAPE", "SQUEEZE"):
        node = producers.get(node.inputs[0] or "")
    if node is None or node.type != "SOFTMAX" or node.attr("beta", 1.0) != 1.0:
        return graph, False
    g = graph.copy()
    g.outputs = (node.inputs[0] or "",)
    g.prune()
    for i in graph.inputs:
        g.tensors.setdefault(i, graph.tensor(i))
    return g, True


def is_classifier(graph: Graph) -> bool:
    """The first output holds one number a class: one axis longer than 1, with 2 or more entries, and
    the network ends in SOFTMAX or a dense layer."""
    shape = graph.tensor(graph.outputs[0]).shape
    if max(shape, default=1) < 2 or graph.tensor(graph.outputs[0]).elements != max(shape):
        return False
    if logits_graph(graph)[1]:
        return True
    into = graph.tensor(graph.inputs[0]).shape
    return shape != into and not _same_size(graph)


def _same_size(graph: Graph) -> bool:
    """An autoencoder: as many numbers out as in."""
    return graph.tensor(graph.outputs[0]).elements == graph.tensor(graph.inputs[0]).elements


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z.reshape(len(z), -1).astype(np.float64)
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def says(graph: Graph, inputs: Sequence[np.ndarray], device: str = "cpu") -> np.ndarray:
    """``[samples, outputs]``: log-probabilities of a classifier, plain outputs otherwise."""
    g, _ = logits_graph(graph)
    out = forward(g, inputs, [g.outputs[0]], device)[g.outputs[0]]
    if is_classifier(graph):
        return log_softmax(out)
    return out.reshape(len(out), -1).astype(np.float64)


@dataclass(frozen=True)
class Comparison:
    """What a changed network says against the one it was made from, on the same samples.

    distance: mean KL divergence (nats) of a classifier, else squared error relative to the variance
    of the reference's outputs. agreement: share of samples with the same class, or None. accuracy,
    before, difference, error: with labels: accuracy after and before, their paired difference and its
    standard error (all in 0..1).
    """

    samples: int
    distance: float
    agreement: float | None
    accuracy: float | None = None
    before: float | None = None
    difference: float | None = None
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "distance": self.distance,
            "agreement": self.agreement,
            "accuracy": self.accuracy,
            "accuracy_before": self.before,
            "difference": self.difference,
            "standard_error": self.error,
        }


def distance(reference: np.ndarray, other: np.ndarray, classes: bool) -> np.ndarray:
    """Per sample: KL(reference || other) of log-probabilities, or relative squared error."""
    if classes:
        return (np.exp(reference) * (reference - other)).sum(axis=1)
    spread = max(float(reference.var()), 1e-12)
    return ((reference - other) ** 2).mean(axis=1) / spread


def compare(
    reference: np.ndarray, other: np.ndarray, labels: np.ndarray | None, classes: bool
) -> Comparison:
    """reference, other: what two networks say (:func:`says`) about the same samples."""
    d = float(distance(reference, other, classes).mean())
    if not classes:
        return Comparison(len(other), d, None)
    p, q = reference.argmax(axis=1), other.argmax(axis=1)
    same = float(np.mean(p == q))
    if labels is None:
        return Comparison(len(other), d, same)
    right, was = (q == labels).astype(float), (p == labels).astype(float)
    diff = right - was
    error = float(diff.std(ddof=1) / np.sqrt(len(diff))) if len(diff) > 1 else None
    return Comparison(
        len(other), d, same, float(right.mean()), float(was.mean()), float(diff.mean()), error
    )
