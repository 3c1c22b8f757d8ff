"""Object files of kernels, kept: they depend on source, headers, compiler and flags only, and one model's
kernels are mostly the next one's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .toolchain import OPTIMIZE_FLAGS, Compiler, Optimize, Unit

_FORMAT = b"1"
_DIGEST = 32  #: bytes in front of a kept object, so that a damaged one is seen


def compile_units(
    folder: Path,
    units: Sequence[Unit],
    includes: Sequence[str],
    compiler: Compiler,
    optimize: Optimize,
    headers: Sequence[str],
) -> None:
    """:meth:`Compiler.compile`, but kernels (sources below ``kernels/``) that were compiled before
    are copied. headers: closure of the kernels' includes, relative to ``folder``."""
    store = _folder()
    if store is None:
        compiler.compile(folder, units, includes, optimize)
        return
    shared = hashlib.sha256(_FORMAT)
    shared.update(repr((compiler.name, compiler.version, compiler.flags)).encode())
    shared.update(repr((OPTIMIZE_FLAGS[optimize], tuple(includes))).encode())
    texts = {name: (folder / name).read_bytes() for name in headers}
    missing: list[Unit] = []
    made: dict[Unit, Path] = {}
    for unit in units:
        if not unit.source.startswith("kernels/"):
            missing.append(unit)
            continue
        digest = shared.copy()
        digest.update(repr((unit.source, unit.defines, unit.flags)).encode())
        source = (folder / unit.source).read_bytes()
        digest.update(source)
        for name in _reached(source, texts):
            digest.update(name.encode() + b"\0" + texts[name])
        path = store / f"{digest.hexdigest()[:40]}.o"
        content = _load(path)
        if content is None:
            missing.append(unit)
            made[unit] = path
        else:
            (folder / unit.object).parent.mkdir(parents=True, exist_ok=True)
            (folder / unit.object).write_bytes(content)
    compiler.compile(folder, missing, includes, optimize)
    for unit, path in made.items():
        _save(path, (folder / unit.object).read_bytes())


def _reached(source: bytes, texts: dict[str, bytes]) -> list[str]:
    """Headers whose names the source, or a header it reaches, mentions in quotes; and all that are
    not the kernels' own."""
    found = {n for n in texts if not n.startswith("kernels/")}
    todo = [source]
    while todo:
        text = todo.pop()
        for name, content in texts.items():
            if name not in found and b'"' + name.rpartition("/")[2].encode() + b'"' in text:
                found.add(name)
                todo.append(content)
    return sorted(found)


def _folder() -> Path | None:
    from edgekit.devices.native.build import cache_dir

    try:
        return cache_dir().parent / "kernel-objects"
    except OSError:
        return None


def _load(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    content = data[_DIGEST:]
    return content if hashlib.sha256(content).digest() == data[:_DIGEST] else None


def _save(path: Path, content: bytes) -> None:
    """A folder that cannot be written only costs time."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        with os.fdopen(fd, "wb") as f:
            f.write(hashlib.sha256(content).digest() + content)
        os.replace(temporary, path)
