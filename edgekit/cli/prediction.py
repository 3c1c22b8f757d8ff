"""The commands ``calibrate``, ``predict`` and ``configs``."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekit.cli.common import (
    Calibration,
    Data,
    DeviceName,
    Engine,
    InputShape,
    Json,
    Model,
    Optimize,
    TargetName,
    app,
    emit,
    progress,
    shapes_of,
)


@app.command()
def calibrate(
    target: TargetName,
    device: DeviceName = None,
    engine: Engine = "auto",
    optimize: Optimize = "balanced",
    quick: Annotated[
        bool, typer.Option("--quick", help="a few layers an operator: seconds, and wide error bars")
    ] = False,
    json: Json = False,
) -> None:
    """Measure layers on a device and fit the latency models that 'predict' and 'search' use."""
    from edgekit import api, display_predict

    document = api.calibrate(
        target, device=device, engine=engine, optimize=optimize, quick=quick, progress=progress
    )
    emit(document, json, display_predict.calibrated)


@app.command()
def predict(
    model: Model,
    target: TargetName,
    device: DeviceName = None,
    engine: Engine = "auto",
    optimize: Optimize = "balanced",
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """What a model will cost on a calibrated device, layer by layer, without compiling it."""
    from edgekit import api, display_predict

    document = api.predict(
        model,
        target,
        device=device,
        engine=engine,
        optimize=optimize,
        input_shapes=shapes_of(input_shape),
    )
    emit(document, json, display_predict.predicted)


@app.command()
def configs(
    model: Model,
    target: Annotated[
        str, typer.Option("--target", "-t", help="target names, with commas between")
    ],
    data: Data,
    prefer: Annotated[
        str, typer.Option("--prefer", help="what makes one best: latency, flash or ram")
    ] = "latency",
    samples: Annotated[int, typer.Option("--samples", min=1, help="for accuracies")] = 100,
    calibration_samples: Calibration = 200,
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """One model, many targets: the best configuration for each, side by side."""
    from edgekit import api, display_predict

    document = api.configs(
        model,
        target.split(","),
        data,
        prefer=prefer,
        samples=samples,
        calibration_samples=calibration_samples,
        input_shapes=shapes_of(input_shape),
        progress=progress,
    )
    emit(document, json, display_predict.configurations)
