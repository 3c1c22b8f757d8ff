"""The portable kernels build everywhere, need nothing but memcpy and memset, and keep no state."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit_kernels import include_dir, reference_sources, source_root

WARNINGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-ffreestanding", f"-I{include_dir()}"]

#: Symbols of the compiler's own support library (64-bit and float arithmetic, switch tables).
RUNTIME = ("__aeabi_", "__gnu_thumb1_case_", "__udivmoddi4", "__divdi3", "__udivdi3", "__muldi3")
LIBC = {"memcpy", "memset"}

ZIG_CORES = ["cortex_m0plus", "cortex_m3", "cortex_m4", "cortex_m7", "cortex_m33", "cortex_m55"]
GCC_CORES = [c.replace("_", "-") for c in ZIG_CORES]


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{' '.join(command[:6])} ...: {done.stderr[-3000:]}"
    return done.stdout


def _shim(folder: Path) -> str:
    """A ``string.h`` for compilers that come without a C library."""
    (folder / "string.h").write_text(
        "#include <stddef.h>\nvoid *memcpy(void *restrict, const void *restrict, size_t);\n"
        "void *memset(void *, int, size_t);\n"
    )
    return f"-I{folder}"


def _check_objects(folder: Path) -> None:
    """No undefined symbol but memcpy, memset, the compiler's own; no data that can be written."""
    objects = sorted(folder.glob("*.o"))
    assert len(objects) == len(reference_sources())
    nm = shutil.which("arm-none-eabi-nm") or "nm"
    for o in objects:
        for line in _run([nm, str(o)], folder).splitlines():
            kind, name = line.split()[-2:]
            if kind == "U":
                assert name in LIBC or name.startswith(RUNTIME), f"{o.name} needs {name}"
            assert kind not in "BbDdC", f"{o.name} has writable data: {name}"
            assert kind != "T" or name.startswith("ek_"), f"{o.name} exports {name}"


def _arm_gcc(core: str, folder: Path, opt: str) -> None:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    sources = [str(s) for s in reference_sources()]
    command = ["arm-none-eabi-gcc", f"-mcpu={core}", "-mthumb", opt, *WARNINGS, _shim(folder), "-c"]
    _run([*command, *sources], folder)
    _check_objects(folder)


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4"])
def test_gcc(core: str, tmp_path: Path) -> None:
    _arm_gcc(core, tmp_path, "-Os")


@pytest.mark.slow
@pytest.mark.parametrize("opt", ["-O0", "-O2", "-O3"])
@pytest.mark.parametrize("core", GCC_CORES)
def test_gcc_every_core(core: str, opt: str, tmp_path: Path) -> None:
    _arm_gcc(core, tmp_path, opt)


@pytest.mark.slow
@pytest.mark.parametrize("core", ZIG_CORES)
def test_zig_every_core(core: str, tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "thumb-freestanding-eabi"]
    command += [f"-mcpu={core}", "-Os", "-fno-sanitize=undefined", *WARNINGS, _shim(tmp_path), "-c"]
    for source in reference_sources():  # one by one: zig's -c keeps one object of many
        _run([*command, str(source), "-o", f"{source.stem}.o"], tmp_path)
    _check_objects(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("sanitize", ["OFF", "ON"])
def test_cmake_builds_both_libraries(sanitize: str, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    top = source_root().parent
    if not (top / "CMakeLists.txt").is_file():
        pytest.skip("CMakeLists.txt is not installed with the package; this needs a checkout")
    _run(["cmake", "-S", str(top), "-B", "b", f"-DEDGEKIT_SANITIZE={sanitize}"], tmp_path)
    _run(["cmake", "--build", "b"], tmp_path)
    symbols = _run(["nm", "b/libedgekit_kernels.a"], tmp_path)
    for source in reference_sources():
        assert f" T ek_{source.stem}\n" in symbols
    assert (tmp_path / "b" / "libedgekit_kernels.so").is_file()
