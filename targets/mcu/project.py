"""The standalone C project of an artifact, and the programs built from it.

Layout below the artifact folder::

    include/edgekit_model.h      the interface
    src/edgekit_model.c          layers and memory; src/edgekit_weights.{c,h}: constants
    kernels/...                  the kernels used, and their headers, nothing else
    runtime/...                  what runs it on a virtual device (not needed in a product), with
                                 the linker script it was linked by
    CMakeLists.txt, README.txt
    firmware.elf, firmware_trace.elf  (host: runner, runner_trace)
"""

from __future__ import annotations

import re
import shutil
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import ToolchainError
from edgekit.graph.ir import Graph

from .codegen import Source
from .config import LINK_MAPS, LinkMap, McuTarget, Region
from .contract import KernelCall
from .memory import Plan
from .objects import compile_units
from .toolchain import OPTIMIZE_FLAGS, Compiler, Optimize, Unit, gcc_flags, runtime_library

RUNTIME = Path(__file__).parent / "runtime"
STACK_REGION = 16 * 1024  #: bytes of stack that virtual firmware gets, painted at the start
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
_INCLUDES = ("include", "src", "kernels/include")


#: What the test program needs on a microcontroller, and what the serial firmware has besides
#: (``edgekit export --as mlperf-tiny`` builds it).
_BARE_METAL = ("io_semihosting.c", "startup.c", "ek_rt.c")
_SERIAL = ("serial.c", "ek_board.h", "board_mps2.c", "clock_systick.c")


def kernels_dir() -> Path:
    """The folder of the C kernels (the installed package ``edgekit_kernels``)."""
    import edgekit_kernels

    return Path(next(iter(edgekit_kernels.__path__)))


@dataclass(frozen=True)
class Project:
    """files: everything written, relative and sorted. sources: C files of the model library."""

    files: tuple[str, ...]
    sources: tuple[str, ...]


def write_project(
    out: Path,
    graph: Graph,
    calls: Mapping[str, KernelCall],
    source: Source,
    target: McuTarget,
    optimize: Optimize = "balanced",
) -> Project:
    """Write the C project below ``out``."""
    root = kernels_dir()
    kernels = sorted({s for call in calls.values() for s in call.sources})
    named = {h for c in calls.values() for h in (c.header, *c.more_headers)}
    headers = _headers(root, kernels, sorted(named))
    files: dict[str, str] = {
        "include/edgekit_model.h": source.header,
        "src/edgekit_model.c": source.model,
        "src/edgekit_weights.h": source.weights_header,
        "src/edgekit_weights.c": source.weights,
    }
    for name in kernels:
        files[f"kernels/{name}"] = (root / name).read_text("utf-8")
    for name in headers:
        files[f"kernels/include/{name}"] = (root / "include" / name).read_text("utf-8")
    runtime = ["runner.c", "ek_io.h"]
    runtime += ["io_host.c"] if target.is_host else [*_BARE_METAL, *_SERIAL]
    for name in runtime:
        files[f"runtime/{name}"] = (RUNTIME / name).read_text("utf-8")
    if not target.is_host:  # in a folder of its own: only freestanding builds look there
        files["runtime/include/string.h"] = (RUNTIME / "string.h").read_text("utf-8")
    sources = [
        "src/edgekit_model.c",
        "src/edgekit_weights.c",
        *(f"kernels/{k}" for k in kernels if k.endswith((".c", ".S"))),
    ]
    files["CMakeLists.txt"] = _template(
        "CMakeLists.txt.in",
        sources="\n  ".join(sources),
        languages="C ASM" if any(s.endswith(".S") for s in sources) else "C",
        optimize=OPTIMIZE_FLAGS[optimize],
    )
    files["README.txt"] = _readme(graph, target, OPTIMIZE_FLAGS[optimize])
    for name, text in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8", newline="\n")
    return Project(tuple(sorted(files)), tuple(sources))


def _headers(root: Path, sources: Sequence[str], first: Sequence[str]) -> list[str]:
    """The closure of quoted includes, all in ``include/``."""
    todo, found = list(first), set()
    for s in sources:
        todo += _INCLUDE.findall((root / s).read_text("utf-8"))
    while todo:
        name = todo.pop()
        if name in found:
            continue
        path = root / "include" / name
        if not path.is_file():
            raise ToolchainError(f"kernel header '{name}' is not in {root / 'include'}")
        found.add(name)
        todo += _INCLUDE.findall(path.read_text("utf-8"))
    return sorted(found)


class _Template(string.Template):
    idpattern = r"(?a:[a-z_]+)"


def _template(name: str, **values: str) -> str:
    return _Template((RUNTIME / name).read_text("utf-8")).safe_substitute(values)


