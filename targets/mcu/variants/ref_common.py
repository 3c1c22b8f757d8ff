"""What the portable variants share: the variant itself, checks of types, C initializers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.errors import GraphError, UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall

MAX_DIMS = 5  #: ``EK_MAX_DIMS`` of ``ek_common.h``
RANK = 100  #: of every portable variant: what a core's own kernels are faster than


@dataclass(frozen=True)
class RefVariant:
    """A portable kernel for one operator type.

    lowerer: (node, graph) -> KernelCall; raises UnsupportedError or GraphError with the reason
    where the kernel does not apply.
    """

    name: str
    op: str
    lowerer: Callable[[Node, Graph], KernelCall]
    rank: int = RANK

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        try:
            self.lowerer(node, graph)
        except (UnsupportedError, GraphError) as e:
            return str(e)
        return None

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        return self.lowerer(node, graph)


Value = int | Sequence[int] | Mapping[str, object]


def initializer(fields: Mapping[str, object]) -> str:
    """A C initializer with designators: integers, sequences of integers, nested structures."""
    parts = []
    for key, value in fields.items():
        if isinstance(value, Mapping):
            text = initializer(value)
        elif isinstance(value, (list, tuple)):
            text = "{ " + ", ".join(literal(v) for v in value) + " }"
        elif isinstance(value, str):
            text = value
        else:
            text = literal(int(value))  # type: ignore[call-overload]
        parts.append(f".{key} = {text}")
    return "{ " + ", ".join(parts) + " }"


def literal(value: int) -> str:
    """An int32 or int64 value as C source."""
    v = int(value)
    if v == nm.INT32_MIN:
        return "INT32_MIN"
    return str(v) if nm.INT32_MIN < v <= nm.INT32_MAX else f"INT64_C({v})"


def lowered(
    name: str,
    header: str,
    call: str,
    params_type: str | None = None,
    fields: Mapping[str, object] | None = None,
    consts: Sequence[ConstArray] = (),
    scratch_bytes: int = 0,
    inplace: Sequence[tuple[int, int]] = (),
) -> KernelCall:
    """A call of the portable kernel ``ek_<name>`` with the arguments ``call``."""
    return KernelCall(
        variant=name,
        sources=(f"ref/{name}.c",),
        header=header,
        call=f"ek_{name}({call});",
        params_type=params_type,
        params=None if fields is None else initializer(fields),
        consts=tuple(consts),
        scratch_bytes=scratch_bytes,
        inplace=tuple(inplace),
    )


# -- tensors -----------------------------------------------------------------------------------


def required(node: Node, graph: Graph, index: int = 0) -> Tensor:
    """Input ``index``; UnsupportedError when it is absent."""
    ins = graph.ins(node)
    t = ins[index] if index < len(ins) else None
    if t is None:
        raise UnsupportedError(f"input {index} is missing")
    return t


def output(node: Node, graph: Graph, index: int = 0) -> Tensor:
    return graph.outs(node)[index]


def int8(t: Tensor) -> QuantParams:
    """The per-tensor quantization of an int8 tensor; UnsupportedError for any other tensor."""
    if t.dtype != "int8":
        raise UnsupportedError(f"tensor '{t.name}' is {t.dtype}; the kernel takes int8")
    return scaled(t)


def integer(t: Tensor, dtype: str) -> QuantParams:
    """The per-tensor quantization of a tensor of ``dtype``, symmetric if that is int16;
    UnsupportedError for any other tensor."""
    if dtype == "int8":
        return int8(t)
    if t.dtype != dtype:
        raise UnsupportedError(f"tensor '{t.name}' is {t.dtype}; the kernel takes {dtype}")
    q = scaled(t)
    if q.zp:
        raise UnsupportedError(f"tensor '{t.name}' is {dtype} with a zero point; it must be 0")
    return q


def scaled(t: Tensor) -> QuantParams:
    """The per-tensor quantization of a tensor; UnsupportedError when it has none."""
    if t.quant is None or t.quant.is_per_channel or t.quant.scale.size != 1:
        raise UnsupportedError(f"tensor '{t.name}' has no per-tensor scale and zero point")
    return t.quant


def constant(t: Tensor | None, what: str) -> np.ndarray:
    """The data of a constant input; UnsupportedError when it is an activation or absent."""
    if t is None or t.data is None:
        raise UnsupportedError(f"the {what} of the node must be constant")
    return t.data


def nhwc(t: Tensor) -> tuple[int, int, int]:
    """Height, width and channels of an image tensor of batch 1; UnsupportedError otherwise."""
    if len(t.shape) != 4 or t.shape[0] != 1:
        raise UnsupportedError(
            f"tensor '{t.name}' has shape {list(t.shape)}; the kernel takes [1, H, W, C]"
        )
    return t.shape[1], t.shape[2], t.shape[3]


def same_scale(*tensors: Tensor) -> None:
    """UnsupportedError unless all tensors share one dtype and quantization."""
    first = tensors[0]
    for t in tensors[1:]:
        equal = t.quant is None if first.quant is None else first.quant.same_as(t.quant)
        if t.dtype != first.dtype or not equal:
            raise UnsupportedError(
                f"'{first.name}' and '{t.name}' differ in type, scale or zero point; "
                "the kernel moves or compares stored values"
            )


def wrap32(x: np.ndarray) -> np.ndarray:
    """Integers reduced modulo 2**32, as int32."""
    return np.asarray(x, np.int64).astype(np.int32)


def product(shape: Sequence[int]) -> int:
    n = 1
    for d in shape:
        n *= int(d)
    return n


def shared_buffers(node: Node, graph: Graph) -> list[tuple[int, int]]:
    """Inputs that output 0 may overwrite element by element: activations of its size and shape."""
    out = output(node, graph)
    return [
        (i, 0)
        for i, t in enumerate(graph.ins(node))
        if t is not None and not t.is_const and t.shape == out.shape and t.nbytes == out.nbytes
    ]
