"""Random single-operator graphs for property tests: executor, C kernels, formats.

``random_case(op_type, rng)`` draws shapes, strides, dilations, paddings, scales, zero points and
fused activations, and inputs ``[samples, ...]`` that include worst-case fills. The same state of
``rng`` gives the same case. :data:`CASES` maps operator types to int8 generators; other modules
(``opgen_movement``) add theirs. The arithmetic ones take ``dtype``: int8, int16 (int8 weights,
int64 or int32 bias) or float32.

Accumulators stay inside 32 bits including the multiplier's left shift: beyond that the kernels'
C is undefined, and there is nothing to compare.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.ops import infer_shapes

Case = tuple[Graph, list[np.ndarray]]

CASES: dict[str, Callable[[np.random.Generator], Case]] = {}

CHANNELS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 31, 32, 33)
ACTIVATIONS = ("NONE", "NONE", "RELU", "RELU6", "RELU_N1_TO_1")


def random_case(op_type: str, rng: np.random.Generator) -> Case:
    """A random int8 graph with one node of ``op_type``, and inputs for a few samples."""
    import opgen_all  # noqa: F401  registers every generator module

    return CASES[op_type](rng)


# -- drawing -----------------------------------------------------------------------------------


def pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, p: float) -> bool:
    return bool(rng.random() < p)


def scale(rng: np.random.Generator, low: float = -8, high: float = -2) -> float:
    """Log-uniform in 2**low .. 2**high; now and then an exact power of two."""
    e = rng.uniform(low - 2, high + 3) if chance(rng, 0.1) else rng.uniform(low, high)
    return float(np.float32(2.0 ** (np.round(e) if chance(rng, 0.1) else e)))


def act_quant(rng: np.random.Generator, dtype: str, s: float | None = None) -> QuantParams | None:
    """Activation quantization: any zero point, the extremes often; symmetric for int16."""
    if dtype == "float32":
        return None
    s = scale(rng) if s is None else s
    lo, hi = nm.LIMITS[dtype]
    if dtype == "int16":
        return QuantParams.per_tensor(s, 0)
    zp = pick(rng, (lo, hi, 0, int(rng.integers(lo, hi + 1)), int(rng.integers(lo, hi + 1))))
    return QuantParams.per_tensor(s, zp)


def fill(
    rng: np.random.Generator, shape: Sequence[int], dtype: str, style: str | None = None
) -> np.ndarray:
    """Values of a style: random, low, high, extremes (random mix of both ends), sparse."""
    style = style or pick(rng, ("random", "random", "random", "low", "high", "extremes", "sparse"))
    shape = tuple(shape)
    if dtype == "float32":
        x = rng.normal(size=shape)
        return (np.sign(x) * 3 if style == "extremes" else x).astype(np.float32)
    lo, hi = nm.LIMITS[dtype]
    if style in ("low", "high"):
        return np.full(shape, lo if style == "low" else hi, dtype)
    if style == "extremes":
        return np.where(rng.random(shape) < 0.5, lo, hi).astype(dtype)
    x = rng.integers(lo, hi + 1, shape).astype(dtype)
    return np.where(rng.random(shape) < 0.7, 0, x).astype(dtype) if style == "sparse" else x


def samples(rng: np.random.Generator, shape: Sequence[int], dtype: str, n: int = 3) -> np.ndarray:
    """``[n, *shape[1:]]`` for a shape that starts with 1, else ``[n, *shape]``; a random sample
    first, then others of any style."""
    tail = tuple(shape[1:]) if shape and shape[0] == 1 else tuple(shape)
    return np.stack([fill(rng, tail, dtype, "random" if i == 0 else None) for i in range(n)])


def single(
    op_type: str,
    inputs: Sequence[Tensor | None],
    attrs: dict,
    out_dtype: str,
    out_quant: QuantParams | Callable[[tuple[int, ...]], QuantParams | None] | None,
) -> Graph:
    """A graph of one node; tensors without data are its inputs. The output shape is inferred."""
    g = Graph(op_type.lower(), {}, [], (), ())
    names: list[str | None] = []
    for t in inputs:
        names.append(None if t is None else g.add_tensor(t).name)
    node = g.add_node(op_type, names, ["y"], attrs, "op")
    (shape,) = infer_shapes(node, [None if n is None else g.tensors[n] for n in names])
    quant = out_quant(shape) if callable(out_quant) else out_quant
    g.tensors["y"] = Tensor("y", shape, out_dtype, quant)
    g.inputs = tuple(n for n in names if n is not None and not g.tensors[n].is_const)
    g.outputs = ("y",)
    return g


def case(rng: np.random.Generator, g: Graph) -> Case:
    n = int(rng.integers(1, 5))
    return g, [samples(rng, g.tensors[i].shape, g.tensors[i].dtype, n) for i in g.inputs]


# -- weights -----------------------------------------------------------------------------------


def weights(
    rng: np.random.Generator, shape: Sequence[int], axis: int, dtype: str, per_channel: bool
) -> Tensor:
    """Constant weights: int8 symmetric in [-127, 127] (or -128 at worst), or float32."""
    if dtype == "float32":
        return Tensor("w", tuple(shape), "float32", None, fill(rng, shape, "float32"))
    data = fill(rng, shape, "int8", "random" if chance(rng, 0.7) else None)
    if chance(rng, 0.2):  # dead channels
        sl = [slice(None)] * len(shape)
        sl[axis] = slice(0, int(rng.integers(1, shape[axis] + 1)))
        data = data.copy()
        data[tuple(sl)] = 0
    s = scale(rng, -9, -3)
    if not per_channel:
        return Tensor("w", tuple(shape), "int8", QuantParams.per_tensor(s, 0), data)
    spread = [s * 2.0 ** rng.uniform(-3, 0) for _ in range(shape[axis])]
    if shape[axis] > 1 and chance(rng, 0.1):
        spread[0] = s * 2.0**-25  # flushed, or nearly flushed, to zero
    return Tensor("w", tuple(shape), "int8", QuantParams.per_channel(spread, axis), data)


def bias(
    rng: np.random.Generator,
    channels: int,
    dtype: str,
    w: Tensor,
    x: Tensor,
    taps: int,
    small: bool = False,
) -> Tensor | None:
    """A bias: int32, or int64 for int16 activations unless ``small``."""
    if chance(rng, 0.2):
        return None
    if dtype == "float32":
        return Tensor("b", (channels,), "float32", None, fill(rng, (channels,), "float32"))
    assert w.quant is not None and x.quant is not None
    spread = 2.0 ** rng.uniform(4, 24) if chance(rng, 0.1) else 74.0 * 74.0 * np.sqrt(taps)
    kind = "int32" if dtype == "int8" or small else "int64"
    if small:
        spread = min(spread, 2.0**20)
    data = np.round(rng.normal(size=channels) * spread).clip(-(2**29), 2**29).astype(kind)
    q = QuantParams(
        np.float32(x.quant.s) * w.quant.scale,
        np.zeros(w.quant.scale.shape, np.int32),
        0 if w.quant.is_per_channel else None,
    )
    return Tensor("b", (channels,), kind, q, data)


def linear_out(
    rng: np.random.Generator, dtype: str, x: Tensor, w: Tensor, b: Tensor | None, taps: int
) -> QuantParams | None:
    """Output quantization: mostly in range of the sums, sometimes saturating or vanishing.

    The scale is raised until no accumulator, shifted left by its multiplier, leaves 32 bits.
    """
    if dtype == "float32":
        return None
    assert x.quant is not None and w.quant is not None
    lo, hi = nm.LIMITS[dtype]
    typical = 74.0 * 74.0 * np.sqrt(taps) * (hi / 127.0)
    s = x.quant.s * float(w.quant.scale.max()) * typical / (hi * 2.0 ** rng.uniform(-1.5, 1.5))
    if chance(rng, 0.1):
        s *= 2.0 ** rng.uniform(-8, 8)
    worst = taps * (hi - lo) * 128.0
    if b is not None and b.data is not None:
        worst += float(np.abs(b.data).max())
    top = float(w.quant.scale.max()) * x.quant.s
    limit = 2.0**29 if dtype == "int8" else 2.0**22
    s = max(s, top * worst / limit if dtype == "int8" else top / 64, 1e-8)
    return act_quant(rng, dtype, s)


# -- convolutions ------------------------------------------------------------------------------


def _geometry(rng: np.random.Generator, *, dilate: bool = True, max_filter: int = 5) -> dict:
    kh, kw = (int(rng.integers(1, max_filter + 1)) for _ in range(2))
    if chance(rng, 0.3):
        kh = kw = pick(rng, (1, 3))
    stride = (pick(rng, (1, 1, 2, 3)), pick(rng, (1, 1, 2, 3)))
    dilation = (
        (pick(rng, (1, 2, 3)), pick(rng, (1, 2, 3))) if dilate and chance(rng, 0.2) else (1, 1)
    )
    reach = [(k - 1) * d + 1 for k, d in zip((kh, kw), dilation, strict=True)]
    style = pick(rng, ("SAME", "SAME", "VALID", "explicit"))
    pads: str | tuple[int, ...] = style
    extra = (0, 0)
    if style == "explicit":
        pads = tuple(int(rng.integers(0, reach[i // 2])) for i in range(4))
        extra = (pads[0] + pads[1], pads[2] + pads[3])
    least = (
        (1, 1)
        if style == "SAME"
        else tuple(max(1, r - e) for r, e in zip(reach, extra, strict=True))
    )
    hw = tuple(int(low + rng.integers(0, 8)) for low in least)
    return {"k": (kh, kw), "hw": hw, "stride": stride, "dilation": dilation, "padding": pads}


def conv_2d(rng: np.random.Generator, dtype: str = "int8") -> Case:
    geo = _geometry(rng)
    groups = pick(rng, (2, 3, 4)) if chance(rng, 0.15) else 1
    cg, og = pick(rng, CHANNELS), pick(rng, CHANNELS)
    if groups > 1:
        cg, og = min(cg, 8), min(og, 8)
    x = Tensor("x", (1, *geo["hw"], cg * groups), dtype, act_quant(rng, dtype))
    o = og * groups
    w = weights(rng, (o, *geo["k"], cg), 0, dtype, chance(rng, 0.7))
    taps = w.elements // o
    # a 32-bit bias means 32-bit sums in the int16 kernel: only where they cannot overflow
    b = bias(rng, o, dtype, w, x, taps, small=dtype == "int16" and taps < 64)
    attrs = {k: geo[k] for k in ("stride", "dilation", "padding")}
    attrs["activation"] = pick(rng, ACTIVATIONS)
    q = linear_out(rng, dtype, x, w, b, taps)
    return case(rng, single("CONV_2D", [x, w, b], attrs, dtype, q))


def depthwise_conv_2d(rng: np.random.Generator, dtype: str = "int8") -> Case:
    geo = _geometry(rng)
    c = pick(rng, CHANNELS)
    m = pick(rng, (2, 3, 8)) if chance(rng, 0.25) else 1
    x = Tensor("x", (1, *geo["hw"], c), dtype, act_quant(rng, dtype))
    w = weights(rng, (1, *geo["k"], c * m), 3, dtype, chance(rng, 0.7))
    taps = geo["k"][0] * geo["k"][1]
    b = bias(rng, c * m, dtype, w, x, taps)
    attrs = {k: geo[k] for k in ("stride", "dilation", "padding")}
    attrs["activation"] = pick(rng, ACTIVATIONS)
    q = linear_out(rng, dtype, x, w, b, taps)
    return case(rng, single("DEPTHWISE_CONV_2D", [x, w, b], attrs, dtype, q))


def transpose_conv(rng: np.random.Generator, dtype: str = "int8") -> Case:
    geo = _geometry(rng, dilate=False, max_filter=4)
    hw, k, stride = geo["hw"], geo["k"], geo["stride"]
    _, small = nm.conv_padding(hw, k, stride, geo["padding"])
    c, o = pick(rng, CHANNELS), pick(rng, CHANNELS)
    x = Tensor("x", (1, *small, c), dtype, act_quant(rng, dtype))
    w = weights(rng, (o, *k, c), 0, dtype, chance(rng, 0.7))
    taps = w.elements // o
    b = bias(rng, o, dtype, w, x, taps)
    attrs = {
        "stride": stride,
        "padding": geo["padding"],
        "output_shape": (1, *hw, o),
        "activation": pick(rng, ACTIVATIONS),
    }
    q = linear_out(rng, dtype, x, w, b, taps)
    return case(rng, single("TRANSPOSE_CONV", [x, w, b], attrs, dtype, q))


# -- matrix products ---------------------------------------------------------------------------


def fully_connected(rng: np.random.Generator, dtype: str = "int8") -> Case:
    inputs, outputs = (int(rng.integers(1, 130)), pick(rng, CHANNELS))
    keep = chance(rng, 0.3)
    shape: tuple[int, ...] = (1, inputs)
    if keep:
        shape = (1, *(int(d) for d in rng.integers(1, 5, int(rng.integers(0, 3)))), inputs)
    elif chance(rng, 0.3):  # flattened, in one row or in several
        rows, parts = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        shape = (1, rows, parts, inputs) if chance(rng, 0.5) else (rows, inputs)
    x = Tensor("x", shape, dtype, act_quant(rng, dtype))
    w = weights(rng, (outputs, inputs), 0, dtype, dtype == "int8" and chance(rng, 0.5))
    b = bias(rng, outputs, dtype, w, x, inputs)
    attrs = {"activation": pick(rng, ACTIVATIONS), "keep_num_dims": keep}
    q = linear_out(rng, dtype, x, w, b, inputs)
    return case(rng, single("FULLY_CONNECTED", [x, w, b], attrs, dtype, q))


def batch_matmul(rng: np.random.Generator, dtype: str = "int8") -> Case:
    m, k, n = (int(rng.integers(1, 20)) for _ in range(3))
    adj_x, adj_y = chance(rng, 0.3), chance(rng, 0.3)
    batch = tuple(int(d) for d in rng.integers(1, 4, int(rng.integers(0, 2))))
    lead = (1, *batch) if chance(rng, 0.8) else ()
    x = Tensor("x", (*lead, *((k, m) if adj_x else (m, k))), dtype, act_quant(rng, dtype))
    y_lead = lead
    if lead and chance(rng, 0.3):
        y_lead = tuple(1 for _ in lead)
    y_shape = (*y_lead, *((n, k) if adj_y else (k, n)))
    y = Tensor("rhs", y_shape, dtype, act_quant(rng, dtype))
    if chance(rng, 0.4):
        y = y.with_(data=fill(rng, y_shape, dtype))
    q = None
    if dtype != "float32":
        assert x.quant is not None and y.quant is not None
        top = nm.LIMITS[dtype][1]
        s = x.quant.s * y.quant.s * np.sqrt(k) * top * 2.0 ** rng.uniform(-2, 2) / 2
        q = act_quant(rng, dtype, max(s, x.quant.s * y.quant.s * k * 2.0**-13))
    attrs = {"adj_x": adj_x, "adj_y": adj_y}
    return case(rng, single("BATCH_MATMUL", [x, y], attrs, dtype, q))


# -- pools and reductions ----------------------------------------------------------------------


def pool(rng: np.random.Generator, dtype: str = "int8", *, op: str = "MAX_POOL_2D") -> Case:
    geo = _geometry(rng, dilate=False)
    pads = geo["padding"]
    if isinstance(pads, tuple) and op == "AVERAGE_POOL_2D":  # not to be had in a .tflite file
        geo["padding"] = "SAME"
    x = Tensor("x", (1, *geo["hw"], pick(rng, CHANNELS)), dtype, act_quant(rng, dtype))
    attrs = {
        "filter": geo["k"],
        "stride": geo["stride"],
        "padding": geo["padding"],
        "activation": pick(rng, ACTIVATIONS),
    }
    return case(rng, single(op, [x], attrs, dtype, x.quant))


def reduce(rng: np.random.Generator, dtype: str = "int8", *, op: str = "MEAN") -> Case:
    rank = pick(rng, (2, 3, 3, 4, 4))
    shape = (1, *(int(d) for d in rng.integers(1, 12, rank - 1)))
    count = 1 if chance(rng, 0.6) else int(rng.integers(1, rank))
    axes = tuple(sorted(rng.choice(rank - 1, count, replace=False) + 1))
    if rank == 4 and chance(rng, 0.4):
        axes = (1, 2)
    axes = tuple(int(a) for a in axes)
    x = Tensor("x", shape, dtype, act_quant(rng, dtype))
    q = x.quant
    if q is not None and op != "REDUCE_MAX" and chance(rng, 0.8):
        n = np.prod([shape[a] for a in axes]) ** rng.uniform(0.7, 1.1) if op == "SUM" else 1.0
        q = act_quant(rng, dtype, q.s * n * 2.0 ** rng.uniform(-1, 1))
    attrs = {"axes": axes, "keep_dims": chance(rng, 0.5)}
    return case(rng, single(op, [x], attrs, dtype, q))


# -- element by element ------------------------------------------------------------------------


def _pair(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two shapes that broadcast."""
    rank = int(rng.integers(1, 5))
    shape = (1, *(int(d) for d in rng.integers(1, 9, rank - 1)))
    if rank == 4:
        shape = (*shape[:3], pick(rng, CHANNELS))
    if chance(rng, 0.5):
        return shape, shape
    other = tuple(1 if chance(rng, 0.5) else d for d in shape)
    other = other[int(rng.integers(0, rank)) :] if chance(rng, 0.3) else other
    return (shape, other) if chance(rng, 0.7) else (other, shape)


