"""What training minimizes. An objective is a torch module: it may have parameters of its own.

All of them work on the values before a final SOFTMAX or LOGISTIC, in float32 whatever the precision
of the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.compress.execute import is_classifier
from edgekit.compress.train.batches import Batch, as_float
from edgekit.compress.train.module import TrainModule
from edgekit.compress.train.taught import Taught
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

_PASSED = frozenset({"RESHAPE", "SQUEEZE", "ARG_MAX", "DEQUANTIZE", "QUANTIZE"})
Kind = Literal["softmax", "logistic", "values"]


def heads(graph: Graph) -> list[tuple[str, Kind]]:
    """For each output the tensor that an objective looks at, and what would squash it.

    "softmax": class scores, before a SOFTMAX or without one (:func:`.execute.is_classifier`);
    "logistic": one probability each; "values": a regression.
    """
    producers = graph.producers()
    out: list[tuple[str, Kind]] = []
    for name in graph.outputs:
        node = producers.get(name)
        while node is not None and node.type in _PASSED and node.inputs[0]:
            name, node = node.inputs[0], producers.get(node.inputs[0])
        if node is not None and node.type in ("SOFTMAX", "LOGISTIC") and node.inputs[0]:
            kind: Kind = "softmax" if node.type == "SOFTMAX" else "logistic"
            out.append((node.inputs[0], kind))
        else:
            classes = not out and graph.tensor(name).is_float and is_classifier(graph)
            out.append((name, "softmax" if classes else "values"))
    return out


def graph_key(graph: Graph) -> str:
    """A hash of everything in a graph."""
    from edgekit.formats import ekg

    return hashlib.sha256(ekg.write_bytes(graph)).hexdigest()


class Objective(nn.Module):
    """watch: tensors of the trained graph that ``forward(batch, values)`` wants to see."""

    watch: tuple[str, ...] = ()
    needs_labels = False

    def key(self) -> str:
        """What this objective depends on, as text (for checkpoints)."""
        return type(self).__name__

    def remember(self, folder: Path | None, batches: str) -> None:
        """Batches repeat: what depends on them alone may be kept, in ``folder`` between runs.
        batches: a text that only the same batches have."""

    def save(self) -> None:
        """Write what is kept in the folder."""


class CrossEntropy(Objective):
    """Cross-entropy with the labels of the first output; label_smoothing as in Szegedy et al.,
    CVPR 2016."""

    needs_labels = True

    def __init__(self, graph: Graph, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.head = heads(graph)[0][0]
        self.watch = (self.head,)
        self.smoothing = label_smoothing
        self.classes = graph.tensor(self.head).elements

    def forward(self, batch: Batch, values: dict[str, torch.Tensor]) -> torch.Tensor:
        assert batch.labels is not None
        logits = values[self.head].float().reshape(len(batch.labels), -1)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
        if batch.mixed is None:
            return loss
        other = F.cross_entropy(logits, batch.mixed, label_smoothing=self.smoothing)
        return batch.share * loss + (1.0 - batch.share) * other

    def key(self) -> str:
        return f"CrossEntropy {self.head} {self.smoothing}"


def soft_loss(
    student: torch.Tensor, teacher: torch.Tensor, kind: Kind, temperature: float
) -> torch.Tensor:
    """How far the student's values ``[B, ...]`` are from the teacher's.

    softmax: KL(teacher || student) at a temperature, times its square (Hinton et al., "Distilling the
    Knowledge in a Neural Network", 2015). logistic: the same for each probability. values: squared
    error over the teacher's variance.
    """
    s, t = student.float(), teacher.float()
    if kind == "softmax":
        s, t = s.flatten(1) / temperature, t.flatten(1) / temperature
        loss = F.kl_div(F.log_softmax(s, 1), F.log_softmax(t, 1), reduction="batchmean",
                        log_target=True)  # fmt: skip
        return loss * temperature**2
    if kind == "logistic":
        p = torch.sigmoid(t / temperature)
        gap = F.binary_cross_entropy_with_logits(s / temperature, p)
        floor = F.binary_cross_entropy_with_logits(t / temperature, p)
        return (gap - floor) * temperature**2
    return F.mse_loss(s, t) / t.var(unbiased=False).clamp_min(1e-12)


class Distillation(Objective):
    """Follow teachers' outputs (logits averaged over the teachers), and their features on the way.

    temperature: of the softened outputs. labels: share of the cross-entropy with labels in the loss,
    in [0, 1]; 0 uses none. hints: "attention" compares maps of activation energy over positions
    (Zagoruyko & Komodakis, ICLR 2017), "feature" the features themselves, through a learned linear map
    where the widths differ (Romero et al., "FitNets", ICLR 2015). hint_weight: their weight.
    hint_tensors: names that student and teacher share; None: the outputs of operators of several
    inputs (the ends of residual blocks), or else of the layers in the middle third.
    """

    def __init__(
        self,
        student: Graph,
        teachers: Sequence[Graph],
        *,
        temperature: float = 2.0,
        labels: float = 0.0,
        label_smoothing: float = 0.0,
        hints: Literal["none", "attention", "feature"] = "none",
        hint_weight: float = 1.0,
        hint_tensors: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads(student)
        self.teacher_heads = [heads(t) for t in teachers]
        for t, h in zip(teachers, self.teacher_heads, strict=True):
            if [t.tensor(n).elements for n, _ in h] != [
                student.tensor(n).elements for n, _ in self.heads
            ]:
                raise InputError(
                    f"the teacher '{t.name}' has outputs of other sizes than '{student.name}'; "
                    "one for the same task would be accepted"
                )
        self.temperature, self.labels, self.weight = temperature, labels, hint_weight
        self.needs_labels = labels > 0.0
        self.hard = CrossEntropy(student, label_smoothing) if labels > 0 else None
        self.hints = hints
        self.pairs = () if hints == "none" else _hint_tensors(student, teachers[0], hint_tensors)
        self.maps = nn.ModuleDict()
        if hints == "feature":
            for i, name in enumerate(self.pairs):
                a, b = student.tensor(name).shape[-1], teachers[0].tensor(name).shape[-1]
                if a != b:
                    self.maps[str(i)] = nn.Linear(a, b)
                    _seeded(self.maps[str(i)], i)
        self.watch = tuple(dict.fromkeys([*(n for n, _ in self.heads), *self.pairs]))
        self._teachers = [TrainModule(_float(t)).eval().requires_grad_(False) for t in teachers]
        self._keys = [graph_key(t) for t in teachers]
        self._known: Taught | None = None

    def key(self) -> str:
        return (
            f"Distillation {self._keys} {self.temperature} {self.labels} "
            f"{self.hard.smoothing if self.hard else 0} {self.hints} {self.weight} {self.pairs}"
        )

    def remember(self, folder: Path | None, batches: str) -> None:
        if self.pairs:
            return  # features are too many
        text = "\n".join([*self._keys, batches])
        name = f"taught-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
        self._known = Taught(None if folder is None else folder / name)

    def save(self) -> None:
        if self._known is not None:
            self._known.save()

    def taught(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The teachers' values: logits averaged, hints from the first."""
        known = None if self._known is None else self._known.get(batch.number)
        if known is not None:
            device = batch.inputs[0].device
            return {f"head {k}": v.to(device) for k, v in enumerate(known)}
        out = self._ask(batch)
        if self._known is not None:
            self._known.put(batch.number, [out[f"head {k}"] for k in range(len(self.heads))])
        return out

    def _ask(self, batch: Batch) -> dict[str, torch.Tensor]:
        out: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            for i, (module, names) in enumerate(
                zip(self._teachers, self.teacher_heads, strict=True)
            ):
                module.to(batch.inputs[0].device)
                watch = [n for n, _ in names] + (list(self.pairs) if i == 0 else [])
                values = module.values(batch.inputs, watch)
                for k, (n, _) in enumerate(names):
                    share = values[n].float() / len(self._teachers)
                    out[f"head {k}"] = out[f"head {k}"] + share if i else share
                if i == 0:
                    out.update({f"hint {n}": values[n].float() for n in self.pairs})
        return out

    def forward(self, batch: Batch, values: dict[str, torch.Tensor]) -> torch.Tensor:
        taught = self.taught(batch)
        soft = torch.stack(
            [
                soft_loss(values[n], taught[f"head {k}"], _kind(kind), self.temperature)
                for k, (n, kind) in enumerate(self.heads)
            ]
        ).sum()
        loss = soft
        if self.hard is not None:
            loss = (1.0 - self.labels) * soft + self.labels * self.hard(batch, values)
        if self.pairs:
            loss = loss + self.weight * self._hints(values, taught) / len(self.pairs)
        return loss

    def _hints(
        self, values: dict[str, torch.Tensor], taught: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        total = torch.zeros((), device=next(iter(values.values())).device)
        for i, name in enumerate(self.pairs):
            s, t = values[name].float(), taught[f"hint {name}"]
            if self.hints == "attention":
                a, b = ((v**2).mean(-1).flatten(1) for v in (s, t))
                total = total + (F.normalize(a) - F.normalize(b)).pow(2).sum(1).mean()
                continue
            if str(i) in self.maps:
                s = self.maps[str(i)](s)
            total = total + F.mse_loss(s, t) / t.pow(2).mean().clamp_min(1e-12)
        return total


def _kind(kind: str) -> Kind:
    return kind  # type: ignore[return-value]


def _seeded(layer: nn.Module, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(as_float(rng.normal(0.0, 1.0 / np.sqrt(p.shape[-1]), tuple(p.shape))))


def _float(graph: Graph) -> Graph:
    from edgekit.graph.to_torch import dequantized

    return dequantized(graph) if any(t.quant is not None for t in graph.tensors.values()) else graph


def _hint_tensors(student: Graph, teacher: Graph, names: Sequence[str] | None) -> tuple[str, ...]:
    def fits(name: str) -> bool:
        if name not in student.tensors or name not in teacher.tensors:
            return False
        a, b = student.tensor(name), teacher.tensor(name)
        return not a.is_const and not b.is_const and a.is_float and a.shape[:-1] == b.shape[:-1]

    if names is not None:
        for n in names:
            if not fits(n):
                raise InputError(
                    f"the hint '{n}' is no activation that '{student.name}' and its teacher share, "
                    "with equal height and width"
                )
        return tuple(names)
    images = [n for n in student.nodes if len(student.tensor(n.outputs[0]).shape) == 4]
    ends = [n.outputs[0] for n in images if n.type in ("ADD", "CONCATENATION")]
    found = [n for n in ends if fits(n)]
    if not found:
        layers = [n.outputs[0] for n in images if fits(n.outputs[0])]
        found = layers[len(layers) // 3 : max(1, 2 * len(layers) // 3)]
    if not found:
        raise InputError(f"'{student.name}' and its teacher share no tensor that could be a hint")
    return tuple(found)
