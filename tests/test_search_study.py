"""Whole studies on the digits network: the command line, kills, two processes, a cluster, the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_case as case
from test_report import Page

from edgekit import api
from edgekit.report.study_page import render_study
from edgekit.search.evaluate import assess_task, measure_task
from edgekit.search.executors import LocalExecutor
from edgekit.search.live import LiveServer
from edgekit.search.study import Study, run_study

#: Kills of the test below; more of them with EDGEKIT_KILLS=20.
KILLS = int(os.environ.get("EDGEKIT_KILLS", "2"))


def doc(done: subprocess.CompletedProcess[str], code: int = 0) -> dict[str, Any]:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a few trials, from the command line."""
    folder = tmp_path_factory.mktemp("studies") / "digits"
    found = doc(case.cli(
        "search", str(case.MODEL), "--target", "cortex-m4", "--data", case.DATA, "--val", case.VAL,
        "--budget", "accuracy_drop<=2", "--objective", "latency_ms,accuracy", "-n", "6",
        "--multiple", "8", "--optimize", "balanced", "-o", str(folder), "--json",
    ))  # fmt: skip
    w = found["winner"]
    assert found["met"] and found["binding"] == [] and found["closest"] is None
    assert w["verify"]["mismatched_bytes"] == 0 and w["verify"] == found["verify"]
    assert w["profile"]["total"]["latency_ms"] == w["values"]["latency_ms"]
    assert w["values"]["accuracy_drop"] <= 2
    assert (folder / "winner" / "report.html").is_file()
    (folder / "search.json").write_text(json.dumps(found))
    return folder


@pytest.mark.slow
def test_search_study_select(finished: Path, tmp_path: Path) -> None:
    found = json.loads((finished / "search.json").read_text())
    listed = doc(case.cli("study", str(finished), "--json"))
    trials = listed["trials"]
    assert [t["number"] for t in trials] == list(range(6)) == [t["ordinal"] for t in trials]
    uncut = trials[0]
    assert uncut["tag"]["as"] == "uncut" and uncut["state"] == "complete"
    winner = next(t for t in trials if t["number"] == listed["winner"])
    assert winner["values"]["latency_ms"] < uncut["values"]["latency_ms"]
    assert winner["number"] in listed["pareto"]
    assert listed["prediction"]["compared"] >= 2 and listed["prediction"]["median_error"] < 0.2
    for t in trials:
        assert set(t) >= {"number", "state", "values", "recipe"}
        assert t["state"] != "complete" or t["kinds"]["instructions"] == "simulated"
        assert t["state"] != "complete" or t["kinds"]["latency_ms"] == "estimated"

    shown = api.study(finished, "show", number=winner["number"])
    assert sum(la["cycles_after"] or 0 for la in shown["layers"]) < sum(
        la["cycles_before"] or 0 for la in shown["layers"]
    )
    front = api.study(finished, "pareto")
    assert [t["number"] for t in front["trials"]] == listed["pareto"]

    picked = doc(
        case.cli("select", str(finished), "--pick", "0", "-o", str(tmp_path / "p"), "--json")
    )
    assert picked["winner"]["number"] == 0 and picked["verify"]["mismatched_bytes"] == 0
    assert picked["profile"]["total"]["cycles"] == uncut["values"]["cycles"]
    chosen = api.select(finished, tmp_path / "w")
    assert chosen["winner"]["number"] == found["winner"]["number"]
    assert (tmp_path / "w" / "manifest.json").read_bytes() == (
        finished / "winner" / "manifest.json"
    ).read_bytes()
    none = doc(case.cli("select", str(finished), "--budget", "latency_ms<=0.001", "-o",
                        str(tmp_path / "n"), "--json"), 1)  # fmt: skip
    assert none["winner"] is None and none["binding"][0]["budget"] == "latency_ms<=0.001"
    assert "the budgets cannot be met" in none["message"] and not (tmp_path / "n").exists()

    out = api.study(finished, "export", out=tmp_path / "e")
    name = f"recipe-{winner['number']}.yaml"
    assert {name, "trials.csv", "study.json"} <= set(out["files"])
    again = tmp_path / "again.ekg"
    api.compress(finished / "models" / "0.ekg", tmp_path / "e" / name, again, target="cortex-m4",
                 data=f"{finished}/data.npz:x0", device="cpu")  # fmt: skip
    assert again.read_bytes() == (finished / "cache" / winner["key"] / "graph.ekg").read_bytes()

    more = doc(case.cli("study", str(finished), "resume", "--trials", "7", "--json"))
    assert sum(more["counts"].values()) == 7
    assert api.study(finished)["trials"][:6] == trials


