""".tflite bytes -> Graph: tensors and constants; the operators are in ``tflite_nodes``.

The model is never executed. What a file computes from its own shapes (SHAPE, PACK, ... in front of
a RESHAPE, as Keras writes for a dynamic batch) is evaluated here, see ``tflite_fold``; everything
else goes through operator by operator, and what has no counterpart is collected and named at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.errors import FormatError, InputError, UnsupportedError
from edgekit.formats.base import InputShapes, malformed_is_format_error
from edgekit.formats.tflite_flat import RawModel, RawOperator, RawTensor, parse
from edgekit.graph.ir import Graph, Node, QuantParams, Tensor, storage, unique
from edgekit.graph.ops import infer_shapes

#: How often a file's bytes may be used as constants. Tensors may share a buffer, but a small file
#: whose tensors all name one large buffer must not cost minutes.
_MAX_REUSE = 64


class NotSupported(Exception):
    """Why one operator cannot be represented; the reader adds its name and goes on."""


class Reader:
    """A graph under construction. Tensors are known by their index in the file."""

    def __init__(self, model: RawModel, input_shapes: InputShapes) -> None:
        self.model = model
        self.graph = Graph(model.name, {}, [], (), ())
        self.unsupported: list[tuple[str, str, str]] = []
        self._folded: dict[int, np.ndarray] = {}
        self._budget = _MAX_REUSE * model.size
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._available: set[int] = set()
        self._node_names: set[str] = set()
        self.reinfer = self._fix_inputs(input_shapes)

    # -- inputs and their shapes ---------------------------------------------------------------

    def _fix_inputs(self, given: InputShapes) -> bool:
        """Decide every input's shape; True when other shapes have to be inferred from them."""
        raws = [self.raw(i) for i in self.model.inputs]
        names = [r.name for r in raws]
        for name in given:
            if name not in names:
                raise InputError(
                    f"a shape is given for input '{name}', but the inputs are {', '.join(names)}"
                )
        changed = False
        for r in raws:
            if r.problem is not None:
                raise UnsupportedError(f"the input '{r.label}' {r.problem}")
            if r.data is not None:
                raise FormatError(f"the input '{r.label}' is a constant")
            shape = self._input_shape(r, given.get(r.name))
            changed |= shape != r.shape or bool(r.dynamic)
            self._shapes[r.index] = shape
            self._available.add(r.index)
            self.graph.tensors[r.name] = Tensor(r.name, shape, r.dtype, r.quant)
        self.graph.inputs = tuple(names)
        return changed

    @staticmethod
    def _input_shape(r: RawTensor, given: tuple[int, ...] | None) -> tuple[int, ...]:
        if given is not None:
            if len(given) != len(r.shape) or min(given, default=1) < 1:
                raise InputError(
                    f"input '{r.label}' has {len(r.shape)} dimensions; "
                    f"the shape {list(given)} does not fit"
                )
            return tuple(given)
        free = [i for i in r.dynamic if i != 0]
        if free:
            raise UnsupportedError(
                f"input '{r.label}' has dynamic dimensions {free}; give its shape, "
                f"such as {r.name}={','.join(str(max(d, 1)) for d in r.shape)}"
            )
        shape = tuple(1 if i in r.dynamic else d for i, d in enumerate(r.shape))
        if min(shape, default=1) < 1:
            raise FormatError(f"the input '{r.label}' has the shape {list(shape)}")
        return shape

    # -- looking -------------------------------------------------------------------------------

    def raw(self, index: int) -> RawTensor:
        return self.model.tensors[index]

    def shape(self, index: int) -> tuple[int, ...]:
        """The tensor's shape as this reader knows it (declared, given or inferred)."""
        if index in self._folded:
            return self._folded[index].shape
        return self._shapes.get(index, self.raw(index).shape)

    def const(self, index: int) -> np.ndarray | None:
        """The value of a constant, None for an activation."""
        if index in self._folded:
            return self._folded[index]
        r = self.raw(index)
        if r.data is None and r.empty and index not in self._available:
            return np.empty(r.shape, r.dtype)
        return r.data

    def arg(self, op: RawOperator, k: int) -> int:
        """The tensor index of a required input."""
        if k >= len(op.inputs) or op.inputs[k] < 0:
            raise FormatError(f"{op.name} has no input {k}")
        return op.inputs[k]

    def optional(self, op: RawOperator, k: int) -> int | None:
        return op.inputs[k] if k < len(op.inputs) and op.inputs[k] >= 0 else None

    def ints(self, op: RawOperator, k: int, what: str) -> list[int]:
        """A constant integer input, flattened; NotSupported when it is computed at run time."""
        value = self.const(self.arg(op, k))
        if value is None:
            raise NotSupported(f"its {what} is computed at run time; it has to be a constant")
        if value.dtype.kind not in "iu":
            raise FormatError(f"{op.name}: its {what} is {value.dtype}, not an integer")
        self._spend(8 * value.nbytes)  # Python's integers are slow to make
        return [int(v) for v in value.reshape(-1)]

    # -- making --------------------------------------------------------------------------------

    def value(self, index: int, data: np.ndarray | None = None) -> str:
        """The graph's name of a tensor that an operator reads; constants are added on first use."""
        r = self.raw(index)
        if r.name in self.graph.tensors:
            return r.name
        const = self.const(index) if data is None else data
        if const is None:
            raise FormatError(f"tensor '{r.label}' is read before anything produces it")
        self._spend(const.nbytes)
        if const.size == 0:
            raise FormatError(f"the constant '{r.label}' is empty")
        if const.dtype.kind == "f" and not np.all(np.isfinite(const)):
            raise FormatError(f"the constant '{r.label}' holds values that are not finite numbers")
        as_stored = const.dtype == storage(r.dtype)
        dtype, quant = (r.dtype, r.quant) if as_stored else (str(const.dtype), None)
        self.graph.tensors[r.name] = Tensor(r.name, const.shape, dtype, quant, const)
        return r.name

    def result(self, index: int) -> str:
        """The graph's name of a tensor that an operator produces."""
        r = self.raw(index)
        if r.name not in self.graph.tensors:
            self.graph.tensors[r.name] = Tensor(r.name, self.shape(index), r.dtype, r.quant)
        self._available.add(index)
        return r.name

    def add(
        self,
        op: RawOperator,
        op_type: str,
        inputs: Sequence[str | None],
        attrs: Mapping[str, Any] | None = None,
        outputs: Sequence[int] | None = None,
    ) -> None:
        """Append a node that computes tensors ``outputs`` (default: all of the operator's)."""
        indices = op.outputs if outputs is None else outputs
        names = tuple(self.result(o) for o in indices)
        node = self.node(op.name, op_type, inputs, names, attrs)
        if self.reinfer:
            shapes = infer_shapes(node, self.graph.ins(node))
            for index, name, shape in zip(indices, names, shapes, strict=True):
                self.graph.tensors[name] = self.graph.tensors[name].with_(shape=shape)
                self._shapes[index] = shape

    def node(
        self,
        name: str,
        op_type: str,
        inputs: Sequence[str | None],
        outputs: Sequence[str],
        attrs: Mapping[str, Any] | None = None,
    ) -> Node:
        """Append a node under a unique name (``Graph.add_node`` looks at all nodes each time)."""
        name = unique(name, self._node_names)
        self._node_names.add(name)
        node = Node(name, op_type, tuple(inputs), tuple(outputs), attrs or {})
        self.graph.nodes.append(node)
        return node

    def temp(self, op: RawOperator, like: int, shape: tuple[int, ...], tag: str) -> str:
        """A new intermediate tensor with the dtype and quantization of tensor ``like``."""
        r = self.raw(like)
        return self.graph.add_tensor(Tensor(f"{op.name}/{tag}", shape, r.dtype, r.quant)).name

    def _spend(self, nbytes: int) -> None:
        self._budget -= nbytes
        if self._budget < 0:
            raise FormatError(f"its constants are used more than {_MAX_REUSE} times")

    def fold(self, index: int, data: np.ndarray) -> None:
        """Let tensor ``index`` be a constant from here on."""
        self._spend(data.nbytes)
        self._folded[index] = data
        self._available.add(index)

    # -- the walk ------------------------------------------------------------------------------

    def run(self) -> Graph:
        from edgekit.formats.tflite_fold import fold
        from edgekit.formats.tflite_nodes import add_operator

        for op in self.model.operators:
            self._check_order(op)
            try:
                for i in (*op.inputs, *op.outputs):
                    if i >= 0 and (problem := self.raw(i).problem) is not None:
                        raise NotSupported(f"tensor '{self.raw(i).label}' {problem}")
                if not fold(self, op):
                    add_operator(self, op)
            except NotSupported as e:
                self._give_up(op, str(e))
        if self.unsupported:
            self._refuse()
        for o in self.model.outputs:
            if (problem := self.raw(o).problem) is not None:
                raise UnsupportedError(f"the output '{self.raw(o).label}' {problem}")
        self.graph.outputs = tuple(self.value(o) for o in self.model.outputs)
        return self.graph

    def _check_order(self, op: RawOperator) -> None:
        """Operators are stored in execution order; a cycle cannot be."""
        for i in op.inputs:
            known = i < 0 or i in self._available or self.raw(i).problem is not None
            if not known and self.const(i) is None:
                raise FormatError(
                    f"{op.name} reads tensor '{self.raw(i).label}' before anything produces it"
                )
        for o in op.outputs:
            if o in self._available or self.raw(o).data is not None:
                raise FormatError(
                    f"tensor '{self.raw(o).label}' is written by {op.name} and before"
                )

    def _give_up(self, op: RawOperator, reason: str) -> None:
        """Note an operator that cannot be represented; what follows takes the declared shapes."""
        self.unsupported.append((op.name, op.type, reason))
        self.reinfer = False
        for o in op.outputs:
            if self.raw(o).problem is None:
                self.result(o)
            self._available.add(o)

    def _refuse(self) -> None:
        found = self.unsupported
        shown = "; ".join(f"node '{n}' ({t}): {why}" for n, t, why in found[:3])
        more = f"; and {len(found) - 3} more nodes" if len(found) > 3 else ""
        raise UnsupportedError(shown + more, found)


def quantized_value(quant: QuantParams | None, stored: float) -> float:
    """The real number behind a stored one."""
    return float(stored) if quant is None else (float(stored) - quant.zp) * quant.s


def read_bytes(data: bytes, name: str, input_shapes: InputShapes | None = None) -> Graph:
    """The graph in the bytes of a .tflite file.

    name: the file's name, for messages. Raises FormatError (malformed), UnsupportedError (valid,
    but not representable: ``unsupported`` lists the nodes). The graph is not validated yet;
    :func:`edgekit.formats.load` does that.
    """
    from edgekit.formats.patterns import fuse_layer_norm

    with malformed_is_format_error(name, "tflite"):
        try:
            graph = Reader(parse(data), input_shapes or {}).run()
        except FormatError as e:
            raise FormatError(f"'{name}' is not a valid .tflite file: {e}") from e
        fuse_layer_norm(graph)
        return graph
