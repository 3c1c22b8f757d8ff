"""The command ``export``: an artifact as the package that other projects take in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli.common import Folder, Json, app, emit


@app.command()
def export(
    artifact: Folder,
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="cmake, c, zephyr, arduino, cmsis-pack, esp-idf, android, python, mlperf-tiny, onnx "
            "or oci",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="the folder to write")],
    name: Annotated[
        str | None, typer.Option("--name", help="of the library, a C identifier")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="SPDX expression of the model's licence")
    ] = None,
    json: Json = False,
) -> None:
    """Hand an artifact over: as a library, module, pack, app project or server folder."""
    from edgekit import api, display

    emit(api.export(artifact, form, out, name=name, license=license), json, display.exported)
