"""Portable BATCH_MATMUL and LAYER_NORM: what transformers add."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops.norm import layer_norm_params

from ..contract import ConstArray, KernelCall
from .ref_common import (
    RefVariant,
    constant,
    int8,
    lowered,
    output,
    product,
    required,
    shared_buffers,
)

_BATCH_LOOPS = 3


def _batch_strides(shape: Sequence[int], out: Sequence[int]) -> list[int]:
    """Elements that a step along each batch dimension of the output moves; 0 where broadcast."""
    lead = (1,) * (len(out) - len(shape)) + tuple(shape[:-2])
    strides, step = [], shape[-2] * shape[-1]
    for d in reversed(lead):
        strides.append(0 if d == 1 else step)
        step *= d
    return strides[::-1]


def _batch_matmul(node: Node, graph: Graph) -> KernelCall:
    x, y, out = required(node, graph, 0), required(node, graph, 1), output(node, graph)
    qx, qy, qo = int8(x), int8(y), int8(out)
    lead = out.shape[:-2]
    loops = [
        loop
        for loop in zip(
            lead,
            _batch_strides(x.shape, out.shape),
            _batch_strides(y.shape, out.shape),
            strict=True,
        )
        if loop[0] > 1
    ]
    if len(loops) > _BATCH_LOOPS:
        raise UnsupportedError(f"{len(loops)} batch dimensions; the kernel takes {_BATCH_LOOPS}")
    loops = [(1, 0, 0)] * (_BATCH_LOOPS - len(loops)) + loops
    adj_x, adj_y = bool(node.attrs["adj_x"]), bool(node.attrs["adj_y"])
    x_row, x_col = (1, x.shape[-1]) if adj_x else (x.shape[-1], 1)
    y_row, y_col = (1, y.shape[-1]) if adj_y else (y.shape[-1], 1)
    mult, shift = nm.quantize_multiplier(qx.s * qy.s / qo.s)
    fields = {
        "batch": [n for n, _, _ in loops],
        "x_batch_stride": [a for _, a, _ in loops],
        "y_batch_stride": [b for _, _, b in loops],
        "m": out.shape[-2],
        "k": x.shape[-2] if adj_x else x.shape[-1],
        "n": out.shape[-1],
        "x_row": x_row,
        "x_col": x_col,
        "y_row": y_row,
        "y_col": y_col,
        "x_zp": qx.zp,
        "y_zp": qy.zp,
        "out_zp": qo.zp,
        "mult": mult,
        "shift": shift,
    }
    call = "&{p}, {in0}, {in1}, {out0}"
    return lowered("batch_matmul_s8_ref", "ek_matmul.h", call, "ek_matmul_params", fields)


def _layer_norm(node: Node, graph: Graph) -> KernelCall:
    x, y = required(node, graph), output(node, graph)
    int8(x)
    p = layer_norm_params(node, graph.ins(node), graph.outs(node))
    gamma = constant(required(node, graph, 1), "gamma").reshape(-1).astype(np.int16)
    beta = constant(required(node, graph, 2), "beta").reshape(-1)
    channels = x.shape[-1]
    fields = {
        "rows": product(x.shape) // channels,
        "channels": channels,
        "epsilon": p.epsilon,
        "gamma_shift": p.gamma_shift,
        "mult": p.mult,
        "shift": p.shift,
        "out_zp": int8(y).zp,
    }
    return lowered(
        "layer_norm_s8_ref",
        "ek_norm.h",
        "&{p}, {in0}, {c.gamma}, {c.beta}, {out0}",
        "ek_layer_norm_params",
        fields,
        (ConstArray("gamma", "int16_t", gamma), ConstArray("beta", "int32_t", beta)),
        inplace=shared_buffers(node, graph),
    )


VARIANTS = [
    RefVariant("batch_matmul_s8_ref", "BATCH_MATMUL", _batch_matmul),
    RefVariant("layer_norm_s8_ref", "LAYER_NORM", _layer_norm),
]
