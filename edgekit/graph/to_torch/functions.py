"""Torch forms of elementwise operators, reductions, normalization and data movement (NHWC)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Node, Tensor
from edgekit.graph.to_torch.layers import Builder, Step, Value, activation, given, tensor_of

Ins = Sequence["Tensor | None"]
Outs = Sequence[Tensor]
Values = Sequence["Value | None"]


def _samples(value: Value, declared: Tensor) -> int:
    """How many samples are stacked along axis 0."""
    return value.shape[0] // declared.shape[0] if declared.shape else 1


# -- elementwise -----------------------------------------------------------------------------------


def _unary(f: Callable[[Value], Value]) -> Builder:
    def build(node: Node, ins: Ins, outs: Outs) -> Step:
        return lambda x: [f(given(x, 0))]

    return build


def _binary(f: Callable[[Value, Value], Value]) -> Builder:
    def build(node: Node, ins: Ins, outs: Outs) -> Step:
        act = activation(node)
        return lambda x: [act(f(given(x, 0), given(x, 1)))]

    return build


def _leaky_relu(node: Node, ins: Ins, outs: Outs) -> Step:
    alpha = float(node.attrs["alpha"])
    return lambda x: [F.leaky_relu(given(x, 0), alpha)]


def _gelu(node: Node, ins: Ins, outs: Outs) -> Step:
    form = "tanh" if node.attr("approximate", False) else "none"
    return lambda x: [F.gelu(given(x, 0), approximate=form)]


def _prelu(x: Value, alpha: Value) -> Value:
    return torch.where(x >= 0, x, x * alpha)


def _softmax(node: Node, ins: Ins, outs: Outs) -> Step:
    beta = float(node.attr("beta", 1.0))
    return lambda x: [torch.softmax(given(x, 0) * beta, -1)]


def _layer_norm(node: Node, ins: Ins, outs: Outs) -> Step:
    epsilon, size = float(node.attrs["epsilon"]), tensor_of(ins).shape[-1:]
    return lambda x: [F.layer_norm(given(x, 0), size, given(x, 1), given(x, 2), epsilon)]


def _to_float(node: Node, ins: Ins, outs: Outs) -> Step:
    if not tensor_of(ins).is_float or not outs[0].is_float:
        raise UnsupportedError(
            f"node '{node.name}' ({node.type}) converts {tensor_of(ins).dtype} to {outs[0].dtype}; "
            "torch modules take float graphs"
        )
    return lambda x: [given(x, 0)]


# -- reductions ------------------------------------------------------------------------------------


def _reduce(f: Callable[..., Value]) -> Builder:
    def build(node: Node, ins: Ins, outs: Outs) -> Step:
        axes, keep = tuple(int(a) for a in node.attrs["axes"]), bool(node.attrs["keep_dims"])
        if not axes:
            return lambda x: [given(x, 0)]
        return lambda x: [f(given(x, 0), dim=axes, keepdim=keep)]

    return build


def _arg_max(node: Node, ins: Ins, outs: Outs) -> Step:
    axis, dtype = int(node.attrs["axis"]), getattr(torch, outs[0].dtype)
    return lambda x: [torch.argmax(given(x, 0), axis).to(dtype)]


# -- movement --------------------------------------------------------------------------------------


def _concatenation(node: Node, ins: Ins, outs: Outs) -> Step:
    axis, act = int(node.attrs["axis"]), activation(node)
    varying = [i for i, t in enumerate(ins) if t is not None and not t.is_const]

    def step(x: Values) -> list[Value]:
        samples = _samples(given(x, varying[0]), tensor_of(ins, varying[0])) if varying else 1
        parts = []
        for i in range(len(x)):
            v = given(x, i)
            if samples > 1 and v.shape[0] == tensor_of(ins, i).shape[0]:
                v = v.repeat(samples, *([1] * (v.ndim - 1)))
            parts.append(v)
        return [act(torch.cat(parts, axis))]

    return step


def _pad(node: Node, ins: Ins, outs: Outs) -> Step:
    flat = [int(p) for pair in reversed(node.attrs["paddings"]) for p in pair]
    value = float(node.attr("value", 0.0))
    return lambda x: [F.pad(given(x, 0), flat, value=value)]


def _reshape(node: Node, ins: Ins, outs: Outs) -> Step:
    t, shape = tensor_of(ins), outs[0].shape

    def step(x: Values) -> list[Value]:
        v = given(x, 0)
        samples = _samples(v, t)
        return [v.reshape((samples * shape[0], *shape[1:]) if samples > 1 else shape)]

    return step


def _transpose(node: Node, ins: Ins, outs: Outs) -> Step:
    perm = tuple(int(p) for p in node.attrs["perm"])
    return lambda x: [given(x, 0).permute(perm)]


def _strided_slice(node: Node, ins: Ins, outs: Outs) -> Step:
    t, a = tensor_of(ins), node.attrs
    ranges = [
        range(int(b), int(e), int(s))
        for b, e, s in zip(a["begin"], a["end"], a["strides"], strict=True)
    ]
    shrink = sorted((int(d) for d in a.get("shrink_axes", ())), reverse=True)

    def step(x: Values) -> list[Value]:
        v = given(x, 0)
        many = _samples(v, t) > 1
        for d, r in enumerate(ranges):
            if r == range(t.shape[d]) or (d == 0 and many):
                continue
            if r.step > 0:
                v = v[(slice(None),) * d + (slice(r.start, r.stop, r.step),)]
            else:  # torch slices only forwards
                v = v.index_select(d, torch.tensor(list(r), device=v.device))
        for d in shrink:
            v = v.squeeze(d)
        return [v]

    return step


def _split(node: Node, ins: Ins, outs: Outs) -> Step:
    axis, sizes = int(node.attrs["axis"]), [int(s) for s in node.attrs["sizes"]]
    return lambda x: list(torch.split(given(x, 0), sizes, axis))


def _gather(node: Node, ins: Ins, outs: Outs) -> Step:
    axis = int(node.attrs["axis"])
    indices = torch.tensor(node.attrs["indices"], dtype=torch.int64)

    def step(x: Values) -> list[Value]:
        v = given(x, 0)
        y = v.index_select(axis, indices.reshape(-1).to(v.device))
        return [y.reshape(*v.shape[:axis], *indices.shape, *v.shape[axis + 1 :])]

    return step


BUILDERS: dict[str, Builder] = {
    "LOGISTIC": _unary(torch.sigmoid),
    "TANH": _unary(torch.tanh),
    "RELU": _unary(F.relu),
    "RELU6": _unary(F.relu6),
    "RELU_N1_TO_1": _unary(F.hardtanh),
    "HARD_SWISH": _unary(F.hardswish),
    "ABS": _unary(torch.abs),
    "EXP": _unary(torch.exp),
    "LOG": _unary(torch.log),
    "NEG": _unary(torch.neg),
    "SQRT": _unary(torch.sqrt),
    "RSQRT": _unary(torch.rsqrt),
    "LEAKY_RELU": _leaky_relu,
    "GELU": _gelu,
    "PRELU": _binary(_prelu),
    "ADD": _binary(torch.add),
    "SUB": _binary(torch.sub),
    "MUL": _binary(torch.mul),
    "DIV": _binary(torch.div),
    "MAXIMUM": _binary(torch.maximum),
    "MINIMUM": _binary(torch.minimum),
    "SQUARED_DIFFERENCE": _binary(lambda x, y: (x - y) ** 2),
    "SOFTMAX": _softmax,
    "LAYER_NORM": _layer_norm,
    "MEAN": _reduce(torch.mean),
    "SUM": _reduce(torch.sum),
    "REDUCE_MAX": _reduce(torch.amax),
    "ARG_MAX": _arg_max,
    "CONCATENATION": _concatenation,
    "PAD": _pad,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
    "SPLIT": _split,
    "GATHER": _gather,
    "DEQUANTIZE": _to_float,
    "QUANTIZE": _to_float,
}