def binary(rng: np.random.Generator, dtype: str = "int8", *, op: str = "ADD") -> Case:
    a, b = _pair(rng)
    x = Tensor("x", a, dtype, act_quant(rng, dtype))
    y = Tensor("other", b, dtype, act_quant(rng, dtype))
    q = None
    if x.quant is not None and y.quant is not None:
        if op in ("MAXIMUM", "MINIMUM"):
            y = y.with_(quant=x.quant)
        elif chance(rng, 0.8):  # scales of like size, as trained networks have them
            y = y.with_(quant=act_quant(rng, dtype, x.quant.s * 2.0 ** rng.uniform(-3, 3)))
        q = _binary_out(rng, op, dtype, x.quant, y.quant or x.quant)
    if chance(rng, 0.3):
        fixed = fill(rng, b, dtype)
        if op == "DIV":
            fixed = np.where(np.abs(fixed) < 0.1, np.float32(1), fixed)
        y = y.with_(data=fixed)
    elif chance(rng, 0.05):
        x = x.with_(data=fill(rng, a, dtype))
    attrs = {} if op in _NO_ACTIVATION else {"activation": pick(rng, ACTIVATIONS)}
    return case(rng, single(op, [x, y], attrs, dtype, q))


_NO_ACTIVATION = ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE")


