"""Post-training quantization: what comes out is TFLite's int8, and close to the float model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from netgen import Net, dead_network, random_inputs

from edgekit import formats
from edgekit.compress import QuantizeOptions, quantize
from edgekit.compress.equalize import equalize
from edgekit.compress.ptq import qparams
from edgekit.data import Dataset, accuracy, load_dataset, model_inputs
from edgekit.errors import InputError
from edgekit.formats import tflite
from edgekit.graph.numerics import dequantize
from edgekit.graph.reference import run


def logits_error(seed: int, **options: object) -> float:
    """Root mean square error of the logits over their deviation, on fresh data."""
    rng = np.random.default_rng(seed)
    net = Net(rng, (1, 10, 10, 3))
    x = net.conv("x", 8)
    x = net.op("ADD", [net.conv(x, 8, activation="NONE"), x], activation="RELU")
    x = net.depthwise(x)
    x = net.conv(x, 12, k=1, stride=2)
    x = net.op("AVERAGE_POOL_2D", [x], filter=(5, 5), stride=(5, 5), padding="VALID",
               activation="NONE")  # fmt: skip
    g = net.finish(net.dense(x, 10))
    q = quantize(g, random_inputs(g, rng, 64), QuantizeOptions(**options))  # type: ignore[arg-type]
    assert q.is_quantized
    data = random_inputs(g, rng, 64)
    want = run(g, data)[g.outputs[0]]
    out = q.tensor(q.outputs[0])
    assert out.quant is not None
    got = dequantize(run(q, model_inputs(q, Dataset.of(data[0])))[q.outputs[0]], out.quant)
    return float(np.sqrt(((got - want) ** 2).mean()) / want.std())


@pytest.mark.parametrize("observer", ["auto", "minmax", "percentile", "mse", "entropy"])
def test_observers_stay_close_to_float(observer: str) -> None:
    assert logits_error(11, observer=observer) < 0.12


@pytest.mark.parametrize("options", [{"per_channel": False}, {"equalize": True},
                                     {"bias_correction": False}, {"per_channel_dense": True}])  # fmt: skip
def test_options_stay_close_to_float(options: dict[str, object]) -> None:
    assert logits_error(12, **options) < 0.15


def test_equalization_helps_per_tensor_weights() -> None:
    """Channels of very different ranges ruin per-tensor weights; equalization repairs that."""
    rng = np.random.default_rng(5)
    net = Net(rng, (1, 8, 8, 3))
    w, b = net._weights((16, 3, 3, 3), 0, 0.0)
    factors = np.exp(rng.uniform(-4, 4, 16))
    x = net.op(
        "CONV_2D",
        ["x", net.const("w", net.g.tensor(w).data * factors.reshape(-1, 1, 1, 1)),
         net.const("b", net.g.tensor(b).data * factors)],
        stride=(1, 1), dilation=(1, 1), padding="SAME", activation="RELU",
    )  # fmt: skip
    w2, b2 = net._weights((8, 3, 3, 16), 0, 0.0)
    y = net.op("CONV_2D", [x, net.const("w", net.g.tensor(w2).data / factors), b2],
               stride=(1, 1), dilation=(1, 1), padding="SAME", activation="NONE")  # fmt: skip
    g = net.finish(y)
    data = random_inputs(g, rng, 32)
    np.testing.assert_allclose(run(g, data)[y], run(equalize(g), data)[y], rtol=1e-3, atol=1e-4)

    def error(on: bool) -> float:
        q = quantize(g, data, QuantizeOptions("minmax", per_channel=False, equalize=on))
        out = q.tensor(q.outputs[0])
        assert out.quant is not None
        got = dequantize(run(q, model_inputs(q, Dataset.of(data[0])))[q.outputs[0]], out.quant)
        return float(((got - run(g, data)[y]) ** 2).mean())

    assert error(True) < error(False) / 3


def test_bias_correction_moves_the_mean() -> None:
    rng = np.random.default_rng(8)
    net = Net(rng, (1, 6, 6, 32))
    g = net.finish(net.conv("x", 8, k=1, activation="NONE"))
    data = [rng.uniform(2, 3, (64, 6, 6, 32)).astype(np.float32)]  # far from zero: errors add up

    def bias_error(on: bool) -> float:
        q = quantize(g, data, QuantizeOptions("minmax", per_channel=False, bias_correction=on))
        out = q.tensor(q.outputs[0])
        assert out.quant is not None
        got = dequantize(run(q, model_inputs(q, Dataset.of(data[0])))[q.outputs[0]], out.quant)
        return float(np.abs((got - run(g, data)[g.outputs[0]]).mean(axis=(0, 1, 2))).mean())

    assert bias_error(True) < bias_error(False) / 2


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_qparams_represent_zero_and_cover_the_range(a: float, b: float) -> None:
    lo, hi = min(a, b, 0.0), max(a, b, 0.0)
    q = qparams(lo, hi)
    assert -128 <= q.zp <= 127
    if hi - lo > 1e-25:
        ends = (np.array([-128, 127]) - q.zp) * q.s
        assert ends[0] <= lo + q.s and ends[1] >= hi - q.s


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_any_network_quantizes_to_valid_tflite_int8(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = dead_network(rng, 0.2)
    q = quantize(g, random_inputs(g, rng, 6), QuantizeOptions("minmax"))
    assert q.is_quantized
    back = tflite.read_bytes(tflite.write_bytes(q), "q")
    x = random_inputs(q, rng, 3)
    np.testing.assert_array_equal(run(q, x)[q.outputs[0]], run(back, x)[back.outputs[0]])


def test_what_cannot_be_quantized_is_refused() -> None:
    rng = np.random.default_rng(0)
    net = Net(rng, (1, 4, 4, 1))
    g = net.finish(net.conv("x", 2))
    with pytest.raises(InputError, match="observer 'best' is unknown"):
        QuantizeOptions(observer="best")  # type: ignore[arg-type]
    q = quantize(g, random_inputs(g, rng, 4))
    with pytest.raises(InputError, match="partly quantized already"):
        quantize(q, random_inputs(g, rng, 4))
    net = Net(rng, (1, 4, 4, 1))
    big = net.op("MUL", ["x", net.const("k", np.full(1, 3e38))], activation="NONE")
    g = net.finish(net.op("MUL", [big, big], activation="NONE"))
    with pytest.raises(InputError, match="not finite"), np.errstate(all="ignore"):
        quantize(g, [np.full((2, 4, 4, 1), 10, np.float32)])


@pytest.mark.slow
def test_resnet8_loses_at_most_half_a_point(shared: Path) -> None:
    """200 calibration images; against the int8 model that ships with the benchmark, on val."""
    g = formats.load(shared / "zoo" / "ic_resnet8_float.tflite")
    shipped = formats.load(shared / "zoo" / "ic_resnet8_int8.tflite")
    train = load_dataset(f"{shared}/data/cifar10.npz:train_x").head(200)
    val = load_dataset(f"{shared}/data/cifar10.npz:val_x,val_y")
    q = quantize(g, model_inputs(g, train))

    def score(model: object) -> float:
        value = accuracy(run(model, model_inputs(model, val))[model.outputs[0]], val.y)  # type: ignore
        assert value is not None
        return value

    assert score(q) >= score(shipped) - 0.005
