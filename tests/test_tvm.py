"""The TVM engine without TVM: targets, tiles, packing, support, version checks, records."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import opgen
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import DeviceError, InputError, ToolchainError
from edgekit.graph import reference
from edgekit_targets.tvm_ import build, check, isa, linear, runner, support, tune, worker
from edgekit_targets.tvm_.linear import Tile, Window

VNNI = isa.x86_64(["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"])
A76 = isa.aarch64("cortex-a76")


def _versions(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in found:
            raise metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(check.metadata, "version", version)


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ({}, "pip install 'edgekit[tvm]'"),
        ({"apache-tvm": check.TESTED_TVM, "apache-tvm-ffi": "0.1.15.post1"}, "known to crash"),
        ({"apache-tvm": "0.19.0", "apache-tvm-ffi": check.TESTED_FFI}, "0.19.0"),
    ],
)
def test_unusable_versions_are_refused_in_one_sentence(monkeypatch, found, word) -> None:
    _versions(monkeypatch, found)
    with pytest.raises(ToolchainError) as e:
        check.require()
    assert word in str(e.value) and "\n" not in str(e.value) and e.value.exit_code == 2


def test_tested_versions_are_accepted(monkeypatch) -> None:
    found = {"apache-tvm": check.TESTED_TVM, "apache-tvm-ffi": check.TESTED_FFI}
    _versions(monkeypatch, found)
    assert check.why_not() is None
    assert check.tools() == found


def test_targets_choose_the_dot_product_their_cpu_has() -> None:
    assert VNNI.dot.name == "vnni" and VNNI.bits == 512 and "+avx512vnni" in VNNI.features
    assert isa.x86_64(["avx2", "fma", "avx_vnni"]).dot.name == "vnni"
    assert isa.x86_64(["avx2", "fma"]).dot.name == "pmaddwd"
    assert isa.x86_64([]).dot.name == "widen"
    assert A76.dot.name == "sdot" and A76.qemu_cpu == "cortex-a76"
    assert isa.aarch64("cortex-a55").dot.name == "sdot"
    a53 = isa.aarch64("cortex-a53")
    assert a53.dot.name == "widen" and a53.qemu_cpu == "cortex-a53"
    assert isa.aarch64("generic", ["dotprod"]).dot.name == "sdot"
    assert isa.aarch64("cortex-a76", ["-dotprod"]).dot.name == "widen"
    for t in (VNNI, A76, a53):
        assert t.qemu_cpu != "max"
        assert worker.from_json(json.loads(json.dumps(worker.to_json(t)))) == t


@settings(max_examples=40, deadline=None)
@given(
    o=st.integers(1, 40),
    c=st.integers(1, 9),
    k=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
    lanes=st.sampled_from([4, 16]),
    group=st.sampled_from([1, 2, 4]),
    vectors=st.integers(1, 4),
)
def test_packed_weights_hold_every_weight_once(o, c, k, dilation, lanes, group, vectors) -> None:
    """Sums over the packed form, as the kernels walk it, are the sums over the weights."""
    win = Window(8, 8, c, 8, 8, o, k, (1, 1), (1, dilation), (0, 0, 0, 0))
    w = np.random.default_rng(o * 100 + c).integers(-128, 128, (o, *k, c)).astype(np.int8)
    packed = linear.pack_weights(w, win, group, lanes, vectors, "int8")
    (rv, rh), run = win.runs
    steps = -(-run // group)
    needed = -(-o // lanes)
    assert packed.size == needed * lanes * rv * rh * steps * group
    at = 0
    for first in range(0, needed, vectors):
        n = min(vectors, needed - first)
        size = n * lanes * rv * rh * steps * group
        block = packed[at : at + size].reshape(rv * rh, steps, n, lanes, group)
        at += size
        back = block.transpose(2, 3, 0, 1, 4).reshape(n * lanes, rv * rh, steps * group)
        rows = w[first * lanes : (first + n) * lanes].reshape(-1, rv * rh, run)
        assert np.array_equal(back[: rows.shape[0], :, :run], rows)
        assert not back[rows.shape[0] :].any() and not back[:, :, run:].any()


@pytest.mark.parametrize("target", [VNNI, A76, isa.x86_64(["avx2", "fma"])])
def test_tiles_fit_the_registers(target) -> None:
    for width in (1, 3, 7, 8, 14, 49, 112):
        for outputs in (1, 12, 16, 64, 1001):
            win = Window(width, width, 16, width, width, outputs, (3, 3), (1, 1), (1, 1), (1,) * 4)
            tiles = linear.candidate_tiles(win, target)
            assert tiles[0] == linear.default_tile(win, target)
            assert len(set(tiles)) == len(tiles)
            for t in tiles:
                assert 1 <= t.pixels <= width and t.pixels * t.vectors <= target.vectors
                assert (t.vectors - 1) * target.lanes < outputs


@pytest.mark.parametrize("seed", range(6))
def test_folded_bias_and_multipliers_give_the_reference_bytes(seed) -> None:
    """A fully connected layer from the kernel's table, in NumPy, against the reference."""
    graph, x = opgen.CASES["FULLY_CONNECTED"](np.random.default_rng(seed))
    if support.unsupported(graph, VNNI):
        pytest.skip("this draw has weights with a zero point, which vpdpbusd cannot multiply")
    node = graph.nodes[0]
    out = linear.outgoing(node, graph, VNNI, 128)
    w = graph.tensor(node.inputs[1]).data
    assert w is not None
    n = w.shape[0]
    shifted = x[0].astype(np.int64).reshape(-1, w.shape[1]) + 128
    acc = shifted @ w.T.astype(np.int64) + out.table[0][:n]
    acc = (acc.astype(np.int32) << (out.table[4][:n] if out.left else 0)).astype(np.int64)
    high = (acc * out.table[1][:n] + (1 << 30)) >> 31
    right = out.table[3][:n].astype(np.int64)
    high = (high + np.where(right > 0, high >> 63, 0) + out.table[2][:n]) >> right
    got = np.clip(high + out.zero_point, *out.limits).astype(np.int8)
    want = reference.run(graph, x)[graph.outputs[0]]
    assert np.array_equal(got.ravel(), want.ravel())


