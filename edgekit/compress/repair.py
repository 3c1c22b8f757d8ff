"""Repair without training: what is left of a network is fitted to what the original computed.

*Least squares* (after He et al., Channel Pruning, ICCV 2017; Luo et al., ThiNet, ICCV 2017): layer by
layer in execution order, the weights and bias become the ridge solution that brings the layer's output
(before its activation), computed from the *repaired* network's inputs, nearest to the original's. A layer
whose result is added to another branch is fitted to what the sum lacks, so that it makes up for the error
of that branch, too. The ridge pulls towards the weights that are there, not towards zero.

*Re-estimation*: mean, or mean and variance, of every layer's output channels are matched to the
original's. It is what re-estimating batch norm's statistics does, and works where batch norm was folded
away (Nagel et al., ICCV 2019, for the mean).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from edgekit.compress.execute import Walker, affordable
from edgekit.compress.groups import is_grouped, kept_channels
from edgekit.compress.steps import Count, StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Graph, Node

REPAIRABLE = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_BEFORE = " before activation"
_CUT_OFF = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
_CHUNK = 8192  #: rows of a design matrix that are in memory at once


def exposed(graph: Graph) -> Graph:
    """Fused activations of the layers with weights and of ADD as operators of their own, so that the
    values before them have names."""
    g = graph.copy()
    nodes: list[Node] = []
    for n in graph.nodes:
        act = n.attr("activation", "NONE")
        if n.type not in (*REPAIRABLE, "ADD") or act == "NONE":
            nodes.append(n)
            continue
        out = g.tensor(n.outputs[0])
        before = g.add_tensor(out.with_(name=out.name + _BEFORE))
        nodes.append(n.with_attrs(activation="NONE").with_(outputs=(before.name,)))
        nodes.append(Node(f"{n.name}{_BEFORE}", act, (before.name,), (out.name,), {}))
    g.nodes = nodes
    return g


def _own_constants(graph: Graph) -> Graph:
    """Every repairable layer gets weights and a bias that no other layer reads."""
    g = graph.copy()
    nodes = []
    for n in graph.nodes:
        if n.type in REPAIRABLE and g.tensor(n.inputs[1]).is_const:
            w = g.tensor(n.inputs[1])
            w = g.add_tensor(w.with_(name=f"{n.name} weights"))
            b = g.tensor(n.inputs[2]) if len(n.inputs) > 2 and n.inputs[2] is not None else None
            width = g.tensor(n.outputs[0]).shape[-1]
            data = (
                np.zeros(width, np.float32) if b is None or b.data is None else b.data.reshape(-1)
            )
            bias = g.add_const(f"{n.name} bias", data)
            n = n.with_(inputs=(n.inputs[0], w.name, bias.name))
        nodes.append(n)
    g.nodes = nodes
    g.prune()
    return g


def design_rows(
    node: Node, g: Graph, x: np.ndarray, out: tuple[int, ...], rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """A seeded choice of output positions: the design matrix ``[rows, taps, C]`` there, and a function
    that takes the same positions out of an output of shape ``out``."""
    if node.type == "FULLY_CONNECTED":
        flat = x.reshape(-1, g.tensor(node.inputs[1]).shape[1])
        pick = _pick(len(flat), rows, rng)
        return flat[pick][:, None, :], lambda y: y.reshape(-1, y.shape[-1])[pick]
    w = g.tensor(node.inputs[1])
    kh, kw = w.shape[1:3]
    (sh, sw), (dh, dw) = node.attrs["stride"], node.attrs["dilation"]
    pads, _ = nx.conv_padding(x.shape[1:3], (kh, kw), (sh, sw), node.attrs["padding"], (dh, dw))
    top, bottom, left, right = pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    n, oh, ow = len(x), out[1], out[2]
    pick = _pick(n * oh * ow, rows, rng)
    i, oy, ox = pick // (oh * ow), pick // ow % oh, pick % ow
    design = np.empty((len(pick), kh * kw, x.shape[3]), np.float32)
    for a in range(kh):
        for b in range(kw):
            design[:, a * kw + b] = padded[i, oy * sh + a * dh, ox * sw + b * dw]
    return design, lambda y: y[i, oy, ox]


def _pick(count: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    if count <= rows:
        return np.arange(count)
    return np.sort(rng.choice(count, rows, replace=False))


@dataclass(frozen=True)
class Wanted:
    """What a layer's outputs should be, at the chosen positions.

    total: ``[rows, O]``, what the layer's output *plus* ``other`` should be before the activation.
    low, high: the activation's bounds: beyond them only the side matters, as in Zhang et al.,
    Accelerating Very Deep Convolutional Networks (TPAMI 2016).
    """

    total: np.ndarray
    other: np.ndarray | None = None
    low: float = -np.inf
    high: float = np.inf

    def channels(self, o: slice) -> Wanted:
        other = None if self.other is None else self.other[:, o]
        return Wanted(self.total[:, o], other, self.low, self.high)

    def by_channel(self) -> Wanted:
        """The same, with each channel's values together in memory."""
        other = None if self.other is None else np.asfortranarray(self.other)
        return Wanted(np.asfortranarray(self.total), other, self.low, self.high)

    def start(self) -> np.ndarray:
        return self.total if self.other is None else self.total - self.other

    def given(self, predicted: np.ndarray) -> np.ndarray:
        """The targets after a prediction: where the activation cuts the total off, a prediction beyond
        the bound is right as it is."""
        total = predicted if self.other is None else predicted + self.other
        target = np.where(self.total <= self.low, np.minimum(total, self.low), self.total)
        target = np.where(self.total >= self.high, np.maximum(total, self.high), target)
        return target if self.other is None else target - self.other


