"""The parts of the search: budgets, spaces, prices, strategies, what is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_case as case
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import api
from edgekit.errors import DeviceError, DeviceUnavailable, InputError
from edgekit.formats import ekg
from edgekit.search import metrics
from edgekit.search.costs import Estimator, LayerCosts
from edgekit.search.evaluate import Evaluator, patiently
from edgekit.search.folder import Cache, StudyFolder, without_password
from edgekit.search.halving import candidates, next_training, planned
from edgekit.search.ledger import Ledger, alive
from edgekit.search.loop import Plan
from edgekit.search.space import Fidelity
from edgekit.search.strategies import NAMES, Ask, get_strategy
from edgekit.search.strategies.knapsack import basis, fit, solve
from edgekit.search.study import SearchOptions, Study
from edgekit.search.trial import Trial, best, pareto


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return case.study(tmp_path_factory.mktemp("search") / "study")


@pytest.fixture(scope="module")
def evaluator(folder: StudyFolder) -> Evaluator:
    return Evaluator(folder)


def trial(n: int, point: dict[str, Any] | None = None, **values: float) -> Trial:
    return Trial(n, n, "complete", point or {}, "measured", values=values)


# -- metrics ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["latency_ms", "latency_ms<20", "speed<=1", "latency_ms<=fast",
                                  "latency_ms<=inf", "", "accuracy>=nan"])  # fmt: skip
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"^budget '"):
        metrics.parse_budget(text)


def test_budgets() -> None:
    b = metrics.parse_budget(" latency_ms <= 2e1 ")
    assert (b.metric, b.op, b.limit, str(b)) == ("latency_ms", "<=", 20.0, "latency_ms<=20")
    assert b.violation(20) == 0 and b.violation(30) == pytest.approx(0.5)
    assert b.violation(None) == math.inf
    assert metrics.parse_budget("accuracy>=90").violation(81) == pytest.approx(0.1)
    with pytest.raises(InputError, match=r"different metrics"):
        metrics.parse_objectives("accuracy,accuracy")
    assert metrics.cost_metric(("accuracy", "ram_bytes"), (b,)) == "latency_ms"
    assert metrics.cost_metric(("accuracy", "macs"), ()) == "macs"
    assert metrics.cost_metric(("accuracy", "ram_bytes"), ()) == "latency_ms"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=25))
@settings(max_examples=60)
def test_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    kept = metrics.front(points)
    for i, p in enumerate(points):
        beaten = any(metrics.dominates(q, p) for q in points)
        assert (i in kept) == (not beaten and points.index(p) == i)


def test_the_best_keeps_the_budgets_first() -> None:
    budgets = [metrics.parse_budget("accuracy_drop<=1")]
    figures = [(9.0, 0.0), (2.0, 5.0), (5.0, 1.0), (5.0, 0.5)]
    trials = [trial(n, latency_ms=ms, accuracy_drop=d) for n, (ms, d) in enumerate(figures)]
    assert best(trials, ("latency_ms",), budgets).number == 2  # type: ignore[union-attr]
    assert best(trials, ("latency_ms", "accuracy_drop"), budgets).number == 3  # type: ignore[union-attr]
    assert best(trials[1:2], ("latency_ms",), budgets).number == 1  # type: ignore[union-attr]
    assert [t.number for t in pareto(trials, ("accuracy_drop", "latency_ms"))] == [1, 3, 0]


# -- spaces ----------------------------------------------------------------------------------------


def test_a_point_is_a_recipe(evaluator: Evaluator, tmp_path: Path) -> None:
    """What a trial makes, importances kept, is what its recipe makes from the study's network."""
    space, rng = evaluator.space, np.random.default_rng(3)
    light = Fidelity(samples=40, rows=800, ridge=1e-2)
    point = space.random(rng)
    assert space.check(point) == point
    made = evaluator.network(point, light)
    from edgekit.compress.job import compress

    again, _ = compress(
        space.bases[0].graph, space.recipe(point, light), data=evaluator.data,
        target=evaluator.target, device="cpu",
    )  # fmt: skip
    assert ekg.write_bytes(made) == ekg.write_bytes(again)
    widths = space.widths(point)
    assert space.with_widths(0, widths.tolist()) == point
    for g, k in zip(space.bases[0].groups, widths, strict=True):
        name = next(iter(g.tensors))
        assert evaluator.cut(point).tensor(name).shape[-1] == k


def test_the_uncut_network_is_a_point(evaluator: Evaluator) -> None:
    full = evaluator.space.full()
    graph = evaluator.cut(full)
    assert graph is evaluator.space.bases[0].graph
    with pytest.raises(InputError, match=r"not in the space"):
        evaluator.space.check({**full, next(iter(full)): 5})


# -- prices ----------------------------------------------------------------------------------------


