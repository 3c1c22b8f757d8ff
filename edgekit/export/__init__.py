"""What gets handed over: an artifact as the package that a firmware, app or server project takes in.

``write(artifact, form, out)`` writes one of :data:`FORMS` into a new folder. Every form carries a model
card (:mod:`.card`: provenance, figures with their kinds, licences) and, where it holds C, a self-test
with the bytes that the reference executor gives (:mod:`.vector`).

The same artifact gives the same bytes: no times, no paths of the machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.artifact import Artifact, new_folder
from edgekit.errors import InputError
from edgekit.export.base import Order, identifier, name_of

Writer = Callable[[Order], Mapping[str, str]]


@dataclass(frozen=True)
class Form:
    """what: one line for people. module: where ``write(order)`` is, imported when first used."""

    name: str
    what: str
    module: str

    def write(self, order: Order) -> Mapping[str, str]:
        """File name (relative, with slashes) -> text of what is not copied; the rest is on disk."""
        module = importlib.import_module(f"edgekit.export.{self.module}")
        return dict(module.write(order))


FORMS: Mapping[str, Form] = {
    f.name: f
    for f in (
        Form("cmake", "CMake static library with an installable package", "cmake"),
        Form("c", "one C file and one header", "single"),
        Form("zephyr", "Zephyr module with Kconfig and a sample", "zephyr"),
        Form("arduino", "Arduino library with an example sketch", "arduino"),
        Form("cmsis-pack", "CMSIS-Pack component (.pdsc and .pack)", "cmsis_pack"),
        Form("esp-idf", "ESP-IDF component with an example", "esp_idf"),
        Form("android", "Android library project with a Kotlin class", "android"),
        Form("python", "folder for a Linux board: a Python class, no wheel to install", "python_"),
        Form("mlperf-tiny", "firmware with the MLPerf Tiny runner protocol on a UART", "firmware"),
        Form("onnx", "the network as one .onnx file", "onnx_"),
        Form("oci", "OCI image layout, and a server with its Containerfile", "oci"),
    )
}


def write(
    artifact: Artifact,
    form: str,
    out: str | Path,
    *,
    name: str | None = None,
    license: str | None = None,
) -> dict[str, Any]:
    """Write ``form`` of an artifact into the folder ``out``; JSON-ready: what was written.

    name: of the library, a C identifier; without it the model's file name, made into one. license:
    SPDX expression of the *model's* licence for the card (what we generate is Apache-2.0).
    Raises InputError for a form that there is not, that this artifact cannot have, or a bad name.
    """
    if form not in FORMS:
        raise InputError(f"there is no form '{form}'; there are: {', '.join(FORMS)}")
    chosen = name_of(artifact) if name is None else identifier(name)
    with new_folder(Path(out), mark="model_card.json") as folder:
        order = Order(artifact, chosen, folder, license)
        order.write(FORMS[form].write(order))
        from edgekit.export import card

        order.write(card.files(order, form))
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        size = sum((folder / f).stat().st_size for f in files)
    return {
        "out": str(out),
        "form": form,
        "name": chosen,
        "engine": artifact.engine,
        "target": artifact.manifest["target"]["name"],
        "files": files,
        "bytes": size,
    }
