"""What an attached device says it is (``far_scripts.FACTS``), and what programs are for."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from typing import Any

from edgekit.errors import DeviceUnavailable
from edgekit.text import visible

#: Numbers of machines in ELF files -> ``uname -m``.
MACHINES = {3: "i686", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
#: Other names for the same.
SAME = {"arm64": "aarch64", "amd64": "x86_64", "armv8l": "aarch64"}


def facts_of(text: bytes) -> dict[str, Any]:
    """The lines of ``far_scripts.FACTS``, cut to a sensible length and made printable."""
    facts: dict[str, Any] = {}
    for line in text[: 1 << 16].decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        if equals and re.fullmatch(r"[a-z_]{1,20}", key) and key not in facts:
            facts[key] = visible(" ".join(value.split()))[:120]
    if b"edgekit-facts=end\n" not in text or "machine" not in facts:
        raise DeviceUnavailable("the device did not say what it is; it may be starting or hung")
    for key in ("cores", "memory_kb"):
        value = str(facts.get(key, ""))
        if value.isascii() and value.isdigit() and len(value) < 12:
            facts[key] = int(value)
        else:
            facts.pop(key, None)
    if "id" in facts:  # serial numbers are nobody's business in reports
        facts["id"] = hashlib.sha256(str(facts["id"]).encode()).hexdigest()[:16]
    return facts


def fingerprint(facts: Mapping[str, Any]) -> str:
    """16 hex digits that stay the same as long as it is the same device with the same system."""
    keys = ("id", "machine", "model", "soc", "cpu", "parts", "cores", "system", "android")
    text = "\n".join(f"{k}={facts.get(k, '')}" for k in keys)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe(facts: Mapping[str, Any]) -> str:
    """One line about a device."""
    what = facts.get("model") or facts.get("cpu") or facts.get("hardware") or "a device"
    soc = f" ({facts['soc']})" if str(facts.get("soc", "")).strip() else ""
    cores = f", {facts['cores']} cores" if "cores" in facts else ""
    return f"{what}{soc}, {facts.get('machine', 'machine not known')}{cores}, {facts.get('system', '')}"


def machine_of(head: bytes) -> str | None:
    """The machine of an ELF program as ``uname -m`` names it; None for what is no ELF program."""
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return None
    order = ">" if head[5] == 2 else "<"
    number = struct.unpack_from(f"{order}H", head, 18)[0]
    return MACHINES.get(number, f"ELF machine {number}")
