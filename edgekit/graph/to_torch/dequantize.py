"""Integer graph -> the float graph it stands for. NumPy only."""

from __future__ import annotations

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nx
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor

_BIAS_OF = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"})


def dequantized(graph: Graph) -> Graph:
    """Every quantized tensor becomes float32, constants hold their real values.

    QUANTIZE and DEQUANTIZE vanish (where one makes a graph output, a RESHAPE to the same shape
    keeps the output's name). Integer tensors without quantization, such as the result of ARG_MAX,
    stay; integer biases without one get ``s_input * s_weight``. Raises UnsupportedError where
    integer arithmetic has no quantization at all.
    """
    out = graph.copy()
    quants = {t.name: t.quant for t in graph.tensors.values() if t.quant is not None}
    quants.update(_bias_quants(graph))
    for name, t in graph.tensors.items():
        if t.is_float:
            out.tensors[name] = t.with_(quant=None)
        elif name in quants:
            out.tensors[name] = _real(t, quants[name])
    out.nodes = []
    replaced: dict[str, str] = {}
    for n in graph.nodes:
        n = n.with_(inputs=tuple(replaced.get(i, i) if i is not None else None for i in n.inputs))
        if n.type not in ("QUANTIZE", "DEQUANTIZE"):
            out.nodes.append(n)
            continue
        source, result = n.inputs[0], n.outputs[0]
        assert source is not None
        if not out.tensors[source].is_float or not out.tensors[result].is_float:
            raise UnsupportedError(
                f"node '{n.name}' ({n.type}) converts a tensor without quantization parameters"
            )
        if result in graph.outputs or out.tensors[source].dtype != out.tensors[result].dtype:
            out.nodes.append(_identity(n, out))
        else:
            replaced[result] = source
    out.prune()
    return out.validate()


def _real(t: Tensor, quant: QuantParams) -> Tensor:
    data = None if t.data is None else nx.dequantize(t.data, quant)
    return Tensor(t.name, t.shape, "float32", None, data)


def _identity(node: Node, graph: Graph) -> Node:
    """What stands in for a conversion that must stay: DEQUANTIZE of float16, else RESHAPE."""
    source = graph.tensor(node.inputs[0])
    if source.dtype == "float16":
        return node.with_(type="DEQUANTIZE")
    return node.with_(type="RESHAPE", attrs={"new_shape": graph.tensor(node.outputs[0]).shape})


def _bias_quants(graph: Graph) -> dict[str, QuantParams]:
    found: dict[str, QuantParams] = {}
    for n in graph.nodes:
        ins = graph.ins(n)
        if n.type not in _BIAS_OF or len(ins) < 3:
            continue
        x, w, b = ins[:3]
        if b is None or b.is_float or b.quant is not None:
            continue
        if x is None or w is None or x.quant is None or w.quant is None:
            raise UnsupportedError(
                f"node '{n.name}' ({n.type}) has an integer bias and no quantization to read it by"
            )
        scale = np.float32(x.quant.s) * w.quant.scale
        axis = len(b.shape) - 1 if scale.size > 1 else None
        found[b.name] = QuantParams(scale, np.zeros(scale.shape, np.int32), axis)
    return found
