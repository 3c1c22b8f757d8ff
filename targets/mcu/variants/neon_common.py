"""What the variants for 64-bit Arm cores (Advanced SIMD) share: what a core has, packing, constants.

The layouts are those of ``kernels/include/ek_neon.h``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray
from .dsp_common import Linear, wrap32

LANES = 16
MAX_EXP = 31  #: a rounding shift of a vector of 32-bit lanes
FAMILY = "arm_cpu"


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def features(target: Target) -> tuple[str, ...]:
    """ISA features that code for a target may use: those of the core that its toolchain names."""
    if target.family != FAMILY:
        return ()
    from edgekit_targets.arm_cpu.config import CODE_CPUS

    return CODE_CPUS.get(str(target.toolchain.get("cpu")), ())


def reject_common(
    node: Node, graph: Graph, target: Target, feature: str = "neon", constants: bool = False
) -> str | None:
    """The reason no NEON kernel takes a node, or None: the core's features, and the types."""
    if feature not in features(target):
        name = {"neon": "64-bit Advanced SIMD", "dotprod": "dot products", "i8mm": "i8mm"}[feature]
        return f"code for {target.name} has no {name}"
    activations = [t for t in graph.ins(node) if t is not None and (constants or not t.is_const)]
    for t in [*activations, *graph.outs(node)]:
        if t.dtype != "int8" or t.quant is None or t.quant.is_per_channel:
            return f"tensor '{t.name}' is not int8 with one scale"
    return None


def reject_shifts(layer: Linear) -> str | None:
    """The reason the multipliers do not do: shifts to the right of 1 to 31 are exact."""
    e = -layer.shift
    if e.size and (e.min() < 1 or e.max() > MAX_EXP):
        bad = int(e.min()) if e.min() < 1 else int(e.max())
        return f"an output multiplier is shifted right by {bad}; 1 to {MAX_EXP} are exact"
    return None


def finish(layer: Linear, act_min: int, act_max: int) -> str:
    """The cheapest exact end of a layer: ``EK_NEON_PLAIN`` or ``EK_NEON_GENERAL``."""
    # a result is its sum times mult * 2**(shift - 31), and half a step of rounding twice
    largest = layer.worst * (layer.mult / 2.0**31) * 2.0**layer.shift
    fits = not largest.size or float(largest.max()) < (1 << 15) - 2
    small = not layer.worst.size or int(layer.worst.max()) < 1 << 31  # sums do not wrap
    whole = (act_min, act_max) == (-128, 127)
    return (
        "EK_NEON_PLAIN" if fits and small and whole and layer.out_zp == -128 else "EK_NEON_GENERAL"
    )


def padded(values: np.ndarray, fill: int = 0) -> np.ndarray:
    """int32, one a channel, rounded up to whole vectors of channels."""
    out = np.full(round_up(len(values), LANES), fill, np.int32)
    out[: len(values)] = wrap32(values)
    return out


def channel_consts(layer: Linear) -> tuple[ConstArray, ...]:
    """bias, mult and shift of every output channel."""
    return (
        ConstArray("bias", "int32_t", padded(layer.bias), align=16),
        ConstArray("mult", "int32_t", padded(layer.mult), align=16),
        ConstArray("shift", "int32_t", padded(layer.shift, -1), align=16),
    )


def blocks(channels: int) -> list[int]:
    """Widths of the blocks of output channels: 16 while there are as many, then 8 and 4."""
    out = [LANES] * (channels // LANES)
    left = channels % LANES
    while left > 0:
        out.append(8 if left > 4 else 4)
        left -= out[-1]
    return out


def pack_steps(w: np.ndarray, step: int) -> np.ndarray:
    """``[O, segments, depth]`` weights as int8 blocks ``[segment][depth / step][channel][step]``."""
    o, segments, depth = w.shape
    w = np.pad(w, ((0, -o % LANES), (0, 0), (0, 0))).astype(np.int8)
    parts, at = [], 0
    for width in blocks(o):
        part = w[at : at + width].reshape(width, segments, depth // step, step)
        parts.append(part.transpose(1, 2, 0, 3).reshape(-1))
        at += width
    return np.concatenate(parts)


def pack_mlal(w: np.ndarray) -> np.ndarray:
    """``[O, segments, depth]`` weights as int8 blocks of four channels, see ``ek_neon.h``."""
    o, segments, depth = w.shape
    w = np.pad(w, ((0, -o % 4), (0, 0), (0, 0))).astype(np.int8)
    parts = []
    for first in range(0, len(w), 4):
        for s in range(segments):
            at = 0
            for step in (LANES,) * (depth // LANES) + (8, 4):
                if at + step > depth:
                    continue
                parts.append(w[first : first + 4, s, at : at + step].reshape(-1))
                at += step
    return np.concatenate(parts)


def initializer(fields: Mapping[str, object]) -> str:
    """A C initializer of integers and names, in the given order."""
    return "{ " + ", ".join(f".{k} = {v}" for k, v in fields.items()) + " }"
