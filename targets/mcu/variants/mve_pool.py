"""AVERAGE_POOL_2D for cores with Helium."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import KernelCall
from .mve_common import initializer, reject_common

_LEAST_WINDOW = 16  #: inputs of a window from which its sums outweigh its divisions


@dataclass(frozen=True)
class MveAveragePool:
    name: str = "average_pool_s8_mve"
    op: str = "AVERAGE_POOL_2D"
    rank: int = 5

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        x = graph.tensor(node.inputs[0])
        if x.is_const or x.shape[0] != 1:
            return "the input is constant or its batch is not 1"
        height, width = (min(f, n) for f, n in zip(node.attrs["filter"], x.shape[1:3], strict=True))
        if height * width > 256:
            return f"the window holds {height * width} inputs; at most 256 stay inside 16 bits"
        if height * width < _LEAST_WINDOW or x.shape[3] < 8:
            return f"{height * width} inputs of {x.shape[3]} channels do not pay for vectors"
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        x, y = graph.tensor(node.inputs[0]), graph.outs(node)[0]
        a = node.attrs
        pads, _ = nm.conv_padding((x.shape[1], x.shape[2]), a["filter"], a["stride"], a["padding"])
        act_min, act_max = nm.activation_range(a["activation"], y.quant, "int8")
        return KernelCall(
            variant=self.name,
            sources=(f"mve/{self.name}.c",),
            header="ek_mve.h",
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
            call=f"ek_{self.name}(&{{p}}, {{in0}}, {{out0}});",
        )


VARIANTS = [MveAveragePool()]
