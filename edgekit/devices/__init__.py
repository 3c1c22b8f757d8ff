"""How to reach a device: this machine, a virtual Cortex-M on Unicorn or QEMU, later ssh, adb, ...

``open_device("virtual:cortex-m4")`` gives a :class:`~edgekit.devices.base.Device`. Importing this
package stays cheap: emulators are loaded when a device is opened.
"""

from __future__ import annotations

from edgekit.devices.base import (
    Count,
    Device,
    DeviceInfo,
    Kind,
    RunRequest,
    RunResult,
    Trace,
    TransportInfo,
)
from edgekit.devices.registry import list_transports, open_device

__all__ = [
    "Count",
    "Device",
    "DeviceInfo",
    "Kind",
    "RunRequest",
    "RunResult",
    "Trace",
    "TransportInfo",
    "list_transports",
    "open_device",
]
