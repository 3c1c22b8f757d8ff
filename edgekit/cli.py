"""The command line: a thin skin over :mod:`edgekit.api`.

One JSON document on stdout with ``--json``; progress and logs on stderr. Exit status 0 done, 1 a check
failed, 2 the input was refused (one sentence). Nothing heavy is imported at the top: ``--help`` has to
answer at once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.errors import EdgekitError, InputError
from edgekit.text import visible

app = typer.Typer(
    name="edgekit",
    help="The best network for the device it has to run on: compress, compile, measure, verify.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Model = Annotated[str, typer.Argument(help=".tflite, .onnx, .h5/.keras, or file.py:factory")]
Folder = Annotated[Path, typer.Argument(help="an artifact folder (made by compile or deploy)")]
TargetName = Annotated[str, typer.Option("--target", "-t", help="a target name, or a YAML file")]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="a device (see 'edgekit devices')")
]
Data = Annotated[str, typer.Option("--data", help="file.npz[:x_key[,y_key]]")]
MaybeData = Annotated[str | None, typer.Option("--data", help="file.npz[:x_key[,y_key]]")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
Engine = Annotated[str, typer.Option("--engine", help="an engine of the target, or auto")]
Optimize = Annotated[str, typer.Option("--optimize", help="speed, size or ram")]
Samples = Annotated[int | None, typer.Option("--samples", min=1, help="use only the first N")]
InputShape = Annotated[
    list[str] | None,
    typer.Option("--input-shape", help="fix a dynamic input: name=1,32,32,3 (repeatable)"),
]
Observer = Annotated[
    str, typer.Option("--observer", help="calibration: auto, minmax, percentile, mse or entropy")
]
Percentile = Annotated[float, typer.Option("--percentile", help="for --observer percentile")]
Equalize = Annotated[bool, typer.Option("--equalize", help="cross-layer equalization first")]
BiasCorrection = Annotated[
    bool, typer.Option("--bias-correction/--no-bias-correction", help="correct the mean error")
]
PerChannel = Annotated[
    bool, typer.Option("--per-channel/--per-tensor", help="weight scales of convolutions")
]
Calibration = Annotated[
    int, typer.Option("--calibration-samples", min=1, help="samples used to quantize")
]
Simplify = Annotated[
    bool, typer.Option("--simplify/--no-simplify", help="remove dead channels (lossless)")
]
Toolchain = Annotated[
    str | None, typer.Option("--toolchain", help="compiler of the mcu family: auto, zig or gcc")
]


_stage = ""


def progress(line: str) -> None:
    """Progress goes to stderr: one changing line on a terminal; elsewhere one line a stage (what
    stands before the colon)."""
    line = visible(line)
    global _stage  # noqa: PLW0603 - the last stage printed belongs to the process's stderr
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{line[:110]}")
    elif (stage := line.partition(": ")[0]) != _stage:
        _stage = stage
        sys.stderr.write(f"{stage}\n")
    sys.stderr.flush()


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


def emit(document: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    _clear()
    if as_json:
        from edgekit.artifact import json_text

        sys.stdout.write(json_text(document))
    else:
        show(document)
    sys.stdout.flush()


def store(artifact: Path, name: str, document: Any) -> None:
    """Keep a result in the artifact for its report; a folder that is read-only is no failure."""
    from edgekit import api

    try:
        api.open_artifact(artifact).store_result(name, document)
    except InputError as e:
        sys.stderr.write(f"edgekit: the result is not kept in the artifact: {e}\n")


def shapes_of(options: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """``name=1,32,32,3`` options as a mapping; InputError when one is not of that form."""
    if not options:
        return None
    shapes = {}
    for o in options:
        name, eq, dims = o.rpartition("=")
        try:
            shape = tuple(int(d) for d in dims.split(","))
        except ValueError:
            shape = ()
        if not eq or not name or not shape or min(shape) < 1:
            raise InputError(f"--input-shape '{o}' is not name=1,32,32,3 with positive sizes")
        shapes[name] = shape
    return shapes


def compile_options(engine: str, optimize: str, toolchain: str | None) -> Any:
    from edgekit.targets.base import CompileOptions

    if optimize not in ("speed", "size", "ram"):
        raise InputError(f"--optimize '{optimize}' is unknown; known are speed, size, ram")
    extra = {} if toolchain is None else {"toolchain": toolchain}
    return CompileOptions(engine, optimize, extra)  # type: ignore[arg-type]


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
    optimize: Optimize = "speed",
    simplify: Simplify = True,
    observer: Observer = "percentile",
    percentile: Percentile = 99.999,
    per_channel: PerChannel = True,
    bias_correction: BiasCorrection = True,
    equalize: Equalize = False,
    calibration_samples: Calibration = 200,
    toolchain: Toolchain = None,
    input_shape: InputShape = None,
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
        options=compile_options(engine, optimize, toolchain),
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
        progress=progress,
    )
    emit({"artifact": str(out), **dict(art.manifest)}, json, display.compiled)


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
    json: Json = False,
) -> None:
    """What one inference costs on a device, layer by layer."""
    from edgekit import api, display

    document = api.profile(artifact, device=device, data=data)
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
    optimize: Optimize = "speed",
    simplify: Simplify = True,
    samples: Samples = None,
    observer: Observer = "percentile",
    percentile: Percentile = 99.999,
    per_channel: PerChannel = True,
    bias_correction: BiasCorrection = True,
    equalize: Equalize = False,
    calibration_samples: Calibration = 200,
    toolchain: Toolchain = None,
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
        options=compile_options(engine, optimize, toolchain),
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


def main(argv: list[str] | None = None) -> None:
    """Entry point: every error becomes one sentence on stderr and its exit status."""
    _prepare_process()
    try:
        code = app(args=argv, standalone_mode=False)
    except EdgekitError as e:
        code = _fail(str(e), e.exit_code)
    except typer.Exit as e:
        code = e.exit_code
    except typer.Abort:
        code = _fail("stopped", 130)
    except KeyboardInterrupt:
        code = _fail("stopped", 130)
    except BrokenPipeError:
        sys.stderr.close()
        code = 0
    except (MemoryError, RecursionError) as e:
        code = _fail(f"the input is too large to be handled here ({type(e).__name__})", 2)
    except Exception as e:  # the last line of defence: a bug of ours is still one sentence
        code = _unexpected(e)
    sys.exit(code if isinstance(code, int) else 0)


def _prepare_process() -> None:
    """A SIGTERM unwinds the stack, so that temporary folders go; file names that the locale cannot
    show are escaped rather than fatal."""
    import signal

    def stop(signum: int, _frame: Any) -> None:
        raise SystemExit(128 + signum)

    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> int:
    _clear()
    sys.stderr.write("edgekit: " + visible(" ".join(message.split())) + "\n")
    return code


def _unexpected(e: Exception) -> int:
    if type(e).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(str(getattr(e, "format_message", lambda: e)()).rstrip() + "\n")
        return 2
    show = getattr(e, "show", None)  # the option parser's own errors: usage and one sentence
    if callable(show) and hasattr(e, "exit_code"):
        return _fail(str(getattr(e, "format_message", lambda: e)()) + " (see --help)", 2)
    import os
    import traceback

    if os.environ.get("EDGEKIT_TRACEBACK"):
        traceback.print_exc()
    where = traceback.extract_tb(e.__traceback__)[-1]
    return _fail(
        f"internal error: {type(e).__name__}: {e} (at {Path(where.filename).name}:{where.lineno}); "
        "set EDGEKIT_TRACEBACK=1 for the details",
        2,
    )


if __name__ == "__main__":
    main()
