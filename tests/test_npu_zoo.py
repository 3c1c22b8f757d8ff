"""Vela's table of November 2026, model by model, and a reason for everything that it refuses. Slow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import opgen
import opgen_all  # noqa: F401  registers every generator module
import pytest
from netgen import dead_network, quantized, random_inputs
from npu_case import TARGET, needs_vela

from edgekit import api
from edgekit.data import Dataset, load_dataset
from edgekit.formats import tflite
from edgekit.targets import get_target
from edgekit_targets.npu import config, vela
from edgekit_targets.npu.placement import place, safe_names

pytestmark = [pytest.mark.slow, needs_vela]

TARGETS = ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256")
#: Vela 5.2, default system configurations: ms on each target; SRAM and flash KiB on the first.
TABLE = {
    "ic_resnet8_int8": ((0.403, 0.284, 0.057, 0.099), 50.6, 77.4),
    "kws_dscnn_int8": ((0.180, 0.117, 0.031, 0.054), 21.7, 30.4),
    "ad_fcae_int8": ((0.402, 0.402, 0.027, 0.063), 0.75, 196),
    "mobilenet_v2_1.0_224_int8": ((15.7, 11.8, 2.33, 5.02), 1474, 3393),
}


def half_a_last_digit(value: float) -> float:
    text = f"{value:g}"
    return 0.5001 * 10.0 ** -len(text.partition(".")[2])


@pytest.mark.parametrize("model", TABLE)
def test_the_table_is_reproduced(shared: Path, tmp_path: Path, model: str) -> None:
    latencies, sram, flash = TABLE[model]
    for target, expected in zip(TARGETS, latencies, strict=True):
        art = api.compile(shared / "zoo" / f"{model}.tflite", target, tmp_path / target,
                          simplify=False)  # fmt: skip
        p = api.profile(art)
        assert p["tools"]["ethos-u-vela"].startswith("5.2")
        digits = 3 if expected < 1 else None
        tolerance = 0.0005001 if digits else half_a_last_digit(expected)
        assert p["total"]["latency_ms"] == pytest.approx(expected, abs=tolerance), target
        assert p["details"]["operators"]["cpu"] == 0
        assert sum(la["cycles"] for la in p["layers"]) == p["total"]["cycles"]
        if target == TARGET:
            assert p["memory"]["sram_bytes"] / 1024 == pytest.approx(
                sram, abs=half_a_last_digit(sram)
            )
            assert p["memory"]["flash_bytes"] / 1024 == pytest.approx(
                flash, abs=half_a_last_digit(flash)
            )


def test_the_system_configuration_matters(shared: Path, tmp_path: Path) -> None:
    document = get_target(TARGET).model_dump(mode="json")
    document["name"] = "deep-embedded"
    document["config"] |= {"system_config": "Ethos_U55_Deep_Embedded", "npu_clock_hz": 200_000_000}
    path = tmp_path / "deep-embedded.yaml"  # JSON is YAML
    path.write_text(json.dumps(document))
    art = api.compile(shared / "zoo" / "kws_dscnn_int8.tflite", str(path), tmp_path / "a")
    p = api.profile(art)
    assert p["total"]["latency_ms"] == pytest.approx(0.521, abs=0.0005)
    assert p["details"]["system_config"] == "Ethos_U55_Deep_Embedded"


def test_a_shipped_model_is_verified_and_accurate(shared: Path, tmp_path: Path) -> None:
    data = load_dataset(f"{shared / 'data' / 'kws01.npz'}:x,y")
    result = api.deploy(shared / "zoo" / "kws_dscnn_int8.tflite", TARGET, data, tmp_path / "a")
    checked = result["verify"]
    assert (checked["samples"], checked["mismatched_bytes"]) == (500, 0)
    assert checked["accuracy"] == checked["reference_accuracy"] > 0.88


@pytest.mark.parametrize("target", ["ethos-u55-128", "ethos-u85-256"])
@pytest.mark.parametrize("op", sorted(opgen.CASES))
def test_every_operator_is_placed_with_velas_own_reason(op: str, target: str) -> None:
    """Two random cases an operator: what Vela leaves on the CPU has words of Vela's, and the
    estimated cycles of the nodes add up to Vela's total."""
    npu = config.parse(get_target(target))
    for seed in (1, 2):
        graph, _ = opgen.random_case(op, np.random.default_rng(seed))
        safe, _ = safe_names(graph)
        outputs, tool = vela.compile_tflite(tflite.write_bytes(safe), npu, model=op)
        placed, stray = place(safe, outputs, npu.generation, tool.version)
        for p in placed:
            if not p.on_npu:
                assert p.reason and "gave no reason" not in p.reason
                assert not p.commands
        assert outputs.streams or not any(p.on_npu and p.commands for p in placed)
        assert not stray
        assert sum(p.cycles or 0 for p in placed) == outputs.number("cycles_total")


@pytest.mark.parametrize("seed", range(6))
def test_random_networks_add_up_and_agree(seed: int, tmp_path: Path) -> None:
    """Residuals, concatenations, padding, pools: every cycle has a node, every byte is right."""
    rng = np.random.default_rng(seed)
    graph = quantized(dead_network(rng, 0.3), rng)
    data = Dataset.of(random_inputs(graph, rng, 4)[0])
    for target in (TARGET, "ethos-u65-256", "ethos-u85-1024"):
        art = api.compile(graph, target, tmp_path / target)
        p = api.profile(art)
        assert p["details"]["complete"] is True, p["details"]["cpu"]
        assert sum(la["cycles"] for la in p["layers"]) == p["total"]["cycles"]
        assert art.details["unattributed"] == []
        assert api.verify(art, data)["mismatched_bytes"] == 0
