"""TVM's runtime libraries for the machine where a model runs: from the installed packages, or from
the same versions' packages for another machine, fetched once by pip."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgekit.errors import ToolchainError
from edgekit_targets.tvm_ import check

LIBRARIES = ("libtvm_runtime.so", "libtvm_ffi.so")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux2014")


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)  # does not import it
    if found is None or not found.submodule_search_locations:
        check.require()
        raise ToolchainError(f"the Python package {name} has no folder; reinstall 'edgekit[tvm]'")
    return Path(found.submodule_search_locations[0])


def headers() -> Path:
    """The folder with ``tvm/ffi/c_api.h``."""
    return _package("tvm_ffi") / "include"


def _cache(arch: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    tools = check.tools()
    return Path(base) / "edgekit" / f"tvm-{tools['apache-tvm']}-{tools['apache-tvm-ffi']}-{arch}"


def _download(arch: str, place: Path) -> None:
    tools = check.tools()
    with tempfile.TemporaryDirectory() as name:
        wanted = [f"{k}=={v}" for k, v in tools.items()]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", name]
        command += ["--only-binary=:all:", "--python-version", "3.11"]
        command += [x for p in _PLATFORMS for x in ("--platform", f"{p}_{arch}")]
        try:
            done = subprocess.run(
                [*command, *wanted],
                capture_output=True,
                timeout=600,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            failed = done.returncode != 0
        except (OSError, subprocess.TimeoutExpired):
            failed = True
        if failed:
            raise ToolchainError(
                f"TVM's runtime libraries for {arch} could not be fetched ({' '.join(wanted)}); set "
                f"EDGEKIT_TVM_RUNTIME to a folder with {' and '.join(LIBRARIES)} for {arch}"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=place.parent))
        for wheel in sorted(Path(name).glob("*.whl")):
            with zipfile.ZipFile(wheel) as z:
                for entry in z.namelist():
                    if Path(entry).name in LIBRARIES:
                        (fresh / Path(entry).name).write_bytes(z.read(entry))
        missing = [x for x in LIBRARIES if not (fresh / x).is_file()]
        if missing:
            shutil.rmtree(fresh)
            raise ToolchainError(f"TVM's packages for {arch} do not hold {', '.join(missing)}")
        try:
            fresh.rename(place)
        except OSError:  # somebody else was faster
            shutil.rmtree(fresh, ignore_errors=True)


def libraries(arch: str) -> list[Path]:
    """Paths of the libraries for ``x86_64`` or ``aarch64``; ToolchainError says what is missing."""
    import platform

    given = os.environ.get("EDGEKIT_TVM_RUNTIME")
    if arch == platform.machine():
        found = [_package("tvm") / "lib" / LIBRARIES[0], _package("tvm_ffi") / "lib" / LIBRARIES[1]]
    else:
        place = Path(given) if given else _cache(arch)
        if not given and not all((place / x).is_file() for x in LIBRARIES):
            _download(arch, place)
        found = [place / x for x in LIBRARIES]
    for path in found:
        if not path.is_file():
            raise ToolchainError(f"TVM's runtime library {path.name} for {arch} is missing")
    return found
