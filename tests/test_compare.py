"""``edgekit compare``: in turn, with the ratio's interval; counts where there is no clock."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_case import compile_with, int8_net
from mcu_case import compile_to, small_net
from netgen import Net, quantized

from edgekit import api
from edgekit.artifact import Artifact
from edgekit.cli import main
from edgekit.devices.base import DeviceInfo
from edgekit.errors import InputError
from edgekit.profile import measure
from edgekit.profile.compare import Side, compare_sides
from edgekit.profile.measure import Protocol, Taken


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_LOCKS", str(tmp_path / "locks"))


class Simulated:
    """A clock that wanders by half, and an artifact's true cost on it: both sides see the clock."""

    name = "clock"

    def __init__(self) -> None:
        self.now, self.order = 0, list[str]()

    def info(self) -> DeviceInfo:
        return DeviceInfo("clock", "test", "measured", "", {})

    def side(self, name: str, cost_ms: float, noise: float) -> Side:
        rng = np.random.default_rng(len(name))

        class Backend:
            def profile(_self, artifact: Any, device: Any, inputs: Any = None) -> Any:
                def take(n: int) -> Taken:
                    self.now += 1
                    clock = 1 + 0.5 * np.sin(self.now / 60)
                    scatter = np.exp(noise * rng.standard_normal(n))
                    return Taken([int(1e6 * cost_ms * clock * s) for s in scatter])

                self.order.append(name)

                class Result:
                    latency_ms = measure.collect(device, take).median_ms

                return Result

        class Made:
            class target:
                name = "t"

            engine = "e"

        return Side(name, Made, Backend(), self)  # type: ignore[arg-type]


def test_a_wandering_clock_does_not_spoil_the_ratio() -> None:
    """The clock wanders by half and B takes a tenth more: nearly every interval holds that."""
    held = 0
    for seed in range(8):
        clock = Simulated()
        clock.now = 37 * seed
        sides = clock.side("a" * (seed + 1), 2.0, 0.01), clock.side("b" * (seed + 50), 2.2, 0.01)
        d = compare_sides(*sides, Protocol(max_secs=60.0))
        low, high = d["interval"]
        held += low <= 1.1 <= high
        assert abs(d["ratio"] - 1.1) < 0.015 and high - low < 0.06 and d["pairs"] >= 24
        assert d["quality"] == "ok" and d["verdict"].endswith("% more") and d["kind"] == "measured"
        assert [n[0] for n in clock.order[:8]] == ["a", "b", "b", "a"] * 2
        assert len(d["samples"]["a_ms"]) == d["pairs"]
    assert held >= 7


def test_no_difference_is_called_none() -> None:
    clock = Simulated()
    d = compare_sides(clock.side("a", 2.0, 0.05), clock.side("bb", 2.0, 0.05), Protocol(max_secs=1))
    assert d["interval"][0] <= 1 <= d["interval"][1] and d["verdict"] == "no difference is seen"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Artifact, Artifact]]:
    """A small network for this machine, and one with about eight times its work."""
    folder = tmp_path_factory.mktemp("pair")
    net = Net(np.random.default_rng(0), (1, 16, 16, 3), "large")
    x = net.conv("x", 16)
    x = net.conv(x, 16)
    large = quantized(net.finish(x), np.random.default_rng(1))
    yield (
        compile_with(folder / "a", int8_net(), "x86-64-host", "c"),
        compile_with(folder / "b", large, "x86-64-host", "c"),
    )


@pytest.mark.slow
def test_on_this_machine(
    pair: tuple[Artifact, Artifact], capfd: pytest.CaptureFixture[str]
) -> None:
    a, b = pair
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(a.path), str(b.path), "--max-secs", "2", "--json"])
    out, _ = capfd.readouterr()
    assert stop.value.code == 0
    d = json.loads(out)
    assert d["kind"] == "measured" and d["device"] == "host" and d["ratio"] > 3
    assert d["interval"][0] <= d["ratio"] <= d["interval"][1]
    assert "more" in d["verdict"]
    same = api.compare(a, a, protocol=Protocol(max_secs=1.0))
    assert 0.5 < same["ratio"] < 2


@pytest.mark.slow
def test_counts_need_one_pair(tmp_path: Path) -> None:
    a = compile_to(tmp_path / "a", small_net(), "cortex-m4", "speed", kernels="rank")
    b = compile_to(tmp_path / "b", small_net(), "cortex-m4", "size", kernels="rank")
    d = api.compare(a, b)
    assert d["pairs"] == 1 and d["interval"] is None and d["quality"] is None
    assert d["kind"] == "estimated" and d["figure"] == "cycles"
    assert d["ratio"] == d["b"]["value"] / d["a"]["value"]
    assert api.compare(a, a)["verdict"] == "A and B cost the same"


@pytest.mark.slow
def test_what_cannot_be_compared(pair: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    mcu = compile_to(tmp_path / "m", small_net(), "cortex-m4", kernels="rank")
    with pytest.raises(InputError, match="name one for both with --device"):
        api.compare(pair[0], mcu)
    with pytest.raises(InputError, match="no real silicon"):
        api.compare(mcu, mcu, protocol=Protocol(cpus=(0,)))