def test_layer_costs_know_what_they_saw_and_interpolate(evaluator: Evaluator) -> None:
    base = evaluator.space.bases[0]
    costs = LayerCosts(base.groups)
    macs = LayerCosts(base.groups)
    levels = evaluator.space.levels(0)
    mesh = np.stack(np.meshgrid(*levels, indexing="ij"), axis=-1)
    assert np.allclose(costs.grid(levels), macs(mesh))

    def truth(widths: np.ndarray) -> tuple[dict[str, float], float]:
        """Three cycles a MAC, and two more for odd eighths of channels: a step."""
        from edgekit.graph.ops import macs as count

        graph = evaluator.cut(evaluator.space.with_widths(0, widths.tolist()))
        found = {}
        for n in graph.nodes:
            out = graph.tensor(n.outputs[0]).shape[-1]
            found[n.name] = count(n, graph) * (3.0 + 2.0 * (out % 16 == 8))
        return found, sum(found.values()) + 1000

    rng = np.random.default_rng(0)
    seen = [np.array([o[int(rng.integers(len(o)))] for o in levels]) for _ in range(12)]
    for w in [costs.units, *seen]:
        costs.learn(w, *truth(w))
    for w in seen:
        assert float(costs(w[None])[0]) == pytest.approx(truth(w)[1], rel=1e-6)
    grid = costs.grid(levels)
    assert np.allclose(grid, costs(mesh))
    some = zip(mesh.reshape(-1, mesh.shape[-1])[::7], grid.reshape(-1)[::7], strict=True)
    offs = [abs(float(c) / truth(w)[1] - 1) for w, c in some]
    assert np.median(offs) < 0.1


def test_the_knapsack_finds_the_best_widths(evaluator: Evaluator) -> None:
    """Against all combinations, and the greedy way not far from it."""
    from edgekit.search.strategies import knapsack

    costs, levels = LayerCosts(evaluator.space.bases[0].groups), evaluator.space.levels(0)
    rng = np.random.default_rng(1)
    tables = [np.sort(rng.random(len(o)))[::-1].cumsum()[::-1] - 0.0 for o in levels]
    tables = [t - t[-1] for t in tables]
    limit = 0.4 * costs.total
    mesh = np.stack(np.meshgrid(*levels, indexing="ij"), axis=-1).reshape(-1, len(levels))
    harm = np.array([sum(t[list(o).index(k)] for k, o, t in zip(w, levels, tables, strict=True))
                     for w in mesh])  # fmt: skip
    harm[costs(mesh) > limit] = np.inf
    found = solve(costs, levels, tables, limit)
    assert float(costs(found[None])[0]) <= limit * (1 + 1e-9)
    got = sum(t[list(o).index(k)] for k, o, t in zip(found, levels, tables, strict=True))
    assert got == pytest.approx(harm.min(), rel=1e-5)
    greedy = knapsack._greedy(costs, levels, tables, limit)
    assert float(costs(greedy[None])[0]) <= limit * (1 + 1e-9)


def test_damage_is_fitted_to_the_trials(evaluator: Evaluator, folder: StudyFolder) -> None:
    """Distances that grow steeply in one group are found again from a few trials."""
    ask = _ask(evaluator, folder, [])
    tables = basis(ask, 0)
    real = np.stack([np.full(len(tables), 3.0), np.zeros(len(tables))], axis=1)
    real[1] = (3.0, 2.0)
    rng, history = np.random.default_rng(5), []
    for n in range(30):
        point = evaluator.space.random(rng)
        widths, levels = evaluator.space.widths(point), evaluator.space.levels(0)
        d = sum(float(np.interp(k, o, c @ t)) for k, o, c, t in
                zip(widths, levels, real, tables, strict=True))  # fmt: skip
        history.append(trial(n, point, distance=d * float(np.exp(0.05 * rng.standard_normal()))))
    found = fit(_ask(evaluator, folder, history), 0, tables)
    for g, t in enumerate(tables):
        assert (found[g] @ t)[0] == pytest.approx((real[g] @ t)[0], rel=0.5)
    assert found[1, 1] == pytest.approx(2.0, rel=0.5)


# -- strategies ------------------------------------------------------------------------------------


def _ask(evaluator: Evaluator, folder: StudyFolder, history: list[Trial], running: Any = (),
         total: int = 40, strategy: str = "knapsack", **more: Any) -> Ask:  # fmt: skip
    plan = replace(Plan.of(folder), strategy=strategy)
    estimator = Estimator(evaluator.space, "macs", evaluator.scaffold)
    budgets = replace(plan, strategy="macs").driving()[1]
    return Ask(len(history), total, 7, evaluator.space, history, running, estimator,
               evaluator.scores, "macs", ("macs",), budgets, **more)  # fmt: skip


