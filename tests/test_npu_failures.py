"""Vela missing, crashing, hanging, and writing nonsense: one sentence, exit 2, nothing half-written."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from npu_case import TARGET, int8_net, needs_vela, stand_in

from edgekit import api, formats
from edgekit.cli import main
from edgekit.errors import InputError, ToolchainError
from edgekit.targets import get_backend, get_target
from edgekit.targets.base import CompileOptions
from edgekit_targets.npu import vela

Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Use:
    """Make a shell script Vela's stand-in."""

    def put(body: str, *, real: bool = False) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        monkeypatch.setenv(vela.VARIABLE, str(stand_in(folder, body, real=real)))

    return put


def compile_error(tmp_path: Path, **extra: object) -> str:
    """The sentence of the ToolchainError; nothing may be left in the output folder."""
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ToolchainError) as caught:
        get_backend("npu").compile(
            int8_net(), get_target(TARGET), out, CompileOptions("vela", extra=extra)
        )
    assert not list(out.iterdir())
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("kill -SEGV $$", r"Vela 5\.2\.0 crashed \(SIGSEGV\) on model 'tiny' for ethos-u55-128"),
        ("exit 139", r"crashed \(SIGSEGV\)"),
        ("kill -KILL $$", r"was killed \(SIGKILL\)"),
        ("echo a >&2; echo 'RuntimeError: no' >&2; exit 1", r"failed \(status 1\).*RuntimeError: no$"),
        ("exit 255", r"failed \(status 255\)"),
        ("exit 0", "nothing usable.*there is no optimised model"),
        ("echo 'odd thing' >&2", "there is no optimised model: odd thing"),
        (
            'mkdir -p "$out"; head -c 999 /dev/zero > "$out/model_vela.tflite"',
            "cannot be read: the signature TFL3 is missing",
        ),
    ],
)  # fmt: skip
def test_what_vela_does_is_said(use: Use, tmp_path: Path, body: str, told: str) -> None:
    use(body)
    text = compile_error(tmp_path)
    assert re.search(told, text), text


@needs_vela
@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param('rm "$out"/*summary*', "there are 0 summaries", marks=pytest.mark.slow),
        pytest.param(
            'for f in "$out"/*summary*; do : > "$f"; done',
            "the summary is empty",
            marks=pytest.mark.slow,
        ),
        ('for f in "$out"/*summary*; do sed -i "s/cycles_total/x/" "$f"; done', "'cycles_total'"),
        pytest.param(
            'for f in "$out"/*summary*; do sed -i "2s/,/,,/" "$f"; done',
            "does not match its header",
            marks=pytest.mark.slow,
        ),
        ('truncate -s 200 "$out"/model_vela.tflite', "cannot be read"),
    ],
)
def test_damaged_results_of_the_real_one(use: Use, tmp_path: Path, body: str, told: str) -> None:
    use(body, real=True)
    assert told in compile_error(tmp_path)


@needs_vela
@pytest.mark.parametrize(
    "body", ['rm "$out"/*per-layer*', 'for f in "$out"/*per-layer*; do echo garbage > "$f"; done']
)
def test_without_the_table_of_layers_the_totals_stand(use: Use, tmp_path: Path, body: str) -> None:
    use(body, real=True)
    art = api.compile(int8_net(), TARGET, tmp_path / "a")
    p = api.profile(art)
    assert p["total"]["latency_ms"] > 0 and p["total"]["cycles"] > 0
    assert {la["cycles"] for la in p["layers"]} == {None}
    assert {r["variant"] for r in art.manifest["plan"]} == {"npu"}


def test_a_hang_is_stopped_with_all_that_it_started(use: Use, tmp_path: Path) -> None:
    use(f'(sleep 30; touch "{tmp_path}/survived") & echo $! > "{tmp_path}/child"; wait')
    began = time.monotonic()
    text = compile_error(tmp_path, timeout_s=0.5)
    assert "did not finish" in text and "0.5 s" in text
    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text())
    for _ in range(50):
        stat = Path(f"/proc/{child}/stat")
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        pytest.fail("the stand-in's child still runs")


@pytest.mark.parametrize("value", ["soon", -1, 0])
def test_options_are_checked(value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="timeout_s"):
        get_backend("npu").compile(
            int8_net(), get_target(TARGET), tmp_path, CompileOptions(extra={"timeout_s": value})
        )
    with pytest.raises(InputError, match="no option 'speed'"):
        get_backend("npu").compile(
            int8_net(), get_target(TARGET), tmp_path, CompileOptions(extra={"speed": 1})
        )
    with pytest.raises(InputError, match="no engine 'c'"):
        get_backend("npu").compile(int8_net(), get_target(TARGET), tmp_path, CompileOptions("c"))


def _no_package(name: str) -> str:
    raise PackageNotFoundError(name)


def test_a_missing_vela_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vela, "version", _no_package)
    monkeypatch.delenv(vela.VARIABLE, raising=False)
    assert "pip install 'edgekit[npu]'" in compile_error(tmp_path)
    (engine,) = get_backend("npu").engines(get_target(TARGET))
    assert not engine.usable and "edgekit[npu]" in str(engine.why_not)
    code, err = _cli(tmp_path, capfd)
    assert code == 2 and "pip install 'edgekit[npu]'" in err


def test_a_named_vela_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(vela.VARIABLE, str(tmp_path / "none"))
    assert "not an executable file" in compile_error(tmp_path)


def test_the_command_line_ends_with_two_and_leaves_nothing(
    use: Use, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    use("kill -SEGV $$")
    code, err = _cli(tmp_path, capfd)
    assert code == 2 and err.startswith("edgekit: Vela 5.2.0 crashed (SIGSEGV) on model")


def _cli(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """compile on the command line: (exit status, last line on stderr); nothing may be left over."""
    folder = tmp_path / "cli"
    folder.mkdir()
    formats.save(int8_net(), tmp_path / "m.tflite")
    capfd.readouterr()
    argv = ["compile", str(tmp_path / "m.tflite"), "--target", TARGET, "-o", str(folder / "a")]
    with pytest.raises(SystemExit) as stop:
        main(argv)
    out, err = capfd.readouterr()
    assert out == "" and "Traceback" not in err and not list(folder.iterdir())
    assert isinstance(stop.value.code, int)
    return stop.value.code, err.strip().splitlines()[-1]
