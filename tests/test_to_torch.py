"""Graph.to_torch(): the module computes what the reference executor computes, trains, comes back."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import opgen
import pytest

from edgekit.errors import GraphError, InputError, UnsupportedError
from edgekit.graph.ir import Graph, QuantParams, Tensor
from edgekit.graph.ops import infer_shapes, op_types
from edgekit.graph.reference import run
from edgekit.graph.to_torch import dequantized, to_torch

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

Q = QuantParams.per_tensor


class Builder:
    """A float graph, node by node, with shapes inferred."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("net", {}, [], ("x",), ())
        self.graph.add_tensor(Tensor("x", shape, "float32"))

    def const(self, name: str, *shape: int, mean: float = 0.0) -> str:
        fan = max(1, int(np.prod(shape[1:])))
        data = (self.rng.normal(0, 1, shape) / np.sqrt(fan) + mean).astype(np.float32)
        return self.graph.add_const(name, data).name

    def node(self, op: str, inputs: Sequence[str | None], outputs: int = 1, **attrs: object) -> str:
        names = [f"{op.lower()}_{len(self.graph.nodes)}_{i}" for i in range(outputs)]
        n = self.graph.add_node(op, inputs, names, attrs)
        for name, shape in zip(names, infer_shapes(n, self.graph.ins(n)), strict=True):
            self.graph.add_tensor(Tensor(name, shape, "float32"))
        return names[0]

    def conv(self, x: str, out: int, k: int, **attrs: object) -> str:
        c = self.graph.tensor(x).shape[3]
        i = len(self.graph.nodes)
        w, b = self.const(f"conv/{i}/w", out, k, k, c), self.const(f"conv/{i}/b", out)
        base = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": "NONE"}
        return self.node("CONV_2D", [x, w, b], **{**base, **attrs})

    def done(self, *outputs: str) -> Graph:
        self.graph.outputs = outputs
        return self.graph.validate()


def compare(graph: Graph, samples: int = 3, scale: float = 1.0) -> None:
    """The module against the executor, in both layouts."""
    rng = np.random.default_rng(1)
    x = []
    for i in graph.inputs:
        s = graph.tensor(i).shape
        tail = s[1:] if s[:1] == (1,) else s
        x.append((rng.normal(0, scale, (samples, *tail))).astype(np.float32))
    want = run(graph, x)
    for layout in ("nhwc", "nchw"):
        module = to_torch(graph, layout=layout)
        given = [torch.from_numpy(v) for v in x]
        if layout == "nchw":
            given = [v.permute(0, 3, 1, 2) if v.ndim == 4 else v for v in given]
        with torch.no_grad():
            got = module(*given)
        for name, value in zip(graph.outputs, [got] if torch.is_tensor(got) else got, strict=True):
            a = want[name]
            if layout == "nchw" and value.ndim == 4:
                value = value.permute(0, 2, 3, 1)
            assert tuple(value.shape) == a.shape
            tolerance = 1e-5 * max(float(np.abs(a).max()), 1e-6)
            np.testing.assert_allclose(value.numpy(), a, rtol=1e-5, atol=tolerance)


# -- every operator --------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(set(op_types()) - {"QUANTIZE", "DEQUANTIZE"}))
def test_every_operator_is_the_executors(op: str) -> None:
    """Float versions of the random int8 cases; paddings, strides, axes as they are drawn."""
    for i in range(8):
        rng = np.random.default_rng([zlib.crc32(op.encode()), i])
        if op == "DIV":  # float only
            graph, inputs = opgen.BY_DTYPE["float32"][op](rng)
        else:
            graph, inputs = opgen.random_case(op, rng)
        graph = dequantized(graph)
        x = [np.random.default_rng(i).normal(0, 2, v.shape).astype(np.float32) for v in inputs]
        if op in ("LOG", "SQRT", "RSQRT", "DIV"):
            x = [np.abs(v) + 0.1 for v in x]
        want = run(graph, x)
        got = to_torch(graph)(*[torch.from_numpy(v) for v in x])
        for name, value in zip(graph.outputs, [got] if torch.is_tensor(got) else got, strict=True):
            a = want[name]
            tolerance = 2e-5 * max(float(np.abs(a).max(initial=0)), 1e-6)
            assert str(value.dtype) == f"torch.{a.dtype}"
            np.testing.assert_allclose(
                value.detach().numpy(), a, rtol=1e-5, atol=tolerance, err_msg=f"{graph.nodes[0]}"
            )


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_same_padding_puts_the_odd_cell_after(size: int, stride: int, k: int) -> None:
    b = Builder(1, size, size + 1, 3)
    y = b.conv("x", 4, k, stride=(stride, stride), activation="RELU6")
    window = {"filter": (k, k), "stride": (stride, stride), "padding": "SAME", "activation": "NONE"}
    p = b.node("MAX_POOL_2D", ["x"], **window)
    a = b.node("AVERAGE_POOL_2D", ["x"], **window)
    compare(b.done(y, p, a))


