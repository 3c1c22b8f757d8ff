"""Graph -> trainable torch module, and back.

``to_torch(graph)`` gives an ``nn.Module`` for any float graph, whatever file it came from, so that
pruning, quantization-aware training and distillation never need the user's training code. The
module's ``to_graph()`` gives the graph back with the trained constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgekit.graph.ir import Graph

if TYPE_CHECKING:
    from edgekit.graph.to_torch.module import GraphModule

__all__ = ["dequantized", "to_torch"]


def to_torch(
    graph: Graph,
    *,
    layout: Literal["nhwc", "nchw"] = "nhwc",
    quantized: Literal["refuse", "dequantize"] = "refuse",
) -> GraphModule:
    """A trainable ``torch.nn.Module`` that computes what ``graph`` computes.

    ``forward(*inputs)`` takes the graph's inputs in order, float32 ``[samples, ...]``, and returns
    its outputs the same way (one tensor, or a tuple of several). layout: "nchw" takes and returns
    4-D tensors as ``[samples, C, H, W]`` instead of ``[samples, H, W, C]``; nothing is copied for
    that when they are in ``torch.channels_last`` memory format. Every float constant becomes an
    ``nn.Parameter`` in the graph's own layout (one-element operands of elementwise arithmetic stay
    fixed, as buffers), named after its tensor.

    quantized: what to do with integer tensors that carry a quantization. "refuse" raises
    UnsupportedError naming the first node that has one; "dequantize" takes the float network that
    the integer one stands for (:func:`dequantized`): the weights are the dequantized ones, inputs
    and outputs are real values, and nothing rounds or saturates. ``to_graph()`` of such a module is
    that float graph.

    UnsupportedError names the first operator that has no torch form.
    """
    from edgekit.graph.to_torch.module import GraphModule

    return GraphModule(graph, layout=layout, quantized=quantized)


def dequantized(graph: Graph) -> Graph:
    """The float graph that an integer graph stands for; see :func:`to_torch`."""
    from edgekit.graph.to_torch.dequantize import dequantized as implementation

    return implementation(graph)
