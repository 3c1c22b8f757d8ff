"""The private folder that a program on a local or virtual device sees as its working folder."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path, PurePosixPath

from edgekit.errors import DeviceError, InputError


class Sandbox:
    """A temporary folder with ``push``, ``pull`` and a path check; removed by ``close``."""

    def __init__(self) -> None:
        self._path: Path | None = Path(tempfile.mkdtemp(prefix="edgekit-device-"))
        # Also when nobody calls close: at garbage collection, or when the process ends.
        self._remove = weakref.finalize(self, shutil.rmtree, self._path, ignore_errors=True)

    @property
    def path(self) -> Path:
        if self._path is None:
            raise DeviceError("the device has been closed; open it again to use it")
        return self._path

    def resolve(self, remote: str) -> Path:
        """The local path of ``remote``; InputError when it would lie outside of the folder."""
        pure = PurePosixPath(remote)
        if not remote or "\0" in remote or pure.is_absolute() or ".." in pure.parts:
            raise InputError(
                f"the device path '{remote}' is not inside the device's folder; "
                "give a relative path without '..'"
            )
        path = self.path / Path(*pure.parts)
        root = self.path.resolve()
        if not path.resolve().is_relative_to(root):
            raise InputError(f"the device path '{remote}' leads out of the device's folder")
        return path

    def push(self, local: Path, remote: str) -> None:
        path = self.resolve(remote)
        local = Path(local)
        if not local.is_file():
            raise InputError(f"the file '{local}' to push does not exist or is not a plain file")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(local, path)
        if os.access(local, os.X_OK):
            path.chmod(0o700)

    def push_bytes(self, data: bytes, remote: str) -> None:
        path = self.resolve(remote)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def pull(self, remote: str) -> bytes:
        path = self.resolve(remote)
        if not path.is_file():
            raise DeviceError(f"the device has no file '{remote}'")
        return path.read_bytes()

    def close(self) -> None:
        self._remove()
        self._path = None
