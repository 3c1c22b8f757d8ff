"""``.ekg``: a graph as one file, lossless and deterministic; the form used inside artifacts.

Layout (all integers little-endian)::

    0   8  magic "EDGEKITG"
    8   4  format version (1)
    12  4  length of the header in bytes
    16 32  SHA-256 of everything that follows
    48     header: JSON, UTF-8, sorted keys
           zero bytes up to a multiple of 64
           constants: raw C-order arrays, each at a multiple of 64

The header lists tensors and nodes in the graph's order; a constant's ``data`` is its offset in the
payload (its length follows from shape and dtype). Equal constants are stored once. JSON's lists
become tuples again, which is all that attributes may hold.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import FormatError, GraphError
from edgekit.formats.base import InputShapes, malformed_is_format_error
from edgekit.graph.int4 import pack, unpack
from edgekit.graph.ir import DTYPES, Graph, Node, QuantParams, Tensor, storage

MAGIC = b"EDGEKITG"
VERSION = 1
_ALIGN = 64
_PREFIX = struct.Struct("<8sII32s")
_MAX_TENSOR_BYTES = 2**31


# -- writing -----------------------------------------------------------------------------------


def write_bytes(graph: Graph) -> bytes:
    """The file of ``graph``; the same graph gives the same bytes. GraphError for odd attributes."""
    payload = bytearray()
    stored: dict[bytes, int] = {}
    tensors = []
    for t in graph.tensors.values():
        entry: dict[str, Any] = {"name": t.name, "shape": list(t.shape), "dtype": t.dtype}
        if t.quant is not None:
            entry["quant"] = {
                "scale": t.quant.scale.tolist(),
                "zero_point": t.quant.zero_point.tolist(),
                "axis": t.quant.axis,
            }
        if t.data is not None:
            held = pack(t.data) if t.dtype == "int4" else t.data
            raw = np.ascontiguousarray(held).astype(_little(str(held.dtype)), copy=False).tobytes()
            if raw not in stored:
                payload += bytes(-len(payload) % _ALIGN)
                stored[raw] = len(payload)
                payload += raw
            entry["data"] = stored[raw]
        tensors.append(entry)
    header = {
        "name": graph.name,
        "inputs": list(graph.inputs),
        "outputs": list(graph.outputs),
        "metadata": {str(k): str(v) for k, v in graph.metadata.items()},
        "tensors": tensors,
        "nodes": [
            {
                "name": n.name,
                "type": n.type,
                "inputs": list(n.inputs),
                "outputs": list(n.outputs),
                "attrs": {k: _plain(n, k, v) for k, v in n.attrs.items()},
            }
            for n in graph.nodes
        ],
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    body = text + bytes(-(_PREFIX.size + len(text)) % _ALIGN) + bytes(payload)
    return _PREFIX.pack(MAGIC, VERSION, len(text), hashlib.sha256(body).digest()) + body


def _little(dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype).newbyteorder("<")


def _plain(node: Node, key: str, value: Any) -> Any:
    """An attribute as JSON: int, float, bool, str and sequences of them."""
    if isinstance(value, (tuple, list)):
        return [_plain(node, key, v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float, str)):
        return value
    raise GraphError(
        f"node '{node.name}' ({node.type}): attribute '{key}' is a {type(value).__name__}; "
        "int, float, bool, str and tuples of them can be stored"
    )


def write(graph: Graph, path: Path) -> None:
    """Write ``graph`` to exactly ``path``; :func:`edgekit.formats.save` is what users call."""
    Path(path).write_bytes(write_bytes(graph))


# -- reading -----------------------------------------------------------------------------------


def read_bytes(data: bytes, name: str = "graph.ekg") -> Graph:
    """The validated graph in the bytes of a file called ``name``; FormatError when malformed."""
    with malformed_is_format_error(name, "ekg"):
        try:
            return _parse(data).validate()
        except FormatError as e:
            raise FormatError(f"'{name}' is not a valid .ekg file: {e}") from e


def read(path: Path, input_shapes: InputShapes | None = None) -> Graph:
    """Read a file; its shapes are fixed, so that ``input_shapes`` may only repeat them."""
    graph = read_bytes(Path(path).read_bytes(), Path(path).name)
    for key, shape in (input_shapes or {}).items():
        if key not in graph.inputs or graph.tensor(key).shape != tuple(shape):
            raise FormatError(
                f"'{Path(path).name}' has fixed shapes; input '{key}' cannot become {list(shape)}"
            )
    return graph


def _parse(data: bytes) -> Graph:
    if len(data) < _PREFIX.size:
        raise FormatError(f"it has {len(data)} bytes; the prefix alone takes {_PREFIX.size}")
    magic, version, length, digest = _PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("its signature is missing")
    if version != VERSION:
        raise FormatError(f"it has format version {version}; {VERSION} is known")
    body = memoryview(data)[_PREFIX.size :]
    if length > len(body):
        raise FormatError(f"its header claims {length} bytes of {len(body)}")
    if hashlib.sha256(body).digest() != digest:
        raise FormatError("its checksum does not hold: it is truncated or was changed")
    header = json.loads(bytes(body[:length]))
    start = _PREFIX.size + length
    start += -start % _ALIGN
    tensors: dict[str, Tensor] = {}
    for entry in header["tensors"]:
        t = _tensor(entry, data, start)
        if t.name in tensors:
            raise FormatError(f"two tensors are named '{t.name}'")
        tensors[t.name] = t
    nodes = [
        Node(
            _text(n["name"]),
            _text(n["type"]),
            tuple(None if i is None else _text(i) for i in n["inputs"]),
            tuple(_text(o) for o in n["outputs"]),
            {_text(k): _tuples(v) for k, v in n["attrs"].items()},
        )
        for n in header["nodes"]
    ]
    return Graph(
        _text(header["name"]),
        tensors,
        nodes,
        tuple(_text(i) for i in header["inputs"]),
        tuple(_text(o) for o in header["outputs"]),
        {_text(k): _text(v) for k, v in header["metadata"].items()},
    )


def _tensor(entry: dict[str, Any], data: bytes, start: int) -> Tensor:
    name, dtype = _text(entry["name"]), _text(entry["dtype"])
    shape = tuple(_int(d) for d in entry["shape"])
    if dtype not in DTYPES:
        raise FormatError(f"tensor '{name}' has the dtype {dtype}")
    elements = 1
    for d in shape:
        elements *= d
    if min(shape, default=1) < 1 or elements * storage(dtype).itemsize > _MAX_TENSOR_BYTES:
        raise FormatError(f"tensor '{name}' has the shape {list(shape)}")
    quant = None
    if "quant" in entry:
        q = entry["quant"]
        axis = None if q["axis"] is None else _int(q["axis"])
        quant = QuantParams(
            np.asarray(q["scale"], np.float32), np.asarray(q["zero_point"], np.int32), axis
        )
        length = shape[axis] if axis is not None and 0 <= axis < len(shape) else 1
        if quant.scale.size != length or (axis is not None and not 0 <= axis < len(shape)):
            raise FormatError(f"tensor '{name}' has {quant.scale.size} scales for axis {axis}")
    array = None
    if "data" in entry:
        offset = _int(entry["data"])
        nbytes = (elements + 1) // 2 if dtype == "int4" else elements * np.dtype(dtype).itemsize
        if offset < 0 or start + offset + nbytes > len(data):
            raise FormatError(f"the data of tensor '{name}' is outside the file")
        if dtype == "int4":
            array = unpack(np.frombuffer(data, np.uint8, nbytes, start + offset), shape)
        else:
            array = np.frombuffer(data, _little(dtype), elements, start + offset).reshape(shape)
        if array.dtype.kind == "f" and not np.all(np.isfinite(array)):
            raise FormatError(f"the constant '{name}' holds values that are not finite numbers")
    return Tensor(name, shape, dtype, quant, array)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError(f"its header has a {type(value).__name__} where a string belongs")
    return value


def _int(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise FormatError(f"its header has a {type(value).__name__} where an integer belongs")
    return value


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if value is None or isinstance(value, dict):
        raise FormatError(f"an attribute in its header is a {type(value).__name__}")
    return value
