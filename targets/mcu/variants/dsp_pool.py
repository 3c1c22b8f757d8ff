"""AVERAGE_POOL_2D for cores with the DSP extension."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import KernelCall
from .dsp_common import initializer, reject_common


def refused_window(node: Node, graph: Graph) -> str | None:
    """Why the sums of a pooling node are not what 16-bit lanes hold, or None."""
    x = graph.tensor(node.inputs[0])
    if x.is_const or x.shape[0] != 1:
        return "the input is constant or its batch is not 1"
    height, width = (min(f, n) for f, n in zip(node.attrs["filter"], x.shape[1:3], strict=True))
    if height * width > 256:
        return f"the window holds {height * width} inputs; at most 256 stay inside 16 bits"
    return None


def pool_call(name: str, folder: str, header: str, node: Node, graph: Graph) -> KernelCall:
    """The call of ``ek_<name>`` in ``<folder>/<name>.c``, without constants and scratch."""
    x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
    a = node.attrs
    pads, _ = nm.conv_padding((x.shape[1], x.shape[2]), a["filter"], a["stride"], a["padding"])
    act_min, act_max = nm.activation_range(a["activation"], y.quant, "int8")
    return KernelCall(
        variant=name,
        sources=(f"{folder}/{name}.c",),
        header=header,
        params_type="ek_pool_params",
        params=initializer(
            {
                "in_h": x.shape[1],
                "in_w": x.shape[2],
                "channels": x.shape[3],
                "out_h": y.shape[1],
                "out_w": y.shape[2],
                "filter_h": a["filter"][0],
                "filter_w": a["filter"][1],
                "stride_h": a["stride"][0],
                "stride_w": a["stride"][1],
                "pad_top": pads[0],
                "pad_left": pads[2],
                "act_min": act_min,
                "act_max": act_max,
            }
        ),
        call=f"ek_{name}(&{{p}}, {{in0}}, {{out0}});",
    )


@dataclass(frozen=True)
class DspAveragePool:
    name: str = "average_pool_s8_dsp"
    op: str = "AVERAGE_POOL_2D"
    rank: int = 20

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        return reject_common(node, graph, target) or refused_window(node, graph)

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        return pool_call(self.name, "dsp", "ek_dsp.h", node, graph)


VARIANTS = [DspAveragePool()]
