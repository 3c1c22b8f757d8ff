"""Device names to devices: ``host``, ``virtual:<core>``, ``virtual:<core>@unicorn|qemu``,
``virtual:aarch64``; attached ones by their name in ``devices.yaml`` or as ``<transport>:<address>``."""

from __future__ import annotations

import importlib.util
from typing import Any

from edgekit.devices import aarch64, entries
from edgekit.devices.base import Device, TransportInfo
from edgekit.devices.cores import CORES, get_core
from edgekit.devices.entries import DeviceEntry
from edgekit.devices.transport import TRANSPORTS, Probe, get_transport, probed
from edgekit.errors import EdgekitError, InputError

_EMULATORS = ("unicorn", "qemu")


def open_device(name: str, *, target: Any = None) -> Device:
    """Open the device called ``name``, ready for use; close it, or use it in a ``with`` statement.

    name: ``host``; ``virtual:cortex-m0plus|m3|m4|m7|m33|m55`` with an optional ``@unicorn`` or
    ``@qemu`` (default: Unicorn, QEMU for the Cortex-M55); ``virtual:aarch64`` or
    ``virtual:cortex-a53|a72|a76``. target: an
    :class:`edgekit.targets.schema.Target`; memories with a base address become memory of a virtual
    device. Raises InputError for unknown names, ToolchainError when an emulator is missing.

    Names of ``devices.yaml`` (:mod:`.entries`) and ``ssh:user@host``, ``adb:serial``, ... are attached
    devices; opening one takes its lock. Any other name is offered to the backend of the target's
    family, if that has a method ``open_device(name, target) -> Device | None``
    (:class:`edgekit.targets.base.OpensDevices`).
    """
    if name == "host":
        from edgekit.devices.local import LocalDevice

        return LocalDevice()
    if name.startswith("virtual:"):
        if name.removeprefix("virtual:") in aarch64.NAMES:
            return aarch64.Aarch64Device(name, target)
        return _of_family(name, target) or _open_virtual(name, target)
    entry = find_entry(name)
    if entry is not None:
        return get_transport(entry.transport).open(entry, target)
    device = _of_family(name, target)
    if device is not None:
        return device
    named = ", ".join(entries.load(TRANSPORTS))
    raise InputError(
        f"device '{name}' is not known; there are host, virtual:<core> "
        f"(cores: {', '.join([*CORES, *aarch64.NAMES])}), "
        f"{'|'.join(TRANSPORTS)}:<address> and the names in devices.yaml"
        f"{f': {named}' if named else ''} (see 'edgekit devices')"
    )


def find_entry(name: str) -> DeviceEntry | None:
    """The attached device of that name (``devices.yaml``) or address (``ssh:pi@board``)."""
    transport, colon, address = name.partition(":")
    if colon and transport in TRANSPORTS:
        return get_transport(transport).entry(address)
    return None if colon else entries.load(TRANSPORTS).get(name)


def attached(probe: bool = True) -> list[tuple[DeviceEntry, Probe | None]]:
    """Every attached device that has a name or is plugged in, with its state. They are asked at the
    same time, so that one that does not answer costs its time limit once."""
    from concurrent.futures import ThreadPoolExecutor

    found = list(entries.load(TRANSPORTS).values())
    known: set[str] = set()
    for name in TRANSPORTS:
        transport = get_transport(name)
        if transport.why_unusable() is None:
            known |= {_key(transport, e) for e in found if e.transport == name}
            found += [e for e in transport.discover() if _key(transport, e) not in known]
    if not probe:
        return [(e, None) for e in found]
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(zip(found, pool.map(probed, found), strict=True))


def _key(transport: Any, entry: DeviceEntry) -> str:
    try:
        return str(transport.lock_key(entry))
    except EdgekitError:  # a wrong entry is reported with its device
        return entry.name


def _of_family(name: str, target: Any) -> Device | None:
    """The device of that name that the target's family has, if any."""
    if target is None:
        return None
    from edgekit.targets.base import OpensDevices
    from edgekit.targets.registry import get_backend  # plug-ins know devices, not we them

    backend = get_backend(target.family)
    return backend.open_device(name, target) if isinstance(backend, OpensDevices) else None


def _open_virtual(name: str, target: Any) -> Device:
    core_name, at, emulator = name.removeprefix("virtual:").partition("@")
    core = get_core(core_name)
    if at and emulator not in _EMULATORS:
        raise InputError(
            f"emulator '{emulator}' in '{name}' is not known; there are {' and '.join(_EMULATORS)}"
        )
    emulator = emulator or ("unicorn" if core.unicorn_model else "qemu")
    if emulator == "unicorn":
        if core.unicorn_model is None:
            raise InputError(
                f"Unicorn does not emulate the {core.name}; use virtual:{core.name}@qemu"
            )
        from edgekit.devices.unicorn_ import UnicornDevice

        return UnicornDevice(core, name, target)
    if not core.machines:
        raise InputError(f"QEMU has no machine with a {core.name}; use virtual:{core.name}@unicorn")
    from edgekit.devices.qemu import QemuDevice

    return QemuDevice(core, name)


def list_transports() -> list[TransportInfo]:
    """Every way to reach devices, usable here or not (then with the reason and what would help).
    Families may add more: :func:`edgekit.targets.registry.list_transports`."""
    from edgekit.devices.qemu import why_unusable

    unicorn_missing = (
        None
        if importlib.util.find_spec("unicorn")
        else "the Python package unicorn is missing: pip install unicorn"
    )
    qemu_missing = why_unusable()
    aarch64_missing = aarch64.why_unusable()
    unicorn_cores = [c for c in CORES.values() if c.unicorn_model]
    qemu_cores = [c for c in CORES.values() if c.machines]
    return [
        TransportInfo("local", True, None, ("host",)),
        TransportInfo(
            "unicorn",
            unicorn_missing is None,
            unicorn_missing,
            tuple(f"virtual:{c.name}" for c in unicorn_cores),
        ),
        TransportInfo(
            "qemu",
            qemu_missing is None,
            qemu_missing,
            tuple(f"virtual:{c.name}" + ("@qemu" if c.unicorn_model else "") for c in qemu_cores),
        ),
        TransportInfo(
            "qemu-user",
            aarch64_missing is None,
            aarch64_missing,
            tuple(f"virtual:{n}" for n in aarch64.NAMES),
        ),
        *(_attached_line(n) for n in TRANSPORTS),
    ]


def _attached_line(name: str) -> TransportInfo:
    why = get_transport(name).why_unusable()
    return TransportInfo(name, why is None, why)
