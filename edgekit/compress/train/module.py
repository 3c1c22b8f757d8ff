"""The torch module that is trained: a graph's own module with hooks, and batch norm put back in.

Networks come with batch norm folded into their weights. For training it is inserted again behind
every layer but the last (Ioffe & Szegedy, ICML 2015), such that the function stays the same: with the
mean ``m`` and variance ``v`` of ``z = W x`` on the training samples, ``gamma = sqrt(v)`` and
``beta = b + m`` give back ``W x + b``. At the end it is folded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from edgekit.compress.slicing import default_bias
from edgekit.graph.ir import Graph, Node
from edgekit.graph.reference import _batchable, _varying
from edgekit.graph.to_torch.module import GraphModule

#: Output-channel axis of the weights, for operators that have them.
WEIGHT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0}

Hook = Callable[[torch.Tensor], torch.Tensor]


def weighted_nodes(graph: Graph) -> list[Node]:
    """Nodes with constant float weights, in graph order."""
    return [
        n
        for n in graph.nodes
        if n.type in WEIGHT_AXIS
        and graph.tensor(n.inputs[1]).is_const
        and graph.tensor(n.inputs[1]).is_float
    ]


def with_biases(graph: Graph) -> Graph:
    """Every weighted node with a bias of its own (zeros where it had none)."""
    g = graph.copy()
    readers: dict[str, int] = {}
    for n in g.nodes:
        for i in n.inputs:
            if i is not None:
                readers[i] = readers.get(i, 0) + 1
    for k, n in enumerate(g.nodes):
        if n.type not in WEIGHT_AXIS or not g.tensor(n.inputs[1]).is_const:
            continue
        name = n.inputs[2] if len(n.inputs) > 2 else None
        if name is None:
            x, w = g.tensor(n.inputs[0]), g.tensor(n.inputs[1])
            zeros = np.zeros(w.shape[WEIGHT_AXIS[n.type]])
            name = g.add_tensor(default_bias(n, x, w, zeros)).name
        elif readers[name] > 1 and g.tensor(name).is_const:
            name = g.add_tensor(g.tensor(name)).name
        g.nodes[k] = n.with_(inputs=(*n.inputs[:2], name))
    return g


def split_activations(graph: Graph, names: Iterable[str]) -> Graph:
    """The graph with the fused activation of the named nodes as operators of their own: the node's
    sums are then the tensor ``<output>/linear``."""
    g = graph.copy()
    wanted, nodes = set(names), []
    for n in g.nodes:
        act = n.attr("activation", "NONE")
        if n.name not in wanted or act == "NONE":
            nodes.append(n)
            continue
        out = g.tensor(n.outputs[0])
        linear = g.add_tensor(out.with_(name=f"{out.name}/linear"))
        nodes.append(n.with_(outputs=(linear.name,)).with_attrs(activation="NONE"))
        nodes.append(Node(f"{n.name}/{act.lower()}", act, (linear.name,), n.outputs))
    g.nodes = nodes
    return g.validate()


class BatchNorm(nn.Module):
    """Batch norm over the last axis. ``measuring`` adds up statistics and passes ``z + bias`` on."""

    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, bias: torch.Tensor) -> None:
        super().__init__()
        self.bias = bias
        channels = len(bias)
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.epsilon = 1e-5
        self.measuring = False
        self._sums: list[torch.Tensor] = []

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if self.measuring:
            flat = z.detach().reshape(-1, z.shape[-1]).double()
            self._sums.append(torch.stack([torch.ones_like(flat[0]) * len(flat),
                                           flat.sum(0), (flat**2).sum(0)]))  # fmt: skip
            return z + self.bias.to(z.device, z.dtype)
        y = F.batch_norm(
            z.movedim(-1, 1), self.mean, self.var, self.gamma, self.beta, self.training, 0.1,
            self.epsilon,
        )  # fmt: skip
        return y.movedim(1, -1)

    def start(self) -> None:
        """From the measured sums to the parameters that keep the function."""
        count, total, squares = torch.stack(self._sums).sum(0)
        self._sums = []
        mean = total / count
        var = (squares / count - mean**2).clamp_min(0.0)
        # in the layer's own units: the sums of a network that takes pixels 0..255 may be tiny or huge
        self.epsilon = max(1e-5 * float(var.mean()), 1e-30)
        with torch.no_grad():
            self.mean.copy_(mean)
            self.var.copy_(var)
            self.gamma.copy_(torch.sqrt(var + self.epsilon))
            self.beta.copy_(self.bias.to(mean.device) + mean)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """``(factor, bias)`` in float64: the layer in eval mode is ``factor * (W x) + bias``."""
        gamma, beta, mean, var = (
            t.detach().cpu().double().numpy() for t in (self.gamma, self.beta, self.mean, self.var)
        )
        factor = gamma / np.sqrt(var + self.epsilon)
        return factor, beta - factor * mean


class TrainModule(GraphModule):
    """A graph's module with hooks: ``on_constant`` (masks, fake quantization of weights) and
    ``on_value`` (batch norm, fake quantization of activations), by tensor name.

    base: the graph that :meth:`finished` gives back with new constants; it has the nodes of the
    graph that came in. Tensors that training adds have names of their own (``.../linear``).
    """

    def __init__(self, graph: Graph, *, batch_norm: bool = False) -> None:
        base = with_biases(graph)
        chosen = _normalized(base) if batch_norm and _stacks(base) else []
        working = split_activations(base, [n.name for n in chosen])
        biases = {n.name: n.inputs[2] or "" for n in chosen}
        working.nodes = [
            n.with_(inputs=(*n.inputs[:2], None)) if n.name in biases else n for n in working.nodes
        ]
        super().__init__(working)
        self.base = base
        self.on_constant: dict[str, Hook] = {}
        self.on_value: dict[str, Hook] = {}
        self.norms = nn.ModuleDict()
        self._norm_of: dict[str, tuple[str, str, int]] = {}
        for n in working.nodes:
            if n.name in biases:
                data = base.tensor(biases[n.name]).data
                assert data is not None
                norm = BatchNorm(torch.from_numpy(np.array(data, np.float32)).reshape(-1))
                key = f"n{len(self.norms)}"
                self.norms[key] = norm
                self.on_value[n.outputs[0]] = norm
                self._norm_of[key] = n.inputs[1] or "", biases[n.name], WEIGHT_AXIS[n.type]

    def hook_constant(self, name: str, hook: Hook) -> None:
        """Add a hook behind those that the constant has."""
        before = self.on_constant.get(name)
        self.on_constant[name] = hook if before is None else lambda x: hook(before(x))

    def hook_value(self, name: str, hook: Hook) -> None:
        """Add a hook behind those that the activation has."""
        before = self.on_value.get(name)
        self.on_value[name] = hook if before is None else lambda x: hook(before(x))

    def values(
        self, inputs: Sequence[torch.Tensor], watch: Iterable[str]
    ) -> dict[str, torch.Tensor]:
        """Forward; the watched tensors by name (NHWC)."""
        wanted = set(watch)
        given = self._checked(inputs)
        if self._at_once:
            return self._watched(given, wanted)
        parts = [self._watched(v, wanted) for v in self._one_by_one(given)]
        return {k: torch.cat([p[k] for p in parts]) for k in parts[0]}

    def _watched(self, given: dict[str, torch.Tensor], wanted: set[str]) -> dict[str, torch.Tensor]:
        values = dict(given)
        for name in self.graph.inputs:
            if name in self.on_value:
                values[name] = self.on_value[name](values[name])
        found = {k: v for k, v in values.items() if k in wanted}
        for node, step, done in zip(self.graph.nodes, self._steps, self._done, strict=True):
            ins = [None if i is None else self._value(i, values) for i in node.inputs]
            for name, value in zip(node.outputs, step(ins), strict=True):
                hook = self.on_value.get(name)
                values[name] = value if hook is None else hook(value)
                if name in wanted:
                    found[name] = values[name]
            for name in done:
                values.pop(name, None)
        return found

    def _run(self, values: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        found = self._watched(values, set(self.graph.outputs))
        samples = next((v.shape[0] for v in values.values() if v.ndim), 1)
        results = []
        for o in self.graph.outputs:
            v = found[o] if o in found else self.constant(o)
            if self._at_once and o not in self._varying:
                v = v.expand(samples, *v.shape[1:])
            results.append(v)
        return results

    def _value(self, name: str, values: dict[str, torch.Tensor]) -> torch.Tensor:
        if name in values:
            return values[name]
        hook = self.on_constant.get(name)
        return self.constant(name) if hook is None else hook(self.constant(name))

    @torch.no_grad()
    def measure(self, batches: Iterable[Sequence[torch.Tensor]]) -> None:
        """Start the batch norms from the statistics of these inputs; the function stays the same."""
        norms = [m for m in self.norms.values() if isinstance(m, BatchNorm)]
        if not norms:
            return
        for m in norms:
            m.measuring = True
        for inputs in batches:
            self._watched(self._checked(inputs), set())
        for m in norms:
            m.measuring = False
            m.start()

    def finished(self) -> Graph:
        """``base`` with the trained constants: hooks on constants applied, batch norms folded."""
        trained = self.to_graph()
        out = self.base.copy()
        for name in self.names:
            if name in self.on_constant:
                with torch.no_grad():
                    value = self.on_constant[name](self.constant(name)).cpu().numpy()
                old = out.tensor(name)
                out.tensors[name] = old.with_(data=value.astype(old.dtype))
            else:
                out.tensors[name] = trained.tensor(name)
        for key, (weight, bias, axis) in self._norm_of.items():
            norm = self.norms[key]
            assert isinstance(norm, BatchNorm)
            factor, offset = norm.folded()
            w, b = out.tensor(weight), out.tensor(bias)
            assert w.data is not None
            shape = [1] * w.data.ndim
            shape[axis] = -1
            data = (w.data.astype(np.float64) * factor.reshape(shape)).astype(w.dtype)
            out.tensors[weight] = w.with_(data=data)
            out.tensors[bias] = b.with_(data=offset.astype(b.dtype).reshape(b.shape))
        return out.validate()


def _stacks(graph: Graph) -> bool:
    """Samples run together, so that there is something to average."""
    alike = all(graph.tensor(i).shape[:1] == (1,) for i in graph.inputs)
    return alike and _batchable(graph, _varying(graph))


def _normalized(graph: Graph) -> list[Node]:
    """Weighted nodes that get a batch norm: another weighted node reads what they lead to, and
    weights and bias are their own constants."""
    uses: dict[str, int] = {}
    for n in graph.nodes:
        for i in n.inputs:
            if i is not None:
                uses[i] = uses.get(i, 0) + 1
    weighted = weighted_nodes(graph)
    names = {n.name for n in weighted}
    leads: set[str] = set()  # tensors that lead to a weighted node
    for n in reversed(graph.nodes):
        if n.name in names or any(o in leads for o in n.outputs):
            leads.update(i for i in n.inputs if i is not None)
    return [
        n
        for n in weighted
        if n.outputs[0] in leads
        and n.outputs[0] not in graph.outputs
        and uses[n.inputs[1] or ""] == 1
        and graph.tensor(n.inputs[2]).is_const
        and len(graph.tensor(n.outputs[0]).shape) in (2, 4)
    ]
