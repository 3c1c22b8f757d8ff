"""The same artifact on the same emulated processor, run directly, over ssh and over adb: the same
bytes, the same counts, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import adb_case
import numpy as np
import pytest
import ssh_case
from engine_case import compile_with, int8_net, needs_cc, needs_plugins, needs_qemu
from netgen import random_inputs

from edgekit import api
from edgekit.artifact import Artifact
from edgekit.devices import open_device

WRAPPER = "wrapper: qemu-aarch64 -cpu cortex-a53"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_with(tmp_path_factory.mktemp("a53") / "out", int8_net(), "cortex-a53", "c")


@pytest.fixture(scope="module", params=["ssh", "adb"])
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of a device whose programs run under the emulator of ``virtual:aarch64``."""
    place = tmp_path_factory.mktemp(request.param)
    file = place / "devices.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_DEVICES", str(file))
        patch.setenv("EDGEKIT_LOCKS", str(place / "locks"))
        if request.param == "ssh":
            if ssh_case.WHY_NOT:
                pytest.skip(ssh_case.WHY_NOT)
            with ssh_case.server(place) as s:
                use = f"host: board, config: {s.config}, folder: {s.folder}"
                file.write_text(f"devices: {{far: {{transport: ssh, {use}, {WRAPPER}}}}}")
                yield "far"
                assert s.leftovers() == []
        else:
            if adb_case.WHY_NOT:
                pytest.skip(adb_case.WHY_NOT)
            with adb_case.phone(place) as p:
                use = f"serial: '{p.serial}'"
                file.write_text(f"devices: {{far: {{transport: adb, {use}, {WRAPPER}}}}}")
                yield "far"
                assert adb_case.leftovers(p) == []


@pytest.mark.slow
@needs_qemu
@needs_cc
@needs_plugins
def test_same_bytes_and_counts(artifact: Artifact, device: str, tmp_path: Path) -> None:
    xs = random_inputs(artifact.graph, np.random.default_rng(5), 4)
    np.savez(tmp_path / "d.npz", x=xs[0])
    data = f"{tmp_path}/d.npz:x"
    direct, far = (api.run(artifact, data, device=d) for d in ("virtual:cortex-a53", device))
    assert {k: v.tobytes() for k, v in far.items()} == {k: v.tobytes() for k, v in direct.items()}
    here, there = (api.profile(artifact, device=d) for d in ("virtual:cortex-a53", device))
    assert there["kind"] == "simulated" and there["total"]["instructions"] > 10_000
    assert there["total"] == here["total"]
    for a, b in zip(here["layers"], there["layers"], strict=True):
        assert a == b
    with open_device(device, target=artifact.target) as d:
        info = d.info()
    assert info.kind == "simulated" and info.details["cpu"] == "cortex-a53"
    assert info.details["counts_instructions"] and "no latency" in info.description
    checked = api.verify(artifact, data, device=device)
    assert checked["passed"] and checked["device"] == "far" and checked["mismatched_bytes"] == 0
