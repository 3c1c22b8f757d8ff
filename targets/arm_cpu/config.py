"""What the ``arm_cpu`` family reads from a target file beyond the common schema."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from edgekit.devices.aarch64 import CPUS
from edgekit.errors import InputError
from edgekit.targets.registry import first_error
from edgekit.targets.schema import Target

#: ISA features that a file may name (Arm ARM DDI 0487: FEAT_AdvSIMD, FEAT_DotProd, ...).
FEATURES = ("neon", "lse", "dotprod", "fp16", "i8mm", "bf16", "sve", "sve2")
#: Cores that code can be generated for -> the features that a compiler may then use.
CODE_CPUS = {
    "cortex_a53": ("neon",),
    "cortex_a72": ("neon",),
    "cortex_a55": ("neon", "lse", "dotprod", "fp16"),
    "cortex_a76": ("neon", "lse", "dotprod", "fp16"),
    "cortex_x1": ("neon", "lse", "dotprod", "fp16"),
    "cortex_a76+i8mm": ("neon", "lse", "dotprod", "fp16", "i8mm"),
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toolchain(_Strict):
    """triple, cpu: as zig spells them. cpu: the core that code is generated for."""

    cpu: str
    triple: str = "aarch64-linux-musl"

    @field_validator("cpu")
    @classmethod
    def _known_cpu(cls, value: str) -> str:
        if value not in CODE_CPUS:
            raise ValueError(f"cpu '{value}' is not known; there are {', '.join(CODE_CPUS)}")
        return value

    @field_validator("triple")
    @classmethod
    def _known_triple(cls, value: str) -> str:
        if not re.fullmatch(r"aarch64-linux-musl", value):
            raise ValueError(
                f"'{value}' cannot be built: programs are static, triple aarch64-linux-musl is accepted"
            )
        return value


class Virtual(_Strict):
    """cpu: the CPU model that ``virtual:aarch64`` emulates; never the emulator's ``max``."""

    cpu: str

    @field_validator("cpu")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CPUS:
            raise ValueError(f"cpu '{value}' is not emulated; there are {', '.join(CPUS)}")
        return value


@dataclass(frozen=True)
class ArmTarget:
    """A target with its family sections parsed."""

    target: Target
    toolchain: Toolchain
    virtual: Virtual


def parse(target: Target) -> ArmTarget:
    """Check the family's sections; InputError names target, section and field."""
    where = f"target '{target.name}'"
    unknown = [f for f in target.core.features if f not in FEATURES]
    if unknown:
        raise InputError(
            f"{where}, field 'cores.0.features': '{unknown[0]}' is no ISA feature of this family; "
            f"there are {', '.join(FEATURES)}"
        )
    if target.config:
        raise InputError(f"{where}, section 'config': this family takes no fields there")
    section = "toolchain"
    try:
        toolchain = Toolchain.model_validate(target.toolchain)
        section = "virtual"
        virtual = Virtual.model_validate(target.virtual)
    except ValidationError as e:
        raise InputError(f"{where}, section '{section}': {first_error(e)}") from None
    for feature in CODE_CPUS[toolchain.cpu]:
        if feature not in target.core.features:
            raise InputError(
                f"{where}: code for {toolchain.cpu} uses '{feature}', which the core "
                f"{target.core.name} does not list; take another toolchain.cpu or add the feature"
            )
        if feature not in CPUS[virtual.cpu]:
            raise InputError(
                f"{where}: code for {toolchain.cpu} uses '{feature}', which the virtual cpu "
                f"{virtual.cpu} does not execute; take another virtual.cpu or toolchain.cpu"
            )
    return ArmTarget(target, toolchain, virtual)
