"""Right on the PC and wrong on the board: ``verify`` names the first layer whose values differ, over
any transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adb_case
import numpy as np
import pytest
import ssh_case
from engine_case import compile_with, data_for, float_net, int8_net

from edgekit import api
from edgekit.artifact import Artifact
from edgekit.devices import open_device
from edgekit.devices.remote import RemoteDevice
from edgekit.graph.reference import run
from edgekit.verify import first_divergence, verify


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_with(tmp_path_factory.mktemp("v") / "out", int8_net(), "x86-64-host", "c")


@pytest.fixture(scope="module", params=["host", "ssh", "adb"])
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A device on which this machine's programs run."""
    place = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_LOCKS", str(place / "locks"))
        if request.param == "host":
            yield "host"
        elif request.param == "ssh":
            if ssh_case.WHY_NOT:
                pytest.skip(ssh_case.WHY_NOT)
            with ssh_case.server(place) as s:
                use = f"host: board, config: {s.config}, folder: {s.folder}"
                patch.setenv(
                    "EDGEKIT_DEVICES", str(s.yaml(f"devices: {{far: {{transport: ssh, {use}}}}}"))
                )
                yield "far"
                assert s.leftovers() == []
        else:
            if adb_case.WHY_NOT:
                pytest.skip(adb_case.WHY_NOT)
            with adb_case.phone(place) as p:
                yield f"adb:{p.serial}"
                assert adb_case.leftovers(p) == []


class Broken:
    """A device whose memory flips bits of the weights ``row`` of every program it gets."""

    def __init__(self, device: Any, weights: bytes, flipped: bytes) -> None:
        self._device, self._weights, self._flipped = device, weights, flipped
        self.hits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def push(self, local: Path, remote: str) -> None:
        data = local.read_bytes()
        self.hits += data.count(self._weights)
        self._device.push_bytes(data.replace(self._weights, self._flipped), remote)


@pytest.mark.slow
def test_the_first_wrong_layer_is_named(artifact: Artifact, device: str) -> None:
    graph = artifact.graph
    data = data_for(graph, 3)
    backend = api._backend(artifact)
    # the middle of the depthwise convolution's weights, as they lie in the program
    node = next(n for n in graph.nodes if n.type == "DEPTHWISE_CONV_2D")
    values = np.ascontiguousarray(graph.tensor(node.inputs[1]).data).tobytes()
    part = values[8:24]
    assert len(set(part)) > 4
    with open_device(device, target=artifact.target) as real:
        assert device == "host" or isinstance(real, RemoteDevice)
        assert verify(artifact, backend, real, data)["passed"]
        broken = Broken(real, part, bytes(b ^ 0x40 for b in part))
        d = verify(artifact, backend, broken, data)  # type: ignore[arg-type]
    assert broken.hits >= 2, "the weights were not found in the programs"
    assert not d["passed"] and d["mismatched_bytes"] > 0
    first = d["first_divergent_layer"]
    assert first["layer"] == node.name and first["op"] == "DEPTHWISE_CONV_2D"
    assert first["got"] != first["expected"] and 0 < first["mismatched"] <= first["elements"]
    assert first["examples"][0]["index"] == first["index"]
    assert all(e["got"] != e["expected"] for e in first["examples"])


def test_an_engine_with_a_tolerance_diverges_beyond_it() -> None:
    """Rounding in every layer is no divergence; the one layer that is wrong is."""
    graph = float_net()
    x = next(iter(data_for(graph, 1).x.values()))
    layers = run(graph, [x], keep="all")
    names = [n.outputs[0] for n in graph.nodes]

    def traced(wrong: str | None) -> Any:
        values = {n: layers[n] * np.float32(1 + 1e-6) for n in names}
        if wrong is not None:
            values[wrong] = values[wrong].copy()
            values[wrong].flat[7] += 1.0
        return SimpleNamespace(run=lambda *a, **k: SimpleNamespace(layers=[values]))

    art: Any = SimpleNamespace(
        graph=graph, engine="tvm", details={"exact": False, "precision": "float32"}
    )
    device: Any = None
    found = first_divergence(art, traced(names[2]), device, [x], 4)
    assert found is not None and found["tensor"] == names[2] and found["sample"] == 4
    assert np.ravel_multi_index(found["index"], layers[names[2]].shape) == 7
    assert found["got"] == pytest.approx(found["expected"] + 1.0, rel=1e-3)
    fine = first_divergence(art, traced(None), device, [x], 4)
    assert fine is not None and fine["layer"] is None and "within the tolerance" in fine["reason"]
    silent: Any = SimpleNamespace(run=lambda *a, **k: SimpleNamespace(layers=()))
    nothing = first_divergence(art, silent, device, [x], 4)
    assert nothing is not None and "does not tell its layers apart" in nothing["reason"]
