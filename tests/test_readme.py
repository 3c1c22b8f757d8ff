"""What the README says is what the program does: its examples run, its tables are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def between(mark: str) -> set[str]:
    found = re.search(rf"<!-- {mark} -->(.*?)<!-- /{mark} -->", README, re.DOTALL)
    assert found is not None
    return set(re.findall(r"`([A-Z0-9_]+)`", found[1]))


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "models").symlink_to(ROOT / "models")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("sh"))))
def test_shell_examples(number: int, tmp_path: Path) -> None:
    done = run(["sh", "-eu", "-c", blocks("sh")[number]], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_examples(number: int, tmp_path: Path) -> None:
    done = run([sys.executable, "-c", blocks("python")[number]], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout


def test_the_two_commands_stand_at_the_top() -> None:
    first = blocks("console")[0].splitlines()
    assert [line.split("#")[0].split() for line in first] == [["make"], ["make", "test"]]
    assert README.index("```console") < README.index("## ")
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^\.DEFAULT_GOAL := demo$", makefile, re.MULTILINE)
    assert re.search(r"^test:", makefile, re.MULTILINE)
    assert "build/digits-cortex-m4" in makefile and "build/digits-cortex-m4/report.html" in README


def test_every_command_is_in_the_table() -> None:
    from edgekit.cli import app

    listed = re.findall(r"^\| `edgekit (\w+)", README, re.MULTILINE)
    known = [c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands]
    assert listed == known


def test_operators_are_those_that_there_are() -> None:
    from edgekit.graph.ops import op_types
    from edgekit_targets.mcu import variants

    assert between("operators") == set(op_types())
    assert between("no kernel") == set(op_types()) - set(variants.supported_ops())


def test_formats_are_those_that_there_are() -> None:
    from edgekit.formats.base import FORMATS

    rows = dict(re.findall(r"^\| (`\.[^|]+) \| yes \| (yes|no) \|", README, re.MULTILINE))
    for f in FORMATS:
        if f.suffixes:
            row = next(r for r in rows if f"`{f.suffixes[0]}`" in r)
            assert rows[row] == ("yes" if f.writer else "no"), f.name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_are_named_exist(page: Path) -> None:
    """`edgekit/...`, `targets/...`, `kernels/...`, `tests/...` in backticks, placeholders aside."""
    named = re.findall(r"`((?:edgekit|targets|kernels|tests|models|scripts|docs)/[^`\s]*)`",
                       page.read_text("utf-8"))  # fmt: skip
    for name in named:
        if not re.search(r"[<>*{}]|\.\.\.", name):
            assert (ROOT / name).exists(), f"{page.name} names {name}"