def _outcome(evaluator: Evaluator, n: int, proposal: Any) -> Trial:
    """A result that a network of this size may have: cheap ones lose more."""
    price = Estimator(evaluator.space, "macs", evaluator.scaffold).estimate(proposal.point)
    assert price is not None
    full = Estimator(evaluator.space, "macs", evaluator.scaffold).estimate(evaluator.space.full())
    lost = 4.0 * (1 - price.value / full.value) ** 2  # type: ignore[union-attr]
    return replace(trial(n, proposal.point, macs=price.value, distance=lost, accuracy_drop=3 * lost,
                         accuracy=90 - 3 * lost), tag=dict(proposal.tag))  # fmt: skip


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("tpe", "nsga2")])
def test_proposals_depend_on_seed_and_history_only(
    name: str, evaluator: Evaluator, folder: StudyFolder
) -> None:
    def play(count: int) -> list[Trial]:
        history: list[Trial] = []
        for n in range(count):
            p = get_strategy(name).propose(_ask(evaluator, folder, history))
            evaluator.space.check(p.point)
            history.append(_outcome(evaluator, n, p))
        return history

    first, again = play(16), play(16)
    assert [t.point for t in first] == [t.point for t in again]
    assert first[0].point == evaluator.space.full()
    assert len({tuple(t.point.items()) for t in first}) >= (5 if name == "uniform" else 10)


def test_netadapt_goes_down_step_by_step(evaluator: Evaluator, folder: StudyFolder) -> None:
    history: list[Trial] = []
    for n in range(14):
        p = get_strategy("netadapt").propose(_ask(evaluator, folder, history))
        history.append(_outcome(evaluator, n, p))
    steps = [t.tag["step"] for t in history if t.tag.get("as") == "step"]
    assert steps == sorted(steps) and max(steps) >= 2
    least = [min(t.values["macs"] for t in history if t.tag.get("step") == s) for s in set(steps)]  # type: ignore[type-var]
    assert least == sorted(least, reverse=True)


def test_two_workers_do_not_try_the_same(evaluator: Evaluator, folder: StudyFolder) -> None:
    ask = _ask(evaluator, folder, [])
    history = [_outcome(evaluator, 0, get_strategy("netadapt").propose(ask))]
    running: list[Trial] = []
    for n in range(3):
        asked = replace(_ask(evaluator, folder, history, running), ordinal=1 + n)
        p = get_strategy("netadapt").propose(asked)
        running.append(Trial(1 + n, 1 + n, "running", p.point, tag=dict(p.tag)))
    assert len({tuple(t.point.items()) for t in running}) == 3


def test_training_halves(evaluator: Evaluator) -> None:
    budgets = [metrics.parse_budget("accuracy_drop<=1")]
    trials = [replace(trial(n, latency_ms=20.0 - n, distance=0.1 * n, accuracy_drop=float(n)), key=f"q{n}")
              for n in range(20)]  # fmt: skip
    assert len(candidates(trials, "latency_ms", budgets, 6)) == 6
    assert all(t.value("accuracy_drop") <= 13 for t in candidates(trials, "latency_ms", budgets, 6))  # type: ignore[operator]
    seen = []
    for n in range(planned(100) + 5):
        todo = next_training(100, trials, [], "latency_ms", ("latency_ms",), budgets)
        if todo is None:
            break
        seen.append((todo.tag["round"], todo.steps, todo.tag["of"]))
        of = next(t for t in trials if t.number == todo.tag["of"])
        values = {**of.values, "accuracy_drop": float(of.values["accuracy_drop"] or 0) - 6}
        done = Trial(
            100 + n, 20 + n, "complete", todo.point, "trained", values=values, tag=todo.tag
        )
        trials.append(done)
    assert [s for _, s, _ in seen] == [25] * 6 + [50] * 3 + [100]
    assert {of for r, _, of in seen if r == 1} < {of for r, _, of in seen if r == 0}
    assert next_training(0, trials, [], "latency_ms", ("latency_ms",), budgets) is None


# -- what is kept ----------------------------------------------------------------------------------


