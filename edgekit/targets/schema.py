"""Target YAML files: what the silicon is, checked against a schema (pydantic)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Core(_Strict):
    """``count`` identical cores. isa: ``armv7e-m``, ``armv8.2-a``, ...; features: ``dsp``, ``fpu``,
    ``mve``, ``dotprod``, ...; clock_hz of the core."""

    name: str
    isa: str
    count: int = Field(1, ge=1)
    clock_hz: int = Field(gt=0)
    features: tuple[str, ...] = ()


class Memory(_Strict):
    """A region of the address map. role: what programs may use it for; wait_states at clock_hz."""

    name: str
    role: Literal["flash", "ram", "tcm", "cache", "dram"]
    base: int | None = None
    size: int = Field(gt=0)
    wait_states: int = Field(0, ge=0)


class Timing(_Strict):
    """How instructions become cycles: the core table's name and one scale for the board (1.0 is the
    bare core without flash waits); source says where the scale comes from."""

    table: str
    scale: float = Field(1.0, gt=0)
    source: str = "core table only, no flash wait states"


class Target(_Strict):
    """One YAML file. ``config`` belongs to the family, which checks it with a schema of its own."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    family: str
    description: str
    board: str  #: the real board this is modelled on
    source: str  #: data sheet or reference manual the figures come from
    cores: tuple[Core, ...] = Field(min_length=1)
    memories: tuple[Memory, ...] = ()
    timing: Timing | None = None
    #: Channel counts the hardware likes: pruning keeps multiples of this many.
    channel_multiple: int = Field(4, ge=1)
    toolchain: dict[str, Any] = Field(default_factory=dict)
    virtual: dict[str, Any] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_unique(self) -> Target:
        names = [m.name for m in self.memories]
        if len(names) != len(set(names)):
            raise ValueError("two memories have the same name")
        return self

    @property
    def core(self) -> Core:
        """The core that runs the network."""
        return self.cores[0]

    def has(self, feature: str) -> bool:
        return feature in self.core.features

    def memory_size(self, *roles: str) -> int:
        """Total bytes of all memories in these roles."""
        return sum(m.size for m in self.memories if m.role in roles)
