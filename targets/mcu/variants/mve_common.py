"""What the variants for Helium (MVE) share: packing of weights, and the finishes.

The streams are those of ``kernels/include/ek_mve.h``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from .dsp_common import Linear, wrap32

LANES = 16
MAX_EXP = 31  #: a rounding shift of a vector of 32-bit lanes


def reject_common(node: Node, graph: Graph, target: Target) -> str | None:
    """The reason no Helium kernel takes a node, or None: the core's features, and the types."""
    if not target.has("mve"):
        return f"{target.core.name} has no Helium (MVE)"
    activations = [t for t in graph.ins(node) if t is not None and not t.is_const]
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


def finish(out_zp: int, act_min: int, act_max: int) -> str:
    """``plain``, ``signed`` or ``clamped``: the cheapest exact one."""
    if (act_min, act_max) != (-128, 127):
        return "clamped"
    return "plain" if out_zp == -128 else "signed"


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def stream(
    layer: Linear, steps: Sequence[np.ndarray], act: tuple[int, int], form: str
) -> np.ndarray:
    """The weight stream of ``ek_mve_mac`` as int32.

    steps: int8 ``[O, 16]`` each, in the order in which the kernel takes them.
    """
    o = len(layer.w)
    quads = round_up(o, 4)
    w = np.zeros((len(steps), quads, LANES), np.int8)
    for i, step in enumerate(steps):
        w[i, :o] = step
    bias, mult, shift = (np.zeros(quads, np.int32) for _ in range(3))
    bias[:o], mult[:o], shift[:o] = wrap32(layer.bias), layer.mult, layer.shift
    shift[o:] = -1
    end = [layer.out_zp, *(act if form == "clamped" else ())]
    parts: list[np.ndarray] = []
    for c in range(0, quads, 4):
        for first in (c, c + 1):
            pair = [first, first + 2]
            weights = np.ascontiguousarray(w[:, pair]).reshape(-1).view(np.int32)
            parts += [weights[:4], np.repeat(bias[pair], 4), weights[4:]]
            parts.append(np.array([[mult[i], shift[i]] for i in pair], np.int32).reshape(-1))
        parts.append(np.array(end, np.int32))
    return np.concatenate([*parts, np.zeros(4, np.int32)])


def blocks_of(w: np.ndarray) -> list[np.ndarray]:
    """``[O, K]`` as int8 steps ``[O, 16]``, zeros beyond K."""
    padded = np.pad(w, ((0, 0), (0, -w.shape[1] % LANES))).astype(np.int8)
    return np.split(padded, padded.shape[1] // LANES, axis=1)


def initializer(fields: Mapping[str, object]) -> str:
    """A C initializer of integers and names, in the given order."""
    return "{ " + ", ".join(f".{k} = {v}" for k, v in fields.items()) + " }"