def test_unsupported_nodes_are_listed_with_reasons() -> None:
    graph, _ = opgen.conv_2d(np.random.default_rng(0), "int16")
    (row,) = support.unsupported(graph, VNNI)
    assert row.op == "CONV_2D" and "int16" in row.reason and row.node == "op"


def test_description_of_the_inputs() -> None:
    graph, _ = opgen.fully_connected(np.random.default_rng(1), "float32")
    shape = graph.tensor(graph.inputs[0]).shape
    text = build.describe(graph)
    assert text == f"input 32 2 {len(shape)} {' '.join(map(str, shape))}\n"


def test_records_belong_to_device_and_tool_versions(tmp_path: Path, monkeypatch) -> None:
    _versions(monkeypatch, {"apache-tvm": check.TESTED_TVM, "apache-tvm-ffi": check.TESTED_FFI})
    path = tmp_path / "records.json"
    records = tune.Records(path)
    records.put("task", Tile(4, 2), 2.0)
    records.put("task", Tile(8, 1), 3.0)  # slower: not taken
    records.save()
    assert tune.Records(path).tiles(["task", "other"]) == {"task": [4, 2, 1]}
    assert tune.Records(path, device="board").tiles(["task"]) == {}
    other = {"apache-tvm": check.TESTED_TVM, "apache-tvm-ffi": "0.1.14.post0"}
    _versions(monkeypatch, other)
    assert tune.Records(path).tiles(["task"]) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 9, "records": {}}', '{"schema": 1}'])
def test_broken_records_are_refused(tmp_path: Path, text) -> None:
    path = tmp_path / "records.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"records\.json"):
        tune.Records(path)


def test_tasks_do_not_depend_on_weights_but_on_the_target() -> None:
    graph, _ = opgen.conv_2d(np.random.default_rng(3))
    (key,) = tune.tasks_of(graph, VNNI)
    assert [key] != list(tune.tasks_of(graph, A76))
    w = graph.tensor(graph.nodes[0].inputs[1])
    assert w.data is not None
    changed = graph.copy()
    changed.tensors[w.name] = w.with_(data=np.zeros_like(w.data))
    assert list(tune.tasks_of(changed, VNNI)) == [key]


def test_other_machines_code_is_not_tuned_here() -> None:
    graph, _ = opgen.conv_2d(np.random.default_rng(3))
    foreign = isa.CpuTarget("riscv64-linux-gnu", "generic")
    with pytest.raises(InputError, match="riscv64"):
        tune.measure_here(graph, foreign)


def test_emulation_gives_no_times(tmp_path: Path) -> None:
    graph, x = opgen.conv_2d(np.random.default_rng(3))
    foreign = isa.CpuTarget("riscv64-linux-gnu", "generic")
    with pytest.raises(DeviceError, match="no latency"):
        runner.time_model(tmp_path, graph, foreign, x)


def test_armv9_cores_keep_to_instructions_that_can_be_emulated() -> None:
    x2 = isa.aarch64("cortex-x2")
    assert x2.dot.name == "sdot" and {"-sve", "-sve2"} <= set(x2.features)


def test_a_runner_that_is_not_there_is_a_device_error(tmp_path: Path) -> None:
    graph, x = opgen.conv_2d(np.random.default_rng(3))
    with pytest.raises(DeviceError, match="cannot be started"):
        runner.run(tmp_path, graph, isa.host(), x)