#: Rounds of refitting to targets that the activation leaves open; they converge from above.
_ROUNDS = 8


def ridge_fit(
    x: np.ndarray, wanted: Wanted, w0: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights ``[O, D]`` and bias ``[O]`` with the least ``|x w + b - y|^2 + ridge * s * |w - w0|^2``.

    x: float32 ``[rows, D]``. s: mean of the diagonal of the centred ``x'x``, so that ``ridge`` has no
    unit. Float64 sums of centred float32 products; a singular system falls back to its eigenvectors.
    Where an activation follows, the targets beyond its bounds are open (majorize, minimize).
    """
    count, dims = x.shape
    mean_x = x.mean(axis=0, dtype=np.float64)
    spans = [slice(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
    centred = (x - mean_x).astype(np.float32)
    xx = np.zeros((dims, dims))
    for s in spans:
        xx += centred[s].T @ centred[s]
    scale = float(np.trace(xx)) / dims
    if not np.isfinite(scale):
        raise InputError("the calibration activations are not finite")
    y = wanted.start()
    if scale <= 0:  # every input is constant: only the bias can be fitted
        return w0, y.mean(axis=0, dtype=np.float64) - w0 @ mean_x
    solve = _solver(xx + ridge * scale * np.eye(dims))
    open_ended = np.isfinite(wanted.low) or np.isfinite(wanted.high)
    w, mean_y = w0.T, np.zeros(len(w0))
    for r in range(_ROUNDS + 1 if open_ended else 1):
        if r:
            y = wanted.given((centred @ w.astype(np.float32)) + mean_y.astype(np.float32))
        mean_y = y.mean(axis=0, dtype=np.float64)
        xy = ridge * scale * w0.T
        for s in spans:
            xy = xy + centred[s].T @ (y[s] - mean_y).astype(np.float32)
        w = solve(xy)
    return w.T, mean_y - w.T @ mean_x


def _solver(a: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Solves ``a w = b`` for a symmetric ``a``, positive definite or nearly so."""
    try:
        inverse = np.linalg.inv(np.linalg.cholesky(a))
        return lambda b: inverse.T @ (inverse @ b)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(a)
        use = values > values[-1] * 1e-10
        return lambda b: vectors[:, use] @ ((vectors[:, use].T @ b) / values[use, None])


def _fit(
    node: Node, g: Graph, design: np.ndarray, wanted: Wanted, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """New weights (the layer's own shape) and bias for one layer."""
    w = g.tensor(node.inputs[1])
    assert w.data is not None
    w0 = w.data.astype(np.float64)
    cin = design.shape[2]
    if node.type == "DEPTHWISE_CONV_2D":
        cout = w.shape[3]
        flat = w0.reshape(-1, cout)
        new, bias = np.empty_like(flat), np.empty(cout)
        # one channel at a time: laid out so that a channel's values are neighbours in memory
        columns = np.ascontiguousarray(design.transpose(2, 0, 1))
        wanted = wanted.by_channel()
        for c in range(cout):
            column = columns[c * cin // cout]
            target = wanted.channels(slice(c, c + 1))
            fitted, b = ridge_fit(column, target, flat[:, c][None], ridge)
            new[:, c], bias[c] = fitted[0], b[0]
        return new.reshape(w.shape), bias
    out = w.shape[0]
    groups = cin // w.shape[3] if is_grouped(node, g) else 1
    new, bias = np.empty_like(w0), np.empty(out)
    for j in range(groups):
        o = slice(j * out // groups, (j + 1) * out // groups)
        part = design
        if groups > 1:
            part = design[:, :, j * w.shape[3] : (j + 1) * w.shape[3]]
        x = part.reshape(len(design), -1)
        flat = w0[o].reshape(o.stop - o.start, -1)
        fitted, b = ridge_fit(x, wanted.channels(o), flat, ridge)
        new[o], bias[o] = fitted.reshape(w0[o].shape), b
    return new, bias


def _original_name(tensor: str) -> str:
    return tensor.removesuffix(_BEFORE)


def _wanted(student: Graph, teacher: Graph, tensor: str, value: np.ndarray) -> np.ndarray:
    """The original's values of a tensor, at the channels that the student has of it."""
    name = _original_name(tensor)
    mine, its = kept_channels(student, name), kept_channels(teacher, name)
    if len(mine) == len(its):
        return value
    return value[..., np.searchsorted(its, mine)]


def repair(
    student: Graph,
    teacher: Graph,
    inputs: Sequence[np.ndarray],
    *,
    method: Literal["least_squares", "bias", "affine"] = "least_squares",
    ridge: float = 1e-3,
    rows: int = 60_000,
    only: Collection[str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> Graph:
    """The student with weights and biases fitted to the teacher's activations on ``inputs``.

    Layers are matched by the names of their output tensors; channels by the record that
    :func:`edgekit.compress.groups.cut` keeps. only: names of the nodes to fit. rows: how many output
    positions (of all samples) a layer is fitted on. Needs at least two samples.
    """
    if len(inputs[0]) < 2:
        raise InputError("repair needs at least 2 samples; 1 would fit its noise")
    inputs = affordable(teacher, inputs)
    g = exposed(_own_constants(student))
    original = exposed(teacher)
    a, b = Walker(original, inputs, device), Walker(g, inputs, device)
    sums = _sums(g, set(original.tensors))
    readers = g.consumers()
    todo = [
        n.outputs[0]
        for n in g.nodes
        if n.type in REPAIRABLE
        and n.outputs[0] in original.tensors
        and g.tensor(n.inputs[1]).is_const
        and (only is None or n.name in only)
    ]
    needed = set(todo) | {s for t, s in sums.items() if t in todo}
    rng = np.random.default_rng([seed, 41])
    for k, tensor in enumerate(todo):
        node = b.graph.nodes[[n.outputs[0] for n in b.graph.nodes].index(tensor)]
        while b.node is not None and b.node.name != node.name:
            b.step()
        target = _wanted(student, teacher, tensor, a.until(tensor, hold=needed))
        x = b.values[node.inputs[0] or ""]
        total, other = tensor, None
        if method == "least_squares":
            design, take = design_rows(node, g, x, target.shape, rows, rng)
            if tensor in sums:
                addend = next(i for i in readers[tensor][0].inputs if i is not None and i != tensor)
                if addend in b.values:
                    total, other = sums[tensor], take(b.values[addend])
                    target = _wanted(student, teacher, total, a.until(total, hold=needed))
            low, high = _bounds(g, readers, total)
            w, bias = _fit(node, g, design, Wanted(take(target), other, low, high), ridge)
        else:
            w, bias = _matched(node, b, target, method)
        b.set_constant(node.inputs[1] or "", w)
        b.set_constant(node.inputs[2] or "", bias)
        b.step()
        needed -= {tensor, total}
        if a._last.get(tensor, -1) < a._next:
            a.values.pop(tensor, None)
        if progress:
            progress(f"repairing: layer {k + 1} of {len(todo)}")
    out = _own_constants(student)
    for name, t in b.graph.tensors.items():
        if t.is_const and name in out.tensors:
            out.tensors[name] = t
    return out.validate()


def _bounds(g: Graph, readers: dict[str, list[Node]], tensor: str) -> tuple[float, float]:
    """Where the activation that alone reads a tensor cuts it off; infinite where nothing does."""
    if tensor in g.outputs or len(readers[tensor]) != 1:
        return -np.inf, np.inf
    return _CUT_OFF.get(readers[tensor][0].type, (-np.inf, np.inf))


def _sums(g: Graph, known: set[str]) -> dict[str, str]:
    """Output of a layer -> output of the ADD that is its only reader (same shape, no constant)."""
    found = {}
    readers = g.consumers()
    for n in g.nodes:
        if n.type not in REPAIRABLE:
            continue
        out = n.outputs[0]
        if out in g.outputs or len(readers[out]) != 1 or readers[out][0].type != "ADD":
            continue
        add = readers[out][0]
        ins = [t for t in g.ins(add) if t is not None]
        if (
            any(t.is_const or t.shape != g.tensor(out).shape for t in ins)
            or len(set(add.inputs)) < 2
        ):
            continue
        if add.outputs[0] in known:
            found[out] = add.outputs[0]
    return found


def _matched(
    node: Node, walk: Walker, wanted: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias scaled and shifted so that each output channel has the wanted moments."""
    from edgekit.compress.execute import forward

    g = walk.graph
    part = Graph(g.name, {}, [node], (node.inputs[0] or "",), node.outputs)
    part.tensors = {n: g.tensor(n) for n in (*node.inputs, *node.outputs) if n is not None}
    y = forward(part, [walk.values[node.inputs[0] or ""]], None, walk.device)[node.outputs[0]]
    flat, want = (v.reshape(-1, v.shape[-1]).astype(np.float64) for v in (y, wanted))
    w, bias = g.tensor(node.inputs[1]).data, g.tensor(node.inputs[2]).data
    assert w is not None and bias is not None
    scale = np.ones(flat.shape[1])
    if method == "affine":
        mine, its = flat.std(axis=0), want.std(axis=0)
        scale = np.where(
            mine > 1e-6 * max(float(mine.max()), 1e-30), its / np.maximum(mine, 1e-30), 1
        )
        scale = np.clip(scale, 0.1, 10.0)
    shape = (1, 1, 1, -1) if node.type == "DEPTHWISE_CONV_2D" else (-1, *[1] * (w.ndim - 1))
    shifted = scale * bias + want.mean(axis=0) - scale * flat.mean(axis=0)
    return w * scale.reshape(shape), shifted


# -- steps -----------------------------------------------------------------------------------------

Ridge = Annotated[float, Within(0)]


@step("reconstruct", cites="He et al., ICCV 2017 (least squares, sequential)")
def reconstruct(
    graph: Graph,
    ctx: StepContext,
    *,
    ridge: Ridge = 1e-3,
    samples: Count = 5000,
    rows: Count = 100_000,
    layers: list[str] | None = None,
) -> Graph:
    """Fit every layer by least squares to the original's outputs on the samples; no labels, no
    training."""
    inputs = ctx.inputs(graph, "reconstruct", samples, at_least=2)
    teacher = ctx.original or graph
    ctx.note(samples=len(inputs[0]), rows=rows, ridge=ridge)
    return repair(
        graph, teacher, inputs, ridge=ridge, rows=rows, only=layers, seed=ctx.seed,
        device=ctx.device, progress=ctx.progress,
    )  # fmt: skip


@step("reestimate", cites="Nagel et al., ICCV 2019; batch-norm statistics after pruning")
def reestimate(
    graph: Graph,
    ctx: StepContext,
    *,
    what: Literal["bias", "affine"] = "affine",
    samples: Count = 1000,
) -> Graph:
    """Match the mean ("bias"), or mean and variance ("affine", what batch-norm re-estimation does), of
    every layer's channels to the original's."""
    inputs = ctx.inputs(graph, "reestimate", samples, at_least=2)
    ctx.note(samples=len(inputs[0]))
    return repair(
        graph, ctx.original or graph, inputs, method=what, seed=ctx.seed, device=ctx.device,
        progress=ctx.progress,
    )  # fmt: skip
