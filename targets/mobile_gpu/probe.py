"""Which OpenCL devices this machine has: ``python -m edgekit_targets.mobile_gpu.probe``.

Asked in a process of its own, because a driver may crash, hang or print; the answer is JSON.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_PLATFORM_NAME, _DEVICE_NAME = 0x0902, 0x102B
_DRIVER_VERSION, _DEVICE_VERSION = 0x102D, 0x102F
_CPU, _GPU = 2, 4
_LIBRARIES = ("libOpenCL.so.1", "libOpenCL.so")


@dataclass(frozen=True)
class Found:
    """An OpenCL device. kind: ``cpu`` or ``gpu``."""

    platform: str
    kind: str
    name: str
    version: str
    driver: str


@functools.cache
def devices() -> tuple[str | None, Sequence[Found]]:
    """(why there are none, the devices)."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError):
        answer = None
    if answer is None:
        return "the OpenCL library of this machine crashed or hung when it was asked", ()
    if isinstance(answer, str):
        return answer, ()
    return None, tuple(Found(**d) for d in answer)


def why_no_cpu() -> str | None:
    """None where a CPU runs OpenCL (PoCL does), else one sentence: what is missing and how to get
    it."""
    why, found = devices()
    if any(d.kind == "cpu" for d in found):
        return None
    get = "apt-get install pocl-opencl-icd"
    return f"{why or 'no OpenCL platform with a CPU device is installed'}: {get}"


def cpu() -> Found | None:
    """The OpenCL device that ``virtual:opencl`` stands for: the first CPU device."""
    return next((d for d in devices()[1] if d.kind == "cpu"), None)


def _ask() -> str | list[dict[str, str]]:
    library = None
    for name in _LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    if library is None:
        return "there is no OpenCL library (libOpenCL.so.1)"
    count = ctypes.c_uint32(0)
    platforms = (ctypes.c_void_p * 16)()
    if library.clGetPlatformIDs(16, platforms, ctypes.byref(count)) != 0 or count.value == 0:
        return "there is no OpenCL platform"
    found = []
    for platform in platforms[: min(count.value, 16)]:
        for kind, code in (("cpu", _CPU), ("gpu", _GPU)):
            ids, n = (ctypes.c_void_p * 16)(), ctypes.c_uint32(0)
            failed = library.clGetDeviceIDs(
                ctypes.c_void_p(platform), ctypes.c_uint64(code), 16, ids, ctypes.byref(n)
            )
            for device in [] if failed else ids[: min(n.value, 16)]:
                texts = {
                    key: _text(library.clGetDeviceInfo, device, what)
                    for key, what in (
                        ("name", _DEVICE_NAME),
                        ("version", _DEVICE_VERSION),
                        ("driver", _DRIVER_VERSION),
                    )
                }
                name = _text(library.clGetPlatformInfo, platform, _PLATFORM_NAME)
                found.append({"platform": name, "kind": kind, **texts})
    return found


def _text(function: object, handle: int | None, what: int) -> str:
    buffer = ctypes.create_string_buffer(1024)
    function(ctypes.c_void_p(handle), what, ctypes.c_size_t(1023), buffer, None)  # type: ignore[operator]
    return buffer.value.decode("utf-8", "replace").strip()


if __name__ == "__main__":
    print(json.dumps(_ask()))
