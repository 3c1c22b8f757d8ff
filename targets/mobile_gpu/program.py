"""The runner: a small C program, built by zig for 64-bit Arm under Linux and Android, and for this machine.

Android needs no NDK: the program's few library functions are declared in ``bionic.h`` and linked
against empty stand-ins for ``libc.so`` and ``libdl.so``, which the phone replaces by its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekit.errors import ToolchainError
from edgekit_targets.mcu.toolchain import cache_dir
from edgekit_targets.tvm_ import zig

RUNTIME = Path(__file__).resolve().parent / "runtime"
LINUX, ANDROID = "runner_linux", "runner_android"
_FLAGS = ["-std=c11", "-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-s", "-Wl,--build-id=none"]
_LIBC = (
    "fopen fread fwrite fclose fseek ftell printf calloc free memset memcpy strcmp strtoul "
    "clock_gettime __libc_init"
)
_LIBDL = "dlopen dlsym"
#: Pages of newer phones; a multiple of older ones'.
_PAGE = 16384


def why_missing() -> str | None:
    """Why no runner can be built here, or None."""
    if importlib.util.find_spec("ziglang") is None:
        return "the Python package ziglang is missing: pip install ziglang"
    return None


def _zig_version() -> str:
    try:
        return version("ziglang")
    except PackageNotFoundError:
        return ""


def tools() -> dict[str, str]:
    return {"ziglang": _zig_version()}


def for_target() -> dict[str, bytes]:
    """Program name -> its bytes, for 64-bit Arm; the same bytes every time."""
    return {LINUX: _built("aarch64-linux-gnu.2.28"), ANDROID: _built("aarch64-linux-android")}


def for_host() -> bytes:
    """The runner for this machine."""
    return _built(f"{platform.machine()}-linux-gnu.2.28")


def _built(triple: str) -> bytes:
    """Built once for every state of the sources, the compiler and the flags."""
    key = hashlib.sha256(repr((_zig_version(), triple, _FLAGS, _LIBC, _LIBDL, _PAGE)).encode())
    for path in sorted(RUNTIME.iterdir()):
        key.update(path.read_bytes())
    kept = cache_dir().parent / "edgekit-opencl" / key.hexdigest()[:32]
    if kept.is_file():
        return kept.read_bytes()
    with tempfile.TemporaryDirectory(prefix="edgekit-opencl-") as folder:
        work = Path(folder)
        for path in RUNTIME.iterdir():
            shutil.copyfile(path, work / path.name)
        if triple.endswith("android"):
            _android(work, triple)
        else:
            arguments = ["-target", triple, *_FLAGS, "-o", "runner", "runner.c", "plan.c", "-ldl"]
            zig.run(arguments, "building the OpenCL runner", work)
        data = (work / "runner").read_bytes()
    _keep(kept, data)
    return data


def _keep(path: Path, data: bytes) -> None:
    """Into the cache, where it can be written."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


def _android(work: Path, triple: str) -> None:
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise ToolchainError("building the OpenCL runner needs ziglang: pip install ziglang")
    headers = Path(found.origin).parent / "lib" / "include"  # stddef.h, stdint.h
    what = "building the OpenCL runner for Android"
    for name, functions in (("libc", _LIBC), ("libdl", _LIBDL)):
        (work / f"{name}.c").write_text(
            "".join(f"void {f}(void);\nvoid {f}(void) {{}}\n" for f in functions.split()), "ascii"
        )
        stand_in = ["-target", triple, "-w", "-fno-builtin", "-shared", "-nostdlib"]
        stand_in += [f"-Wl,-soname,{name}.so", "-o", f"{name}.so", f"{name}.c"]
        zig.run(stand_in, what, work)
    zig.run(
        [
            "-target",
            triple,
            *_FLAGS,
            "-DEDGEKIT_ANDROID",
            "-fno-builtin",  # printf stays printf
            "-fPIE",
            "-nostdinc",
            "-isystem",
            str(headers),
            "-nostdlib",
            "-pie",
            "-Wl,-dynamic-linker,/system/bin/linker64",
            "-Wl,-e,_start",
            f"-Wl,-z,max-page-size={_PAGE}",
            "-o",
            "runner",
            "start_android.c",
            "runner.c",
            "plan.c",
            "libc.so",
            "libdl.so",
        ],
        what,
        work,
    )