def test_cache_keeps_the_first_and_whole_entries_only(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.get("k") is None and cache.json("k", "a.json") is None
    cache.put("k", {"a.json": b'{"x": 1}'})
    cache.put("k", {"a.json": b'{"x": 2}'})
    assert cache.json("k", "a.json") == {"x": 1}
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["k"]


def test_passwords_are_not_written_down() -> None:
    url = "postgresql://me:secret@host/db"
    assert without_password(url) == "postgresql://me:***@host/db"
    assert without_password("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"


def test_a_study_is_opened_again_only_as_the_same(folder: StudyFolder, tmp_path: Path) -> None:
    assert case.study(folder.path, trials=99).path == folder.path  # more trials are no other study
    with pytest.raises(InputError, match=r"is a study with another seed; name a new folder"):
        case.study(folder.path, seed=1)
    with pytest.raises(InputError, match=r"is a study with another budgets"):
        case.study(folder.path, budgets=())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(InputError, match=r"is there and is no study"):
        case.study(tmp_path / "full")
    with pytest.raises(InputError, match=r"is not a study"):
        Study.open(tmp_path / "none")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "luck"}, "strategy 'luck' is unknown"),
        ({"objective": "beauty"}, "objective 'beauty' names 'beauty'"),
        ({"optimize": ("fast",)}, "--optimize 'fast' is unknown"),
        ({"engines": ("none",)}, "has no engine 'none'"),
        ({"importance": "x"}, "importance 'x' is unknown"),
        ({"executor": "cloud"}, "executor 'cloud' is unknown"),
        ({"trials": 0}, "--trials 0"),
    ],
)
def test_options_are_refused_before_any_work(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as e:
        case.study(tmp_path / "s", **options)
    assert said in str(e.value) and not (tmp_path / "s").exists()


def test_networks_to_start_from_do_the_same_task(tmp_path: Path) -> None:
    from edgekit.graph.ir import Graph

    model = api.load(case.MODEL)
    other = model.copy()
    other.outputs = (model.nodes[0].outputs[0],)
    other.prune()
    assert isinstance(other, Graph)
    with pytest.raises(InputError, match=r"other inputs or outputs"):
        case.study(tmp_path / "s", larger=(other,))


def test_lost_trials_are_no_results(folder: StudyFolder, evaluator: Evaluator) -> None:
    """A trial whose process is gone is lost, and its ordinal is given again."""
    plan = Plan.of(folder)
    ledger = Ledger(folder, plan.objectives, plan.budgets)
    number, ordinal, _ = ledger.begin()
    point = evaluator.space.full()
    ledger.choose(number, evaluator.space, point, {"as": "uncut"})
    done = Trial(number, ordinal, "complete", point, "measured",
                 values={"latency_ms": 1.0, "accuracy_drop": 0.0})  # fmt: skip
    ledger.finish(done)
    number, ordinal, _ = ledger.begin()
    assert (number, ordinal) == (1, 1)
    ledger.choose(number, evaluator.space, point, {})

    other = Ledger(folder, plan.objectives, plan.budgets)
    assert other.reap() == [], "its process lives"
    assert [t.state for t in other.trials()] == ["complete", "running"]
    other._open.clear()
    dead = {**ledger._me, "born": "1"}  # the same number, another process
    trial_id = ledger.storage.get_trial_id_from_study_id_trial_number(ledger.optuna._study_id, 1)
    ledger.storage.set_trial_user_attr(trial_id, "edgekit:claim", {"owner": dead, "ordinal": 1})
    assert other.reap() == [1]
    assert [t.state for t in other.trials()] == ["complete", "lost"]
    number, ordinal, _ = other.begin()
    assert (number, ordinal) == (2, 1)
    other.choose(number, evaluator.space, point, {})
    failed = Trial(number, ordinal, "failed", point, why="it took longer than 1 s")
    other.finish(failed)
    assert [t.state for t in other.trials()] == ["complete", "lost", "failed"]
    assert other.trials()[0] == replace(done, worker=ledger.worker)
    for led in (ledger, other):
        led.close()
    study = Study.open(folder)
    assert study.winner is not None and study.winner.number == 0
    assert study.to_json()["counts"] == {"complete": 1, "failed": 1, "lost": 1}


def test_who_lives() -> None:
    import os
    import socket

    from edgekit.search.ledger import _born

    me = {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}
    assert alive(me, None)
    assert not alive({**me, "born": "12"}, None)
    elsewhere = {**me, "host": "elsewhere"}
    import time

    assert not alive(elsewhere, None) and alive(elsewhere, time.time() - 10)
    assert not alive(elsewhere, time.time() - 10_000)


def test_defaults_are_consistent() -> None:
    assert SearchOptions().strategy in NAMES
    for name in NAMES:
        assert get_strategy(name).name in (name, "knapsack")


def test_a_device_that_is_away_is_asked_again() -> None:
    """Unplugged, busy, starting again: worth another try; what is wrong for good is not."""
    tries: list[int] = []

    def away(times: int, error: type[Exception]) -> str:
        tries.append(1)
        if len(tries) <= times:
            raise error("it is away")
        return "measured"

    assert patiently(lambda: away(2, DeviceUnavailable), (0.0, 0.0)) == "measured"
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(DeviceUnavailable):
        patiently(lambda: away(3, DeviceUnavailable), (0.0, 0.0))
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(DeviceError):
        patiently(lambda: away(1, DeviceError), (0.0, 0.0))
    assert len(tries) == 1
