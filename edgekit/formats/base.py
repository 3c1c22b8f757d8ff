"""The format registry: which module reads and writes which file, and the rules they all share.

A format is one row of :data:`FORMATS` and one or two modules beside this file, imported only when
such a file is met. A reader is ``read(spec, input_shapes) -> Graph``, a writer is
``write(graph, path) -> None``; ``load`` and ``save`` do what is common to all: find the format by
suffix and by content, turn whatever a malformed file provokes into one sentence, order, prune and
validate the graph, and never leave a half-written file.
"""

from __future__ import annotations

import importlib
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, FormatError, InputError
from edgekit.text import printable

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph

#: Input name -> fixed shape, batch included; for models with dynamic dimensions.
InputShapes = Mapping[str, tuple[int, ...]]

#: Flatbuffers and protobufs end at 2 GiB; a larger file is not one of them.
MAX_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Format:
    """One row of the table.

    name: what ``metadata["format"]`` says. suffixes: lower case, with the dot; empty for formats
    that are recognised otherwise (a folder, ``file.py:factory``).
    reader, writer: ``module:function``, relative to ``edgekit.formats``; None where there is none.
    magic: (offset, bytes) of which one must be there; empty when the format has no signature.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: str
    writer: str | None = None
    magic: tuple[tuple[int, bytes], ...] = ()

    def matches(self, head: bytes) -> bool:
        return any(head[at : at + len(m)] == m for at, m in self.magic)


FORMATS: tuple[Format, ...] = (
    Format("tflite", (".tflite",), "tflite:read", "tflite:write", ((4, b"TFL3"),)),
    Format("onnx", (".onnx",), "onnx_read:read", "onnx_write:write"),
    Format(
        "keras",
        (".h5", ".keras", ".hdf5"),
        "keras_:read",
        None,
        ((0, b"\x89HDF\r\n\x1a\n"), (0, b"PK\x03\x04")),
    ),
    Format("ekg", (".ekg",), "ekg:read", "ekg:write", ((0, b"EDGEKITG"),)),
    Format("torch", (), "torch_:read"),
    Format("savedmodel", (), "savedmodel:read"),
)

_FACTORY = re.compile(r"^(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*)$")

ACCEPTED = ".tflite, .onnx, .h5, .keras, .ekg, file.py:factory or a SavedModel folder"


def by_name(name: str) -> Format:
    return next(f for f in FORMATS if f.name == name)


def split_factory(spec: str | Path) -> tuple[Path, str] | None:
    """``("net.py", "make")`` for ``net.py:make``, None for anything else."""
    m = _FACTORY.match(str(spec))
    return None if m is None else (Path(m["file"]), m["name"])


def find(spec: str | Path) -> Format:
    """The format of what ``spec`` names, by its suffix and content; FormatError or InputError."""
    factory = split_factory(spec)
    if factory is not None:
        _check_file(factory[0])
        return by_name("torch")
    path = Path(spec)
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return by_name("savedmodel")
        raise FormatError(
            f"'{path.name}' is a folder without a saved_model.pb; a model is {ACCEPTED}"
        )
    if path.suffix.lower() == ".py":
        raise InputError(
            f"'{path.name}' names no function; write {path.name}:factory, "
            "where factory() returns the torch module"
        )
    head = _check_file(path)
    suffix = path.suffix.lower()
    fmt = next((f for f in FORMATS if suffix in f.suffixes), None)
    actual = next((f for f in FORMATS if f.matches(head)), None)
    if fmt is None:
        hint = f"; its content is that of a {actual.suffixes[0]} file" if actual else ""
        raise FormatError(
            f"'{path.name}' has no suffix of a known model format{hint} (accepted: {ACCEPTED})"
        )
    if actual is not None and actual is not fmt:
        raise FormatError(
            f"'{path.name}' is called {suffix} but its content is that of a "
            f"{actual.suffixes[0]} file; give it the right suffix"
        )
    if fmt.magic and actual is None:
        raise FormatError(f"'{path.name}' is not a {suffix} file: its signature is missing")
    return fmt


def _check_file(path: Path) -> bytes:
    """The first bytes of an existing, readable, non-empty file of at most MAX_BYTES."""
    try:
        if not path.exists():
            raise InputError(f"there is no file '{path.name}' where '{path}' points")
        if not path.is_file():
            raise InputError(f"'{path.name}' is not a regular file; a model is {ACCEPTED}")
        size = path.stat().st_size
        if size == 0:
            raise FormatError(f"'{path.name}' is empty")
        if size > MAX_BYTES:
            raise FormatError(f"'{path.name}' has {size} bytes; a model has at most {MAX_BYTES}")
        with path.open("rb") as f:
            return f.read(64)
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        reason = getattr(e, "strerror", None) or str(e)
        raise InputError(f"'{path.name}' cannot be read ({reason})") from None


def _function(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(f"edgekit.formats.{module}"), name)


def first_line(e: BaseException) -> str:
    """The first line of an exception's message, at most 200 characters, without an end stop."""
    lines = str(e).strip().splitlines()
    return (lines[0][:200].rstrip(". ") if lines else "") or type(e).__name__


