"""Block-sparse CONV_2D and FULLY_CONNECTED: only blocks of four weights that are not all zero are stored
and multiplied (``kernels/include/ek_sparse.h``). Whether that pays is counted, as for every kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from . import REF_RANK
from .dsp_common import Linear, halfword_bias, pack, quant_const, reject_common, reject_weights
from .dsp_conv import DspConv, linear_layer, scratch_limit
from .dsp_fc import layer_of
from .lowbit_codes import MIN_WEIGHTS, as_int8
from .lowbit_ref import rows_of
from .ref_common import initializer, lowered

BLOCK = 4
#: Share of blocks that has to be zero before the kernels are looked at: none wins with fewer.
LEAST = 0.3
_MAX_GAP = 255


def zero_blocks(w: np.ndarray) -> float:
    """Share of ``[O, K]`` weights' blocks of four that are all zero."""
    rows = np.pad(w, ((0, 0), (0, -w.shape[1] % BLOCK))).reshape(len(w), -1, BLOCK)
    return float(1.0 - np.any(rows != 0, axis=2).mean())


def _rows(node: Node, graph: Graph) -> np.ndarray | None:
    """Constant weights, a row an output."""
    t = graph.ins(node)[1]
    if t is None or t.data is None or t.dtype not in ("int8", "int4"):
        return None
    return t.data.reshape(t.shape[0], -1)


def is_sparse(node: Node, graph: Graph) -> bool:
    w = _rows(node, graph)
    return w is not None and w.size >= MIN_WEIGHTS and zero_blocks(w) >= LEAST


def stored(w: np.ndarray, packed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``counts`` uint16 ``[O]``, ``gaps`` uint8, ``weights`` int8 of ``[O, K]`` weights.

    packed: int8 ``[O, blocks, 4]``, what is stored of each block. Long gaps get blocks of zeros.
    """
    rows = np.pad(w, ((0, 0), (0, -w.shape[1] % BLOCK))).reshape(len(w), -1, BLOCK)
    counts, gaps, values = [], [], []
    nothing = np.zeros(BLOCK, np.int8)
    for row, data in zip(rows, packed, strict=True):
        at, count = 0, 0
        for k in np.flatnonzero(np.any(row != 0, axis=1)):
            while k - at > _MAX_GAP:
                gaps.append(_MAX_GAP)
                values.append(nothing)
                at += _MAX_GAP
                count += 1
            gaps.append(int(k - at))
            values.append(data[k])
            at = int(k)
            count += 1
        counts.append(count)
    if max(counts, default=0) >= 1 << 16:
        raise UnsupportedError("an output has more blocks than the kernel counts")
    if not values:  # C has no empty arrays
        gaps, values = [0], [nothing]
    return (
        np.asarray(counts, np.uint16),
        np.asarray(gaps, np.uint8),
        np.concatenate(values).astype(np.int8),
    )


def _consts(w: np.ndarray, packed: np.ndarray) -> tuple[ConstArray, ...]:
    counts, gaps, values = stored(w, packed)
    return (
        # uint16 is no constant's type: the same bytes
        ConstArray("counts", "int16_t", counts.view(np.int16)),
        ConstArray("gaps", "uint8_t", gaps, align=1),
        ConstArray("weights", "int8_t", values),
    )


_ARGUMENT = "&(const ek_sparse){{(const uint16_t *){c.counts}, {c.gaps}, {c.weights}}}"


def _halfwords(w: np.ndarray) -> np.ndarray:
    return pack(w, 1, True).reshape(len(w), -1, BLOCK)


@dataclass(frozen=True)
class _Sparse:
    """What all of them share: only sparse layers concern them."""

    op: str
    rank: int

    def concerns(self, node: Node, graph: Graph) -> bool:
        return is_sparse(node, graph)


@dataclass(frozen=True)
class SparseRef(_Sparse):
    name: str = "rows_s8_sparse_ref"

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        try:
            self.lower(node, graph, target)
        except (UnsupportedError, GraphError) as e:
            return str(e)
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        fields, rest = rows_of(node, as_int8(node, graph))
        w = _rows(node, graph)
        assert w is not None
        padded = np.pad(w, ((0, 0), (0, -w.shape[1] % BLOCK))).reshape(len(w), -1, BLOCK)
        return lowered(
            self.name,
            "ek_sparse.h",
            f"&{{p}}, {{in0}}, {_ARGUMENT}, {{c.bias}}, {{c.mult}}, {{c.shift}}, {{out0}}",
            "ek_fc_params",
            fields,
            (*_consts(w, padded), *rest),
        )


@dataclass(frozen=True)
class SparseFullyConnected(_Sparse):
    name: str = "fully_connected_s8_sparse_dsp"

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        wide = as_int8(node, graph)
        reason = reject_common(node, wide, target) or reject_weights(node, wide)
        if reason is None:
            reason = layer_of(node, wide).halfword_reason()
        if reason is None:
            scratch, limit = self._scratch(layer_of(node, wide)), scratch_limit(target)
            if limit is not None and scratch > limit:
                reason = f"it needs {scratch} bytes of scratch; at most {limit} are spent on it"
        return reason

    @staticmethod
    def _scratch(layer: Linear) -> int:
        return -(-layer.w.shape[1] // BLOCK) * 8

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        wide = as_int8(node, graph)
        layer = layer_of(node, wide)
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        o, k = layer.w.shape
        act_min, act_max = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        fields = {
            "rows": x.elements // k,
            "in_c": k,
            "out_c": o,
            "out_zp": layer.out_zp,
            "act_min": act_min,
            "act_max": act_max,
        }
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c",),
            header="ek_sparse.h",
            params_type="ek_fc_params",
            params=initializer(fields),
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {_ARGUMENT}, "
                "(const ek_dsp_quant *)(const void *){c.quant}, {out0}, {scratch});"
            ),
            consts=(
                *_consts(layer.w, _halfwords(layer.w)),
                quant_const(layer.quant(halfword_bias(layer), 1)),
            ),
            scratch_bytes=self._scratch(layer),
        )


@dataclass(frozen=True)
class SparseConv(_Sparse):
    name: str = "conv2d_s8_sparse_dsp"

    _like: ClassVar[DspConv] = DspConv("CONV_2D", "halfword", 0)

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        return self._like.reject(node, as_int8(node, graph), target)

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        wide = as_int8(node, graph)
        call = self._like.lower(node, wide, target)
        w = _rows(node, graph)
        assert w is not None
        layer = linear_layer(node, wide, w)
        quant = tuple(c for c in call.consts if c.name == "quant")
        return replace(
            call,
            variant=self.name,
            sources=(f"dsp/{self.name}.c", "dsp/mac_s8_1x4_sparse_dsp.c"),
            header="ek_sparse.h",
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {_ARGUMENT}, "
                "(const ek_dsp_quant *)(const void *){c.quant}, {out0}, {scratch});"
            ),
            consts=(*_consts(layer.w, _halfwords(layer.w)), *quant),
        )


VARIANTS: list[SparseRef | SparseFullyConnected | SparseConv] = [
    SparseRef("FULLY_CONNECTED", REF_RANK + 1),
    SparseRef("CONV_2D", REF_RANK + 1),
    SparseFullyConnected("FULLY_CONNECTED", 33),
    SparseConv("CONV_2D", 34),
]
