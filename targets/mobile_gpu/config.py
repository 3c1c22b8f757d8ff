"""What the ``mobile_gpu`` family reads from a target file beyond the common schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgekit.errors import InputError
from edgekit.targets.registry import first_error
from edgekit.targets.schema import Target

from .lower import Limits


class Config(BaseModel):
    """vendor: whose GPU. soc: the chip it is part of. opencl: version of the driver's OpenCL.

    device_name: a part of what the driver calls the device (its name or version string): results
    of another GPU are not taken for this target's. fp16: whether ``cl_khr_fp16`` is there, which
    the GPU delegate computes with (the opencl engines need float16 in memory only). max_work_group
    and max_items: the largest work-group that kernels may have, in all and along each axis; 256
    where no ``clinfo`` of the device was at hand. local_memory_bytes: ``CL_DEVICE_LOCAL_MEM_SIZE``.
    wave: work-items that run in lockstep. image2d: whether images (textures) can be read and
    written; edgekit's kernels use buffers. system: which program is the device's (both are built).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendor: Literal["qualcomm", "arm"]
    soc: str
    opencl: str
    device_name: str = Field(min_length=4)
    fp16: bool
    image2d: bool
    max_work_group: int = Field(ge=32, le=4096)
    max_items: tuple[int, int, int] = (256, 256, 256)
    local_memory_bytes: int = Field(ge=1024)
    wave: int = Field(ge=1, le=128)
    system: Literal["android", "linux"] = "android"

    @field_validator("opencl")
    @classmethod
    def _version(cls, value: str) -> str:
        if not re.fullmatch(r"(1\.[12]|2\.[0-2]|3\.0)", value):
            raise ValueError(f"'{value}' is no OpenCL version; 1.1 to 3.0 are accepted")
        return value

    @field_validator("max_items")
    @classmethod
    def _positive(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(value) < 1:
            raise ValueError("work-groups hold at least one work-item along each axis")
        return value


@dataclass(frozen=True)
class GpuTarget:
    """A target with its family section parsed."""

    target: Target
    config: Config

    @property
    def limits(self) -> Limits:
        """Launch geometry: work-groups of a few waves, which keeps registers for each."""
        c = self.config
        group = min(max(c.wave, 64), c.max_work_group)
        return Limits(group, c.max_work_group, c.max_items, c.local_memory_bytes)


def parse(target: Target) -> GpuTarget:
    """Check the family's sections; InputError names target, section and field."""
    where = f"target '{target.name}'"
    for section in ("toolchain", "virtual"):
        if getattr(target, section):
            raise InputError(f"{where}, section '{section}': this family takes no fields there")
    try:
        config = Config.model_validate(target.config)
    except ValidationError as e:
        raise InputError(f"{where}, section 'config': {first_error(e)}") from None
    return GpuTarget(target, config)