@contextmanager
def malformed_is_format_error(name: str, kind: str) -> Iterator[None]:
    """Turn whatever parsing untrusted bytes raises into a FormatError about the file ``name``.

    The one place where everything is caught: a malformed file can make a parser fail in any way.
    The original exception stays as ``__cause__``.
    """
    try:
        yield
    except EdgekitError:
        raise
    except MemoryError as e:
        raise FormatError(f"'{name}' describes a model that does not fit into memory") from e
    except struct.error as e:
        raise FormatError(
            f"'{name}' is not a valid {kind} file: it is cut off, or an offset points outside of it"
        ) from e
    except RecursionError as e:
        raise FormatError(f"'{name}' is nested too deeply to be a {kind} model") from e
    except Exception as e:
        raise FormatError(
            f"'{name}' cannot be read as {kind} ({type(e).__name__}: {first_line(e)})"
        ) from e


def finish(graph: Graph) -> Graph:
    """Order, prune and validate a graph that a reader has just built; returns it."""
    graph.toposort()
    graph.prune()
    return graph.validate()


def load(spec: str | Path, *, input_shapes: InputShapes | None = None) -> Graph:
    """Read a model file into a validated graph.

    spec: a path (``.tflite .onnx .h5 .keras .ekg``), a SavedModel folder, or ``file.py:factory``.
    input_shapes: input name -> complete shape, for dynamic dimensions (a dynamic batch becomes 1
    by itself). Raises InputError (nothing to read), FormatError (malformed or of another format),
    UnsupportedError (valid, with something that edgekit lacks; names the nodes).
    """
    fmt = find(spec)
    source = Path(spec).name
    shapes = {k: tuple(int(d) for d in v) for k, v in (input_shapes or {}).items()}
    try:
        reader = _function(fmt.reader)
    except ImportError as e:
        raise InputError(
            f"reading '{source}' needs a package that is not installed ({first_line(e)})"
        ) from e
    with malformed_is_format_error(source, fmt.name):
        graph: Graph = reader(spec if fmt.name == "torch" else Path(spec), shapes)
        graph.metadata.setdefault("source", source)
        graph.metadata.setdefault("format", fmt.name)
        graph.metadata = {k: printable(v) for k, v in graph.metadata.items()}
        graph.name = printable(graph.name)
        return finish(graph)


def save(graph: Graph, path: str | Path) -> None:
    """Write ``graph`` as what the suffix of ``path`` says (``.tflite``, ``.onnx``, ``.ekg``).

    Written beside and moved into place, so that ``path`` is never half-written. Raises InputError
    for a suffix that cannot be written or a folder that is not there, UnsupportedError for nodes
    that the format cannot hold.
    """
    path = Path(path)
    fmt = next((f for f in FORMATS if path.suffix.lower() in f.suffixes), None)
    if fmt is None or fmt.writer is None:
        can = ", ".join(f.suffixes[0] for f in FORMATS if f.writer)
        raise InputError(f"'{path.name}' cannot be written as a model; accepted suffixes are {can}")
    if path.is_dir():
        raise InputError(f"'{path.name}' is a folder; name a file to write")
    graph.validate()
    try:
        writer = _function(fmt.writer)
    except ImportError as e:
        raise InputError(
            f"writing '{path.name}' needs a package that is not installed ({first_line(e)})"
        ) from e
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(graph, temp)
        os.replace(temp, path)
    except OSError as e:
        raise InputError(f"'{path.name}' cannot be written ({e.strerror or e})") from None
    finally:
        with suppress(OSError):
            temp.unlink(missing_ok=True)
