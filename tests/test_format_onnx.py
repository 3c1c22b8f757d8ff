"""Reading ONNX: every operator against ONNX Runtime, dynamic shapes, refusals by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_nets import Net, agree, count, types

from edgekit.errors import InputError, UnsupportedError
from edgekit.formats import load
from edgekit.formats.onnx_read import from_model

pytest.importorskip("onnxruntime", reason="ONNX Runtime is what the reader is compared with")

IMAGE = (1, 4, 9, 8)


def one(build: Callable[[Net, str], str], *shape: int, opset: int = 21) -> onnx.ModelProto:
    net = Net(opset)
    x = net.input("x", *(shape or IMAGE))
    return net.model(build(net, x))


def resize(mode: str, coord: str, size: tuple[int, int], **attrs: str) -> Callable[[Net, str], str]:
    def build(n: Net, x: str) -> str:
        sizes = n.ints(1, 4, *size)
        return n.op(
            "Resize", x, "", "", sizes, mode=mode, coordinate_transformation_mode=coord, **attrs
        )

    return build


CASES: dict[str, onnx.ModelProto] = {
    "conv": one(lambda n, x: n.op("Conv", x, n.weight(6, 4, 3, 3), n.weight(6))),
    "conv same upper": one(
        lambda n, x: n.op("Conv", x, n.weight(6, 4, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2])
    ),
    "conv same lower": one(
        lambda n, x: n.op("Conv", x, n.weight(6, 4, 2, 2), auto_pad="SAME_LOWER", strides=[2, 1])
    ),
    "conv pads": one(
        lambda n, x: n.op("Conv", x, n.weight(6, 4, 3, 3), pads=[2, 0, 1, 3], strides=[2, 1])
    ),
    "conv dilated": one(lambda n, x: n.op("Conv", x, n.weight(3, 4, 3, 3), dilations=[2, 1])),
    "conv grouped": one(lambda n, x: n.op("Conv", x, n.weight(6, 2, 3, 3), group=2)),
    "depthwise": one(lambda n, x: n.op("Conv", x, n.weight(8, 1, 3, 3), n.weight(8), group=4)),
    "conv 1d": one(lambda n, x: n.op("Conv", x, n.weight(5, 4, 3), pads=[1, 1]), 1, 4, 12),
    "transposed": one(
        lambda n, x: n.op(
            "ConvTranspose",
            x,
            n.weight(4, 5, 3, 3),
            n.weight(5),
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            output_padding=[1, 1],
        )
    ),
    "transposed valid": one(
        lambda n, x: n.op("ConvTranspose", x, n.weight(4, 3, 2, 3), strides=[2, 3])
    ),
    "transposed pads": one(
        lambda n, x: n.op("ConvTranspose", x, n.weight(4, 3, 4, 4), strides=[2, 2], pads=[1] * 4)
    ),
    "max pool": one(
        lambda n, x: n.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    ),
    "max pool ceil": one(
        lambda n, x: n.op("MaxPool", x, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)
    ),
    "average pool": one(
        lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 3], strides=[2, 1], pads=[1] * 4)
    ),
    "average pool counting": one(
        lambda n, x: n.op("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)
    ),
    "global average": one(lambda n, x: n.op("GlobalAveragePool", x)),
    "global max": one(lambda n, x: n.op("GlobalMaxPool", x)),
    "batch norm": one(
        lambda n, x: n.op(
            "BatchNormalization",
            x,
            n.weight(4),
            n.weight(4),
            n.weight(4),
            n.const([0.5, 1, 2, 3]),
        )
    ),
    "layer norm": one(
        lambda n, x: n.op("LayerNormalization", x, n.weight(8), n.weight(8), axis=-1), 1, 5, 8
    ),
    "layer norm two axes": one(
        lambda n, x: n.op("LayerNormalization", x, n.weight(5, 8), axis=1), 1, 5, 8
    ),
    "gemm": one(
        lambda n, x: n.op("Gemm", x, n.weight(6, 3), n.weight(1, 3), alpha=0.5, beta=2.0),
        1,
        6,
    ),
    "gemm transposed": one(
        lambda n, x: n.op("Gemm", x, n.weight(3, 6), n.weight(3), transB=1), 1, 6
    ),
    "matmul constant": one(lambda n, x: n.op("MatMul", x, n.weight(6, 3)), 1, 4, 6),
    "matmul": one(lambda n, x: n.op("MatMul", x, n.op("Transpose", x, perm=[0, 2, 1])), 1, 4, 6),
    "pow": one(lambda n, x: n.op("Pow", x, n.const(2.0))),
    "pow cube": one(lambda n, x: n.op("Pow", x, n.const(3.0))),
    "sqrt reciprocal": one(lambda n, x: n.op("Reciprocal", n.op("Sqrt", n.op("Exp", x)))),
    "abs neg": one(lambda n, x: n.op("Neg", n.op("Abs", x))),
    "arithmetic": one(
        lambda n, x: n.op(
            "Div", n.op("Sub", n.op("Mul", x, n.weight(4, 1, 1)), n.weight(8)), n.const(3.0)
        )
    ),
    "min max": one(lambda n, x: n.op("Min", n.op("Max", x, n.const(-0.3)), n.const(0.4))),
    "sum of three": one(lambda n, x: n.op("Sum", x, n.op("Neg", x), n.op("Abs", x))),
    "relu clip": one(lambda n, x: n.op("Clip", n.op("Relu", x), n.const(0), n.const(6))),
    "clip": one(lambda n, x: n.op("Clip", x, n.const(-0.5), n.const(0.7))),
    "clip one side": one(lambda n, x: n.op("Clip", x, "", n.const(0.7))),
    "leaky": one(lambda n, x: n.op("LeakyRelu", x, alpha=0.2)),
    "prelu": one(lambda n, x: n.op("PRelu", x, n.weight(4, 1, 1))),
    "elu": one(lambda n, x: n.op("Elu", x, alpha=0.7)),
    "selu": one(lambda n, x: n.op("Selu", x)),
    "log": one(lambda n, x: n.op("Log", n.op("Exp", x))),
    "log softmax": one(lambda n, x: n.op("LogSoftmax", x, axis=-1), 1, 7),
    "log softmax channels": one(lambda n, x: n.op("LogSoftmax", x, axis=1)),
    "softplus": one(lambda n, x: n.op("Softplus", x)),
    "mish": one(lambda n, x: n.op("Mish", x)),
    "instance norm": one(
        lambda n, x: n.op("InstanceNormalization", x, n.weight(4), n.weight(4), epsilon=1e-3)
    ),
    "group norm": one(
        lambda n, x: n.op("GroupNormalization", x, n.weight(4), n.weight(4), num_groups=2)
    ),
    "gelu": one(lambda n, x: n.op("Gelu", x)),
    "gelu tanh": one(lambda n, x: n.op("Gelu", x, approximate="tanh")),
    "hard": one(lambda n, x: n.op("Add", n.op("HardSwish", x), n.op("HardSigmoid", x))),
    "sigmoid tanh": one(lambda n, x: n.op("Tanh", n.op("Sigmoid", x))),
    "softmax": one(lambda n, x: n.op("Softmax", x, axis=-1), 1, 7),
    "softmax channels": one(lambda n, x: n.op("Softmax", x, axis=1)),
    "reduce": one(lambda n, x: n.op("ReduceMean", x, n.ints(2, 3), keepdims=0)),
    "reduce all": one(lambda n, x: n.op("ReduceSum", x, keepdims=1)),
    "reduce max": one(lambda n, x: n.op("ReduceMax", x, n.ints(-1), keepdims=0)),
    "reduce min": one(lambda n, x: n.op("ReduceMin", x, n.ints(1))),
    "reduce l2": one(lambda n, x: n.op("ReduceL2", x, n.ints(1))),
    "argmax": one(lambda n, x: n.op("ArgMax", x, axis=1, keepdims=0)),
    "concat": one(lambda n, x: n.op("Concat", x, n.op("Relu", x), axis=1)),
    "pad": one(lambda n, x: n.op("Pad", x, n.ints(0, 1, 0, 2, 0, 0, 3, 1), n.const(0.5))),
    "pad reflect": one(lambda n, x: n.op("Pad", x, n.ints(0, 0, 2, 1, 0, 0, 0, 3), mode="reflect")),
    "pad edge": one(lambda n, x: n.op("Pad", x, n.ints(0, 1, 0, 2, 0, 0, 3, 1), mode="edge")),
    "tile": one(lambda n, x: n.op("Tile", x, n.ints(1, 2, 1, 3))),
    "slice": one(
        lambda n, x: n.op("Slice", x, n.ints(1, -1), n.ints(4, -9), n.ints(1, 3), n.ints(2, -2))
    ),
    "gather": one(lambda n, x: n.op("Gather", x, n.ints(2, 0, 3), axis=1)),
    "gather scalar": one(lambda n, x: n.op("Gather", x, n.const(-1, np.int64), axis=1), 1, 5, 6),
    "expand": one(lambda n, x: n.op("Expand", x, n.ints(1, 3, 5)), 1, 1, 5),
    "squeeze": one(
        lambda n, x: n.op("Unsqueeze", n.op("Squeeze", n.op("GlobalAveragePool", x)), n.ints(0))
    ),
    "flatten": one(lambda n, x: n.op("Flatten", n.op("Relu", x))),
    "shape chain": one(
        lambda n, x: n.op(
            "Reshape",
            x,
            n.op("Concat", n.op("Shape", x, start=0, end=1), n.ints(-1), axis=0),
        )
    ),
    "depth to space": one(lambda n, x: n.op("DepthToSpace", x, blocksize=2)),
    "depth to space crd": one(lambda n, x: n.op("DepthToSpace", x, blocksize=2, mode="CRD")),
    "space to depth": one(lambda n, x: n.op("SpaceToDepth", x, blocksize=2), 1, 2, 6, 4),
    "resize floor": one(resize("nearest", "asymmetric", (18, 16), nearest_mode="floor")),
    "resize half pixel": one(resize("nearest", "half_pixel", (18, 24))),
    "resize odd": one(resize("nearest", "asymmetric", (13, 11), nearest_mode="ceil")),
    "resize linear": one(resize("linear", "half_pixel", (18, 16))),
    "resize linear torch": one(resize("linear", "pytorch_half_pixel", (5, 7))),
    "resize corners": one(resize("linear", "align_corners", (17, 15))),
    "resize asymmetric": one(resize("linear", "asymmetric", (18, 16))),
}


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str) -> None:
    graph = agree(CASES[name])
    assert not any("~~" in t for t in graph.tensors)


def test_split() -> None:
    net = Net()
    x = net.input("x", *IMAGE)
    a, b = net.op("Split", x, net.ints(1, 3), outputs=2, axis=1)
    agree(net.model(net.op("Relu", b), net.op("Neg", a)))


def test_dropout_and_identity_leave_nothing() -> None:
    graph = agree(one(lambda n, x: n.op("Relu", n.op("Identity", n.op("Dropout", x)))))
    assert types(graph) == ["RELU"]


@pytest.mark.parametrize("form", range(4))
def test_gelu_written_with_erf(form: int) -> None:
    def build(n: Net, x: str) -> str:
        inner = n.op("Div", x, n.const(2**0.5)) if form % 2 else n.op("Mul", n.const(0.5**0.5), x)
        one_erf = n.op("Add", n.op("Erf", inner), n.const(1.0))
        if form == 0:
            return n.op("Mul", n.op("Mul", x, one_erf), n.const(0.5))
        if form == 1:
            return n.op("Mul", n.op("Mul", x, n.const(0.5)), one_erf)
        if form == 2:
            return n.op("Mul", x, n.op("Mul", n.const(0.5), one_erf))
        return n.op("Div", n.op("Mul", one_erf, x), n.const(2.0))

    assert types(agree(one(build, 1, 5))) == ["GELU"]


@settings(max_examples=25, deadline=None)
@given(
    h=st.integers(3, 8),
    w=st.integers(3, 8),
    k=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    s=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    group=st.sampled_from([1, 2, 4]),
    kind=st.sampled_from(["Conv", "MaxPool", "AveragePool", "ConvTranspose"]),
    ceil=st.booleans(),
)
def test_windows(
    h: int,
    w: int,
    k: tuple[int, int],
    s: tuple[int, int],
    pads: list[int],
    group: int,
    kind: str,
    ceil: bool,
) -> None:
    """Random windows: padding smaller than the kernel, as every framework requires of pooling."""
    pads = [min(p, k[i % 2] - 1) for i, p in enumerate(pads)]
    net = Net()
    x = net.input("x", 1, 4, h, w)
    attrs = {"kernel_shape": k, "strides": s, "pads": pads}
    if kind == "Conv":
        y = net.op(kind, x, net.weight(4, 4 // group, *k), net.weight(4), group=group, **attrs)
    elif kind == "ConvTranspose":
        y = net.op(kind, x, net.weight(4, 3, *k), net.weight(3), **attrs)
    else:
        y = net.op(kind, x, ceil_mode=int(ceil), **attrs)
    agree(net.model(y))


# -- shapes and refusals -----------------------------------------------------------------------


def dynamic(*shape: int | str) -> onnx.ModelProto:
    net = Net()
    x = net.input("image", *shape)
    return net.model(net.op("Conv", x, net.weight(2, 3, 3, 3)))


def test_symbolic_batch_becomes_one() -> None:
    assert from_model(dynamic("batch", 3, 8, 8)).tensor("image").shape == (1, 8, 8, 3)


def test_dynamic_size_is_refused_by_name_and_fixed_by_the_option() -> None:
    model = dynamic(1, 3, "height", "width")
    with pytest.raises(InputError, match=r"'height'.*'image'.*--input-shape image=1,3,32,32"):
        from_model(model)
    graph = from_model(model, {"image": (1, 3, 8, 10)})
    assert graph.tensor("image").shape == (1, 8, 10, 3)
    assert graph.metadata["input_layout:image"] == "NHWC (from NCHW)"
    with pytest.raises(InputError, match="does not fit input 'image'"):
        from_model(model, {"image": (1, 4, 8, 10)})
    with pytest.raises(InputError, match="no input 'x'"):
        from_model(model, {"x": (1, 3, 8, 8)})


def test_every_unknown_operator_is_named() -> None:
    net = Net()
    x = net.input("x", 1, 4)
    y = net.op("Cos", net.op("Relu", net.op("Sin", x)))
    with pytest.raises(UnsupportedError, match=r"'Sin_0' \(Sin\).*'Cos_2' \(Cos\)"):
        from_model(net.model(y))


def test_cubic_resize_is_refused_by_its_mode() -> None:
    with pytest.raises(UnsupportedError, match="mode 'cubic'"):
        from_model(one(resize("cubic", "half_pixel", (18, 16))))


def test_old_opset_is_converted() -> None:
    net = Net(opset=11)
    x = net.input("x", 1, 3, 4)
    graph = from_model(net.model(net.op("Squeeze", net.op("Relu", x), axes=[0])))
    assert graph.tensor(graph.outputs[0]).shape == (3, 4)


def test_float16_weights_are_widened() -> None:
    net = Net()
    x = net.input("x", 1, 6, dtype=onnx.TensorProto.FLOAT16)
    w = net.const(net.rng.normal(size=(6, 3)), np.float16)
    graph = from_model(net.model(net.op("MatMul", x, w)))
    assert {t.dtype for t in graph.tensors.values()} == {"float32"}


def test_load_from_a_file(tmp_path: object) -> None:
    path = f"{tmp_path}/net.onnx"
    onnx.save(CASES["conv"], path)
    graph = load(path)
    assert graph.metadata["source"] == "net.onnx"
    assert count(graph, "CONV_2D") == 1
