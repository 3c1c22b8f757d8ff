"""The command ``tune``: kernels measured on a device before they are compiled."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli.common import (
    Calibration,
    DeviceName,
    Engine,
    InputShape,
    Json,
    MaybeData,
    Model,
    Simplify,
    TargetName,
    app,
    emit,
    progress,
    shapes_of,
)


@app.command()
def tune(
    model: Model,
    target: TargetName,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="candidates a kernel has on record afterwards")
    ] = 12,
    device: DeviceName = None,
    engine: Engine = "auto",
    data: MaybeData = None,
    simplify: Simplify = True,
    calibration_samples: Calibration = 200,
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """Measure candidates for a model's kernels on a device; compile and deploy find the best ones."""
    from edgekit import api, display

    document = api.tune(
        model,
        target,
        trials=trials,
        engine=engine,
        device=device,
        data=data,
        simplify=simplify,
        calibration_samples=calibration_samples,
        input_shapes=shapes_of(input_shape),
        progress=progress,
    )
    emit(document, json, display.tuned)
