"""CONV_2D, DEPTHWISE_CONV_2D and TRANSPOSE_CONV.

float32 through BLAS; int8 (per-tensor or per-channel symmetric weights) and int16 activations with
int8 weights exactly as TensorFlow Lite Micro's reference kernels; uint8 with asymmetric uint8
weights as TensorFlow Lite's (Micro has no uint8 convolution). Explicit padding is the same sum with
other limits; a .tflite file has it as PAD before VALID.

Integer sums are taken by BLAS in floating point where that is exact: every partial sum is an
integer below 2**24 (float32) or 2**53 (float64), bounded by sum |w| * max |x - zero_point|.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Node, QuantParams, Tensor
from edgekit.graph.ops import Call, OpSpec, register

#: Elements of a chunk's patch matrix and of its accumulators: what stays in cache.
_PATCH_ELEMENTS = 1 << 20
_ACC_ELEMENTS = 1 << 18


# -- shapes ------------------------------------------------------------------------------------


def check_shapes(ins: Sequence[Tensor | None], ranks: Sequence[int]) -> list[Tensor]:
    """The required inputs; GraphError for a missing one, a wrong rank or an empty dimension."""
    found: list[Tensor] = []
    for i, rank in enumerate(ranks):
        t = ins[i] if i < len(ins) else None
        if t is None:
            raise GraphError(f"input {i} is missing")
        if len(t.shape) != rank:
            raise GraphError(f"input {i} has shape {list(t.shape)}; {rank} dimensions are needed")
        if min(t.shape, default=1) < 1:
            raise GraphError(f"input {i} has shape {list(t.shape)}, with an empty dimension")
        found.append(t)
    return found


def check_bias(ins: Sequence[Tensor | None], index: int, channels: int) -> None:
    bias = ins[index] if len(ins) > index else None
    if bias is not None and bias.elements != channels:
        raise GraphError(f"the bias has {bias.elements} elements for {channels} output channels")


def _groups(x: Tensor, w: Tensor) -> int:
    c, cg, o = x.shape[3], w.shape[3], w.shape[0]
    if c % cg or o % (c // cg):
        raise GraphError(
            f"weights {list(w.shape)} do not fit {c} input channels: input and output channels "
            f"must be multiples of the group count {c}/{cg}"
        )
    return c // cg


def _window(node: Node, in_hw: tuple[int, int], w: Tensor) -> tuple[nm.Padding4, tuple[int, int]]:
    a = node.attrs
    return nm.conv_padding(
        in_hw, (w.shape[1], w.shape[2]), a["stride"], a["padding"], a.get("dilation", (1, 1))
    )


def _infer_conv(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    x, w = check_shapes(ins, (4, 4))
    _groups(x, w)
    check_bias(ins, 2, w.shape[0])
    nm.activation_bounds(node.attrs["activation"])
    _, out = _window(node, (x.shape[1], x.shape[2]), w)
    return [(x.shape[0], *out, w.shape[0])]


def _infer_depthwise(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    x, w = check_shapes(ins, (4, 4))
    if w.shape[0] != 1 or w.shape[3] % x.shape[3]:
        raise GraphError(
            f"depthwise weights {list(w.shape)} do not fit {x.shape[3]} input channels; "
            "[1, kh, kw, channels * multiplier] is needed"
        )
    check_bias(ins, 2, w.shape[3])
    nm.activation_bounds(node.attrs["activation"])
    _, out = _window(node, (x.shape[1], x.shape[2]), w)
    return [(x.shape[0], *out, w.shape[3])]


def _infer_transpose(node: Node, ins: Sequence[Tensor | None]) -> list[tuple[int, ...]]:
    x, w = check_shapes(ins, (4, 4))
    shape = tuple(node.attrs["output_shape"])
    if x.shape[3] != w.shape[3]:
        raise GraphError(f"weights {list(w.shape)} do not fit {x.shape[3]} input channels")
    check_bias(ins, 2, w.shape[0])
    nm.activation_bounds(node.attrs["activation"])
    if len(shape) != 4 or min(shape) < 1 or shape[0] != x.shape[0] or shape[3] != w.shape[0]:
        raise GraphError(
            f"output_shape {list(shape)} must be [{x.shape[0]}, height, width, {w.shape[0]}]"
        )
    _, back = _window(node, (shape[1], shape[2]), w)
    if back != x.shape[1:3]:
        raise GraphError(
            f"a convolution of the output {list(shape[1:3])} gives {list(back)}, "
            f"not the input's {list(x.shape[1:3])}"
        )
    return [shape]


# -- cost --------------------------------------------------------------------------------------


def _taps(w: Tensor) -> int:
    return w.elements // w.shape[0]


def _macs_conv(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> int:
    w = ins[1]
    assert w is not None
    return outs[0].elements * _taps(w)


def _macs_depthwise(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> int:
    w = ins[1]
    assert w is not None
    return outs[0].elements * w.shape[1] * w.shape[2]


def _macs_transpose(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> int:
    x, w = ins[0], ins[1]
    assert x is not None and w is not None
    return x.elements * w.elements // w.shape[3]


def constant_weights(node: Node, ins: Sequence[Tensor | None], outs: Sequence[Tensor]) -> bool:
    """Batchable where only the first input is an activation."""
    return all(t is None or t.is_const for t in ins[1:])


# -- arithmetic --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """A linear operator with its zero points removed: what its sums are and how they leave.

    x: float values ``x - zero_point``; w: float weights; bias: int64 (or float32) ``[O]`` or None.
    The float type holds every partial sum exactly.
    """

    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    mult: np.ndarray | None
    shift: np.ndarray | None
    zero_point: int
    limits: tuple[int, int]
    dtype: str
    activation: str
    overflows: bool
    wide: bool

    def finish(self, acc: np.ndarray) -> np.ndarray:
        """Accumulators (channels last) -> output values."""
        if self.mult is None or self.shift is None:
            if self.bias is not None:
                acc = acc + self.bias
            return nm.clamp_float(acc, self.activation).astype(np.float32, copy=False)
        total = acc.astype(np.int64)
        if self.bias is not None:
            total += self.bias
        if self.overflows:
            total = nm.wrap32(total)
        return nm.requantize(
            total,
            self.mult,
            self.shift,
            zero_point=self.zero_point,
            limits=self.limits,
            dtype=self.dtype,
            wide=self.wide,
        )


def _quant(t: Tensor, what: str) -> QuantParams:
    if t.quant is None:
        raise UnsupportedError(
            f"the {what} '{t.name}' is {t.dtype} without quantization parameters"
        )
    return t.quant


def linear(call: Call, channel_axis: int) -> Linear:
    """Prepare a convolution or fully connected layer for its type combination.

    channel_axis: the output-channel axis of the weights. UnsupportedError for combinations that
    neither TFLite Micro nor TFLite computes.
    """
    xt, wt, out = call.ins[0], call.ins[1], call.outs[0]
    x, w = call.x[0], call.x[1]
    bt = call.ins[2] if len(call.ins) > 2 else None
    b = call.x[2] if bt is not None else None
    assert xt is not None and wt is not None and x is not None and w is not None
    kinds = (xt.dtype, "int8" if wt.dtype == "int4" else wt.dtype, out.dtype)
    if any(t is not None and t.data is None for t in call.ins[1:]) and wt.shape != w.shape:
        raise UnsupportedError("weights that are computed at run time cannot hold many samples")
    activation = call.node.attrs["activation"]
    if kinds == ("float32",) * 3:
        bias = None if b is None else b.ravel()
        return Linear(x, w, bias, None, None, 0, (0, 0), "float32", activation, False, False)
    if kinds not in (("int8",) * 3, ("uint8",) * 3, ("int16", "int8", "int16")):
        raise UnsupportedError(
            f"{call.node.type} of {xt.dtype} input, {wt.dtype} weights and {out.dtype} output; "
            "float32, int8, uint8 and int16 with int8 weights are implemented"
        )
    qx, qw, qo = _quant(xt, "input"), _quant(wt, "weight tensor"), _quant(out, "output")
    fully_connected = call.node.type == "FULLY_CONNECTED"
    if np.any(qw.zero_point) and not (
        qw.scale.size == 1 and (kinds[0] == "uint8" or fully_connected)
    ):
        raise UnsupportedError(
            f"the {wt.dtype} weights '{wt.name}' have a zero point; they must be symmetric"
        )
    wide = kinds[0] == "int16"
    if wide and (qx.zp or qo.zp):
        raise UnsupportedError("int16 activations with a zero point; they must be symmetric")
    wide_bias = bt is not None and bt.dtype == "int64"
    if bt is not None and bt.dtype != "int32" and not (wide and wide_bias):
        raise UnsupportedError(
            f"a {bt.dtype} bias for {xt.dtype} activations; int32"
            + (" or int64 is" if wide else " is")
            + " implemented"
        )

    mult, shift = nm.conv_multipliers(qx.s, qw.scale, qo.s, wt.shape[channel_axis])
    lo, hi = nm.LIMITS[xt.dtype]
    reach = max(abs(lo - qx.zp), abs(hi - qx.zp))
    narrow = w.astype(np.int16) - np.int16(qw.zp)
    bias = None if b is None else b.ravel().astype(np.int64)
    others = tuple(i for i in range(w.ndim) if i != channel_axis)
    sums = np.abs(narrow).sum(axis=others, dtype=np.int64) * reach
    worst = int(sums.max(initial=0))
    total = worst + (0 if bias is None else int(np.abs(bias.astype(np.float64)).max(initial=0)))
    ftype: type[np.floating] = np.float32 if worst < 1 << 24 else np.float64
    # Micro's int16 convolution accumulates in the bias's type, 64 bits without one; the others
    # always in 64 bits
    wide_acc = wide and (bt is None or wide_bias or call.node.type != "CONV_2D")
    return Linear(
        x.astype(ftype) - np.asarray(qx.zp, ftype),
        narrow.astype(ftype),
        bias,
        mult,
        shift,
        qo.zp,
        nm.activation_range(activation, qo, out.dtype),
        out.dtype,
        activation,
        total >= 1 << 31 and not wide_acc,
        wide_acc,
    )


def _blocks(n: int, rows: int, row_elements: int, budget: int) -> Iterator[tuple[slice, slice]]:
    """Slices of samples and output rows whose size is about ``budget`` elements."""
    if rows * row_elements <= budget:
        step = max(1, budget // (rows * row_elements))
        for i in range(0, n, step):
            yield slice(i, min(n, i + step)), slice(0, rows)
        return
    step = max(1, budget // row_elements)
    for i in range(n):
        for r in range(0, rows, step):
            yield slice(i, i + 1), slice(r, min(rows, r + step))


def _pad_hw(x: np.ndarray, pads: nm.Padding4) -> np.ndarray:
    top, bottom, left, right = pads
    if not any(pads):
        return x
    n, h, w, c = x.shape
    out = np.zeros((n, h + top + bottom, w + left + right, c), x.dtype)
    out[:, top : top + h, left : left + w] = x
    return out


def _patches(
    x: np.ndarray,
    filter_hw: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    *,
    rows: slice,
    width: int,
) -> np.ndarray:
    """Windows of a padded input as a matrix ``[samples * rows * width, kh * kw * C]``."""
    n, _, _, c = x.shape
    kh, kw = filter_hw
    s0, s1, s2, s3 = x.strides
    count = rows.stop - rows.start
    view = x[:, rows.start * stride[0] :]
    outer = (n, count, width)
    outer_strides = (s0, s1 * stride[0], s2 * stride[1])
    if dilation[1] == 1 and s2 == c * s3:  # a row of the window is contiguous: longer copies
        view = as_strided(
            view, (*outer, kh, kw * c), (*outer_strides, s1 * dilation[0], s3), writeable=False
        )
    else:
        view = as_strided(
            view,
            (*outer, kh, kw, c),
            (*outer_strides, s1 * dilation[0], s2 * dilation[1], s3),
            writeable=False,
        )
    return view.reshape(n * count * width, kh * kw * c)


def _reference_conv(call: Call) -> list[np.ndarray]:
    lin = linear(call, 0)
    a = call.node.attrs
    x, w = lin.x, lin.w
    n, h, wd, c = x.shape
    o, kh, kw, cg = w.shape
    groups, per_group = c // cg, o // (c // cg)
    wt = call.ins[1]
    assert wt is not None
    pads, (oh, ow) = _window(call.node, (h, wd), wt)
    matrices = [
        np.ascontiguousarray(w[g * per_group : (g + 1) * per_group].reshape(per_group, -1).T)
        for g in range(groups)
    ]
    out = np.empty((n, oh, ow, o), lin.dtype)
    budget = max(_PATCH_ELEMENTS // (kh * kw * c), _ACC_ELEMENTS // o) * kh * kw * c
    padded: np.ndarray | None = None
    last = slice(-1, -1)
    for ns, rs in _blocks(n, oh, ow * kh * kw * c, min(budget, 4 * _PATCH_ELEMENTS)):
        if padded is None or ns != last:
            padded, last = _pad_hw(x[ns], pads), ns
        acc = np.empty((padded.shape[0] * (rs.stop - rs.start) * ow, o), x.dtype)
        for g in range(groups):
            part = padded[..., g * cg : (g + 1) * cg]
            cols = _patches(part, (kh, kw), a["stride"], a["dilation"], rows=rs, width=ow)
            if groups == 1:
                np.matmul(cols, matrices[0], out=acc)
            else:
                acc[:, g * per_group : (g + 1) * per_group] = cols @ matrices[g]
        out[ns, rs] = lin.finish(acc).reshape(-1, rs.stop - rs.start, ow, o)
    return [out]


def _reference_depthwise(call: Call) -> list[np.ndarray]:
    lin = linear(call, 3)
    a = call.node.attrs
    x, w = lin.x, lin.w[0]
    n, h, wd, c = x.shape
    kh, kw, o = w.shape
    m = o // c
    wt = call.ins[1]
    assert wt is not None
    pads, (oh, ow) = _window(call.node, (h, wd), wt)
    (sh, sw), (dh, dw) = a["stride"], a["dilation"]
    out = np.empty((n, oh, ow, o), lin.dtype)
    padded: np.ndarray | None = None
    last = slice(-1, -1)
    for ns, rs in _blocks(n, oh, ow * o, _ACC_ELEMENTS):
        if padded is None or ns != last:
            padded, last = _pad_hw(x[ns], pads), ns
        rows = rs.stop - rs.start
        acc = np.zeros((padded.shape[0], rows, ow, o), x.dtype)
        term = np.empty_like(acc)
        for i in range(kh):
            top = rs.start * sh + i * dh
            for j in range(kw):
                left = j * dw
                tap = padded[
                    :, top : top + (rows - 1) * sh + 1 : sh, left : left + (ow - 1) * sw + 1 : sw
                ]
                if m > 1:
                    tap = np.repeat(tap, m, axis=3)
                np.multiply(tap, w[i, j], out=term)
                acc += term
        out[ns, rs] = lin.finish(acc)
    return [out]


def _reference_transpose(call: Call) -> list[np.ndarray]:
    lin = linear(call, 0)
    x, w = lin.x, lin.w
    n, h, wd, c = x.shape
    o, kh, kw, _ = w.shape
    wt = call.ins[1]
    assert wt is not None
    sh, sw = call.node.attrs["stride"]
    oh, ow = call.outs[0].shape[1:3]
    (top, _, left, _), _ = _window(call.node, (oh, ow), wt)
    matrix = np.ascontiguousarray(w.transpose(3, 1, 2, 0).reshape(c, kh * kw * o))
    out = np.empty((n, oh, ow, o), lin.dtype)
    ch, cw = max((h - 1) * sh + kh, top + oh), max((wd - 1) * sw + kw, left + ow)
    for i in range(n):
        terms = (x[i].reshape(h * wd, c) @ matrix).reshape(h, wd, kh, kw, o)
        canvas = np.zeros((ch, cw, o), x.dtype)
        for ky in range(kh):
            for kx in range(kw):
                canvas[ky : ky + (h - 1) * sh + 1 : sh, kx : kx + (wd - 1) * sw + 1 : sw] += terms[
                    :, :, ky, kx
                ]
        out[i] = lin.finish(canvas[top : top + oh, left : left + ow])
    return [out]


register(OpSpec("CONV_2D", _infer_conv, _reference_conv, _macs_conv, constant_weights, (2, 3)))
register(
    OpSpec(
        "DEPTHWISE_CONV_2D",
        _infer_depthwise,
        _reference_depthwise,
        _macs_depthwise,
        constant_weights,
        (2, 3),
    )
)
register(
    OpSpec(
        "TRANSPOSE_CONV",
        _infer_transpose,
        _reference_transpose,
        _macs_transpose,
        constant_weights,
        (2, 3),
    )
)
