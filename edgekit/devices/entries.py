"""``devices.yaml``: names for attached devices, and how to reach them.

    devices:
      pi5:
        transport: ssh
        host: pi@raspberrypi.local
      phone:
        transport: adb
        serial: 9A281FFAZ004XX

Read from $EDGEKIT_DEVICES alone where that is set, else ``devices.yaml`` in the working folder, then
the user's own (``~/.config/edgekit/devices.yaml``); a name in the first hides the same name in the
second. What a transport accepts besides is checked by the transport.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RESERVED = ("host", "auto")
_LARGEST = 1 << 20  #: bytes of a devices.yaml

#: What every transport understands (see docs/devices.md).
COMMON = ("transport", "description", "lock_wait_s", "wait_s", "timeout_s", "meter")


@dataclass(frozen=True)
class DeviceEntry:
    """A device as ``devices.yaml`` describes it. Getters raise InputError that names the file, the
    device and the field."""

    name: str
    transport: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = "the command line"

    def wrong(self, key: str, wanted: str) -> InputError:
        given = str(self.settings.get(key))[:60]
        return InputError(
            f"device '{self.name}' in {self.source}: field '{key}' is '{given}' and should be {wanted}"
        )

    def only(self, *known: str) -> None:
        """Refuse a field that the transport does not have."""
        accepted = (*known, *COMMON)
        for key in self.settings:
            if key not in accepted:
                raise InputError(
                    f"device '{self.name}' in {self.source}: transport '{self.transport}' has no "
                    f"field '{key}'; it has {', '.join(accepted)}"
                )

    def text(self, key: str, default: str = "") -> str:
        """A string without line breaks and other control characters."""
        value = self.settings.get(key, default)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not (value.isprintable() or value == ""):
            raise self.wrong(key, "text on one line")
        return value

    def needed(self, key: str) -> str:
        """As ``text``, but it has to be there."""
        value = self.text(key)
        if not value:
            raise InputError(
                f"device '{self.name}' in {self.source} lacks the field '{key}', which transport "
                f"'{self.transport}' needs"
            )
        return value

    def seconds(self, key: str, default: float) -> float:
        """A duration of at least zero and at most a day."""
        value = self.settings.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 <= value <= 86400
        ):
            raise self.wrong(key, "a number of seconds, at most 86400")
        return float(value)

    def whole(self, key: str, default: int, least: int, most: int) -> int:
        value = self.settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(key, f"a whole number from {least} to {most}")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        """A command: a list of strings, or one string that is split as a shell would (no shell runs)."""
        value = self.settings.get(key, [])
        if isinstance(value, str):
            try:
                value = shlex.split(value)
            except ValueError:
                raise self.wrong(key, "a command with balanced quotes") from None
        if not isinstance(value, list) or not all(isinstance(w, (str, int, float)) for w in value):
            raise self.wrong(key, "a command: a string or a list of strings")
        words = tuple(str(w) for w in value)
        if any(not w.isprintable() for w in words):
            raise self.wrong(key, "a command without control characters")
        return words

    def pairs(self, key: str) -> dict[str, str]:
        """A mapping of names to text, such as environment variables."""
        value = self.settings.get(key, {})
        good = isinstance(value, dict) and all(
            re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(k))
            and isinstance(v, (str, int, float))
            and str(v).isprintable()
            for k, v in value.items()
        )
        if not good:
            raise self.wrong(key, "a mapping of names to text on one line")
        return {str(k): str(v) for k, v in value.items()}


def files() -> list[Path]:
    """The files that are read, those that exist, the first one wins."""
    given = os.environ.get("EDGEKIT_DEVICES")
    if given:
        return [Path(given)]
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    places = [Path("devices.yaml"), config / "edgekit" / "devices.yaml"]
    return [p for p in places if p.is_file()]


def load(transports: Collection[str]) -> dict[str, DeviceEntry]:
    """All named devices. InputError for a file that cannot be read, or an entry that is wrong."""
    found: dict[str, DeviceEntry] = {}
    for path in files():
        for name, entry in read(path, transports).items():
            found.setdefault(name, entry)
    return found


def read(path: Path, transports: Collection[str]) -> dict[str, DeviceEntry]:
    """The devices of one file."""
    import yaml

    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"'{path}' is larger than a list of devices can be")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"the device file '{path}' cannot be read ({e})") from None
    try:
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        why = " ".join(str(e).split())
        raise InputError(f"the device file '{path}' is not YAML ({why})") from None
    listed = {} if document is None else document
    if isinstance(listed, dict) and set(listed) <= {"devices"}:
        listed = listed.get("devices") or {}
    else:
        listed = None
    if not isinstance(listed, dict):
        raise InputError(f"the device file '{path}' must hold 'devices:', a mapping of names")
    return {str(name): _entry(name, body, path, transports) for name, body in listed.items()}


def _entry(name: Any, body: Any, path: Path, transports: Collection[str]) -> DeviceEntry:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _RESERVED:
        raise InputError(
            f"'{name}' in {path} is not a device name: letters, digits and . _ - are accepted, and "
            f"not {' or '.join(_RESERVED)}"
        )
    if not isinstance(body, dict) or not all(isinstance(k, str) for k in body):
        raise InputError(f"device '{name}' in {path} must be a mapping with 'transport' and more")
    transport = body.get("transport")
    if transport not in transports:
        raise InputError(
            f"device '{name}' in {path}: transport '{transport}' is not known; there are "
            f"{', '.join(sorted(transports))}"
        )
    entry = DeviceEntry(name, str(transport), dict(body), str(path))
    for key, default in (("lock_wait_s", 0.0), ("wait_s", 0.0), ("timeout_s", 0.0)):
        entry.seconds(key, default)
    entry.words("meter")
    entry.text("description")
    return entry
