"""Training samples, their order and their augmentation, each a pure function of seed and step.

Nothing here has a state: step ``k`` of a run gets the same samples, shifted the same way, whether the
run came there from step 0 or from a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from edgekit.compress.train.options import TrainOptions
from edgekit.errors import InputError

_ORDER, _AUGMENT = 1, 2


@dataclass(frozen=True, eq=False)
class TrainData:
    """inputs: one array a graph input, ``[N, ...]``, in the model's own units (float32, or integers
    that are cast batch by batch). labels: ``[N]`` integers, or None."""

    inputs: tuple[np.ndarray, ...]
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", tuple(self.inputs))
        lengths = {len(a) for a in self.inputs}
        if self.labels is not None:
            lengths.add(len(self.labels))
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(
                f"the training data has {sorted(lengths)} samples; "
                "equal numbers of at least one would be accepted"
            )

    def __len__(self) -> int:
        return len(self.inputs[0])

    def key(self) -> str:
        """A hash of shapes and contents."""
        h = hashlib.sha256()
        for a in (*self.inputs, *(() if self.labels is None else (self.labels,))):
            h.update(f"{a.dtype}{a.shape}".encode())
            h.update(np.ascontiguousarray(a).data)
        return h.hexdigest()


@dataclass(frozen=True, eq=False)
class Batch:
    """inputs: float32 tensors on the device. labels: int64 ``[B]`` or None. index: which samples.
    mixed: labels of the samples that were blended in with share ``1 - share`` (mixup), or None.
    number: batches of a run with the same number hold the same values; None: there is no other."""

    inputs: list[torch.Tensor]
    labels: torch.Tensor | None
    index: np.ndarray
    mixed: torch.Tensor | None = None
    share: float = 1.0
    number: int | None = None


class Batches:
    """Batches of a training run, by step."""

    def __init__(self, data: TrainData, options: TrainOptions) -> None:
        self.data = data
        self.options = options
        self.size = min(options.batch, len(data))
        # the last batch of the cycle may begin an epoch that is not finished
        self.cycle = -(-len(data) * options.variants // self.size)
        self._epoch = -1
        self._order = np.zeros(0, np.int64)
        if "flip" in options.augment or "crop" in options.augment:
            for a in data.inputs:
                if a.ndim != 4:
                    raise InputError(
                        f"flip and crop augment images [N, H, W, C]; an input is {list(a.shape)}"
                    )

    def indices(self, step: int) -> np.ndarray:
        """Samples of a step: a stream of seeded permutations, one an epoch, cut into batches."""
        n = len(self.data)
        at = np.arange(step * self.size, (step + 1) * self.size)
        out = np.empty(self.size, np.int64)
        for epoch in range(int(at[0]) // n, int(at[-1]) // n + 1):
            here = at // n == epoch
            out[here] = self._permutation(epoch)[at[here] % n]
        return out

    def key(self, precision: str) -> str:
        """A text that only runs with the same batches, computed alike, share."""
        o = self.options
        return f"{self.data.key()} {self.size} {o.augment} {o.variants} {o.seed} {precision} {o.device}"

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng([self.options.seed, _ORDER, epoch])
            self._order, self._epoch = rng.permutation(len(self.data)), epoch
        return self._order

    def at(self, step: int, device: torch.device) -> Batch:
        number = None
        if self.cycle:
            number = step = step % self.cycle
        index = self.indices(step)
        labels = None
        if self.data.labels is not None:
            labels = torch.from_numpy(self.data.labels[index].astype(np.int64)).to(device)
        inputs = [as_float(a[index]).to(device) for a in self.data.inputs]
        rng = np.random.default_rng([self.options.seed, _AUGMENT, step])
        if "flip" in self.options.augment:
            inputs = [_flip(x, rng.random(len(index)) < 0.5) for x in inputs]
        if "crop" in self.options.augment:
            inputs = [_crop(x, rng) for x in inputs]
        if "mixup" not in self.options.augment:
            return Batch(inputs, labels, index, number=number)
        share = float(rng.beta(1.0, 1.0))
        other = torch.from_numpy(rng.permutation(len(index))).to(device)
        inputs = [x * share + x[other] * (1.0 - share) for x in inputs]
        mixed = None if labels is None else labels[other]
        return Batch(inputs, labels, index, mixed, share, number)


def as_float(a: np.ndarray) -> torch.Tensor:
    a = np.ascontiguousarray(a, np.float32)
    return torch.from_numpy(a if a.flags.writeable else a.copy())


def _flip(x: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
    mask = torch.from_numpy(chosen).to(x.device).reshape(-1, 1, 1, 1)
    return torch.where(mask, x.flip(2), x)


def _crop(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each image shifted by its own offset of up to 1/8 of each side; borders mirrored."""
    n, height, width, _ = x.shape
    index = []
    for d, size in enumerate((height, width)):
        reach = max(1, size // 8)
        at = np.arange(size)[None, :] + rng.integers(-reach, reach + 1, n)[:, None]
        at = np.abs(at)
        at = np.where(at >= size, 2 * (size - 1) - at, at).clip(0)
        index.append(torch.from_numpy(at).to(x.device).reshape(n, *((-1, 1), (1, -1))[d]))
    samples = torch.arange(n, device=x.device).reshape(n, 1, 1)
    return x[samples, index[0], index[1]]


def in_batches(inputs: Sequence[np.ndarray], size: int) -> list[list[np.ndarray]]:
    """The samples in order, ``size`` at a time."""
    return [[a[i : i + size] for a in inputs] for i in range(0, len(inputs[0]), size)]
