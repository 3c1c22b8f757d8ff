"""Which targets there are, and who compiles for them.

Families are found by entry points of the group ``edgekit.targets`` (each names a
:class:`~edgekit.targets.base.Family`); their targets are the YAML files of the family's folder. A
plug-in that cannot be loaded is listed with its error and disturbs nobody else.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import EdgekitError, InputError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from edgekit.devices.base import TransportInfo
    from edgekit.targets.base import Backend, EngineInfo, Family
    from edgekit.targets.schema import Target

GROUP = "edgekit.targets"


@dataclass(frozen=True)
class TargetEntry:
    """One line of ``edgekit targets``. ``error``: why the file, or the whole plug-in, is unusable;
    then ``engines`` is empty and the texts may be, too."""

    name: str
    family: str
    description: str = ""
    board: str = ""
    engines: tuple[EngineInfo, ...] = ()
    error: str | None = None

    @property
    def usable(self) -> bool:
        return self.error is None and any(e.usable for e in self.engines)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.family,
            "description": self.description,
            "board": self.board,
            "usable": self.usable,
            "engines": [
                {"name": e.name, "usable": e.usable, "why_not": e.why_not} for e in self.engines
            ],
            "error": self.error,
        }


@dataclass(frozen=True)
class _BrokenFamily:
    name: str
    error: str


@cache
def _families() -> Mapping[str, Family | _BrokenFamily]:
    found: dict[str, Family | _BrokenFamily] = {}
    for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: p.name):
        if point.name in found:
            continue
        try:
            family = point.load()
            if family.name != point.name or not callable(family.backend):
                raise TypeError(f"it names family '{family.name}' and should name '{point.name}'")
            Path(family.target_dir)
        except Exception as e:  # somebody else's code: whatever it raises is reported, not raised
            text = " ".join(str(e).split()) or type(e).__name__
            found[point.name] = _BrokenFamily(
                point.name, f"target plug-in '{point.name}' ({point.value}) does not load: {text}"
            )
        else:
            found[point.name] = family
    return found


def families() -> Sequence[Family]:
    """The families whose plug-in loads, by name."""
    return [f for f in _families().values() if not isinstance(f, _BrokenFamily)]


def get_family(name: str) -> Family:
    """Raises InputError when there is no such family or its plug-in is broken."""
    family = _families().get(name)
    if family is None:
        known = ", ".join(f.name for f in families())
        raise InputError(f"target family '{name}' is not installed; there are {known}")
    if isinstance(family, _BrokenFamily):
        raise InputError(family.error)
    return family


@cache
def get_backend(family: str) -> Backend:
    """The backend of a family (one instance); InputError for an unknown or broken family."""
    found = get_family(family)
    try:
        return found.backend()
    except EdgekitError:
        raise
    except Exception as e:
        raise InputError(f"the backend of target family '{family}' does not load: {e}") from None


def load_target(path: Path) -> Target:
    """Read and check one YAML file; InputError names the file, the field and what it takes."""
    import yaml
    from pydantic import ValidationError

    from edgekit.targets.schema import Target

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"target file '{path}' cannot be read ({e})") from None
    try:
        data = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as e:
        raise InputError(f"target file '{path}' is not YAML ({' '.join(str(e).split())})") from None
    if not isinstance(data, dict):
        raise InputError(f"target file '{path}' must hold a mapping with name, family, cores, ...")
    try:
        return Target.model_validate(data)
    except ValidationError as e:
        raise InputError(f"target file '{path}': {first_error(e)}") from None


def first_error(error: ValidationError) -> str:
    """The first problem of a pydantic error as ``field 'cores.0.isa': Field required``."""
    first = error.errors()[0]
    where = ".".join(str(p) for p in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    text = first["msg"].removeprefix("Value error, ")
    return f"field '{where}': {text}{more}" if where else f"{text}{more}"


def _files(family: Family) -> dict[str, Path]:
    return {p.stem: p for p in sorted(Path(family.target_dir).glob("*.yaml"))}


def target_names() -> list[str]:
    """Names of all targets that ship with the installed families, without reading their files."""
    return sorted({name for family in families() for name in _files(family)})


def get_target(name: str) -> Target:
    """A target by name, or a user's own YAML file by path (``boards/mine.yaml``).

    Raises InputError: unknown name (near matches are named), unreadable or wrong file, a family
    that is not installed.
    """
    if name.endswith((".yaml", ".yml")):
        target = load_target(Path(name))
        get_family(target.family)
        return target
    for family in families():
        path = _files(family).get(name)
        if path is None:
            continue
        target = load_target(path)
        if target.name != name or target.family != family.name:
            raise InputError(
                f"target file '{path}' says name '{target.name}', family '{target.family}'; its "
                f"place says '{name}', '{family.name}'"
            )
        return target
    known = target_names()
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "'edgekit targets' lists them all"
    raise InputError(f"target '{name}' is not known; {hint}")


def list_targets() -> list[TargetEntry]:
    """Every target, usable or not; never raises for a broken file or plug-in."""
    entries: list[TargetEntry] = []
    for family in _families().values():
        if isinstance(family, _BrokenFamily):
            entries.append(TargetEntry("", family.name, error=family.error))
            continue
        for name in _files(family):
            try:
                target = get_target(name)
                engines = tuple(get_backend(family.name).engines(target))
            except EdgekitError as e:
                entries.append(TargetEntry(name, family.name, error=str(e)))
            else:
                entries.append(
                    TargetEntry(name, family.name, target.description, target.board, engines)
                )
    return entries


def list_transports() -> list[TransportInfo]:
    """The ways to reach devices that families have of their own; a broken family has none."""
    from edgekit.targets.base import ListsTransports

    found: list[TransportInfo] = []
    for family in families():
        try:
            backend = get_backend(family.name)
        except EdgekitError:
            continue
        if isinstance(backend, ListsTransports):
            found += backend.transports()
    return found
