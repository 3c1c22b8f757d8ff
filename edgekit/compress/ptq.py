"""Post-training quantization: a float graph and calibration samples become an int8 graph.

Activations: int8, per tensor, asymmetric, the range from an observer. Weights: int8, symmetric, per
output channel for convolutions (per tensor for dense layers, as TFLite's converter does). Biases:
int32 with scale ``s_in * s_w``. The numerics are TFLite's (Jacob et al., CVPR 2018; TensorFlow Lite
8-bit quantization specification), so the result writes to a .tflite file and runs bit for bit alike
on every engine.

Operators that copy values (pooling, reshape, concatenation, ...) share one scale with their
neighbours; SOFTMAX, LOGISTIC and TANH have the scales the specification fixes. Operators without an
integer form stay float between DEQUANTIZE and QUANTIZE; the backend names them if it cannot run them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgekit.compress.equalize import equalize
from edgekit.compress.lower import lower
from edgekit.compress.observers import OBSERVERS, Observer, Statistics, calibrate, choose_range
from edgekit.compress.simplify import clean, total_macs
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.graph.numerics import dequantize
from edgekit.graph.numerics import quantize as quantize_array
from edgekit.graph.reference import run

#: Channel axis of the weights by operator; their quantization is per channel along it.
_WEIGHT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0}
#: Operators that return values of their input(s): one quantization for inputs and outputs.
_SAME = frozenset(
    {
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "RESHAPE",
        "SQUEEZE",
        "TRANSPOSE",
        "STRIDED_SLICE",
        "SPLIT",
        "GATHER",
        "CONCATENATION",
        "PAD",
        "RESIZE_NEAREST_NEIGHBOR",
        "RESIZE_BILINEAR",
        "REDUCE_MAX",
        "MAXIMUM",
        "MINIMUM",
    }
)
_FIXED = {
    "SOFTMAX": (1.0 / 256.0, -128),
    "LOGISTIC": (1.0 / 256.0, -128),
    "TANH": (1.0 / 128.0, 0),
}
_FREE = frozenset(
    {
        "ADD",
        "SUB",
        "MUL",
        "SQUARED_DIFFERENCE",
        "MEAN",
        "SUM",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "LEAKY_RELU",
        "PRELU",
        "HARD_SWISH",
        "GELU",
        "ABS",
        "EXP",
        "LOG",
        "NEG",
        "SQRT",
        "RSQRT",
        "BATCH_MATMUL",
        "LAYER_NORM",
        "ARG_MAX",
    }
)
_INTEGER = frozenset(_WEIGHT_AXIS) | _SAME | frozenset(_FIXED) | _FREE


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantize. The defaults are sound for most networks.

    observer: see :mod:`.observers`; percentile: share kept by the percentile observer.
    per_channel: weight scales a channel (convolutions). per_channel_dense: for dense layers too.
    bias_correction: move the mean error that weight rounding makes into the bias. equalize:
    cross-layer equalization first (helps per-tensor weights and depthwise nets).
    """

    observer: Observer = "percentile"
    percentile: float = 99.999
    per_channel: bool = True
    per_channel_dense: bool = False
    bias_correction: bool = True
    equalize: bool = False

    def __post_init__(self) -> None:
        if self.observer not in OBSERVERS:
            raise InputError(
                f"observer '{self.observer}' is unknown; known are {', '.join(OBSERVERS)}"
            )
        if not 50.0 < self.percentile <= 100.0:
            raise InputError(f"percentile {self.percentile} is not in (50, 100]")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def quantize(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    options: QuantizeOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Graph:
    """The int8 form of a float graph.

    inputs: calibration samples, one float32 array a graph input, samples along axis 0. Raises
    InputError when the graph holds quantized tensors already, or on values that are not finite.
    """
    return planned(graph, inputs, options, progress).integer


@dataclass(frozen=True, eq=False)
class Plan:
    """A quantization and what it was made from, for passes that improve on it (AdaRound, QAT).

    graph: the float graph as it was lowered for quantization; the nodes of ``integer`` have its names
    (``integer`` holds conversions besides), and so have the weights. params: the quantization of each
    float activation of ``graph``; tensors that must share one share the object. options: as used; the
    observer that "auto" chose.
    """

    graph: Graph
    integer: Graph
    params: dict[str, QuantParams]
    stats: dict[str, Statistics]
    options: QuantizeOptions

    def with_params(self, params: dict[str, QuantParams]) -> Graph:
        """The integer graph with other activation quantizations; weights are rounded to nearest."""
        return _Quantizer(self.graph, self.stats, self.options, params).build()


def planned(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    options: QuantizeOptions | None = None,
    progress: Callable[[str], None] | None = None,
) -> Plan:
    """As :func:`quantize`, with everything that was decided."""
    options = options or QuantizeOptions()
    for t in graph.tensors.values():
        if t.quant is not None or t.dtype in ("int8", "uint8", "int16"):
            raise InputError(
                f"model '{graph.name}' is partly quantized already (tensor '{t.name}' is {t.dtype}); "
                "quantization takes a float model"
            )
    g = lowered(graph)
    if options.equalize:
        g = equalize(g)
    stats = calibrate(g, inputs, options.observer, progress)
    if options.observer == "auto":
        return _nearest(g, stats, inputs, options, progress)
    if progress:
        progress(f"quantizing ({options.observer})")
    quantizer = _Quantizer(g, stats, options)
    return Plan(g, quantizer.build(), quantizer.params, stats, options)


def lowered(graph: Graph) -> Graph:
    """The float graph that :func:`quantize` works on: cleaned, in operators that have integer forms."""
    return _global_pools(clean(lower(clean(graph))))


def with_ranges(graph: Graph, ranges: Mapping[str, tuple[float, float]]) -> Graph:
    """The integer form of a :func:`lowered` graph for given ranges of its float activations: without
    samples, for those who need its shapes and types and not its values."""
    stats = {name: Statistics(lo, hi) for name, (lo, hi) in ranges.items()}
    return _Quantizer(graph, stats, QuantizeOptions("minmax", bias_correction=False)).build()


def _global_pools(graph: Graph) -> Graph:
    """Global average pools as MEAN: the same values, but TFLite's int8 average pool has to keep its
    input's scale, which is made for peaks and far too coarse for their mean. MEAN has a scale of its
    own (on ResNet-8 the logits' mean squared error falls to a third)."""
    g = graph.copy()
    for i, n in enumerate(g.nodes):
        if n.type != "AVERAGE_POOL_2D" or n.attr("activation", "NONE") != "NONE":
            continue
        x, y = g.tensor(n.inputs[0]), g.tensor(n.outputs[0])
        whole = tuple(n.attrs["filter"]) == x.shape[1:3] and y.shape[1:3] == (1, 1)
        if whole and n.attrs["padding"] in ("VALID", "SAME", (0, 0, 0, 0)):
            g.nodes[i] = n.with_(type="MEAN", attrs={"axes": (1, 2), "keep_dims": True})
    return g.validate()


#: What ``auto`` tries: observer and percentile.
_CANDIDATES: tuple[tuple[Observer, float], ...] = (
    ("minmax", 100.0),
    ("percentile", 99.999),
    ("percentile", 99.99),
    ("mse", 100.0),
)
#: Multiply-accumulates spent on comparing one candidate with the float model.
_COMPARE_MACS = 3_000_000_000


def _nearest(
    g: Graph,
    stats: dict[str, Statistics],
    inputs: Sequence[np.ndarray],
    options: QuantizeOptions,
    progress: Callable[[str], None] | None,
) -> Plan:
    """The candidate with the smallest mean squared error before the final SOFTMAX (or LOGISTIC), as a
    share of the float values' variance, over the calibration samples."""
    samples = int(np.clip(_COMPARE_MACS // max(1, total_macs(g)), 8, len(inputs[0])))
    some = [a[:samples] for a in inputs]
    watched = [_before_squashing(g, o) for o in g.outputs]
    watched = [w for w in watched if g.tensor(w).is_float]
    expected = run(g, some, keep=watched)
    best: tuple[float, Plan] | None = None
    for observer, percentile in _CANDIDATES:
        if progress:
            progress(f"quantizing: {observer} {percentile:g}, comparing {samples} samples")
        trial = replace(options, observer=observer, percentile=percentile)
        quantizer = _Quantizer(g, stats, trial)
        q = quantizer.build()
        error = _error(q, g, some, watched, expected)
        if best is None or error < best[0]:
            best = error, Plan(g, q, quantizer.params, stats, trial)
            q.metadata["quantized"] = f"edgekit post-training int8, observer {observer}" + (
                f" {percentile:g}" if observer == "percentile" else ""
            )
    assert best is not None
    return best[1]


def _before_squashing(g: Graph, name: str) -> str:
    producer = g.producers().get(name)
    if producer is not None and producer.type in ("SOFTMAX", "LOGISTIC") and producer.inputs[0]:
        return producer.inputs[0]
    return name


def _error(
    q: Graph,
    g: Graph,
    inputs: Sequence[np.ndarray],
    watched: Sequence[str],
    expected: dict[str, np.ndarray],
) -> float:
    quantized = [
        quantize_array(a, t.quant, t.dtype) if t.quant is not None else a
        for a, t in zip(inputs, (q.tensor(i) for i in q.inputs), strict=True)
    ]
    names = [w for w in watched if w in q.tensors]
    values = run(q, quantized, keep=names)
    total = 0.0
    for name in names:
        t = q.tensor(name)
        real = values[name] if t.quant is None else dequantize(values[name], t.quant)
        want = expected[name].astype(np.float64)
        total += float(((real - want) ** 2).mean() / max(float(want.var()), 1e-12))
    return total


def qparams(lo: float, hi: float) -> QuantParams:
    """int8 scale and zero point of a range that contains 0 (TFLite's nudged zero point)."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    scale = np.float32((hi - lo) / 255.0)
    if not scale > 1e-30:
        return QuantParams.per_tensor(1.0, 0)
    zp = int(np.clip(np.rint(-128.0 - lo / float(scale)), -128, 127))
    return QuantParams.per_tensor(float(scale), zp)


class _Sets:
    """Disjoint sets of tensor names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.parent = {n: n for n in names}

    def find(self, n: str) -> str:
        while self.parent[n] != n:
            self.parent[n] = self.parent[self.parent[n]]
            n = self.parent[n]
        return n

    def tie(self, names: Sequence[str]) -> None:
        for other in names[1:]:
            self.parent[self.find(other)] = self.find(names[0])

    def members(self, names: Sequence[str] | None = None) -> dict[str, list[str]]:
        """The sets, by representative; only ``names`` are looked at (None: all)."""
        found: dict[str, list[str]] = {}
        for name in self.parent if names is None else names:
            found.setdefault(self.find(name), []).append(name)
        return found


def _union(names: Sequence[str], ranges: dict[str, tuple[float, float]]) -> tuple[float, float]:
    return min(ranges[n][0] for n in names), max(ranges[n][1] for n in names)


def _pinned(
    names: Sequence[str], ranges: dict[str, tuple[float, float]], fixed: dict[str, QuantParams]
) -> QuantParams | None:
    """The fixed quantization that all ``names`` can take, or None: there is none, there are several,
    or values of some lie outside what it can hold."""
    found = [fixed[n] for n in names if n in fixed]
    if not found or not all(p.same_as(found[0]) for p in found):
        return None
    p = found[0]
    lo, hi = _union(names, ranges)
    # Half a step beyond the last value still rounds to it; one more is what 1.0 needs at 1/256.
    fits = p.s * (-129.5 - p.zp) <= lo and hi <= p.s * (128.5 - p.zp)
    return p if fits else None


class _Quantizer:
    def __init__(
        self,
        g: Graph,
        stats: dict[str, Statistics],
        options: QuantizeOptions,
        params: dict[str, QuantParams] | None = None,
    ) -> None:
        self.g = g
        self.stats = stats
        self.options = options
        self.out = Graph(g.name, {}, [], (), (), dict(g.metadata))
        self.out.metadata["quantized"] = "edgekit post-training int8"
        self.params = self._activation_params() if params is None else params
        self.as_float: dict[str, str] = {}
        self.as_int: dict[str, str] = {}

    # -- which scale each activation gets ----------------------------------------------------------

    def _integer(self, n: Node) -> bool:
        """The node has an integer form here."""
        if n.type not in _INTEGER:
            return False
        if n.type in _WEIGHT_AXIS:
            return all(i is None or self.g.tensor(i).is_const for i in n.inputs[1:])
        return all(t is None or t.is_float for t in self.g.ins(n))

    def _activation_params(self) -> dict[str, QuantParams]:
        """One quantization for everything that is tied, and the fixed ones where they hold.

        What one-input operators tie (a pool, a reshape) is a *chain*; operators with several inputs
        (CONCATENATION) tie chains into a *group*. A group takes a fixed quantization (of a LOGISTIC
        in it) when all its values fit; else only that operator's own chain does, and is requantized
        where it meets the others.
        """
        g = self.g
        names = [t.name for t in g.tensors.values() if not t.is_const and t.is_float]
        chains, groups = _Sets(names), _Sets(names)
        fixed: dict[str, QuantParams] = {}
        for n in g.nodes:
            if not self._integer(n):
                continue
            if n.type in _FIXED:
                fixed[n.outputs[0]] = QuantParams.per_tensor(*_FIXED[n.type])
            if n.type in _SAME:
                tied = [i for i in (*n.inputs, *n.outputs) if i in groups.parent]
                groups.tie(tied)
                if len(n.inputs) == 1:
                    chains.tie(tied)
        ranges = {
            m: choose_range(self.stats[m], self.options.observer, self.options.percentile)
            for m in names
        }
        params: dict[str, QuantParams] = {}
        for members in groups.members().values():
            pin = _pinned(members, ranges, fixed)
            if pin is not None:
                params.update(dict.fromkeys(members, pin))
                continue
            shared = qparams(*_union(members, ranges))
            for m in members:
                params[m] = shared
            if not any(m in fixed for m in members):
                continue
            for chain in chains.members(members).values():
                own = _pinned(chain, ranges, fixed)
                for m in chain:
                    params[m] = fixed.get(m, own or shared)
        return params

    # -- building ----------------------------------------------------------------------------------

    def build(self) -> Graph:
        g = self.g
        out = self.out
        for name in g.inputs:
            t = g.tensor(name)
            if t.is_float:
                out.tensors[name] = t.with_(dtype="int8", quant=self.params[name])
                self.as_int[name] = name
            else:
                out.tensors[name] = t
        out.inputs = g.inputs
        for n in g.nodes:
            if self._integer(n):
                self._integer_node(n)
            else:
                self._float_node(n)
        out.outputs = tuple(
            self._as_int(o) if g.tensor(o).is_float and not g.tensor(o).is_const else o
            for o in g.outputs
        )
        out.toposort()
        out.prune()
        return out.validate()

    def _as_int(self, name: str) -> str:
        """The int8 tensor for a float activation of the source, quantizing it where it is float."""
        if name not in self.as_int:
            t = self.g.tensor(name)
            q = self.out.add_tensor(
                t.with_(name=f"{name}_int8", dtype="int8", quant=self.params[name])
            )
            self.out.add_node("QUANTIZE", [self.as_float[name]], [q.name], name=f"{name}_quantize")
            self.as_int[name] = q.name
        return self.as_int[name]

    def _as_float(self, name: str) -> str:
        t = self.g.tensor(name)
        if t.is_const or not t.is_float:
            self.out.tensors.setdefault(name, t)
            return name
        if name not in self.as_float:
            f = self.out.add_tensor(t.with_(name=f"{name}_float"))
            self.out.add_node(
                "DEQUANTIZE", [self.as_int[name]], [f.name], name=f"{name}_dequantize"
            )
            self.as_float[name] = f.name
        return self.as_float[name]

    def _float_node(self, n: Node) -> None:
        inputs = [None if i is None else self._as_float(i) for i in n.inputs]
        outputs = []
        for o in n.outputs:
            t = self.g.tensor(o)
            stored = self.out.add_tensor(t.with_(name=f"{o}_float") if t.is_float else t)
            if t.is_float:
                self.as_float[o] = stored.name
            outputs.append(stored.name)
        self.out.nodes.append(n.with_(inputs=tuple(inputs), outputs=tuple(outputs)))

    def _integer_node(self, n: Node) -> None:
        out = self.out
        outputs = []
        for o in n.outputs:
            t = self.g.tensor(o)
            if t.is_float:
                out.tensors[o] = t.with_(dtype="int8", quant=self.params[o])
                self.as_int[o] = o
            else:
                out.tensors[o] = t
            outputs.append(o)
        if n.type in _WEIGHT_AXIS:
            inputs = self._weighted_inputs(n)
        elif n.type == "LAYER_NORM":
            inputs = self._layer_norm_inputs(n)
        else:
            inputs = [self._activation_input(n, i) for i in n.inputs if i is not None]
        out.nodes.append(n.with_(inputs=tuple(inputs), outputs=tuple(outputs)))

    def _activation_input(self, n: Node, name: str) -> str:
        t = self.g.tensor(name)
        target = self.params.get(n.outputs[0])
        if t.is_const:
            assert t.data is not None
            if n.type in _SAME and target is not None:
                q = target
            elif n.type in ("BATCH_MATMUL", "PRELU"):
                q = _symmetric(t.data)
            else:
                q = qparams(float(t.data.min()), float(t.data.max()))
            data = quantize_array(t.data, q, "int8")
            return self.out.add_tensor(Tensor(name, t.shape, "int8", q, data)).name
        have = self._as_int(name)
        q_have = self.out.tensor(have).quant
        if n.type in _SAME and target is not None and not target.same_as(q_have):
            same = self.out.add_tensor(t.with_(name=f"{name}_rescaled", dtype="int8", quant=target))
            self.out.add_node("QUANTIZE", [have], [same.name], name=f"{name}_rescale")
            return same.name
        return have

    def _weighted_inputs(self, n: Node) -> list[str | None]:
        g, out = self.g, self.out
        x = out.tensor(self._as_int(n.inputs[0] or ""))
        y = self.params[n.outputs[0]]
        w = g.tensor(n.inputs[1])
        assert w.data is not None and x.quant is not None
        bias = g.tensor(n.inputs[2]) if len(n.inputs) > 2 and n.inputs[2] is not None else None
        axis = _WEIGHT_AXIS[n.type]
        wd = w.data.astype(np.float64)
        channels = w.shape[axis]
        b = (
            np.zeros(channels)
            if bias is None or bias.data is None
            else bias.data.astype(np.float64)
        )
        dense = n.type == "FULLY_CONNECTED"
        per_channel = self.options.per_channel and (not dense or self.options.per_channel_dense)
        others = tuple(i for i in range(wd.ndim) if i != axis)
        peak = np.abs(wd).max(axis=others if per_channel else None, keepdims=False)
        scale = np.atleast_1d(peak / 127.0)
        # A channel without weights still needs a scale that makes its bias exact enough; and no
        # bias may leave int32.
        idle = y.s / x.quant.s / 256.0
        scale = np.where(scale > 0, scale, idle)
        limit = np.abs(b) if per_channel else np.abs(b).max(initial=0.0)
        scale = np.maximum(scale, limit / (x.quant.s * 2.0**30)).astype(np.float32)
        q = QuantParams(scale, np.zeros(len(scale), np.int32), axis if per_channel else None)
        wq = np.clip(quantize_array(w.data.astype(np.float32), q, "int8"), -127, 127)
        if self.options.bias_correction:
            shape = [1] * wd.ndim
            shape[axis] = -1
            restored = wq * scale.astype(np.float64).reshape(shape if per_channel else -1)
            b = b + self._mean_error(n, wd - restored)
        b_scale = np.float32(x.quant.s) * scale
        b_quant = QuantParams(b_scale, np.zeros(len(scale), np.int32), 0 if per_channel else None)
        bq = np.clip(np.rint(b / b_scale.astype(np.float64)), -(2**31) + 1, 2**31 - 1)
        new_w = out.add_tensor(Tensor(w.name, w.shape, "int8", q, wq.astype(np.int8)))
        name = bias.name if bias is not None else f"{n.name}_bias"
        new_b = out.add_tensor(Tensor(name, (channels,), "int32", b_quant, bq.astype(np.int32)))
        return [x.name, new_w.name, new_b.name]

    def _mean_error(self, n: Node, error: np.ndarray) -> np.ndarray:
        """Expected output error a channel of a weight error, from the mean input a channel."""
        mean = self.stats[n.inputs[0] or ""].mean
        if n.type == "DEPTHWISE_CONV_2D":
            m = error.shape[3] // len(mean)
            return error.sum(axis=(0, 1, 2)) * np.repeat(mean, m)
        if n.type == "TRANSPOSE_CONV":
            return np.zeros(error.shape[0])  # taps reach positions unevenly: no single mean
        if n.type == "CONV_2D" and error.shape[3] != len(mean):
            groups = len(mean) // error.shape[3]
            per = error.shape[0] // groups
            by_group = mean.reshape(groups, -1).repeat(per, axis=0)
            return (error.sum(axis=(1, 2)) * by_group).sum(axis=1)
        columns = error.reshape(error.shape[0], -1, len(mean)).sum(axis=1)
        return columns @ mean

    def _layer_norm_inputs(self, n: Node) -> list[str | None]:
        from edgekit.graph.ops.norm import quantize_layer_norm

        x = self.out.tensor(self._as_int(n.inputs[0] or ""))
        gamma, beta = (self.g.tensor(i) for i in n.inputs[1:3])
        assert gamma.data is not None and beta.data is not None
        g, g_quant, b, b_quant = quantize_layer_norm(gamma.data, beta.data)
        new_g = self.out.add_tensor(Tensor(gamma.name, g.shape, "int16", g_quant, g))
        new_b = self.out.add_tensor(Tensor(beta.name, b.shape, "int32", b_quant, b))
        return [x.name, new_g.name, new_b.name]


def _symmetric(data: np.ndarray) -> QuantParams:
    peak = float(np.abs(data).max(initial=0.0))
    return QuantParams.per_tensor(peak / 127.0 if peak > 0 else 1.0, 0)
