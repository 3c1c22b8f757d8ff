"""Random int8 cases of everything that is no weighted sum: unary functions, softmax, movement,
resizing, normalization, conversions. Adds its generators to ``opgen.CASES``.

Not everything here exists in TensorFlow Lite Micro: ``in_oracle(graph)`` says whether a drawn case
can be compared with it; the others are edgekit's own definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import opgen
from opgen import Case, act_quant, case, chance, pick, scale, single

from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.ops import infer_shapes
from edgekit.graph.ops.norm import quantize_layer_norm

Rng = np.random.Generator

#: Operators that TensorFlow Lite Micro lacks altogether, or lacks for int8.
NOT_IN_TFLM = frozenset({"RELU_N1_TO_1", "GELU", "LAYER_NORM", "EXP", "LOG", "NEG", "SQRT"})


def in_oracle(graph: Graph) -> bool:
    """Whether TensorFlow Lite Micro computes this single-node graph as edgekit defines it."""
    node = graph.nodes[0]
    x, out = graph.ins(node)[0], graph.outs(node)[0]
    assert x is not None
    if node.type == "CONCATENATION":
        same = all(t is not None and t.quant.same_as(out.quant) for t in graph.ins(node))
        return same and node.attrs["activation"] == "NONE" and len(node.inputs) <= 10
    if node.type == "RELU6":
        return x.quant is not None and x.quant.same_as(out.quant)
    if node.type in ("LOGISTIC", "TANH"):
        fixed = (1 / 256, -128) if node.type == "LOGISTIC" else (1 / 128, 0)
        return out.quant is not None and (out.quant.s, out.quant.zp) == fixed
    if node.type == "QUANTIZE":
        return (x.dtype, out.dtype) != ("float32", "uint8")
    return node.type not in NOT_IN_TFLM


# -- shapes ----------------------------------------------------------------------------------------


def shape_of(rng: Rng, rank: int | None = None, limit: int = 9) -> tuple[int, ...]:
    """Random dimensions, the leading one usually 1."""
    rank = int(rng.integers(1, 5)) if rank is None else rank
    lead = 1 if rank > 1 and not chance(rng, 0.15) else int(rng.integers(1, 4))
    return (lead, *(int(rng.integers(1, limit)) for _ in range(rank - 1)))


def _x(rng: Rng, shape: Sequence[int], quant: QuantParams | None = None) -> Tensor:
    quant = act_quant(rng, "int8") if quant is None else quant
    return Tensor("x", tuple(shape), "int8", quant)


def _same(rng: Rng, op: str, x: Tensor, attrs: dict[str, Any]) -> Case:
    """A node whose output has the quantization of its input."""
    return case(rng, single(op, [x], attrs, x.dtype, x.quant))


# -- unary -----------------------------------------------------------------------------------------


def _every_value(rng: Rng, g: Graph, low: int = -128) -> Case:
    """All 256 (or the allowed) values in one sample, in random order, then random samples."""
    t = g.tensors["x"]
    values = np.resize(np.arange(low, 128), t.elements).astype(np.int8)
    samples = [rng.permutation(values)]
    samples += [rng.integers(low, 128, t.elements).astype(np.int8) for _ in range(2)]
    tail = t.shape[1:] if t.shape[0] == 1 else t.shape
    return g, [np.stack([s.reshape(tail) for s in samples])]


def _unary_shape(rng: Rng) -> tuple[int, ...]:
    return pick(rng, ((1, 256), (1, 16, 16), (1, 4, 9, 8), (1, 300), (1, 2, 2, 65)))


def unary(op: str) -> Callable[[Rng], Case]:
    """A generator of ``op`` with scales at which the function bends inside the int8 range."""

    def generate(rng: Rng) -> Case:
        s = scale(rng, -9, 0)
        zp = pick(rng, (-128, 127, 0, int(rng.integers(-128, 128)), int(rng.integers(-128, 128))))
        attrs: dict[str, Any] = {}
        q_in, q_out = QuantParams.per_tensor(s, zp), act_quant(rng, "int8", s * scale(rng, -3, 3))
        low = -128
        if op in ("LOGISTIC", "TANH"):
            q_out = QuantParams.per_tensor(*((1 / 256, -128) if op == "LOGISTIC" else (1 / 128, 0)))
            if chance(rng, 0.15):
                q_out = act_quant(rng, "int8", scale(rng, -9, -5))
        elif op in ("RELU6", "RELU_N1_TO_1"):
            q_out = q_in if chance(rng, 0.7) else q_out
        elif op == "ABS":
            q_out = q_out if chance(rng, 0.7) else act_quant(rng, "int8", s)
        elif op == "LEAKY_RELU":
            attrs["alpha"] = float(np.float32(rng.uniform(-0.5, 1.5)))
        elif op == "GELU":
            attrs["approximate"] = chance(rng, 0.5)
        elif op in ("EXP", "LOG", "SQRT", "RSQRT"):
            q_out = act_quant(rng, "int8", scale(rng, -7, 3))
            low = zp if op == "RSQRT" else -128  # TFLite Micro refuses the root of less than 0
        g = single(op, [_x(rng, _unary_shape(rng), q_in)], attrs, "int8", q_out)
        return _every_value(rng, g, low)

    return generate


def prelu(rng: Rng) -> Case:
    shape = shape_of(rng, 4)
    x = _x(rng, shape)
    assert x.quant is not None
    tail = pick(
        rng, ((1, 1, shape[3]), (shape[1], shape[2], shape[3]), (1, 1, 1), (1, shape[2], 1))
    )
    q = QuantParams.per_tensor(scale(rng, -10, -6), int(rng.integers(-20, 20)))
    alpha = Tensor("alpha", tail, "int8", q, opgen.fill(rng, tail, "int8"))
    out = act_quant(rng, "int8", x.quant.s * scale(rng, -2, 3))
    return case(rng, single("PRELU", [x, alpha], {}, "int8", out))


def softmax(rng: Rng) -> Case:
    x = _x(rng, (*shape_of(rng, int(rng.integers(1, 4))), int(rng.integers(1, 50))))
    beta = 1.0 if chance(rng, 0.7) else float(np.float32(rng.uniform(0.2, 3)))
    if chance(rng, 0.15):
        q = QuantParams.per_tensor(2.0**-16, -32768)
        return case(rng, single("SOFTMAX", [x], {"beta": beta}, "int16", q))
    q = QuantParams.per_tensor(2.0**-8, -128)
    return case(rng, single("SOFTMAX", [x], {"beta": beta}, "int8", q))


# -- movement --------------------------------------------------------------------------------------


def concatenation(rng: Rng) -> Case:
    shape = shape_of(rng)
    axis = int(rng.integers(0 if shape[0] > 1 or len(shape) == 1 else 1, len(shape)))
    quant = act_quant(rng, "int8")
    requantize = chance(rng, 0.2)
    tensors: list[Tensor | None] = []
    for i in range(int(rng.integers(1, 5))):
        s = list(shape)
        s[axis] = int(rng.integers(1, 9))
        q = act_quant(rng, "int8") if requantize else quant
        data = opgen.fill(rng, s, "int8") if i > 0 and chance(rng, 0.2) else None
        tensors.append(Tensor(f"x{i}", tuple(s), "int8", q, data))
    attrs = {"axis": axis, "activation": "RELU" if chance(rng, 0.1) else "NONE"}
    return case(rng, single("CONCATENATION", tensors, attrs, "int8", quant))


def pad(rng: Rng) -> Case:
    shape = shape_of(rng)
    x = _x(rng, shape)
    assert x.quant is not None
    pads = [
        (0, 0) if i == 0 and s == 1 else tuple(rng.integers(0, 4).item() for _ in range(2))
        for i, s in enumerate(shape)
    ]
    value = 0.0
    if chance(rng, 0.4):  # exactly one of the integers
        value = float(x.quant.s * (int(rng.integers(-128, 128)) - x.quant.zp))
    return _same(rng, "PAD", x, {"paddings": tuple(pads), "value": value})


def reshape(rng: Rng) -> Case:
    shape = shape_of(rng)
    n = int(np.prod(shape))
    new: list[int] = []
    for _ in range(int(rng.integers(0, 4))):
        d = pick(rng, [k for k in range(1, n + 1) if n % k == 0])
        new.append(d)
        n //= d
    new.append(n)
    if shape[0] == 1 and chance(rng, 0.7):
        new = [1, *new][:4] if len(new) < 4 else [1, int(np.prod(shape))]
    return _same(rng, "RESHAPE", _x(rng, shape), {"new_shape": tuple(new)})


def squeeze(rng: Rng) -> Case:
    shape = [d if chance(rng, 0.5) else 1 for d in shape_of(rng, int(rng.integers(2, 5)))]
    ones = [i for i, d in enumerate(shape) if d == 1 and (i > 0 or chance(rng, 0.2))]
    if not ones:
        shape, ones = [*shape[:3], 1], [min(len(shape), 3)]
    axes = sorted({pick(rng, ones) for _ in range(2)})
    if len(axes) == len(shape):
        axes = axes[1:]
    return _same(rng, "SQUEEZE", _x(rng, shape), {"axes": tuple(axes)})


def transpose(rng: Rng) -> Case:
    shape = shape_of(rng)
    perm = [int(p) for p in rng.permutation(len(shape))]
    if chance(rng, 0.6):
        perm = [0, *(p for p in perm if p != 0)]
    return _same(rng, "TRANSPOSE", _x(rng, shape), {"perm": tuple(perm)})


def strided_slice(rng: Rng) -> Case:
    shape = shape_of(rng)
    begin, end, strides, shrink = [], [], [], []
    for i, d in enumerate(shape):
        if i == 0 and d == 1 and len(shape) > 1:
            b, e, s = 0, 1, 1
        elif chance(rng, 0.25):  # backwards
            b, s = int(rng.integers(0, d)), -int(rng.integers(1, 3))
            e = int(rng.integers(-1, b))
        else:
            b, s = int(rng.integers(0, d)), int(rng.integers(1, 4))
            e = int(rng.integers(b + 1, d + 1))
        if len(shape) - len(shrink) > 1 and i > 0 and chance(rng, 0.15):
            e, s = b + 1, 1
            shrink.append(i)
        begin.append(b)
        end.append(e)
        strides.append(s)
    attrs = {"begin": begin, "end": end, "strides": strides, "shrink_axes": shrink}
    return _same(rng, "STRIDED_SLICE", _x(rng, shape), {k: tuple(v) for k, v in attrs.items()})


def split(rng: Rng) -> Case:
    shape = list(shape_of(rng, int(rng.integers(2, 5))))
    axis = int(rng.integers(0 if shape[0] > 1 else 1, len(shape)))
    parts = int(rng.integers(1, 5))
    if chance(rng, 0.5):
        sizes = [int(rng.integers(1, 5))] * parts
    else:
        sizes = [int(rng.integers(1, 5)) for _ in range(parts)]
    shape[axis] = sum(sizes)
    x = _x(rng, shape)
    g = Graph("split", {}, [], ("x",), tuple(f"y{i}" for i in range(parts)))
    g.add_tensor(x)
    node = g.add_node("SPLIT", ["x"], list(g.outputs), {"axis": axis, "sizes": tuple(sizes)}, "op")
    for name, s in zip(g.outputs, infer_shapes(node, [x]), strict=True):
        g.add_tensor(Tensor(name, s, "int8", x.quant))
    return case(rng, g)


def gather(rng: Rng) -> Case:
    shape = shape_of(rng)
    axis = int(rng.integers(0 if shape[0] > 1 or len(shape) == 1 else 1, len(shape)))
    indices = tuple(int(i) for i in rng.integers(0, shape[axis], int(rng.integers(1, 7))))
    return _same(rng, "GATHER", _x(rng, shape), {"axis": axis, "indices": indices})


# -- resizing, normalization, conversions ----------------------------------------------------------


def resize(op: str) -> Callable[[Rng], Case]:
    def generate(rng: Rng) -> Case:
        h, w, c = (int(rng.integers(1, 12)) for _ in range(3))
        size = (int(rng.integers(1, 20)), int(rng.integers(1, 20)))
        if chance(rng, 0.4):
            size = (h * 2, w * 2)
        mode = pick(rng, ((False, False), (True, False), (False, True)))
        attrs = {"size": size, "align_corners": mode[0], "half_pixel_centers": mode[1]}
        return _same(rng, op, _x(rng, (1, h, w, c)), attrs)

    return generate


def layer_norm(rng: Rng) -> Case:
    c = int(pick(rng, (1, 2, 3, 8, 17, 64, 100, 384, 768)))
    x = _x(rng, (*shape_of(rng, int(rng.integers(1, 3)), 6), c))
    gamma, beta = rng.normal(1, 0.5, c), rng.normal(0, 0.5, c)
    if chance(rng, 0.6):
        g, qg, b, qb = quantize_layer_norm(gamma, beta)
    else:
        qg = QuantParams.per_tensor(float(np.abs(gamma).max()) / 127, 0)
        qb = QuantParams.per_tensor(qg.s * 2.0**-12, 0)
        g = np.round(gamma / qg.s).astype(np.int8)
        b = np.round(beta / qb.s).astype(np.int32)
    consts = [Tensor("gamma", (c,), str(g.dtype), qg, g), Tensor("beta", (c,), "int32", qb, b)]
    attrs = {"epsilon": pick(rng, (1e-5, 1e-6, 1e-12, 1e-3, 0.0))}
    out = act_quant(rng, "int8", scale(rng, -8, -3))
    return case(rng, single("LAYER_NORM", [x, *consts], attrs, "int8", out))


def quantize(rng: Rng) -> Case:
    """Requantization; a sixth of the cases start from float32."""
    src, dst = pick(
        rng,
        (
            ("int8", "int8"),
            ("uint8", "int8"),
            ("int8", "uint8"),
            ("int8", "int16"),
            ("int16", "int8"),
            ("float32", "int8"),
        ),
    )
    s = scale(rng)
    x = Tensor("x", shape_of(rng), src, act_quant(rng, src, s))
    wider = {"int16": (-9, 2), "int8": (0, 9) if src == "int16" else (-3, 3)}.get(dst, (-3, 3))
    q = act_quant(rng, dst, scale(rng, -7, -4) if src == "float32" else s * scale(rng, *wider))
    return case(rng, single("QUANTIZE", [x], {}, dst, q))


def dequantize(rng: Rng) -> Case:
    dtype = pick(rng, ("int8", "int8", "uint8", "int16"))
    x = Tensor("x", shape_of(rng), dtype, act_quant(rng, dtype))
    return case(rng, single("DEQUANTIZE", [x], {}, "float32", None))


def arg_max(rng: Rng) -> Case:
    shape = shape_of(rng, int(rng.integers(2, 5)))
    x = _x(rng, shape)
    return case(
        rng, single("ARG_MAX", [x], {"axis": int(rng.integers(1, len(shape)))}, "int32", None)
    )


#: The unary operators of this module.
UNARY = (
    "LOGISTIC",
    "TANH",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "HARD_SWISH",
    "ABS",
    "EXP",
    "LOG",
    "NEG",
    "SQRT",
    "RSQRT",
    "LEAKY_RELU",
    "GELU",
)

MINE: dict[str, Callable[[Rng], Case]] = {
    **{op: unary(op) for op in UNARY},
    "PRELU": prelu,
    "SOFTMAX": softmax,
    "CONCATENATION": concatenation,
    "PAD": pad,
    "RESHAPE": reshape,
    "SQUEEZE": squeeze,
    "TRANSPOSE": transpose,
    "STRIDED_SLICE": strided_slice,
    "SPLIT": split,
    "GATHER": gather,
    "RESIZE_NEAREST_NEIGHBOR": resize("RESIZE_NEAREST_NEIGHBOR"),
    "RESIZE_BILINEAR": resize("RESIZE_BILINEAR"),
    "LAYER_NORM": layer_norm,
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
    "ARG_MAX": arg_max,
}

opgen.CASES.update(MINE)
