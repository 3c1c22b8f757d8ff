"""Low-rank factorization: one layer with many weights becomes two or three with fewer.

=========== ============================================================== =============================
form        what replaces the layer                                        source
=========== ============================================================== =============================
svd         dense, 1x1: two of rank r                                      Denton et al., NIPS 2014
spatial     k x k convolution: k x 1 then 1 x k, rank r                    Jaderberg et al., BMVC 2014
tucker      k x k convolution: 1x1, k x k between (r_in, r_out), 1x1       Kim et al., ICLR 2016
cp          k x k convolution: 1x1, depthwise k x k, 1x1, rank r           Lebedev et al., ICLR 2015
=========== ============================================================== =============================

Weights are decomposed on the data's own terms where samples are given: the input directions that occur
are weighted by their second moment (dense and 1x1 layers), and the last factor is fitted by least squares
afterwards (:mod:`.repair`). A layer is replaced only where its MACs become fewer. "auto" leaves out cp
(:mod:`.cp`): it takes long to compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from edgekit.compress.cp import decompose
from edgekit.compress.execute import Walker, affordable
from edgekit.compress.groups import is_grouped
from edgekit.compress.repair import repair as fit
from edgekit.compress.simplify import total_macs
from edgekit.compress.steps import Count, Share, StepContext, Within, step
from edgekit.errors import InputError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops import infer_shapes, macs

Form = Literal["auto", "svd", "spatial", "tucker", "cp"]
#: Ranks of a layer for which cp is computed, evenly spaced in their logarithm.
_CP_RANKS = 6
#: One layer of a chain: type, name, weights, attributes.
_Layer = tuple[str, str, np.ndarray, Mapping[str, object]]


@dataclass(frozen=True)
class _Candidate:
    """A way to replace a layer. sizes: (r,) or (r_in, r_out). macs: after. lost: share of the energy."""

    form: str
    sizes: tuple[int, ...]
    macs: int
    lost: float


def _kind(node: Node, g: Graph) -> str | None:
    """ "dense", "pointwise", "spatial" for layers that can be factorized, else None."""
    if node.type not in ("FULLY_CONNECTED", "CONV_2D") or len(node.inputs) < 2:
        return None
    w = g.tensor(node.inputs[1])
    if not w.is_const or not w.is_float or g.tensor(node.inputs[0]).is_const:
        return None
    if node.type == "FULLY_CONNECTED":
        return "dense"
    if is_grouped(node, g):
        return None
    return "pointwise" if w.shape[1:3] == (1, 1) else "spatial"


def factorizable(graph: Graph) -> list[str]:
    """Names of the nodes that have a low-rank form."""
    return [n.name for n in graph.nodes if _kind(n, graph) is not None]


def _svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.linalg.svd(matrix.astype(np.float64), full_matrices=False)


def _root(moment: np.ndarray | None, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric square root of the inputs' second moment, and its inverse; the identity without."""
    if moment is None:
        return np.eye(dims), np.eye(dims)
    values, vectors = np.linalg.eigh(moment)
    values = np.sqrt(np.maximum(values, values[-1] * 1e-8 + 1e-30))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def _spatial_matrix(w: np.ndarray) -> np.ndarray:
    """``[kh * C, kw * O]``: its rank-r form is kh x 1 then 1 x kw."""
    o, kh, kw, c = w.shape
    return w.transpose(1, 3, 2, 0).reshape(kh * c, kw * o)


def _lost(values: np.ndarray, rank: int) -> float:
    energy = values**2
    return float(energy[rank:].sum() / max(energy.sum(), 1e-30))


