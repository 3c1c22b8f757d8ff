"""A folder made by :mod:`.build` on a device: pushed, run, timed and counted through the device
contract, so that any device that runs programs will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device, Kind
from edgekit.errors import DeviceError
from edgekit.profile.measure import Taken, taken
from edgekit_targets.mcu.profile import execute
from edgekit_targets.tvm_.runner import by_row, calls_of

PROGRAM = "runner"
MODEL = "model.so"
#: Kernels whose instructions can be told apart (``MAX_CALLS`` of the runner).
MOST_CALLS = 512
_BEGIN, _END, _BETWEEN = "ek_marker_begin", "ek_marker_end", "ek_marker_between"


def kind_of(device: Device) -> Kind:
    return device.info().kind


def record_name(device: Device) -> str:
    """What tuning records are kept for: the transport and the processor behind it."""
    info = device.info()
    return f"{info.transport} ({info.details.get('cpu', 'cpu not known')})"


def push(device: Device, files: Mapping[str, Path], data: bytes) -> None:
    """files: name on the device -> local file. data: the samples."""
    for name, path in files.items():
        device.push(path, name)
    device.push_bytes(data, "in.bin")


def _pairs(device: Device, *arguments: str) -> list[tuple[str, str]]:
    text = execute(device, PROGRAM, arguments).stdout
    return [(k, v) for k, eq, v in (line.partition("=") for line in text.splitlines()) if eq]


def times(device: Device, repeats: int) -> Taken:
    """``repeats`` inferences of the first sample, each timed, after a warm-up."""
    args = ("time", "in.bin", str(repeats))
    return taken(execute(device, PROGRAM, args).stdout, repeats)


def layer_times(device: Device, calls: Sequence[str], repeats: int) -> np.ndarray:
    """Nanoseconds ``[repeats, calls]`` of every kernel call. calls: their names in order."""
    pairs = _pairs(device, "layers", "in.bin", str(repeats))
    names = [v for k, v in pairs if k == "layer"]
    if names != list(calls) * repeats:
        raise DeviceError("the test program called other kernels than the plan names")
    stamps = np.array([int(v) for k, v in pairs if k == "layer_ns"], np.int64)
    return stamps.reshape(repeats, len(calls))


def counts(device: Device, calls: Sequence[str]) -> tuple[int, list[int | None]] | None:
    """Executed instructions of one inference, and of each kernel call in it; None where the device
    counts nothing. Calls beyond :data:`MOST_CALLS` are not told apart."""
    markers = [f"ek_call_{k:03o}" for k in range(min(len(calls), MOST_CALLS))]
    sections = (_BEGIN, _END, _BETWEEN, *markers)
    done = execute(device, PROGRAM, ("profile", "in.bin"), sections)
    if done.trace is None:
        return None
    names = [x.removeprefix("call=") for x in done.stdout.splitlines() if x.startswith("call=")]
    if names != list(calls)[:MOST_CALLS]:
        raise DeviceError("the test program called other kernels than the plan names")
    found = {c.name: c.instructions for c in done.trace.sections}
    each = [found.get(m) for m in markers]
    return found[_BEGIN], [*each, *[None] * (len(calls) - len(markers))]


def measure(
    device: Device, repeats: int = 100
) -> Callable[[Path, Sequence[Mapping[str, Any]]], dict[str, float]]:
    """What :func:`edgekit_targets.tvm_.tune.tune_model` measures with: the least milliseconds of each
    kernel on real silicon, else its executed instructions. All but the library is there already.
    DeviceError where the device can do neither."""

    def cost(library: Path, plan: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        device.push(library, MODEL)
        calls = calls_of(plan)
        values: list[float | None]
        if kind_of(device) == "measured":
            values = list(layer_times(device, calls, repeats).min(axis=0) / 1e6)
        else:
            found = counts(device, calls)
            if found is None:
                raise DeviceError(
                    f"{device.name} has no clock and counts no instructions here, so that there is "
                    "nothing to tune by; the package qemu-user has a QEMU that counts"
                )
            values = [None if v is None else float(v) for v in found[1]]
        sums: dict[str, float] = {}
        for row, mine in zip(plan, by_row(plan, values), strict=True):
            for name, value in zip(row["functions"], mine, strict=True):
                if value is not None:
                    sums[name] = sums.get(name, 0.0) + float(value)
        return sums

    return cost
