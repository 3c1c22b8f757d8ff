"""QDQ to integer: what lies between DEQUANTIZE and QUANTIZE becomes one integer node.

One walk in graph order. A float value that is only the dequantized form of an integer tensor is
kept as that integer tensor; a node whose inputs are all such, and whose result is only quantized
(after at most one ReLU), is emitted as an integer node with TFLite's numerics. Data movement is
done on the integers whether or not a QUANTIZE follows. Everything else stays float behind
DEQUANTIZE. A float input that is only quantized, and an output that is only dequantized, become
integer inputs and outputs: their quantization is in the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.formats.onnx_context import HIDDEN
from edgekit.formats.onnx_tidy import tidy
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor, unique

_MOVES = frozenset(
    [
        "RESHAPE",
        "SQUEEZE",
        "TRANSPOSE",
        "STRIDED_SLICE",
        "SPLIT",
        "GATHER",
        "MAX_POOL_2D",
        "RESIZE_NEAREST_NEIGHBOR",
        "PAD",
        "CONCATENATION",
    ]
)
_SHAPES = frozenset(["RESHAPE", "SQUEEZE", "TRANSPOSE"])
_WEIGHTED = frozenset(["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"])
#: Integer kernels that keep the input's quantization; a QUANTIZE follows where it differs.
_KEEPS = frozenset(["AVERAGE_POOL_2D", "REDUCE_MAX", "RESIZE_BILINEAR", "MAXIMUM", "MINIMUM"])
_FREE = frozenset(
    [
        "ADD",
        "SUB",
        "MUL",
        "MEAN",
        "SUM",
        "LOGISTIC",
        "TANH",
        "RELU",
        "RELU6",
        "HARD_SWISH",
        "LEAKY_RELU",
        "GELU",
        "ABS",
        "NEG",
        "SQRT",
        "RSQRT",
        "EXP",
        "LOG",
        "PRELU",
        "BATCH_MATMUL",
        "SQUARED_DIFFERENCE",
    ]
)
_FUSED = frozenset(["RELU", "RELU6", "RELU_N1_TO_1"])
_HAS_ACTIVATION = _WEIGHTED | {"ADD", "SUB", "MUL", "AVERAGE_POOL_2D", "MAX_POOL_2D"}
_SOFTMAX = QuantParams.per_tensor(1 / 256, -128)


def is_qdq(graph: Graph) -> bool:
    return any(n.type in ("QUANTIZE", "DEQUANTIZE") for n in graph.nodes)


def integer_islands(graph: Graph) -> Graph:
    """The graph with integer nodes wherever its QDQ pairs describe one; see the module's text."""
    return _Islands(_quantize_early(graph)).run()


def _quantize_early(graph: Graph) -> Graph:
    """QUANTIZE of a reshaped or transposed value: quantize first, so that it meets its producer."""
    g = graph.copy()
    moved = True
    while moved:
        moved = False
        producers, users = g.producers(), g.consumers()
        for k, q in enumerate(g.nodes):
            p = producers.get(q.inputs[0] or "")
            if q.type != "QUANTIZE" or p is None or p.type not in _SHAPES:
                continue
            x, mid = p.inputs[0], p.outputs[0]
            if x is None or len(users[mid]) != 1 or mid in g.outputs or not g.tensor(x).is_float:
                continue
            if x not in producers or producers[x].type == "DEQUANTIZE":
                continue
            y = g.tensor(q.outputs[0])
            g.tensors[mid] = y.with_(name=mid, shape=g.tensor(x).shape)
            at = next(i for i, n in enumerate(g.nodes) if n.name == p.name)
            g.nodes[at] = q.with_(inputs=(x,), outputs=(mid,))
            g.nodes[k] = p.with_(inputs=(mid,), outputs=q.outputs)
            moved = True
            break
    return g


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.quant is not None and a.quant.same_as(b.quant)


def quantize_array(x: np.ndarray, quant: QuantParams, dtype: str) -> np.ndarray:
    """Quantize a constant: rounded half to even, saturated; per channel along ``quant.axis``."""
    shape = [-1 if i == quant.axis else 1 for i in range(x.ndim)]
    scale, zp = quant.scale.astype(np.float64), quant.zero_point
    if quant.is_per_channel:
        scale, zp = scale.reshape(shape), zp.reshape(shape)
    info = np.iinfo(dtype)
    q = np.round(x.astype(np.float64) / scale) + zp
    return np.clip(q, info.min, info.max).astype(dtype)


