"""What one inference costs: Vela's estimate, and the CPU's share from the host core's own engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.devices.base import Kind
from edgekit.targets.base import LayerProfile, Profile

from .config import NpuTarget
from .cpu import CpuCosts, cost
from .outputs import Outputs

_AREAS = ("sram", "dram", "on_chip_flash", "off_chip_flash")


def memory_of(outputs: Outputs, npu: NpuTarget) -> dict[str, Any]:
    """The memory map of the manifest, in bytes.

    ``flash_bytes``: what Vela puts into flash; in a system that keeps constants in DRAM, the
    optimised file, which has to be stored somewhere. ``ram_bytes``: SRAM and DRAM.
    """
    used = {f"{a}_bytes": round(1024 * outputs.number(f"{a}_memory_used")) for a in _AREAS}
    flash = used["on_chip_flash_bytes"] + used["off_chip_flash_bytes"]
    return {
        **used,
        "flash_bytes": flash or len(outputs.tflite),
        "flash_bytes_are": "constants in flash" if flash else "the optimised .tflite",
        "ram_bytes": used["sram_bytes"] + used["dram_bytes"],
        "model_bytes": len(outputs.tflite),
        "weights_bytes": round(outputs.number("total_npu_encoded_weights")),
        "flash_available": npu.flash_bytes,
        "ram_available": None if used["dram_bytes"] else npu.sram_bytes,
    }


def profile(artifact: Any, device: str, summary: Mapping[str, Any], npu: NpuTarget) -> Profile:
    """Cycles are of the NPU's clock, the CPU's converted to it, so that layers add up to the total.

    ``details.complete`` is False when a node on the CPU could not be costed: the latency is then
    that of the rest, and ``details.cpu.missing`` says why.
    """
    manifest = artifact.manifest
    plan, details = manifest["plan"], manifest["details"]
    on_cpu = [r["name"] for r in plan if r["details"]["placement"] == "cpu"]
    costs = cost(artifact.graph, on_cpu, npu)
    npu_clock, cpu_clock = npu.config.npu_clock_hz, npu.target.core.clock_hz
    npu_cycles = round(float(summary["cycles_total"]))
    npu_ms = 1e3 * float(summary["inference_time"])
    cpu_ms = 1e3 * costs.cycles / cpu_clock
    layers = [_layer(row, costs, npu_clock / cpu_clock) for row in plan]
    layers += [
        LayerProfile(
            name=r["name"], op=r["op"], macs=0, cycles=r["cycles"], details={"variant": "npu"}
        )
        for r in details.get("unattributed", ())
    ]
    kinds: dict[str, Kind] = {"cycles": "estimated", "latency_ms": "estimated"}
    if on_cpu:
        kinds["instructions"] = "simulated"
    return Profile(
        device=device,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind="estimated",
        instructions=None,
        cycles=npu_cycles + sum(_converted(c.cycles, npu_clock / cpu_clock) or 0
                                for c in costs.nodes.values()),
        latency_ms=npu_ms + cpu_ms,
        memory={
            k: int(v)
            for k, v in manifest["memory"].items()
            if k.endswith("_bytes") and isinstance(v, int)
        },
        layers=layers,
        kinds=kinds,
        tools={**manifest["tools"], **costs.tools},
        details={
            "accelerator": details["accelerator"],
            "system_config": details["system_config"],
            "memory_mode": details["memory_mode"],
            "optimise": details["optimise"],
            "clock_hz": npu_clock,
            "operators": details["operators"],
            "complete": costs.complete,
            "npu": {"latency_ms": npu_ms, "cycles": npu_cycles, "macs": summary["nn_macs"]},
            "cpu": {
                "latency_ms": cpu_ms if costs.complete else None,
                "cycles": costs.cycles if costs.complete else None,
                "clock_hz": cpu_clock,
                "target": npu.config.host_target,
                "device": costs.device,
                "missing": dict(costs.missing),
            },
            "not_included": "starting the NPU, cache maintenance, and the host's own overhead",
            "source": "Vela's performance model; no silicon was measured",
        },
    )  # fmt: skip


def _converted(cycles: int | None, ratio: float) -> int | None:
    return None if cycles is None else round(cycles * ratio)


def _layer(row: Mapping[str, Any], costs: CpuCosts, ratio: float) -> LayerProfile:
    placed = row["details"]
    details: dict[str, Any] = {
        "variant": row["variant"],
        "placement": placed["placement"],
        "flash_bytes": row["flash_bytes"],
        "input_shapes": row["input_shapes"],
        "output_shapes": row["output_shapes"],
    }
    name = row["name"]
    cpu = costs.nodes.get(name)
    instructions, cycles = None, placed["npu_cycles"]
    if placed["placement"] == "cpu":
        details["reason"] = placed["reason"]
        instructions, cycles = None, None
        if cpu is not None:
            instructions = cpu.instructions
            own = cpu.cycles
            cycles = _converted(own, ratio)
            details["cpu_cycles"] = own
        if name in costs.missing:
            details["not_costed"] = costs.missing[name]
    return LayerProfile(
        name=name,
        op=row["op"],
        macs=row["macs"],
        instructions=instructions,
        cycles=cycles,
        details=details,
    )
