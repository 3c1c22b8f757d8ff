"""The internal graph file: lossless, deterministic, refuses everything that is not whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_cases import Q, assert_same, cases, small_cnn
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, FormatError, GraphError
from edgekit.formats import load, save
from edgekit.formats.ekg import _PREFIX, MAGIC, VERSION, read_bytes, write_bytes
from edgekit.graph.ir import Graph, Tensor

FILE = write_bytes(small_cnn())
GRAPHS = [g for dtype in ("float32", "int8", "int16") for g in cases(dtype)]


def signed(header: bytes, payload: bytes = b"") -> bytes:
    """A file with a valid checksum around any header."""
    body = header + bytes(-(_PREFIX.size + len(header)) % 64) + payload
    return _PREFIX.pack(MAGIC, VERSION, len(header), hashlib.sha256(body).digest()) + body


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = _PREFIX.unpack_from(data)[2]
    start = _PREFIX.size + length
    return json.loads(data[_PREFIX.size : start]), data[start + -start % 64 :]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda g: g.nodes[0].type)
def test_round_trip_is_exact(graph: Graph) -> None:
    data = write_bytes(graph)
    back = read_bytes(data)
    assert_same(graph, back)
    assert [n.name for n in graph.nodes] == [n.name for n in back.nodes]
    assert list(graph.tensors) == list(back.tensors)
    assert write_bytes(back) == data


def test_names_metadata_and_odd_floats_survive() -> None:
    graph = Graph("grüße", {}, [], ("x",), ("y",), {"source": "ä.onnx", "format": "onnx"})
    graph.add_tensor(Tensor("x", (1, 3), "float32"))
    graph.add_tensor(Tensor("y", (1, 3), "float32"))
    graph.add_node("LEAKY_RELU", ["x"], ["y"], {"alpha": 0.1 + 0.2})
    back = read_bytes(write_bytes(graph))
    assert (back.name, back.metadata) == (graph.name, graph.metadata)
    assert back.nodes[0].attrs == {"alpha": 0.1 + 0.2}
    scale = np.nextafter(np.float32(0.1), np.float32(1))
    graph = small_cnn()
    graph.tensors["x"] = graph.tensor("x").with_(quant=Q(float(scale), 3))
    quant = read_bytes(write_bytes(graph)).tensor("x").quant
    assert quant is not None
    assert quant.scale[0] == scale


def test_attributes_that_are_not_plain_are_refused() -> None:
    graph = small_cnn()
    graph.nodes[0] = graph.nodes[0].with_attrs(extra={"a": 1})
    with pytest.raises(GraphError, match=r"conv_2d.*'extra' is a dict"):
        write_bytes(graph)


def test_constants_are_aligned_and_shared() -> None:
    header, payload = parts(FILE)
    offsets = [t["data"] for t in header["tensors"] if "data" in t]
    assert offsets
    assert all(o % 64 == 0 for o in offsets)
    graph = small_cnn()
    graph.tensors["twin"] = graph.tensor("w").with_(name="twin")
    assert len(parts(write_bytes(graph))[1]) == len(payload)


def test_every_truncation_and_every_flip_is_refused() -> None:
    for i in range(64):
        with pytest.raises(FormatError):
            read_bytes(FILE[: len(FILE) * i // 64])
    for at in range(0, len(FILE), 97):
        with pytest.raises(FormatError):
            read_bytes(FILE[:at] + bytes([FILE[at] ^ 0x10]) + FILE[at + 1 :])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("tensors", 0, "shape"), [1, -8, 8, 2]),
        (("tensors", 0, "shape"), [1 << 40]),
        (("tensors", 0, "shape"), "abc"),
        (("tensors", 0, "dtype"), "float128"),
        (("tensors", 0, "quant", "scale"), [0]),
        (("tensors", 0, "quant", "scale"), [1, 2]),
        (("tensors", 0, "quant", "axis"), 9),
        (("tensors", 1, "data"), 1 << 40),
        (("tensors", 1, "data"), -64),
        (("tensors", 1, "name"), "x"),
        (("nodes", 0, "attrs"), {"stride": None}),
        (("nodes", 0, "attrs"), {}),
        (("nodes", 0, "inputs"), ["nowhere"]),
        (("nodes", 0, "inputs"), [["x"]]),
        (("nodes", 0, "type"), "NO_SUCH_OP"),
        (("nodes",), {}),
        (("inputs",), ["w"]),
        (("metadata",), [1]),
        (("name",), 3),
    ],
)
def test_inconsistent_headers_are_refused(path: tuple[Any, ...], value: Any) -> None:
    header, payload = parts(FILE)
    at: Any = header
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(EdgekitError) as e:
        read_bytes(signed(json.dumps(header).encode(), payload))
    assert "\n" not in str(e.value)


def test_weights_that_are_not_finite_are_refused() -> None:
    graph = next(g for g in cases("float32") if g.nodes[0].type == "CONV_2D")
    data = graph.tensor("c0").data
    assert data is not None
    bad = data.copy()
    bad[0, 0, 0, 0] = np.nan
    graph.tensors["c0"] = graph.tensor("c0").with_(data=bad)
    with pytest.raises(FormatError, match="'c0' holds values that are not finite"):
        read_bytes(write_bytes(graph))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_header_is_an_edgekit_error(header: bytes) -> None:
    with pytest.raises(EdgekitError):
        read_bytes(signed(header))
    with pytest.raises(EdgekitError):
        read_bytes(header)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["tensors", "nodes", "inputs", "outputs", "metadata", "name"]), JSON)
def test_any_json_is_an_edgekit_error_or_a_graph(key: str, value: Any) -> None:
    header, payload = parts(FILE)
    header[key] = value
    try:
        read_bytes(signed(json.dumps(header).encode(), payload))
    except EdgekitError as e:
        assert "\n" not in str(e)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(FormatError):
        read_bytes(signed(b'{"tensors":' + b"[" * 100_000))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "m.ekg"
    save(small_cnn(), path)
    assert path.read_bytes() == FILE
    graph = load(path)
    assert_same(small_cnn(), graph)
    assert graph.metadata == {"source": "m.ekg", "format": "ekg"}
    assert load(path, input_shapes={"x": (1, 8, 8, 2)}).inputs == ("x",)
    with pytest.raises(FormatError, match="fixed shapes; input 'x' cannot become"):
        load(path, input_shapes={"x": (1, 9, 9, 2)})


def test_a_line_break_in_a_name_does_not_break_the_sentence() -> None:
    header, payload = parts(FILE)
    header["inputs"] = ["\n\x1b[2J"]
    with pytest.raises(EdgekitError) as caught:
        read_bytes(signed(json.dumps(header).encode(), payload))
    assert str(caught.value).isprintable() and "\\n" in str(caught.value)
