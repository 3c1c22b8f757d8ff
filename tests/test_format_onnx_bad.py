"""Malformed .onnx files: one sentence, never another exception."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_nets import Net

from edgekit.errors import FormatError, InputError, UnsupportedError
from edgekit.formats import load
from edgekit.formats.onnx_read import from_model


def model() -> onnx.ModelProto:
    n = Net()
    x = n.input("x", 1, 3, 6, 6)
    y = n.op("Conv", x, n.weight(4, 3, 3, 3, name="kernel"), n.weight(4, name="bias"))
    y = n.op("Reshape", n.op("Relu", y), n.ints(1, -1))
    s = n.const(0.1)
    y = n.op("Gemm", n.op("Mul", y, s), n.weight(64, 3))
    return n.model(n.op("Softmax", y))


def refused(path: Path) -> InputError:
    with pytest.raises(InputError) as e:
        load(path)
    assert "\n" not in str(e.value) and str(path.parent) not in str(e.value)
    return e.value


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"not a model at all" * 20, b"\x08\x0a", bytes(range(256)) * 64]
)
def test_garbage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    assert isinstance(refused(path), FormatError)


def test_truncations_and_flipped_bytes(tmp_path: Path) -> None:
    """Every mutation loads or is refused with one sentence."""
    data = model().SerializeToString()
    rng = random.Random(0)
    path = tmp_path / "bad.onnx"
    refusals = 0
    for k in range(150):
        bad = bytearray(data)
        if k % 3 == 0:
            bad = bad[: rng.randrange(1, len(bad))]
        for _ in range(k % 4):
            i = rng.randrange(len(bad))
            bad[i] = rng.choice((bad[i] ^ 1 << rng.randrange(8), 0, 255))
        path.write_bytes(bad)
        try:
            load(path)
        except (FormatError, UnsupportedError, InputError) as e:
            refusals += 1
            assert "\n" not in str(e)
    assert refusals > 40


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_numbers_name_the_tensor(tmp_path: Path, value: float) -> None:
    m = model()
    kernel = next(i for i in m.graph.initializer if i.name == "kernel")
    data = onnx.numpy_helper.to_array(kernel).copy()
    data[1, 2, 0, 1] = value
    kernel.CopyFrom(onnx.numpy_helper.from_array(data, "kernel"))
    path = tmp_path / "nan.onnx"
    onnx.save(m, path)
    assert "'kernel' of 'nan.onnx' holds NaN or infinity" in str(refused(path))


def test_missing_external_data(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(model(), path, save_as_external_data=True, location="net.bin", size_threshold=0)
    load(path)
    (tmp_path / "net.bin").unlink()
    assert isinstance(refused(path), FormatError)


@pytest.mark.parametrize("huge", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_a_small_file_cannot_ask_for_gigabytes(huge: str) -> None:
    n = Net()
    x = n.input("x", 1, 4)
    big = n.ints(100_000, 100_000, 100)
    if huge == "ConstantOfShape":
        c = n.op(huge, big)
    elif huge == "Range":
        c = n.op(huge, n.const(0, np.int64), n.const(1 << 40, np.int64), n.const(1, np.int64))
    else:
        c = n.op(huge, n.const(np.ones((1, 1, 1))), big)
    graph = onnx.helper.make_graph(
        [*n.nodes, onnx.helper.make_node("Add", [x, c], ["y"])],
        "huge",
        n.inputs,
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        n.inits,
    )
    m = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    with pytest.raises(FormatError, match=r"makes a constant of .* elements"):
        from_model(m)


def test_inconsistent_models() -> None:
    m = model()
    m.graph.node[0].input[0] = "nowhere"
    with pytest.raises(FormatError, match="nowhere"):
        from_model(m)
    m = model()
    m.graph.output[0].name = "nothing"
    with pytest.raises(FormatError, match="'nothing' is produced by nothing"):
        from_model(m)
    m = model()
    del m.opset_import[:]
    with pytest.raises(FormatError, match="opset"):
        from_model(m)
    m = model()
    m.opset_import[0].version = 999
    with pytest.raises(UnsupportedError, match="opset 999"):
        from_model(m)


def test_control_flow_is_refused_by_name() -> None:
    n = Net()
    x = n.input("x", 1, 4)
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["b"])],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("b", 1, [1, 4])],
    )
    y = n.op("If", n.op("ReduceMax", n.op("Cast", x, to=9)), then_branch=body, else_branch=body)
    with pytest.raises(UnsupportedError, match=r"\(If\)"):
        from_model(n.model(y))
