"""Constant folding at import: ONNX nodes whose inputs are all known are evaluated, not converted.

Shape arithmetic (Shape, Gather, Concat, ...) disappears this way. The evaluator is
``onnx.reference``; a result is bounded before it is computed, so that a few bytes of a malformed
file cannot ask for gigabytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import FormatError
from edgekit.formats.onnx_context import Context, Op

if TYPE_CHECKING:
    import onnx

#: Largest constant that folding makes, in elements.
MAX_ELEMENTS = 1 << 26

_ELEMENTWISE = frozenset(
    [
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Mod",
        "Min",
        "Max",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "And",
        "Or",
        "Xor",
        "Not",
        "Where",
        "Sqrt",
        "Reciprocal",
        "Neg",
        "Abs",
        "Floor",
        "Ceil",
        "Round",
        "Sign",
        "Exp",
        "Log",
        "Erf",
        "Sin",
        "Cos",
        "Tanh",
        "Sigmoid",
        "Relu",
        "Clip",
        "Cast",
        "CastLike",
        "Identity",
        "Sum",
        "BitwiseAnd",
        "BitwiseOr",
        "IsNaN",
        "IsInf",
        "Softmax",
        "LeakyRelu",
        "Gelu",
    ]
)
_MOVING = frozenset(
    [
        "Concat",
        "Gather",
        "GatherElements",
        "GatherND",
        "Slice",
        "Unsqueeze",
        "Squeeze",
        "Reshape",
        "Transpose",
        "Size",
        "Split",
        "Flatten",
        "ReduceProd",
        "ReduceSum",
        "ReduceMean",
        "ReduceMin",
        "ReduceMax",
        "ArgMax",
        "ArgMin",
        "CumSum",
        "ScatterND",
        "ScatterElements",
        "NonZero",
        "Trilu",
        "QuantizeLinear",
        "MatMul",
        "Gemm",
        "Compress",
        "TopK",
    ]
)
_SIZED = frozenset({"ConstantOfShape", "Expand", "Tile", "Range", "EyeLike", "Pad"})


def foldable(op: Op) -> bool:
    return op.domain == "" and (op.type in _ELEMENTWISE or op.type in _MOVING or op.type in _SIZED)


def _check_size(op: Op, x: list[np.ndarray | None]) -> None:
    """FormatError when the result would be larger than MAX_ELEMENTS."""
    arrays = [a for a in x if a is not None]
    n: float = sum(a.size for a in arrays)
    if op.type in _ELEMENTWISE:
        n = float(np.prod(np.broadcast_shapes(*(a.shape for a in arrays)), dtype=np.float64))
    elif op.type in ("MatMul", "Gemm"):
        n = float(arrays[0].size) * arrays[1].shape[-1] if arrays[1].ndim else 0.0
    elif op.type in ("ConstantOfShape", "Expand"):
        n = float(np.prod(np.maximum(arrays[-1], 1), dtype=np.float64))
        if op.type == "Expand":
            n *= max(arrays[0].size, 1)
    elif op.type == "Tile":
        n = float(arrays[0].size) * float(np.prod(arrays[1], dtype=np.float64))
    elif op.type == "Range":
        start, limit, step = (float(np.ravel(a)[0]) for a in arrays[:3])
        n = abs((limit - start) / step) if step else float("inf")
    elif op.type == "Pad":
        pads = np.ravel(arrays[1]).astype(np.float64)
        half = arrays[0].ndim
        grown = [d + pads[i] + pads[half + i] for i, d in enumerate(arrays[0].shape)]
        n = float(np.prod(grown)) if pads.size == 2 * half else float(arrays[0].size)
    elif op.type in ("Gather", "GatherND", "GatherElements"):
        n = float(arrays[0].size) * max(arrays[1].size, 1)
        if arrays[0].ndim and op.type == "Gather":
            n /= max(arrays[0].shape[int(op.attr("axis", 0))], 1)
    if not n <= MAX_ELEMENTS:
        raise FormatError(f"node '{op.name}' ({op.type}) makes a constant of {n:.3g} elements")


def constant(op: Op) -> np.ndarray:
    """The value of a Constant node."""
    for key in ("value", "value_float", "value_floats", "value_int", "value_ints"):
        if key in op.attrs:
            dtype = np.float32 if "float" in key else np.int64 if "int" in key else None
            return np.asarray(op.attrs[key], dtype)
    raise FormatError(f"constant '{op.name}' has no numeric value")


def fold(ctx: Context, op: Op, node: onnx.NodeProto) -> bool:
    """Bind the outputs of ``node`` as constants when its inputs are known; False when they aren't."""
    if op.domain:
        return False
    if op.type == "Constant":
        ctx.values[op.y] = constant(op)
        return True
    if op.type == "Shape" and not ctx.is_const(op.x):
        s = ctx.shape(op.x)
        begin, end = int(op.attr("start", 0)), op.attr("end")
        ctx.values[op.y] = np.asarray(s[begin : None if end is None else int(end)], np.int64)
        return True
    if op.type == "Size" and not ctx.is_const(op.x):
        ctx.values[op.y] = np.asarray(np.prod(ctx.shape(op.x), dtype=np.int64))
        return True
    named = [i for i in op.inputs if i is not None]
    if any(i not in ctx.values for i in named):
        return False
    if op.type == "Shape":
        begin, end = int(op.attr("start", 0)), op.attr("end")
        s = ctx.values[op.x].shape
        ctx.values[op.y] = np.asarray(s[begin : None if end is None else int(end)], np.int64)
        return True
    if not foldable(op):
        return False
    x = [ctx.values[i] if i is not None else None for i in op.inputs]
    if x:
        _check_size(op, x)
    for name, value in zip(op.outputs, _evaluate(ctx, op, node), strict=False):
        if name is not None:
            ctx.values[name] = value
    return True


def _evaluate(ctx: Context, op: Op, node: onnx.NodeProto) -> list[np.ndarray]:
    import onnx
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    feeds = {i: ctx.values[i] for i in node.input if i}
    graph = helper.make_graph(
        [node],
        "fold",
        [
            helper.make_tensor_value_info(
                i, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape)
            )
            for i, v in feeds.items()
        ],
        [onnx.ValueInfoProto(name=o) for o in node.output if o],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", ctx.opset)])
    try:
        with np.errstate(all="ignore"):
            out = ReferenceEvaluator(model).run(None, feeds)
    except Exception as e:
        raise FormatError(
            f"constant node '{op.name}' ({op.type}) cannot be evaluated ({type(e).__name__})"
        ) from e
    found = iter(out)
    return [np.asarray(next(found)) if o else np.zeros(0) for o in node.output]
