"""edgekit Graph -> TVM Relax module.

One Relax function ``main``: every node becomes one call of a TIR function (``call_tir``), or a
view. Convolutions, fully connected layers, additions and pools are written in vectors
(:mod:`.conv`, :mod:`.elementwise`, :mod:`.pool`); the rest is TE. Integers stay integers: the
bytes are those of :mod:`edgekit.graph.reference`.

No graph-level fusion is asked of TVM: what is worth fusing (padding, bias, requantization, clamp)
is one function already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.graph.ops import macs
from edgekit.graph.ops.pool import mean_multiplier
from edgekit_targets.tvm_ import (
    conv,
    elementwise,
    linear,
    pool,
    softmax,
    te_conv,
    te_matrix,
    te_ops,
)
from edgekit_targets.tvm_.isa import CpuTarget
from edgekit_targets.tvm_.linear import Tile, Window, task_key
from edgekit_targets.tvm_.support import unsupported


@dataclass(frozen=True)
class Lowered:
    """module: the Relax IRModule. plan: one JSON-ready row a node, with the names of its kernels in
    the order of their calls. tasks: what can be tuned, by node name: task key -> :func:`task_key`.
    """

    module: Any
    plan: list[dict[str, Any]]
    tasks: dict[str, str]


@dataclass
class Lowering:
    """State of one lowering. tiles: by task key, from tuning records."""

    graph: Graph
    target: CpuTarget
    tiles: Mapping[str, Tile]
    block: Any
    values: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    _names: list[str] = field(default_factory=list)

    def const(self, data: np.ndarray) -> Any:
        from tvm import relax

        return relax.const(np.ascontiguousarray(data), str(data.dtype))

    def name(self, hint: str) -> str:
        base = re.sub(r"[^a-z0-9_]", "_", hint.lower())[:40]
        name, k = f"ek_{base}", 0
        while name in self._names:
            k += 1
            name = f"ek_{base}_{k}"
        self._names.append(name)
        return name

    def emit_te(self, build: Callable[..., Any], *inputs: Any, hint: str) -> Any:
        var = self.block.emit_te(build, *inputs, primfunc_name_hint=self.name(hint))
        # a function that is there already is called again, under its own name
        self._names[-1] = str(self.block.lookup_binding(var).args[0].name_hint)
        return var

    def call(self, function: Any, name: str, args: Sequence[Any], out: Tensor) -> Any:
        """A call of a TIR function that writes ``out``."""
        from tvm import relax

        var = self.block.add_func(function, name)
        kind = relax.TensorType(out.shape, out.dtype)
        return self.block.emit(relax.call_tir(var, list(args), kind))

    def value(self, name: str | None) -> Any:
        t = self.graph.tensor(name)
        if t.data is not None:
            return self.const(t.data)
        return self.values[t.name]


# -- operators -----------------------------------------------------------------------------------


def _tile(lo: Lowering, node: Node, win: Window, dtype: str, default: Tile) -> Tile:
    key = task_key(node, win, dtype, lo.target)
    lo.tasks[node.name] = key
    tile = lo.tiles.get(key)
    lo.details[node.name] = {"tile": (tile or default).to_json(), "tuned": tile is not None}
    return tile or default


def _float_bias(node: Node, graph: Graph, padded: int) -> np.ndarray:
    bias = np.zeros(padded, np.float32)
    t = graph.ins(node)[2] if len(node.inputs) > 2 else None
    if t is not None and t.data is not None:
        bias[: t.elements] = t.data.ravel()
    return bias


def _lower_linear(lo: Lowering, node: Node) -> list[Any]:
    graph, target = lo.graph, lo.target
    if not linear.is_tiled(node, graph):
        return te_conv.general_conv(lo, node)
    x, w, out_t = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
    assert w.data is not None
    win = linear.window_of(node, graph)
    depthwise = node.type == "DEPTHWISE_CONV_2D"
    tile = _tile(lo, node, win, x.dtype, linear.tiles(node, win, target)[0])
    lanes, dot = target.lanes, target.dot
    out = None
    zero_point = 0
    padded = -(-win.outputs // lanes) * lanes
    if x.dtype == "int8":
        assert x.quant is not None and w.quant is not None
        offset = 0 if depthwise else dot.x_offset
        out = linear.outgoing(node, graph, target, offset, 3 if depthwise else 0)
        zero_point = x.quant.zp
        table = out.table.ravel()
        wide = w.data.astype(np.int16)
        if np.any(w.quant.zero_point):
            wide = wide - np.int16(w.quant.zp)
        group, w_dtype = dot.group, dot.w_dtype
    else:
        table = _float_bias(node, graph, padded)
        wide, group, w_dtype = w.data, 1, "float32"
    if depthwise:
        packed = np.zeros((*win.kernel, padded), "int8" if out else "float32")
        packed[..., : win.outputs] = wide[0]
        packed = packed.ravel()
        pairs = out is not None and bool(np.all(wide > -128))
        make = partial(conv.depthwise_function, pairs=pairs)
    else:
        shaped = wide.reshape(win.outputs, *win.kernel, win.channels)
        packed = linear.pack_weights(shaped, win, group, lanes, tile.vectors, w_dtype)
        make = partial(conv.linear_function)
    name = lo.name(f"{node.type}_{node.name}")
    lo.details[node.name]["function"] = name
    shapes = [
        (x.shape, x.dtype),
        (packed.shape, str(packed.dtype)),
        (table.shape, str(table.dtype)),
        (out_t.shape, out_t.dtype),
    ]
    bounds = nm.activation_bounds(node.attrs["activation"])
    function = make(name, win, target, tile, shapes, out=out, zero_point=zero_point, bounds=bounds)
    args = [lo.value(node.inputs[0]), lo.const(packed), lo.const(table)]
    return [lo.call(function, name, args, out_t)]


def _lower_pool(lo: Lowering, node: Node) -> list[Any]:
    x, out = lo.graph.tensor(node.inputs[0]), lo.graph.outs(node)[0]
    a = node.attrs
    pads, out_hw = nm.conv_padding(x.shape[1:3], a["filter"], a["stride"], a["padding"])  # type: ignore[arg-type]
    kind = "max" if node.type == "MAX_POOL_2D" else "average"
    win = pool.PoolWindow(kind, tuple(a["filter"]), tuple(a["stride"]), pads, out_hw)
    limits: tuple[float | None, float | None] = nm.activation_bounds(a["activation"])
    if not out.is_float:
        limits = nm.activation_range(a["activation"], out.quant, out.dtype)
    name = lo.name(f"{node.type}_{node.name}")
    function = pool.pool_function(name, win, x, out, lo.target.lanes, limits)
    return [lo.call(function, name, [lo.value(node.inputs[0])], out)]


def _lower_reduction(lo: Lowering, node: Node) -> list[Any]:
    x, out = lo.graph.tensor(node.inputs[0]), lo.graph.outs(node)[0]
    spatial = len(x.shape) == 4 and x.shape[0] == 1 and sorted(node.attrs["axes"]) == [1, 2]
    if node.type != "MEAN" or not spatial:
        return [te_ops.reduction(lo, node, [lo.value(node.inputs[0])], [x], out)]
    kernel = (x.shape[1], x.shape[2])
    win = pool.PoolWindow("mean", kernel, kernel, (0, 0, 0, 0), (1, 1))
    mean, limits = None, (None, None)
    if not out.is_float:
        assert x.quant is not None and out.quant is not None
        n = kernel[0] * kernel[1]
        mean = (*mean_multiplier(x.quant.s, out.quant.s, n), x.quant.zp * n)
        limits = nm.LIMITS[out.dtype]  # type: ignore[assignment]
    name = lo.name(f"{node.type}_{node.name}")
    function = pool.pool_function(name, win, x, out, lo.target.lanes, limits, mean)
    return [lo.call(function, name, [lo.value(node.inputs[0])], out)]


def _lower_binary(lo: Lowering, node: Node) -> list[Any]:
    x, y = lo.graph.tensor(node.inputs[0]), lo.graph.tensor(node.inputs[1])
    out = lo.graph.outs(node)[0]
    args = [lo.value(i) for i in node.inputs]
    if (
        node.type in ("ADD", "SUB")
        and out.dtype in ("int8", "uint8")
        and x.shape == y.shape
        and out.elements >= lo.target.lanes
    ):
        name = lo.name(f"{node.type}_{node.name}")
        function = elementwise.add_function(name, node, [x, y], out, lo.target.lanes)
        return [lo.call(function, name, args, out)]
    return [te_ops.binary(lo, node, args, [x, y], out)]


def _lower_softmax(lo: Lowering, node: Node) -> list[Any]:
    x, out = lo.graph.tensor(node.inputs[0]), lo.graph.outs(node)[0]
    arg = lo.value(node.inputs[0])
    if x.is_float:
        return [te_ops.softmax_float(lo, node, [arg], [x], out)]
    name = lo.name(f"softmax_{node.name}")
    function = softmax.softmax_function(name, x, out)
    return [lo.call(function, name, [arg, lo.const(softmax.softmax_table(node, x))], out)]


def _lower_unary(lo: Lowering, node: Node) -> list[Any]:
    ins = [t for t in lo.graph.ins(node) if t is not None]
    out = lo.graph.outs(node)[0]
    args = [lo.value(i) for i in node.inputs]
    if node.type == "PRELU" and (out.is_float or ins[1].elements > 1):
        return [te_matrix.prelu(lo, node, args, ins, out)]
    if ins[0].dtype in ("int8", "uint8"):
        return [te_ops.table(lo, node, args, ins, out)]
    if node.type == "QUANTIZE":
        return [te_ops.quantize_float(lo, node, args, ins, out)]
    if node.type == "DEQUANTIZE":
        return args[:1]
    return [te_ops.float_unary(lo, node, args, ins, out)]


def _lower_view(lo: Lowering, node: Node) -> list[Any]:
    from tvm import relax

    out = lo.graph.outs(node)[0]
    return [lo.block.emit(relax.op.reshape(lo.value(node.inputs[0]), out.shape))]


def _lower_arg_max(lo: Lowering, node: Node) -> list[Any]:
    from tvm import topi

    out, axis = lo.graph.outs(node)[0], int(node.attrs["axis"])

    def build(x: Any) -> Any:
        return topi.cast(topi.argmax(x, axis=axis), out.dtype)

    return [lo.emit_te(build, lo.value(node.inputs[0]), hint="arg_max")]


def _te(function: Callable[..., Any]) -> Callable[[Lowering, Node], list[Any]]:
    def lower(lo: Lowering, node: Node) -> list[Any]:
        ins = [t for t in lo.graph.ins(node) if t is not None]
        args = [lo.value(t.name) for t in ins]
        return [function(lo, node, args, ins, lo.graph.outs(node)[0])]

    return lower


def _lower_split(lo: Lowering, node: Node) -> list[Any]:
    return te_ops.split(lo, node, [lo.value(node.inputs[0])], lo.graph.outs(node))


_UNARY = [
    "LOGISTIC",
    "TANH",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "HARD_SWISH",
    "ABS",
    "EXP",
    "NEG",
    "SQRT",
    "RSQRT",
    "LEAKY_RELU",
    "GELU",
    "PRELU",
    "QUANTIZE",
    "DEQUANTIZE",
]
_BINARY = ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"]

_LOWER: dict[str, Callable[[Lowering, Node], list[Any]]] = {
    **dict.fromkeys(
        ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"), _lower_linear
    ),
    **dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D"), _lower_pool),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX"), _lower_reduction),
    **dict.fromkeys(_BINARY, _lower_binary),
    **dict.fromkeys(_UNARY, _lower_unary),
    **dict.fromkeys(("RESHAPE", "SQUEEZE"), _lower_view),
    "SOFTMAX": _lower_softmax,
    "ARG_MAX": _lower_arg_max,
    "SPLIT": _lower_split,
    "CONCATENATION": _te(te_ops.concatenation),
    "PAD": _te(te_ops.pad),
    "TRANSPOSE": _te(te_ops.transpose),
    "STRIDED_SLICE": _te(te_ops.strided_slice),
    "GATHER": _te(te_ops.gather),
    "RESIZE_NEAREST_NEIGHBOR": _te(te_ops.resize_nearest),
    "RESIZE_BILINEAR": _te(te_ops.resize_bilinear),
    "BATCH_MATMUL": _te(te_matrix.batch_matmul),
    "LAYER_NORM": _te(te_matrix.layer_norm_float),
}


def lower(
    graph: Graph,
    target: CpuTarget,
    *,
    tiles: Mapping[str, Tile] | None = None,
) -> Lowered:
    """The Relax module of ``graph``. UnsupportedError names every node it cannot take.

    tiles: tuned tiles by :func:`task_key`.
    """
    from tvm import relax

    missing = unsupported(graph, target)
    if missing:
        first = missing[0]
        raise UnsupportedError(
            f"node '{first.node}' ({first.op}): {first.reason}",
            [(u.node, u.op, u.reason) for u in missing],
        )
    block = relax.BlockBuilder()
    lo = Lowering(graph, target, tiles or {}, block)
    params = []
    for k, name in enumerate(graph.inputs):
        t = graph.tensor(name)
        var = relax.Var(f"input_{k}", relax.TensorType(t.shape, t.dtype))
        lo.values[name] = var
        params.append(var)
    plan: list[dict[str, Any]] = []
    with block.function("main", params):
        with block.dataflow():
            for node in graph.nodes:
                known = len(lo._names)
                results = _LOWER[node.type](lo, node)
                lo.values.update(zip(node.outputs, results, strict=True))
                row = {"name": node.name, "op": node.type, "macs": macs(node, graph)}
                row["functions"] = lo._names[known:]
                plan.append({**row, **lo.details.get(node.name, {})})
            results = [lo.value(o) for o in graph.outputs]
            final = block.emit_output(relax.Tuple(results))
        block.emit_func_output(final)
    return Lowered(block.finalize() if hasattr(block, "finalize") else block.get(), plan, lo.tasks)
