"""What the code generator must know of a CPU: the LLVM target and how it multiplies bytes.

An *integer dot* is how ``int32 += sum(x[i] * w[i])`` is computed for one vector of output channels:

========= ===== ============== ==============================================================
name      group activations    instruction
========= ===== ============== ==============================================================
vnni      4     uint8 (x+128)  ``vpdpbusd`` (AVX512-VNNI, or AVX-VNNI with 256 bits)
sdot      4     int8           ``sdot`` (Armv8.2-A dot product)
pmaddwd   2     int16          ``vpmaddwd`` and ``vpaddd`` (AVX2, AVX512BW)
widen     1     int16          widening multiply-add as LLVM finds it (Armv8-A: ``smlal``)
========= ===== ============== ==============================================================

All of them give the same 32-bit sums: they are exact, and wrap alike. (``vpdpbusd`` does not
saturate; its saturating sibling is not used.)
"""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.errors import InputError

DotName = Literal["vnni", "sdot", "pmaddwd", "widen"]


@dataclass(frozen=True)
class Dot:
    """An integer dot: channels per lane and step, storage types, offset added to activations."""

    name: DotName
    group: int
    x_dtype: str
    w_dtype: str
    x_offset: int = 0


DOTS: dict[str, Dot] = {
    "vnni": Dot("vnni", 4, "uint8", "int8", 128),
    "sdot": Dot("sdot", 4, "int8", "int8"),
    "pmaddwd": Dot("pmaddwd", 2, "int16", "int16"),
    "widen": Dot("widen", 1, "int16", "int16"),
}


@dataclass(frozen=True)
class CpuTarget:
    """A CPU as LLVM names it. features: ``+dotprod``, ``+avx512vnni``, ...; bits: vector width.

    qemu_cpu: what ``QEMU_CPU`` is pinned to when the code runs under emulation.
    """

    triple: str
    cpu: str
    features: tuple[str, ...] = ()
    bits: int = 128
    dot_name: DotName = "widen"
    qemu_cpu: str | None = None

    @property
    def dot(self) -> Dot:
        return DOTS[self.dot_name]

    @property
    def lanes(self) -> int:
        """32-bit elements of one vector."""
        return self.bits // 32

    @property
    def arch(self) -> str:
        return self.triple.split("-", 1)[0]

    @property
    def vectors(self) -> int:
        """Accumulators that leave registers for operands."""
        return 12 if self.arch == "x86_64" and self.bits < 512 else 24

    @property
    def key(self) -> str:
        """Identifies the generated code's target in records and file names."""
        return "/".join([self.triple, self.cpu, ",".join(sorted(self.features)), str(self.bits)])

    def llvm(self) -> dict[str, object]:
        """The configuration that ``tvm.target.Target`` takes."""
        config: dict[str, object] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.features:
            config["mattr"] = list(self.features)
        return config


#: Arm cores with dot product instructions (Armv8.2-A with FEAT_DotProd, or later).
_ARM_DOTPROD = frozenset(
    {
        *("cortex-a55", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78", "cortex-x1"),
        "neoverse-n1",
    }
)
#: Cores with SVE (Armv9, and Neoverse V1). It, and int8 matrix products, are switched off: the
#: kernels are written for 128-bit vectors and dot products, and the code can then be run under
#: emulation of an older core.
_SVE = frozenset(
    {
        *("cortex-a510", "cortex-a520", "cortex-a710", "cortex-a715", "cortex-a720"),
        *("cortex-x2", "cortex-x3", "cortex-x4", "neoverse-n2", "neoverse-v1"),
        "neoverse-v2",
    }
)
#: What QEMU calls the cores it models; the others are run as the nearest one with their features.
_QEMU = {"cortex-a53": "cortex-a53", "cortex-a55": "cortex-a76", "cortex-a72": "cortex-a72"}


def aarch64(cpu: str, features: Iterable[str] = ()) -> CpuTarget:
    """An Arm core by LLVM's name. features: LLVM's, with or without ``+``; added to the core's own.

    QEMU runs cores that it does not model as Cortex-A76 where they have dot products (its A55 is
    newer than some distributions), else as Cortex-A53.
    """
    wanted = [f if f[:1] in "+-" else f"+{f}" for f in features]
    if cpu in _SVE:
        wanted += [f for f in ("-sve", "-sve2", "-i8mm") if f"+{f[1:]}" not in wanted]
    has_dot = (cpu in _ARM_DOTPROD | _SVE or "+dotprod" in wanted) and "-dotprod" not in wanted
    if has_dot and "+dotprod" not in wanted:
        wanted.append("+dotprod")
    if "+neon" not in wanted:
        wanted.insert(0, "+neon")
    qemu = _QEMU.get(cpu, "cortex-a76" if has_dot else "cortex-a53")
    return CpuTarget(
        "aarch64-linux-gnu",
        cpu,
        tuple(dict.fromkeys(wanted)),
        128,
        "sdot" if has_dot else "widen",
        qemu,
    )


def x86_64(features: Iterable[str], cpu: str | None = None) -> CpuTarget:
    """An x86-64 CPU from feature names (LLVM's ``avx512vnni`` or Linux's ``avx512_vnni``).

    The LLVM cpu defaults to the micro-architecture level that the features reach; extensions beyond
    it are named. InputError without SSE4.1-class hardware is not possible here: the level below
    AVX2 is plain x86-64-v2.
    """
    has = {f.lstrip("+").replace("_", "").lower() for f in features if not f.startswith("-")}
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= has:
        vnni = "avx512vnni" in has
        return CpuTarget(
            "x86_64-linux-gnu",
            cpu or "x86-64-v4",
            ("+avx512vnni",) if vnni else (),
            512,
            "vnni" if vnni else "pmaddwd",
        )
    if "avx2" in has and "fma" in has:
        vnni = "avxvnni" in has
        return CpuTarget(
            "x86_64-linux-gnu",
            cpu or "x86-64-v3",
            ("+avxvnni",) if vnni else (),
            256,
            "vnni" if vnni else "pmaddwd",
        )
    return CpuTarget("x86_64-linux-gnu", cpu or "x86-64-v2", (), 128, "widen")


def host() -> CpuTarget:
    """This machine's CPU; InputError where it is neither x86-64 nor aarch64 Linux."""
    machine = platform.machine().lower()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags: set[str] = set()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            flags.update(value.split())
            break
    if machine in ("x86_64", "amd64"):
        return x86_64(flags)
    if machine in ("aarch64", "arm64"):
        return aarch64("generic", ["dotprod"] if "asimddp" in flags else [])
    raise InputError(f"the host is {machine}; TVM code is generated for x86_64 and aarch64")
