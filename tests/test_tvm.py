"""The TVM engine without TVM: targets, tiles, packing, support, version checks, records."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
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
from edgekit_targets.tvm_.records import Best, Records

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


TVM = {"apache-tvm": check.TESTED_TVM, "apache-tvm-ffi": check.TESTED_FFI}


def test_records_belong_to_device_and_tool_versions(tmp_path: Path, monkeypatch) -> None:
    _versions(monkeypatch, TVM)
    records = Records(tmp_path / "a" / "records.sqlite3")
    assert records.best(["task"]) == {} and not records.path.exists()
    records.put("host", "measured", [("task", Tile(4, 2), 2.0, None)])
    records.put("host", "measured", [("task", Tile(8, 1), 3.0, None)])
    records.put("host", "measured", [("task", Tile(1, 1), None, "the test program hung")])
    again = Records(records.path)
    assert again.best(["task", "other"]) == {"task": Best(Tile(4, 2), 2.0, "host", "measured")}
    assert again.tried("task", "host") == {Tile(4, 2): 2.0, Tile(8, 1): 3.0, Tile(1, 1): None}
    assert again.failures("task", "host") == {Tile(1, 1): "the test program hung"}
    assert again.tried("task", "board") == {}
    _versions(monkeypatch, {**TVM, "apache-tvm-ffi": "0.1.14.post0"})
    assert again.best(["task"]) == {}


def test_the_devices_own_records_come_first_and_measured_before_simulated(
    tmp_path: Path, monkeypatch
) -> None:
    _versions(monkeypatch, TVM)
    records = Records(tmp_path / "records.sqlite3")
    records.put("emulator", "simulated", [("task", Tile(1, 1), 100.0, None)])
    assert records.best(["task"])["task"].tile == Tile(1, 1)
    records.put("board", "measured", [("task", Tile(4, 2), 2.0, None)])
    assert records.best(["task"])["task"].tile == Tile(4, 2)
    assert records.best(["task"], "emulator")["task"].tile == Tile(1, 1)


def test_the_lesser_cost_is_kept_and_success_beats_failure(tmp_path: Path, monkeypatch) -> None:
    _versions(monkeypatch, TVM)
    records = Records(tmp_path / "records.sqlite3")
    tile = Tile(4, 2)
    for cost, error in ((None, "timeout"), (3.0, None), (2.0, None), (5.0, None), (None, "again")):
        records.put("host", "measured", [("task", tile, cost, error)])
    assert records.tried("task", "host") == {tile: 2.0}
    assert records.failures("task", "host") == {}


def test_records_are_where_the_other_caches_are(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    assert Records().path == tmp_path / "tuning" / "tvm.sqlite3"
    monkeypatch.delenv("EDGEKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Records().path == tmp_path / "edgekit" / "tuning" / "tvm.sqlite3"


@pytest.mark.parametrize("content", [b"no database at all", b"SQLite format 3\0" + bytes(200)])
def test_broken_records_are_refused(tmp_path: Path, monkeypatch, content) -> None:
    _versions(monkeypatch, TVM)
    path = tmp_path / "records.sqlite3"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"records\.sqlite3.*delete it") as e:
        Records(path).best(["task"])
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="delete it"):
        Records(path).put("host", "measured", [("task", Tile(1, 1), 1.0, None)])


_WRITER = """
import sys, time
from pathlib import Path
from edgekit_targets.tvm_ import check
from edgekit_targets.tvm_.linear import Tile
from edgekit_targets.tvm_.records import Records
check.tools = lambda: {"apache-tvm": "x"}
records = Records(Path(sys.argv[1]))
for k in range(100000):
    records.put("host", "measured", [(f"task{k}", Tile(1, 1), float(k), None)])
    print(k, flush=True)
