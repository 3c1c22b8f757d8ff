"""What a device was like while it was measured: clock frequencies, temperatures, battery, counters of
energy. Read between stretches of a measurement, never during one.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.devices import far_scripts
from edgekit.devices.base import Device
from edgekit.errors import DeviceError, ToolchainError
from edgekit.text import visible

_METER_S = 10.0
_NUMBER = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,9})?")

#: Lines key=value; what a device has not, it does not say.
SCRIPT = r"""
one() { [ -r "$2" ] && read -r v <"$2" 2>/dev/null && printf '%s=%s\n' "$1" "$v"; }
for c in /sys/devices/system/cpu/cpu[0-9]*; do
  [ -d "$c/cpufreq" ] || continue
  n=${c##*/cpu}
  one "freq.$n" "$c/cpufreq/scaling_cur_freq"
  one "freq_max.$n" "$c/cpufreq/cpuinfo_max_freq"
  one "limit.$n" "$c/cpufreq/scaling_max_freq"
  one "governor.$n" "$c/cpufreq/scaling_governor"
done
for t in /sys/class/thermal/thermal_zone*; do one "temp.${t##*thermal_zone}" "$t/temp"; done
for t in /sys/class/thermal/cooling_device*; do one "cooling.${t##*cooling_device}" "$t/cur_state"; done
for p in /sys/class/powercap/intel-rapl:[0-9]; do one "rapl.${p##*:}" "$p/energy_uj"; done
for p in /sys/class/power_supply/*; do
  [ -r "$p/type" ] && [ "$(cat "$p/type" 2>/dev/null)" = Battery ] || continue
  for k in status capacity temp voltage_now charge_counter energy_now; do one "battery.$k" "$p/$k"; done
  break
done
if command -v dumpsys >/dev/null 2>&1; then
  dumpsys battery 2>/dev/null | sed -n \
    -e 's/^ *level: *\([0-9]*\).*/battery.capacity=\1/p' \
    -e 's/^ *temperature: *\([0-9]*\).*/battery.temp=\1/p' \
    -e 's/^ *\(AC\|USB\) powered: *true.*/battery.status=Charging/p'
fi
one load /proc/loadavg
echo edgekit-conditions=end
"""


@dataclass(frozen=True)
class Conditions:
    """One reading. freq_khz and limit_khz by core; temperature_c: the hottest zone's; joules: counters
    by name, that only ever grow (``rapl``, ``battery``, ``meter``)."""

    at: float
    freq_khz: Mapping[int, int] = field(default_factory=dict)
    limit_khz: Mapping[int, int] = field(default_factory=dict)
    max_khz: Mapping[int, int] = field(default_factory=dict)
    governors: tuple[str, ...] = ()
    temperature_c: float | None = None
    cooling: int | None = None
    battery: Mapping[str, Any] = field(default_factory=dict)
    load: float | None = None
    joules: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """What is known; absent keys were not readable."""
        found: dict[str, Any] = {"at": round(self.at, 3)}
        if self.freq_khz:
            found["freq_khz"] = {str(k): v for k, v in sorted(self.freq_khz.items())}
        for key in ("temperature_c", "cooling", "load"):
            if getattr(self, key) is not None:
                found[key] = getattr(self, key)
        if self.governors:
            found["governors"] = list(self.governors)
        if self.battery:
            found["battery"] = dict(self.battery)
        return found


def parse(text: str, at: float = 0.0) -> Conditions:
    """A reading from the script's output; lines that make no sense are left out."""
    numbers: dict[str, dict[str, float]] = {}
    words: dict[str, set[str]] = {}
    for line in text[: 1 << 18].splitlines():
        key, equals, value = line.partition("=")
        group, _, item = key.partition(".")
        if not equals or not re.fullmatch(r"[a-z_]{1,20}", group) or len(item) > 30:
            continue
        value = value.strip()
        if group == "load":
            value = value.split(" ")[0]
        if _NUMBER.fullmatch(value):
            numbers.setdefault(group, {})[item] = float(value)
        else:
            words.setdefault(f"{group}.{item}" if group == "battery" else group, set()).add(
                visible(value)[:30]
            )

    def by_core(group: str) -> dict[int, int]:
        found = numbers.get(group, {})
        return {int(k): int(v) for k, v in found.items() if k.isascii() and k.isdigit()}

    # Zones in millidegrees; some boards have zones that are off (0) or report nonsense.
    hot = [v / 1000 for v in numbers.get("temp", {}).values() if 1000 < v < 150_000]
    battery: dict[str, Any] = {}
    cell = numbers.get("battery", {})
    if "capacity" in cell:
        battery["percent"] = cell["capacity"]
    if "temp" in cell:
        battery["temperature_c"] = cell["temp"] / 10
    if words.get("battery.status"):
        battery["status"] = sorted(words["battery.status"])[0]
    joules = {}
    if numbers.get("rapl"):
        joules["rapl"] = sum(numbers["rapl"].values()) / 1e6
    if battery.get("status") == "Discharging":  # the counters fall
        if "energy_now" in cell:
            joules["battery"] = -cell["energy_now"] * 3.6e-3
        elif "charge_counter" in cell and "voltage_now" in cell:
            joules["battery"] = -cell["charge_counter"] * 3.6e-3 * cell["voltage_now"] / 1e6
    cooling = numbers.get("cooling")
    return Conditions(
        at=at,
        freq_khz=by_core("freq"),
        limit_khz=by_core("limit"),
        max_khz=by_core("freq_max"),
        governors=tuple(sorted(words.get("governor", ()))),
        temperature_c=max(hot) if hot else None,
        cooling=int(max(cooling.values())) if cooling else None,
        battery=battery,
        load=numbers.get("load", {}).get(""),
        joules=joules,
    )


def read(device: Device) -> Conditions:
    """Ask the device; nothing is known (but the time) where it cannot say."""
    ask = getattr(device, "sh", None)
    try:
        if callable(ask):
            text = str(ask(SCRIPT))
        elif device.info().transport == "local":
            text = subprocess.run(
                far_scripts.shell(SCRIPT),
                capture_output=True,
                timeout=20,
                check=False,
                stdin=subprocess.DEVNULL,
            ).stdout.decode("utf-8", "replace")
        else:
            text = ""
    except (OSError, subprocess.TimeoutExpired):
        text = ""
    found = parse(text, time.time())
    entry = getattr(device, "entry", None)
    command = entry.words("meter") if entry is not None else ()
    if command:
        found = Conditions(**{**vars(found), "joules": {"meter": read_meter(command)}})
    return found


def read_meter(command: Sequence[str]) -> float:
    """Joules so far by an external meter: a command on this machine that prints ``joules=12.34``."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_METER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DeviceError(f"the meter '{command[0]}' did not answer in {_METER_S:g} s") from None
    except OSError as e:
        raise ToolchainError(f"the meter '{command[0]}' cannot be started ({e.strerror})") from None
    text = done.stdout[:65536].decode("utf-8", "replace")
    found = [x.partition("=")[2].strip() for x in text.splitlines() if x.startswith("joules=")]
    if done.returncode or not found or not _NUMBER.fullmatch(found[-1]):
        raise DeviceError(f"the meter '{command[0]}' did not print a line joules=NUMBER")
    return float(found[-1])


def energy(before: Conditions, after: Conditions) -> tuple[str, float] | None:
    """(counter, joules) spent between two readings, by the best counter there is."""
    for name in ("meter", "rapl", "battery"):
        if name in before.joules and name in after.joules:
            spent = after.joules[name] - before.joules[name]
            if math.isfinite(spent) and spent > 0:  # a counter may have wrapped
                return name, spent
    return None


__all__ = ["SCRIPT", "Conditions", "energy", "parse", "read", "read_meter"]