def mixed() -> Graph:
    """A small network with a residual, a depthwise layer, a transposed one and a lowered norm."""
    b = Builder(1, 9, 9, 3)
    x = b.conv("x", 8, 3, stride=(2, 2), activation="RELU")
    w = b.const("dw/w", 1, 3, 3, 16)
    h = b.node(
        "DEPTHWISE_CONV_2D", [x, w, b.const("dw/b", 16)],
        stride=(1, 1), dilation=(1, 1), padding="SAME", activation="RELU6",
    )  # fmt: skip
    h = b.conv(h, 8, 1)
    h = b.node("MUL", [h, b.const("bn/mul", 8, mean=1.0)], activation="NONE")
    h = b.node("ADD", [h, b.const("bn/add", 8)], activation="NONE")
    h = b.node("ADD", [x, h], activation="RELU")
    h = b.node("MUL", [h, b.const("gain", 1, mean=0.5)], activation="NONE")
    up = b.node(
        "TRANSPOSE_CONV", [h, b.const("up/w", 4, 3, 3, 8), b.const("up/b", 4)],
        stride=(2, 2), padding="SAME", output_shape=(1, 9, 9, 4), activation="NONE",
    )  # fmt: skip
    m = b.node("MEAN", [up], axes=(1, 2), keep_dims=False)
    m = b.node("FULLY_CONNECTED", [m, b.const("fc/w", 5, 4), b.const("fc/b", 5)],
               activation="NONE", keep_num_dims=False)  # fmt: skip
    return b.done(b.node("SOFTMAX", [m], beta=1.0), up)


def test_a_network_forward() -> None:
    compare(mixed(), samples=4)


def test_gradients_reach_every_weight_and_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    graph = mixed()
    module = graph.to_torch()
    x = torch.randn(16, 9, 9, 3)
    labels = torch.arange(16) % 5
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    losses = []
    for _ in range(8):
        probabilities, up = module(x)
        loss = -torch.log(probabilities[torch.arange(16), labels]).mean() + 1e-3 * (up**2).mean()
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            for name, p in module.named_parameters():
                assert p.grad is not None and float(p.grad.abs().sum()) > 0, name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    back = module.to_graph().validate()
    changed = [
        t.name for t in graph.constants() if not np.array_equal(t.data, back.tensor(t.name).data)
    ]
    assert set(changed) == {t.name for t in graph.constants()} - {"gain"}
    with torch.no_grad():
        want = module(x)[0].numpy()
    np.testing.assert_allclose(run(back, [x.numpy()])[back.outputs[0]], want, rtol=1e-4, atol=1e-6)


def test_an_untrained_module_gives_the_same_graph_back() -> None:
    graph = mixed()
    back = to_torch(graph).to_graph()
    assert [n.type for n in back.nodes] == [n.type for n in graph.nodes]
    for t in graph.tensors.values():
        other = back.tensor(t.name)
        assert (t.shape, t.dtype) == (other.shape, other.dtype)
        assert t.data is None or t.data.tobytes() == other.data.tobytes()


