"""TIR functions -> one OpenCL C file, by TVM; runs in the worker process.

Kernels whose text is the same share one function: a network of repeated blocks has few.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from edgekit.errors import ToolchainError

from .lower import Launch, Limits
from .tir import PRELUDE, Kernel

_FUNCTION = re.compile(r"^__kernel void (\w+)\(([^)]*)\)\s*\{.*?^\}\n", re.MULTILINE | re.DOTALL)
_PARAMETER = re.compile(r"\ba(\d+)_ptr\b")


@dataclass(frozen=True)
class Function:
    """A kernel function of the file. order: which of the kernel's arguments each parameter is."""

    name: str
    order: tuple[int, ...]


def sources(launches: list[Launch], limits: Limits) -> tuple[str, list[Function]]:
    """The OpenCL C file, and for each launch the function that it calls."""
    import tvm

    target = tvm.target.Target({"kind": "opencl", "max_num_threads": limits.max_group})
    functions: list[Function] = []
    known: dict[str, Function] = {}
    text = [PRELUDE]
    for launch in launches:
        source = _source(launch.kernel, target)
        match = _FUNCTION.search(source)
        if match is None:
            raise ToolchainError(
                f"TVM's source for kernel '{launch.kernel.name}' has an unexpected form"
            )
        body = match.group(0).replace(match.group(1), "@")
        if body not in known:
            name = f"k{len(known)}" + re.sub(r"^ek_\d+", "", launch.kernel.name)
            order = tuple(int(k) for k in _PARAMETER.findall(match.group(2)))
            known[body] = Function(name, order)
            text.append(body.replace("@", name))
        functions.append(known[body])
    return "\n".join(text), functions


def _source(kernel: Kernel, target: Any) -> str:
    import tvm

    module = tvm.tirx.build(tvm.IRModule({kernel.name: kernel.function}), target=target)
    found = [m for m in module.imports if m.kind == "opencl"]
    if len(found) != 1:
        raise ToolchainError(f"TVM made {len(found)} OpenCL modules of kernel '{kernel.name}'")
    return str(found[0].inspect_source())
