"""Mixed activations: int8 nearly everywhere, int16 where int8 costs most.

TensorFlow Lite's 16x8 scheme for some layers: int16 activations (symmetric), int8 weights, int64 biases;
QUANTIZE converts at the borders, inputs and outputs of the network stay int8. Which activations: each
group of tied ones alone is made int16, and the error of the network's output before the last SOFTMAX is
measured on the calibration samples (layer-wise sensitivity as in Cai et al., ZeroQ, CVPR 2020; HAWQ, Dong
et al., ICCV 2019, asks the Hessian instead). Those that gain most for a multiply-accumulate go first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from edgekit.compress.ptq import Plan, QuantizeOptions, _before_squashing, _error, planned
from edgekit.compress.steps import Count, StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.graph.ops import macs
from edgekit.graph.reference import run

#: Operators that microcontroller kernels and TFLite have in int16, weights int8.
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_SAME_SCALE = ("AVERAGE_POOL_2D", "MAX_POOL_2D", "RESHAPE", "SQUEEZE")
WIDE = frozenset((*_WEIGHTED, *_SAME_SCALE, "ADD", "SUB", "MEAN", "SUM"))

#: Samples on which a candidate is compared, at most.
_COMPARED = 64


@dataclass(frozen=True)
class Candidate:
    """A group of activations that share a quantization. error: of the network with only it in int16,
    relative to the float outputs' variance. macs: of the layers that then compute in int16."""

    tensors: tuple[str, ...]
    error: float
    macs: int


@dataclass(frozen=True)
class Mixed:
    """graph: the integer graph. chosen: the activations in int16. candidates: all that were measured.
    error_int8, error: of the int8 network and of ``graph``, relative to the float outputs' variance."""

    graph: Graph
    chosen: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    error_int8: float
    error: float


def groups_of(plan: Plan) -> list[tuple[str, ...]]:
    """The tied int8 activations that layers with an int16 form write or read, in graph order."""
    q = plan.integer
    used = {
        name
        for n in q.nodes
        if n.type in WIDE
        for name in (*n.inputs, *n.outputs)
        if name is not None
    }
    found: dict[int, list[str]] = {}
    for name, t in q.tensors.items():
        if t.dtype == "int8" and not t.is_const and name in used and name in plan.params:
            found.setdefault(id(plan.params[name]), []).append(name)
    # what nothing computes (an input) is int8 whatever its readers make of it
    made = set(q.producers())
    return [tuple(m) for m in found.values() if made.intersection(m)]


def with_int16(plan: Plan, tensors: Collection[str]) -> Graph:
    """The integer graph of ``plan`` with these activations in int16, wherever their layers allow it."""
    return _Wide(plan, frozenset(tensors)).build()


class _Wide:
    def __init__(self, plan: Plan, wanted: frozenset[str]) -> None:
        self.plan = plan
        self.q = plan.integer
        self.wanted = wanted
        self.out = Graph(self.q.name, {}, [], self.q.inputs, self.q.outputs, dict(self.q.metadata))
        self.narrow: dict[str, str] = {}  # activation -> its int8 (or float) form
        self.wide: dict[str, str] = {}  # activation -> its int16 form
        self.scales: dict[int, float] = {}
        for name, quant in plan.params.items():
            s = plan.stats.get(name)
            peak = 0.0 if s is None or not s.count else max(abs(s.lo), abs(s.hi))
            self.scales[id(quant)] = max(self.scales.get(id(quant), 0.0), peak)

    def quant(self, t: Tensor) -> QuantParams:
        """Symmetric, of the values that calibration saw of all that is tied to ``t``."""
        assert t.quant is not None
        peak = self.scales.get(id(self.plan.params.get(t.name)), 0.0)
        if peak <= 0.0:
            peak = t.quant.s * max(128 + t.quant.zp, 127 - t.quant.zp)
        return QuantParams.per_tensor(peak / 32767.0, 0)

    def is_wide(self, n: Node) -> bool:
        ins, outs = self.q.ins(n), self.q.outs(n)
        acts = [*(t for t in ins if t is not None and not t.is_const), *outs]
        if n.type not in WIDE or not any(t.name in self.wanted for t in acts):
            return False
        if any(t.dtype != "int8" or t.quant is None for t in acts):
            return False
        if n.type in _WEIGHTED:
            w = ins[1]
            return w is not None and w.dtype == "int8" and w.is_const
        if any(t is not None and t.is_const for t in ins):
            return False
        if n.type in _SAME_SCALE:
            return all(self.quant(t).same_as(self.quant(outs[0])) for t in acts)
        return True

    def build(self) -> Graph:
        for name in self.q.inputs:
            self.out.tensors[name] = self.q.tensor(name)
            self.narrow[name] = name
        for n in self.q.nodes:
            self.wide_node(n) if self.is_wide(n) else self.narrow_node(n)
        for o in self.q.outputs:
            self.as_narrow(o)
        self.out.prune()
        return self.out.validate()

    def as_narrow(self, name: str) -> str:
        t = self.q.tensor(name)
        if t.is_const:
            self.out.tensors.setdefault(name, t)
            return name
        if name not in self.narrow:
            self.out.tensors[name] = t
            self.out.add_node("QUANTIZE", [self.wide[name]], [name], name=f"{name}_to_int8")
            self.narrow[name] = name
        return self.narrow[name]

    def as_wide(self, name: str) -> str:
        if name not in self.wide:
            made = self.int16(self.q.tensor(name))
            self.out.add_node("QUANTIZE", [self.narrow[name]], [made], name=f"{name}_to_int16")
            self.wide[name] = made
        return self.wide[name]

    def int16(self, t: Tensor) -> str:
        wide = Tensor(f"{t.name}_int16", t.shape, "int16", self.quant(t))
        return self.out.add_tensor(wide).name

    def narrow_node(self, n: Node) -> None:
        inputs = [None if i is None else self.as_narrow(i) for i in n.inputs]
        for o in n.outputs:
            self.out.tensors[o] = self.q.tensor(o)
            self.narrow[o] = o
        self.out.nodes.append(n.with_(inputs=tuple(inputs)))

    def wide_node(self, n: Node) -> None:
        inputs: list[str | None]
        if n.type in _WEIGHTED:
            x = self.as_wide(n.inputs[0] or "")
            inputs = [x, *self.constants(n, self.out.tensor(x))]
        else:
            inputs = [self.as_wide(i) for i in n.inputs if i is not None]
        outputs = []
        for o in n.outputs:
            self.wide[o] = self.int16(self.q.tensor(o))
            outputs.append(self.wide[o])
        self.out.nodes.append(n.with_(inputs=tuple(inputs), outputs=tuple(outputs)))

    def constants(self, n: Node, x: Tensor) -> list[str | None]:
        """Weights, and the bias as int64 in the new input's unit."""
        w = self.q.tensor(n.inputs[1])
        self.out.tensors.setdefault(w.name, w)
        bias = self.q.ins(n)[2] if len(n.inputs) > 2 else None
        if bias is None or bias.data is None:
            return [w.name, None] if len(n.inputs) > 2 else [w.name]
        old = self.q.tensor(n.inputs[0])
        assert w.quant is not None and x.quant is not None and old.quant is not None
        scale = np.float32(x.quant.s) * w.quant.scale
        real = bias.data.astype(np.float64) * np.float64(np.float32(old.quant.s)) * w.quant.scale
        data = np.rint(real / scale.astype(np.float64)).astype(np.int64)
        axis = 0 if w.quant.is_per_channel else None
        quant = QuantParams(scale, np.zeros(len(scale), np.int32), axis)
        wide = Tensor(f"{bias.name}_int64", bias.shape, "int64", quant, data)
        return [w.name, self.out.add_tensor(wide).name]


