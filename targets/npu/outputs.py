"""What Vela wrote: the optimised .tflite, the summary, the per-layer table, and its warnings."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekit.formats.tflite_flat import parse

NPU_OPERATOR = "ethos-u"
#: Columns of the per-layer table that are used; the last one is the name and may hold commas.
_COLUMNS = ("Original Operator", "NNG Operator", "Target", "Op Cycles", "MAC Count", "Name")
_NEEDED = ("inference_time", "cycles_total", "core_clock", "sram_memory_used", "nn_macs")
_WARNING = re.compile(r"Warning \(supported operators\) operator: (\w+), ofm: '(.*)'\s*$")


class Unusable(Exception):
    """What is there is not what Vela writes when it has worked."""


@dataclass(frozen=True)
class Row:
    """One line of the per-layer table. name: of the operator's result, often with a suffix."""

    source_op: str
    op: str
    on_npu: bool
    cycles: int
    macs: int
    name: str


@dataclass(frozen=True)
class Remaining:
    """An operator of the optimised file that is no command stream: the CPU runs it."""

    op: str
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Outputs:
    """tflite: the optimised file. streams: NPU command streams in it. remaining: its other
    operators. summary: Vela's own keys (KiB, seconds, cycles). rows: None when there is no table
    of layers. reasons: (result's name, operator) -> lines of why it is not on the NPU."""

    tflite: bytes
    streams: int
    remaining: tuple[Remaining, ...]
    summary: Mapping[str, float | str | None]
    rows: tuple[Row, ...] | None
    reasons: Mapping[tuple[str, str], tuple[str, ...]]

    def number(self, key: str) -> float:
        value = self.summary.get(key)
        return float(value) if isinstance(value, (int, float)) else 0.0


def read_outputs(folder: Path, model: str, stdout: str) -> Outputs:
    """Raises Unusable, or FormatError for an optimised file that is malformed."""
    optimised = folder / f"{model}_vela.tflite"
    if not optimised.is_file():
        raise Unusable("there is no optimised model")
    data = optimised.read_bytes()
    raw = parse(data)
    streams = [o for o in raw.operators if o.custom and o.type == NPU_OPERATOR]
    remaining = tuple(
        Remaining(o.type, tuple(raw.tensors[i].name for i in o.outputs if i >= 0))
        for o in raw.operators
        if not (o.custom and o.type == NPU_OPERATOR)
    )
    return Outputs(
        data,
        len(streams),
        remaining,
        _summary(folder, model),
        _rows(folder / f"{model}_per-layer.csv"),
        reasons_in(stdout),
    )


def _summary(folder: Path, model: str) -> dict[str, float | str | None]:
    files = sorted(folder.glob(f"{model}_summary_*.csv"))
    if len(files) != 1:
        raise Unusable(f"there are {len(files)} summaries")
    lines = files[0].read_text("utf-8", "replace").splitlines()
    if len(lines) < 2:
        raise Unusable("the summary is empty")
    keys, values = lines[0].split(","), lines[1].split(",")
    if len(keys) != len(values):
        raise Unusable("the summary's line does not match its header")
    summary = {k: _value(v) for k, v in zip(keys, values, strict=True)}
    for key in _NEEDED:
        value = summary.get(key)
        if not isinstance(value, (int, float)) or value < 0:
            raise Unusable(f"the summary has no '{key}'")
    return summary


def _value(text: str) -> float | str | None:
    """A number where it is one; None for NaN and infinity, which JSON does not have."""
    try:
        number = float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        return None
    return int(number) if re.fullmatch(r"-?\d+", text.strip()) else number


def _rows(path: Path) -> tuple[Row, ...] | None:
    """None when the table is missing or not as expected: the totals stand without it."""
    if not path.is_file():
        return None
    lines = path.read_text("utf-8", "replace").splitlines()
    header = lines[0].split(",") if lines else []
    if not set(_COLUMNS) <= set(header) or header[-1] != "Name":
        return None
    at = {c: header.index(c) for c in _COLUMNS}
    rows = []
    for line in lines[1:]:
        cells = line.split(",", len(header) - 1)
        if len(cells) != len(header):
            return None
        try:
            cycles, macs = (round(float(cells[at[c]])) for c in ("Op Cycles", "MAC Count"))
        except (ValueError, OverflowError):
            return None
        rows.append(
            Row(
                cells[at["Original Operator"]],
                cells[at["NNG Operator"]],
                cells[at["Target"]].strip() == "NPU",
                cycles,
                macs,
                cells[at["Name"]].strip(),
            )
        )
    return tuple(rows)


def reasons_in(stdout: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Vela's warnings: the operators it refused (result's name, type) -> lines, the reason first."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    lines = stdout.splitlines()
    for k, line in enumerate(lines):
        match = _WARNING.search(line)
        if match is None:
            continue
        text = []
        for following in lines[k + 1 : k + 40]:
            if not following.strip() or following.startswith(("####", "Warning")):
                break
            text.append(following.strip())
        if text:
            text[0] = text[0].removeprefix("Reason:").strip()
            found.setdefault((match.group(2), match.group(1)), tuple(t for t in text if t))
    return found
