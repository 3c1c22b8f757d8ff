"""A target family of somebody else, installed as its own package: every verb takes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from npu_case import float_net, int8_net, mixed_net

from edgekit import formats

PACKAGE = Path(__file__).parent / "third_party_target"


def install_by_hand(site: Path) -> None:
    """What an installer leaves behind: the modules, and metadata with the entry points."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    name, release = project["name"], project["version"]
    shutil.copytree(PACKAGE / "edgekit_abacus", site / "edgekit_abacus")
    info = site / f"{name.replace('-', '_')}-{release}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{k} = {v}" for k, v in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def install_by_pip(site: Path) -> None:
    """Without network and without touching the environment."""
    source = site.parent / "source"  # a build writes beside its sources
    shutil.copytree(PACKAGE, source)
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps",
            "--no-build-isolation", "--target", str(site), str(source)]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True, timeout=120)


def can_build() -> bool:
    try:
        version("pip")
        return int(version("setuptools").split(".")[0]) >= 71  # makes wheels by itself
    except PackageNotFoundError:
        return False


class Edgekit:
    """The command line in a process that sees the other package."""

    def __init__(self, site: Path) -> None:
        self._env = {**os.environ, "PYTHONPATH": str(site)}

    def __call__(self, *args: object) -> tuple[int, Any, str]:
        code = "from edgekit.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, args), "--json"],
            capture_output=True, text=True, env=self._env, timeout=120, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.fixture
def edgekit(tmp_path: Path) -> Edgekit:
    site = tmp_path / "site"
    site.mkdir()
    install_by_hand(site)
    return Edgekit(site)


def listed(document: Any) -> dict[str, dict[str, Any]]:
    entries = document["targets"] if isinstance(document, dict) else document
    return {e["name"]: e for e in entries}


def test_the_verbs_take_it(edgekit: Edgekit, tmp_path: Path) -> None:
    formats.save(int8_net(), tmp_path / "m.tflite")
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (6, 16, 16, 3)).astype(np.int8)
    np.savez(tmp_path / "d.npz", x=x, y=np.zeros(6, np.int64))
    data, art = f"{tmp_path / 'd.npz'}:x,y", tmp_path / "a"

    code, document, _ = edgekit("targets")
    entry = listed(document)["abacus-13"]
    assert code == 0 and entry["usable"] and entry["family"] == "abacus"
    assert "cortex-m4" in listed(document)

    code, document, err = edgekit(
        "compile", tmp_path / "m.tflite", "--target", "abacus-13", "-o", art
    )
    assert code == 0, err
    code, document, err = edgekit("profile", art)
    assert code == 0, err
    assert (document["kind"], document["device"]) == ("estimated", "abacus:frame")
    assert document["total"]["latency_ms"] == 500 * document["total"]["cycles"] > 0
    code, document, err = edgekit("verify", art, "--data", data)
    assert code == 0, err
    assert (document["mismatched_bytes"], document["samples"]) == (0, 6)
    code, _, err = edgekit("run", art, "--input", data, "-o", tmp_path / "o.npz")
    assert code == 0, err
    with np.load(tmp_path / "o.npz") as outputs:
        assert outputs[outputs.files[0]].shape == (6, 5)


def test_float_models_and_refusals_go_the_usual_way(edgekit: Edgekit, tmp_path: Path) -> None:
    formats.save(float_net(), tmp_path / "f.tflite")
    formats.save(mixed_net(), tmp_path / "m.tflite")
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x)
    out = tmp_path / "a"
    code, document, err = edgekit("deploy", tmp_path / "f.tflite", "--target", "abacus-13",
                                  "--data", tmp_path / "d.npz", "-o", out)  # fmt: skip
    assert code == 0, err
    assert document["verify"]["mismatched_bytes"] == 0 and (out / "report.html").is_file()
    code, _, err = edgekit("compile", tmp_path / "m.tflite", "--target", "abacus-13",
                           "-o", tmp_path / "b")  # fmt: skip
    assert code == 2 and not (tmp_path / "b").exists()
    assert "RESIZE_NEAREST_NEIGHBOR" in err and "no way to move beads" in err


@pytest.mark.slow
@pytest.mark.skipif(not can_build(), reason="pip and setuptools 71 are needed to build a package")
def test_installed_by_pip(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install_by_pip(site)
    code, document, _ = Edgekit(site)("targets", "abacus-13")
    assert code == 0 and document["family"] == "abacus"
    assert document["default_device"] == "abacus:frame"


def test_without_the_package_the_family_is_not_there() -> None:
    from edgekit.targets import target_names

    assert "abacus-13" not in target_names()
