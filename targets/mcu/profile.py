"""What one inference costs: counted on a virtual device, timed on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.devices.base import Count, Device, Kind, RunRequest, RunResult
from edgekit.errors import DeviceError
from edgekit.graph.ir import Graph
from edgekit.profile import measure
from edgekit.targets.base import LayerProfile, Profile

INVOKE = "edgekit_model_invoke"
END = "ek_marker_end"
HOST_REPEATS = (3, 50)  #: fewest and most inferences of the instrumented program
LAYERS_BUDGET_MS = 1000.0


def runner_error(text: str) -> DeviceError:
    return DeviceError(f"the test program {text}; compile the artifact again")


def execute(
    device: Device, program: str, args: tuple[str, ...], sections: Sequence[str] = ()
) -> RunResult:
    """Run the test program; DeviceError with its own words when it fails."""
    result = device.run(
        RunRequest(
            program=program,
            args=args,
            timeout_s=1800.0,
            max_instructions=2_000_000_000_000,
            trace=bool(sections),
            sections=tuple(sections),
        )
    )
    if result.exit_code != 0:
        words = [
            line.removeprefix("error=")
            for line in result.stdout.splitlines()
            if line.startswith("error=")
        ]
        raise DeviceError(
            f"the test program on {device.name} ended with code {result.exit_code}: "
            f"{words[-1] if words else 'it said nothing'}"
        )
    return result


def values(stdout: str) -> dict[str, int]:
    """The ``key=value`` lines of the runner."""
    found = {}
    for line in stdout.splitlines():
        key, equals, value = line.partition("=")
        if equals and value.isdigit():
            found[key] = int(value)
    return found


def fixed_pattern(graph: Graph) -> list[np.ndarray]:
    """One sample that is the same everywhere and exercises the whole range of each input."""
    rng = np.random.default_rng(0)
    sample = []
    for name in graph.inputs:
        t = graph.tensor(name)
        shape = t.shape if t.shape[:1] == (1,) else (1, *t.shape)
        if t.is_float:
            sample.append(rng.standard_normal(shape).astype(t.dtype))
        elif t.dtype == "bool":
            sample.append(rng.integers(0, 2, shape).astype(bool))
        else:
            info = np.iinfo(t.dtype)
            sample.append(rng.integers(info.min, info.max, shape, t.dtype, endpoint=True))
    return sample


def memory_of(manifest: dict[str, Any], stack: int) -> dict[str, int]:
    m = manifest["memory"]
    return {
        "flash_bytes": int(m["flash_bytes"]),
        "ram_bytes": int(m["static_ram_bytes"]) + stack,
        "code_bytes": int(m["code_bytes"]),
        "constants_bytes": int(m["constants_bytes"]),
        "weights_bytes": int(m["weights_bytes"]),
        "arena_bytes": int(m["arena_bytes"]),
        "scratch_bytes": int(m["scratch_bytes"]),
        "data_bss_bytes": int(m["data_bss_bytes"]),
        "stack_bytes": stack,
    }


def layer_row(row: dict[str, Any], **figures: Any) -> LayerProfile:
    return LayerProfile(
        name=row["name"],
        op=row["op"],
        macs=row["macs"],
        details={
            "variant": row["variant"],
            "flash_bytes": row["flash_bytes"],
            "scratch_bytes": row["scratch_bytes"],
            "input_shapes": row["input_shapes"],
            "output_shapes": row["output_shapes"],
        },
        **figures,
    )


def count_virtual(artifact: Any, device: Device, data: bytes) -> Profile:
    """Instructions by layer, exact; cycles from the core's timing table; latency from both.

    A layer's section reaches from its entry to the next layer's: the few instructions of
    ``edgekit_model_invoke`` between two layers count for the first one.
    """
    manifest = artifact.manifest
    program = manifest["details"]["program"]
    rows = manifest["plan"]
    symbols = [row["symbol"] for row in rows if row["symbol"]]
    device.push(artifact.file(program), program)
    device.push_bytes(data, "in.bin")
    result = execute(device, program, ("profile", "in.bin"), [INVOKE, *symbols, END])
    trace = result.trace
    if trace is None:
        return _uncounted(artifact, device, result)
    sections: dict[str, Count] = {c.name: c for c in trace.sections}
    inside = [sections[s] for s in (INVOKE, *symbols) if s in sections]
    instructions = sum(c.instructions for c in inside)
    timing = artifact.target.timing
    scale = timing.scale if timing else 1.0
    has_cycles = trace.cycles is not None

    def scaled(cycles: int) -> int | None:
        return round(cycles * scale) if has_cycles else None

    core_cycles = sum(c.cycles for c in inside) if has_cycles else None
    cycles = scaled(core_cycles or 0)
    layers = []
    for row in rows:
        nothing = Count("", 0, 0)
        count = sections.get(row["symbol"], nothing) if row["symbol"] else nothing
        layers.append(layer_row(row, instructions=count.instructions, cycles=scaled(count.cycles)))
    kinds: dict[str, Kind] = {"instructions": "simulated"}
    latency = None
    if cycles is not None:
        kinds |= {"cycles": "estimated", "latency_ms": "estimated"}
        latency = 1e3 * cycles / artifact.target.core.clock_hz
    stack = values(result.stdout).get("stack_bytes", 0)
    return Profile(
        device=device.name,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind="simulated",
        instructions=instructions,
        cycles=cycles,
        latency_ms=latency,
        memory=memory_of(manifest, stack),
        layers=layers,
        kinds=kinds,
        tools={**manifest["tools"], "emulator": trace.backend},
        details={
            "core": trace.core,
            "timing_table": trace.timing,
            "core_cycles": core_cycles,
            "cycle_scale": scale,
            "cycle_scale_source": timing.source if timing else None,
            "clock_hz": artifact.target.core.clock_hz,
            "functions": [
                {"name": f.name, "instructions": f.instructions, "calls": f.calls}
                for f in trace.functions[:20]
            ],
        },
    )


def _uncounted(artifact: Any, device: Device, result: RunResult) -> Profile:
    """A device that cannot count: the figures are absent, memory is still known."""
    manifest = artifact.manifest
    return Profile(
        device=device.name,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind=device.info().kind,
        instructions=None,
        cycles=None,
        latency_ms=None,
        memory=memory_of(manifest, values(result.stdout).get("stack_bytes", 0)),
        layers=[layer_row(row) for row in manifest["plan"]],
        tools=dict(manifest["tools"]),
        details={
            "absent": f"device '{device.name}' counts no instructions here",
            "device": dict(device.info().details),
        },
    )


def measure_host(artifact: Any, device: Device, data: bytes) -> Profile:
    """Median wall-clock of one inference, and of each layer (from a second, instrumented program:
    the layers' sum is a little more than the whole)."""
    manifest = artifact.manifest
    details = manifest["details"]
    for name in (details["program"], details["trace_program"]):
        device.push(artifact.file(name), name)
    device.push_bytes(data, "in.bin")

    def take(repeats: int) -> measure.Taken:
        args = ("time", "in.bin", str(repeats))
        return measure.taken(execute(device, details["program"], args).stdout, repeats)

    found = measure.collect(device, take)
    rows = manifest["plan"]
    layers = [layer_row(row) for row in rows]
    if measure.current().layers:
        repeats = int(np.clip(LAYERS_BUDGET_MS / found.median_ms, *HOST_REPEATS))
        args = ("time", "in.bin", str(repeats))
        traced = execute(device, details["trace_program"], args).stdout
        layers = _timed_layers(rows, traced, repeats)
    return Profile(
        device=device.name,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind="measured",
        instructions=None,
        cycles=None,
        latency_ms=found.median_ms,
        memory=memory_of(manifest, 0),
        layers=layers,
        kinds={"latency_ms": "measured", "time_ms": "measured"},
        tools=dict(manifest["tools"]),
        details={**measure.figures(found), "device": dict(device.info().details)},
    )


def _timed_layers(rows: Sequence[dict[str, Any]], traced: str, repeats: int) -> list[LayerProfile]:
    """Median milliseconds of each layer from what the instrumented program printed."""
    which, spent = measure.numbers(traced, "layer"), measure.numbers(traced, "layer_ns")
    per_layer: list[list[int]] = [[] for _ in rows]
    if len(which) != len(spent) or any(layer >= len(rows) for layer in which):
        raise runner_error("timed other layers than the plan names")
    for layer, ns in zip(which, spent, strict=True):
        per_layer[layer].append(ns)
    layers = []
    for row, stamps in zip(rows, per_layer, strict=True):
        # A layer with several outputs is stamped once for each: add the parts up.
        parts = max(1, len(stamps) // repeats)
        runs = np.asarray(stamps[: parts * repeats], np.float64).reshape(-1, parts).sum(axis=1)
        layers.append(layer_row(row, time_ms=float(np.median(runs)) / 1e6 if runs.size else 0.0))
    return layers
