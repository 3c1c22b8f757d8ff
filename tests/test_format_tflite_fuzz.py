"""Damaged .tflite files: always one sentence, never another exception, never slow."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from format_cases import cases, small_cnn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import EdgekitError, FormatError
from edgekit.formats.base import finish
from edgekit.formats.tflite import read_bytes, write_bytes

MODEL = write_bytes(small_cnn())
MODELS = [MODEL, *(write_bytes(g) for dtype in ("int8", "float32") for g in cases(dtype))]

FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def attempt(data: bytes) -> str | None:
    """None when the file is read, else the message; fails on any other exception, or after 1 s of work."""
    start = time.process_time()
    try:
        finish(read_bytes(data, "f.tflite"))
        message = None
    except EdgekitError as e:
        message = str(e)
        assert message
        assert "\n" not in message
    assert time.process_time() - start < 1.0
    return message


def test_every_truncation_is_refused() -> None:
    for i in range(64):
        with pytest.raises(FormatError):
            read_bytes(MODEL[: len(MODEL) * i // 64], "f.tflite")
    assert attempt(MODEL) is None


@FUZZ
@given(st.integers(0, len(MODELS) - 1), st.data())
def test_flipped_bytes(which: int, data: st.DataObject) -> None:
    model = bytearray(MODELS[which])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(model) - 1))
        model[at] = data.draw(st.integers(0, 255))
    attempt(bytes(model))


@FUZZ
@given(st.integers(0, len(MODELS) - 1), st.data())
def test_huge_claims(which: int, data: st.DataObject) -> None:
    """32-bit words (lengths, offsets, shapes, indices) replaced by extreme ones."""
    model = bytearray(MODELS[which])
    extreme = [0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000000, len(model)]
    for _ in range(data.draw(st.integers(1, 3))):
        at = 4 * data.draw(st.integers(0, len(model) // 4 - 1))
        struct.pack_into("<I", model, at, data.draw(st.sampled_from(extreme)))
    attempt(bytes(model))


@FUZZ
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes(data: bytes, signed: bool) -> None:
    data = data[:4] + b"TFL3" + data[8:] if signed else data
    assert attempt(data) is not None


def table(n_fields: int) -> bytes:
    return struct.pack(f"<HH{n_fields}H", 4 + 2 * n_fields, 4, *([0] * n_fields))


def test_one_table_named_a_million_times_is_cheap() -> None:
    """A 4 MB file whose vector of tensors names one table over and over."""
    n = 1_000_000
    # 0 root -> model table at 16 with operator_codes absent, subgraphs -> vector of n offsets
    head = struct.pack("<I4s", 24, b"TFL3")
    vtable = struct.pack("<8H", 12, 12, 8, 0, 4, 0, 0, 0)  # version at 8, subgraphs at 4
    vector_at = 36
    model = struct.pack("<iII", 24 - 8, vector_at - 28, 3)
    offsets = np.arange(n, dtype=np.int64) * 4 + vector_at + 4
    body = struct.pack("<I", n) + ((24 - offsets) % 2**32).astype("<u4").tobytes()
    data = head + vtable + model + body
    message = attempt(data)
    assert message is not None
    assert "1000000 tables" in message


def test_many_tensors_that_share_one_large_buffer_are_refused_quickly() -> None:
    """Each use of a constant is checked for NaN: a small file must not buy many of them."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph = next(g for g in cases("float32") if g.nodes[0].type == "CONCATENATION")
    m = schema.ModelT.InitFromPackedBuf(write_bytes(graph), 0)
    sub, big = m.subgraphs[0], 1 << 22
    buffer = schema.BufferT()
    buffer.data = np.zeros(4 * big, np.uint8)
    m.buffers.append(buffer)
    first = len(sub.tensors)
    for i in range(3000):
        t = schema.TensorT()
        t.name, t.type, t.shape, t.buffer = f"t{i}", 0, [1, 1, 1, big], len(m.buffers) - 1
        sub.tensors.append(t)
    sub.operators[0].inputs = [0, *range(first, first + 3000)]
    b = flatbuffers.Builder(1 << 25)
    b.Finish(m.Pack(b), b"TFL3")
    message = attempt(bytes(b.Output()))
    assert message is not None
    assert "constants are used more than" in message
