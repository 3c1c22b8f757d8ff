"""4-bit weights for cores with the DSP extension (``kernels/include/ek_dsp_lowbit.h``).

FULLY_CONNECTED: six outputs at a time, weights unpacked in registers; a CONV_2D whose kernel covers its
whole input, unpadded, is one too. CONV_2D: a block of output channels unpacked at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from edgekit.graph import numerics as nm
from edgekit.graph.ir import Graph, Node
from edgekit.targets.schema import Target

from ..contract import ConstArray, KernelCall
from .dsp_common import initializer, pack, quant_const, reject_common, reject_weights, wrap32
from .dsp_conv import DspConv, scratch_limit
from .dsp_fc import _quant, covers_input, layer_of
from .lowbit_codes import Codes, as_int8, is_low_bit, numbers, weights_of
from .lowbit_ref import RefCodes, four_bits

OUTPUTS = 6
#: The kernel holds 16 times the sum in 32 bits.
LIMIT = 1 << 27
#: Weights (of eight) in the high and low halves of a word's bytes.
_HIGH, _LOW = (0, 4, 2, 6), (1, 5, 3, 7)


def pack_s4(w: np.ndarray) -> np.ndarray:
    """``[O, K]`` weights in -8..7 as uint8 ``[O / 6][K / 8][6][4]``, rounded up with zeros."""
    w = np.asarray(w, np.int64)
    w = np.pad(w, ((0, -w.shape[0] % OUTPUTS), (0, -w.shape[1] % 8)))
    w = w.reshape(w.shape[0] // OUTPUTS, OUTPUTS, -1, 8)
    data = 16 * w[..., _HIGH] + w[..., _LOW] + 8
    return (
        np.ascontiguousarray(data.transpose(0, 2, 1, 3)).astype(np.int8).view(np.uint8).reshape(-1)
    )


@dataclass(frozen=True)
class DspFullyConnectedS4:
    """lean: the input is widened for each six outputs anew, instead of once into scratch."""

    op: str
    lean: bool
    rank: int

    @property
    def name(self) -> str:
        return f"fully_connected_s4_{'lean_' if self.lean else ''}dsp"

    def concerns(self, node: Node, graph: Graph) -> bool:
        return is_low_bit(node, graph)

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target)
        if reason is not None:
            return reason
        t = weights_of(node, graph)
        if t is None or t.data is None or not numbers(t.data):
            return "the weights are no numbers of 4 bits"
        wide = as_int8(node, graph)
        reason = reject_weights(node, wide)
        if reason is None and node.type == "CONV_2D":
            reason = covers_input(node, wide)
        if reason is not None:
            return reason
        layer = layer_of(node, wide)
        top = int(layer.worst.max(initial=0))
        if top >= LIMIT:
            return f"sums may reach {top}, and 16 times the sum has to fit 32 bits"
        scratch, limit = self._scratch(layer.w.shape[1]), scratch_limit(target)
        if limit is not None and scratch > limit:
            return f"it needs {scratch} bytes of scratch; at most {limit} are spent on it"
        return None

    def _scratch(self, inputs: int) -> int:
        return 0 if self.lean else -(-inputs // 8) * 16

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        wide = as_int8(node, graph)
        x, w, y = wide.tensor(node.inputs[0]), wide.tensor(node.inputs[1]), graph.outs(node)[0]
        assert w.quant is not None
        layer = layer_of(node, wide)
        per_tensor = w.quant.scale.size == 1
        o, k = layer.w.shape
        act_min, act_max = nm.activation_range(node.attrs["activation"], y.quant, "int8")
        fc = initializer(
            {
                "rows": x.elements // k,
                "in_c": k,
                "out_c": o,
                "out_zp": layer.out_zp,
                "act_min": act_min,
                "act_max": act_max,
            }
        )
        return KernelCall(
            variant=self.name,
            sources=(f"dsp/{self.name}.c", f"dsp/mac_s4_6x1_{'bytes_' if self.lean else ''}dsp.c"),
            header="ek_dsp_lowbit.h",
            params_type="ek_fc_dsp_params",
            params=f"{{ .fc = {fc}, .quant_step = {int(not per_tensor)} }}",
            call=(
                f"ek_{self.name}(&{{p}}, {{in0}}, {{c.codes}}, {{c.bias}}, "
                "(const ek_dsp_quant *)(const void *){c.quant}, {out0}, {scratch});"
            ),
            consts=(
                ConstArray("codes", "uint8_t", pack_s4(layer.w)),
                ConstArray("bias", "int32_t", wrap32(layer.bias)),
                quant_const(_quant(layer, per_tensor)),
            ),
            scratch_bytes=self._scratch(k),
            details={"fast_requant": bool(layer.fast().all())},
        )


@dataclass(frozen=True)
class DspConvS4:
    """block: output channels that are unpacked at a time."""

    block: int
    rank: int
    op: str = "CONV_2D"

    @property
    def name(self) -> str:
        return f"conv2d_s4_blocks_{self.block}_dsp"

    _like: ClassVar[DspConv] = DspConv("CONV_2D", "halfword", 0)

    def concerns(self, node: Node, graph: Graph) -> bool:
        return is_low_bit(node, graph)

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        t = weights_of(node, graph)
        if t is None or t.data is None or not numbers(t.data):
            return "the weights are no numbers of 4 bits"
        reason = self._like.reject(node, as_int8(node, graph), target)
        if reason is None and t.shape[0] <= self.block:
            reason = f"{t.shape[0]} output channels: no more than are unpacked at a time"
        return reason

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        wide = as_int8(node, graph)
        call = self._like.lower(node, wide, target)
        t = weights_of(node, graph)
        assert t is not None and t.data is not None
        w = t.data.reshape(t.shape[0], -1)
        taps = -(-w.shape[1] // 4) * 4
        rest = len(w) % self.block or self.block

        def with_outputs(n: int) -> str:
            return (call.params or "").replace(f".out_c = {len(w)},", f".out_c = {n},")

        # what ek_conv2d_s8_halfword_dsp reads, but for the form: pairs of channels in whole words
        values = pack(w, 2, False).reshape(1, -1)
        consts = [c for c in call.consts if c.name != "weights"]
        return replace(
            call,
            variant=self.name,
            sources=(
                "dsp/conv2d_s4_blocks_dsp.c",
                "dsp/mac_s8_2x4_halfword_dsp.c",
                "ref/unpack_s4_ref.c",
            ),
            header="ek_dsp_lowbit.h",
            params_type="ek_conv_blocks_params",
            params=f"{{ .block = {with_outputs(self.block)}, .last = {with_outputs(rest)}, "
            f".out_c = {len(w)} }}",
            call=(
                "ek_conv2d_s4_blocks_dsp(&{p}, {in0}, {c.codes}, "
                "(const ek_dsp_quant *)(const void *){c.quant}, {out0}, {scratch});"
            ),
            consts=(ConstArray("codes", "uint8_t", Codes(4, None).pack(values)[0]), *consts),
            scratch_bytes=call.scratch_bytes + self.block * taps,
        )


@dataclass(frozen=True)
class DspFullyConnectedW4:
    """The portable kernel's constants, looked up two codes at a time."""

    name: str = "fully_connected_w4_dsp"
    op: str = "FULLY_CONNECTED"
    rank: int = 40

    _like: ClassVar[RefCodes] = RefCodes("fully_connected_w4_ref", "FULLY_CONNECTED", 0)

    def concerns(self, node: Node, graph: Graph) -> bool:
        return is_low_bit(node, graph)

    def reject(self, node: Node, graph: Graph, target: Target) -> str | None:
        reason = reject_common(node, graph, target) or self._like.reject(node, graph, target)
        if reason is not None:
            return reason
        if four_bits(node, graph)[1].table is None:
            return "the weights are numbers: no table is needed"
        scratch, limit = self._scratch(node, graph), scratch_limit(target)
        if limit is not None and scratch > limit:
            return f"it needs {scratch} bytes of scratch; at most {limit} are spent on it"
        return None

    @staticmethod
    def _scratch(node: Node, graph: Graph) -> int:
        return 1024 + -(-graph.tensor(node.inputs[1]).shape[1] // 8) * 16

    def lower(self, node: Node, graph: Graph, target: Target) -> KernelCall:
        call = self._like.lower(node, graph, target)
        return replace(
            call,
            variant=self.name,
            sources=(f"dsp/{self.name}.c",),
            header="ek_dsp_lowbit.h",
            call=call.call.replace("_ref(", "_dsp(").replace("{out0})", "{out0}, {scratch})"),
            scratch_bytes=self._scratch(node, graph),
        )


VARIANTS: list[DspConvS4 | DspFullyConnectedS4 | DspFullyConnectedW4] = [
    DspFullyConnectedW4(),
    DspConvS4(16, 26),
    DspConvS4(8, 27),
    DspFullyConnectedS4("FULLY_CONNECTED", False, 14),
    DspFullyConnectedS4("FULLY_CONNECTED", True, 15),
    DspFullyConnectedS4("CONV_2D", False, 6),
    DspFullyConnectedS4("CONV_2D", True, 7),
]
