"""A target family of somebody else, installed as a package of its own, beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "toaster-targets"
version = "1.0"

[project.entry-points."edgekit.targets"]
toaster = "toaster_targets:family"

[tool.setuptools]
packages = ["toaster_targets"]

[tool.setuptools.package-data]
toaster_targets = ["*.yaml"]
"""
YAML = """\
name: toaster-9000
family: toaster
description: bread and matrices
board: Toaster 9000
source: its manual
cores:
  - { name: crumb, isa: bread, clock_hz: 1_000_000 }
"""
#: The family reuses edgekit's reference executor: its artifact is the graph, its device the host.
MODULE = """
from pathlib import Path

from edgekit.graph import reference
from edgekit.targets.base import Compiled, EngineInfo, Family, LayerProfile, Profile, RunOutput


class Backend:
    family = "toaster"

    def engines(self, target):
        return [EngineInfo("crumbs", True), EngineInfo("burnt", False, "no bread")]

    def supports(self, graph, target, engine):
        return []

    def needs_int8(self, target, engine):
        return True

    def default_device(self, target):
        return "host"

    def compile(self, graph, target, out, options, progress=None):
        (out / "bread.txt").write_text("toasted")
        return Compiled(options.engine, ["bread.txt"], [], {"flash_bytes": 7}, {"toaster": "1.0"})

    def run(self, artifact, device, inputs, trace_layers=False, progress=None):
        values = reference.run(artifact.graph, list(inputs))
        return RunOutput([values[o] for o in artifact.graph.outputs])

    def profile(self, artifact, device, inputs=None):
        layers = [LayerProfile(n.name, n.type, 0) for n in artifact.graph.nodes]
        return Profile(device.name, artifact.target.name, artifact.engine, "estimated", None, 42,
                       None, {"flash_bytes": 7}, layers)


family = Family("toaster", "toasters", Path(__file__).parent, Backend)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package."""
    source = tmp_path_factory.mktemp("source")
    (source / "toaster_targets").mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "toaster_targets/__init__.py").write_text(MODULE)
    (source / "toaster_targets/toaster-9000.yaml").write_text(YAML)
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command += ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(site)]
    done = subprocess.run(
        [*command, str(source)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return site


def edgekit(site: Path, *args: str) -> tuple[int, str, str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-m", "edgekit.cli", *args],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_an_installed_family_works_through_every_command(site: Path, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    model, data = str(root / "models/digits.tflite"), f"{root}/models/digits.npz:val_x,val_y"
    code, out, _ = edgekit(site, "targets", "--json")
    entry = {t["name"]: t for t in json.loads(out)}["toaster-9000"]
    assert code == 0 and entry["usable"] and entry["engines"][1]["why_not"] == "no bread"
    folder = str(tmp_path / "out")
    code, out, err = edgekit(
        site, "deploy", model, "--target", "toaster-9000", "--data", data, "--samples", "20",
        "-o", folder, "--json",
    )  # fmt: skip
    assert code == 0, err
    document = json.loads(out)
    assert document["engine"] == "crumbs" and document["profile"]["total"]["cycles"] == 42
    assert document["verify"]["mismatched_bytes"] == 0
    assert [e["reason"] for e in document["engines"]] == [None, "no bread"]
    assert edgekit(site, "verify", folder, "--data", data, "--samples", "3")[0] == 0
    code, _, err = edgekit(
        site, "compile", model, "--target", "toaster-9000", "--engine", "burnt", "-o", folder + "2"
    )
    assert code == 2 and "no bread" in err
    code, _, err = edgekit(site / "elsewhere", "profile", folder)
    assert code == 2 and "'toaster' is not installed" in err