def mixed(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    options: QuantizeOptions | None = None,
    *,
    share: float = 0.5,
    progress: Callable[[str], None] | None = None,
) -> Mixed:
    """A float graph with the activations that int8 hurts most in int16.

    inputs: calibration samples, one float32 array a graph input. share: most of the network's
    multiply-accumulates that may be in layers with int16 activations.
    """
    plan = planned(graph, inputs, options or QuantizeOptions(observer="auto"), progress)
    g, q = plan.graph, plan.integer
    some = [a[:_COMPARED] for a in inputs]
    watched = [_before_squashing(g, o) for o in g.outputs]
    watched = [w for w in watched if g.tensor(w).is_float]
    expected = run(g, some, keep=watched)

    def error(of: Graph) -> float:
        return _error(of, g, some, _named(of, watched), expected)

    before = error(q)
    found = []
    groups = groups_of(plan)
    if not groups:
        raise InputError(f"'{graph.name}' has no layer that could compute with int16 activations")
    for k, tensors in enumerate(groups):
        if progress:
            progress(f"int16 for {tensors[0]} ({k + 1} of {len(groups)})")
        trial = with_int16(plan, tensors)
        found.append(Candidate(tensors, error(trial), _wide_macs(trial)))
    most = share * sum(macs(n, q) for n in q.nodes)
    best, result = before, q.copy()
    taken: list[str] = []
    # by gain for a multiply-accumulate, and by gain alone: one large layer may be worth many small
    for per_mac in (True, False):
        chosen: list[str] = []
        reached = before
        for c in sorted(found, key=lambda c: ((c.error - before) / (max(1, c.macs) if per_mac else 1),
                                              c.tensors)):  # fmt: skip
            if c.error >= before:
                break
            trial = with_int16(plan, [*chosen, *c.tensors])
            if _wide_macs(trial) > most:
                continue
            after = error(trial)
            if after < reached:  # what helps alone may not help beside others
                chosen, reached = [*chosen, *c.tensors], after
                if after < best:
                    best, result, taken = after, trial, chosen
    result.metadata["quantized"] = f"edgekit mixed: {len(taken)} activations int16, the others int8"
    return Mixed(result, tuple(taken), tuple(found), before, best)


def _named(of: Graph, watched: Sequence[str]) -> list[str]:
    """The watched activations that the graph has in int8 (or float); an int16 one is as good, but
    what the network says are its int8 outputs."""
    return [w for w in watched if w in of.tensors]


def _wide_macs(g: Graph) -> int:
    return sum(macs(n, g) for n in g.nodes if g.outs(n)[0].dtype == "int16")


@step("quantize-mixed", cites="TensorFlow Lite 16x8; Cai et al., ZeroQ, CVPR 2020 (sensitivity)")
def quantize_mixed(
    graph: Graph,
    ctx: StepContext,
    *,
    macs: Annotated[float, Within(0, 1)] = 0.5,
    observer: Literal["auto", "minmax", "percentile", "mse", "entropy"] = "auto",
    samples: Count = 200,
) -> Graph:
    """Post-training quantization, int16 activations where int8 costs most: in layers of at most a share
    ``macs`` of the multiply-accumulates."""
    inputs = ctx.inputs(graph, "quantize-mixed", samples)
    found = mixed(graph, inputs, QuantizeOptions(observer=observer), share=macs,
                  progress=ctx.progress)  # fmt: skip
    ctx.note(
        int16=list(found.chosen),
        error_int8=found.error_int8,
        error=found.error,
        sensitivity={c.tensors[0]: c.error for c in found.candidates},
    )
    return found.graph
