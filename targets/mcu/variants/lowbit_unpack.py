"""Every int8 kernel for layers of few bits: their weights lie in flash as codes and are unpacked into
scratch before the kernel is called.

This costs a few instructions a weight and inference, and RAM for the layer's weights; scratch only counts
where the arena is fullest, which is seldom where a network has most of its weights. What a kernel's
constants look like is found by looking at them: whole arrays of the weights' values, of pairs of them
(the halfword form), or records with such an array between other constants. Kernels whose constants are
something else take int4 layers with their weights as int8.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from . import REF_RANK, RankedVariant
from .lowbit_codes import UNITS, Codes, as_int8, is_low_bit, weights_of

TYPES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

#: Kernels whose constants are records, not an array of weights: (words before them, words behind).
RECORDS = {
    "conv2d_s8_rows_short_dsp": (6, 4),
    "conv2d_s8_rows_compact_dsp": (2, 2),
    "conv2d_s8_rows_long_dsp": (6, 8),
    "fully_connected_s8_fives_dsp": (5, 0),
}
#: Portable kernels that another one always takes the place of here; each costs seconds to count.
SPARED = ("conv2d_s8_direct_ref", "fully_connected_s8_asymmetric_ref")
_BYTES, _PAIRS = 0, 1  #: ``EK_FORM_*``


@dataclass(frozen=True)
class _Layout:
    """What of a constant becomes codes. rows: uint8 ``[records, bytes]``. head, tail: bytes of each
    before and behind the weights. values: int8 ``[records, n]``, the weights."""

    const: ConstArray
    rows: np.ndarray
    head: int
    tail: int
    form: int
    values: np.ndarray
    codes: Codes

    @property
    def beyond(self) -> int:
        """Bytes that the last unit of a record's codes has beyond them."""
        return -self.values.shape[1] % UNITS[self.codes.bits]


def _pairs(data: np.ndarray) -> np.ndarray:
    """The weights of int8 ``[R, n]`` in the halfword form; where they are none, other values."""
    low = data[:, 0::2]
    high = (data[:, 1::2].astype(np.int16) + (low < 0)).astype(np.int8)
    return np.stack([low, high], axis=2).reshape(data.shape)


def _layout(call: KernelCall, records: int) -> _Layout | str:
    """The constant of ``call`` that is made of the layer's weights, or why there is none."""
    head, tail = (4 * n for n in RECORDS.get(call.variant, (0, 0)))
    name = "stream" if call.variant in RECORDS else "weights"
    const = next((c for c in call.consts if c.name == name), None)
    if const is None or (const.ctype != "int8_t" and name == "weights"):
        return "its weights are not stored as bytes"
    rows = np.ascontiguousarray(const.data).view(np.uint8).reshape(records, -1)
    data = rows[:, head : rows.shape[1] - tail].view(np.int8)
    for form, values in (
        (_BYTES, data),
        (_PAIRS, _pairs(data) if data.shape[1] % 2 == 0 else data),
    ):
        codes = Codes.of(values)
        if codes is not None and codes.bits < 8:
            return _Layout(const, rows, head, tail, form, values, codes)
    return "it stores its weights in another form"