@pytest.mark.slow
def test_refusals(finished: Path, tmp_path: Path) -> None:
    def said(*args: str) -> str:
        done = case.cli(*args)
        assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    base = ["search", str(case.MODEL), "--target", "cortex-m4", "--data", case.DATA]
    assert "budget 'fast' is not" in said(*base, "--budget", "fast", "-o", str(tmp_path / "s"))
    assert "strategy 'x' is unknown" in said(*base, "--strategy", "x", "-o", str(tmp_path / "s"))
    assert "is there and is no study" in said(*base, "-o", str(finished / "cache"))
    assert "has no trial 99" in said("study", str(finished), "show", "99")
    assert "is not a study" in said("study", str(tmp_path))
    assert "has no action 'dance'" in said("study", str(finished), "dance")
    assert not (tmp_path / "s").exists()


# -- what goes wrong -------------------------------------------------------------------------------


@pytest.mark.slow
def test_failures_are_outcomes(tmp_path: Path) -> None:
    folder = case.study(tmp_path / "s")
    executor = LocalExecutor(folder.path, 1, timeout=120)
    try:
        executor.submit(1, measure_task("q-none", {"engine": "auto", "optimize": "balanced"}))
        (o,) = executor.wait()
        assert o.result is None and "the study's cache has no 'q-none'" in str(o.error)
        full = {"channels:conv_2d_0": 8}
        executor.submit(2, assess_task(full, case.LIGHT))
        time.sleep(0.05)
        os.kill(executor._workers[0].process.pid, signal.SIGKILL)
        (o,) = executor.wait()
        assert (o.id, o.result) == (2, None) and "signal 9" in str(o.error)
        executor.submit(3, assess_task(full, case.LIGHT))
        (o,) = executor.wait()
        assert o.result is not None and o.result["values"]["accuracy"] > 0
        executor.timeout = 0.001
        executor.submit(4, assess_task({"channels:conv_2d_2": 8}, case.LIGHT))
        (o,) = executor.wait()
        assert o.result is None and "longer than 0.001 s" in str(o.error)
    finally:
        executor.close()


@pytest.mark.slow
def test_a_study_of_failures_ends_and_says_so(tmp_path: Path) -> None:
    folder = case.study(tmp_path / "s", trials=3, timeout=0.001)
    run_study(folder)
    study = Study.open(folder)
    assert [t.state for t in study.trials] == ["failed"] * 3 and study.winner is None
    from edgekit.search.winner import select

    found = select(study, tmp_path / "w")
    assert found["winner"] is None and "no trial was measured (3 failed" in found["message"]
    assert not Page(render_study(folder.path)).unbalanced


# -- kills -----------------------------------------------------------------------------------------


#: What does not depend on this machine's clock.
EXACT = ("accuracy", "accuracy_drop", "distance", "macs", "parameters", "flash_bytes")


def told(folder: Path) -> list[tuple[Any, ...]]:
    """What the settled trials say, without what depends on the clock."""
    found = []
    for t in sorted(Study.open(folder).trials, key=lambda t: t.ordinal):
        if t.settled:
            values = {m: v for m, v in sorted(t.values.items()) if m in EXACT}
            found.append((t.ordinal, t.state, tuple(sorted(t.point.items())), tuple(values.items()),
                          tuple(sorted((t.predicted or {}).items()))))  # fmt: skip
    return found


