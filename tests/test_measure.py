"""The measuring protocol: intervals, what spoils a figure, and what is said about it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.devices import RunRequest, open_device
from edgekit.devices.base import DeviceInfo
from edgekit.devices.lock import in_use
from edgekit.errors import DeviceError, InputError
from edgekit.profile import conditions, measure, stats
from edgekit.profile.conditions import Conditions
from edgekit.profile.measure import Measurement, Protocol, Taken, collect, protocol
from edgekit.profile.quality import judge


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_LOCKS", str(tmp_path / "locks"))


# -- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 7, 20, 61, 400])
def test_the_interval_holds_the_median_as_often_as_it_says(n: int) -> None:
    """Skewed samples of a known median: at least about 95 of 100 intervals hold it."""
    rng = np.random.default_rng(n)
    held, trials = 0, 1500
    for _ in range(trials):
        low, high = stats.median_interval(rng.lognormal(0, 0.5, n).tolist())
        held += low <= 1.0 <= high
    assert held / trials > 0.945
    assert held / trials < 1.0 or n < 8


def test_the_interval_by_hand() -> None:
    # Conover, table A3: for n = 10 the 2nd and the 9th of the ordered samples (97.9 %)
    assert stats.median_interval([float(x) for x in range(1, 11)]) == (2.0, 9.0)
    assert stats.median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_blocks_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    alike = [(1 + 0.01 * rng.standard_normal(50)).tolist() for _ in range(6)]
    apart = [
        (level + 0.01 * rng.standard_normal(50)).tolist() for level in (1, 1.1, 1, 1.2, 1, 1.1)
    ]
    narrow, wide = (np.subtract(*reversed(stats.blocked_interval(b))) for b in (alike, apart))
    assert narrow < 0.02 and wide > 0.05


def test_ratio_of_pairs() -> None:
    rng = np.random.default_rng(1)
    common = np.exp(0.5 * rng.standard_normal(40))  # what spoils both halves of a pair
    a = common * np.exp(0.01 * rng.standard_normal(40))
    b = 1.25 * common * np.exp(0.01 * rng.standard_normal(40))
    ratio, low, high = stats.ratio_interval(a.tolist(), b.tolist())
    assert low < 1.25 < high and abs(ratio - 1.25) < 0.02 and high - low < 0.05
    with pytest.raises(ValueError):
        stats.ratio_interval([], [])


# -- quality, on streams of samples -------------------------------------------------------------


def measured(samples: np.ndarray, parts: int = 6, **more: Any) -> Measurement:
    """A measurement with these samples (milliseconds) in some stretches."""
    found = Measurement(more.pop("settings", Protocol()), float(samples[0]))
    shares = more.pop("shares", [1.0] * parts)
    readings = more.pop("readings", None) or [Conditions(float(k)) for k in range(parts + 1)]
    for part, share in zip(np.array_split(samples, parts), shares, strict=True):
        ns = [int(s * 1e6) for s in part]
        found.stretches.append(Taken(ns, share, 0, more.get("cores", (1,))))
    found.readings = readings
    found.mixed_cores = more.get("mixed", False)
    return found


def quiet(n: int = 120, seed: int = 0) -> np.ndarray:
    """What an idle machine gives: 2 ms, a percent of scatter, a few outliers to the right."""
    rng = np.random.default_rng(seed)
    x = 2 * np.exp(0.01 * rng.standard_normal(n))
    x[rng.random(n) < 0.03] *= 1.3
    return np.asarray(x)


@pytest.mark.parametrize("seed", range(30))
def test_a_quiet_run_is_ok(seed: int) -> None:
    verdict = judge(measured(quiet(seed=seed)))
    assert verdict.quality == "ok" and verdict.reasons == ()


@pytest.mark.parametrize("at", [0.2, 0.5, 0.85])
@pytest.mark.parametrize("seed", range(5))
def test_a_halved_frequency_is_throttling(seed: int, at: float) -> None:
    x = quiet(seed=seed)
    x[int(at * len(x)) :] *= 2
    verdict = judge(measured(x))
    assert verdict.quality == "throttled"
    assert "as with a lower clock" in verdict.reasons[0] and "times as long" in verdict.reasons[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_drift_of_20_percent(seed: int) -> None:
    x = quiet(seed=seed)
    slower = judge(measured(x * np.linspace(1, 1.2, len(x))))
    assert slower.quality == "throttled", slower
    faster = judge(measured(x * np.linspace(1.2, 1, len(x))))
    assert faster.quality == "noisy" and "--warmup-runs" in " ".join(faster.reasons)
    assert judge(measured(x * np.linspace(1, 1.01, len(x)))).quality == "ok"


def test_other_programs_are_noise_and_not_throttling() -> None:
    rng = np.random.default_rng(0)
    x = quiet()
    x[60:] += rng.choice([0.0, 4.0], 60)  # a time slice of somebody else's, every other time
    verdict = judge(measured(x, shares=[1, 1, 1, 0.5, 0.5, 0.5]))
    assert verdict.quality == "noisy"
    assert "other programs took 50 % of the core in stretch 4 of 6" in verdict.reasons
    # all samples alike, but the kernel says that the core was shared
    assert judge(measured(quiet(), shares=[0.8] * 6)).quality == "noisy"


def test_what_the_device_says_counts() -> None:
    def readings(**change: Any) -> list[Conditions]:
        first = {"limit_khz": {1: 2_000_000}, "temperature_c": 45.0, "cooling": 0}
        return [Conditions(0.0, **first), *[Conditions(k, **{**first, **change}) for k in range(6)]]

    cool = judge(measured(quiet(), readings=readings()))
    assert cool.quality == "ok"
    limited = judge(measured(quiet(), readings=readings(limit_khz={1: 1_000_000})))
    assert limited.quality == "throttled" and "from 2.00 to 1.00 GHz" in limited.reasons[0]
    other = judge(measured(quiet(), readings=readings(limit_khz={1: 2_000_000, 0: 1})))
    assert other.quality == "ok"  # a core that it does not run on
    hot = judge(measured(quiet(), readings=readings(cooling=2, temperature_c=81.0)))
    assert hot.quality == "throttled" and "81 C" in hot.reasons[0]


def test_too_few_and_wandering() -> None:
    assert "only 4 inferences" in judge(measured(quiet(4), 1, shares=[1.0])).reasons[0]
    wandering = judge(measured(quiet(), cores=(0, 4), mixed=True))
    assert wandering.quality == "noisy" and "use --cpu" in wandering.reasons[0]
    assert judge(measured(quiet(), cores=(0, 4))).quality == "ok"
    cold = quiet()
    cold[0] = 9.0
    assert "first inference took 4.5 times" in judge(measured(cold)).notes[0]


# -- the protocol ------------------------------------------------------------------------------


class Clock:
    """A device of no kind that ``collect`` needs, and a ``take`` that costs what a test says."""

    name = "clock"

    def __init__(self, cost: Any) -> None:
        self.cost, self.runs, self.starts = cost, 0, 0

    def info(self) -> DeviceInfo:
        return DeviceInfo("clock", "test", "measured", "", {})

    def take(self, n: int) -> Taken:
        self.starts += 1
        ns = [int(1e6 * self.cost(self.runs + k)) for k in range(n)]
        self.runs += n
        return Taken(ns, 1.0, 0, (0,))


def test_it_stops_when_the_interval_is_narrow() -> None:
    rng = np.random.default_rng(0)
    clock = Clock(lambda k: 2 * np.exp(0.002 * rng.standard_normal()))
    with protocol(Protocol(num_runs=30, warmup_runs=7, max_secs=60)):
        found = collect(clock, clock.take)  # type: ignore[arg-type]
    d = found.to_json()
    assert d["quality"] == "ok" and d["warmup_runs"] == 7
    assert 30 <= d["runs"] == len(d["samples_ms"]) == clock.runs - 7
    assert d["interval_ms"][0] <= d["median_ms"] <= d["interval_ms"][1]
    assert found.width <= 0.01 and len(found.stretches) == 3
    assert d["min_ms"] <= d["median_ms"] <= d["p90_ms"]


def test_it_stops_when_the_time_is_up() -> None:
    rng = np.random.default_rng(0)

    def cost(k: int) -> float:
        time.sleep(0.001)
        return float(np.exp(rng.standard_normal()))

    clock = Clock(cost)
    started = time.monotonic()
    with protocol(Protocol(num_runs=20, max_secs=0.5)):
        d = collect(clock, clock.take).to_json()  # type: ignore[arg-type]
    assert 0.4 < time.monotonic() - started < 5
    assert d["quality"] == "noisy" and "interval of the median" in " ".join(d["reasons"])


@pytest.mark.parametrize("bad", [{"num_runs": 0}, {"warmup_runs": -1}, {"max_secs": 0}])
def test_settings_that_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Protocol(**bad)


def test_a_program_that_was_cut_short_gives_no_figure() -> None:
    good = "total_ns=5000\ntotal_ns=6000\nloop_ns=10000000\ncpu_ns=5000000\ncore=3\npeak_kb=4\n"
    t = measure.taken(good, 2)
    assert (t.ns, t.cpu_share, t.cores, t.peak_bytes) == ([5000, 6000], 0.5, [3], 4096)
    for bad in (good.replace("6000", "6e3"), good.replace("total_ns=6000\n", ""), "",
                good.replace("6000", "0"), good + "total_ns=1\n", good.replace("6000", "٦"),
                good.replace("6000", "9" * 5000)):  # fmt: skip
        with pytest.raises(DeviceError, match="of 2 inferences"):
            measure.taken(bad, 2)
    assert measure.taken(good.replace("10000000", "1000"), 2).cpu_share is None


def test_core_lists() -> None:
    assert measure.cpus_of("4-6,0") == (0, 4, 5, 6)
    for bad in ("", "a", "3-1", "1;id", "-1", "99999", "²"):
        with pytest.raises(InputError, match="not a list of cores"):
            measure.cpus_of(bad)


# -- what the device was like ------------------------------------------------------------------

PHONE = """freq.0=1800000
freq.4=2841600
limit.4=2841600
governor.0=schedutil
temp.0=48500
temp.1=0
temp.2=-273000
temp.3=nonsense
cooling.0=1
battery.status=Discharging
battery.charge_counter=3000000
battery.voltage_now=4000000
battery.capacity=83
battery.temp=291
load=3.41 2.0 1.0 2/345 99
evil.\x1b[31m=1
edgekit-conditions=end
"""


def test_conditions_of_a_phone() -> None:
    c = conditions.parse(PHONE, 5.0)
    assert c.freq_khz == {0: 1_800_000, 4: 2_841_600} and c.temperature_c == 48.5
    assert c.governors == ("schedutil",) and c.cooling == 1 and c.load == 3.41
    assert c.battery == {"percent": 83, "temperature_c": 29.1, "status": "Discharging"}
    later = conditions.parse(PHONE.replace("3000000", "2999000"))
    # 1000 uAh at 4 V are 14.4 J
    found = conditions.energy(c, later)
    assert found is not None and found[0] == "battery" and found[1] == pytest.approx(14.4)
    assert conditions.energy(later, c) is None  # it was charged in between
    assert conditions.parse(PHONE.replace("Discharging", "Charging")).joules == {}
    assert conditions.parse("") == Conditions(0.0)


def test_energy_by_counters() -> None:
    readings = [conditions.parse(f"rapl.0={n}000000\nrapl.1=1000000") for n in (10, 16, 4, 10)]
    found = measured(quiet(60), 3, shares=[1.0] * 3, readings=readings)
    # 6 J, a counter that wrapped, 6 J: over 60 inferences
    assert found.energy() == {"millijoules": 200.0, "source": "rapl", "kind": "measured"}
    assert "energy" not in measured(quiet()).to_json()


def test_an_external_meter() -> None:
    say = [sys.executable, "-c", "import sys; print(sys.argv[1])"]
    assert conditions.read_meter([*say, "joules=12.5"]) == 12.5
    for bad in ("12.5", "joules=", "joules=1e3", "joules=__import__('os')"):
        with pytest.raises(DeviceError, match="did not print a line joules=NUMBER"):
            conditions.read_meter([*say, bad])


# -- real programs on this machine -------------------------------------------------------------

WORK = """#!/bin/sh
exec %s - "$@" <<'E'
import resource, sys, time
n = int(sys.argv[1])
def work():
    t = time.perf_counter_ns()
    for _ in range(20000): pass
    return time.perf_counter_ns() - t
work()
u = lambda: resource.getrusage(resource.RUSAGE_SELF)
a, c, w = u(), time.process_time_ns(), time.perf_counter_ns()
for _ in range(n): print(f"total_ns={work()}")
print(f"loop_ns={time.perf_counter_ns() - w}")
print(f"cpu_ns={time.process_time_ns() - c}")
print(f"switches={u().ru_nivcsw - a.ru_nivcsw}")
E
"""


def test_a_cpu_hog_started_in_the_middle_is_caught() -> None:
    """On one core, with a second program there from the third stretch on."""
    core = min(os.sched_getaffinity(0))
    hog: list[subprocess.Popen[bytes]] = []
    with open_device("host") as device:
        device.push_bytes((WORK % sys.executable).encode(), "work")
        starts = 0

        def take(n: int) -> Taken:
            nonlocal starts
            starts += 1
            if starts == 4:
                loop = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass"
                hog.append(subprocess.Popen([sys.executable, "-c", loop]))
                time.sleep(0.2)
            done = device.run(RunRequest("work", (str(n),), cpus=(core,)))
            return measure.taken(done.stdout, n)

        try:
            with protocol(Protocol(num_runs=60, max_secs=1.2, narrow=0.0)):
                d = collect(device, take).to_json()
        finally:
            for p in hog:
                p.kill()
                p.wait()
    assert hog, "the hog was never started"
    assert d["quality"] != "ok"
    assert "other programs took" in " ".join(d["reasons"])
    assert d["cpu_share"] < 0.8


def test_two_processes_on_one_device_do_not_overlap(tmp_path: Path) -> None:
    """Both measure on this machine; the times in which they did are apart."""
    code = (
        "import sys, time; sys.path.insert(0, 'tests');"
        "from edgekit.devices import open_device;"
        "from edgekit.profile.measure import Protocol, Taken, collect, protocol;"
        "take = lambda n: (time.sleep(0.01 * n), Taken([10_000_000] * n))[1];\n"
        "with open_device('host') as d, protocol(Protocol(num_runs=20, max_secs=1)):\n"
        "    m = collect(d, take).to_json(); print(m['started'], m['ended'])"
    )
    run = [sys.executable, "-c", code]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    spans = sorted(tuple(float(x) for x in p.communicate(timeout=60)[0].split()) for p in processes)
    assert spans[0][1] <= spans[1][0] + 1e-3, spans
    assert in_use("host") is None