"""


def test_a_killed_process_leaves_what_it_recorded(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "records.sqlite3"
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 5:
                break
        writer.kill()
    monkeypatch.setattr(check, "tools", lambda: {"apache-tvm": "x"})
    found = Records(path).best([f"task{k}" for k in range(6)])
    assert {t: b.cost for t, b in found.items()} == {f"task{k}": float(k) for k in range(6)}


class _Board:
    """Stands for compiler and device: ``bad`` tiles do not run, the others cost their pixels."""

    def __init__(self, bad: set[Tile]) -> None:
        self.bad, self.compiled = bad, 0

    def compile_library(self, graph, target, output, *, tiles, timeout_s, session):
        self.compiled += 1
        self.now = {k: Tile.from_json(v) for k, v in tiles.items()}
        plan = [{"name": k, "function": k} for k in self.now]
        return {"plan": plan, "tasks": {k: k for k in self.now}}

    def measure(self, library, plan):
        if self.bad & set(self.now.values()):
            raise DeviceError("the test program did not end within 5 s")
        return {row["function"]: float(self.now[row["function"]].pixels) for row in plan}


def _tasks(n: int) -> dict[str, list[Tile]]:
    tiles = [Tile(8, 1), Tile(4, 1), Tile(2, 1), Tile(1, 1)]
    return {f"task{k}": [*tiles, Tile(3, k + 10)] for k in range(n)}


@pytest.fixture
def board(monkeypatch, tmp_path: Path):
    """tune_model on a made-up board with five tasks: ``run(trials, bad) -> (Tuned, records)``."""
    _versions(monkeypatch, TVM)
    graph, _ = opgen.conv_2d(np.random.default_rng(3))
    monkeypatch.setattr(tune, "tasks_of", lambda *_: _tasks(5))
    records = Records(tmp_path / "records.sqlite3")

    def run(trials: int, bad: set[Tile] = frozenset(), say=None):  # type: ignore[assignment]
        made = _Board(set(bad))
        monkeypatch.setattr(tune.build, "compile_library", made.compile_library)
        tuned = tune.tune_model(
            graph, A76, records, made.measure, device="board", trials=trials, progress=say
        )
        return tuned, made

    run.records = records  # type: ignore[attr-defined]
    return run


def test_tuning_finds_the_best_candidate_of_every_task(board) -> None:
    lines: list[str] = []
    tuned, made = board(4, say=lines.append)
    assert (tuned.tasks, tuned.tried, tuned.failed) == (5, 20, 0)
    assert (tuned.before, tuned.after) == (40.0, 5.0)
    assert made.compiled == 4 and len(lines) == 4 and "round 4 of 4" in lines[-1]
    assert {b.tile for b in board.records.best(_tasks(5)).values()} == {Tile(1, 1)}


def test_tuning_goes_on_where_it_was(board) -> None:
    board(2)
    tuned, made = board(3)
    assert tuned.tried == 5 and made.compiled == 1, "two of three candidates were on record"
    assert (tuned.before, tuned.after) == (40.0, 10.0)
    assert board(3)[1].compiled == 0


def test_a_candidate_that_fails_is_a_record_and_not_the_end(board) -> None:
    """One tile of one task does not run: the round is split until that is known."""
    bad = Tile(3, 12)  # only task2 has it
    tuned, _ = board(5, {bad})
    assert (tuned.tried, tuned.failed) == (25, 1) and tuned.after == 5.0
    for k in range(5):
        failed = board.records.failures(f"task{k}", "board")
        assert set(failed) == ({bad} if k == 2 else set())
    assert "within 5 s" in board.records.failures("task2", "board")[bad]


def test_defaults_that_do_not_run_are_an_error(board) -> None:
    with pytest.raises(DeviceError, match="within 5 s"):
        board(3, {Tile(8, 1)})
    assert board.records.best(_tasks(5)) == {}


def test_tasks_do_not_depend_on_weights_but_on_the_target() -> None:
    graph, _ = opgen.conv_2d(np.random.default_rng(3))
    (key,) = tune.tasks_of(graph, VNNI)
    assert [key] != list(tune.tasks_of(graph, A76))
    w = graph.tensor(graph.nodes[0].inputs[1])
    assert w.data is not None
    changed = graph.copy()
    changed.tensors[w.name] = w.with_(data=np.zeros_like(w.data))
    assert list(tune.tasks_of(changed, VNNI)) == [key]


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


def test_a_worker_that_stays_survives_bad_jobs_kills_and_time_outs(
    tmp_path: Path, monkeypatch
) -> None:
    _versions(monkeypatch, TVM)
    with worker.Session() as session:
        for _ in range(2):
            with pytest.raises(ToolchainError, match="could not dance"):
                session.call({"do": "dance"}, tmp_path)
        process = session._process
        assert process is not None and process.poll() is None, "one worker for both"
        process.kill()
        process.wait()
        with pytest.raises(ToolchainError, match="could not dance"):
            session.call({"do": "dance"}, tmp_path)
        assert session._process is not process
        assert session._process is not None
        session._process.send_signal(signal.SIGSTOP)  # it hangs
        with pytest.raises(ToolchainError, match=r"longer than 0\.2 s"):
            session.call({"do": "dance"}, tmp_path, timeout_s=0.2)
        with pytest.raises(ToolchainError, match="could not dance"):
            session.call({"do": "dance"}, tmp_path)
    assert session._process is None
