"""Fused code for the network in training, where that pays.

On a CPU, half the time of training a small network goes into reading and writing activations between
batch norm, activation and addition; torch's compiler fuses those. It takes about half a minute and a
C++ compiler, so it is for long runs.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Sequence

import torch

from edgekit.compress.train.options import TrainOptions
from edgekit.errors import InputError
from edgekit.graph.ir import Graph
from edgekit.graph.ops import macs

Values = Callable[[Sequence[torch.Tensor], Iterable[str]], dict[str, torch.Tensor]]
#: Multiply-accumulates of a whole run (one pass) from which generated code is worth its half minute.
_MACS = 2e12


def compiles(options: TrainOptions, graph: Graph, batch: int) -> bool:
    """Whether a run uses generated code. InputError when it is asked for and there is no compiler."""
    if options.compile == "off":
        return False
    if options.compile == "on":
        if options.device == "cpu" and _compiler() is None:
            raise InputError(
                "compile is 'on' and no C++ compiler is found; 'off' would be accepted"
            )
        return True
    work = sum(macs(n, graph) for n in graph.nodes) * batch * options.steps
    return work >= _MACS and (options.device != "cpu" or _compiler() is not None)


@functools.cache
def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def compiled(values: Values, progress: Callable[[str], None] | None) -> Values:
    """``values`` as generated code; as it is, should the compiler not take it."""
    if progress:
        progress("generating code for the network")

    def forward(inputs: Sequence[torch.Tensor], watch: Iterable[str]) -> dict[str, torch.Tensor]:
        return values(inputs, watch)

    # torch keeps what it compiled by code object, a few for each: every run brings its own
    forward.__code__ = forward.__code__.replace()
    fast = torch.compile(forward, dynamic=False)
    chosen: list[Values] = [fast]

    def call(inputs: Sequence[torch.Tensor], watch: Iterable[str]) -> dict[str, torch.Tensor]:
        try:
            return chosen[0](inputs, watch)
        except Exception as e:
            if chosen[0] is values or not type(e).__module__.startswith("torch._"):
                raise
            if progress:
                progress(f"no generated code ({type(e).__name__}); continuing without")
            chosen[0] = values
            return values(inputs, watch)

    return call
