"""The commands of compression: compress, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.common import (
    Data,
    InputShape,
    Json,
    MaybeData,
    Model,
    app,
    emit,
    progress,
    shapes_of,
)

Val = Annotated[
    str | None, typer.Option("--val", help="samples that nothing is fitted to, for measuring")
]
MaybeTarget = Annotated[
    str | None, typer.Option("--target", "-t", help="a target: its granularity and its cycles")
]
TorchDevice = Annotated[str, typer.Option("--device", help="what trains: auto, cpu or cuda")]


@app.command()
def compress(
    model: Model,
    recipe: Annotated[Path, typer.Option("--recipe", "-r", help="the steps (.yaml or .json)")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the result (.ekg, .tflite or .onnx)")],
    data: MaybeData = None,
    val: Val = None,
    target: MaybeTarget = None,
    device: TorchDevice = "auto",
    work: Annotated[
        Path | None, typer.Option("--work", help="keep the checkpoints in this folder")
    ] = None,
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """Make a network smaller by a recipe: prune, repair, factorize, share, train, quantize."""
    from edgekit import api

    document = api.compress(
        model,
        recipe,
        out,
        data=data,
        val=val,
        target=target,
        device=device,
        work=work,
        input_shapes=shapes_of(input_shape),
        progress=progress,
    )
    emit(document, json, _compressed)


@app.command()
def sensitivity(
    model: Model,
    data: Data,
    val: Val = None,
    target: MaybeTarget = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="only this method (repeatable)")
    ] = None,
    importance: Annotated[
        str, typer.Option("--importance", help="what ranks channels: l2, fisher, ...")
    ] = "l2",
    samples: Annotated[int, typer.Option("--samples", min=2, help="measure on so many")] = 500,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    device: TorchDevice = "auto",
    input_shape: InputShape = None,
    json: Json = False,
) -> None:
    """What each method costs in accuracy and saves, layer by layer and channel group by group."""
    from edgekit import api

    document = api.sensitivity(
        model,
        data,
        val=val,
        target=target,
        methods=method,
        importance=importance,
        samples=samples,
        seed=seed,
        device=device,
        input_shapes=shapes_of(input_shape),
        progress=progress,
    )
    emit(document, json, _sensitivity)


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from edgekit.text import visible

    table = Table(title=title, title_justify="left")
    for i, c in enumerate(columns):
        table.add_column(c, justify="left" if i == 0 else "right")
    for r in rows:
        table.add_row(*(visible(c) for c in r))
    Console(markup=False).print(table)


def _compressed(d: dict[str, Any]) -> None:
    rows = []
    for key, label in (("macs", "MACs"), ("parameters", "parameters"), ("weight_bytes", "bytes")):
        a, b = d["before"][key], d["after"][key]
        rows.append([label, f"{a:,}", f"{b:,}", f"{b / max(a, 1):.3f}"])
    _table(d["output"], ["", "before", "after", "left"], rows)
    q = d["quality"]
    if q is None:
        print("no samples: nothing is known about the accuracy (give --val or --data)")
        return
    where = f"{q['samples']} samples of {q['data']}"
    if q["fitted_on_these"]:
        where += ", which the steps were fitted on"
    line = f"on {where}: distance {q['distance']:.4f}"
    if q["agreement"] is not None:
        line += f", same class {100 * q['agreement']:.1f} %"
    if q["accuracy"] is not None:
        line += f", accuracy {100 * q['accuracy_before']:.1f} -> {100 * q['accuracy']:.1f} %"
        if q["standard_error"] is not None:
            line += (
                f" ({100 * q['difference']:+.1f} +- {100 * q['standard_error']:.1f} points, paired)"
            )
    print(line)
    print(f"report: {d['report']}")


def _sensitivity(d: dict[str, Any]) -> None:
    rows = []
    for r in sorted(d["rows"], key=lambda r: (r["method"], r["where"], -r["macs_saved"])):
        points = "" if r["difference"] is None else f"{100 * r['difference']:+.1f}"
        cycles = "" if r["cycles_saved"] is None else f"{r['cycles_saved'] / d['cycles']:.1%}"
        rows.append([
            r["method"], r["where"], r["setting"], f"{r['distance']:.4f}", points,
            f"{r['macs_saved'] / max(d['macs'], 1):.1%}", f"{r['bytes_saved']:,}", cycles,
        ])  # fmt: skip
    _table(
        f"{d['model']}: {d['samples']} samples of --{d['measured_on']}, distance: {d['distance']}",
        ["method", "where", "setting", "distance", "points", "MACs saved", "bytes saved",
         "cycles saved (est.)"],
        rows,
    )  # fmt: skip
