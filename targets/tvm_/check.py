"""Is TVM usable here? Answered from package metadata: importing TVM takes seconds, and some
combinations of versions crash."""

from __future__ import annotations

from importlib import metadata

from edgekit.errors import ToolchainError

TESTED_TVM = "0.27.0.post1"
TESTED_FFI = "0.1.14.post1"
_GOOD_FFI = frozenset({"0.1.14.post0", "0.1.14.post1"})


def version(package: str) -> str | None:
    """The installed version of a distribution, None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def why_not() -> str | None:
    """None where TVM can be used, else one sentence: what is wrong and what would be accepted."""
    tvm, ffi = version("apache-tvm"), version("apache-tvm-ffi")
    if tvm is None or ffi is None:
        return "the tvm engine needs Apache TVM, which is not installed: pip install 'edgekit[tvm]'"
    if tvm != TESTED_TVM:
        return (
            f"apache-tvm {tvm} is installed, whose code generator's interfaces differ; "
            f"apache-tvm=={TESTED_TVM} is needed: pip install 'edgekit[tvm]'"
        )
    if ffi not in _GOOD_FFI:
        return (
            f"apache-tvm-ffi {ffi} is installed, with which apache-tvm {tvm} is known to crash; "
            f"apache-tvm-ffi=={TESTED_FFI} is needed: pip install 'edgekit[tvm]'"
        )
    return None


def require() -> None:
    """ToolchainError with that sentence where TVM cannot be used."""
    reason = why_not()
    if reason is not None:
        raise ToolchainError(reason)


def tools() -> dict[str, str]:
    """Tool -> version, for manifests and tuning records."""
    require()
    return {
        "apache-tvm": version("apache-tvm") or "",
        "apache-tvm-ffi": version("apache-tvm-ffi") or "",
    }
