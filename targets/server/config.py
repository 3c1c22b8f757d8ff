"""What the ``server`` family reads from a target file beyond the common schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from edgekit.errors import InputError
from edgekit.targets.registry import first_error
from edgekit.targets.schema import Target

#: ISA features that a file may name, as Linux spells them in /proc/cpuinfo.
FEATURES = (
    "sse4_2",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512cd",
    "avx512dq",
    "avx512vl",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)
_V3 = ("sse4_2", "avx2", "fma", "f16c")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
#: zig's -mcpu -> features that generated code may then use.
CODE_CPUS: dict[str, tuple[str, ...]] = {
    "x86_64_v2": ("sse4_2",),
    "x86_64_v3": _V3,
    "x86_64_v4": _V4,
    "x86_64_v4+avx512vnni": (*_V4, "avx512_vnni"),
    "native": (),
}


class Toolchain(BaseModel):
    """cpu: what zig's clang generates code for; ``native`` only for this machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpu: str

    @field_validator("cpu")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in CODE_CPUS:
            raise ValueError(f"cpu '{value}' is not known; there are {', '.join(CODE_CPUS)}")
        return value


@dataclass(frozen=True)
class ServerTarget:
    target: Target
    toolchain: Toolchain


def parse(target: Target) -> ServerTarget:
    """Check the family's sections; InputError names target, section and field."""
    where = f"target '{target.name}'"
    features = target.core.features
    unknown = [f for f in features if f not in FEATURES]
    if unknown:
        raise InputError(
            f"{where}, field 'cores.0.features': '{unknown[0]}' is no ISA feature of this family; "
            f"there are {', '.join(FEATURES)}"
        )
    for section in ("config", "virtual"):
        if getattr(target, section):
            raise InputError(f"{where}, section '{section}': this family takes no fields there")
    try:
        toolchain = Toolchain.model_validate(target.toolchain)
    except ValidationError as e:
        raise InputError(f"{where}, section 'toolchain': {first_error(e)}") from None
    missing = [f for f in CODE_CPUS[toolchain.cpu] if f not in features]
    if missing:
        raise InputError(
            f"{where}: code for {toolchain.cpu} uses '{missing[0]}', which the core "
            f"{target.core.name} does not list; take another toolchain.cpu or add the feature"
        )
    return ServerTarget(target, toolchain)


@cache
def host_flags() -> frozenset[str]:
    """ISA flags of this machine, as Linux names them; empty where they cannot be read."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return frozenset(value.split())
    except OSError:
        pass
    return frozenset()