def _unfold_factors(w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Directions of the output and input channels with their singular values (HOSVD)."""
    o, _, _, c = w.shape
    u, s, _ = _svd(w.reshape(o, -1))
    v, t, _ = _svd(np.moveaxis(w, 3, 0).reshape(c, -1))
    return u, s, v, t


# -- replacing -------------------------------------------------------------------------------------


class _Rewriter:
    """Puts a chain of layers in the place of one."""

    def __init__(self, graph: Graph) -> None:
        self.g = graph.copy()

    def replace(self, node: Node, chain: Sequence[_Layer]) -> None:
        """The last layer of the chain keeps bias, activation and output."""
        g = self.g
        at = [n.name for n in g.nodes].index(node.name)
        new: list[Node] = []
        source = node.inputs[0]
        for i, (kind, name, weights, attrs) in enumerate(chain):
            last = i == len(chain) - 1
            w = g.add_const(
                f"{node.name}/{name} weights", np.ascontiguousarray(weights, np.float32)
            )
            bias = node.inputs[2] if last and len(node.inputs) > 2 else None
            attrs = {**attrs, "activation": node.attr("activation", "NONE") if last else "NONE"}
            made = Node(
                node.name if last else f"{node.name}/{name}", kind, (source, w.name, bias),
                node.outputs if last else (f"{node.outputs[0]}/{name}",), attrs,
            )  # fmt: skip
            if not last:
                x = g.tensor(source)
                (shape,) = infer_shapes(made, [x, w, None])
                t = g.add_tensor(x.with_(name=made.outputs[0], shape=shape, data=None))
                made = made.with_(outputs=(t.name,))
                source = t.name
            new.append(made)
        g.nodes[at : at + 1] = new

    def done(self) -> Graph:
        self.g.prune()
        return self.g.validate()


def _chain(
    node: Node, g: Graph, form: str, sizes: tuple[int, ...], moment: np.ndarray | None
) -> list[_Layer]:
    w = g.tensor(node.inputs[1]).data
    assert w is not None
    attrs, own = dict(node.attrs), node.type
    if form == "svd":
        flat = w.reshape(w.shape[0], -1)
        root, inverse = _root(moment, flat.shape[1])
        u, s, v = _svd(flat @ root)
        r = sizes[0]
        first, second = (np.sqrt(s[:r])[:, None] * v[:r]) @ inverse, u[:, :r] * np.sqrt(s[:r])
        if node.type == "FULLY_CONNECTED":
            return [(own, "a", first, attrs), (own, "b", second, attrs)]
        still = {**attrs, "stride": (1, 1), "padding": "VALID"}
        return [(own, "a", first[:, None, None], attrs), (own, "b", second[:, None, None], still)]
    o, kh, kw, c = w.shape
    height, width = g.tensor(node.inputs[0]).shape[1:3]
    pads, _ = nx.conv_padding(
        (height, width), (kh, kw), attrs["stride"], attrs["padding"],
        attrs["dilation"],
    )  # fmt: skip
    (sh, sw), (dh, dw) = attrs["stride"], attrs["dilation"]
    if form == "spatial":
        u, s, v = _svd(_spatial_matrix(w))
        r = sizes[0]
        tall = (u[:, :r] * np.sqrt(s[:r])).reshape(kh, c, r).transpose(2, 0, 1)[:, :, None]
        wide = (v[:r] * np.sqrt(s[:r])[:, None]).reshape(r, kw, o).transpose(2, 1, 0)[:, None]
        return [
            (
                own,
                "tall",
                tall,
                {"stride": (sh, 1), "dilation": (dh, 1), "padding": (pads[0], pads[1], 0, 0)},
            ),
            (
                own,
                "wide",
                wide,
                {"stride": (1, sw), "dilation": (1, dw), "padding": (0, 0, pads[2], pads[3])},
            ),
        ]
    plain = {"stride": (1, 1), "dilation": (1, 1), "padding": "VALID"}
    if form == "cp":
        f = decompose(w, sizes[0])
        middle = f.middle.reshape(1, kh, kw, -1)
        return [
            (own, "in", f.inside.T[:, None, None], plain),
            ("DEPTHWISE_CONV_2D", "middle", middle, attrs),
            (own, "out", f.out[:, None, None], plain),
        ]
    u, _, v, _ = _unfold_factors(w)
    r_in, r_out = sizes
    u, v = u[:, :r_out], v[:, :r_in]
    core = np.einsum("oijc,or,cs->rijs", w.astype(np.float64), u, v)
    return [
        (own, "in", v.T[:, None, None], plain),
        (own, "core", core, attrs),
        (own, "out", u[:, None, None], plain),
    ]


# -- choosing --------------------------------------------------------------------------------------


def _candidates(
    node: Node, g: Graph, form: Form, moment: np.ndarray | None, multiple: int
) -> list[_Candidate]:
    """Every rank (multiples of ``multiple``) at which the layer's MACs become fewer."""
    kind = _kind(node, g)
    w = g.tensor(node.inputs[1]).data
    assert w is not None
    now, found = macs(node, g), []
    if kind in ("dense", "pointwise") and form in ("auto", "svd"):
        flat = w.reshape(w.shape[0], -1)
        values = _svd(flat @ _root(moment, flat.shape[1])[0])[1]
        positions = now // max(flat.size, 1)
        for r in range(multiple, len(values), multiple):
            found.append(_Candidate("svd", (r,), positions * r * sum(flat.shape), _lost(values, r)))
    if kind == "spatial":
        o, kh, kw, c = w.shape
        x, y = g.tensor(node.inputs[0]).shape, g.tensor(node.outputs[0]).shape
        if form in ("auto", "spatial") and kh > 1 and kw > 1:
            values = _svd(_spatial_matrix(w))[1]
            for r in range(multiple, len(values), multiple):
                cells = y[1] * x[2] * kh * c * r + y[1] * y[2] * kw * r * o
                found.append(_Candidate("spatial", (r,), cells, _lost(values, r)))
        if form == "cp":
            most = (now - 1) // (x[1] * x[2] * c + y[1] * y[2] * (kh * kw + o))
            spaced = np.geomspace(multiple, max(multiple, most), _CP_RANKS) / multiple
            for r in sorted({int(k) * multiple for k in spaced}):
                cells = x[1] * x[2] * c * r + y[1] * y[2] * r * (kh * kw + o)
                if cells < now:
                    found.append(_Candidate("cp", (r,), cells, decompose(w, r).lost))
        if form in ("auto", "tucker"):
            _, s, _, t = _unfold_factors(w)
            for r_in in range(multiple, c + 1, multiple):
                for r_out in range(multiple, o + 1, multiple):
                    cells = x[1] * x[2] * c * r_in + y[1] * y[2] * r_out * (kh * kw * r_in + o)
                    lost = min(1.0, _lost(s, r_out) + _lost(t, r_in))  # HOSVD's bound
                    found.append(_Candidate("tucker", (r_in, r_out), cells, lost))
    return [f for f in found if f.macs < now]


def _front(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Candidates that no other one beats in both MACs and energy, by falling MACs."""
    best: list[_Candidate] = []
    for f in sorted(candidates, key=lambda f: (f.macs, f.lost)):
        if not best or f.lost < best[-1].lost - 1e-12:
            best.append(f)
    return best[::-1]


def _moments(graph: Graph, inputs: Sequence[np.ndarray], device: str) -> dict[str, np.ndarray]:
    """Second moment ``[D, D]`` of the inputs of dense and 1x1 layers, by node name."""
    walk = Walker(graph, affordable(graph, inputs), device)
    found = {}
    while (node := walk.node) is not None:
        if _kind(node, graph) in ("dense", "pointwise"):
            dims = int(np.prod(graph.tensor(node.inputs[1]).shape[1:]))
            x = walk.values[node.inputs[0] or ""].reshape(-1, dims)[:100_000].astype(np.float64)
            found[node.name] = x.T @ x / len(x)
        walk.step()
    return found


def _by_budget(
    fronts: dict[str, list[_Candidate]], weights: dict[str, float], total: float, goal: float
) -> dict[str, _Candidate]:
    """The least loss for the MACs saved, step by step along the fronts, until the goal is met."""
    chosen: dict[str, int] = {}
    now = total
    while now > goal:
        best: tuple[float, str, int, float] | None = None
        for name, front in fronts.items():
            i = chosen.get(name, -1)
            here = (weights[name], 0.0) if i < 0 else (float(front[i].macs), front[i].lost)
            for j in range(i + 1, len(front)):
                saved = min(here[0] - front[j].macs, now - goal)
                if here[0] - front[j].macs <= 0:
                    continue
                key = (front[j].lost - here[1]) / saved
                if best is None or key < best[0]:
                    best = (key, name, j, here[0] - front[j].macs)
        if best is None:
            raise InputError(
                f"a budget of {goal / total:g} of the MACs cannot be met by factorizing: "
                f"{now / total:.3f} of them remain at the lowest ranks"
            )
        _, name, j, saved = best
        chosen[name] = j
        now -= saved
    return {name: fronts[name][i] for name, i in chosen.items()}


@step(
    "factorize",
    cites="Denton et al., NIPS 2014; Jaderberg et al., BMVC 2014; Kim et al., ICLR 2016; "
    "Lebedev et al., ICLR 2015",
)
def factorize(
    graph: Graph,
    ctx: StepContext,
    *,
    form: Form = "auto",
    energy: Share | None = None,
    macs: Share | None = None,
    layers: list[str] | None = None,
    multiple: Count = 4,
    repair: Literal["none", "least_squares"] = "none",
    samples: Count = 1000,
    ridge: Annotated[float, Within(0)] = 1e-3,
) -> Graph:
    """Replace layers by low-rank ones: at ranks that keep a share of each layer's energy, or at those
    that lose least for a share of the network's MACs.

    form: which decomposition (auto: the better one for each layer). layers: node names (default: all
    that gain). multiple: ranks are multiples of this.
    """
    if (energy is None) == (macs is None):
        raise InputError("factorize takes one of energy and macs (shares that remain)")
    names = factorizable(graph)
    for name in layers or ():
        if name not in names:
            raise InputError(
                f"layer '{name}' cannot be factorized; accepted are {', '.join(names) or 'none'}"
            )
    inputs = None
    if ctx.data is not None:
        inputs = ctx.inputs(graph, "factorize", samples)
    elif repair != "none":
        ctx.need_data("factorize with repair", 2)
    moments = {} if inputs is None else _moments(graph, inputs, ctx.device)
    fronts = {}
    for node in graph.nodes:
        if node.name in (layers or names) and _kind(node, graph) is not None:
            front = _front(_candidates(node, graph, form, moments.get(node.name), multiple))
            if front:
                fronts[node.name] = front
    if energy is not None:
        chosen = {}
        for name, front in fronts.items():
            fitting = [f for f in front if f.lost <= 1 - energy + 1e-12]
            if fitting:
                chosen[name] = fitting[-1]
    else:
        assert macs is not None
        now = {n.name: float(_macs(n, graph)) for n in graph.nodes}
        total = float(total_macs(graph))
        chosen = _by_budget(fronts, now, total, macs * total)
    rewriter = _Rewriter(graph)
    for name, f in chosen.items():
        node = graph.node(name)
        rewriter.replace(node, _chain(node, graph, f.form, f.sizes, moments.get(name)))
    out = rewriter.done()
    ctx.note(
        layers={n: {"form": f.form, "ranks": list(f.sizes), "energy_lost": f.lost}
                for n, f in chosen.items()}
    )  # fmt: skip
    if repair == "least_squares" and chosen:
        out = fit(
            out, ctx.original or graph, ctx.inputs(graph, "repair", samples, at_least=2), ridge=ridge,
            seed=ctx.seed, device=ctx.device, progress=ctx.progress,
        )  # fmt: skip
    return out


def _macs(node: Node, graph: Graph) -> int:
    return macs(node, graph)
