"""The one model representation, its numerics and its reference executor. Depends on no other room."""

from edgekit.graph.ir import Graph, Node, QuantParams, Tensor, unique
from edgekit.graph.ops import macs, op_types, spec

__all__ = ["Graph", "Node", "QuantParams", "Tensor", "macs", "op_types", "spec", "unique"]
