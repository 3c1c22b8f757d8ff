"""ADD of two activations of one shape for cores with Helium, as one linear form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.graph.reference import run_node
from edgekit.targets.schema import Target

from ..contract import KernelCall
from .mve_common import LANES, initializer, reject_common

_BYTES = np.arange(-128, 128, dtype=np.int64)
_SHIFTS = (6, 7, 5, 4)  #: beyond 16, that the kernel has
_STEPS = 200  #: of the search for a and b


@cache
def linear_form(
    x: tuple[float, int], y: tuple[float, int], out: tuple[float, int], activation: str
) -> tuple[int, int, int, int] | None:
    """(a, b, c, shift) with ``(a * x + b * y + c) / 2**(16 + shift)``, halves up and saturated, equal to
    the quantized addition for all pairs of bytes; None where there is none.

    x, y, out: scale and zero point. For given a and b the pairs leave an interval for c, whose width is
    a concave function of (a, b): a pattern search climbs it.
    """
    want = _table(x, y, out, activation)
    for shift in _SHIFTS:
        unit = 1 << (16 + shift)
        low, high = want > -128, want < 127

        def interval(ab: tuple[int, int]) -> tuple[int, int]:
            base = ab[0] * _BYTES[:, None] + ab[1] * _BYTES[None, :]
            least = (want * unit - base)[low].max(initial=-(2**40))  # noqa: B023
            most = ((want + 1) * unit - 1 - base)[high].min(initial=2**40)  # noqa: B023
            return int(least), int(most)

        best = (round(x[0] / out[0] * unit), round(y[0] / out[0] * unit))
        least, most = interval(best)
        step = unit >> 10
        for _ in range(_STEPS):
            if least <= most or step == 0:
                break
            near = [(best[0] + i, best[1] + j) for i, j in _around(step)]
            found = [(*interval(ab), ab) for ab in near]
            l2, m2, ab = max(found, key=lambda f: f[1] - f[0])
            if m2 - l2 > most - least:
                best, least, most = ab, l2, m2
            else:
                step >>= 1
        if least > most:
            continue
        c = (least + most) // 2 - (1 << 15) - (1 << (15 + shift))  # the kernel rounds twice
        if 128 * (abs(best[0]) + abs(best[1])) + abs(c) < 1 << 31:
            return best[0], best[1], c, shift
    return None


def _around(step: int) -> list[tuple[int, int]]:
    return [(i, j) for i in (-step, 0, step) for j in (-step, 0, step) if i or j]


def _table(
    x: tuple[float, int], y: tuple[float, int], out: tuple[float, int], activation: str
) -> np.ndarray:
    """The quantized sum of every pair, int64 ``[256, 256]``."""
    qx, qy, qo = (QuantParams.per_tensor(s, z) for s, z in (x, y, out))
    shape = (1, 256, 256, 1)
    tensors = {
        "x": Tensor("x", shape, "int8", qx),
        "y": Tensor("y", shape, "int8", qy),
        "out": Tensor("out", shape, "int8", qo),
    }
    node = Node("add", "ADD", ("x", "y"), ("out",), {"activation": activation})
    graph = Graph("add", tensors, [node], ("x", "y"), ("out",))
    a, b = np.meshgrid(_BYTES.astype(np.int8), _BYTES.astype(np.int8), indexing="ij")
    values = {"x": a.reshape(shape), "y": b.reshape(shape)}
    return run_node(node, graph, values)[0].reshape(256, 256).astype(np.int64)


def _form(node: Node, graph: Graph) -> tuple[int, int, int, int] | None:
    tensors = (*(graph.tensor(n) for n in node.inputs[:2] if n), graph.outs(node)[0])
    x, y, out = ((t.quant.s, t.quant.zp) for t in tensors if t.quant is not None)
    return linear_form(x, y, out, node.attrs["activation"])


@dataclass(frozen=True)
class MveAdd:
    name: str = "add_s8_linear_mve"
    op: str = "ADD"
    rank: int = 5

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        x, y, out = graph.tensor(node.inputs[0]), graph.tensor(node.inputs[1]), graph.outs(node)[0]
        if x.is_const or y.is_const:
            return "an operand is constant"
        if x.shape != y.shape:
            return f"the shapes {list(x.shape)} and {list(y.shape)} differ"
        if x.elements < LANES:
            return f"{x.elements} elements do not fill a vector"
        if nm.activation_range(node.attrs["activation"], out.quant, "int8") != (-128, 127):
            return "the activation clamps inside the int8 range"
        if _form(node, graph) is None:
            return "no linear form gives the quantized sum of every pair of bytes"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        form = _form(node, graph)
        assert form is not None
        a, b, c, shift = form
        count = graph.outs(node)[0].elements
        return KernelCall(
            variant=self.name,
            sources=(f"mve/{self.name}.c",),
            header="ek_mve.h",
            params_type="ek_mve_add_params",
            params=initializer(
                {
                    "count": count,
                    "a": a,
                    "b": b,
                    "c": c,
                    "shift": shift,
                    "sixteens": f"ek_mve_add_{shift}",
                }
            ),
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {{in1}}, {{out0}});",
            inplace=((0, 0), (1, 0)),
        )


VARIANTS = [MveAdd()]
