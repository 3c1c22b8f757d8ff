"""The one table of single-operator cases for all kernels of all instruction sets.

:data:`EDGES`: shapes and values where kernels break (one pixel, kernels as large as the input, odd
channels, worst-case sums, dilation, strides past the end). :func:`random_cases`: any number of random
ones of every operator. :data:`PACKED`: weights of few bits, zeros, int16. :data:`LAYERS`: layers of
known networks, whose cost is of interest.
A case is a graph of one node and inputs ``[samples, ...]`` for it.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import opgen
import opgen_all  # noqa: F401  registers every generator module

from edgekit.graph.ir import Graph, QuantParams, Tensor

#: Operators whose reference is only float: kernels of them cannot be checked byte for byte.
FLOAT_ONLY = ("QUANTIZE", "DEQUANTIZE", "DIV")


@dataclass(frozen=True)
class TableCase:
    """make: the graph of one node, and its inputs. macs is known from the graph."""

    name: str
    op: str
    make: Callable[[], opgen.Case]


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng([20261121, zlib.crc32(name.encode())])


def _quant(rng: np.random.Generator, zp: int | None = None) -> QuantParams:
    return QuantParams.per_tensor(
        float(np.float32(2.0 ** rng.uniform(-7, -4))),
        int(rng.integers(-128, 128)) if zp is None else zp,
    )


def linear(
    op: str,
    x: tuple[int, ...],
    out: int,
    kernel: tuple[int, int] = (1, 1),
    *,
    name: str,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding: object = "SAME",
    activation: str = "RELU",
    groups: int = 1,
    worst: int | None = None,
    in_zp: int | None = None,
    out_zp: int | None = None,
) -> opgen.Case:
    """CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED as a trained layer has it: sums that use the range of
    the output. worst: 1 or -1: largest weights of one sign and an input of one extreme in the first sample.
    """
    rng = _rng(name)
    xt = Tensor("x", x, "int8", _quant(rng, in_zp))
    depthwise = op == "DEPTHWISE_CONV_2D"
    if op == "FULLY_CONNECTED":
        shape: tuple[int, ...] = (out, int(np.prod(x)))
    elif depthwise:
        shape = (1, *kernel, out)
    else:
        shape = (out, *kernel, x[3] // groups)
    taps = int(np.prod(kernel)) if depthwise else int(np.prod(shape[1:]))
    axis = 3 if depthwise else 0
    data = np.clip(np.round(rng.normal(0, 40, shape)), -127, 127).astype(np.int8)
    if worst is not None:
        data = np.full(shape, 127 * worst, np.int8)
    scales = [float(2.0 ** rng.uniform(-10, -8)) for _ in range(out)]
    per_channel = op != "FULLY_CONNECTED"
    wq = (
        QuantParams.per_channel(scales, axis)
        if per_channel
        else QuantParams.per_tensor(scales[0], 0)
    )
    wt = Tensor("w", shape, "int8", wq, data)
    bias = np.round(rng.normal(0, 40 * 74 * np.sqrt(taps) / 4, out)).astype(np.int32)
    assert xt.quant is not None
    bq = QuantParams(np.float32(xt.quant.s) * wq.scale, np.zeros(wq.scale.shape, np.int32), wq.axis)
    bt = Tensor("b", (out,), "int32", bq, bias)
    typical = xt.quant.s * float(wq.scale.max()) * 40 * 74 * np.sqrt(taps) / 50
    if worst is not None:  # sums beyond the output's range, but in 32 bits with their multiplier
        typical = xt.quant.s * float(wq.scale.max()) * 255 * 127 * taps / 200
    y = _quant(rng, -128 if out_zp is None and activation != "NONE" else out_zp)
    quant = QuantParams.per_tensor(float(np.float32(typical)), y.zp)
    if op == "FULLY_CONNECTED":
        attrs: dict[str, object] = {"activation": activation, "keep_num_dims": False}
    else:
        attrs = {
            "stride": stride,
            "dilation": dilation,
            "padding": padding,
            "activation": activation,
        }
    graph = opgen.single(op, [xt, wt, bt], attrs, "int8", quant)
    values = rng.integers(-128, 128, (2, *x[1:]), np.int8)
    if worst is not None:
        values[0], values[1] = 127, -128
    return graph, [values]


def _linear(name: str, op: str, *args: object, **keywords: object) -> TableCase:
    make = functools.partial(linear, op, *args, name=name, **keywords)  # type: ignore[arg-type]
    return TableCase(name, op, make)


def _conv(name: str, *args: object, **keywords: object) -> TableCase:
    return _linear(f"conv {name}", "CONV_2D", *args, **keywords)


def _depthwise(name: str, *args: object, **keywords: object) -> TableCase:
    return _linear(f"depthwise {name}", "DEPTHWISE_CONV_2D", *args, **keywords)


def _dense(name: str, *args: object, **keywords: object) -> TableCase:
    return _linear(f"dense {name}", "FULLY_CONNECTED", *args, **keywords)


def _add(name: str, shape: tuple[int, ...], ratio: float, activation: str = "NONE") -> TableCase:
    def make() -> opgen.Case:
        rng = _rng(name)
        a, b = _quant(rng), _quant(rng)
        b = QuantParams.per_tensor(float(np.float32(a.s * ratio)), b.zp)
        out = QuantParams.per_tensor(float(np.float32(max(a.s, b.s) * 1.4)), int(a.zp / 2))
        tensors = [Tensor("x", shape, "int8", a), Tensor("other", shape, "int8", b)]
        graph = opgen.single("ADD", tensors, {"activation": activation}, "int8", out)
        return graph, [rng.integers(-128, 128, (2, *shape[1:]), np.int8) for _ in range(2)]

    return TableCase(f"add {name}", "ADD", make)


def _pool(name: str, op: str, shape: tuple[int, ...], size: tuple[int, int]) -> TableCase:
    def make() -> opgen.Case:
        rng = _rng(name)
        attrs = {"filter": size, "stride": size, "padding": "VALID", "activation": "NONE"}
        x = Tensor("x", shape, "int8", _quant(rng))
        graph = opgen.single(op, [x], attrs, "int8", x.quant)
        return graph, [rng.integers(-128, 128, (2, *shape[1:]), np.int8)]

    return TableCase(f"pool {name}", op, make)


EDGES: tuple[TableCase, ...] = (
    _conv("one pixel", (1, 1, 1, 5), 3),
    _conv("one pixel, padded 3x3", (1, 1, 1, 4), 8, (3, 3)),
    _conv("covers its input", (1, 4, 3, 6), 5, (4, 3), padding="VALID"),
    _conv("1x1, odd pixels", (1, 3, 3, 8), 8),
    _conv("1x1 of one channel", (1, 5, 7, 1), 2),
    _conv("1x1, odd channels", (1, 5, 5, 7), 9),
    _conv("1x1, stride past the end", (1, 6, 5, 16), 16, stride=(4, 3)),
    _conv("3x3, one channel", (1, 6, 6, 1), 4, (3, 3)),
    _conv("3x3, three channels", (1, 9, 7, 3), 8, (3, 3)),
    _conv("3x3, one output channel", (1, 6, 6, 16), 1, (3, 3)),
    _conv("3x3 tiles that do not divide", (1, 7, 9, 16), 16, (3, 3)),
    _conv("3x3 tiles, odd channels", (1, 6, 6, 13), 11, (3, 3)),
    _conv("3x3 tiles, valid", (1, 10, 9, 16), 8, (3, 3), padding="VALID"),
    _conv("3x3, rows above only", (1, 6, 6, 8), 8, (3, 3), padding=(2, 0, 1, 1)),
    _conv("3x3 stride 2, odd size", (1, 9, 11, 16), 16, (3, 3), stride=(2, 2)),
    _conv("3x3 stride 2, even size", (1, 8, 8, 8), 16, (3, 3), stride=(2, 2)),
    _conv("3x3 dilated", (1, 9, 9, 8), 8, (3, 3), dilation=(2, 2)),
    _conv("3x3, linear output", (1, 6, 6, 16), 16, (3, 3), activation="NONE", out_zp=3),
    _conv("3x3, input zero point 127", (1, 6, 6, 16), 8, (3, 3), in_zp=127),
    _conv("3x3 in two groups", (1, 6, 6, 8), 6, (3, 3), groups=2),
    _conv("3x3, largest sums", (1, 6, 6, 32), 8, (3, 3), worst=1),
    _conv("3x3, smallest sums", (1, 6, 6, 32), 8, (3, 3), worst=-1),
    _conv("1x1, largest sums", (1, 4, 5, 128), 4, worst=1),
    _conv("1x1, smallest sums", (1, 4, 5, 128), 4, worst=-1),
    _conv("5x2", (1, 9, 6, 5), 7, (5, 2)),
    _conv("10x4 of sound", (1, 20, 10, 1), 16, (10, 4), stride=(2, 2)),
    _depthwise("3x3", (1, 7, 5, 8), 8, (3, 3)),
    _depthwise("one pixel", (1, 1, 1, 8), 8, (3, 3)),
    _depthwise("one column", (1, 9, 1, 4), 4, (3, 3)),
    _depthwise("odd channels", (1, 6, 6, 7), 7, (3, 3)),
    _depthwise("stride 2", (1, 9, 8, 16), 16, (3, 3), stride=(2, 2)),
    _depthwise("5x5", (1, 8, 8, 8), 8, (5, 5)),
    _depthwise("multiplier 3", (1, 5, 5, 4), 12, (3, 3)),
    _depthwise("largest sums", (1, 5, 5, 8), 8, (3, 3), worst=1),
    _depthwise("linear output", (1, 6, 6, 8), 8, (3, 3), activation="NONE", out_zp=-5),
    _depthwise("dilated", (1, 9, 9, 8), 8, (3, 3), dilation=(2, 1)),
    _dense("one to one", (1, 1), 1),
    _dense("odd", (1, 37), 11),
    _dense("wide", (1, 640), 24),
    _dense("of rows", (1, 3, 5, 8), 10),
    _dense("largest sums", (1, 260), 9, worst=1),
    _dense("linear output", (1, 64), 10, activation="NONE", out_zp=0),
    _add("one element", (1, 1, 1, 1), 1.0),
    _add("odd", (1, 5, 3, 7), 0.7),
    _add("half", (1, 4, 4, 8), 0.5, "RELU"),
    _add("far apart", (1, 4, 4, 16), 0.01),
    _pool("average of all", "AVERAGE_POOL_2D", (1, 5, 6, 12), (5, 6)),
    _pool("average 2x2", "AVERAGE_POOL_2D", (1, 6, 6, 5), (2, 2)),
    _pool("maximum 3x2", "MAX_POOL_2D", (1, 9, 6, 7), (3, 2)),
    _pool("maximum 2x2 of vectors", "MAX_POOL_2D", (1, 6, 6, 32), (2, 2)),
)

#: Where shared/baselines of CMSIS-NN are known; otherwise common layers of small networks.
LAYERS: tuple[TableCase, ...] = (
    _conv("3x3 32x32x3-16", (1, 32, 32, 3), 16, (3, 3)),
    _conv("3x3 32x32x16", (1, 32, 32, 16), 16, (3, 3)),
    _conv("3x3 16x16x32", (1, 16, 16, 32), 32, (3, 3)),
    _conv("3x3 8x8x64", (1, 8, 8, 64), 64, (3, 3)),
    _conv("3x3/2 32x32x16-32", (1, 32, 32, 16), 32, (3, 3), stride=(2, 2)),
    _conv("3x3/2 16x16x32-64", (1, 16, 16, 32), 64, (3, 3), stride=(2, 2)),
    _conv("1x1/2 32x32x16-32", (1, 32, 32, 16), 32, stride=(2, 2), activation="NONE"),
    _conv("1x1 25x5x64", (1, 25, 5, 64), 64),
    _conv("1x1 12x12x48-96", (1, 12, 12, 48), 96, activation="RELU6"),
    _conv("10x4/2 49x10x1-64", (1, 49, 10, 1), 64, (10, 4), stride=(2, 2)),
    _depthwise("3x3 25x5x64", (1, 25, 5, 64), 64, (3, 3)),
    _depthwise("3x3/2 24x24x48", (1, 24, 24, 48), 48, (3, 3), stride=(2, 2)),
    _depthwise("5x5 12x12x24", (1, 12, 12, 24), 24, (5, 5)),
    _dense("640-128", (1, 640), 128),
    _dense("128-128", (1, 128), 128),
    _dense("64-10", (1, 64), 10, activation="NONE"),
    _add("32x32x16", (1, 32, 32, 16), 0.8, "RELU"),
    _pool("average 8x8x64", "AVERAGE_POOL_2D", (1, 8, 8, 64), (8, 8)),
)


def of_few_bits(graph: Graph, kind: int | str, rng: np.random.Generator) -> Graph:
    """The graph of one node with its weights exchanged for weights of that kind."""
    g = graph.copy()
    w = g.tensor(g.nodes[0].inputs[1])
    if kind == "int4":
        low = -7 if rng.random() < 0.5 else -8
        data = rng.integers(low, 8, w.shape).astype(np.int8)
        if rng.random() < 0.2:
            data = np.where(rng.random(w.shape) < 0.5, low, 7).astype(np.int8)
        g.tensors[w.name] = w.with_(dtype="int4", data=data)
    elif kind in ("ternary", "binary"):
        unit = int(rng.choice([1, 1, 127, 5]))
        signs = rng.integers(-1, 2, w.shape) if kind == "ternary" else rng.choice([-1, 1], w.shape)
        g.tensors[w.name] = w.with_(data=(unit * signs).astype(np.int8))
    else:
        assert isinstance(kind, int)
        book = rng.choice(np.arange(-127, 128), kind, replace=False).astype(np.int8)
        book[0] = 0 if rng.random() < 0.5 else book[0]
        g.tensors[w.name] = w.with_(data=rng.choice(book, w.shape))
    return g


def thinned(graph: Graph, rng: np.random.Generator) -> Graph:
    """The graph of one node with blocks of its weights set to zero; sometimes whole outputs."""
    g = graph.copy()
    w = g.tensor(g.nodes[0].inputs[1])
    assert w.data is not None
    rows = w.data.reshape(w.shape[0], -1)
    blocks = -(-rows.shape[1] // 4)
    keep = rng.random((len(rows), blocks)) < rng.choice([0.0, 0.1, 0.5, 1.0])
    keep[rng.random(len(rows)) < 0.2] = False
    data = rows * np.repeat(keep, 4, axis=1)[:, : rows.shape[1]]
    g.tensors[w.name] = w.with_(data=data.reshape(w.shape).astype(np.int8))
    return g


def _packed(kind: int | str, base: TableCase) -> TableCase:
    """A case of the table with weights of few bits, or with blocks of zeros."""
    name = f"{kind} weights, {base.name}"

    def make() -> opgen.Case:
        graph, inputs = base.make()
        rng = _rng(name)
        return (thinned if kind == "zero" else functools.partial(of_few_bits, kind=kind))(
            graph, rng=rng
        ), inputs

    return TableCase(name, base.op, make)


def _wide(op: str) -> TableCase:
    """A random case of int16 activations."""
    name = f"int16 {op}"

    def make() -> opgen.Case:
        graph, inputs = opgen.CASES[op](_rng(name), dtype="int16")
        return graph, [x[:2] for x in inputs]

    return TableCase(name, op, make)


_BY_NAME = {c.name: c for c in (*EDGES, *LAYERS)}

#: Weights of few bits or with zeros, and int16 activations.
PACKED: tuple[TableCase, ...] = (
    *(
        _packed(kind, _BY_NAME[name])
        for kind in ("int4", 15, "ternary", "zero")
        for name in ("conv 3x3 8x8x64", "conv 1x1 12x12x48-96", "dense 640-128")
    ),
    _packed("int4", _BY_NAME["conv 3x3 16x16x32"]),
    _packed("int4", _BY_NAME["conv 3x3/2 32x32x16-32"]),
    _packed("int4", _BY_NAME["conv 3x3 32x32x3-16"]),
    _packed("int4", _BY_NAME["conv 1x1/2 32x32x16-32"]),
    _packed("int4", _BY_NAME["depthwise 3x3 25x5x64"]),
    _packed("int4", _BY_NAME["depthwise 5x5 12x12x24"]),
    _packed(3, _BY_NAME["depthwise 3x3/2 24x24x48"]),
    *(
        _wide(op)
        for op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB",
                   "AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "SUM")
    ),
)  # fmt: skip


def random_cases(each: int, ops: tuple[str, ...] | None = None) -> Iterator[TableCase]:
    """``each`` random cases of every operator."""
    for op in sorted(set(opgen.CASES) - set(FLOAT_ONLY)):
        if ops is not None and op not in ops:
            continue
        for k in range(each):
            name = f"random {op} {k}"
            yield TableCase(name, op, functools.partial(_random, op, name))


def _random(op: str, name: str) -> opgen.Case:
    graph, inputs = opgen.random_case(op, _rng(name))
    return graph, [x[:2] for x in inputs]


def single_sample(graph: Graph, inputs: list[np.ndarray], sample: int) -> list[np.ndarray]:
    """One sample, in the shapes that the graph declares."""
    return [
        np.ascontiguousarray(x[sample]).reshape(graph.tensor(i).shape)
        for x, i in zip(inputs, graph.inputs, strict=True)
    ]
