"""What a transport for attached devices is: one module beside this one with an object ``TRANSPORT``.

``devices.yaml`` (:mod:`.entries`) says which transport a device has; :mod:`.registry` finds the module
by name in :data:`TRANSPORTS`, and imports it only when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from edgekit.devices.base import Device
from edgekit.devices.entries import DeviceEntry
from edgekit.errors import DeviceUnavailable, EdgekitError

#: transport -> module. A new transport is one line here and one file.
TRANSPORTS: Mapping[str, str] = {
    "ssh": "edgekit.devices.ssh",
    "adb": "edgekit.devices.adb",
    "serial": "edgekit.devices.serial_",
    "rpc": "edgekit.devices.rpc",
}

State = Literal["ready", "in use", "unreachable", "unusable"]

#: Seconds that ``edgekit devices`` gives each device to answer.
PROBE_S = 8.0


@dataclass(frozen=True)
class Probe:
    """What a device answered. fingerprint: 16 hex digits, the same as long as it is the same device
    with the same system; None when it did not answer. facts: what it says it is. why: for states
    other than ``ready``."""

    state: State
    fingerprint: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    why: str | None = None


class Transport(Protocol):
    """A way to reach devices. Methods raise EdgekitErrors with one sentence: InputError for an entry
    that is wrong, DeviceUnavailable for a device that cannot be reached now."""

    name: str

    def why_unusable(self) -> str | None:
        """None when it works on this machine, else what is missing and how to get it."""
        ...

    def entry(self, address: str) -> DeviceEntry:
        """For ``--device <transport>:<address>``, a device that no file names."""
        ...

    def check(self, entry: DeviceEntry) -> None:
        """Refuse fields that the transport does not have, or values that they cannot have."""
        ...

    def lock_key(self, entry: DeviceEntry) -> str:
        """What is locked: the same for every name of one device."""
        ...

    def open(self, entry: DeviceEntry, target: Any = None) -> Device:
        """Take the device's lock (:class:`edgekit.devices.lock.DeviceLock`), connect; the device's
        ``close`` cleans up and gives the lock back. Nothing is left behind when this fails."""
        ...

    def probe(self, entry: DeviceEntry, timeout_s: float = PROBE_S) -> Probe:
        """Ask the device what it is, without its lock and without leaving anything on it."""
        ...

    def discover(self) -> Sequence[DeviceEntry]:
        """Devices that are plugged in and can be listed without being named."""
        ...


def get_transport(name: str) -> Transport:
    """The transport's object; ``name`` is a key of :data:`TRANSPORTS`."""
    found: Transport = importlib.import_module(TRANSPORTS[name]).TRANSPORT
    return found


def probed(entry: DeviceEntry, timeout_s: float = PROBE_S) -> Probe:
    """The state of a device; never raises for a device that is wrong or away."""
    from edgekit.devices.lock import in_use

    transport = get_transport(entry.transport)
    try:
        why = transport.why_unusable()
        if why:
            return Probe("unusable", why=why)
        transport.check(entry)
        owner = in_use(transport.lock_key(entry))
        if owner:  # asking it would disturb a measurement
            return Probe("in use", why=f"in use by {owner}")
        return transport.probe(entry, timeout_s)
    except DeviceUnavailable as e:
        return Probe("unreachable", why=str(e))
    except EdgekitError as e:
        return Probe("unusable", why=str(e))
