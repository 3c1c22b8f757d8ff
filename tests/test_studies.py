"""The studies of overparameterization: small, fast versions of what their commands assert."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("scipy", reason="scipy is not installed")
FOLDER = Path(__file__).resolve().parent.parent / "benchmarks" / "overparameterization"
sys.path.insert(0, str(FOLDER))

import double_descent as study  # noqa: E402
import methods  # noqa: E402
import svg  # noqa: E402
import theory  # noqa: E402


def test_second_descent_and_pruned_large_beats_known_features() -> None:
    case = study.Linear(sizes=(40, 80, 92, 108, 150, 300, 500))
    simulation = study.linear_simulation(case, 12)
    claims = study.check(case, study.linear_theory(case, case.sizes), simulation)
    assert claims["pruned"] < 0.6 * claims["known"]


def test_random_features_descend_again_and_retraining_helps_them() -> None:
    case = study.RandomFeatures(100, 50, 25, sizes=(50, 92, 110, 200, 400))
    study.check_random(case, *study.random_features(case, 8, tests=1000))


@pytest.mark.parametrize("features", [60, 260])
def test_formula_of_pruning_against_draws_of_its_own_distribution(features: int) -> None:
    rng = np.random.default_rng(features)
    lam, beta = rng.uniform(0.2, 5.0, features), rng.normal(size=features) / 10
    e = theory.estimate(lam, beta, 100, 0.3)
    for score, weight in (("magnitude", np.ones(features)), ("hessian", np.sqrt(lam))):
        said = theory.pruned_error(lam, beta, 0.3, e, 30, score)  # type: ignore[arg-type]
        errors = []
        for _ in range(400):
            v = e.theta * beta + e.tau * rng.normal(size=features)
            v = np.where(study.top(weight * np.abs(v), 30), v, 0.0)
            errors.append(0.3 + float((lam * (v - beta) ** 2).sum()))
        assert abs(np.mean(errors) / said - 1) < 0.03


def test_formula_of_ordinary_and_ridgeless_least_squares() -> None:
    """Two known limits: isotropic features without signal, below and above p = n (Hastie et al., 2022)."""
    for p, want in ((50, 1 / (1 - 0.5)), (200, 1 / (1 - 0.5))):
        e = theory.estimate(np.ones(p), np.zeros(p), 100, 1.0)
        assert abs(e.gamma - want) < 1e-9
    with pytest.raises(ValueError):
        theory.estimate(np.ones(100), np.zeros(100), 100, 1.0)


def test_charts_are_well_formed() -> None:
    lines = [svg.Series("a < b & c", [1, 10, 100], [3.0, 0.1, 2.0], band=[0.1, 0.05, 0.2]),
             svg.Series("", [1, 100], [1.0, float("inf")], "line", 1, True)]  # fmt: skip
    for log in (False, True):
        text = svg.chart("t", "x", "y", lines, log_x=log, log_y=log, mark_x=(10, "here"))
        root = ElementTree.fromstring(text)
        assert len(root.findall(".//{*}circle")) == 4


def test_rows_of_one_method_are_averaged_over_seeds_and_stand_at_their_cost() -> None:
    def row(points: float, cycles: int) -> dict[str, object]:
        return {
            "int8": {"difference": points / 100, "accuracy": 0.8, "standard_error": 0.01}, "seed": 0,
            "model": "net.tflite", "section": "a", "cycles": cycles, "flash": 1000, "ram": 100,
            "macs_left": cycles / 1000, "speedup": 1000 / cycles, "realised": 1.0,
        }  # fmt: skip

    rows = {"baseline net.tflite": {}, "uncut": row(0, 1000), "m, seed 0": row(-2, 740),
            "m, seed 1": row(-4, 760), "other": row(-1, 755), "far": row(-1, 650)}  # fmt: skip
    m = methods.merged(rows)["m"]  # type: ignore[arg-type]
    assert m["seeds"] == 2 and m["difference"] == pytest.approx(-3)
    assert m["spread"] == pytest.approx(2**0.5)
    text = "\n".join(methods.tables(rows))  # type: ignore[arg-type]
    assert text.index("| other |") < text.index("| m |") and "| far |" not in text
    assert "(seeds ± 1.4)" in text


@pytest.mark.slow
def test_tickets_and_widths_run() -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    import lottery
    import width

    rows = lottery.one_seed(0, 40, few=200, hidden=64, keeps=(0.3,))
    assert {r["way"] for r in rows} == {"dense", *lottery.WAYS}
    assert "| 70 % |" in "\n".join(lottery.page(rows, 40))
    rows = width.Study(60, 200, (4,), 12).one_seed(0)
    width.check(rows)
    assert {r["arm"] for r in rows} == {"large", *width.ARMS} and width.draw(rows).startswith(
        "<svg"
    )
    assert min(r["cycles"] for r in rows) < rows[0]["cycles"]