def test_parameters_are_named_after_tensors() -> None:
    module = to_torch(mixed())
    names = dict(module.named_parameters())
    assert "conv_0_w" in names and "bn_mul" in names and "gain" not in names
    assert "gain" in dict(module.named_buffers())
    assert module.constant("dw/w") is names["dw_w"]
    with pytest.raises(GraphError, match="no constant 'nope'"):
        module.constant("nope")
    b = Builder(1, 4)
    awkward = [b.const(n, 4) for n in ("forward", "training", "a.b", "a/b", "/")]
    y = "x"
    for c in awkward:
        y = b.node("ADD", [y, c], activation="NONE")
    graph = b.done(y)
    compare(graph)
    assert len(dict(to_torch(graph).named_parameters())) == 5


def test_a_copy_is_independent() -> None:
    module = to_torch(mixed())
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.constant("fc/b").add_(1.0)
    assert not torch.equal(module.constant("fc/b"), other.constant("fc/b"))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module.constant("fc/b"), other.constant("fc/b"))


def test_convolutions_copy_no_layout() -> None:
    """NHWC in, NHWC out, both dense: the NCHW inside is a view."""
    b = Builder(1, 8, 8, 16)
    graph = b.done(b.conv(b.conv("x", 16, 3, activation="RELU"), 32, 3, stride=(2, 2)))
    x = torch.randn(2, 8, 8, 16)
    assert to_torch(graph)(x).is_contiguous()
    y = to_torch(graph, layout="nchw")(x.permute(0, 3, 1, 2))
    assert y.shape == (2, 32, 4, 4) and y.is_contiguous(memory_format=torch.channels_last)


# -- graphs that are not one sample a row ----------------------------------------------------------


def test_tensors_without_a_sample_axis_run_one_by_one() -> None:
    b = Builder(1, 4, 6)
    flat = b.node("RESHAPE", ["x"], new_shape=(4, 6))
    y = b.node("FULLY_CONNECTED", [flat, b.const("w", 3, 6), None], activation="RELU",
               keep_num_dims=False)  # fmt: skip
    y = b.node("TRANSPOSE", [y], perm=(1, 0))
    graph = b.done(y, b.node("RESHAPE", [y], new_shape=(1, 12)))
    compare(graph)


def test_constants_among_samples() -> None:
    b = Builder(1, 2, 3)
    c = b.const("c", 1, 2, 2)
    y = b.node("CONCATENATION", ["x", c], axis=2, activation="NONE")
    graph = b.done(y, b.node("NEG", [c]))
    compare(graph)


# -- integer graphs --------------------------------------------------------------------------------


def integer_net() -> Graph:
    g = Graph("int", {}, [], ("x",), ("y",))
    rng = np.random.default_rng(2)
    g.add_tensor(Tensor("x", (1, 6, 6, 2), "uint8", Q(0.05, 128)))
    g.add_tensor(Tensor("x8", (1, 6, 6, 2), "int8", Q(0.05, 0)))
    w = rng.integers(-127, 128, (4, 3, 3, 2)).astype(np.int8)
    scales = rng.uniform(0.002, 0.004, 4)
    g.add_const("w", w, QuantParams.per_channel(scales, 0))
    g.add_const("b", rng.integers(-2000, 2000, 4).astype(np.int32))  # no quantization of its own
    g.add_tensor(Tensor("h", (1, 6, 6, 4), "int8", Q(0.05, -128)))
    g.add_tensor(Tensor("p", (1, 6, 6, 4), "int8", Q(1 / 256, -128)))
    g.add_tensor(Tensor("y", (1, 6, 6, 4), "float32"))
    attrs = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": "RELU"}
    g.add_node("QUANTIZE", ["x"], ["x8"])
    g.add_node("CONV_2D", ["x8", "w", "b"], ["h"], attrs)
    g.add_node("LOGISTIC", ["h"], ["p"])
    g.add_node("DEQUANTIZE", ["p"], ["y"])
    return g.validate()


