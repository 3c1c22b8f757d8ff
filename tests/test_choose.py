"""The choice of kernels by counting them on the virtual core."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcu_case import compile_to, small_net

from edgekit.errors import DeviceError, DoesNotFitError, InputError
from edgekit.graph import Graph
from edgekit.targets import get_backend, get_target
from edgekit_targets.mcu import choose as chooser
from edgekit_targets.mcu import measure as measuring
from edgekit_targets.mcu.choose import Limits, Option, _Search
from edgekit_targets.mcu.contract import ConstArray, KernelCall
from edgekit_targets.mcu.knapsack import Code, Item, solve
from edgekit_targets.mcu.toolchain import Compiler, why_missing


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


def plan_of(artifact) -> dict[str, str]:
    return {row["name"]: row["variant"] for row in artifact.manifest["plan"]}


def test_the_fastest_counted_kernel_runs_and_the_profile_agrees(tmp_path: Path) -> None:
    """What was counted for each kernel alone is what the layer costs in the model."""
    artifact = compile_to(tmp_path / "a", small_net(), optimize="speed")
    assert artifact.manifest["details"]["kernels_chosen_by"] == "measurement"
    from edgekit.devices.registry import open_device

    with open_device("virtual:cortex-m4", target=artifact.target) as device:
        profile = get_backend("mcu").profile(artifact, device)
    contested = 0
    for row, layer in zip(artifact.manifest["plan"], profile.layers, strict=True):
        counted = [c for c in row["candidates"] if c.get("instructions") is not None]
        chosen = [c for c in counted if c["chosen"]]
        if not chosen:
            continue
        contested += 1
        assert chosen[0]["cycles"] == min(c["cycles"] for c in counted)
        # the call's own few instructions, and paths that depend on the data
        assert layer.instructions == pytest.approx(chosen[0]["instructions"], rel=0.05, abs=40)
    assert contested >= 5


def test_a_wrong_rank_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = plan_of(compile_to(tmp_path / "a", small_net()))
    honest = chooser.find_options

    def upside_down(*args):
        options, rejected = honest(*args)
        for name, found in options.items():
            options[name] = [replace(o, rank=1000 - o.rank) for o in found]
        return options, rejected

    monkeypatch.setattr(chooser, "find_options", upside_down)
    monkeypatch.setattr("edgekit_targets.mcu.backend.find_options", upside_down)
    assert plan_of(compile_to(tmp_path / "b", small_net())) == right
    assert plan_of(compile_to(tmp_path / "c", small_net(), kernels="rank")) != right
    portable = plan_of(compile_to(tmp_path / "d", small_net(), kernels="portable"))
    assert all(name.endswith("_ref") or name.startswith("none") for name in portable.values())


def test_counts_are_kept_and_a_damaged_one_is_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compile_to(tmp_path / "a", small_net())
    programs = []
    count = measuring._count

    def counting(graph, batch, *rest):
        programs.append(len(batch))
        return count(graph, batch, *rest)

    monkeypatch.setattr(measuring, "_count", counting)
    second = compile_to(tmp_path / "b", small_net())
    assert programs == []
    assert second.manifest["plan"] == first.manifest["plan"]
    stored = sorted((tmp_path / "cache" / "kernel-costs").glob("*.json"))
    stored[0].write_text("{")
    third = compile_to(tmp_path / "c", small_net())
    assert len(programs) == 1
    assert third.manifest["plan"] == first.manifest["plan"]
    assert json.loads(stored[0].read_text())["costs"]


def test_kernels_are_compiled_once_and_a_damaged_object_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    real = Compiler.compile

    def watching(self, folder, units, *rest):
        compiled.extend(u.source for u in units if u.source.startswith("kernels/"))
        real(self, folder, units, *rest)

    monkeypatch.setattr(Compiler, "compile", watching)
    first = compile_to(tmp_path / "a", small_net(), toolchain="zig")
    assert len(compiled) == len(set(compiled)) > 10  # counted and linked, compiled once
    compiled.clear()
    objects = sorted((tmp_path / "cache" / "kernel-objects").glob("*.o"))
    for path in objects[1:]:
        path.write_bytes(path.read_bytes()[:-1])
    second = compile_to(tmp_path / "b", small_net(), toolchain="zig")
    assert compiled
    assert second.file("firmware.elf").read_bytes() == first.file("firmware.elf").read_bytes()
    compiled.clear()
    compile_to(tmp_path / "c", small_net(), toolchain="zig", optimize="size")
    assert compiled  # other flags, other objects


def test_without_an_emulator_the_rank_decides_and_the_artifact_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_args: object, **_kw: object) -> None:
        raise DeviceError("there is no emulator here")

    monkeypatch.setattr("edgekit.devices.registry.open_device", none)
    details = compile_to(tmp_path / "a", small_net()).manifest["details"]
    assert details["kernels_chosen_by"] == "rank"
    assert details["kernels_not_counted"] == "there is no emulator here"


def test_size_and_ram_are_kept_for_what_they_are_asked(tmp_path: Path) -> None:
    made = {o: compile_to(tmp_path / o, small_net(), optimize=o) for o in ("speed", "size", "ram")}
    memory = {o: a.manifest["memory"] for o, a in made.items()}
    assert memory["size"]["flash_bytes"] < memory["speed"]["flash_bytes"]
    assert memory["ram"]["arena_bytes"] <= memory["speed"]["arena_bytes"]


@pytest.mark.parametrize(
    ("extra", "word"),
    [
        ({"flash_limit": "many"}, "positive number of bytes"),
        ({"ram_limit": 0}, "positive number of bytes"),
        ({"objective": "joules"}, "cycles or instructions"),
        ({"kernels": "dice"}, "measure or rank or portable"),
        ({"colour": 1}, "has no option 'colour'"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path: Path, extra: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        compile_to(tmp_path / "a", small_net(), **extra)


def test_a_flash_limit_is_used_up_to_what_the_linked_program_takes(tmp_path: Path) -> None:
    free = compile_to(tmp_path / "free", small_net(), optimize="speed", toolchain="zig")
    size = compile_to(tmp_path / "size", small_net(), optimize="size", toolchain="zig")
    most, least = (a.manifest["memory"]["flash_bytes"] for a in (free, size))
    assert least < most - 200
    limit = (most + least) // 2
    lean = compile_to(tmp_path / "lean", small_net(), optimize="speed", flash_limit=limit)
    assert lean.manifest["memory"]["flash_bytes"] <= limit
    assert lean.manifest["details"]["kernels_work"] < size.manifest["details"]["kernels_work"]
    assert not (tmp_path / "lean" / ".again").exists()
    files = {p.relative_to(tmp_path / "lean").as_posix() for p in (tmp_path / "lean").rglob("*.c")}
    assert files <= set(lean.manifest["files"])


@pytest.mark.skipif(why_missing("gcc") is not None, reason="arm-none-eabi-gcc is not installed")
def test_the_best_toolchain_is_the_better_of_both(tmp_path: Path) -> None:
    artifact = compile_to(tmp_path / "a", small_net(), optimize="speed", toolchain="best")
    details = artifact.manifest["details"]
    tried = details["toolchains_compared"]
    assert set(tried) == {"zig", "gcc"}
    assert tried[details["toolchain"]] == min(tried.values()) == details["kernels_work"]
    assert list(artifact.manifest["tools"]) == [details["toolchain"]]
    assert not [p for p in (tmp_path / "a").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("limit", ["flash_limit", "ram_limit"])
def test_a_limit_that_cannot_be_kept_is_refused(tmp_path: Path, limit: str) -> None:
    limits: dict[str, Any] = {limit: 2100}
    with pytest.raises(DoesNotFitError, match="has 2,100: too little"):
        compile_to(tmp_path / "a", small_net(), **limits)


def test_every_target_with_a_core_gets_a_choice() -> None:
    names = [t for t in ("cortex-m0plus", "cortex-m3", "cortex-m33") if get_target(t)]
    assert len(names) == 3
    graph = small_net()
    from edgekit_targets.mcu.backend import parse
    from edgekit_targets.mcu.toolchain import arm_compiler

    for name in names:
        mcu = parse(get_target(name))
        assert mcu.toolchain is not None
        choice = chooser.choose(graph, mcu, arm_compiler(mcu.toolchain, "zig"))
        assert choice.by == "measurement", choice.why_rank
        assert set(choice.calls) == {n.name for n in graph.nodes}


# -- the search, against trying everything -------------------------------------------------------


def fake(nodes: list[list[tuple[int, int, int, int]]]) -> tuple[_Search, dict[str, list[Option]]]:
    """nodes: per node (work, constants, scratch, kernel number) of each option."""
    graph = Graph("g", {}, [], ("x",), ())
    from edgekit.graph import Tensor

    graph.tensors["x"] = Tensor("x", (1, 16), "int8")
    before, options = "x", {}
    for k, found in enumerate(nodes):
        graph.tensors[f"t{k}"] = Tensor(f"t{k}", (1, 16), "int8")
        node = graph.add_node("RELU", [before], [f"t{k}"], {})
        before = f"t{k}"
        options[node.name] = [
            Option(
                KernelCall(
                    f"v{kernel}",
                    (f"v{kernel}.c",),
                    "h.h",
                    "",
                    consts=(ConstArray("w", "int8_t", np.zeros(const, np.int8)),),
                    scratch_bytes=scratch,
                ),
                kernel,
                work=work,
            )
            for work, const, scratch, kernel in found
        ]
    graph.outputs = (before,)
    code = {f"v{i}.c": 37 * (i + 1) for i in range(4)}
    return _Search(graph, options, code), options


option = st.tuples(st.integers(1, 50), st.integers(0, 300), st.integers(0, 200), st.integers(0, 3))
networks = st.lists(
    st.lists(option, min_size=1, max_size=4, unique_by=lambda o: o[3]), min_size=1, max_size=5
)


def every_state(options: dict[str, list[Option]]):
    for picks in itertools.product(*(range(len(o)) for o in options.values())):
        yield dict(zip(options, picks, strict=True))


@settings(deadline=None)
@given(networks)
def test_fastest_is_the_fastest_of_all(nodes) -> None:
    search, options = fake(nodes)
    assert search.work(search.fastest()) == min(search.work(s) for s in every_state(options))


@settings(deadline=None)
@given(networks)
def test_least_ram_is_the_least_within_the_allowed_work(nodes) -> None:
    search, _options = fake(nodes)
    state = search.least_ram()
    most = int(search.work(search.fastest()) * chooser.RAM_SLOWDOWN)
    assert search.work(state) <= most
    assert search.ram(state) <= search.ram(search.fastest())


@settings(deadline=None)
@given(networks, st.data())
def test_a_limit_of_flash_is_kept_at_the_least_work_there_is(nodes, data) -> None:
    search, options = fake(nodes)
    states = list(every_state(options))
    limit = data.draw(st.sampled_from(sorted({search.flash(s) for s in states})))
    state = search.within(search.fastest(), Limits(flash=limit), search.aim("speed"))
    assert search.flash(state) <= limit
    assert search.work(state) == min(search.work(s) for s in states if search.flash(s) <= limit)


@settings(deadline=None)
@given(networks, st.data())
def test_a_limit_of_ram_that_can_be_kept_is_kept(nodes, data) -> None:
    search, options = fake(nodes)
    states = list(every_state(options))
    limit = data.draw(st.sampled_from(sorted({search.ram(s) for s in states})))
    state = search.within(search.fastest(), Limits(ram=limit), search.aim("speed"))
    assert search.ram(state) <= limit


@settings(deadline=None)
@given(networks)
def test_smallest_is_the_smallest(nodes) -> None:
    search, options = fake(nodes)
    least = min((search.flash(s), search.work(s)) for s in every_state(options))
    state = search.smallest()
    assert (search.flash(state), search.work(state)) == least


kernel_items = st.lists(
    st.builds(
        Item,
        st.integers(0, 40),
        st.integers(0, 60),
        st.frozensets(st.integers(0, 4), max_size=3),
    ),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(
    st.lists(kernel_items, min_size=1, max_size=5),
    st.lists(st.builds(Code, st.integers(0, 50), st.integers(0, 5)), min_size=5, max_size=5),
    st.integers(0, 300),
)
def test_the_knapsack_is_exact(nodes, code, limit) -> None:
    """Several pieces of code an option, shared in any way: against trying everything."""

    def total(items) -> tuple[int, int]:
        used = frozenset().union(*(i.uses for i in items))
        return (
            sum(i.cost for i in items) + sum(code[s].cost for s in used),
            sum(i.bytes for i in items) + sum(code[s].bytes for s in used),
        )

    every = [total(items) for items in itertools.product(*nodes)]
    fitting = [cost for cost, size in every if size <= limit]
    found = solve(nodes, code, limit)
    if not fitting:
        assert found is None
        return
    assert found is not None and found.proved
    assert total([o[k] for o, k in zip(nodes, found.picks, strict=True)]) == (
        found.cost,
        found.bytes,
    )
    assert found.bytes <= limit and found.cost == min(fitting)


def test_a_large_knapsack_stays_quick_and_near_its_bound() -> None:
    rng = np.random.default_rng(4)
    nodes = [
        [
            Item(int(rng.integers(1, 10**6)), int(rng.integers(0, 5000)), frozenset({int(k), 9}))
            for k in rng.choice(9, 6, replace=False)
        ]
        for _ in range(80)
    ]
    code = [Code(int(rng.integers(500, 4000))) for _ in range(10)]
    least = sum(min(i.bytes for i in n) for n in nodes)
    before = time.process_time()
    found = solve(nodes, code, 2 * least + 20_000)
    assert time.process_time() - before < 10
    assert found is not None and found.bytes <= 2 * least + 20_000
    # without a limit nothing can be cheaper, and with all code for free the relaxation is greedy
    assert found.cost >= sum(min(i.cost for i in n) for n in nodes)
