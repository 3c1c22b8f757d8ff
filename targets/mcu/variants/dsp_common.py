"""What the variants for the DSP extension share: packing of weights, and exact requantization.

The forms of the multiplication (*pairs*, *halfword*) and the layouts are those of
``kernels/include/ek_dsp.h``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.targets.schema import Target

from ..contract import ConstArray

#: ``EK_DSP_MAX_EXP`` and ``EK_DSP_GENERAL`` of ``ek_dsp.h``.
MAX_EXP = 22
GENERAL = 128

#: The halfword form holds 256 times the sum in 32 bits.
HALFWORD_LIMIT = 1 << 23

#: The wide form holds twice the sum in 32 bits.
WIDE_LIMIT = 1 << 30


def reject_common(node: Node, graph: Graph, target: Target) -> str | None:
    """The reason no DSP kernel takes a node, or None: the core's features, and the types."""
    if not target.has("dsp"):
        return f"{target.core.name} has no DSP extension"
    activations = [t for t in graph.ins(node) if t is not None and not t.is_const]
    for t in [*activations, *graph.outs(node)]:
        if t.dtype != "int8" or t.quant is None or t.quant.is_per_channel:
            return f"tensor '{t.name}' is not int8 with one scale"
    return None


def reject_weights(node: Node, graph: Graph) -> str | None:
    """The reason the weights or bias of a convolution or fully connected node do not do."""
    ins = graph.ins(node)
    w = ins[1]
    b = ins[2] if len(ins) > 2 else None
    if w is None or w.data is None or w.dtype != "int8" or w.quant is None:
        return "the weights are not constant int8"
    if np.any(w.quant.zero_point != 0):
        return "the weights are not symmetric"
    if b is not None and (b.data is None or b.dtype != "int32"):
        return "the bias is not constant int32"
    if ins[0] is None or ins[0].is_const:
        return "the input is constant"
    return None


def const_data(t: Tensor | None) -> np.ndarray:
    """The data of a tensor that is known to be constant."""
    assert t is not None and t.data is not None
    return t.data


def wrap32(x: np.ndarray | int) -> np.ndarray:
    """Integers reduced to 32 bits, as int32."""
    return (np.asarray(x, np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


@dataclass(frozen=True)
class Linear:
    """A layer that is ``requant(bias + sum w * x)`` over raw input bytes, by output channel.

    w: int64 ``[O, K]``. bias: int64 ``[O]``, the input offset folded in (not reduced to 32 bits).
    mult, shift: int64 ``[O]``.
    """

    w: np.ndarray
    bias: np.ndarray
    mult: np.ndarray
    shift: np.ndarray
    out_zp: int

    @property
    def worst(self) -> np.ndarray:
        """The largest absolute value each channel's sum can take: int64 ``[O]``."""
        low = self.bias + np.where(self.w > 0, self.w * -128, self.w * 127).sum(axis=1)
        high = self.bias + np.where(self.w > 0, self.w * 127, self.w * -128).sum(axis=1)
        return np.maximum(np.abs(low), np.abs(high))

    def halfword_reason(self) -> str | None:
        """Why the halfword form would not be exact, or None."""
        top = int(self.worst.max(initial=0))
        if top >= HALFWORD_LIMIT:
            return f"sums may reach {top}, and the halfword form holds less than {HALFWORD_LIMIT}"
        pairs = _in_fours(self.w).reshape(-1, 2)
        value = 256 * pairs[:, 1] + pairs[:, 0]
        if value.size and (value.min() < -32768 or value.max() > 32767):
            return "two neighbouring weights of -128 and below 0 do not fit a halfword"
        return None

    def wide_reason(self) -> str | None:
        """Why doubled sums would not be exact, or None."""
        top = int(self.worst.max(initial=0))
        if top >= WIDE_LIMIT:
            return f"sums may reach {top}, and the wide form holds less than {WIDE_LIMIT}"
        return None

    def fast(self) -> np.ndarray:
        """Channels for which the five-instruction requantization is exact: bool ``[O]``."""
        e = -self.shift
        in_range = (e >= 1) & (e <= MAX_EXP) & (self.mult >= 1 << 30)
        offset = abs(2 * self.out_zp + 1) << np.clip(e - 1, 0, MAX_EXP)
        return in_range & (self.worst + offset + 1 < 1 << 31)

    def quant(self, bias: np.ndarray, pad_to: int) -> np.ndarray:
        """``ek_dsp_quant[]`` as int32 words (mult, round, exp, bias), padded to ``pad_to`` entries."""
        fast = self.fast()
        n = len(bias)
        out = np.zeros((_round_up(n, pad_to), 4), np.int32)
        e = np.where(fast, -self.shift, 1)
        out[:n, 0] = wrap32(np.where(fast, 2 * self.mult, self.mult))
        out[:n, 1] = np.where(fast, (2 * self.out_zp + 1) << (e - 1), 0)
        out[:n, 2] = np.where(fast, e, GENERAL + self.shift)
        out[:n, 3] = wrap32(bias)
        out[n:, 2] = 1
        return out.reshape(-1)


def halfword_bias(layer: Linear) -> np.ndarray:
    """256-fold biases with the halfword form's correction, reduced to 32 bits."""
    return wrap32(256 * layer.bias - 127 * layer.w[:, 0::2].sum(axis=1))


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _in_fours(w: np.ndarray) -> np.ndarray:
    """``[O, K]`` with zeros up to a multiple of four along K."""
    return np.pad(w, ((0, 0), (0, -w.shape[1] % 4)))


def pack(w: np.ndarray, channels: int, halfword: bool) -> np.ndarray:
    """``[O, K]`` weights as int8 ``[O / channels][K / 4][channels][4]``, rounded up with zeros.

    halfword: each pair of bytes is the little-endian int16 256 * w[k + 1] + w[k].
    """
    w = _in_fours(np.asarray(w, np.int64))
    w = np.pad(w, ((0, -w.shape[0] % channels), (0, 0)))
    if halfword:
        value = 256 * w[:, 1::2] + w[:, 0::2]
        data = np.ascontiguousarray(value.astype("<i2")).view(np.int8).reshape(w.shape)
    else:
        data = w.astype(np.int8)
    return (
        data.reshape(w.shape[0] // channels, channels, w.shape[1] // 4, 4)
        .transpose(0, 2, 1, 3)
        .reshape(-1)
    )


def pack_wide(w: np.ndarray) -> np.ndarray:
    """``[O, K]`` weights, doubled, as int16 ``[O / 2][K / 4][inputs 0 and 2, 1 and 3][2][2]``."""
    w = 2 * _in_fours(np.asarray(w, np.int64))
    w = np.pad(w, ((0, w.shape[0] % 2), (0, 0)))
    w = w.reshape(w.shape[0] // 2, 2, w.shape[1] // 4, 2, 2)  # pair, out, four, hi, k
    return np.ascontiguousarray(w.transpose(0, 2, 4, 1, 3)).astype(np.int16).reshape(-1)


def quant_const(words: np.ndarray) -> ConstArray:
    """The requantization table; ``ek_dsp_quant`` is four int32."""
    return ConstArray("quant", "int32_t", words)


def initializer(fields: Mapping[str, int]) -> str:
    """A C initializer of integer fields, in the given order."""
    return "{ " + ", ".join(f".{k} = {int(v)}" for k, v in fields.items()) + " }"
