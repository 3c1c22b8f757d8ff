"""What passes between kernel variants and the code generator of the ``mcu`` family.

A *variant* is one way to run one node: a C function in ``kernels/``, the constants it wants (packed
for it), its scratch, and the C statement that calls it. ``variants/`` holds one file an operator
family; ``codegen`` knows none of them by name. Which variant a node gets is decided once, in
``choose``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target


@dataclass(frozen=True)
class ConstArray:
    """A constant in flash: ``static const <ctype> <name>[]`` aligned to ``align`` bytes.

    name: short and unique within the call (``weights``, ``bias``, ``mult``); the code generator
    makes it unique in the file. data: 1-D after packing; dtype must fit ctype.
    """

    name: str
    ctype: str  #: ``int8_t``, ``uint8_t``, ``int16_t``, ``int32_t``, ``uint32_t``
    data: np.ndarray
    align: int = 4


@dataclass(frozen=True)
class KernelCall:
    """One node, lowered.

    sources: C files the call needs, relative to ``kernels/`` (``ref/conv2d_s8.c``), headers excluded
    (every kernel header is in ``kernels/include/`` and is copied with its source's ``#include``s).
    header: the header that declares the function, relative to ``kernels/include/``.
    params_type, params: a C struct type and initializer text without the outer declaration
    (``{ .in_h = 32, ... }``); the code generator emits ``static const <type> <unique name> = ...``.
    Inside ``params`` the name of a constant may be used as ``{c.weights}``.
    call: the C statement, with placeholders ``{p}`` (the params struct's name; pass ``&{p}``),
    ``{in0}``, ``{in1}``, ... (pointers, already cast to ``const <ctype of the tensor> *``; for
    constant activation inputs they point to flash), ``{out0}``, ... , ``{scratch}`` (``void *``,
    8-byte aligned), ``{c.<name>}`` (the constant arrays). Literal braces are doubled.
    scratch_bytes: exactly what the C function's own ``*_scratch_bytes`` says.
    inplace: (input index, output index) pairs that may share one buffer.
    more_headers: further headers of a call that is more than one function.
    macs_note: free text for ``--explain``.
    """

    variant: str
    sources: Sequence[str]
    header: str
    call: str
    params_type: str | None = None
    params: str | None = None
    consts: Sequence[ConstArray] = ()
    scratch_bytes: int = 0
    inplace: Sequence[tuple[int, int]] = ()
    details: Mapping[str, object] = field(default_factory=dict)
    more_headers: Sequence[str] = ()


class Variant(Protocol):
    """One way to run one operator type on a microcontroller."""

    name: str  #: the C file's stem, such as ``conv2d_s8_dsp``
    op: str  #: node type

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        """None when the variant applies to this node on this target, else the reason it does not."""
        ...

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall: ...
