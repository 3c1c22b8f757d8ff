"""Structured pruning: dependency analysis, lossless cuts, budgets, repair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.compress import total_macs, total_parameters
from edgekit.compress.cost import Cost
from edgekit.compress.depth import find_blocks
from edgekit.compress.execute import forward
from edgekit.compress.groups import cut, find_groups, kept_channels, zeroed
from edgekit.compress.importance import NAMES, scores
from edgekit.compress.recipe import run_step
from edgekit.compress.repair import Wanted, repair, ridge_fit
from edgekit.compress.steps import StepContext
from edgekit.data import Dataset
from edgekit.errors import InputError
from edgekit.graph import Graph
from edgekit.graph.reference import run
from tests.netgen import Net, dead_network, random_inputs


def _samples(graph: Graph, count: int = 24, seed: int = 3) -> list[np.ndarray]:
    return random_inputs(graph, np.random.default_rng(seed), count)


def _context(graph: Graph, count: int = 24, **more: object) -> StepContext:
    return StepContext(data=Dataset.of(_samples(graph, count)), **more)  # type: ignore[arg-type]


def _every_form() -> Graph:
    """Residual, depthwise with a multiplier of 1, concatenation, split, grouped convolution, flatten."""
    net = Net(np.random.default_rng(5), (1, 6, 6, 3), "forms")
    x = net.conv("x", 8)  # stem and residual
    y = net.conv(net.conv(x, 6), 8, activation="NONE")
    x = net.op("ADD", [x, y], activation="RELU")
    d = net.depthwise(x)  # tied to the stem
    a, b = net.conv(d, 4, k=1), net.conv(d, 6, k=1)
    c = net.op("CONCATENATION", [a, b], axis=3, activation="NONE")
    e = net.conv(c, 8)
    node = net.g.add_node("SPLIT", [e], ["s1", "s2"], {"axis": 3, "sizes": (4, 4)})
    t = net.g.tensor(e)
    for name in node.outputs:
        net.g.add_tensor(t.with_(name=name, shape=(*t.shape[:3], 4)))
    f = net.op("ADD", [net.conv("s1", 5, k=1), net.conv("s2", 5, k=1)], activation="NONE")
    h = net.conv(f, 8, k=1)
    w, bias = net._weights((8, 3, 3, 4), 0, 0.0)  # two groups of 4 channels
    gr = net.op("CONV_2D", [h, w, bias], stride=(1, 1), dilation=(1, 1), padding="SAME",
                activation="RELU")  # fmt: skip
    flat = net.op("RESHAPE", [net.conv(gr, 3, k=1)], new_shape=(1, 108))
    return net.finish(net.op("SOFTMAX", [net.dense(flat, 4)], beta=1.0))


def test_groups_of_every_form() -> None:
    g = _every_form()
    groups = find_groups(g)
    by_producer = {p: gr for gr in groups for p in gr.producers}
    stem = by_producer["conv_2d"]
    assert set(stem.producers) == {"conv_2d", "conv_2d_2", "depthwise_conv_2d"} and stem.units == 8
    assert set(stem.readers) == {"conv_2d_1", "conv_2d_3", "conv_2d_4"}
    first, second = by_producer["conv_2d_3"], by_producer["conv_2d_4"]
    assert (first.units, second.units) == (4, 6) and first is not second
    joined = "concatenation_out"
    assert first.tensors[joined].ravel().tolist() == [0, 1, 2, 3]
    assert second.tensors[joined].ravel().tolist() == [4, 5, 6, 7, 8, 9]
    halves = [gr for gr in groups if "conv_2d_5" in gr.producers]
    assert [gr.units for gr in halves] == [4, 4]  # what goes into s1 and what goes into s2
    assert by_producer["conv_2d_6"] is by_producer["conv_2d_7"]  # the sum of both branches
    grouped = by_producer["conv_2d_8"]
    assert grouped.kind == "groups" and grouped.units == 2 and grouped is by_producer["conv_2d_9"]
    flat = by_producer["conv_2d_10"]
    assert flat.tensors["reshape_out"].shape == (3, 36)
    with pytest.raises(InputError, match=r"'x' cannot be cut: it is an input"):
        groups.get("x")
    with pytest.raises(InputError, match="no channel group 'nothing'"):
        groups.get("nothing")


def test_cutting_every_group_keeps_the_graph_valid_and_exact_in_cost() -> None:
    g = _every_form()
    groups = find_groups(g)
    for gr in groups:
        keep = np.arange(gr.units) != 0
        pruned = cut(groups, {gr.name: keep})
        kept = np.array([o.units - (o.name == gr.name) for o in groups])
        assert total_macs(pruned) == pytest.approx(Cost(groups)(kept[None])[0])
        assert total_parameters(pruned) == pytest.approx(Cost(groups, "parameters")(kept[None])[0])
        x = _samples(pruned, 3)
        assert np.allclose(
            run(pruned, x)[pruned.outputs[0]], forward(pruned, x)[pruned.outputs[0]], atol=1e-5
        )
        first = next(iter(gr.tensors))
        assert len(kept_channels(pruned, first)) == pruned.tensor(first).shape[-1]


@given(st.integers(0, 2**31 - 1), st.data())
@settings(max_examples=12, deadline=None)
def test_removing_what_is_zero_changes_nothing(seed: int, data: st.DataObject) -> None:
    """zeroed() makes units zero where they are made; after ReLU networks cut() gives the same."""
    rng = np.random.default_rng(seed)
    g = dead_network(rng, 0.0)
    groups = find_groups(g)
    if not len(groups):
        return
    keep = {}
    for gr in groups:
        mask = rng.random(gr.units) < 0.6
        mask[int(rng.integers(gr.units))] = True
        keep[gr.name] = mask
    zero, small = zeroed(groups, keep), cut(groups, keep)
    x = _samples(g, 4, seed % 1000)
    a, b = (forward(n, x)[n.outputs[0]] for n in (zero, small))
    assert np.allclose(a, b, atol=2e-5)
    assert total_macs(small) <= total_macs(g)
    module = small.to_torch()
    assert module.to_graph().outputs == small.outputs


@given(st.integers(0, 2**31 - 1), st.sampled_from(["global", "uniform"]))
@settings(max_examples=10, deadline=None)
def test_budgets_are_kept(seed: int, allocation: str) -> None:
    g = dead_network(np.random.default_rng(seed), 0.0)
    ctx = _context(g)
    try:
        p = run_step("prune", g, ctx, macs=0.6, allocation=allocation, multiple=2)
    except InputError as e:
        assert "cannot be met" in str(e) or "no channels" in str(e)
        return
    assert total_macs(p) <= 0.6 * total_macs(g) + 1e-6
    for w in ctx.log[0]["widths"].values():
        assert w["after"] == w["before"] or w["after"] % 2 == 0


@pytest.mark.parametrize("importance", [n for n in NAMES if n != "bn"])
def test_importance_finds_the_useless(importance: str) -> None:
    """Units whose filters are zero are the least important, by every measure but chance."""
    net = Net(np.random.default_rng(2), (1, 6, 6, 2))
    x = net.conv("x", 10, dead=0.0)
    y = net.op("RESHAPE", [net.conv(x, 4, k=1)], new_shape=(1, 144))
    g = net.finish(net.op("SOFTMAX", [net.dense(y, 3)], beta=1.0))
    groups = find_groups(g)
    keep = np.ones(10, bool)
    keep[[1, 4, 7]] = False
    g = zeroed(groups, {groups.groups[0].name: keep})
    score = scores(find_groups(g), _context(g, 40), importance)[groups.groups[0].name]  # type: ignore[arg-type]
    assert score.shape == (10,) and np.all(np.isfinite(score))
    if importance not in ("random", "geometric"):
        assert set(np.argsort(score)[:3]) == {1, 4, 7}
    again = scores(find_groups(g), _context(g, 40), importance)[groups.groups[0].name]  # type: ignore[arg-type]
    assert np.array_equal(score, again)


def test_batch_norm_scale_needs_a_batch_norm() -> None:
    net = Net(np.random.default_rng(2), (1, 6, 6, 2))
    y = net.conv("x", 6, activation="NONE")
    gamma = np.array([1, 2, 0.01, 3, 1, 0.5])
    y = net.op("MUL", [y, net.const("gamma", gamma)], activation="NONE")
    y = net.op("ADD", [y, net.const("beta", np.zeros(6))], activation="RELU")
    g = net.finish(net.conv(y, 2))
    groups = find_groups(g)
    score = scores(groups, StepContext(), "bn")[groups.groups[0].name]
    assert np.argmin(score) == 2 and groups.groups[0].units == 6
    plain = dead_network(np.random.default_rng(0), 0.0)
    with pytest.raises(InputError, match="folded"):
        scores(find_groups(plain), StepContext(), "bn")


def test_ridge_recovers_a_linear_layer() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3, [1, 100, 1e-3, 1], (500, 4)).astype(np.float32)
    w, b = rng.normal(0, 1, (3, 4)), rng.normal(0, 1, 3)
    y = (x @ w.T + b).astype(np.float32)
    got, bias = ridge_fit(x, Wanted(y), np.zeros((3, 4)), 1e-12)
    assert np.allclose(x @ got.T + bias, y, atol=2e-2)
    same, _ = ridge_fit(np.ones((9, 4), np.float32), Wanted(y[:9]), w, 1e-3)
    assert np.array_equal(same, w)  # nothing varies: only the bias can be fitted


def test_ridge_looks_past_the_activation_only_where_it_matters() -> None:
    """Below zero a ReLU hides the target: a fit that is exact above it beats plain least squares."""
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (800, 3)).astype(np.float32)
    true = x @ np.array([1.0, -2.0, 0.5]) + 0.3
    y = np.where(true > 0, true, 5 * true - 1)[:, None].astype(np.float32)
    errors = []
    for low in (-np.inf, 0.0):
        w, b = ridge_fit(x, Wanted(y, low=low), np.zeros((1, 3)), 1e-9)
        errors.append(float(((np.maximum(x @ w.T + b, 0) - np.maximum(y, 0)) ** 2).mean()))
    assert errors[1] < 0.2 * errors[0]


def test_repair_undoes_what_redundancy_allows() -> None:
    """A channel that is a sum of two others can be cut without loss once its readers are refitted."""
    net = Net(np.random.default_rng(4), (1, 8, 8, 3))
    x = net.conv("x", 6, activation="NONE")
    y = net.conv(x, 5)
    g = net.finish(net.conv(y, 4, k=1, activation="NONE"))
    first = g.nodes[0]
    for i in (1, 2):
        t = g.tensor(first.inputs[i])
        assert t.data is not None
        data = t.data.copy()
        data[5] = data[0] + data[2]
        g.tensors[t.name] = t.with_(data=data)
    groups = find_groups(g)
    keep = np.arange(6) != 5
    p = cut(groups, {groups.groups[0].name: keep})
    x_ = _samples(g, 40)
    want = forward(g, x_)[g.outputs[0]]
    fixed = repair(p, g, x_, ridge=1e-7)
    before, after = (
        float(((forward(n, x_)[n.outputs[0]] - want) ** 2).mean() / want.var()) for n in (p, fixed)
    )
    # not zero: at the border the padding of the second layer sees a bias that is not there
    assert after < 0.02 * before
    unchanged = repair(g, g, x_)
    assert np.allclose(forward(unchanged, x_)[g.outputs[0]], want, atol=1e-3)


@given(st.integers(0, 2**31 - 1), st.sampled_from(["least_squares", "bias", "affine"]))
@settings(max_examples=10, deadline=None)
def test_repair_of_any_network(seed: int, method: str) -> None:
    g = dead_network(np.random.default_rng(seed), 0.0)
    groups = find_groups(g)
    keep = {gr.name: np.arange(gr.units) != 0 for gr in groups if gr.units > 1}
    p = repair(cut(groups, keep), g, _samples(g, 12), method=method, rows=500)  # type: ignore[arg-type]
    out = run(p, _samples(p, 3))[p.outputs[0]]
    assert np.all(np.isfinite(out))


def test_blocks_can_be_dropped() -> None:
    g = _every_form()
    blocks = find_blocks(g)
    assert [b.name for b in blocks] == ["add"] and blocks[0].nodes == ("conv_2d_1", "conv_2d_2")
    ctx = _context(g)
    p = run_step("drop_blocks", g, ctx, count=1)
    assert ctx.log[0]["dropped"] == ["add"] and total_macs(p) < total_macs(g)
    with pytest.raises(InputError, match="cannot be met"):
        run_step("drop_blocks", g, _context(g), macs=0.01)
    with pytest.raises(InputError, match="accepted are add"):
        run_step("drop_blocks", g, _context(g), blocks=["conv_2d"])


def _attention(heads: int = 4, width: int = 3, length: int = 5) -> Graph:
    rng = np.random.default_rng(9)
    net = Net(rng, (1, length, 7), "attention")
    e = heads * width

    def dense(x: str, out: int) -> str:
        w, b = net._weights((out, net.channels(x)), 0, 0.0)
        return net.op("FULLY_CONNECTED", [x, w, b], activation="NONE", keep_num_dims=True)

    def split(x: str, perm: tuple[int, ...]) -> str:
        x = net.op("RESHAPE", [dense(x, e)], new_shape=(1, length, heads, width))
        return net.op("TRANSPOSE", [x], perm=perm)

    q, k, v = split("x", (0, 2, 1, 3)), split("x", (0, 2, 3, 1)), split("x", (0, 2, 1, 3))
    s = net.op("BATCH_MATMUL", [q, k], adj_x=False, adj_y=False)
    s = net.op("MUL", [s, net.const("scale", np.array(0.6))], activation="NONE")
    s = net.op("BATCH_MATMUL", [net.op("SOFTMAX", [s], beta=1.0), v], adj_x=False, adj_y=False)
    s = net.op("TRANSPOSE", [s], perm=(0, 2, 1, 3))
    s = net.op("RESHAPE", [s], new_shape=(1, length, e))
    return net.finish(dense(s, 6))


def test_attention_heads_go_whole() -> None:
    g = _attention()
    groups = find_groups(g)
    (heads,) = [gr for gr in groups if gr.kind == "heads"]
    assert heads.units == 4 and len(heads.producers) == 3 and len(groups) == 1
    keep = np.array([True, False, True, True])
    p = cut(groups, {heads.name: keep})
    assert total_macs(p) == pytest.approx(Cost(groups)(np.array([[3]]))[0])
    x = _samples(g, 4)
    # the same as the whole network with that head's output columns at zero
    last = g.nodes[-1]
    w = g.tensor(last.inputs[1])
    assert w.data is not None
    silent = g.copy()
    data = w.data.copy()
    data[:, 3:6] = 0
    silent.tensors[w.name] = w.with_(data=data)
    a, b = (run(n, x)[n.outputs[0]] for n in (silent, p))
    assert np.allclose(a, b, atol=1e-5)
    assert np.allclose(b, forward(p, x)[p.outputs[0]], atol=1e-5)
    ctx = _context(g, 30)
    q = run_step("prune", g, ctx, macs=0.6, importance="fisher", repair="least_squares", multiple=1)
    assert ctx.log[0]["widths"][heads.name]["after"] < 4 and total_macs(q) <= 0.6 * total_macs(g)


BAD: list[tuple[dict[str, object], str]] = [
    ({}, "no budget"),
    ({"macs": 0.5, "parameters": 0.5}, "one of them"),
    ({"macs": 1e-6}, "cannot be met"),
    ({"macs": 0.0}, r"\(0, 1\]"),
    ({"macs": 1.5}, r"\(0, 1\]"),
    ({"layers": {"nowhere": 0.5}}, "no channel group 'nowhere'"),
    ({"layers": {"fully_connected": 0.5}}, "cannot be cut"),
    ({"cycles": 0.5}, "needs a target"),
    ({"macs": 0.8, "importance": "best"}, "'best'"),
]


@pytest.mark.parametrize(("options", "word"), BAD)
def test_bad_budgets_are_one_sentence(options: dict[str, object], word: str) -> None:
    g = _every_form()
    with pytest.raises(InputError, match=word) as e:
        run_step("prune", g, _context(g), **options)
    assert "\n" not in str(e.value)


def test_one_image_is_too_few() -> None:
    g = _every_form()
    for options in (
        {"macs": 0.8, "repair": "least_squares"},
        {"macs": 0.8, "importance": "fisher"},
    ):
        with pytest.raises(InputError, match="at least 2 samples"):
            run_step("prune", g, _context(g, 1), **options)
    with pytest.raises(InputError, match="needs samples"):
        run_step("reconstruct", g, StepContext())
    labelled = StepContext(data=Dataset.of(_samples(g, 9), np.full(9, 7)))
    with pytest.raises(InputError, match=r"labels .* run from 7 to 7"):
        run_step("prune", g, labelled, macs=0.8, importance="taylor")