def _readme(graph: Graph, target: McuTarget, optimize: str) -> str:
    ins = "\n".join(
        f"  input {k}: {t.dtype}{list(t.shape)} '{t.name}'"
        for k, t in enumerate(graph.tensor(i) for i in graph.inputs)
    )
    outs = "\n".join(
        f"  output {k}: {t.dtype}{list(t.shape)} '{t.name}'"
        for k, t in enumerate(graph.tensor(o) for o in graph.outputs)
    )
    flags = "" if target.toolchain is None else " ".join(gcc_flags(target.toolchain))
    if target.process is not None:
        flags = f"-mcpu={str(target.target.toolchain['cpu']).replace('_', '-')}"
    return _template(
        "README.txt.in",
        model=graph.name,
        target=f"{target.target.name} ({target.target.board})",
        values=f"{ins}\n{outs}",
        flags=flags or "(none needed)",
        optimize=optimize,
    )


def link_script(link_map: LinkMap, const_bytes: int, code_bytes: int, ram_bytes: int) -> str:
    """The linker script for given sizes (estimates: code_bytes with room for the runner)."""
    near = code_bytes + const_bytes <= link_map.code.size
    const = Region(link_map.code.base, link_map.code.size) if near else link_map.far_rodata
    ram = link_map.ram if ram_bytes + STACK_REGION <= link_map.ram.size else link_map.far_ram
    return _template(
        "link.ld",
        code_base=hex(link_map.code.base),
        code_size=hex(link_map.code.size),
        const_base=hex(const.base),
        const_size=hex(const.size),
        const_region="CODE" if near else "CONST",
        ram_base=hex(ram.base),
        ram_size=hex(ram.size),
        stack_size=str(STACK_REGION),
    )


@dataclass(frozen=True)
class Sizes:
    """Bytes in a linked firmware. code: instructions and vectors; constants: read-only data and the
    initial values of .data; static_ram: .data and .bss (the arena included)."""

    code: int
    constants: int
    static_ram: int

    @property
    def flash(self) -> int:
        return self.code + self.constants


def read_sizes(elf: Path) -> Sizes:
    """Section sizes of a firmware built by :func:`build_firmware`."""
    from elftools.elf.elffile import ELFFile

    with elf.open("rb") as f:
        sizes = {s.name: s["sh_size"] for s in ELFFile(f).iter_sections()}
    data = sizes.get(".data", 0)
    return Sizes(
        code=sizes.get(".text", 0),
        constants=sizes.get(".rodata", 0) + data,
        static_ram=data + sizes.get(".bss", 0),
    )


def _alloc_bytes(path: Path) -> int:
    """Bytes of an object file that end up in flash: code and read-only data."""
    from elftools.elf.constants import SH_FLAGS
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as f:
        return sum(
            s["sh_size"] for s in ELFFile(f).iter_sections() if s["sh_flags"] & SH_FLAGS.SHF_ALLOC
        )


def _kernel_bytes(out: Path, project: Project, object_bytes: dict[str, int]) -> None:
    """Code and tables of each kernel's object file, by its C source relative to ``kernels/``."""
    for source in project.sources:
        if source.startswith("kernels/"):
            size = _alloc_bytes(out / f"build/{source}.o")
            object_bytes[source.removeprefix("kernels/")] = size


def build_firmware(
    out: Path,
    project: Project,
    plan: Plan,
    const_bytes: int,
    target: McuTarget,
    compiler: Compiler,
    optimize: Optimize,
    object_bytes: dict[str, int] | None = None,
) -> list[str]:
    """Compile and link ``firmware.elf`` and ``firmware_trace.elf`` in ``out``; the names of the
    new files: these two first, then the linker script. Programs under an operating system are built
    by :func:`build_host`.

    object_bytes: where given, only ``firmware.elf`` is made, and the code and tables of each
    kernel's object file are written into it (C source relative to ``kernels/`` -> bytes).
    """
    if target.is_host:
        return build_host(out, project, compiler, optimize, object_bytes)
    assert target.virtual is not None and target.toolchain is not None
    freestanding = ("runtime/include", *_INCLUDES)
    units = [
        *(Unit(s, f"build/{s}.o") for s in project.sources),
        Unit("runtime/io_semihosting.c", "build/io.o", flags=("-Os",)),
        Unit("runtime/startup.c", "build/startup.o", flags=("-Os",)),
        Unit("runtime/ek_rt.c", "build/ek_rt.o", flags=_RT_FLAGS[compiler.name]),
        *_twice("runtime/runner.c"),
        Unit("src/edgekit_model.c", "build/model_trace.o", ("EDGEKIT_TRACE",)),
    ]
    if object_bytes is not None:
        units = [u for u in units if "EDGEKIT_TRACE" not in u.defines]
    headers = [f for f in project.files if f.startswith("kernels/include/")]
    headers.append("runtime/include/string.h")
    compile_units(out, units, freestanding, compiler, optimize, headers)
    if object_bytes is not None:
        _kernel_bytes(out, project, object_bytes)
    script = link_script(
        LINK_MAPS[target.virtual.map], const_bytes, 96 * 1024, plan.arena_bytes + 1024
    )
    (out / "runtime/link.ld").write_text(script, "utf-8", newline="\n")
    common = [
        "build/startup.o",
        "build/io.o",
        "build/ek_rt.o",
        *(f"build/{s}.o" for s in project.sources if s != "src/edgekit_model.c"),
    ]
    names = []
    for name, own in (
        ("firmware.elf", ["build/runner.o", "build/src/edgekit_model.c.o"]),
        ("firmware_trace.elf", ["build/runner_trace.o", "build/model_trace.o"]),
    ):
        if object_bytes is not None and name != "firmware.elf":
            continue
        objects = [*own, *common]
        flags = ("-T", "runtime/link.ld")
        try:
            compiler.link_program(out, objects, name, flags)
        except ToolchainError as e:
            # Software floating point and 64-bit division are the only things we do not bring.
            if compiler.name != "zig" or "undefined symbol: __aeabi" not in getattr(e, "log", ""):
                raise
            library = runtime_library(target.toolchain)
            shutil.copyfile(library, out / "build" / "libcompiler_rt.a")
            compiler.link_program(out, [*objects, "build/libcompiler_rt.a"], name, flags)
        names.append(name)
    shutil.rmtree(out / "build")
    return [*names, "runtime/link.ld"]


