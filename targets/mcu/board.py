"""Artifacts on a board whose firmware holds the model (:class:`edgekit.devices.base.ModelBoard`): run,
trace and profile. The firmware has to be the artifact's own; where the device can be flashed it is
built and flashed when it is not."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.devices.base import Kind, Lap, ModelBoard
from edgekit.errors import DeviceError
from edgekit.export.firmware import model_id
from edgekit.graph.ir import Graph
from edgekit.profile import measure
from edgekit.targets.base import LayerProfile, Profile, Progress

from .profile import layer_row, memory_of


def ready(artifact: Any, board: ModelBoard, progress: Progress | None = None) -> None:
    """Make sure that the board's firmware is the artifact's; DeviceError when it cannot be."""
    wanted = model_id(artifact)
    found: str | None = None
    try:
        found = board.model_id()
    except DeviceError:
        if not board.can_flash:
            raise
    if found == wanted:
        return
    if not board.can_flash:
        raise DeviceError(
            f"{board.name} runs the firmware of another model ({found}, not {wanted}); export this "
            "artifact with --as mlperf-tiny and flash it, or name a flash command in devices.yaml"
        )
    from edgekit import export

    if progress:
        progress(f"building firmware and flashing {board.name}")
    with tempfile.TemporaryDirectory(prefix="edgekit-flash-") as folder:
        out = Path(folder) / "firmware"
        export.write(artifact, "mlperf-tiny", out)
        board.flash(out / "firmware.elf")
    if board.model_id() != wanted:
        raise DeviceError(
            f"{board.name} still runs other firmware ({board.model_id()}, not {wanted}) after flashing"
        )


def run_samples(
    artifact: Any, board: ModelBoard, inputs: Sequence[Sequence[bytes]], progress: Progress | None
) -> bytes:
    """All outputs of each sample, one after the other. inputs: for each sample the bytes of each input."""
    ready(artifact, board, progress)
    graph: Graph = artifact.graph
    found = []
    for k, sample in enumerate(inputs):
        if progress and k % 20 == 0:
            progress(f"sample {k + 1} of {len(inputs)} on {board.name}")
        board.load(sample)
        board.infer()
        found += [board.output(o) for o in range(len(graph.outputs))]
    return b"".join(found)


def trace_samples(
    artifact: Any, board: ModelBoard, inputs: Sequence[Sequence[bytes]]
) -> list[list[tuple[int, int, bytes]]]:
    """For each sample (layer, output, bytes) in order of execution."""
    ready(artifact, board)
    traces = []
    for sample in inputs:
        board.load(sample)
        traces.append(board.trace())
    return traces


def measure_board(artifact: Any, board: ModelBoard, sample: Sequence[bytes]) -> Profile:
    """Time of one inference by the board's clock (:mod:`edgekit.profile.measure`), and of each layer;
    where the clock counts an emulator's instructions, those instead, the same as by direct emulation."""
    ready(artifact, board)
    board.load(sample)
    first, nothing = board.laps(1)
    simulated = board.ticks_to_instructions(first[0], nothing)
    if simulated is None:
        return _timed(artifact, board, nothing)
    layers = []
    for row, ticks in zip(artifact.manifest["plan"], board.layer_laps(), strict=True):
        count = board.ticks_to_instructions(Lap(ticks), nothing)
        layers.append(layer_row(row, instructions=max(0, count or 0)))
    # The empty function's own instruction, and the call of the marker behind an inference: what lies
    # between the same two places as on a virtual device.
    return _profile(
        artifact,
        board,
        layers,
        {"instructions": "simulated"},
        {"layers": "each within a few instructions"},
        instructions=simulated + 2,
    )


def _timed(artifact: Any, board: ModelBoard, nothing: Lap) -> Profile:
    hz = board.clock_hz()

    def take(n: int) -> measure.Taken:
        laps, empty = board.laps(n)
        return measure.Taken([max(1, round((x.ticks - empty.ticks) / hz * 1e9)) for x in laps])

    found = measure.collect(board, take)  # type: ignore[arg-type]
    layers = [
        layer_row(row, time_ms=max(0, ticks - nothing.ticks) / hz * 1e3)
        for row, ticks in zip(artifact.manifest["plan"], board.layer_laps(), strict=True)
    ]
    return _profile(
        artifact,
        board,
        layers,
        {"latency_ms": "measured", "cycles": "measured", "time_ms": "measured"},
        measure.figures(found),
        cycles=round(found.median_ms * hz / 1e3),
        latency_ms=found.median_ms,
    )


def _profile(
    artifact: Any,
    board: ModelBoard,
    layers: Sequence[LayerProfile],
    kinds: Mapping[str, Kind],
    details: Mapping[str, Any],
    instructions: int | None = None,
    cycles: int | None = None,
    latency_ms: float | None = None,
) -> Profile:
    manifest = artifact.manifest
    info = board.info()
    return Profile(
        device=board.name,
        target=artifact.target.name,
        engine=manifest["engine"],
        kind=info.kind,
        instructions=instructions,
        cycles=cycles,
        latency_ms=latency_ms,
        memory=memory_of(manifest, board.stack_bytes()),
        layers=layers,
        kinds=kinds,
        tools=dict(manifest["tools"]),
        details={**details, "device": dict(info.details)},
    )
