"""Schedules for functions that come as TE: dlight's rules where they give one kernel, else a rule of
ours, which always does.

A launch plan has no place for buffers between the kernels of one function, and one kernel is faster
anyway at these sizes.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_THREADS = 128
_HALVES = re.compile(r"\bhalf[24]\b")
_SHARED = 48 * 1024  #: bytes that a block may have without asking


def scheduled(function: Any, target: dict[str, object]) -> Any:
    """``function`` (TE) with its loops bound to a grid: one kernel."""
    import tvm
    from tvm.s_tir import dlight

    t = tvm.target.Target(target)
    for rule in (dlight.gpu.Matmul(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction()):
        try:
            with t:
                done = rule.apply(function, t, False)
            if done is None:
                continue
            result = done.mod["main"] if hasattr(done, "mod") else done
            if kernels(result) == 1 and shared_bytes(result) <= _SHARED:
                built = tvm.tirx.build(tvm.IRModule({"main": result}), target=t)
                text = "".join(m.inspect_source() for m in built.imports)
                # vectors of halves need what TVM's own prelude defines, which is not used
                if not _HALVES.search(text[text.index('extern "C" __global__') :]):
                    return result
        except Exception:  # a rule that trips over a function is one that does not take it
            continue
    return one_kernel(function)


def shared_bytes(function: Any) -> int:
    """Static shared memory of a scheduled function, as its blocks declare it."""
    import tvm_ffi
    from tvm.s_tir import SBlock

    total = 0

    def block(node: Any) -> None:
        nonlocal total
        for b in node.alloc_buffers:
            if str(b.scope()).startswith("shared"):
                size = 1
                for d in b.shape:
                    size *= int(d)
                total += size * np.dtype(str(b.dtype)).itemsize

    tvm_ffi.structural_walk(function.body, [(SBlock, block)], order="post")
    return total


def _bindings(function: Any) -> list[tuple[str, int]]:
    """(thread tag, extent) of every binding, outer ones after inner ones."""
    import tvm_ffi
    from tvm import tirx

    found: list[tuple[str, int]] = []

    def loop(node: Any) -> None:
        if node.thread_binding is not None:
            found.append((str(node.thread_binding.thread_tag), int(node.extent)))

    def attribute(node: Any) -> None:
        if node.attr_key == "thread_extent":
            found.append((str(node.node.thread_tag), int(node.value)))

    tvm_ffi.structural_walk(
        function.body, [(tirx.For, loop), (tirx.AttrStmt, attribute)], order="post"
    )
    return found


def kernels(function: Any) -> int:
    """Launches of a scheduled function: how often its grid is bound (0: something is not)."""
    return sum(tag == "blockIdx.x" for tag, _ in _bindings(function))


def launch(function: Any) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Grid and block of a scheduled function of one kernel."""
    extents: dict[str, int] = {}
    for tag, extent in _bindings(function):
        extents[tag] = max(extents.get(tag, 1), extent)
    grid = tuple(extents.get(f"blockIdx.{d}", 1) for d in "xyz")
    block = tuple(extents.get(f"threadIdx.{d}", 1) for d in "xyz")
    return grid, block  # type: ignore[return-value]


def one_kernel(function: Any) -> Any:
    """One thread for each output; what it reads is inlined, sums are computed by that thread."""
    from tvm import s_tir

    sch = s_tir.Schedule(function)
    root = sch.get_sblock("root") if hasattr(sch, "get_sblock") else sch.get_block("root")
    children = sch.get_child_blocks(root)
    for block in children[:-1]:
        try:
            sch.compute_inline(block)
        except Exception:  # a reduction: it is moved below
            continue
    blocks = sch.get_child_blocks(root)
    last = blocks[-1]
    reduces = any(int(v.iter_type) == 2 for v in sch.get(last).iter_vars)
    loops = sch.get_loops(last)
    spatial = [
        lo for lo, v in zip(loops, sch.get(last).iter_vars, strict=True) if int(v.iter_type) != 2
    ]
    rest = [lo for lo in loops if lo not in spatial]
    if not spatial:
        spatial = [sch.add_unit_loop(last if not loops else loops[0])]
    if rest:
        sch.reorder(*spatial, *rest)
    fused = sch.fuse(*spatial)
    outer, inner = sch.split(fused, factors=[None, _THREADS])
    sch.bind(outer, "blockIdx.x")
    sch.bind(inner, "threadIdx.x")
    if reduces:
        local = sch.cache_write(last, 0, "local")
        sch.reverse_compute_at(local, inner, preserve_unit_loops=True)
        sch.decompose_reduction(last, rest[0])
    for block in reversed(blocks[:-1]):
        sch.set_scope(block, 0, "local")
        sch.compute_at(block, inner, preserve_unit_loops=True)
        own = sch.get_loops(block)
        kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
        if 2 in kinds:
            own_block_loops = own[len(own) - len(kinds) :]
            first = next(lo for lo, k in zip(own_block_loops, kinds, strict=True) if k == 2)
            sch.decompose_reduction(block, first)
    return sch.mod["main"]
