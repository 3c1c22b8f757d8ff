"""The one table of cases, on every instruction set."""

from __future__ import annotations

import shutil

import pytest
from kernel_cases import EDGES, LAYERS, PACKED, random_cases
from kernel_suite import ON_HOST, SETS, on_device, on_host, support, target_of

from edgekit_targets.mcu import variants

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the host")


def check(results) -> None:
    wrong = [(r.entry.case.name, r.entry.call.variant, r.wrong) for r in results if r.wrong]
    assert results and not wrong


def test_every_variant_of_every_set_takes_a_case_of_the_table() -> None:
    """A kernel that nothing in the table runs is a kernel nobody checks."""
    table = [*EDGES, *PACKED, *LAYERS, *random_cases(6)]
    taken = {e.call.variant for name in SETS for e in support(table, target_of(name)).entries}
    known = {v.name for op in variants.supported_ops() for v in variants.variants_of(op)}
    # these take other types than int8 in and out
    missing = known - taken - {"dequantize_f32_ref", "quantize_f32_ref", "requantize_ref"}
    # what unpacks weights for another kernel is offered for every kernel, and takes a layer only where
    # that one reads them as bytes in a form that few bits can stand for
    wrappers = {n for n in missing if n.endswith(("_unpacked", "_widened"))}
    assert missing == wrappers
    assert {n.removesuffix("_unpacked").removesuffix("_widened") for n in wrappers} <= taken
    assert len(wrappers) < 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dsp", "mve", "aarch64"])
def test_packed_weights_on_a_virtual_core(name: str) -> None:
    entries = support(PACKED, target_of(name)).entries
    check(on_device(entries, target_of(name)))


def test_names_are_unique_and_cases_the_same_every_time() -> None:
    table = [*EDGES, *LAYERS, *random_cases(2)]
    assert len({c.name for c in table}) == len(table)
    for case in table[::7]:
        (g, x), (h, y) = case.make(), case.make()
        assert [a.tobytes() for a in x] == [b.tobytes() for b in y]
        assert [(t.name, t.shape) for t in g.tensors.values()] == [
            (t.name, t.shape) for t in h.tensors.values()
        ]


@needs_cc
@pytest.mark.parametrize("name", ON_HOST)
def test_named_cases_on_the_host_under_sanitizers(name: str) -> None:
    if name == "portable":
        cases = [*EDGES, *random_cases(1)]
    else:
        cases = list(EDGES)
    entries = support(cases, target_of(name)).entries
    own = [e for e in entries if name == "portable" or not e.portable]
    check(on_host(own))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SETS))
def test_table_on_a_virtual_core(name: str) -> None:
    entries = support([*EDGES, *random_cases(1)], target_of(name)).entries
    results = on_device(entries, target_of(name))
    check(results)
    assert all(r.instructions for r in results)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dsp", "mve"])
def test_the_best_kernel_of_known_layers_is_not_a_portable_one(name: str) -> None:
    results = on_device(support(LAYERS, target_of(name)).entries, target_of(name))
    check(results)
    for case in LAYERS:
        mine = [r for r in results if r.entry.case is case]
        best = min(mine, key=lambda r: r.cycles or 0)
        assert not best.entry.portable, case.name
