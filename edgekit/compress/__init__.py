"""Graph -> Graph: lossless simplification and post-training quantization.

Later: pruning, factorization, weight sharing, distillation; each a pass that can be used alone.
"""

from edgekit.compress.ptq import QuantizeOptions, quantize
from edgekit.compress.simplify import Simplified, clean, simplify, total_macs, total_parameters

__all__ = [
    "QuantizeOptions",
    "Simplified",
    "clean",
    "quantize",
    "simplify",
    "total_macs",
    "total_parameters",
]
