"""Arithmetic of permuted axes for the layout walk (:mod:`edgekit.formats.onnx_layout`).

``perm`` says where a logical axis lies: ``logical = transpose(physical, perm)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from edgekit.graph.ir import Tensor

Perm = tuple[int, ...]


def inverse(perm: Sequence[int]) -> Perm:
    return tuple(int(i) for i in np.argsort(perm))


def identity(t: Tensor) -> Perm:
    return tuple(range(len(t.shape)))


def physical_shape(shape: Sequence[int], perm: Perm) -> tuple[int, ...]:
    return tuple(shape[i] for i in inverse(perm))


def product(values: Iterable[int]) -> int:
    n = 1
    for v in values:
        n *= v
    return n


def without(perm: Perm, axes: Sequence[int]) -> Perm:
    """The permutation of what is left when the logical ``axes`` are gone."""
    left = [p for i, p in enumerate(perm) if i not in set(axes)]
    rank = {p: k for k, p in enumerate(sorted(left))}
    return tuple(rank[p] for p in left)


def reshape_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes (size 1 left out) of equal product in both shapes."""
    a = [i for i, d in enumerate(old) if d != 1]
    b = [i for i, d in enumerate(new) if d != 1]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        ga, gb = [a[i]], [b[j]]
        pa, pb = old[a[i]], new[b[j]]
        i, j = i + 1, j + 1
        while pa != pb:
            if pa < pb:
                ga.append(a[i])
                pa *= old[a[i]]
                i += 1
            else:
                gb.append(b[j])
                pb *= new[b[j]]
                j += 1
        groups.append((ga, gb))
    return groups


def with_ones(order: list[int], shape: Sequence[int]) -> list[int]:
    """``order`` of the axes that matter, with axes of size 1 put where they look natural."""
    if order == sorted(order):
        return list(range(len(shape)))
    out = list(order)
    for k in [i for i, d in enumerate(shape) if d == 1][::-1]:
        if all(k < i for i in order):
            out.insert(0, k)
        elif k + 1 in out:
            out.insert(out.index(k + 1), k)
        else:
            out.append(k)
    return out
