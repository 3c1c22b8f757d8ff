"""Device names to devices: ``host``, ``virtual:<core>``, ``virtual:<core>@unicorn|qemu``,
``virtual:aarch64``."""

from __future__ import annotations

import importlib.util
from typing import Any

from edgekit.devices import aarch64
from edgekit.devices.base import Device, TransportInfo
from edgekit.devices.cores import CORES, get_core
from edgekit.errors import InputError

_EMULATORS = ("unicorn", "qemu")


def open_device(name: str, *, target: Any = None) -> Device:
    """Open the device called ``name``, ready for use; close it, or use it in a ``with`` statement.

    name: ``host``; ``virtual:cortex-m0plus|m3|m4|m7|m33|m55`` with an optional ``@unicorn`` or
    ``@qemu`` (default: Unicorn, QEMU for the Cortex-M55); ``virtual:aarch64`` or
    ``virtual:cortex-a53|a72|a76``. target: an
    :class:`edgekit.targets.schema.Target`; memories with a base address become memory of a virtual
    device. Raises InputError for unknown names, ToolchainError when an emulator is missing.

    Any other name is offered to the backend of the target's family, if that has a method
    ``open_device(name, target) -> Device | None`` (:class:`edgekit.targets.base.OpensDevices`).
    """
    if name == "host":
        from edgekit.devices.local import LocalDevice

        return LocalDevice()
    if name.startswith("serial:"):
        from edgekit.devices.serial_ import SerialDevice, parse_name

        port, options = parse_name(name)
        return SerialDevice(name, port, options)
    if name.startswith("virtual:"):
        if name.removeprefix("virtual:") in aarch64.NAMES:
            return aarch64.Aarch64Device(name, target)
        return _of_family(name, target) or _open_virtual(name, target)
    device = _of_family(name, target)
    if device is not None:
        return device
    raise InputError(
        f"device '{name}' is not known; there are host and virtual:<core> "
        f"(cores: {', '.join([*CORES, *aarch64.NAMES])}; see 'edgekit devices')"
    )


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
        _serial(),
    ]


def _serial() -> TransportInfo:
    if importlib.util.find_spec("serial") is None:
        why = "the Python package pyserial is missing: pip install pyserial"
        return TransportInfo("serial", False, why)
    from edgekit.devices.serial_ import ports

    return TransportInfo("serial", True, None, tuple(ports()))
