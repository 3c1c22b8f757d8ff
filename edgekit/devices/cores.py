"""The Cortex-M cores that can be emulated: what identifies them, and who emulates them.

Instruction counts never depend on this table (they are architectural); it chooses the emulator's
CPU model, the QEMU machine and the timing table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType

from edgekit.errors import InputError


@dataclass(frozen=True)
class QemuMachine:
    """A QEMU machine that can run firmware for a core.

    ram: (first address, bytes) of its memories; code must lie inside one of them.
    note: said in ``DeviceInfo`` when the machine's core is not the one that was asked for.
    """

    name: str
    ram: tuple[tuple[int, int], ...]
    note: str | None = None


@dataclass(frozen=True)
class Core:
    """One core. name as in ``virtual:<name>``; cpuid: the SCB CPUID register of revision r0p1 or so;
    unicorn_model: name of the ``UC_CPU_ARM_*`` constant, None where Unicorn has no model;
    heap: first and last address (exclusive) of the memory that semihosting offers for heap and
    stack, the same as QEMU's board offers, so that ``malloc`` takes the same path on both;
    machines: tried in order, the first whose memories hold the firmware's segments is used."""

    name: str
    description: str
    cpuid: int
    timing: str
    unicorn_model: str | None
    heap: tuple[int, int]
    machines: tuple[QemuMachine, ...] = field(default=())


_KB, _MB = 1 << 10, 1 << 20
#: ZBT SSRAM1 and 2/3, PSRAM: Arm Application Notes AN385 and AN386; AN500 has the PSRAM elsewhere.
_MPS2 = ((0x0, 4 * _MB), (0x20000000, 4 * _MB), (0x21000000, 16 * _MB))
_AN500 = ((0x0, 4 * _MB), (0x20000000, 4 * _MB), (0x60000000, 16 * _MB))
_PSRAM = (0x21000000, 0x22000000)
_PSRAM_AN500 = (0x60000000, 0x61000000)
#: Corstone SSE-300 on MPS3 (AN547): ITCM, FPGA SRAM, DTCM, internal SRAM, QSPI, DDR.
_AN547 = (
    (0x0, 512 * _KB),
    (0x01000000, 2 * _MB),
    (0x20000000, 512 * _KB),
    (0x21000000, 4 * _MB),
    (0x60000000, 256 * _MB),
)

CORES: MappingProxyType[str, Core] = MappingProxyType(
    {
        core.name: core
        for core in (
            Core(
                "cortex-m0plus",
                "Armv6-M, 2-stage pipeline",
                0x410CC601,
                "m0plus",
                "CORTEX_M0",
                _PSRAM,
            ),
            Core(
                "cortex-m3",
                "Armv7-M, 3-stage pipeline",
                0x412FC231,
                "m3",
                "CORTEX_M3",
                _PSRAM,
                (
                    QemuMachine("mps2-an385", _MPS2),
                    QemuMachine("netduino2", ((0x08000000, _MB), (0x20000000, 128 * _KB))),
                ),
            ),
            Core(
                "cortex-m4",
                "Armv7E-M with DSP and single-precision FPU, 3-stage pipeline",
                0x410FC241,
                "m4",
                "CORTEX_M4",
                _PSRAM,
                (
                    QemuMachine("mps2-an386", _MPS2),
                    QemuMachine("netduinoplus2", ((0x08000000, _MB), (0x20000000, 128 * _KB))),
                ),
            ),
            Core(
                "cortex-m7",
                "Armv7E-M with DSP and double-precision FPU, dual-issue 6-stage pipeline",
                0x411FC272,
                "m7",
                "CORTEX_M7",
                _PSRAM_AN500,
                (QemuMachine("mps2-an500", _AN500),),
            ),
            Core(
                "cortex-m33",
                "Armv8-M Mainline with DSP and single-precision FPU, 3-stage pipeline",
                0x410FD213,
                "m33",
                "CORTEX_M33",
                _PSRAM,
                (
                    QemuMachine(
                        "mps3-an547",
                        _AN547,
                        "runs on QEMU's Cortex-M55, whose Armv8.1-M contains the M33's Armv8-M: "
                        "QEMU's own M33 boards start in a secure memory map that firmware linked "
                        "at 0x0 and 0x20000000 does not fit",
                    ),
                ),
            ),
            Core(
                "cortex-m55",
                "Armv8.1-M Mainline with DSP, FPU and Helium (MVE), 4-stage pipeline",
                0x411FD221,
                "m55",
                None,
                _PSRAM,
                (QemuMachine("mps3-an547", _AN547),),
            ),
        )
    }
)


def get_core(name: str) -> Core:
    """The core called ``name`` (``cortex-m4``; ``m4`` and ``cortex-m0+`` are understood too)."""
    key = name.strip().lower().replace("m0+", "m0plus")
    if not key.startswith("cortex-"):
        key = f"cortex-{key}"
    core = CORES.get(key)
    if core is None:
        raise InputError(f"core '{name}' is not known; there are {', '.join(CORES)}")
    return core
