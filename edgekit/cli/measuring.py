"""The command ``compare``: two artifacts in turn on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.common import (
    CoolSecs,
    Cpu,
    DeviceName,
    Json,
    MaybeData,
    NumRuns,
    WarmupRuns,
    app,
    emit,
    progress,
    protocol_of,
)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="an artifact folder")],
    b: Annotated[Path, typer.Argument(help="another one")],
    device: DeviceName = None,
    data: MaybeData = None,
    num_runs: NumRuns = 10,
    warmup_runs: WarmupRuns = 3,
    max_secs: Annotated[
        float, typer.Option("--max-secs", help="stop after about so long, both together")
    ] = 20.0,
    cpu: Cpu = None,
    cool_secs: CoolSecs = 0.0,
    json: Json = False,
) -> None:
    """Measure two artifacts in turn on one device: the ratio, with its interval."""
    from edgekit import api, display

    how = protocol_of(num_runs, warmup_runs, max_secs, cpu, cool_secs)
    document = api.compare(a, b, device=device, data=data, protocol=how, progress=progress)
    emit(document, json, display.comparison)
