"""The torch module of a graph: parameters, the order of the nodes, the way back.

Values keep the graph's own NHWC axes throughout. A convolution sees them as an NCHW *view* of the
same memory, which is torch's ``channels_last`` format, and its result is viewed back: nothing is
transposed in memory, not even once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from edgekit.errors import GraphError, InputError, UnsupportedError
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.graph.reference import _batchable, _varying
from edgekit.graph.to_torch.dequantize import dequantized
from edgekit.graph.to_torch.functions import BUILDERS as FUNCTION_BUILDERS
from edgekit.graph.to_torch.layers import BUILDERS as LAYER_BUILDERS

Value = torch.Tensor
Step = Callable[[Sequence["Value | None"]], list[Value]]

BUILDERS = {**FUNCTION_BUILDERS, **LAYER_BUILDERS}

_ARITHMETIC = frozenset(
    {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "CONCATENATION"}
)


class GraphModule(nn.Module):
    """What :func:`edgekit.graph.to_torch.to_torch` returns; see there for layouts and options.

    graph: the (float) graph that is computed; its constants are those of the time of creation.
    names: tensor name -> name of the parameter or buffer that holds it.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        layout: Literal["nhwc", "nchw"] = "nhwc",
        quantized: Literal["refuse", "dequantize"] = "refuse",
    ) -> None:
        super().__init__()
        if layout not in ("nhwc", "nchw"):
            raise InputError(f"layout is '{layout}'; 'nhwc' or 'nchw' would be accepted")
        if quantized not in ("refuse", "dequantize"):
            raise InputError(
                f"quantized is '{quantized}'; 'refuse' or 'dequantize' would be accepted"
            )
        if quantized == "dequantize":
            graph = dequantized(graph)
        self.graph = graph
        self.layout = layout
        self.names: dict[str, str] = {}
        self._steps = [_build(n, graph) for n in graph.nodes]
        self._register_constants()
        varying = _varying(graph)
        self._at_once = _batchable(graph, varying) and all(
            graph.tensor(i).shape[:1] == (1,) for i in graph.inputs
        )
        self._varying = varying
        last = {t: i for i, n in enumerate(graph.nodes) for t in n.inputs if t is not None}
        done: list[list[str]] = [[] for _ in graph.nodes]
        for name, i in last.items():
            if name not in graph.outputs:
                done[i].append(name)
        self._done = done

    # -- constants -----------------------------------------------------------------------------

    def _register_constants(self) -> None:
        trained = _trained(self.graph)
        used = {i for n in self.graph.nodes for i in n.inputs} | set(self.graph.outputs)
        for t in self.graph.constants():
            if t.name not in used:
                continue
            assert t.data is not None
            name = self._attribute(t.name)
            self.names[t.name] = name
            data = torch.from_numpy(np.array(t.data, np.float32 if t.is_float else t.data.dtype))
            if t.name in trained:
                self.register_parameter(name, nn.Parameter(data))
            else:
                self.register_buffer(name, data)

    def _attribute(self, tensor_name: str) -> str:
        base = re.sub(r"\W+", "_", tensor_name).strip("_") or "tensor"
        name, k = base, 1
        while hasattr(self, name):
            name, k = f"{base}_{k}", k + 1
        return name

    def constant(self, tensor_name: str) -> torch.Tensor:
        """The parameter or buffer that holds a constant of the graph; GraphError for no constant."""
        if tensor_name not in self.names:
            raise GraphError(f"graph '{self.graph.name}' has no constant '{tensor_name}' in use")
        value = getattr(self, self.names[tensor_name])
        assert isinstance(value, torch.Tensor)
        return value

    def to_graph(self) -> Graph:
        """The graph with the module's present constants; InputError when one is not finite."""
        out = self.graph.copy()
        for tensor_name in self.names:
            t = out.tensor(tensor_name)
            data = self.constant(tensor_name).detach().cpu().numpy().astype(t.dtype)
            if t.is_float and not np.all(np.isfinite(data)):
                raise InputError(
                    f"the trained constant '{tensor_name}' holds values that are not finite"
                )
            out.tensors[tensor_name] = t.with_(data=np.ascontiguousarray(data).reshape(t.shape))
        return out

    # -- running -------------------------------------------------------------------------------

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        values = self._checked(inputs)
        if self._at_once:
            results = self._run(values)
        else:
            samples = [self._run(v) for v in self._one_by_one(values)]
            results = [
                torch.cat([_with_sample_axis(s[k], self.graph.tensor(o)) for s in samples])
                for k, o in enumerate(self.graph.outputs)
            ]
        if self.layout == "nchw":
            results = [r.permute(0, 3, 1, 2) if r.ndim == 4 else r for r in results]
        return results[0] if len(results) == 1 else tuple(results)

    def _checked(self, inputs: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs by name in NHWC; InputError for a wrong count or shape."""
        if len(inputs) != len(self.graph.inputs):
            raise InputError(
                f"{len(inputs)} inputs are given; the graph takes {len(self.graph.inputs)}: "
                f"{', '.join(self.graph.inputs)}"
            )
        values: dict[str, torch.Tensor] = {}
        for name, given in zip(self.graph.inputs, inputs, strict=True):
            shape = self.graph.tensor(name).shape
            tail = shape[1:] if shape[:1] == (1,) else shape
            x = given
            if self.layout == "nchw" and len(tail) == 3 and x.ndim == 4:
                x = x.permute(0, 2, 3, 1)
            if x.ndim != len(tail) + 1 or tuple(x.shape[1:]) != tail:
                images = self.layout == "nchw" and len(tail) == 3
                wanted = [tail[2], *tail[:2]] if images else list(tail)
                raise InputError(
                    f"input '{name}' has shape {list(given.shape)}; "
                    f"[samples{''.join(f', {d}' for d in wanted)}] would be accepted"
                )
            if self.graph.tensor(name).is_float != x.is_floating_point():
                raise InputError(
                    f"input '{name}' is {str(x.dtype).removeprefix('torch.')}; "
                    f"{self.graph.tensor(name).dtype} would be accepted"
                )
            values[name] = x
        return values

    def _one_by_one(self, values: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        count = {v.shape[0] for v in values.values()}
        if len(count) > 1:
            raise InputError(f"the inputs have different numbers of samples: {sorted(count)}")
        for i in range(count.pop() if count else 1):
            yield {k: v[i].reshape(self.graph.tensor(k).shape) for k, v in values.items()}

    def _run(self, values: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        values = dict(values)
        samples = next((v.shape[0] for v in values.values() if v.ndim), 1)
        for node, step, done in zip(self.graph.nodes, self._steps, self._done, strict=True):
            ins = [None if i is None else self._value(i, values) for i in node.inputs]
            values.update(zip(node.outputs, step(ins), strict=True))
            for name in done:
                values.pop(name, None)
        results = []
        for o in self.graph.outputs:
            v = self._value(o, values)
            if self._at_once and o not in self._varying:
                v = v.expand(samples, *v.shape[1:])
            results.append(v)
        return results

    def _value(self, name: str, values: dict[str, torch.Tensor]) -> torch.Tensor:
        return values[name] if name in values else self.constant(name)


def _with_sample_axis(x: torch.Tensor, t: Tensor) -> torch.Tensor:
    return x if t.shape[:1] == (1,) else x[None]


def _trained(graph: Graph) -> set[str]:
    """Float constants that become parameters."""
    out: set[str] = set()
    for n in graph.nodes:
        for t in graph.ins(n):
            if t is None or not t.is_const or not t.is_float:
                continue
            if t.elements == 1 and n.type in _ARITHMETIC:
                continue
            out.add(t.name)
    return out


def _build(node: Node, graph: Graph) -> Step:
    ins, outs = graph.ins(node), graph.outs(node)
    for t in [*ins, *outs]:
        if t is not None and not t.is_float and t.quant is not None:
            raise UnsupportedError(
                f"node '{node.name}' ({node.type}) works on the quantized tensor '{t.name}'; "
                'quantized="dequantize" would be accepted'
            )
    if node.type not in BUILDERS:
        raise UnsupportedError(f"node '{node.name}': operator {node.type} has no torch form")
    return BUILDERS[node.type](node, ins, outs)
