"""``emulate``: any bare-metal ELF on a virtual core, and clear refusals of everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from firmware_build import bare, needs_gcc_arm, needs_qemu, newlib
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.devices.elf import Firmware
from edgekit.devices.emulate import emulate
from edgekit.errors import DeviceError, EdgekitError, InputError


def test_document() -> None:
    document = json.loads(json.dumps(emulate(bare("work"), "cortex-m4").to_json()))
    assert document["total"]["instructions"] > 30_000
    assert document["total"]["cycles"] > document["total"]["instructions"]
    assert document["kinds"] == {"instructions": "simulated", "cycles": "estimated"}
    assert document["exit_code"] == 0 and document["stdout"].startswith("start\n")
    assert (document["core"], document["backend"]) == ("cortex-m4", "unicorn")
    total = sum(f["instructions"] for f in document["functions"])
    assert total == document["total"]["instructions"]
    assert {"name", "instructions", "cycles", "calls"} <= set(document["functions"][0])


def test_core_names_are_forgiving() -> None:
    counts = {emulate(bare("work"), name).trace.instructions for name in ("m4", "CORTEX-M4")}
    assert len(counts) == 1
    with pytest.raises(InputError, match="there are cortex-m0plus"):
        emulate(bare("work"), "cortex-m99")


@needs_gcc_arm
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m33"])
def test_newlib_firmware_with_the_default_linker_script(core: str) -> None:
    result = emulate(newlib("newlib", core), core, args=("x", "y"), stdin=b"hello\n")
    assert result.exit_code == 3
    assert result.stdout == "argc=3 last=y table=23.550157\nread 6: hello\n"
    assert any(f.name == "main" and f.calls == 1 for f in result.trace.functions)


@needs_qemu
def test_auto_does_not_wait_for_an_interrupt_that_never_comes() -> None:
    result = emulate(bare("interrupts", "cortex-m4", "POLLING"), "cortex-m4")
    assert result.exit_code == 10 and result.wall_s < 5
    assert result.to_json()["backend"] == "qemu"


@needs_qemu
def test_auto_moves_to_qemu_when_interrupts_are_needed() -> None:
    result = emulate(bare("interrupts"), "cortex-m4")
    assert result.exit_code == 11
    assert result.to_json()["backend"] == "qemu"
    with pytest.raises(DeviceError, match="@qemu"):
        emulate(bare("interrupts"), "cortex-m4", backend="unicorn")


def test_bad_options() -> None:
    with pytest.raises(InputError, match="auto, unicorn and qemu"):
        emulate(bare("work"), "cortex-m4", backend="gem5")
    with pytest.raises(InputError, match="positive"):
        emulate(bare("work"), "cortex-m4", max_instructions=0)
    with pytest.raises(DeviceError, match="within 100 instructions, at PC"):
        emulate(bare("work"), "cortex-m4", max_instructions=100)


def test_files_that_are_no_firmware(tmp_path: Path) -> None:
    good = bare("work").read_bytes()
    cases = {
        "empty": b"",
        "garbage": b"not an ELF file at all" * 10,
        "magic": b"\x7fELF",
        "half": good[: len(good) // 2],
        "header": good[:60],
        "machine": good[:18] + b"\x3e\x00" + good[20:],
        "object": good[:16] + b"\x01\x00" + good[18:],
        "big-endian": good[:5] + b"\x02" + good[6:],
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InputError, match="accepted") as error:
            emulate(path, "cortex-m4")
        assert "\n" not in str(error.value)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="does not exist or is not a plain file"):
            emulate(missing, "cortex-m4")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_give_errors_of_ours_only(data: st.DataObject) -> None:
    image = bytearray(bare("work").read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        # Mostly the headers, where damage is worst.
        at = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(image) - 1)))
        image[at] = data.draw(st.integers(0, 255))
    try:
        firmware = Firmware(bytes(image))
        firmware.boot  # noqa: B018
        firmware.where(0x100)
    except EdgekitError as error:
        assert "\n" not in str(error)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 150), st.integers(0, 255))
def test_damaged_files_never_crash_the_emulator(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    image = bytearray(bare("work").read_bytes())
    image[at] = value
    path = tmp_path_factory.mktemp("damaged") / "damaged.elf"
    path.write_bytes(image)
    try:
        emulate(path, "cortex-m4", backend="unicorn", max_instructions=200_000, timeout_s=5)
    except EdgekitError as error:
        assert "\n" not in str(error)


def test_functions_by_address() -> None:
    firmware = Firmware.from_path(bare("work"))
    ends = [0]
    for function in firmware.functions:
        assert function.start >= ends[-1]
        assert function.end > function.start
        ends.append(function.end)
    straight = firmware.address_of("straight")
    assert firmware.function_at(straight + 100).name == "straight"  # type: ignore[union-attr]
    assert firmware.where(straight + 4).endswith("(straight+0x4)")
    assert firmware.boot.vectors == 0 and firmware.boot.sp == 0x20040000
    with pytest.raises(InputError, match="no symbol 'absent'"):
        firmware.address_of("absent")
