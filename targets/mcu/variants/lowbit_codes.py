"""Weights of few bits: which layers have them, and their codes (``kernels/include/ek_lowbit.h``).

A layer is one of few bits when its weights are int4, or int8 with few different values (a codebook of
k-means, ternary, binary). Nothing else in the graph says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgekit.graph.ir import Graph, Node, Tensor

#: Bits of a code -> codes in a unit: a word, or three of 6-bit codes.
UNITS = {1: 32, 2: 16, 4: 8, 6: 16}
#: Smaller int8 tensors always have few values, and nothing to save.
MIN_WEIGHTS = 512
MAX_VALUES = 64  #: that a code can tell apart


def weights_of(node: Node, graph: Graph) -> Tensor | None:
    """The constant integer weights of a layer, int4 or int8."""
    t = graph.ins(node)[1] if len(node.inputs) > 1 else None
    return t if t is not None and t.data is not None and t.dtype in ("int4", "int8") else None


def is_low_bit(node: Node, graph: Graph) -> bool:
    """Whether the layer's weights are of few bits."""
    t = weights_of(node, graph)
    if t is None or t.data is None:
        return False
    if t.dtype == "int4":
        return True
    if t.elements < MIN_WEIGHTS:
        return False
    # asked of every layer by every variant, so counted rather than sorted, and a part of it first
    flat = t.data.reshape(-1).view(np.uint8)
    return all(
        int(np.count_nonzero(np.bincount(part, minlength=256))) <= MAX_VALUES
        for part in (flat[:MIN_WEIGHTS], flat)
    )


def as_int8(node: Node, graph: Graph) -> Graph:
    """``graph`` with the node's int4 weights as int8: what int8 kernels are asked about."""
    t = weights_of(node, graph)
    if t is None or t.dtype != "int4":
        return graph
    out = graph.copy()
    out.tensors[t.name] = t.with_(dtype="int8")
    return out


def code_bits(values: np.ndarray) -> int:
    """The bits of a code for so many values; 8 where there are too many for a codebook."""
    return next((b for b in (1, 2, 4, 6) if len(values) <= 1 << b), 8)


@dataclass(frozen=True)
class Codes:
    """bits: of a code. table: int8 ``[2**bits]``, or None where 4-bit codes are the numbers."""

    bits: int
    table: np.ndarray | None

    @staticmethod
    def of(values: np.ndarray) -> Codes | None:
        """Codes for these values, the shortest; numbers where they fit and a table is no shorter.
        None: too many values."""
        values = np.unique(values)
        bits = code_bits(values)
        if bits > 6:
            return None
        if bits == 4 and values.min() >= -8 and values.max() <= 7:
            return Codes(4, None)
        table = np.zeros(1 << bits, np.int8)
        table[: len(values)] = values
        return Codes(bits, table)

    def of_four_bits(self) -> Codes:
        """The same values in codes of 4 bits: what the kernels that unpack as they read take."""
        if self.bits == 4 or self.bits > 4:
            return self
        assert self.table is not None
        if self.table.min() >= -8 and self.table.max() <= 7:
            return Codes(4, None)
        return replace(self, bits=4, table=np.pad(self.table, (0, 16 - len(self.table))))

    def pack(self, rows: np.ndarray) -> np.ndarray:
        """``[R, n]`` values as uint8 ``[R, bytes]``: each row in whole units, zeros behind it."""
        count = UNITS[self.bits]
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % count)))
        if self.table is None:
            codes = rows.astype(np.int64) & 15
        else:
            order = np.argsort(self.table, kind="stable")
            at = np.searchsorted(self.table[order], rows)
            codes = order[np.clip(at, 0, len(order) - 1)]
            # what fills the last unit is never used and may be any code
            codes = np.where(self.table[codes] == rows, codes, 0)
        units = codes.reshape(len(rows), -1, count // 4, 4).astype(np.uint32)
        if self.bits == 6:
            last = units[:, :, 3]
            words = [units[:, :, k] | ((last >> (2 * k) & 3) << 6) for k in range(3)]
            packed = np.stack(words, axis=2)
        else:
            shift = (self.bits * np.arange(count // 4, dtype=np.uint32))[:, None]
            packed = np.bitwise_or.reduce(units << shift, axis=2)
        return np.ascontiguousarray(packed.astype(np.uint8).reshape(len(rows), -1))


def numbers(values: np.ndarray) -> bool:
    """Whether the values fit 4-bit numbers."""
    return bool(values.size == 0 or (values.min() >= -8 and values.max() <= 7))