def build_serial(folder: Path, target: McuTarget, compiler: Compiler, optimize: Optimize) -> Path:
    """Compile and link ``firmware.elf`` with the serial protocol (``runtime/serial.c``) from the sources
    in ``folder``; model and kernels compiled as in :func:`build_firmware`."""
    assert target.toolchain is not None
    model = sorted(
        p.relative_to(folder).as_posix()
        for d in ("src", "kernels")
        for p in (folder / d).rglob("*.[cS]")
        if p.name != "layers.c"
    )
    no_calls = _RT_FLAGS[compiler.name]
    units = [
        *(Unit(s, f"build/{s}.o") for s in model),
        Unit("src/layers.c", "build/layers.o", flags=("-Os",)),
        Unit("runtime/board_mps2.c", "build/board.o", flags=("-Os",)),
        Unit("runtime/startup.c", "build/startup.o", flags=("-Os",)),
        Unit("runtime/serial.c", "build/serial.o", flags=("-Os", *no_calls)),
        Unit("runtime/clock_systick.c", "build/clock.o", flags=("-Os",)),
        Unit("runtime/ek_rt.c", "build/ek_rt.o", flags=no_calls),
    ]
    compiler.compile(folder, units, ("runtime/include", "runtime", *_INCLUDES), optimize)
    objects = [u.object for u in units]
    if compiler.name == "zig":  # 64-bit division is not in ek_rt.c
        library = runtime_library(target.toolchain)
        shutil.copyfile(library, folder / "build" / "libcompiler_rt.a")
        objects.append("build/libcompiler_rt.a")
    compiler.link_program(folder, objects, "firmware.elf", ("-T", "runtime/link.ld"))
    shutil.rmtree(folder / "build")
    return folder / "firmware.elf"


_RT_FLAGS = {
    "zig": ("-fno-builtin", "-Os"),
    "gcc": ("-fno-builtin", "-fno-tree-loop-distribute-patterns", "-Os"),
}


def _twice(source: str, *defines: str) -> list[Unit]:
    return [
        Unit(source, "build/runner.o", defines, ("-Os",)),
        Unit(source, "build/runner_trace.o", (*defines, "EDGEKIT_TRACE"), ("-Os",)),
    ]


def build_host(
    out: Path,
    project: Project,
    compiler: Compiler,
    optimize: Optimize,
    object_bytes: dict[str, int] | None = None,
) -> list[str]:
    """Compile and link ``runner`` and ``runner_trace`` for this machine in ``out``; their names.

    object_bytes: as for :func:`build_firmware`; only ``runner`` is made then.
    """
    units = [
        *(Unit(s, f"build/{s}.o") for s in project.sources),
        Unit("runtime/io_host.c", "build/io.o", ("EK_HOST",)),
        *_twice("runtime/runner.c", "EK_HOST"),
        Unit("src/edgekit_model.c", "build/model_trace.o", ("EDGEKIT_TRACE",)),
    ]
    if object_bytes is not None:
        units = [u for u in units if "EDGEKIT_TRACE" not in u.defines]
    compiler.compile(out, units, _INCLUDES, optimize)
    if object_bytes is not None:
        _kernel_bytes(out, project, object_bytes)
    common = [
        "build/io.o",
        *(f"build/{s}.o" for s in project.sources if s != "src/edgekit_model.c"),
    ]
    for name, own in (
        ("runner", ["build/runner.o", "build/src/edgekit_model.c.o"]),
        ("runner_trace", ["build/runner_trace.o", "build/model_trace.o"]),
    ):
        if object_bytes is None or name == "runner":
            compiler.link_program(out, [*own, *common], name)
    shutil.rmtree(out / "build")
    return ["runner"] if object_bytes is not None else ["runner", "runner_trace"]
