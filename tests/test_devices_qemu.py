"""QEMU against Unicorn, exactly, and what only QEMU does: Helium, interrupts, fault handlers."""

from __future__ import annotations

from pathlib import Path

import pytest
from firmware_build import bare, needs_gcc_arm, needs_qemu, newlib

from edgekit.devices import RunRequest, RunResult, open_device
from edgekit.devices.base import Trace
from edgekit.errors import DeviceError, InputError

pytestmark = needs_qemu
SECTIONS = ("layer_first", "layer_second", "straight")


def run(name: str, path: Path, *args: str, **request: object) -> RunResult:
    with open_device(name) as device:
        device.push(path, "program.elf")
        return device.run(RunRequest("program.elf", args, **request))  # type: ignore[arg-type]


def both(core: str, path: Path, *args: str, **request: object) -> tuple[Trace, Trace]:
    """Traces of the same run on both, checked to have had the same outcome."""
    results = [
        run(f"virtual:{core}@{b}", path, *args, trace=True, **request) for b in ("unicorn", "qemu")
    ]
    one, two = results
    assert (one.exit_code, one.stdout) == (two.exit_code, two.stdout)
    assert one.trace is not None and two.trace is not None
    return one.trace, two.trace


def same(unicorn: Trace, qemu: Trace) -> None:
    """Instructions and calls equal everywhere; cycles up to the places where QEMU cuts a block that
    its instruction timer interrupts (pairing on the M7 starts anew there)."""
    assert unicorn.instructions == qemu.instructions
    for ours, theirs in ((unicorn.functions, qemu.functions), (unicorn.sections, qemu.sections)):
        counts = [[(c.name, c.instructions, c.calls) for c in part] for part in (ours, theirs)]
        assert counts[0] == counts[1]
    assert unicorn.cycles == pytest.approx(qemu.cycles, rel=2e-4, abs=2)


@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m7", "cortex-m33"])
def test_same_counts_as_unicorn(core: str) -> None:
    unicorn, qemu = both(core, bare("work", core), sections=SECTIONS)
    assert qemu.instructions > 30_000
    same(unicorn, qemu)


@needs_gcc_arm
@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m7"])
def test_newlib_firmware_counts_the_same(core: str) -> None:
    """stdio, malloc, FPU (double precision on the M7): code that edgekit did not make."""
    unicorn, qemu = both(core, newlib("newlib", core), "a", "last", stdin=b"some input\n")
    assert qemu.instructions > 10_000
    same(unicorn, qemu)


@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4", "cortex-m7"])
def test_device_reads_inside_blocks_are_counted_once(core: str) -> None:
    """Under -icount QEMU leaves a block at each device access and repeats the instruction."""
    unicorn, qemu = both(core, bare("systick", core, "READS_ONLY"))
    same(unicorn, qemu)


@pytest.mark.parametrize("core", ["cortex-m3", "cortex-m4"])
def test_flash_at_0x08000000(core: str) -> None:
    """STM32's map: on Unicorn by address, on QEMU by choosing another board."""
    path = bare("flash", core, script="flash.ld")
    unicorn, qemu = both(core, path)
    same(unicorn, qemu)
    assert "in_ram" in {f.name for f in qemu.functions}
    result = run(f"virtual:{core}@qemu", path)
    assert result.stdout == f"{0x1234 * 3 + 1:08x}\n{1:08x}\n{1:08x}\n"


def test_systick_on_qemu() -> None:
    assert run("virtual:cortex-m4@qemu", bare("systick")).stdout == "sensible\n"


def test_semihosting_files_and_arguments() -> None:
    with open_device("virtual:cortex-m4@qemu") as device:
        device.push(bare("files"), "files.elf")
        device.push_bytes(b"0123456789", "input.bin")
        result = device.run(RunRequest("files.elf", ("one,1", "two"), stdin=b"stdin"))
        assert (result.exit_code, result.stdout) == (0, "files.elf one,1 two|")
        assert device.pull("output.txt") == b"written"
        assert device.info().details["machine"] == "mps2-an386"


def test_helium_runs_and_its_loop_takes_ten_cycles() -> None:
    result = run("virtual:cortex-m55", bare("helium", "cortex-m55"), trace=True)
    assert result.exit_code == 0 and result.trace is not None
    (kernel,) = [f for f in result.trace.functions if f.name == "kernel"]
    assert kernel.instructions == 9 + 64 * 10 + 1
    assert 640 < kernel.cycles < 680


def test_interrupts_and_supervisor_calls_work() -> None:
    result = run("virtual:cortex-m4@qemu", bare("interrupts"), trace=True)
    assert result.exit_code == 11 and result.trace is not None
    calls = {f.name: f.calls for f in result.trace.functions}
    assert (calls["SysTick_Handler"], calls["SVC_Handler"]) == (10, 1)


FAULTS = [
    (1, r"fault at PC 0x[0-9a-f]+ \(mistake\+.*entered on_fault"),
    (2, r"fault at PC 0x[0-9a-f]+ \(mistake\+.*entered on_fault"),
    (3, r"did not end within 1,000,000 instructions, at PC 0x[0-9a-f]+ \(mistake\+"),
    (9, "asked for a system reset"),
]


@pytest.mark.parametrize("case, message", FAULTS)
def test_faults_with_a_handler(case: int, message: str) -> None:
    path = bare("faults", "cortex-m4", f"CASE={case}", "HANDLED")
    with pytest.raises(DeviceError, match=message) as error:
        run("virtual:cortex-m4@qemu", path, max_instructions=1_000_000)
    assert "registers: r0=0x" in str(error.value) or case == 9


def test_fault_without_a_handler_is_a_lockup() -> None:
    path = bare("faults", "cortex-m4", "CASE=2")
    with pytest.raises(DeviceError, match=r"fault at PC 0x\w+ \((mistake|Reset)\+.*locked up.*r0="):
        run("virtual:cortex-m4@qemu", path)


def test_waiting_for_nothing_runs_into_the_time_limit() -> None:
    path = bare("faults", "cortex-m4", "CASE=6", "HANDLED", "FOREVER")
    with pytest.raises(DeviceError, match=r"did not end within 0.5 s, at PC"):
        run("virtual:cortex-m4@qemu", path, timeout_s=0.5)


def test_firmware_for_memory_that_no_board_has_is_refused(tmp_path: Path) -> None:
    data = bytearray(bare("work").read_bytes())
    # Program headers start at 52; move the last loadable segment's addresses to 0x70000000.
    count = data[44]
    for i in range(count):
        at = 52 + 32 * i
        if data[at] == 1 and int.from_bytes(data[at + 8 : at + 12], "little") >= 0x20000000:
            data[at + 8 : at + 16] = (0x70000000).to_bytes(4, "little") * 2
    moved = tmp_path / "moved.elf"
    moved.write_bytes(data)
    with pytest.raises(InputError, match=r"no QEMU machine with a cortex-m4.*mps2-an386"):
        run("virtual:cortex-m4@qemu", moved)
