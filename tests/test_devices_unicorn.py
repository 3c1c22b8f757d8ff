"""The virtual Cortex-M on Unicorn: exact counts, sections, semihosting, faults, budgets."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from firmware_build import bare

from edgekit.devices import Device, RunRequest, RunResult, list_transports, open_device
from edgekit.devices.cores import get_core
from edgekit.devices.unicorn_ import UnicornDevice
from edgekit.errors import DeviceError, InputError, ToolchainError


def run(path: Path, core: str = "cortex-m4", hook: str = "auto", **request: object) -> RunResult:
    with UnicornDevice(get_core(core), f"virtual:{core}", hook=hook) as device:
        device.push(path, "program.elf")
        return device.run(RunRequest("program.elf", **request))  # type: ignore[arg-type]


def test_python_and_c_hooks_agree_exactly() -> None:
    sections = ("layer_first", "layer_second", "straight")
    results = [
        run(bare("work"), hook=hook, trace=True, sections=sections) for hook in ("python", "c")
    ]
    assert results[0].trace == results[1].trace
    assert results[0].stdout == results[1].stdout


def test_counts_by_function_and_section() -> None:
    result = run(bare("work"), trace=True, sections=("straight", "layer_first", "layer_second"))
    trace = result.trace
    assert trace is not None and result.exit_code == 0
    assert result.stdout.startswith("start\n")
    functions = {f.name: f for f in trace.functions}
    assert functions["straight"].instructions == 701  # 350 pairs and bx lr
    assert functions["layer_first"].calls == 2
    assert functions["machine"].calls == 512
    # fibonacci(12) itself makes 465 calls; compilers may turn some of them into loops.
    assert 12 <= functions["fibonacci"].calls <= 465
    assert trace.instructions == sum(f.instructions for f in trace.functions)
    assert trace.instructions == sum(s.instructions for s in trace.sections)
    assert trace.cycles == sum(s.cycles for s in trace.sections)
    assert trace.cycles == sum(f.cycles for f in trace.functions)
    assert [s.name for s in trace.sections] == ["", "straight", "layer_first", "layer_second"]
    counts = {s.name: s.instructions for s in trace.sections}
    assert counts["straight"] > 701  # with what follows it
    first = functions["layer_first"].instructions + functions["machine"].instructions
    assert counts["layer_first"] <= first + 10


def test_runs_repeat_exactly() -> None:
    one, two = (run(bare("work"), trace=True) for _ in range(2))
    assert one.trace == two.trace


@pytest.mark.parametrize(
    "core", ["cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33"]
)
def test_every_core_polls_systick(core: str) -> None:
    result = run(bare("systick", core), core, trace=True)
    assert result.stdout == "sensible\n"
    assert result.trace is not None and result.trace.instructions > 40_000


def test_semihosting_files_console_arguments() -> None:
    with open_device("virtual:cortex-m4") as device:
        assert isinstance(device, Device)
        device.push(bare("files", "cortex-m4", "CONFINED"), "files.elf")
        device.push_bytes(b"0123456789", "input.bin")
        result = device.run(RunRequest("files.elf", ("one", "two"), stdin=b"stdin"))
        assert result.exit_code == 0
        assert result.stdout == "files.elf one two|"
        assert device.pull("output.txt") == b"written"
        with pytest.raises(DeviceError, match=r"no file 'input.bin'"):
            device.pull("input.bin")
        with pytest.raises(InputError, match="not inside"):
            device.push_bytes(b"", "../out")
        with pytest.raises(DeviceError, match="push it first"):
            device.run(RunRequest("other.elf"))
        assert device.info().kind == "simulated"


FAULTS = [
    (1, r"read 4 bytes from unmapped address 0x90000000, at PC 0x[0-9a-f]+ \(mistake\+"),
    (2, r"undefined instruction, at PC 0x[0-9a-f]+ \(mistake\+"),
    (3, r"did not end within 100,000 instructions, at PC 0x[0-9a-f]+ \(mistake\+"),
    (4, r"breakpoint \(BKPT\), at PC 0x[0-9a-f]+ \(mistake\+"),
    (5, r"supervisor call \(SVC\).*@qemu"),
    (6, r"waits for an interrupt \(WFI\).*@qemu"),
    (7, "jumped to unmapped address 0x90000000"),
    (8, r"semihosting call 0x4 a bad pointer.*at PC 0x[0-9a-f]+ \((mistake|Reset)\+"),
    (9, "asked for a system reset"),
    (10, "wrote 4 bytes to read-only address 0x00000010"),
    (11, r"hangs in a branch to itself, at PC 0x[0-9a-f]+ \(mistake\+"),
]


@pytest.mark.parametrize("hook", ["c", "python"])
@pytest.mark.parametrize("case, message", FAULTS)
def test_faults_name_pc_function_and_registers(case: int, message: str, hook: str) -> None:
    path = bare("faults", "cortex-m4", f"CASE={case}")
    with pytest.raises(DeviceError, match=message) as error:
        run(path, hook=hook, max_instructions=100_000)
    assert "registers: r0=0x" in str(error.value) and "xpsr=" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("hook", ["c", "python"])
def test_time_limit_holds(hook: str) -> None:
    started = time.monotonic()
    with pytest.raises(DeviceError, match=r"did not end within 0.2 s, at PC .*mistake"):
        run(bare("faults", "cortex-m4", "CASE=3"), hook=hook, timeout_s=0.2)
    assert time.monotonic() - started < 5


def test_what_was_printed_before_a_failure_is_told() -> None:
    with pytest.raises(DeviceError, match=r"it last printed 'start'; registers"):
        run(bare("work"), max_instructions=500)


def test_unknown_section_symbol_is_refused() -> None:
    with pytest.raises(InputError, match="no symbol 'nowhere'"):
        run(bare("work"), trace=True, sections=("nowhere",))


def test_names() -> None:
    for wrong in ("nonsense", "virtual:cortex-a9", "virtual:cortex-m4@bochs"):
        with pytest.raises(InputError, match="there are"):
            open_device(wrong)
    with pytest.raises(InputError, match="@qemu"):
        open_device("virtual:cortex-m55@unicorn")
    with pytest.raises(InputError, match="no machine with a cortex-m0plus"):
        open_device("virtual:cortex-m0plus@qemu")
    names = {t.name: t for t in list_transports()}
    assert names["local"].usable and names["unicorn"].usable
    assert "virtual:cortex-m55" in names["qemu"].devices
    assert names["qemu"].usable or "apt-get install qemu-system-arm" in str(names["qemu"].why_not)


def test_missing_qemu_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolchainError, match="apt-get install qemu-system-arm"):
        open_device("virtual:cortex-m55")


def test_without_a_compiler_the_python_hook_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.devices.native import build

    path = bare("work")
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    build.build.cache_clear()
    assert run(path, trace=True).exit_code == 0
    with pytest.raises(ToolchainError, match="install gcc"):
        run(path, hook="c")
    build.build.cache_clear()


def test_native_build_with_zig_and_in_a_fresh_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.devices.native import build

    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "find_compiler", lambda: (sys.executable, "-m", "ziglang", "cc"))
    build.build.cache_clear()
    try:
        library = build.build("blockhook.c")
        assert library.parent == tmp_path / "native" and library.suffix == ".so"
        assert [p.name for p in library.parent.iterdir()] == [library.name]
        assert run(bare("work"), hook="c", trace=True).exit_code == 0
    finally:
        build.build.cache_clear()


def test_concurrent_builds_leave_one_library(tmp_path: Path) -> None:
    code = "from edgekit.devices.native.build import build; print(build('qemu_blocks.c'))"
    environment = {**os.environ, "EDGEKIT_CACHE": str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    paths = {process.communicate(timeout=120)[0].strip() for process in running}
    assert len(paths) == 1
    assert [str(p) for p in (tmp_path / "native").iterdir()] == list(paths)


def test_a_cache_that_others_can_write_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgekit.devices.native import build

    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    (tmp_path / "native").mkdir()
    (tmp_path / "native").chmod(0o777)
    build.build.cache_clear()
    try:
        assert build.build("blockhook.c").parent != tmp_path / "native"
        assert list((tmp_path / "native").iterdir()) == []
    finally:
        build.build.cache_clear()


def test_unaligned_loads_fault_on_m0plus_only() -> None:
    assert run(bare("unaligned", "cortex-m4"), "cortex-m4").exit_code == 0
    path = bare("unaligned", "cortex-m0plus")
    with pytest.raises(DeviceError, match=r"unaligned or forbidden.*\(Reset\+"):
        run(path, "cortex-m0plus")


def test_a_resnet_sized_run_takes_under_half_a_second() -> None:
    path = bare("dot", "cortex-m4", "ROUNDS=10000")
    results = [run(path, trace=True) for _ in range(3)]
    trace = results[0].trace
    assert trace is not None and 35_000_000 < trace.instructions < 70_000_000
    assert min(r.wall_s for r in results) < 0.5  # the best of three: the machine may be busy


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, edgekit.devices, edgekit.devices.emulate;"
        "edgekit.devices.list_transports();"
        "print([m for m in ('unicorn', 'capstone', 'elftools', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