def test_integer_graphs_are_refused_or_dequantized() -> None:
    graph = integer_net()
    with pytest.raises(UnsupportedError, match=r"node 'quantize'.*dequantize"):
        to_torch(graph)
    module = graph.to_torch(quantized="dequantize")
    q = np.random.default_rng(3).integers(0, 256, (4, 6, 6, 2)).astype(np.uint8)
    x = ((q.astype(np.float32) - 128) * np.float32(0.05)).astype(np.float32)
    y = module(torch.from_numpy(x)).detach().numpy()
    assert np.abs(run(graph, [q])["y"] - y).max() < 0.02
    back = module.to_graph().validate()
    assert back.outputs == ("y",) and not any(t.quant for t in back.tensors.values())
    np.testing.assert_allclose(run(back, [x])["y"], y, rtol=1e-5, atol=1e-6)
    assert dict(module.named_parameters())["b"].shape == (4,)


def test_float16_constants_come_back_as_float16() -> None:
    b = Builder(1, 4)
    half = np.linspace(-1, 1, 4).astype(np.float16)
    b.graph.add_const("h", half)
    b.graph.add_tensor(Tensor("f", (4,), "float32"))
    b.graph.add_node("DEQUANTIZE", ["h"], ["f"])
    graph = b.done(b.node("ADD", ["x", "f"], activation="NONE"))
    compare(graph)
    assert to_torch(graph).to_graph().tensor("h").data.tobytes() == half.tobytes()


# -- wrong use -------------------------------------------------------------------------------------


def test_wrong_inputs_and_options_are_named() -> None:
    graph = mixed()
    module = to_torch(graph, layout="nchw")
    with pytest.raises(InputError, match=r"\[samples, 3, 9, 9\] would be accepted"):
        module(torch.zeros(1, 9, 9, 3))
    with pytest.raises(InputError, match=r"\[samples, 9, 9, 3\] would be accepted"):
        to_torch(graph)(torch.zeros(1, 3, 9, 9))
    with pytest.raises(InputError, match="input 'x' is uint8; float32 would"):
        module(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))
    with pytest.raises(InputError, match="2 inputs are given"):
        module(torch.zeros(1, 3, 9, 9), torch.zeros(1))
    with pytest.raises(InputError, match="layout is 'chwn'"):
        to_torch(graph, layout="chwn")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="quantized is 'yes'"):
        to_torch(graph, quantized="yes")  # type: ignore[arg-type]
    with torch.no_grad():
        module.constant("fc/w")[0, 0] = float("nan")
    with pytest.raises(InputError, match="'fc/w' holds values that are not finite"):
        module.to_graph()


# -- whole models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ic_resnet8_float", "ad_fcae_float", "ic_resnet_large_float"])
def test_zoo_float_models(shared: Path, name: str) -> None:
    from edgekit.formats.tflite import read

    graph = read(shared / "zoo" / f"{name}.tflite")
    compare(graph, samples=2)
    module = to_torch(graph)
    shape = graph.tensor(graph.inputs[0]).shape
    module(torch.rand(2, *shape[1:])).square().sum().backward()
    dead = [n for n, p in module.named_parameters() if p.grad is None]
    assert not dead
    back = module.to_graph()
    for t in graph.constants():
        assert t.data.tobytes() == back.tensor(t.name).data.tobytes()


@pytest.mark.parametrize("name", ["ic_resnet8_int8", "kws_dscnn_int8"])
def test_zoo_integer_models_dequantized(shared: Path, name: str) -> None:
    from edgekit.formats.tflite import read

    graph = read(shared / "zoo" / f"{name}.tflite")
    quant = graph.tensor(graph.inputs[0]).quant
    assert quant is not None
    if name.startswith("kws"):
        q = np.load(shared / "data" / "kws01.npz")["x"][:100]
    else:
        pixels = np.load(shared / "data" / "cifar10.npz")["val_x"][:100]
        q = (pixels.astype(np.int16) - 128).astype(np.int8)
    x = torch.from_numpy((q.astype(np.float32) - quant.zp) * np.float32(quant.s))
    with torch.no_grad():
        y = to_torch(graph, quantized="dequantize")(x).numpy()
    agree = y.argmax(1) == run(graph, [q])[graph.outputs[0]].argmax(1)
    assert agree.mean() > 0.95
