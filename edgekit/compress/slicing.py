"""What the channel-removing passes share: cutting constants by channel, and the record of what went."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgekit.graph.ir import Node, QuantParams, Tensor


@dataclass
class Removed:
    """Channels removed from one tensor: how many of how many, and why."""

    tensor: str
    before: int
    constant: int
    unread: int


@dataclass
class DeadChannels:
    """What one call of :func:`eliminate` did; ``removed`` has one entry a tensor."""

    removed: dict[str, Removed] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        return sum(r.constant + r.unread for r in self.removed.values())

    def add(self, tensor: str, before: int, constant: int, unread: int) -> None:
        r = self.removed.setdefault(tensor, Removed(tensor, before, 0, 0))
        r.constant += constant
        r.unread += unread


def slice_channels(t: Tensor, mask: np.ndarray, axis: int) -> Tensor:
    """A constant with the entries of ``mask`` along ``axis``, its per-channel scales too."""
    assert t.data is not None
    data = np.compress(mask, t.data, axis=axis)
    q = t.quant
    if q is not None and q.axis is not None and q.axis == axis % max(1, t.data.ndim):
        q = QuantParams(q.scale[mask], q.zero_point[mask], q.axis)
    return t.with_(shape=data.shape, data=data, quant=q)


def default_bias(node: Node, x: Tensor, w: Tensor, values: np.ndarray) -> Tensor:
    """A bias tensor for a layer that has none: float, or int32 with scale ``s_in * s_w``."""
    if x.is_float:
        data = values.astype(x.dtype)
        return Tensor(f"{node.name}_bias", data.shape, x.dtype, None, data)
    assert x.quant is not None and w.quant is not None
    scale = x.quant.scale[0] * w.quant.scale
    q = QuantParams(scale, np.zeros(len(scale), np.int32), None if len(scale) == 1 else 0)
    data = values.astype(np.int32)
    return Tensor(f"{node.name}_bias", data.shape, "int32", q, data)