def real_values(t: Tensor) -> np.ndarray:
    """What a constant stands for, float64."""
    assert t.data is not None
    if t.quant is None:
        return t.data.astype(np.float64)
    q = t.quant
    shape = [-1 if i == q.axis else 1 for i in range(t.data.ndim)]
    scale, zp = q.scale.astype(np.float64), q.zero_point.astype(np.float64)
    if q.is_per_channel:
        scale, zp = scale.reshape(shape), zp.reshape(shape)
    return (t.data.astype(np.float64) - zp) * scale


class _Islands:
    def __init__(self, graph: Graph) -> None:
        self.src = graph
        self.users = graph.consumers()
        self.out = Graph(graph.name, {}, [], graph.inputs, graph.outputs, dict(graph.metadata))
        self.ints: dict[str, str] = {}  # float value -> the integer tensor that it dequantizes
        self.alias: dict[str, str] = {}  # value of src -> tensor of out, where the names differ
        self.floats: dict[str, str] = {}
        self.done: set[str] = set()
        self.taken: set[str] = {n.name for n in graph.nodes}

    def run(self) -> Graph:
        g = self.src
        for t in g.tensors.values():
            if t.is_const or t.name in g.inputs:
                self.out.tensors[t.name] = t
        for i in g.inputs:
            self._input(i)
        for n in g.nodes:
            if n.name not in self.done:
                self._node(n)
        self.out.outputs = tuple(self._output(o) for o in g.outputs)
        self.out.toposort()
        self.out.prune()
        return tidy(self.out)

    # -- boundary ------------------------------------------------------------------------------

    def _input(self, name: str) -> None:
        t = self.src.tensor(name)
        users = self.users[name]
        if not t.is_float or not users or name in self.src.outputs:
            return
        if any(n.type != "QUANTIZE" for n in users):
            return
        first = self.src.tensor(users[0].outputs[0])
        if all(_same(first, self.src.tensor(n.outputs[0])) for n in users):
            self.out.tensors[name] = t.with_(dtype=first.dtype, quant=first.quant)
            for n in users:
                self.alias[n.outputs[0]] = name
                self.done.add(n.name)

    def _output(self, name: str) -> str:
        source = self.ints.get(name) or self.alias.get(name) or name
        if source == name:
            return name
        t = self.out.tensor(source)
        taken = name in self.out.tensors
        if source in self.out.inputs or source in self.src.outputs or t.is_const or taken:
            y = unique(name, {} if not taken else self.out.tensors)
            self.out.tensors[y] = t.with_(name=y, data=None)
            self._emit("RESHAPE", [source], [y], {"new_shape": t.shape}, y)
            return y
        self.out.tensors[name] = self.out.tensors.pop(source).with_(name=name)
        self.out.nodes = [
            n.with_(
                inputs=tuple(name if i == source else i for i in n.inputs),
                outputs=tuple(name if o == source else o for o in n.outputs),
            )
            for n in self.out.nodes
        ]
        for table in (self.ints, self.alias, self.floats):
            for k, v in table.items():
                if v == source:
                    table[k] = name
        return name

    # -- values --------------------------------------------------------------------------------

    def _emit(self, type: str, ins: Sequence, outs: Sequence[str], attrs: dict, name: str) -> None:
        name = unique(name, {n.name for n in self.out.nodes})
        self.out.nodes.append(Node(name, type, tuple(ins), tuple(outs), attrs))

    def _now(self, name: str) -> Tensor:
        """The tensor that stands for a value of the source graph (not its dequantized form)."""
        return self.out.tensor(self.alias.get(name, name))

    def _int(self, name: str | None) -> Tensor | None:
        """The integer tensor behind a float value, None where there is none."""
        if name is None or name not in self.ints:
            return None
        return self.out.tensor(self.ints[name])

    def _float(self, name: str | None) -> str | None:
        """The float tensor of a value, dequantized when a float node needs it."""
        if name is None or name not in self.ints:
            return None if name is None else self._now(name).name
        if name not in self.floats:
            t = self.out.tensor(self.ints[name])
            if t.is_const:
                y = self.out.add_const(name, real_values(t).astype(np.float32)).name
            else:
                like = self.src.tensor(name)
                y = self.out.add_tensor(like.with_(data=None)).name
                self._emit("DEQUANTIZE", [t.name], [y], {}, y)
            self.floats[name] = y
        return self.floats[name]

    # -- nodes ---------------------------------------------------------------------------------

    def _node(self, n: Node) -> None:
        x = n.inputs[0]
        assert x is not None
        if n.type == "DEQUANTIZE":
            self.ints[n.outputs[0]] = self._now(x).name
        elif n.type == "QUANTIZE":
            self._quantize(n, x)
        elif n.type == "ARG_MAX" and self._int(x) is not None:
            self._keep(n, [self.ints[x]])
        elif not self.src.tensor(x).is_float or not (self._compute(n) or self._move(n)):
            self._keep(n, [self._float(i) for i in n.inputs])

    def _keep(self, n: Node, ins: list[str | None]) -> None:
        for o in n.outputs:
            self.out.tensors[o] = self.src.tensor(o)
        self.out.nodes.append(n.with_(inputs=tuple(ins)))

    def _quantize(self, n: Node, x: str) -> None:
        y = n.outputs[0]
        want = self.src.tensor(y)
        have = self._int(x) or self._now(x)
        if have.is_const:
            assert want.quant is not None
            data = quantize_array(real_values(have), want.quant, want.dtype)
            self.out.tensors[y] = want.with_(data=data)
        elif _same(have, want):
            self.alias[y] = have.name
        else:
            self.out.tensors[y] = want
            self.out.nodes.append(n.with_(inputs=(have.name,)))

    def _result(self, n: Node) -> tuple[Tensor, list[Node], str] | None:
        """The quantized result of ``n``, the nodes it swallows, its fused activation; or None."""
        if len(n.outputs) != 1:
            return None
        y, activation = n.outputs[0], n.attr("activation", "NONE")
        swallowed: list[Node] = []
        users = self.users[y]
        if (
            len(users) == 1
            and users[0].type in _FUSED
            and n.type in _HAS_ACTIVATION
            and activation == "NONE"
            and y not in self.src.outputs
        ):
            activation = users[0].type
            swallowed.append(users[0])
            y = users[0].outputs[0]
            users = self.users[y]
        if not users or y in self.src.outputs or any(u.type != "QUANTIZE" for u in users):
            return None
        first = self.src.tensor(users[0].outputs[0])
        if not all(_same(first, self.src.tensor(u.outputs[0])) for u in users):
            return None
        return first, [*swallowed, *users], activation

    def _compute(self, n: Node) -> bool:
        """Emit ``n`` as an integer node; False when it is not one."""
        found = self._result(n)
        if found is None or n.type not in _WEIGHTED | _KEEPS | _FREE | {"SOFTMAX", "LAYER_NORM"}:
            return False
        result, swallowed, activation = found
        x = self._int(n.inputs[0])
        if n.type in ("ADD", "MUL", "SUB", "MAXIMUM", "MINIMUM") and x is None:
            x = self._int(n.inputs[1])
        if x is None or x.quant is None or x.dtype not in ("int8", "int16"):
            return False
        if x.is_const and all(i is None or self.src.tensor(i).is_const for i in n.inputs):
            return False
        if n.type in _WEIGHTED:
            ins = self._weighted(n, x)
        elif n.type == "LAYER_NORM":
            ins = self._layer_norm(n, x)
        else:
            ins = self._operands(n, x)
        if ins is None:
            return False
        attrs = dict(n.attrs)
        if "activation" in attrs:
            attrs["activation"] = activation
        y = result.name
        quant = _SOFTMAX if n.type == "SOFTMAX" else x.quant if n.type in _KEEPS else result.quant
        if n.type == "SOFTMAX" and result.dtype != "int8":
            return False
        if quant is not None and quant.same_as(result.quant):
            self.out.tensors[y] = result
            self._emit(n.type, ins, [y], attrs, n.name)
        else:
            t = self.out.add_tensor(result.with_(name=f"{y}{HIDDEN}own", quant=quant)).name
            self._emit(n.type, ins, [t], attrs, n.name)
            self.out.tensors[y] = result
            self._emit("QUANTIZE", [t], [y], {}, f"{n.name}_requantize")
        for u in swallowed:
            self.done.add(u.name)
            if u.type == "QUANTIZE" and u.outputs[0] != y:
                self.alias[u.outputs[0]] = y
        return True

    def _operands(self, n: Node, x: Tensor) -> list[str | None] | None:
        """Integer operands of an element-wise node or a product; None when one is missing."""
        ins: list[str | None] = []
        for i in n.inputs:
            t = self._int(i)
            if t is None and i is not None and self.src.tensor(i).is_const:
                t = self._scalar(i, x, n.type)
            if t is None or t.quant is None or t.quant.is_per_channel or t.dtype != x.dtype:
                return None
            if n.type in ("MAXIMUM", "MINIMUM") and not _same(t, x):
                return None
            ins.append(t.name)
        return ins

    def _scalar(self, name: str, x: Tensor, type: str) -> Tensor | None:
        """A float constant of one element as an integer: exact by its own scale, or in x's."""
        c = self.src.tensor(name)
        if c.data is None or c.elements != 1 or not c.is_float or x.quant is None:
            return None
        v = float(c.data.ravel()[0])
        if type in ("MAXIMUM", "MINIMUM"):
            quant = x.quant
            data = quantize_array(c.data, quant, x.dtype)
        else:
            quant = QuantParams.per_tensor(abs(v) / 127 if v else 1.0, 0)
            data = np.full(c.shape, np.sign(v) * 127, x.dtype)
        return self.out.add_const(f"{name}{HIDDEN}{x.dtype}", data, quant)

    def _weighted(self, n: Node, x: Tensor) -> list[str | None] | None:
        w = self._int(n.inputs[1])
        if w is None or w.data is None or w.quant is None or w.dtype != "int8":
            return None
        if np.any(w.quant.zero_point) or x.quant is None:
            return None
        ins: list[str | None] = [x.name, w.name]
        bias = n.inputs[2] if len(n.inputs) > 2 else None
        if bias is not None:
            b = self._int(bias) or self._now(bias)
            if not b.is_const:
                return None
            quant = self._product(x.quant, w.quant)
            if b.dtype == "int32" and b.quant is not None and _close(b.quant, quant):
                assert b.data is not None
                data = b.data
            else:
                real = real_values(b)
                if np.any(np.abs(real / quant.scale) > 2**31 - 1):
                    return None
                data = quantize_array(real, quant, "int32")
            name = bias.split(HIDDEN)[0]
            ins.append(self.out.add_const(f"{name}{HIDDEN}int32", data.reshape(-1), quant).name)
        return ins

    @staticmethod
    def _product(x: QuantParams, w: QuantParams) -> QuantParams:
        scale = (x.scale * w.scale).astype(np.float32)
        zeros = np.zeros(scale.shape, np.int32)
        return QuantParams(scale, zeros, 0 if w.is_per_channel else None)

    def _layer_norm(self, n: Node, x: Tensor) -> list[str | None] | None:
        """gamma int16, beta int32 in s_gamma / 4096 (edgekit.graph.ops.norm)."""
        gamma, beta = (self._int(i) or self._now(str(i)) for i in n.inputs[1:])
        if not gamma.is_const or not beta.is_const or x.dtype != "int8":
            return None
        g, b = real_values(gamma), real_values(beta)
        s = float(np.float32(max(float(np.abs(g).max()), 1e-12) / 32767))
        qg, qb = QuantParams.per_tensor(s, 0), QuantParams.per_tensor(s / 4096, 0)
        if np.any(np.abs(b) / qb.s > 2**31 - 1):
            return None
        return [
            x.name,
            self.out.add_const(f"{n.inputs[1]}{HIDDEN}q", quantize_array(g, qg, "int16"), qg).name,
            self.out.add_const(f"{n.inputs[2]}{HIDDEN}q", quantize_array(b, qb, "int32"), qb).name,
        ]

    def _move(self, n: Node) -> bool:
        """Move the integers instead of the floats, the quantization travels along."""
        if n.type not in _MOVES or n.attr("activation", "NONE") != "NONE":
            return False
        ins = [self._int(i) for i in n.inputs]
        x = ins[0]
        if x is None or x.quant is None or x.quant.is_per_channel or x.dtype == "int32":
            return False
        found = self._result(n) if n.type == "CONCATENATION" else None
        target = found[0] if found else x
        names: list[str | None] = []
        for t in ins:
            if t is None or t.quant is None or t.quant.is_per_channel or t.dtype != x.dtype:
                return False
        for t in ins:
            assert t is not None
            if _same(t, target):
                names.append(t.name)
            elif found or n.type == "CONCATENATION":
                like = t.with_(name=f"{t.name}{HIDDEN}in", quant=target.quant, data=None)
                q = self.out.add_tensor(like).name
                self._emit("QUANTIZE", [t.name], [q], {}, f"{n.name}_requantize")
                names.append(q)
        if n.type == "PAD":
            v = float(n.attrs["value"])
            info, q0 = np.iinfo(x.dtype), v / x.quant.s + x.quant.zp
            if not info.min - 0.5 <= q0 <= info.max + 0.5:
                return False
        outs = []
        for o in n.outputs:
            t = self.src.tensor(o).with_(dtype=x.dtype, quant=target.quant)
            name = self.out.add_tensor(t.with_(name=f"{o}{HIDDEN}{x.dtype}")).name
            self.ints[o] = name
            outs.append(name)
        self._emit(n.type, names, outs, dict(n.attrs), n.name)
        return True


def _close(a: QuantParams, b: QuantParams) -> bool:
    if a.scale.size not in (1, b.scale.size) or np.any(a.zero_point):
        return False
    return bool(np.allclose(a.scale, b.scale, rtol=1e-5, atol=0))
