"""A Python for ``virtual:aarch64``: 64-bit Arm Debian packages and wheels in a folder of their own.

    python -m edgekit.devices.aarch64_python

makes it once (apt-get and pip, about 170 MB, no root rights) in the user's cache, or in the folder
that $EDGEKIT_AARCH64_PYTHON names. It holds Python 3.11, numpy and ai-edge-litert 2.1.6: later
versions of LiteRT crash under user-mode emulation.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EdgekitError, ToolchainError

MAKE_IT = "python -m edgekit.devices.aarch64_python"
_PYTHON = "python3.11"
WHEELS = ("ai-edge-litert==2.1.6", "numpy==2.2.6")
_PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libstdc++6",
    "libgcc-s1", "zlib1g", "libexpat1", "libffi8", "libssl3", "libbz2-1.0", "liblzma5", "libuuid1",
    "libcrypt1",
)  # fmt: skip
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
_TIMEOUT_S = 600


def place() -> Path:
    """Where the root is, or would be made."""
    given = os.environ.get("EDGEKIT_AARCH64_PYTHON")
    if given:
        return Path(given)
    cache = os.environ.get("EDGEKIT_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(cache) if cache else base / "edgekit") / "aarch64-python"


def find() -> Path | None:
    """The root folder, or None when it has not been made."""
    root = place()
    return root if (root / "complete").is_file() else None


def command(root: Path) -> tuple[list[str], dict[str, str]]:
    """(options of the emulator and the interpreter's path, environment)."""
    environment = {
        "PYTHONPATH": str(root / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return ["-L", str(root), str(root / "usr/bin" / _PYTHON)], environment


def has(module: str) -> bool:
    """Whether the root holds an importable ``module``."""
    root = find()
    return root is not None and (root / "site" / module).is_dir()


def make(root: Path) -> None:
    """Make the root; ToolchainError in one sentence when a step fails. Replaces nothing."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise ToolchainError(f"{tool} is missing: the Arm root is made from Debian packages")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".aarch64-", dir=root.parent) as scratch:
        work = Path(scratch)
        new = work / "root"
        new.mkdir()
        for package in _download(work):
            _run(["dpkg-deb", "-x", str(package), str(new)], work, f"unpacking {package.name}")
        platforms = [x for p in _PLATFORMS for x in ("--platform", p)]
        pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pip += ["--python-version", "3.11", "--implementation", "cp", "--only-binary=:all:"]
        pip += [*platforms, "--target", str(new / "site"), *WHEELS]
        _run(pip, work, f"installing {' and '.join(WHEELS)} for aarch64")
        (new / "complete").write_text(" ".join(WHEELS) + "\n")
        os.replace(new, root)


def _download(work: Path) -> list[Path]:
    """Debian packages, fetched with an apt state of their own: the system's is not touched."""
    state, debs = work / "apt", work / "debs"
    for folder in (state / "lists/partial", state / "cache/archives/partial", debs):
        folder.mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    lines = [f'{k} "{v}";' for k, v in settings.items()]
    config = work / "apt.conf"
    config.write_text("\n".join([*lines, 'APT::Architectures { "arm64"; };']) + "\n")
    environment = {**os.environ, "APT_CONFIG": str(config)}
    _run(["apt-get", "update", "-qq"], debs, "asking for Debian's package lists", environment)
    _run(["apt-get", "download", "-qq", *_PACKAGES], debs, "fetching packages", environment)
    return sorted(debs.glob("*.deb"))


def _run(
    command: Sequence[str], folder: Path, what: str, environment: dict[str, str] | None = None
) -> None:
    try:
        done = subprocess.run(
            list(command),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ToolchainError(f"{what} failed: {e}") from None
    if done.returncode:
        lines = [x for x in (done.stderr + done.stdout).splitlines() if x.strip()]
        raise ToolchainError(f"{what} failed: {lines[-1] if lines else 'no message'}")


def main() -> int:
    root = place()
    if find() is None:
        try:
            make(root)
        except (EdgekitError, OSError) as e:
            sys.stderr.write(f"edgekit: {e}\n")
            return 2
    print(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
