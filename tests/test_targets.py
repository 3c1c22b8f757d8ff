"""The target registry: shipped files, users' own files, plug-ins of others, and what is refused."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from edgekit.errors import InputError
from edgekit.targets import (
    get_backend,
    get_family,
    get_target,
    list_targets,
    registry,
    target_names,
)
from edgekit.targets.base import EngineInfo, Family
from edgekit.targets.schema import Memory
from edgekit_targets.mcu import config

GENERIC = ["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33", "cortex-m55"]

BOARD = """\
name: my-board
family: mcu
description: a board of our own
board: prototype 3
source: its schematic
cores:
  - { name: cortex-m4, isa: armv7e-m, clock_hz: 48_000_000, features: [dsp, fpu] }
memories:
  - { name: flash, role: flash, base: 0x0, size: 65536 }
  - { name: ram, role: ram, base: 0x20000000, size: 16384 }
toolchain: { cpu: cortex-m4, fpu: fpv4-sp-d16, float_abi: hard }
virtual: { core: cortex-m4 }
"""


@pytest.fixture
def board(tmp_path: Path):
    """Write a target file with one text replaced; returns its path."""

    def write(old: str = "", new: str = "") -> str:
        assert old in BOARD
        path = tmp_path / "my-board.yaml"
        path.write_text(BOARD.replace(old, new) if old else BOARD)
        return str(path)

    return write


MCU = [name for name in target_names() if get_target(name).family == "mcu"]


@pytest.mark.parametrize("name", MCU)
def test_every_shipped_target_is_complete(name: str) -> None:
    target = get_target(name)
    mcu = config.parse(target)
    assert target.board and target.source and target.description
    if mcu.is_host:
        return
    assert mcu.flash_bytes is not None and mcu.flash_bytes >= 32 * 1024
    assert mcu.ram_bytes is not None and mcu.ram_bytes >= 8 * 1024
    assert 8_000_000 <= target.core.clock_hz <= 1_000_000_000
    assert mcu.virtual is not None and mcu.toolchain is not None
    assert mcu.virtual.core == target.core.name == mcu.toolchain.cpu
    assert target.has("dsp") == (target.core.name not in ("cortex-m0plus", "cortex-m3"))
    assert target.has("mve") == (target.core.name == "cortex-m55")
    assert get_backend("mcu").default_device(target) == f"virtual:{target.core.name}"
    assert all(m.base is not None for m in target.memories)


def test_the_names_the_documentation_promises() -> None:
    names = target_names()
    assert set(GENERIC) <= set(names)
    assert "host" in names
    assert len(set(names) - {*GENERIC, "host"}) >= 12


def test_banks_that_touch_count_as_one() -> None:
    def ram(base: int | None, size: int) -> Memory:
        return Memory(name=f"m{base}", role="ram", base=base, size=size)

    assert config.largest_run([ram(0x20000000, 0x100), ram(0x20000100, 0x80)]) == 0x180
    assert config.largest_run([ram(0x20000000, 0x100), ram(0x30000000, 0x80)]) == 0x100
    assert config.largest_run([ram(None, 0x100), ram(None, 0x200)]) == 0x200
    assert config.largest_run([]) is None


def test_unknown_names_are_refused_with_near_matches() -> None:
    with pytest.raises(InputError, match=r"'cortex-m5' is not known; did you mean .*cortex-m55"):
        get_target("cortex-m5")
    with pytest.raises(InputError, match="'edgekit targets' lists"):
        get_target("toaster")
    with pytest.raises(InputError, match=r"there are .*\bmcu\b"):
        get_family("toaster")


def test_a_users_own_file(board) -> None:
    target = get_target(board())
    mcu = config.parse(target)
    assert (target.name, mcu.flash_bytes, mcu.ram_bytes) == ("my-board", 65536, 16384)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("clock_hz: 48_000_000", "clock_hz: -1", r"my-board.yaml': field 'cores.0.clock_hz'"),
        ("role: ram,", "role: rom,", r"field 'memories.1.role'.*'flash', 'ram'"),
        ("board: prototype 3", "", r"field 'board': Field required"),
        ("source: its", "sauce: x\nsource: its", r"field 'sauce'"),
        ("family: mcu", "family: gpu", r"target family 'gpu' is not installed; there are .*mcu"),
        ("name: my-board", "name: My Board", r"field 'name'"),
        ("name: flash, role", "name: ram, role", r"two memories have the same name"),
        (BOARD, "]", r"is not YAML"),
        (BOARD, "- 1", r"must hold a mapping"),
    ],
)
def test_errors_name_file_and_field(board, old: str, new: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        get_target(board(old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("virtual: { core: cortex-m4 }", "virtual: {}", r"section 'virtual': field 'core'"),
        ("fpu: fpv4-sp-d16, ", "", r"section 'toolchain': float_abi 'hard' needs field 'fpu'"),
        ("virtual: {", "config: { stack: 1 }\nvirtual: {", r"section 'config': field 'stack'"),
    ],
)
def test_the_familys_own_sections_are_checked(board, old: str, new: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        config.parse(get_target(board(old, new)))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        get_target(str(tmp_path / "none.yaml"))


def test_listing_says_what_is_usable() -> None:
    entries = {e.name: e for e in list_targets()}
    assert set(entries) == set(target_names())
    m4 = entries["cortex-m4"]
    assert m4.usable and m4.error is None and [e.name for e in m4.engines] == ["c"]
    assert json.loads(json.dumps(m4.to_json()))["usable"] is True


class _ForeignBackend:
    family = "toaster"

    def engines(self, target: object) -> list[EngineInfo]:
        return [EngineInfo("crumbs", False, "no bread")]


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Entry points of other packages beside ours: one that works, one that does not load."""
    (tmp_path / "t1.yaml").write_text(
        BOARD.replace("my-board", "t1").replace("family: mcu", "family: toaster")
    )
    (tmp_path / "t2.yaml").write_text("name: t2")
    foreign = Family("toaster", "toasters", tmp_path, _ForeignBackend)  # type: ignore[arg-type]
    real = metadata.entry_points(group=registry.GROUP)

    class Point:
        def __init__(self, name: str, result: object) -> None:
            self.name, self.value, self._result = name, f"package_of_{name}:family", result

        def load(self) -> object:
            if isinstance(self._result, Exception):
                raise self._result
            return self._result

    points = [*real, Point("toaster", foreign), Point("broken", ImportError("no module 'x'\n y"))]
    points.append(Point("misnamed", foreign))
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points)
    registry._families.cache_clear()
    registry.get_backend.cache_clear()
    yield
    monkeypatch.undo()
    registry._families.cache_clear()
    registry.get_backend.cache_clear()


def test_plugins_of_others_are_found_and_broken_ones_disturb_nobody(plugins: None) -> None:
    entries = list_targets()
    by_name = {e.name: e for e in entries if e.name}
    assert by_name["t1"].engines[0].why_not == "no bread" and not by_name["t1"].usable
    assert "t2.yaml" in str(by_name["t2"].error)
    broken = {e.family: e.error for e in entries if not e.name}
    assert broken["broken"] is not None and "no module 'x' y" in broken["broken"]
    assert broken["misnamed"] is not None and "toaster" in broken["misnamed"]
    assert by_name["cortex-m4"].usable
    assert get_target("t1").family == "toaster"
    with pytest.raises(InputError, match="does not load"):
        get_family("broken")


def test_every_package_is_installed() -> None:
    """An editable install finds a folder that the list of packages forgot; a wheel does not."""
    import tomllib

    root = Path(__file__).parents[1]
    setup = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {v: k for k, v in setup["package-dir"].items()}
    found = {
        ".".join([folders[p.relative_to(root).parts[0]], *p.relative_to(root).parts[1:-1]])
        for top in folders
        for p in (root / top).rglob("__init__.py")
    }
    assert found == set(setup["packages"])
