"""Runs lowered kernel calls on ``virtual:aarch64``: all cases in one static program and one start.

Every buffer ends where memory ends (behind it lies a page that cannot be touched) and begins behind
guard bytes, so a read or write outside of it ends the program or is reported. Each case's call is a
section of the trace: its instructions are exact.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from dsp_harness import Case, render

from edgekit.devices.base import RunRequest
from edgekit.devices.registry import open_device
from edgekit.targets import get_target
from edgekit.targets.schema import Target
from edgekit_targets.mcu.project import kernels_dir
from edgekit_targets.mcu.toolchain import Compiler, Unit, process_compiler

GCC = "aarch64-linux-gnu-gcc"

_MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
typedef void (*fn)(const int8_t *, const int8_t *, int8_t *, void *);
typedef struct {
  fn run;
  int32_t (*scratch)(void);
  size_t in[2], out, scratch_bytes;
  int inplace;
} entry;
static const entry table[] = {
@TABLE@
};
enum { GUARD = 64, PAGE = 4096 };
typedef struct { uint8_t *base, *data; size_t map, bytes; } buffer;
static buffer make(size_t bytes, size_t align) {
  buffer b;
  const size_t room = (bytes + align - 1) / align * align;
  b.map = (room + GUARD + PAGE - 1) / PAGE * PAGE + PAGE;
  b.bytes = bytes;
  b.base = mmap(NULL, b.map, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (b.base == MAP_FAILED || mprotect(b.base + b.map - PAGE, PAGE, PROT_NONE)) exit(5);
  memset(b.base, 0x5a, b.map - PAGE);
  b.data = b.base + b.map - PAGE - room;
  return b;
}
static int drop(buffer b) {
  int bad = 0;
  for (uint8_t *p = b.base; p < b.data; ++p) bad |= *p != 0x5a;
  for (uint8_t *p = b.data + b.bytes; p < b.base + b.map - PAGE; ++p) bad |= *p != 0x5a;
  munmap(b.base, b.map);
  return bad;
}
void ek_pause(void);
__attribute__((noinline)) void ek_pause(void) { __asm__ volatile(""); }
int main(void) {
  FILE *f = fopen("cases.bin", "rb");
  for (size_t i = 0; i < sizeof table / sizeof table[0]; ++i) {
    const entry *e = &table[i];
    buffer in[2], own = make(e->out, 1), scratch = make(e->scratch_bytes, 16);
    uint8_t *want = malloc(e->out);
    for (int k = 0; k < 2; ++k) {
      in[k] = make(e->in[k], 1);
      if (e->in[k] && fread(in[k].data, 1, e->in[k], f) != e->in[k]) return 3;
    }
    if (fread(want, 1, e->out, f) != e->out) return 3;
    uint8_t *out = e->inplace < 0 ? own.data : in[e->inplace].data;
    fprintf(stderr, "%d\n", (int)i);
    e->run((int8_t *)in[0].data, (int8_t *)in[1].data, (int8_t *)out, scratch.data);
    ek_pause();
    int bad = memcmp(out, want, e->out) != 0;
    bad |= e->scratch() != (int32_t)e->scratch_bytes;
    bad |= drop(in[0]) | drop(in[1]) | drop(own) | drop(scratch);
    if (bad) printf("%d\n", (int)i);
    free(want);
  }
  printf("end\n");
  return 0;
}
"""


def a76() -> Target:
    """A core with dot products."""
    return get_target("cortex-a76")


def gcc_compiler(cpu: str) -> Compiler:
    """Debian's cross compiler with the flags of :func:`process_compiler`."""
    like = process_compiler("aarch64-linux-musl", cpu)
    flags = [f for f in like.flags if not f.startswith(("--target", "-mcpu", "-fno-sanitize"))]
    core = f"-mcpu={cpu.replace('_', '-')}"
    return replace(
        like, name="gcc", cc=(GCC,), link=(GCC,), flags=(core, *flags), link_flags=("-static",)
    )


@dataclass(frozen=True)
class NeonRun:
    """wrong: indices of cases whose bytes, or the bytes around them, are not as expected.
    instructions: of each case's call, empty where the emulator counts nothing."""

    wrong: tuple[int, ...]
    instructions: tuple[int, ...]
    functions: dict[str, int]


def run_neon(
    cases: Sequence[Case],
    expected: Sequence[np.ndarray],
    folder: Path,
    target: Target | None = None,
    compiler: str = "zig",
    optimize: str = "balanced",
    trace: bool = False,
) -> NeonRun:
    """Build the cases for ``target`` and run them on its virtual device."""
    target = target or a76()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(kernels_dir() / "include", folder / "include", dirs_exist_ok=True)
    sources = sorted({s for c in cases for s in c.call.sources})
    for s in sources:
        (folder / s).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kernels_dir() / s, folder / s)
    table, data = [], []
    for i, (case, want) in enumerate(zip(cases, expected, strict=True)):
        sizes = [x.nbytes for x in case.inputs] + [0] * (2 - len(case.inputs))
        data += [np.ascontiguousarray(x).tobytes() for x in case.inputs]
        data.append(np.ascontiguousarray(want).tobytes())
        table.append(
            f"  {{case_{i}, scratch_{i}, {{{sizes[0]}, {sizes[1]}}}, {case.out_bytes}, "
            f"{case.call.scratch_bytes}, {-1 if case.inplace is None else case.inplace}}},"
        )
    main = _MAIN.replace("@TABLE@", "\n".join(table))
    (folder / "cases.c").write_text("#define _DEFAULT_SOURCE 1\n" + render(cases) + main)
    (folder / "cases.bin").write_bytes(b"".join(data))
    cpu = str(target.toolchain["cpu"])
    build = process_compiler("aarch64-linux-musl", cpu) if compiler == "zig" else gcc_compiler(cpu)
    units = [*(Unit(s, f"{s}.o") for s in sources), Unit("cases.c", "cases.o", flags=("-O1",))]
    build.compile(folder, units, (".", "include"), optimize)  # type: ignore[arg-type]
    build.link_program(folder, ["cases.o", *(f"{s}.o" for s in sources)], "cases")
    names = tuple(f"case_{i}" for i in range(len(cases)))
    sections = (*names, "ek_pause")
    with open_device("virtual:aarch64", target=target) as device:
        device.push(folder / "cases", "cases")
        device.push(folder / "cases.bin", "cases.bin")
        result = device.run(
            RunRequest("cases", (), 600.0, trace=trace, sections=sections if trace else ())
        )
    lines = result.stdout.split()
    assert lines and lines[-1] == "end", (result.exit_code, result.stderr.split()[-1:])
    counts = {s.name: s.instructions for s in result.trace.sections} if result.trace else {}
    return NeonRun(
        tuple(int(x) for x in lines[:-1]),
        tuple(counts[n] for n in names) if counts else (),
        {f.name: f.instructions for f in result.trace.functions} if result.trace else {},
    )