@dataclass(frozen=True)
class Unpacked:
    """``inner`` with its weights unpacked into scratch first."""

    inner: RankedVariant

    @property
    def name(self) -> str:
        return f"{self.inner.name}_unpacked"

    @property
    def op(self) -> str:
        return self.inner.op

    @property
    def rank(self) -> int:
        """Behind the same kernel; a portable one behind those that unpack as they read."""
        return self.inner.rank + (1 if self.inner.rank < REF_RANK - 10 else 10)

    def concerns(self, node: Node, graph: Graph) -> bool:
        return is_low_bit(node, graph)

    def found(self, node: Node, graph: Graph, target: Target) -> tuple[KernelCall, _Layout] | str:
        """The inner kernel's call and what of it becomes codes, or why nothing does."""
        call = self.inner.lower(node, as_int8(node, graph), target)
        outputs = graph.tensor(node.outputs[0]).shape[-1]
        each = {"conv2d": 2, "fully_connected": 5}
        per = next((n for k, n in each.items() if call.variant.startswith(k)), 1)
        layout = _layout(call, -(-outputs // per) if call.variant in RECORDS else 1)
        if isinstance(layout, str):
            return layout
        if layout.const.align > 8 or f"{{c.{layout.const.name}}}" in (call.params or ""):
            return "its weights have to be where the linker puts them"
        return call, layout

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = self.inner.reject(node, as_int8(node, graph), target)
        if reason is not None:
            return reason
        found = self.found(node, graph, target)
        return found if isinstance(found, str) else None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        found = self.found(node, graph, target)
        assert not isinstance(found, str)
        call, at = found
        packed = np.concatenate(
            [
                at.rows[:, : at.head],
                at.codes.pack(at.values),
                at.rows[:, at.rows.shape[1] - at.tail :],
            ],
            axis=1,
        )
        # the fields of ek_unpack_params, in order
        params = (len(at.rows), at.head, at.values.shape[1], at.tail, at.form, at.codes.bits)
        inside = -(-call.scratch_bytes // 8) * 8
        where = f"((uint8_t *){{scratch}} + {inside})"
        consts = [c for c in call.consts if c.name != at.const.name]
        consts += [
            ConstArray("codes", "uint8_t", packed.reshape(-1)),
            ConstArray("unpack", "int32_t", np.array(params, np.int32)),
        ]
        how = "(const ek_unpack_params *)(const void *){c.unpack}, {c.codes}"
        name = "unpack_s4_ref"
        if at.codes.table is not None:
            consts.append(ConstArray("table", "int8_t", at.codes.table))
            how += ", {c.table}"
            name = "unpack_codes_ref"
        pointer = f"((const {at.const.ctype} *)(const void *){where})"
        inner = call.call.replace(f"{{c.{at.const.name}}}", pointer)
        return replace(
            call,
            variant=self.name,
            sources=(*call.sources, f"ref/{name}.c"),
            more_headers=("ek_lowbit.h",),
            call=f"ek_{name}({how}, {where});\n  {inner}",
            consts=tuple(consts),
            scratch_bytes=inside + at.rows.size + max(0, at.beyond - at.tail),
            details={**call.details, "bits": at.codes.bits, "inner_scratch": call.scratch_bytes},
        )


@dataclass(frozen=True)
class Widened:
    """``inner`` with int4 weights stored as int8: where it keeps its weights in a form that codes cannot
    stand for, or for depthwise layers, whose few weights are not what fills the flash."""

    inner: RankedVariant

    @property
    def name(self) -> str:
        return f"{self.inner.name}_widened"

    @property
    def op(self) -> str:
        return self.inner.op

    @property
    def rank(self) -> int:
        return self.inner.rank + (2 if self.inner.rank < REF_RANK - 10 else 20)

    def concerns(self, node: Node, graph: Graph) -> bool:
        t = weights_of(node, graph)
        return t is not None and t.dtype == "int4"

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = self.inner.reject(node, as_int8(node, graph), target)
        if reason is None and node.type != "DEPTHWISE_CONV_2D":
            found = Unpacked(self.inner).found(node, graph, target)
            if not isinstance(found, str):
                reason = "its weights are unpacked instead"
        return reason

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        call = self.inner.lower(node, as_int8(node, graph), target)
        return replace(call, variant=self.name)


def _kernels() -> Iterator[RankedVariant]:
    package = __package__ or ""
    path = importlib.import_module(package).__path__
    for module in pkgutil.iter_modules(path):
        if not module.name.startswith(("_", "lowbit", "sparse")):
            offered = getattr(importlib.import_module(f"{package}.{module.name}"), "VARIANTS", ())
            yield from (v for v in offered if v.op in TYPES and v.name not in SPARED)


VARIANTS = [form(v) for v in _kernels() for form in (Unpacked, Widened)]
