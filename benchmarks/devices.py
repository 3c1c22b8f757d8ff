"""One artifact by three ways to the same processor, and what faults do; writes ``benchmarks/devices.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/devices.py [--skip-faults]

The processor is QEMU's Cortex-A53 (kind ``simulated``), reached directly (``virtual:cortex-a53``), over a
real sshd on loopback, and over the real adb client with the tests' peer. The models are the int8
networks of MLPerf Tiny where they are at hand, else a small one. The native part is this machine by
itself and over ssh (kind ``measured``).
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import adb_case  # noqa: E402 - beside the tests
import serial_case  # noqa: E402
import ssh_case  # noqa: E402
from engine_case import int8_net  # noqa: E402
from netgen import random_inputs  # noqa: E402

from edgekit import api, export  # noqa: E402
from edgekit.devices.local import cpu_model  # noqa: E402
from edgekit.profile.measure import Protocol  # noqa: E402
from edgekit.targets.base import CompileOptions  # noqa: E402

SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
CORE = "cortex-a53"
MODELS = ("kws_dscnn_int8", "ic_resnet8_int8", "ad_fcae_int8")


@contextmanager
def transports(place: Path) -> Iterator[dict[str, str]]:
    """Device names by transport."""
    ssh, adb = place / "ssh", place / "adb"
    ssh.mkdir()
    adb.mkdir()
    with ssh_case.server(ssh) as s, adb_case.phone(adb) as p:
        wrapper = f"wrapper: qemu-aarch64 -cpu {CORE}"
        use = f"transport: ssh, host: board, config: {s.config}, folder: {s.folder}"
        file = place / "devices.yaml"
        file.write_text(
            f"devices:\n  far-ssh: {{{use}, {wrapper}}}\n  native-ssh: {{{use}}}\n"
            f"  far-adb: {{transport: adb, serial: '{p.serial}', {wrapper}}}\n"
        )
        os.environ["EDGEKIT_DEVICES"] = str(file)
        yield {"direct": f"virtual:{CORE}", "ssh": "far-ssh", "adb": "far-adb"}
        left = s.leftovers() + adb_case.leftovers(p)
        if left:
            raise SystemExit(f"left on the devices: {left}")


def models() -> dict[str, Any]:
    found = {m: SHARED / "zoo" / f"{m}.tflite" for m in MODELS}
    there = {m: p for m, p in found.items() if p.is_file()}
    return there or {"small network": int8_net()}


def simulated(place: Path, names: dict[str, str]) -> list[str]:
    rows = []
    for model, source in models().items():
        folder = place / re.sub(r"\W", "-", model)
        art = api.compile(source, CORE, folder, options=CompileOptions(engine="c"))
        xs = random_inputs(art.reference, np.random.default_rng(0), 4)
        np.savez(place / "d.npz", x=xs[0])
        bytes_of, counts, layers = {}, {}, {}
        for way, device in names.items():
            outputs = api.run(folder, f"{place}/d.npz:x", device=device)
            bytes_of[way] = b"".join(v.tobytes() for v in outputs.values())
            p = api.profile(folder, device=device)
            counts[way] = p["total"]["instructions"]
            layers[way] = [la["instructions"] for la in p["layers"]]
        same = all(b == bytes_of["direct"] for b in bytes_of.values())
        same_layers = all(x == layers["direct"] for x in layers.values())
        figures = " | ".join(f"{counts[w]:,}" for w in names)
        rows.append(
            f"| {model} | {figures} | {'yes' if same_layers else 'NO'} | "
            f"{len(bytes_of['direct'])}, {'equal' if same else 'DIFFERENT'} |"
        )
        print(rows[-1], flush=True)
    return rows


def by_serial(place: Path) -> list[str]:
    """The serial firmware in QEMU behind a pseudo terminal beside the virtual Cortex-M4."""
    rows = []
    for model, source in models().items():
        folder = place / ("serial-" + re.sub(r"\W", "-", model))
        art = api.compile(source, "cortex-m4", folder, options=CompileOptions(optimize="speed"))
        export.write(art, "mlperf-tiny", place / f"{folder.name}-firmware")
        xs = random_inputs(art.reference, np.random.default_rng(0), 4)
        np.savez(place / "d.npz", x=xs[0])
        board = serial_case.Emulated(place / f"{folder.name}-firmware" / "firmware.elf")
        name = f"serial:{board.port}?instruction_ns={serial_case.INSTRUCTION_NS}"
        try:
            counts, outputs = [], []
            for device in ("virtual:cortex-m4", name):
                found = api.run(folder, f"{place}/d.npz:x", device=device)
                outputs.append(b"".join(v.tobytes() for v in found.values()))
                counts.append(api.profile(folder, device=device)["total"]["instructions"])
        finally:
            board.close()
        same = "equal" if outputs[0] == outputs[1] else "DIFFERENT"
        rows.append(f"| {model} | {counts[0]:,} | {counts[1]:,} | {len(outputs[0])}, {same} |")
        print(rows[-1], flush=True)
    return rows


def measured(place: Path) -> list[str]:
    rows = []
    for model, source in models().items():
        folder = place / ("host-" + re.sub(r"\W", "-", model))
        api.compile(source, "x86-64-host", folder, options=CompileOptions(engine="c"))
        for device in ("host", "native-ssh"):
            p = api.profile(folder, device=device, protocol=Protocol(max_secs=5.0))
            m = p["details"]["measurement"]
            low, high = m["interval_ms"]
            rows.append(
                f"| {model} | {device} | {m['median_ms']:.4g} ms, {low:.4g} to {high:.4g} | "
                f"{m['min_ms']:.4g} ms | {m['p90_ms']:.4g} ms | {m['runs']} | {m['quality']} |"
            )
            print(rows[-1], flush=True)
    return rows


def faults() -> str:
    """The last line of the fault tests, which inject 200 faults."""
    command = [sys.executable, "-m", "pytest", "-q", "tests/test_device_faults.py"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False
    )
    return done.stdout.strip().splitlines()[-1]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--skip-faults", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-bench-") as name:
        place = Path(name)
        with transports(place) as names:
            counted = simulated(place, names)
            serial = by_serial(place)
            timed = measured(place) if platform.machine() == "x86_64" else []
    tools = [
        subprocess.run(c, capture_output=True, text=True, timeout=30, check=False)
        for c in (["ssh", "-V"], ["adb", "version"], ["qemu-aarch64", "--version"])
    ]
    versions = ", ".join((t.stdout + t.stderr).splitlines()[0].strip() for t in tools)
    text = [
        "# Attached devices",
        "",
        "`benchmarks/devices.py` writes this page. " + versions + ".",
        "",
        f"## The same artifact by three ways to an emulated {CORE} (simulated)",
        "",
        "Instructions of one inference, engine `c`; bytes of four samples' outputs.",
        "",
        "| model | direct | ssh | adb | every layer equal | output bytes |",
        "|---|---|---|---|---|---|",
        *counted,
        "",
        "## The same artifact on a virtual Cortex-M4 and over a serial line (simulated)",
        "",
        "`--optimize speed`; the firmware of `edgekit export --as mlperf-tiny` on QEMU's mps2-an386, its "
        "instructions read from SysTick under `-icount shift=7`.",
        "",
        "| model | direct (Unicorn) | serial (QEMU) | output bytes |",
        "|---|---|---|---|",
        *serial,
        "",
    ]
    if timed:
        text += [
            f"## This machine directly and over ssh (measured: {cpu_model()})",
            "",
            "| model | device | median, 95 % interval | least | p90 | runs | quality |",
            "|---|---|---|---|---|---|---|",
            *timed,
            "",
        ]
    if not given.skip_faults:
        text += ["## Faults", "", f"`tests/test_device_faults.py` (200 faults): {faults()}", ""]
    (ROOT / "benchmarks" / "devices.md").write_text("\n".join(text), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
