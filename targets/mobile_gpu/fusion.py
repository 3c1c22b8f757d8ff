"""Which nodes become one kernel.

A *group* is an anchor and a chain of elementwise nodes behind it: each link reads the value of the
one before, at the same position, and nobody else does, so the value stays in registers. Groups run
at the place of their last node, where every other operand of the chain has been computed.

RESHAPE and SQUEEZE are *views*: they compute nothing and share their input's buffer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgekit.graph.ir import Graph, Node, Tensor

UNARY = frozenset(
    [
        "LOGISTIC",
        "TANH",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "HARD_SWISH",
        "ABS",
        "EXP",
        "LOG",
        "NEG",
        "SQRT",
        "RSQRT",
        "LEAKY_RELU",
        "GELU",
        "QUANTIZE",
        "DEQUANTIZE",
    ]
)
BINARY = frozenset(
    ["ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU"]
)
VIEWS = frozenset(["RESHAPE", "SQUEEZE"])
#: Anchors whose result passes through registers once, so that a chain may follow.
_NO_CHAIN = frozenset(["SPLIT", "ARG_MAX", "SOFTMAX", "LAYER_NORM", *VIEWS])


@dataclass
class Group:
    """nodes: the anchor, then the chain, in graph order."""

    nodes: list[Node] = field(default_factory=list)

    @property
    def anchor(self) -> Node:
        return self.nodes[0]

    @property
    def chain(self) -> list[Node]:
        return self.nodes[1:]

    @property
    def output(self) -> str:
        """The tensor that is written (of several-output anchors: the first)."""
        return self.nodes[-1].outputs[0]


def same_storage(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bytes for the same real values."""
    if a.dtype != b.dtype:
        return False
    return (a.quant is None and b.quant is None) or (
        a.quant is not None and a.quant.same_as(b.quant)
    )


def is_view(node: Node, graph: Graph) -> bool:
    """A RESHAPE or SQUEEZE of a computed tensor that keeps its bytes. One of a graph input or
    constant that is a graph output is copied: outputs have buffers of their own."""
    if node.type not in VIEWS:
        return False
    x, out = graph.tensor(node.inputs[0]), graph.tensor(node.outputs[0])
    if x.is_const or not same_storage(x, out):
        return False
    # float inputs and outputs of the graph are always stored in full
    ends = {*graph.inputs, *graph.outputs}
    return x.name not in ends and out.name not in ends


def groups(graph: Graph) -> list[Group]:
    """The groups of ``graph`` in the order in which they run; views are in none."""
    consumers, outputs = graph.consumers(), set(graph.outputs)
    open_groups: dict[str, Group] = {}  # tensor -> the group that may go on with it
    place = {n.name: i for i, n in enumerate(graph.nodes)}
    found: list[Group] = []
    for node in graph.nodes:
        if is_view(node, graph):
            continue
        group = _extend(node, graph, open_groups)
        if group is None:
            group = Group([node])
            found.append(group)
        out = node.outputs[0]
        goes_on = len(node.outputs) == 1 and len(consumers[out]) == 1 and out not in outputs
        if goes_on and group.anchor.type not in _NO_CHAIN:
            open_groups[out] = group
    return sorted(found, key=lambda g: place[g.nodes[-1].name])


def _extend(node: Node, graph: Graph, open_groups: dict[str, Group]) -> Group | None:
    """Append ``node`` to the group that computes one of its operands, where that is possible."""
    if node.type not in UNARY and node.type not in BINARY:
        return None
    shape = graph.tensor(node.outputs[0]).shape
    readers = [i for i in node.inputs if i is not None]
    first = readers[:1] if node.type in UNARY or node.type == "PRELU" else readers
    best: Group | None = None
    chosen = None
    for name in first:
        group = open_groups.get(name)
        if group is None or graph.tensor(name).shape != shape or readers.count(name) > 1:
            continue
        if best is None or _weight(group) >= _weight(best):
            best, chosen = group, name
    if best is None or chosen is None:
        return None
    del open_groups[chosen]
    best.nodes.append(node)
    return best


def _weight(group: Group) -> int:
    """Anchors that compute most come first: their results are worth keeping in registers."""
    heavy = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
    return 1 if group.anchor.type in heavy else 0
