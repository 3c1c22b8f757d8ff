"""Checks that the operators of a .tflite file share: each raises one sentence that names the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.errors import FormatError
from edgekit.formats.tflite_emit import ACTIVATIONS, PADDINGS
from edgekit.formats.tflite_flat import RawOperator
from edgekit.formats.tflite_read import NotSupported

_ACTIVATION_NAMES = {v: k for k, v in ACTIVATIONS.items()}
_PADDING_NAMES = {v: k for k, v in PADDINGS.items()}


def activation(options: Any) -> str:
    """The name of the fused activation; NotSupported for TANH and SIGN_BIT."""
    code = 0 if options is None else options.FusedActivationFunction()
    if code not in _ACTIVATION_NAMES:
        raise NotSupported(f"the fused activation {code} is not one of {', '.join(ACTIVATIONS)}")
    return _ACTIVATION_NAMES[code]


def padding(op: RawOperator, options: Any) -> str:
    """``SAME`` or ``VALID``."""
    code = 0 if options is None else options.Padding()
    if code not in _PADDING_NAMES:
        raise FormatError(f"{op.name} has the padding code {code}")
    return _PADDING_NAMES[code]


def few(op: RawOperator, values: np.ndarray) -> list[int]:
    """A vector of an operator's options that has one number a dimension at most."""
    if values.size > 8:
        raise FormatError(f"{op.name} has options for {values.size} dimensions")
    return [int(v) for v in values]


def positive(op: RawOperator, what: str, *values: int) -> tuple[int, ...]:
    """``values`` as a tuple, each at least 1."""
    if min(values) < 1:
        raise FormatError(f"{op.name} has the {what} {list(values)}; at least 1 is valid")
    return tuple(int(v) for v in values)


def axis_of(op: RawOperator, axis: int, rank: int) -> int:
    """An axis counted from the front, 0 to ``rank - 1``."""
    if not -rank <= axis < rank:
        raise FormatError(f"{op.name} works along axis {axis} of {rank}")
    return axis + rank if axis < 0 else axis


def required(op: RawOperator, kind: str) -> Any:
    """The options of an operator whose defaults are of no use (a stride of 0)."""
    options = op.options(kind)
    if options is None:
        raise FormatError(f"{op.name} has no options")
    return options


def only(op: RawOperator, n_inputs: int, n_outputs: int = 1) -> None:
    """At least ``n_inputs`` inputs, exactly ``n_outputs`` outputs."""
    if len(op.outputs) != n_outputs:
        raise FormatError(f"{op.name} has {len(op.outputs)} outputs; {n_outputs} is valid")
    if len(op.inputs) < n_inputs:
        raise FormatError(f"{op.name} has {len(op.inputs)} inputs; {n_inputs} are needed")


def elements(shape: Sequence[int]) -> int:
    """The number of elements of a shape, as a Python integer that cannot overflow."""
    n = 1
    for d in shape:
        n *= d
    return n
