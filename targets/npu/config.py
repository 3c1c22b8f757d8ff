"""What the ``npu`` family reads from a target file beyond the common schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekit.errors import InputError
from edgekit.targets.registry import first_error
from edgekit.targets.schema import Target

Accelerator = Literal[
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-128",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
]


class Config(BaseModel):
    """accelerator: as Vela spells it. config_file, system_config, memory_mode: Vela's description
    of the memory system around the NPU (``vela --list-configs``); a file of one's own may be named
    instead of the one that Vela ships. npu_clock_hz: must be the system configuration's.
    host_target: the target whose engine costs what stays on the CPU; its clock is the core's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    accelerator: Accelerator
    config_file: str = Field("Arm/vela.ini", pattern=r"^[^-]")
    system_config: str = Field(pattern=r"^[A-Za-z0-9]\w*$")
    memory_mode: str = Field(pattern=r"^[A-Za-z0-9]\w*$")
    npu_clock_hz: int = Field(gt=0)
    host_target: str


@dataclass(frozen=True)
class NpuTarget:
    """A target with its family section parsed."""

    target: Target
    config: Config

    @property
    def generation(self) -> str:
        """``Ethos-U55``, ``Ethos-U65`` or ``Ethos-U85``."""
        return "Ethos-" + self.config.accelerator.split("-")[1].upper()

    @property
    def sram_bytes(self) -> int | None:
        """The SRAM the NPU works in; None when the target sets no limit."""
        return self.target.memory_size("ram", "tcm") or None

    @property
    def flash_bytes(self) -> int | None:
        return self.target.memory_size("flash") or None


def parse(target: Target) -> NpuTarget:
    """Check the family's section; InputError names target and field."""
    for section in ("toolchain", "virtual"):
        if getattr(target, section):
            raise InputError(
                f"target '{target.name}' has a section '{section}'; family 'npu' takes config only"
            )
    try:
        return NpuTarget(target, Config.model_validate(target.config))
    except ValidationError as e:
        raise InputError(f"target '{target.name}', section 'config': {first_error(e)}") from None
