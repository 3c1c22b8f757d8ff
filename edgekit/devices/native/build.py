"""Compiles the small native helpers beside this file, once per user and content.

The result is cached under a name that is the hash of the source, the compiler and the flags, and is
put in place atomically: concurrent builds at worst do the same work twice.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from edgekit.errors import ToolchainError

_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror")
_TIMEOUT_S = 120


def find_compiler() -> tuple[str, ...] | None:
    """A host C compiler as an argument list: $CC, cc, gcc, clang, or zig from the Python package."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        path = shutil.which(name) if name and not any(c.isspace() for c in name) else None
        if path:
            return (path,)
    import importlib.util

    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc")
    return None


def cache_dir() -> Path:
    """The user's own cache folder ($EDGEKIT_CACHE, $XDG_CACHE_HOME/edgekit, ~/.cache/edgekit).

    Shared libraries are loaded from it, so a folder that others may write to is not used.
    """
    override = os.environ.get("EDGEKIT_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = (Path(override) if override else base / "edgekit") / "native"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    info = path.stat()
    foreign = hasattr(os, "getuid") and info.st_uid != os.getuid()
    if foreign or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} can be written by other users")
    return path


@functools.cache
def _temporary_cache() -> Path:
    import atexit

    path = Path(tempfile.mkdtemp(prefix="edgekit-native-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def build(source_name: str) -> Path:
    """Path of the shared library built from ``source_name`` in this folder.

    Raises ToolchainError when there is no C compiler, or when it fails.
    """
    source = Path(__file__).with_name(source_name)
    compiler = find_compiler()
    if compiler is None:
        raise ToolchainError(
            f"no C compiler was found to build {source_name}; "
            "install gcc or clang, or the Python package ziglang"
        )
    text = source.read_bytes()
    digest = hashlib.sha256(repr((compiler, _FLAGS, sys.platform)).encode() + text).hexdigest()[:24]
    try:
        folder = cache_dir()
    except OSError:
        folder = _temporary_cache()
    library = folder / f"{source.stem}-{digest}.so"
    if library.is_file():
        return library
    fd, temporary = tempfile.mkstemp(dir=folder, prefix=f".{source.stem}-", suffix=".so")
    os.close(fd)
    try:
        done = subprocess.run(
            [*compiler, *_FLAGS, "-o", temporary, str(source)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise ToolchainError(
                f"{compiler[0]} could not compile {source_name}: {lines[0] if lines else 'no message'}"
            )
        os.replace(temporary, library)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolchainError(f"{compiler[0]} could not be run on {source_name}: {error}") from None
    finally:
        Path(temporary).unlink(missing_ok=True)
    return library