@pytest.mark.slow
def test_kill_at_any_moment(tmp_path: Path) -> None:
    """Every completed trial is there once, and all is as in an undisturbed run."""
    calm = case.study(tmp_path / "calm", trials=6)
    began = time.monotonic()
    run_study(calm)
    took = time.monotonic() - began
    killed = case.study(tmp_path / "killed", trials=6)
    rng = np.random.default_rng(11)
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.cli", "study", str(killed.path), "resume", "--json"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=case.ROOT,
        )  # fmt: skip
        time.sleep(2.0 + float(rng.random()) * 1.2 * took)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_study(killed)
    first, again = told(calm.path), told(killed.path)
    assert [t[0] for t in again] == list(range(6))
    assert again == first
    a, b = Study.open(calm).winner, Study.open(killed).winner
    assert a is not None and b is not None and a.point == b.point


@pytest.mark.slow
def test_two_processes_on_one_study(tmp_path: Path) -> None:
    folder = case.study(tmp_path / "s", trials=5, strategy="random")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "import sys; from edgekit.search.study import run_study; "
             "from edgekit.search.folder import StudyFolder; run_study(StudyFolder.open(sys.argv[1]))",
             str(folder.path)], cwd=case.ROOT, stderr=subprocess.PIPE, text=True,
        ) for _ in range(2)
    ]  # fmt: skip
    for p in processes:
        _, err = p.communicate(timeout=300)
        assert p.returncode == 0, err
    trials = Study.open(folder).trials
    assert [t.ordinal for t in trials] == list(range(5)) and all(t.settled for t in trials)
    assert len({t.worker for t in trials}) == 2, "both worked"
    assert len({tuple(sorted(t.point.items())) for t in trials}) == 5


# -- samplers, training ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tpe", "nsga2"])
def test_samplers_go_on_as_they_would_have(strategy: str, tmp_path: Path) -> None:
    options = {"strategy": strategy, "optimize": ("balanced", "speed"), "ranks": True}
    whole = case.study(tmp_path / "a", trials=7, **options)
    run_study(whole)
    trials = Study.open(whole).trials
    assert any(t.tag.get("as") == strategy for t in trials) and all(t.settled for t in trials)
    again = case.study(tmp_path / "b", trials=7, **options)
    shutil.copytree(whole.cache, again.cache, dirs_exist_ok=True)  # nothing is measured again
    run_study(again)
    assert told(again.path) == told(whole.path)


@pytest.mark.slow
def test_the_best_are_trained(tmp_path: Path) -> None:
    folder = case.study(tmp_path / "s", trials=3, finetune_steps=4, budgets=("accuracy_drop<=30",))
    run_study(folder)
    trials = [t for t in Study.open(folder).trials if t.tag.get("as") == "trained"]
    assert {t.tag["round"] for t in trials} == {0, 1, 2}
    for t in trials:
        assert t.rung == "trained" and t.recipe is not None
        assert t.recipe["steps"][-1] == {"step": "distill", "steps": [1, 2, 4][t.tag["round"]]}


