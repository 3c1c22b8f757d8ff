"""Operators that files spell out as chains of smaller ones, recognised in float graphs.

Layer normalization over the last axis (Ba, Kiros, Hinton 2016) appears in two spellings, with the
variance ``v = mean((x - mean(x))^2)`` and ``r = 1 / sqrt(v + epsilon)`` in both:

* ``(x - mean) * r * gamma + beta`` (our own writer, ONNX exporters; also ``(x - mean) / sqrt(...)``)
* ``x * (r * gamma) + (beta - mean * (r * gamma))`` (TensorFlow's ``batch_normalization`` form, which
  Keras uses)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgekit.graph.ir import Graph, Node, Tensor


@dataclass(frozen=True)
class _Found:
    """x, the node that ends the chain, and what it computes."""

    x: str
    end: Node
    epsilon: float
    gamma: Tensor | None = None
    beta: Tensor | None = None


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made_by = graph.producers()
        self.read_by = graph.consumers()
        self.outputs = set(graph.outputs)

    def node(self, name: str | None, *types: str) -> Node | None:
        """The producer of a tensor if it has one of these types and no fused activation."""
        n = self.made_by.get(name) if name is not None else None
        if n is None or n.type not in types or n.attr("activation", "NONE") != "NONE":
            return None
        return n

    def const(self, name: str | None) -> np.ndarray | None:
        return None if name is None else self.graph.tensor(name).data

    def operands(self, n: Node) -> tuple[str | None, str | None]:
        """(the activation, the constant) of a two-operand node; None where it has none."""
        a, b = n.inputs[0], n.inputs[1]
        if self.const(b) is not None:
            return a, b
        return (b, a) if self.const(a) is not None else (None, None)

    def mean_of(self, name: str | None) -> str | None:
        """What the tensor is the mean over the last axis of (dimensions kept)."""
        n = self.node(name, "MEAN")
        if n is None or n.inputs[0] is None or not n.attrs["keep_dims"]:
            return None
        rank = len(self.graph.tensor(n.inputs[0]).shape)
        return n.inputs[0] if tuple(n.attrs["axes"]) == (rank - 1,) else None

    def next(self, name: str, *types: str) -> Node | None:
        """The only reader of a tensor, if it has one of these types and is no graph output."""
        readers = self.read_by[name]
        if len(readers) != 1 or name in self.outputs:
            return None
        n = readers[0]
        return n if n.type in types and n.attr("activation", "NONE") == "NONE" else None

    # -- the pattern ---------------------------------------------------------------------------

    def find(self, root: Node) -> _Found | None:
        """The chain around ``root``, the RSQRT or SQRT of ``variance + epsilon``."""
        shifted = self.node(root.inputs[0], "ADD")
        if shifted is None:
            return None
        variance, added = self.operands(shifted)
        eps = self.const(added)
        if eps is None or eps.size != 1 or not 0 <= float(eps.reshape(())) < np.inf:
            return None
        squared = self.mean_of(variance)
        square = self.node(squared, "SQUARED_DIFFERENCE", "MUL")
        if square is None:
            return None
        centred: str | None = None
        if square.type == "MUL":
            centred = square.inputs[0]
            difference = self.node(centred, "SUB")
            if difference is None or square.inputs[1] != centred:
                return None
        else:
            difference = square
        x, mean = difference.inputs[0], difference.inputs[1]
        if self.mean_of(mean) != x and square.type == "SQUARED_DIFFERENCE":
            x, mean = mean, x
        if x is None or mean is None or self.mean_of(mean) != x:
            return None
        epsilon = float(eps.reshape(()))
        return self._plain(root, x, mean, epsilon) or self._batch_norm_form(root, x, mean, epsilon)

    def _plain(self, root: Node, x: str, mean: str, epsilon: float) -> _Found | None:
        r = root.outputs[0]
        product = self.next(r, "MUL" if root.type == "RSQRT" else "DIV")
        if product is None:
            return None
        other = product.inputs[0] if product.inputs[1] == r else product.inputs[1]
        if product.type == "DIV" and product.inputs[1] != r:
            return None
        difference = self.node(other, "SUB")
        if difference is None or difference.inputs != (x, mean):
            return None
        end, gamma, beta = product, None, None
        scaled = self.next(end.outputs[0], "MUL")
        if scaled is not None and (g := self._channels(self.operands(scaled)[1], x)) is not None:
            end, gamma = scaled, g
        moved = self.next(end.outputs[0], "ADD")
        if moved is not None and (b := self._channels(self.operands(moved)[1], x)) is not None:
            end, beta = moved, b
        return _Found(x, end, epsilon, gamma, beta)

    def _batch_norm_form(self, root: Node, x: str, mean: str, epsilon: float) -> _Found | None:
        if root.type != "RSQRT":
            return None
        factor, gamma = root.outputs[0], None
        scaled = self.next(factor, "MUL")
        if scaled is not None and (g := self._channels(self.operands(scaled)[1], x)) is not None:
            factor, gamma = scaled.outputs[0], g
        products = [n for n in self.read_by[factor] if n.type == "MUL"]
        big = next((n for n in products if set(n.inputs) == {x, factor}), None)
        small = next((n for n in products if set(n.inputs) == {mean, factor}), None)
        if big is None or small is None or len(self.read_by[factor]) != 2:
            return None
        offset = self.next(small.outputs[0], "SUB")
        end = self.next(big.outputs[0], "ADD", "SUB")
        if end is None or offset is None:
            return None
        if end is offset:  # without beta: x * f - mean * f
            plain = end.inputs == (big.outputs[0], small.outputs[0])
            return _Found(x, end, epsilon, gamma) if plain else None
        beta = self._channels(offset.inputs[0], x)
        if beta is None or offset.inputs[1] != small.outputs[0] or end.type != "ADD":
            return None
        if set(end.inputs) != {big.outputs[0], offset.outputs[0]}:
            return None
        if self.next(offset.outputs[0], "ADD") is not end:
            return None
        return _Found(x, end, epsilon, gamma, beta)

    def _channels(self, name: str | None, x: str) -> Tensor | None:
        """A constant as float32 ``[C]``, None when it varies along other axes than the last."""
        value = self.const(name)
        if name is None or value is None or value.dtype != np.float32:
            return None
        c = self.graph.tensor(x).shape[-1]
        if value.shape == (c,):
            return self.graph.tensor(name)
        if value.size == 1:
            return Tensor(name, (c,), "float32", None, np.full(c, value.reshape(())))
        if value.shape[-1] == c == value.size:
            return Tensor(name, (c,), "float32", None, value.reshape(c))
        return None


def fuse_layer_norm(graph: Graph) -> int:
    """Replace spelled-out layer normalizations of float32 tensors by LAYER_NORM, in place.

    Only chains whose intermediate values nobody else reads are replaced; nodes that become useless
    are dropped. Returns how many were found.
    """
    roots = [n for n in graph.nodes if n.type in ("RSQRT", "SQRT")]
    if not roots:
        return 0
    finder = _Finder(graph)
    replaced: dict[str, Node] = {}
    for root in roots:
        found = finder.find(root)
        if found is None:
            continue
        x, end = graph.tensor(found.x), found.end
        if x.dtype != "float32" or graph.tensor(end.outputs[0]).shape != x.shape:
            continue
        c = x.shape[-1]
        name = f"{end.name}/layer_norm"
        gamma = _const(graph, f"{name}/gamma", found.gamma, 1.0, c)
        beta = _const(graph, f"{name}/beta", found.beta, 0.0, c)
        replaced[end.name] = Node(
            end.name,
            "LAYER_NORM",
            (found.x, gamma.name, beta.name),
            end.outputs,
            {"epsilon": found.epsilon},
        )
    if replaced:
        graph.nodes = [replaced.get(n.name, n) for n in graph.nodes]
        graph.prune()
    return len(replaced)


def _const(graph: Graph, name: str, value: Tensor | None, default: float, channels: int) -> Tensor:
    """The constant in the graph: the one that is there, or a new one called ``name``."""
    if value is None:
        return graph.add_const(name, np.full(channels, default, np.float32))
    if graph.tensors.get(value.name) is value:
        return value
    return graph.add_tensor(value.with_(name=name))
