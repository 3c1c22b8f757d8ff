"""What the commands share: the application, the option types, progress, and how a document is
printed.

One JSON document on stdout with ``--json``; progress and logs on stderr. Nothing heavy is imported
at the top here or in a module of commands: ``--help`` has to answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.errors import InputError
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
Optimize = Annotated[str, typer.Option("--optimize", help="balanced, speed, size or ram")]
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
Tune = Annotated[
    int,
    typer.Option("--tune", min=0, help="measure so many candidates a kernel first (engine tvm)"),
]
Toolchain = Annotated[str | None, typer.Option("--toolchain", help="short for --option toolchain=")]
Option = Annotated[
    list[str] | None,
    typer.Option("--option", help="an engine's own option: key=value (see 'edgekit targets NAME')"),
]

# How a latency is measured on real silicon; the names are those of TFLite's benchmark_model.
NumRuns = Annotated[
    int, typer.Option("--num-runs", min=1, help="timed inferences, at least (real silicon)")
]
WarmupRuns = Annotated[
    int, typer.Option("--warmup-runs", min=0, help="inferences before them, at least")
]
MaxSecs = Annotated[float, typer.Option("--max-secs", help="stop measuring after about so long")]
Cpu = Annotated[str | None, typer.Option("--cpu", help="run on these cores only: 4, 4-7, 0,2")]
CoolSecs = Annotated[
    float, typer.Option("--cool-secs", help="wait up to so long for a warm device to cool down")
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


def clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


def emit(document: Any, as_json: bool, show: Callable[[Any], None]) -> None:
    clear()
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


def extra_of(options: list[str] | None, toolchain: str | None = None) -> dict[str, str]:
    """``key=value`` options as a mapping; the engine says which it has."""
    extra = {} if toolchain is None else {"toolchain": toolchain}
    for o in options or []:
        key, eq, value = o.partition("=")
        if not eq or not key.strip() or not value:
            raise InputError(f"--option '{o}' is not key=value")
        if key in extra:
            raise InputError(f"option '{key}' is given twice")
        extra[key] = value
    return extra


def protocol_of(
    num_runs: int, warmup_runs: int, max_secs: float, cpu: str | None, cool_secs: float
) -> Any:
    from edgekit.profile.measure import Protocol, cpus_of

    return Protocol(
        num_runs=num_runs,
        warmup_runs=warmup_runs,
        max_secs=max_secs,
        cpus=() if cpu is None else cpus_of(cpu),
        cool_secs=cool_secs,
    )


def compile_options(
    engine: str, optimize: str, toolchain: str | None, options: list[str] | None = None
) -> Any:
    from edgekit.targets.base import CompileOptions

    known = ("balanced", "speed", "size", "ram")
    if optimize not in known:
        raise InputError(f"--optimize '{optimize}' is unknown; known are {', '.join(known)}")
    extra = extra_of(options, toolchain)
    return CompileOptions(engine, optimize, extra)  # type: ignore[arg-type]
