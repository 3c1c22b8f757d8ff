"""What code generation and the runner must know of a GPU, and of how numbers are kept on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: float32: IEEE multiply-adds. tf32: matrix products on tensor cores, operands rounded to 10 bits of
#: mantissa, sums in float32. float16: activations and weights stored as halves, sums in float32.
#: int8 graphs are integer in all of them.
Precision = Literal["float32", "tf32", "float16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "tf32", "float16")

#: Tensor cores multiply int8 (m16n8k32), float16 (m16n8k16) and tf32 (m16n8k8) from this on.
OLDEST = (8, 0)


@dataclass(frozen=True)
class Gpu:
    """compute_capability: as CUDA writes it, such as "9.0"."""

    name: str
    compute_capability: str

    @property
    def number(self) -> str:
        return self.compute_capability.replace(".", "")

    @property
    def arch(self) -> str:
        """``sm_90``: what machine code is made for."""
        return f"sm_{self.number}"

    def tvm_target(self) -> dict[str, object]:
        return {
            "kind": "cuda",
            "arch": self.arch,
            "max_threads_per_block": 1024,
            "max_shared_memory_per_block": 49152,
            "thread_warp_size": 32,
        }
