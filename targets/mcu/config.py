"""What the ``mcu`` family reads from a target file beyond the common schema.

The sections ``toolchain``, ``virtual`` and ``config`` of the YAML file are checked here, so that a
misspelt field in a user's own file is named instead of ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekit.errors import InputError
from edgekit.targets.registry import first_error
from edgekit.targets.schema import Memory, Target

KB, MB = 1 << 10, 1 << 20


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toolchain(_Strict):
    """cpu, fpu: as gcc spells them (``cortex-m4``, ``fpv4-sp-d16``). float_abi: ``hard`` only with
    an FPU. compiler: ``auto`` takes zig's clang, which is always there."""

    cpu: str
    fpu: str | None = None
    float_abi: Literal["soft", "hard"] = "soft"
    compiler: Literal["auto", "zig", "gcc"] = "auto"


class Virtual(_Strict):
    """core: what ``virtual:<core>`` emulates. backend: emulator that is preferred. map: memories
    that test firmware is linked for (not the board's own, whose peripherals are not emulated)."""

    core: str
    backend: Literal["unicorn", "qemu"] = "unicorn"
    map: Literal["mps2", "an547"] = "mps2"


class Config(_Strict):
    """host: run on this machine instead. stack_bytes: what is kept free for the stack when the fit
    is checked (the high-water mark itself is measured in a run)."""

    host: bool = False
    stack_bytes: int = Field(2048, ge=256)


@dataclass(frozen=True)
class Region:
    base: int
    size: int


@dataclass(frozen=True)
class LinkMap:
    """Where virtual firmware goes. Code (vectors first) always starts at ``code.base``; constants
    follow it, or go to ``far`` when they do not fit; RAM likewise."""

    code: Region
    ram: Region
    far_rodata: Region
    far_ram: Region


#: Arm Application Notes AN385/AN386/AN500 (MPS2) and AN547 (Corstone SSE-300 on MPS3).
LINK_MAPS = {
    "mps2": LinkMap(
        code=Region(0x0, 4 * MB),
        ram=Region(0x20000000, 4 * MB),
        far_rodata=Region(0x21000000, 8 * MB),
        far_ram=Region(0x21800000, 8 * MB),
    ),
    "an547": LinkMap(
        code=Region(0x0, 512 * KB),
        ram=Region(0x20000000, 512 * KB),
        far_rodata=Region(0x60000000, 128 * MB),
        far_ram=Region(0x68000000, 128 * MB),
    ),
}


@dataclass(frozen=True)
class McuTarget:
    """A target with its family sections parsed. toolchain and virtual are None for the host.

    flash_limit, ram_limit: what the user allows instead of what the target has. process: the virtual
    device on which kernels of a program under an operating system are counted, None for none."""

    target: Target
    toolchain: Toolchain | None
    virtual: Virtual | None
    config: Config
    flash_limit: int | None = None
    ram_limit: int | None = None
    process: str | None = None

    @property
    def counted_on(self) -> str | None:
        """The virtual device that counts what the target's kernels execute."""
        return self.process if self.virtual is None else f"virtual:{self.virtual.core}"

    @property
    def is_host(self) -> bool:
        return self.config.host

    @property
    def flash_bytes(self) -> int | None:
        """Largest contiguous run of flash, None when the target sets no limit."""
        if self.flash_limit is not None:
            return self.flash_limit
        return largest_run([m for m in self.target.memories if m.role == "flash"])

    @property
    def ram_bytes(self) -> int | None:
        """Largest contiguous run of RAM (tightly coupled included), None without a limit: arena,
        data and stack lie in one bank, so banks that do not touch are not added up."""
        if self.ram_limit is not None:
            return self.ram_limit
        return largest_run([m for m in self.target.memories if m.role in ("ram", "tcm", "dram")])


def largest_run(memories: list[Memory]) -> int | None:
    """Bytes of the largest run of memories that touch in the address map."""
    if not memories:
        return None
    best = 0
    run, end = 0, None
    for m in sorted(memories, key=lambda m: (m.base is None, m.base or 0)):
        run = run + m.size if m.base is not None and m.base == end else m.size
        end = None if m.base is None else m.base + m.size
        best = max(best, run)
    return best


def parse(target: Target) -> McuTarget:
    """Check the family's sections; InputError names target and field."""
    section = "config"
    try:
        config = Config.model_validate(target.config)
        if config.host:
            return McuTarget(target, None, None, config)
        section = "toolchain"
        toolchain = Toolchain.model_validate(target.toolchain)
        section = "virtual"
        virtual = Virtual.model_validate(target.virtual)
    except ValidationError as e:
        raise InputError(f"target '{target.name}', section '{section}': {first_error(e)}") from None
    if toolchain.float_abi == "hard" and toolchain.fpu is None:
        raise InputError(
            f"target '{target.name}', section 'toolchain': float_abi 'hard' needs field 'fpu'"
        )
    return McuTarget(target, toolchain, virtual, config)