def _binary_out(
    rng: np.random.Generator, op: str, dtype: str, qx: QuantParams, qy: QuantParams | None
) -> QuantParams | None:
    assert qy is not None
    if op in ("MAXIMUM", "MINIMUM"):
        return qx
    top = nm.LIMITS[dtype][1]
    largest = max(qx.s, qy.s)
    s = largest
    if op == "MUL":
        s = qx.s * qy.s * top / 2
    elif op == "SQUARED_DIFFERENCE":
        s = largest * largest * top
    return act_quant(rng, dtype, s * 2.0 ** rng.uniform(-2, 2))


CASES["CONV_2D"] = conv_2d
CASES["DEPTHWISE_CONV_2D"] = depthwise_conv_2d
CASES["TRANSPOSE_CONV"] = transpose_conv
CASES["FULLY_CONNECTED"] = fully_connected
CASES["BATCH_MATMUL"] = batch_matmul
for _op in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
    CASES[_op] = functools.partial(pool, op=_op)
for _op in ("MEAN", "SUM", "REDUCE_MAX"):
    CASES[_op] = functools.partial(reduce, op=_op)
for _op in ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"):
    CASES[_op] = functools.partial(binary, op=_op)

#: dtype -> operator type -> generator, for the operators of this module.
BY_DTYPE: dict[str, dict[str, Callable[[np.random.Generator], Case]]] = {
    d: {op: functools.partial(f, dtype=d) for op, f in _typed.items()}
    for d in ("int16", "float32")
    for _typed in (dict[str, Callable[..., Case]](CASES),)
}
BY_DTYPE["float32"]["DIV"] = functools.partial(binary, op="DIV", dtype="float32")
