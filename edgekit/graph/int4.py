"""int4 constants: two values a byte, the first in the low half (TensorFlow Lite's layout).

In a :class:`edgekit.graph.ir.Tensor` of dtype ``int4`` the values are unpacked, in an int8 array that
holds -8..7; files hold them packed, and ``nbytes`` counts them so.
"""

from __future__ import annotations

import numpy as np

from edgekit.graph.ir import Graph


def pack(values: np.ndarray) -> np.ndarray:
    """``[ceil(n / 2)]`` uint8 of ``n`` values in C order; an odd last half is zero."""
    flat = values.reshape(-1).astype(np.int8).view(np.uint8) & 0xF
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The int8 array of ``shape`` that :func:`pack` packed."""
    count = int(np.prod(shape, dtype=np.int64))
    halves = np.stack([packed & 0xF, packed >> 4], axis=1).reshape(-1)[:count].astype(np.int8)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8).reshape(shape)


def widened(graph: Graph) -> Graph:
    """int4 constants as int8: the same values, and the same output bytes."""
    out = graph.copy()
    for name, t in graph.tensors.items():
        if t.dtype == "int4":
            out.tensors[name] = t.with_(dtype="int8")
    return out
