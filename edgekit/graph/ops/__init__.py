"""Every operator edgekit knows: shape inference, NumPy reference, cost.

One file a family of operators; each registers its :class:`OpSpec` with :func:`register`. Node types
are TFLite's names. What is compile-time is an attribute, and attributes are always complete (a
reader fills in defaults; nobody guesses later). The table (``a`` = ``activation``, one of
``"NONE" "RELU" "RELU6" "RELU_N1_TO_1"``; ``padding`` = ``"SAME"``, ``"VALID"`` or explicit
``(top, bottom, left, right)``; ``stride``, ``dilation``, ``filter``, ``size`` = ``(h, w)``):

======================= =============================== ==========================================
type                    inputs                          attributes
======================= =============================== ==========================================
CONV_2D                 x[N,H,W,C] w[O,kh,kw,C/g] b?[O]  stride dilation padding activation
                                                        (groups g = C / w.shape[3])
DEPTHWISE_CONV_2D       x[N,H,W,C] w[1,kh,kw,C*m] b?     stride dilation padding activation
TRANSPOSE_CONV          x[N,H,W,C] w[O,kh,kw,C] b?       stride padding output_shape=(N,H,W,O)
                                                        activation (padding: of the forward conv)
FULLY_CONNECTED         x[...,I] w[O,I] b?              activation keep_num_dims: bool
                                                        (False: output is [elements/I, O])
MAX_POOL_2D,            x[N,H,W,C]                      filter stride padding activation
AVERAGE_POOL_2D                                         (average: padding does not count)
MEAN SUM REDUCE_MAX     x                               axes=(ints >= 0) keep_dims: bool
ADD SUB MUL DIV         x y (NumPy broadcasting)        activation
MAXIMUM MINIMUM         x y                             -
SQUARED_DIFFERENCE
CONCATENATION           x...                            axis >= 0, activation
PAD                     x                               paddings=((before, after), ...) for every
                                                        dimension; value: float, real units
RESHAPE                 x                               new_shape (complete, no -1)
SQUEEZE                 x                               axes
TRANSPOSE               x                               perm
STRIDED_SLICE           x                               begin end strides (one a dimension, masks
                                                        resolved: what ``range`` takes),
                                                        shrink_axes=(ints)
SPLIT                   x                               axis, sizes (one an output)
RESIZE_NEAREST_NEIGHBOR x[N,H,W,C]                      size align_corners half_pixel_centers
RESIZE_BILINEAR
SOFTMAX                 x (over the last axis)          beta
LOGISTIC TANH RELU      x                               -
RELU6 RELU_N1_TO_1
HARD_SWISH ABS EXP LOG
NEG SQRT RSQRT
LEAKY_RELU              x                               alpha
PRELU                   x alpha (constant, broadcasts)  -
GELU                    x                               approximate: bool (tanh form)
BATCH_MATMUL            x[...,M,K] y[...,K,N]           adj_x adj_y
LAYER_NORM              x gamma[C] beta[C]              epsilon (over the last axis)
QUANTIZE DEQUANTIZE     x                               -   (QUANTIZE int->int requantizes)
ARG_MAX                 x                               axis; the output tensor's dtype counts
GATHER                  x (constant indices in attrs)   axis, indices
======================= =============================== ==========================================

Batch normalization is not an operator: readers lower it to MUL and ADD with constants, and
``compress`` folds those.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import GraphError, UnsupportedError

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph, Node, Tensor


@dataclass(frozen=True)
class Call:
    """What a reference function gets: the node, its tensors' types, the inputs' values.

    ``ins``/``outs`` carry shapes for batch 1; ``x`` may hold more samples along axis 0 when the
    spec says that the node is batchable. ``x[i]`` is None where an optional input is absent;
    constants are passed as values, too.
    """

    node: Node
    ins: Sequence[Tensor | None]
    outs: Sequence[Tensor]
    x: Sequence[np.ndarray | None]


Infer = Callable[["Node", Sequence["Tensor | None"]], list[tuple[int, ...]]]
Reference = Callable[[Call], list[np.ndarray]]
Macs = Callable[["Node", Sequence["Tensor | None"], Sequence["Tensor"]], int]
Batchable = Callable[["Node", Sequence["Tensor | None"], Sequence["Tensor"]], bool]


def _no_macs(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> int:
    return 0


def _always(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> bool:
    return True


@dataclass(frozen=True)
class OpSpec:
    """Everything target-independent about an operator type.

    infer(node, ins) -> output shapes; raises GraphError with a reason (no node name: added here).
    reference(call) -> output values, exact for integer tensors (bytes of TFLite Micro's reference
    kernels), float32 for float tensors; raises UnsupportedError for dtype combinations it lacks.
    macs(node, ins, outs) -> multiply-accumulates of one inference (0 for data movement).
    batchable(node, ins, outs): many samples may be stacked along axis 0 of activations.
    """

    type: str
    infer: Infer
    reference: Reference
    macs: Macs = _no_macs
    batchable: Batchable = _always
    n_inputs: tuple[int, int] = (1, 1)  #: fewest and most inputs, optional ones counted


_REGISTRY: dict[str, OpSpec] = {}

#: Modules that register operators when imported; a new family of operators is one more name here.
_FAMILIES = (
    "conv",
    "dense",
    "pool",
    "elementwise",
    "activation",
    "softmax",
    "movement",
    "resize",
    "norm",
    "quant",
)


def register(spec: OpSpec) -> OpSpec:
    if spec.type in _REGISTRY:
        raise ValueError(f"operator {spec.type} is registered twice")
    _REGISTRY[spec.type] = spec
    return spec


def _load() -> None:
    for family in _FAMILIES:
        importlib.import_module(f"{__name__}.{family}")


def op_types() -> list[str]:
    """All operator types, sorted."""
    _load()
    return sorted(_REGISTRY)


def spec(op_type: str) -> OpSpec:
    """The spec of an operator type; UnsupportedError naming it when there is none."""
    if op_type not in _REGISTRY:
        _load()
    try:
        return _REGISTRY[op_type]
    except KeyError:
        raise UnsupportedError(
            f"operator {op_type} is not implemented; known are {', '.join(op_types())}"
        ) from None


def infer_shapes(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    """Output shapes of ``node`` for the given inputs; GraphError names the node."""
    try:
        s = spec(node.type)
    except UnsupportedError as e:
        raise UnsupportedError(f"node '{node.name}': {e}") from None
    low, high = s.n_inputs
    if not low <= len(ins) <= high:
        raise GraphError(
            f"node '{node.name}' ({node.type}) has {len(ins)} inputs; it takes {low} to {high}"
        )
    try:
        return [tuple(int(d) for d in shape) for shape in s.infer(node, ins)]
    except GraphError as e:
        raise GraphError(f"node '{node.name}' ({node.type}): {e}") from None
    except (IndexError, ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as e:
        shapes = [None if t is None else list(t.shape) for t in ins]
        raise GraphError(
            f"node '{node.name}' ({node.type}) cannot take inputs of shapes {shapes} ({e})"
        ) from None


def check_node(node: Node, graph: Graph) -> None:
    """Raise GraphError unless the declared output shapes are what inference gives."""
    shapes = infer_shapes(node, graph.ins(node))
    declared = [t.shape for t in graph.outs(node)]
    if shapes != declared:
        raise GraphError(
            f"node '{node.name}' ({node.type}) gives {[list(s) for s in shapes]}, "
            f"but its outputs are declared {[list(s) for s in declared]}"
        )


def macs(node: Node, graph: Graph) -> int:
    """Multiply-accumulates of one inference of ``node``."""
    return int(spec(node.type).macs(node, graph.ins(node), graph.outs(node)))
