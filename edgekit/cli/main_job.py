"""The commands of the main job: inspect, compile, run, profile, verify, deploy, emulate, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.common import (
    BiasCorrection,
    Calibration,
    CoolSecs,
    Cpu,
    Data,
    DeviceName,
    Engine,
    Equalize,
    Folder,
    InputShape,
    Json,
    MaxSecs,
    MaybeData,
    Model,
    NumRuns,
    Observer,
    Optimize,
    Option,
    Percentile,
    PerChannel,
    Samples,
    Simplify,
    TargetName,
    Toolchain,
    Tune,
    WarmupRuns,
    app,
    compile_options,
    emit,
    progress,
    protocol_of,
    shapes_of,
    store,
)
from edgekit.errors import InputError


@app.command()
def inspect(model: Model, input_shape: InputShape = None, json: Json = False) -> None:
    """Operators, shapes, MACs, parameters, quantization, dead channels."""
    from edgekit import api, display

    emit(api.inspect(model, shapes_of(input_shape)), json, display.inspection)


@app.command()
def targets(
    name: Annotated[str | None, typer.Argument(help="show one target in full")] = None,
    json: Json = False,
) -> None:
    """What can be compiled for, what is usable on this machine, and why not."""
    from edgekit import api, display

    document = api.targets(name)
    emit(document, json, display.target if name else display.targets)


@app.command()
def devices(json: Json = False) -> None:
    """What can be reached now."""
    from edgekit import api, display

    emit(api.devices(), json, display.devices)


@app.command("compile")
def compile_(
    model: Model,
    target: TargetName,
    out: Annotated[Path, typer.Option("-o", "--out", help="the artifact folder to write")],
    data: MaybeData = None,
    engine: Engine = "auto",
    optimize: Optimize = "balanced",
    simplify: Simplify = True,
    observer: Observer = "percentile",
    percentile: Percentile = 99.999,
    per_channel: PerChannel = True,
    bias_correction: BiasCorrection = True,
    equalize: Equalize = False,
    calibration_samples: Calibration = 200,
    toolchain: Toolchain = None,
    tune: Tune = 0,
    device: DeviceName = None,
    option: Option = None,
    input_shape: InputShape = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="show what each layer could have run, and why")
    ] = False,
    json: Json = False,
) -> None:
    """Compile a model for a target (quantizing it first where the target wants int8)."""
    from edgekit import api, display
    from edgekit.compress import QuantizeOptions

    art = api.compile(
        model,
        target,
        out,
        data=data,
        options=compile_options(engine, optimize, toolchain, option),
        quantize=QuantizeOptions(
            observer=observer,  # type: ignore[arg-type]
            percentile=percentile,
            per_channel=per_channel,
            bias_correction=bias_correction,
            equalize=equalize,
        ),
        simplify=simplify,
        calibration_samples=calibration_samples,
        input_shapes=shapes_of(input_shape),
        tune=tune,
        device=device,
        progress=progress,
    )
    show = display.explained if explain else display.compiled
    emit({"artifact": str(out), **dict(art.manifest)}, json, show)


@app.command()
def run(
    artifact: Folder,
    input: Annotated[str, typer.Option("--input", help="file.npz[:x_key]")],
    out: Annotated[Path, typer.Option("-o", "--out", help="outputs are written here (.npz)")],
    device: DeviceName = None,
    samples: Samples = None,
    json: Json = False,
) -> None:
    """Run an artifact on a device; outputs go to a .npz file, one array an output."""
    from edgekit import api, display

    if out.suffix != ".npz":
        raise InputError(f"output '{out}' is not a .npz file")
    outputs = api.run(artifact, input, device=device, samples=samples, progress=progress)
    display.write_npz(out, outputs)
    document = {
        "out": str(out),
        "outputs": [
            {"name": n, "shape": list(a.shape), "dtype": str(a.dtype)} for n, a in outputs.items()
        ],
    }
    emit(document, json, display.ran)


@app.command()
def profile(
    artifact: Folder,
    device: DeviceName = None,
    data: MaybeData = None,
    num_runs: NumRuns = 20,
    warmup_runs: WarmupRuns = 3,
    max_secs: MaxSecs = 2.0,
    cpu: Cpu = None,
    cool_secs: CoolSecs = 0.0,
    json: Json = False,
) -> None:
    """What one inference costs on a device, layer by layer."""
    from edgekit import api, display

    how = protocol_of(num_runs, warmup_runs, max_secs, cpu, cool_secs)
    document = api.profile(artifact, device=device, data=data, protocol=how)
    emit(document, json, display.profile)
    store(artifact, "profile", document)


@app.command()
def verify(
    artifact: Folder,
    data: Data,
    device: DeviceName = None,
    samples: Samples = None,
    json: Json = False,
) -> None:
    """Compare the device's bytes with the oracle's; accuracy where there are labels."""
    from edgekit import api, display

    document = api.verify(artifact, data, device=device, samples=samples, progress=progress)
    emit(document, json, display.verification)
    store(artifact, "verify", document)
    if not document["passed"]:
        raise typer.Exit(1)


@app.command()
def deploy(
    model: Model,
    target: TargetName,
    data: Data,
    out: Annotated[Path, typer.Option("-o", "--out", help="the artifact folder to write")],
    val: Annotated[
        str | None, typer.Option("--val", help="verify on this instead of --data")
    ] = None,
    device: DeviceName = None,
    engine: Engine = "auto",
    optimize: Optimize = "balanced",
    simplify: Simplify = True,
    samples: Samples = None,
    observer: Observer = "percentile",
    percentile: Percentile = 99.999,
    per_channel: PerChannel = True,
    bias_correction: BiasCorrection = True,
    equalize: Equalize = False,
    calibration_samples: Calibration = 200,
    toolchain: Toolchain = None,
    tune: Tune = 0,
    option: Option = None,
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """Compile, profile, verify and report, in one go."""
    from edgekit import api, display
    from edgekit.compress import QuantizeOptions

    document = api.deploy(
        model,
        target,
        data,
        out,
        val=val,
        device=device,
        options=compile_options(engine, optimize, toolchain, option),
        quantize=QuantizeOptions(
            observer=observer,  # type: ignore[arg-type]
            percentile=percentile,
            per_channel=per_channel,
            bias_correction=bias_correction,
            equalize=equalize,
        ),
        simplify=simplify,
        samples=samples,
        calibration_samples=calibration_samples,
        input_shapes=shapes_of(input_shape),
        tune=tune,
        progress=progress,
    )
    emit(document, json, display.deployed)
    if not document["verify"]["passed"]:
        raise typer.Exit(1)


@app.command()
def emulate(
    firmware: Annotated[Path, typer.Argument(help="a bare-metal ELF, from any toolchain")],
    core: Annotated[str, typer.Option("--core", help="cortex-m0plus, m3, m4, m7, m33 or m55")],
    backend: Annotated[str, typer.Option("--backend", help="unicorn, qemu or auto")] = "auto",
    args: Annotated[str, typer.Option("--args", help="command line of the program")] = "",
    max_instructions: Annotated[
        int | None, typer.Option("--max-instructions", min=1, help="stop with an error beyond")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="seconds of wall-clock time")] = 120.0,
    json: Json = False,
) -> None:
    """Run any firmware on a virtual Cortex-M: exact instructions, estimated cycles, by function."""
    import shlex

    from edgekit import api, display

    if not timeout > 0:
        raise InputError(f"--timeout {timeout} is not a positive number of seconds")
    try:
        words = tuple(shlex.split(args))
    except ValueError as e:
        raise InputError(f"--args '{args}' cannot be split into words ({e})") from None
    document = api.emulate(
        firmware,
        core,
        backend=backend,
        max_instructions=max_instructions,
        timeout_s=timeout,
        args=words,
    )
    emit(document, json, display.emulation)


@app.command()
def report(
    artifact: Folder,
    out: Annotated[Path, typer.Option("-o", "--out", help="the page to write (.html)")],
    json: Json = False,
) -> None:
    """Write one self-contained HTML page about an artifact."""
    from edgekit import api

    path = api.report(artifact, out)
    emit({"report": str(path)}, json, lambda d: print(d["report"]))


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed, what is missing, how to get it."""
    from edgekit import api, display

    emit({"checks": api.doctor()}, json, display.doctor)
