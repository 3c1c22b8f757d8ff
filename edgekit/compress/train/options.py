"""How to train: one frozen set of numbers, checked when it is made. No torch in here."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgekit.errors import InputError

Augmentation = Literal["flip", "crop", "mixup"]
AUGMENTATIONS: tuple[Augmentation, ...] = ("flip", "crop", "mixup")
Precision = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["cosine", "constant", "cyclic"]


@dataclass(frozen=True)
class TrainOptions:
    """Options of :func:`edgekit.compress.train.train`.

    steps: optimizer steps. batch: samples a step (fewer when there are fewer). lr: the peak learning
    rate, *relative to the scale of each parameter* (see :mod:`.trainer`), so that one number fits
    networks of any input unit. optimizer: "adamw", or "sgd" with Nesterov momentum. weight_decay: of
    weights, not of biases. warmup: share of the steps in which the rate rises linearly. schedule:
    "cosine" down to zero (Loshchilov & Hutter, "SGDR", ICLR 2017), "constant", or "cyclic": cosine in
    ``cycles`` equal rounds with restarts. clip: largest norm of the gradient (0: not clipped).
    batch_norm: put batch normalization behind the layers while training, folded at the end. augment:
    "flip" (left-right), "crop" (shifts of up to 1/8, borders mirrored), "mixup" (Zhang et al., ICLR
    2018). precision: "bfloat16" is autocast with float32 weights; "auto" takes it where the processor
    multiplies it natively and the network is large enough to gain. seed: of order and augmentation.
    device: "cpu" or "cuda". checkpoint_every: steps between checkpoints; 0: every 30 seconds.
    average: decay of an exponential moving average of the weights, which is the result then (0: the
    last weights are). variants: order and augmentation repeat after so many epochs (0: never), so that
    teachers need to be asked about a batch only once.
    """

    steps: int = 1000
    batch: int = 128
    lr: float = 2e-3
    optimizer: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 1e-4
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    cycles: int = 1
    clip: float = 5.0
    batch_norm: bool = True
    augment: tuple[Augmentation, ...] = ()
    precision: Precision = "auto"
    seed: int = 0
    device: str = "cpu"
    checkpoint_every: int = 0
    average: float = 0.0
    variants: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "augment", tuple(self.augment))
        _whole("steps", self.steps, 0)
        _whole("batch", self.batch, 1)
        _whole("cycles", self.cycles, 1)
        _whole("checkpoint_every", self.checkpoint_every, 0)
        _number("lr", self.lr, 0.0)
        _number("weight_decay", self.weight_decay, 0.0)
        _number("clip", self.clip, 0.0)
        _number("warmup", self.warmup, 0.0, 1.0)
        _whole("variants", self.variants, 0)
        _number("average", self.average, 0.0, 0.999999)
        _one_of("optimizer", self.optimizer, ("adamw", "sgd"))
        _one_of("schedule", self.schedule, ("cosine", "constant", "cyclic"))
        _one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        _one_of("device", self.device, ("cpu", "cuda"))
        for a in self.augment:
            _one_of("augment", a, AUGMENTATIONS)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"augment": list(self.augment)}

    def rate(self, step: int) -> float:
        """The learning rate of a step (0-based) as a share of the peak, in [0, 1]."""
        warm = math.ceil(self.warmup * self.steps)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        done = (step - warm) / max(1, self.steps - warm)
        if self.schedule == "cyclic":
            done = done * self.cycles % 1.0
        return 0.5 * (1.0 + math.cos(math.pi * done))


def _whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(
            f"{name} is {value!r}; a whole number of at least {least} would be accepted"
        )


def _number(name: str, value: float, low: float, high: float = math.inf) -> None:
    if not isinstance(value, (int, float)) or not low <= value <= high or not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; a number in [{low:g}, {high:g}] would be accepted")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; {', '.join(known)} would be accepted")
