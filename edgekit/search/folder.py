"""The study's folder: what is searched, on a disk, so that a study needs nothing else to go on.

``study.json`` (the spec), ``models/N.ekg`` (float networks), ``data.npz`` and ``val.npz`` (the samples),
``cache/`` (artifacts by content hash), ``study.db`` (trials, unless they are in another database),
``winner/`` (the artifact). Written once, aside, and renamed; only the cache and the database grow.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.artifact import json_text, write_bytes, write_text
from edgekit.data import Dataset
from edgekit.errors import InputError

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph

SCHEMA = 1
_FILE = "study.json"
#: Where the database is, when it is not the folder's own: overrides what the study was made with.
STORAGE_VARIABLE = "EDGEKIT_STORAGE"
_PASSWORD = re.compile(r"(?<=://)([^:@/]*):([^@/]*)@")


def data_bytes(data: Dataset) -> bytes:
    """The samples as an .npz, inputs in order (``x0``, ``x1``, ...), labels as ``y``; the same samples
    give the same bytes."""
    arrays = {f"x{i}": np.ascontiguousarray(a) for i, a in enumerate(data.x.values())}
    if data.y is not None:
        arrays["y"] = np.ascontiguousarray(data.y)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def data_hash(data: Dataset) -> str:
    h = hashlib.sha256()
    for a in [*data.x.values(), *([] if data.y is None else [data.y])]:
        h.update(f"{a.dtype}{a.shape}".encode())
        h.update(np.ascontiguousarray(a).tobytes())
    return h.hexdigest()


def read_data(path: Path, names: Sequence[str], source: str) -> Dataset:
    with np.load(path, allow_pickle=False) as z:
        x = {n: z[f"x{i}"] for i, n in enumerate(names)}
        return Dataset(x, z["y"] if "y" in z.files else None, source)


def is_study(path: str | Path) -> bool:
    return (Path(path) / _FILE).is_file()


class StudyFolder:
    """An existing study. ``spec``: the document of ``study.json``. storage: the whole URL of its
    database, where somebody gave it (the spec has it without a password)."""

    def __init__(self, path: Path, spec: Mapping[str, Any], storage: str | None = None) -> None:
        self.path = path
        self.spec = spec
        self.storage = storage

    @staticmethod
    def open(path: str | Path) -> StudyFolder:
        path = Path(os.path.abspath(path))
        file = path / _FILE
        if not file.is_file():
            raise InputError(
                f"'{path}' is not a study: it has no {_FILE}; make one with 'edgekit search'"
            )
        try:
            spec = json.loads(file.read_text("utf-8"))
            version = spec["schema"]
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise InputError(f"'{file}' is not the spec of a study ({type(e).__name__})") from None
        if version != SCHEMA:
            raise InputError(f"'{path}' has study schema {version}; this edgekit reads {SCHEMA}")
        return StudyFolder(path, spec)

    @staticmethod
    def create(
        path: str | Path,
        spec: Mapping[str, Any],
        graphs: Sequence[Graph],
        originals: Sequence[Graph],
        data: Dataset,
        val: Dataset,
    ) -> StudyFolder:
        """graphs: float networks; originals: the models as given. An existing folder has to be empty,
        or the same study (which is opened)."""
        from edgekit.formats import ekg

        path = Path(os.path.abspath(path))
        document = {
            "schema": SCHEMA,
            **spec,
            "models": [
                {"name": g.name, "sha256": hashlib.sha256(ekg.write_bytes(o)).hexdigest()}
                for g, o in zip(graphs, originals, strict=True)
            ],
            "data": {"source": data.source, "names": list(data.x), "sha256": data_hash(data),
                     "samples": len(data), "labels": data.y is not None},
            "val": {"source": val.source, "names": list(val.x), "sha256": data_hash(val),
                    "samples": len(val), "labels": val.y is not None},
        }  # fmt: skip
        if is_study(path):
            there = StudyFolder.open(path)
            there.same_as(document)
            return there
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                f"output '{path}' is there and is no study; name a new or an empty folder"
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temp = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as e:
            raise InputError(f"cannot write to '{path.parent}': {e.strerror or e}") from None
        try:
            temp.chmod(0o755)
            (temp / "models").mkdir()
            (temp / "cache").mkdir()
            for i, (g, o) in enumerate(zip(graphs, originals, strict=True)):
                write_bytes(temp / "models" / f"{i}.ekg", ekg.write_bytes(g))
                write_bytes(temp / "models" / f"{i}.original.ekg", ekg.write_bytes(o))
            write_bytes(temp / "data.npz", data_bytes(data))
            write_bytes(temp / "val.npz", data_bytes(val))
            write_text(temp / _FILE, json_text(document))
            try:
                os.replace(temp, path)
            except OSError:  # another process was faster, with the same study or with another one
                if not is_study(path):
                    raise InputError(f"cannot write the study '{path}'") from None
                StudyFolder.open(path).same_as(document)
        finally:
            shutil.rmtree(temp, ignore_errors=True)
        return StudyFolder.open(path)

    def same_as(self, document: Mapping[str, Any]) -> None:
        """InputError where ``document`` asks for another study than this (more trials are no other)."""
        free = ("trials", "jobs", "executor", "edgekit", "timeout", "prices", "study_name")
        mine = {k: v for k, v in self.spec.items() if k not in free}
        its = json.loads(json.dumps({k: v for k, v in document.items() if k not in free}))
        for key in sorted({*mine, *its}):
            if mine.get(key) != its.get(key):
                raise InputError(
                    f"'{self.path}' is a study with another {key}; name a new folder, or continue it "
                    f"with 'edgekit study {self.path.name} resume'"
                )

    # -- contents ----------------------------------------------------------------------------------

    def graph(self, base: int) -> Graph:
        from edgekit.formats import ekg

        return ekg.read(self.path / "models" / f"{base}.ekg")

    def original(self, base: int = 0) -> Graph:
        """The model as it was given."""
        from edgekit.formats import ekg

        return ekg.read(self.path / "models" / f"{base}.original.ekg")

    def dataset(self, which: str) -> Dataset:
        """``data`` or ``val``."""
        entry = self.spec[which]
        return read_data(self.path / f"{which}.npz", entry["names"], entry["source"])

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    def update(self, **entries: Any) -> StudyFolder:
        """The study with other ``trials`` or ``jobs``: what may change."""
        document = {**self.spec, **entries}
        write_text(self.path / _FILE, json_text(document))
        return StudyFolder(self.path, document, self.storage)

    def storage_url(self) -> str:
        """Of the database. InputError where its password is not known."""
        url = self.storage or os.environ.get(STORAGE_VARIABLE) or self.spec.get("storage")
        if not url:
            return f"sqlite:///{self.path / 'study.db'}"
        if ":***@" in url:
            raise InputError(
                f"the database of '{self.path.name}' needs a password, which studies do not keep; "
                f"give its whole URL in the environment variable {STORAGE_VARIABLE}"
            )
        return str(url)


def without_password(url: str | None) -> str | None:
    """What may be written down of a database's URL."""
    return None if url is None else _PASSWORD.sub(r"\1:***@", url)


# -- artifacts by content hash ---------------------------------------------------------------------


class Cache:
    """Folders of files by key, each written aside and renamed: there or not there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> Path | None:
        folder = self.path / key
        return folder if folder.is_dir() else None

    def json(self, key: str, name: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads((self.path / key / name).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, key: str, files: Mapping[str, bytes]) -> Path:
        folder = self.path / key
        if folder.is_dir():
            return folder
        self.path.mkdir(parents=True, exist_ok=True)
        temp = Path(tempfile.mkdtemp(prefix=f".{key[:12]}.", dir=self.path))
        try:
            for name, content in files.items():
                (temp / name).write_bytes(content)
            try:
                os.replace(temp, folder)
            except OSError:
                if not folder.is_dir():  # somebody else wrote the same
                    raise
        finally:
            shutil.rmtree(temp, ignore_errors=True)
        return folder


def digest(*parts: Any) -> str:
    """A short hash of JSON-ready values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
