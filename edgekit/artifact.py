"""The artifact: a folder with ``manifest.json`` and everything needed to run and check it again.

Layout: ``manifest.json``; ``graph.ekg`` (what was compiled); ``reference.ekg`` (the integer graph
whose bytes it must give: before lossless passes; absent when it is the same); ``source.ekg`` (the
float model it came from, if any); the backend's files. ``profile.json``, ``verify.json`` and
``report.html`` are results about the artifact and not listed in the manifest.

The same inputs give the same bytes: no times, no paths of the machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph
    from edgekit.targets.schema import Target

SCHEMA_VERSION = 1


class Artifact:
    """A compiled model on disk. ``Artifact.open(folder)`` checks the manifest and the hashes."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @staticmethod
    def open(path: str | Path, check: bool = True) -> Artifact:
        """Raises InputError when the folder is no artifact, is damaged, or is of a newer schema."""
        path = Path(path)
        file = path / "manifest.json"
        if not file.is_file():
            raise InputError(
                f"'{path}' is not an artifact: it has no manifest.json; make one with 'edgekit compile'"
            )
        try:
            manifest = json.loads(file.read_text("utf-8"))
            version = manifest["schema_version"]
            files = dict(manifest["files"])
        except (ValueError, KeyError, TypeError) as e:
            raise InputError(f"'{file}' is not a manifest ({e})") from None
        if version != SCHEMA_VERSION:
            raise InputError(
                f"'{path}' has manifest schema {version}; this edgekit reads {SCHEMA_VERSION}"
            )
        if check:
            for name, digest in files.items():
                p = path / name
                if ".." in Path(name).parts or not p.is_file() or sha256_file(p) != digest:
                    raise InputError(
                        f"artifact '{path}' is damaged: '{name}' is missing or was changed; "
                        "compile it again"
                    )
        return Artifact(path, manifest)

    def file(self, name: str) -> Path:
        """A file of the artifact by its relative name; InputError when it is not there."""
        p = self.path / name
        if not p.is_file():
            raise InputError(f"artifact '{self.path}' has no file '{name}'")
        return p

    @property
    def engine(self) -> str:
        return str(self.manifest["engine"])

    @property
    def details(self) -> Mapping[str, Any]:
        """What the backend kept for itself (``Compiled.details``)."""
        return dict(self.manifest.get("details", {}))

    @cached_property
    def target(self) -> Target:
        """The target as it was when the artifact was made."""
        from pydantic import ValidationError

        from edgekit.targets.schema import Target

        try:
            return Target.model_validate(self.manifest["target"])
        except (ValidationError, KeyError) as e:
            raise InputError(
                f"artifact '{self.path}' describes its target in a way this edgekit cannot read "
                f"({str(e).splitlines()[0]})"
            ) from None

    @cached_property
    def graph(self) -> Graph:
        """The graph that was compiled."""
        return self._read("graph.ekg")

    @cached_property
    def reference(self) -> Graph:
        """The graph whose output bytes the artifact must give."""
        name = "reference.ekg" if "reference.ekg" in self.manifest["files"] else "graph.ekg"
        return self._read(name)

    @cached_property
    def source(self) -> Graph | None:
        """The float model that was quantized, or None when the model came quantized."""
        return self._read("source.ekg") if "source.ekg" in self.manifest["files"] else None

    def _read(self, name: str) -> Graph:
        from edgekit.formats import ekg

        return ekg.read(self.file(name))

    def result(self, name: str) -> dict[str, Any] | None:
        """A stored result (``profile``, ``verify``), or None."""
        p = self.path / f"{name}.json"
        if not p.is_file():
            return None
        try:
            return dict(json.loads(p.read_text("utf-8")))
        except (ValueError, TypeError):
            return None

    def store_result(self, name: str, document: Mapping[str, Any]) -> None:
        write_text(self.path / f"{name}.json", json_text(document))


def json_text(document: Any) -> str:
    """Canonical JSON: sorted keys, two spaces, final newline; NaN and infinity are refused."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def sha256_file(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename: readers see the old file or the new one, never half of it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    try:
        fd, tmp = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as e:
        raise InputError(f"cannot write '{path}': {e.strerror or e}") from None
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
        os.chmod(tmp, 0o644)
        os.replace(tmp, path)
    except OSError as e:
        Path(tmp).unlink(missing_ok=True)
        raise InputError(f"cannot write '{path}': {e.strerror or e}") from None


@contextmanager
def new_folder(out: Path, mark: str = "manifest.json") -> Iterator[Path]:
    """A temporary folder beside ``out`` that takes its place when the block ends without error.

    An existing ``out`` is replaced only if it is empty or, by the file ``mark`` in it, one of ours;
    anything else is refused before any work is done.
    """
    out = Path(os.path.abspath(out))
    if out.exists():
        if not out.is_dir():
            raise InputError(f"output '{out}' exists and is not a folder")
        if any(out.iterdir()) and not (out / mark).is_file():
            raise InputError(
                f"output folder '{out}' holds files that are not an artifact (no {mark}); "
                "name a new or empty folder"
            )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as e:
        raise InputError(f"cannot write to '{out.parent}': {e.strerror or e}") from None
    try:
        tmp.chmod(0o755)
        yield tmp
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            os.replace(out, old / "x")
            os.replace(tmp, out)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(tmp, out)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def write_manifest(
    folder: Path,
    *,
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
    target: Target,
    compiled: Any,
    graphs: Mapping[str, Graph],
) -> None:
    """Write the graphs and ``manifest.json`` into ``folder``, after the backend wrote its files.

    model: ``name``, ``format``, ``sha256``. recipe: what was done to the model, JSON-ready.
    graphs: ``graph`` and, where they differ, ``reference`` and ``source``.
    """
    from edgekit import __version__
    from edgekit.formats import ekg

    for name, graph in graphs.items():
        ekg.write(graph, folder / f"{name}.ekg")
    files = [*compiled.files, *(f"{name}.ekg" for name in graphs)]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "edgekit": __version__,
        "model": dict(model),
        "recipe": dict(recipe),
        "target": target.model_dump(mode="json"),
        "engine": compiled.engine,
        "tools": dict(compiled.tools),
        "plan": [dict(p) for p in compiled.plan],
        "memory": dict(compiled.memory),
        "details": dict(compiled.details),
        "files": {name: sha256_file(folder / name) for name in sorted(files)},
    }
    write_text(folder / "manifest.json", json_text(manifest))
