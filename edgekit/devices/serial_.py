"""Transport ``serial``: microcontrollers on a UART or USB serial port (:mod:`.serial_board`).

    devices:
      nucleo:
        transport: serial
        port: /dev/ttyACM0
        baud: 115200
        flash: [pyocd, flash, --target, stm32l4r5zitx, "{elf}"]

``flash`` is any program that takes an ELF file: pyOCD, ``west flash --elf-file {elf}``, OpenOCD
(``-c "program {elf} verify reset exit"``), a script of the user's.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgekit.devices.base import Device
from edgekit.devices.entries import DeviceEntry
from edgekit.devices.lock import DeviceLock
from edgekit.devices.serial_board import SerialDevice, SerialOptions
from edgekit.devices.transport import PROBE_S, Probe
from edgekit.errors import InputError

_NUMBERS = {"baud": int, "timeout_s": float, "instruction_ns": float}


class SerialTransport:
    """See :class:`edgekit.devices.transport.Transport`."""

    name = "serial"

    def why_unusable(self) -> str | None:
        if importlib.util.find_spec("serial") is None:
            return "the Python package pyserial is missing: pip install pyserial"
        return None

    def entry(self, address: str) -> DeviceEntry:
        """``serial:/dev/ttyACM0``, with options behind it: ``?baud=921600&timeout_s=300``."""
        port, _, query = address.partition("?")
        name = f"serial:{address}"
        if not port:
            raise InputError(f"'{name}' names no port; write serial:/dev/ttyACM0")
        settings: dict[str, Any] = {"transport": "serial", "port": port}
        for part in filter(None, query.split("&")):
            key, _, value = part.partition("=")
            if key not in _NUMBERS:
                raise InputError(
                    f"'{name}': there is no option '{key}'; there are {', '.join(_NUMBERS)}"
                )
            try:
                settings[key] = _NUMBERS[key](value)
            except ValueError:
                raise InputError(f"'{name}': '{value}' is no {key}") from None
        return DeviceEntry(name, "serial", settings)

    def check(self, entry: DeviceEntry) -> None:
        entry.only("port", "baud", "instruction_ns", "flash")
        entry.needed("port")
        self._options(entry)

    def _options(self, entry: DeviceEntry) -> SerialOptions:
        emulated = entry.settings.get("instruction_ns")
        if emulated is not None and (
            isinstance(emulated, bool)
            or not isinstance(emulated, (int, float))
            or not 0 < emulated < 1e6
        ):
            raise entry.wrong(
                "instruction_ns", "the nanoseconds that an emulated instruction lasts"
            )
        flash = entry.words("flash")
        if flash and not any("{elf}" in word for word in flash):
            raise entry.wrong("flash", "a command with {elf} where the firmware's path belongs")
        return SerialOptions(
            baud=entry.whole("baud", SerialOptions.baud, 300, 12_000_000),
            timeout_s=entry.seconds("timeout_s", 0.0) or SerialOptions.timeout_s,
            instruction_ns=None if emulated is None else float(emulated),
            flash=flash,
        )

    def lock_key(self, entry: DeviceEntry) -> str:
        return f"serial:{os.path.realpath(entry.needed('port'))}"

    def open(self, entry: DeviceEntry, target: Any = None) -> Device:
        self.check(entry)
        wait = entry.seconds("lock_wait_s", -1.0) if "lock_wait_s" in entry.settings else None
        lock = DeviceLock(self.lock_key(entry), entry.name, wait)
        lock.acquire()
        try:
            return SerialDevice(entry.name, entry.needed("port"), self._options(entry), lock)
        except BaseException:
            lock.release()
            raise

    def probe(self, entry: DeviceEntry, timeout_s: float = PROBE_S) -> Probe:
        options = replace(self._options(entry), timeout_s=timeout_s)
        with SerialDevice(entry.name, entry.needed("port"), options) as device:
            details = dict(device.info().details)
        return Probe("ready", device.model_id(), details)

    def discover(self) -> Sequence[DeviceEntry]:
        """USB serial ports that are plugged in."""
        from serial.tools.list_ports import comports

        return [self.entry(p.device) for p in sorted(comports()) if p.vid is not None]


TRANSPORT = SerialTransport()
