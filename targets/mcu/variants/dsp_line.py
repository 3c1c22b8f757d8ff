"""Requantization as one line (``kernels/include/ek_dsp_line.h``): numbers for it, and the proof.

The reference and the line are both monotone in the sum, so they agree for every sum in a range if the
reference steps where the line does: it is computed on either side of each of the line's 255 steps.
Nothing is assumed about rounding: a channel whose line differs anywhere in reach is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgekit.graph import numerics as nm

from .dsp_common import HALFWORD_LIMIT, Linear

SHORT_SHIFT = 12  #: ``EK_LINE_SHIFT``
LINE_BASE = -0x7F800  #: ``EK_LINE_BASE``
MAX_SHIFT = 22  #: keeps every constant below 2^30
FRACTION = 7  #: bits the line has below the reference's, while the multiplier keeps all of its own


@dataclass(frozen=True)
class Lines:
    """``y = sat8((floor(256 * sum * m / 2^32) + c + (d if sum < 0)) >> k)``, by channel.

    layer: the layer the line is for, in which channels that are constant for every input have neither
    weights nor bias. m, c, d, k: int64 ``[O]``.
    """

    layer: Linear
    m: np.ndarray
    c: np.ndarray
    d: np.ndarray
    k: np.ndarray

    @property
    def compact(self) -> bool:
        """Whether c is what ``ek_line_constant`` makes of m."""
        zeros = 32 - np.frexp(np.maximum(self.m, 1).astype(np.float64))[1]  # exact below 2^53
        c = LINE_BASE + np.where(self.m == 0, 0, 128 >> zeros)
        return bool(np.all((self.c == c) & (self.k == SHORT_SHIFT) & (self.d == 0)))

    def apply(self, acc: np.ndarray) -> np.ndarray:
        """The outputs for sums ``[O, n]``."""
        m, c, d, k = (v[:, None] for v in (self.m, self.c, self.d, self.k))
        t = (256 * acc * m >> 32) + c + np.where(acc < 0, d, 0)
        return np.clip(t >> k, -128, 127)


def bounds(layer: Linear, zp: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest sum of each channel over inputs ``-128 - zp .. 127 - zp``."""
    low, high = -128 - zp, 127 - zp
    lo = layer.bias + np.where(layer.w > 0, layer.w * low, layer.w * high).sum(axis=1)
    hi = layer.bias + np.where(layer.w > 0, layer.w * high, layer.w * low).sum(axis=1)
    return lo, hi


def _reference(layer: Linear, acc: np.ndarray, act: tuple[int, int]) -> np.ndarray:
    y = nm.multiply_by_quantized_multiplier(acc, layer.mult[:, None], layer.shift[:, None])
    return np.clip(y + layer.out_zp, *act)


_N = np.arange(-127, 128, dtype=np.int64)[None, :]  #: outputs at which there is a step


def _steps(lines: Lines) -> np.ndarray:
    """For each channel and n = -127 .. 127 the smallest sum for which the line gives n or more: int64
    ``[O, 255]``."""
    m, c, d, k = (v[:, None] for v in (np.maximum(lines.m, 1), lines.c, lines.d, lines.k))
    need = (_N << k) - c  # floor(sum * m / 2^24) has to reach this, or d more for negative sums
    from_zero = np.maximum(-((-need << 24) // m), 0)
    below = -((d - need << 24) // m)
    # without d there is one line on both sides
    return np.where(d == 0, -((-need << 24) // m), np.where(below < 0, below, from_zero))


def _wrong(
    lines: Lines, plain: Linear, lo: np.ndarray, hi: np.ndarray, act: tuple[int, int]
) -> np.ndarray:
    """Channels whose line is not the reference for some sum from lo to hi, bool ``[O]``."""
    lo, hi = lo[:, None], hi[:, None]
    steps = np.clip(_steps(lines), lo, hi + 1)
    late = (_reference(plain, np.minimum(steps, hi), act) < _N) & (steps <= hi)
    early = (_reference(plain, np.maximum(steps - 1, lo), act) >= _N) & (steps > lo)
    return np.any(late | early, axis=1)


def fit(
    layer: Linear,
    act: tuple[int, int],
    shift: int | None = None,
    zp: int = 0,
    sign: bool = True,
    constants: bool = True,
) -> Lines | str:
    """Lines for the layer, or the reason there are none.

    act: the clamp of the output. shift: one k for all channels and no d (the short form); None: each
    its own (the long form). zp: what is subtracted from an input before it is multiplied (0 where the
    input offset is folded into the bias). sign: False where the kernel has no d.
    constants: False where constant channels have to get the line of the others.
    """
    lo, hi = bounds(layer, zp)
    if np.any(np.maximum(-lo, hi) >= 1 << 31):
        return "sums may leave 32 bits"
    ends = _reference(layer, np.stack([lo, hi], axis=1), act)
    constant = (ends[:, 0] == ends[:, 1]) & constants
    layer = replace(
        layer,
        w=np.where(constant[:, None], 0, layer.w),
        bias=np.where(constant, 0, layer.bias),
    )
    lo, hi = np.where(constant, 0, lo), np.where(constant, 0, hi)
    top = int(np.maximum(-lo, hi).max(initial=0))
    if top >= HALFWORD_LIMIT:
        return f"sums may reach {top}, and 256 times the sum has to fit 32 bits"
    e = -layer.shift
    if shift is None:
        k = np.clip(e + FRACTION, 1, MAX_SHIFT)
    else:
        k = np.full_like(e, shift)
    lost = e + FRACTION - k
    m = np.where(lost > 0, layer.mult >> np.clip(lost, 0, 31), layer.mult << np.clip(-lost, 0, 31))
    bad = ~constant & ((e < 0) | (k <= e) | (m >= 1 << 31))
    if np.any(bad):
        return f"an output shift of {int(e[bad][0])} is out of the line's range"
    fraction = np.clip(k - e, 0, 31)
    c = (np.int64(layer.out_zp) << k) + (np.int64(1) << fraction >> 1)
    c += np.where(e > 0, np.int64(1) << k >> 1, 0)
    signed = sign and shift is None
    d = np.where(e > 0, -(np.int64(1) << fraction), 0) if signed else np.zeros_like(e)
    lines = Lines(
        layer,
        np.where(constant, 0, m),
        np.where(constant, (ends[:, 0] << k) + (np.int64(1) << k >> 1), c),
        np.where(constant, 0, d),
        k,
    )
    wrong = _wrong(lines, layer, lo, hi, act) & ~constant
    # where bits of the multiplier were dropped, the next one or a shifted line may do
    for up, over in ((1, 0), (0, 1), (1, -1), (0, -1)):
        if not np.any(wrong):
            break
        trial = replace(lines, m=lines.m + up * wrong, c=lines.c + over * wrong)
        better = wrong & ~_wrong(trial, layer, lo, hi, act) & (trial.m < 1 << 31)
        lines = replace(
            lines, m=np.where(better, trial.m, lines.m), c=np.where(better, trial.c, lines.c)
        )
        wrong &= ~better
    return "the requantization is no line" if np.any(wrong) else lines
