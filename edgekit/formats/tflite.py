"""TensorFlow Lite flatbuffers (``.tflite``): ``read``, ``write``, ``write_bytes``."""

from __future__ import annotations

from pathlib import Path

from edgekit.formats.base import InputShapes
from edgekit.formats.tflite_write import write_bytes
from edgekit.graph.ir import Graph

__all__ = ["read", "read_bytes", "write", "write_bytes"]


def read_bytes(data: bytes, name: str, input_shapes: InputShapes | None = None) -> Graph:
    """The graph in the bytes of a .tflite file called ``name``; see ``tflite_read``."""
    from edgekit.formats.tflite_read import read_bytes as parse

    return parse(data, name, input_shapes)


def read(path: Path, input_shapes: InputShapes | None = None) -> Graph:
    return read_bytes(Path(path).read_bytes(), Path(path).name, input_shapes)


def write(graph: Graph, path: Path) -> None:
    """Write ``graph`` to exactly ``path``; :func:`edgekit.formats.save` is what users call."""
    Path(path).write_bytes(write_bytes(graph))