# -- a cluster -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ray_cluster_loses_a_node(tmp_path: Path) -> None:
    """Three raylets, the device on two of them; one dies while trials run on it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'edgekit[ray]'")
    from ray.cluster_utils import Cluster

    from edgekit.search.study import executor_of

    folder = case.study(tmp_path / "s", trials=6, jobs=2, executor="ray", strategy="random")
    device = {f"device:{folder.spec['device']}": 1}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(num_cpus=1, resources=device) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    killed = threading.Event()
    seen: list[Any] = []

    def watch(loop: Any) -> None:
        settled, _ = loop.history()
        busy = [a for a in loop.executor._actors if a.ready and a.task is not None]
        if len(settled) >= 2 and len(busy) >= 1 and not killed.is_set():
            killed.set()
            seen.extend(loop.executor._actors)
            cluster.remove_node(nodes[0], allow_graceful=False)

    try:
        assert executor_of(folder, 2)._resource == next(iter(device))  # type: ignore[attr-defined]
        run_study(folder, watch=watch)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed.is_set() and seen
    trials = Study.open(folder).trials
    assert [t.ordinal for t in trials] == list(range(6))
    assert {t.state for t in trials} <= {"complete", "stopped"}, [t.why for t in trials]
    assert any(t.measured for t in trials)


# -- the page --------------------------------------------------------------------------------------


def _browse(target: str, tmp: Path, budget_ms: int = 0) -> str:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync",
             f"--user-data-dir={tmp / 'chromium'}", "--window-size=1300,900"]  # fmt: skip
    if budget_ms:
        flags.append(f"--virtual-time-budget={budget_ms}")
    done = subprocess.run([chromium, *flags, "--dump-dom", target], capture_output=True, text=True,
                          timeout=180, check=True)  # fmt: skip
    return done.stdout


def _root(dom: str) -> dict[str, str | None]:
    return next(a for t, a in Page(dom).tags if t == "html")


@pytest.mark.slow
def test_page(finished: Path, tmp_path: Path) -> None:
    page = api.report(finished, tmp_path / "study.html")
    text = page.read_text("utf-8")
    parsed = Page(text)
    study = Study.open(finished)
    assert not parsed.unbalanced and not re.search(r"https?://|@import|url\((?!#)", text)
    drawn = [a["data-trial"] for t, a in parsed.tags if t == "g" and "data-trial" in a]
    assert {int(d or -1) for d in drawn} >= {t.number for t in study.trials if t.measured}
    lines = [a for t, a in parsed.tags if t == "path" and "line" in (a.get("class") or "").split()]
    assert len(lines) == sum(t.measured for t in study.trials)
    assert f"trial {study.winner.number}" in parsed.text  # type: ignore[union-attr]
    dom = _browse(page.as_uri(), tmp_path)
    assert _root(dom).get("data-ready") == "yes" and "data-errors" not in _root(dom)
    assert _root(dom).get("data-shown") == f"trial-{study.winner.number}"  # type: ignore[union-attr]
    dom = _browse(page.as_uri() + "#click-0", tmp_path)
    assert _root(dom).get("data-shown") == "trial-0" and "data-errors" not in _root(dom)
    hot = [a["data-trial"] for _, a in Page(dom).tags
           if "hot" in (a.get("class") or "").split() and "data-trial" in a]  # fmt: skip
    assert len(hot) >= 3 and set(hot) == {"0"}, "shown in every drawing and in the table"


@pytest.fixture
def server(finished: Path) -> Iterator[LiveServer]:
    made = LiveServer(finished)
    yield made
    made.close()


@pytest.mark.slow
def test_live(server: LiveServer, tmp_path: Path) -> None:
    def get(path: str, host: str | None = None) -> tuple[int, str]:
        request = urllib.request.Request(server.url + path, headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as r:
                return r.status, r.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, ""

    assert get("")[0] == 200 and 'data-live="yes"' in get("")[1]
    assert json.loads(get("study.json")[1])["trials"]
    assert get("../study.db")[0] == 404 and get("etc")[0] == 404
    assert get("", host="evil.example")[0] == 403
    dom = _browse(server.url, tmp_path, budget_ms=3000)
    assert _root(dom).get("data-ready") == "yes" and "data-errors" not in _root(dom)
    assert _root(dom).get("data-polled") == "yes"


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Names in models are anybody's: the page shows them as text."""
    from dataclasses import replace

    from edgekit.search.ledger import Ledger
    from edgekit.search.loop import Plan
    from edgekit.search.trial import Trial

    evil = "</script><img src=x onerror=alert(1)>\u202e"
    folder = case.study(tmp_path / "s")
    folder.spec["models"][0]["name"] = evil
    folder = folder.update()
    plan = Plan.of(folder)
    ledger = Ledger(folder, plan.objectives, plan.budgets)
    from edgekit.search.evaluate import space_of

    space = space_of(folder)
    number, ordinal, _ = ledger.begin()
    ledger.choose(number, space, space.full(), {"as": evil})
    done = Trial(number, ordinal, "complete", space.full(), "measured", why=evil,
                 recipe={"version": 1, "seed": 0, "steps": [{"step": evil}]},
                 values={"latency_ms": 1.0, "accuracy": 90.0, "accuracy_drop": 0.0})  # fmt: skip
    ledger.finish(replace(done, tag={"as": evil}))
    ledger.close()
    text = render_study(folder.path)
    page = Page(text)
    assert not page.unbalanced and "\u202e" not in text
    assert [t for t, _ in page.tags if t in ("script", "img")] == ["script", "script"]
