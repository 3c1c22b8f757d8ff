"""The run-time functions that firmware brings along (``ek_rt.c``), built for this machine."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit_targets.mcu.project import RUNTIME

GCC = shutil.which("gcc")
pytestmark = pytest.mark.skipif(
    GCC is None or platform.machine() not in ("x86_64", "aarch64"),
    reason="needs gcc on a 64-bit little-endian machine",
)


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The functions under other names, with and without unaligned access (``u_``, ``a_``)."""
    folder = tmp_path_factory.mktemp("rt")
    assert GCC is not None
    objects = []
    for prefix, flags in (("u", ["-D__ARM_FEATURE_UNALIGNED"]), ("a", [])):
        names = [f"-D{f}={prefix}_{f}" for f in ("memcpy", "memmove", "memset")]
        obj = folder / f"{prefix}.o"
        # Pretending to be clang for Arm brings in the 64-bit and division helpers, once.
        helpers = ["-D__arm__", "-D__clang__"] if prefix == "a" else []
        command = [
            *(GCC, "-std=c11", "-O2", "-ffreestanding", "-fPIC", "-fno-builtin"),
            *("-fno-tree-loop-distribute-patterns", *flags, *names, *helpers),
            *("-c", str(RUNTIME / "ek_rt.c"), "-o", str(obj)),
        ]
        subprocess.run(command, check=True, timeout=60)
        objects.append(str(obj))
    library = folder / "rt.so"
    subprocess.run([GCC, "-shared", "-nostdlib", *objects, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


offsets = st.integers(0, 9)
lengths = st.one_of(st.integers(0, 20), st.integers(0, 150))


@settings(max_examples=150, deadline=None)
@given(to=offsets, start=offsets, n=lengths, prefix=st.sampled_from("ua"))
def test_memcpy(rt: ctypes.CDLL, to: int, start: int, n: int, prefix: str) -> None:
    source = ctypes.create_string_buffer(bytes(i % 251 for i in range(200)), 200)
    target = ctypes.create_string_buffer(b"\xee" * 200, 200)
    copy = getattr(rt, f"{prefix}_memcpy")
    copy.restype = ctypes.c_void_p
    done = copy(ctypes.byref(target, to), ctypes.byref(source, start), ctypes.c_size_t(n))
    assert done == ctypes.addressof(target) + to
    want = b"\xee" * to + source.raw[start : start + n] + b"\xee" * (200 - to - n)
    assert target.raw == want


@settings(max_examples=150, deadline=None)
@given(to=st.integers(0, 60), start=st.integers(0, 60), n=lengths, prefix=st.sampled_from("ua"))
def test_memmove_within_one_buffer(
    rt: ctypes.CDLL, to: int, start: int, n: int, prefix: str
) -> None:
    raw = bytes(i % 251 for i in range(220))
    buffer = ctypes.create_string_buffer(raw, 220)
    move = getattr(rt, f"{prefix}_memmove")
    move(ctypes.byref(buffer, to), ctypes.byref(buffer, start), ctypes.c_size_t(n))
    assert buffer.raw == raw[:to] + raw[start : start + n] + raw[to + n :]


@settings(max_examples=80, deadline=None)
@given(to=offsets, n=lengths, value=st.integers(-128, 255))
def test_memset(rt: ctypes.CDLL, to: int, n: int, value: int) -> None:
    target = ctypes.create_string_buffer(b"\x11" * 200, 200)
    rt.a_memset(ctypes.byref(target, to), ctypes.c_int(value), ctypes.c_size_t(n))
    assert target.raw == b"\x11" * to + bytes([value & 255]) * n + b"\x11" * (200 - to - n)


u64 = st.integers(0, 2**64 - 1)
s32 = st.integers(-(2**31), 2**31 - 1)


def call(rt: ctypes.CDLL, name: str, restype: object, *args: object) -> int:
    function = getattr(rt, name)
    function.restype = restype
    return int(function(*args))


@settings(max_examples=150, deadline=None)
@given(a=u64, b=u64, n=st.integers(0, 63))
def test_64_bit_helpers(rt: ctypes.CDLL, a: int, b: int, n: int) -> None:
    u, s = ctypes.c_uint64, ctypes.c_int64
    assert call(rt, "__aeabi_lmul", u, u(a), u(b)) == a * b % 2**64
    assert call(rt, "__aeabi_llsl", u, u(a), n) == (a << n) % 2**64
    assert call(rt, "__aeabi_llsr", u, u(a), n) == a >> n
    signed = a - 2**64 if a >> 63 else a
    assert call(rt, "__aeabi_lasr", s, s(signed), n) == signed >> n


@settings(max_examples=200, deadline=None)
@given(n=s32, d=s32.filter(bool))
def test_division_without_a_divider(rt: ctypes.CDLL, n: int, d: int) -> None:
    quotient = abs(n) // abs(d) * (1 if (n < 0) == (d < 0) else -1)
    wrapped = (quotient + 2**31) % 2**32 - 2**31  # INT32_MIN / -1
    assert call(rt, "__aeabi_idiv", ctypes.c_int32, n, d) == wrapped
    both = call(rt, "__aeabi_idivmod", ctypes.c_uint64, n, d)
    assert both == (quotient % 2**32) | ((n - quotient * d) % 2**32) << 32
    un, ud = n % 2**32, d % 2**32
    u = ctypes.c_uint32
    assert call(rt, "__aeabi_uidiv", u, u(un), u(ud)) == un // ud
    assert call(rt, "__aeabi_uidivmod", ctypes.c_uint64, u(un), u(ud)) == un // ud | un % ud << 32
