"""Runs lowered kernel calls on QEMU's Cortex-M55: all cases in one firmware and one start.

Inputs and expected outputs are constants of the firmware, which compares on its own, checks the
bytes around each buffer, and prints the numbers of the cases that differ. Each case's call is a
section of the trace: its instructions are exact, its cycles estimated.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from dsp_harness import Case, render

from edgekit.devices.base import RunRequest
from edgekit.devices.registry import open_device
from edgekit.targets import get_target
from edgekit.targets.schema import Target
from edgekit_targets.mcu.config import LINK_MAPS, parse
from edgekit_targets.mcu.project import _RT_FLAGS, RUNTIME, kernels_dir, link_script
from edgekit_targets.mcu.toolchain import Unit, arm_compiler

GUARD = 32


def m55() -> Target:
    """The generic Cortex-M55 with Helium."""
    return get_target("cortex-m55")


@dataclass(frozen=True)
class M55Result:
    """instructions: of the case's call, the calling wrapper included. cycles: estimated."""

    instructions: int
    cycles: int


@dataclass(frozen=True)
class M55Run:
    """wrong: indices of cases whose bytes, or the bytes around them, are not as expected."""

    wrong: tuple[int, ...]
    results: tuple[M55Result, ...]
    functions: dict[str, tuple[int, int]]
    sizes: dict[str, int]


_MAIN = r"""
#include <string.h>
#include "ek_io.h"
typedef void (*fn)(const int8_t *, const int8_t *, int8_t *, void *);
typedef struct {
  fn run;
  int32_t (*scratch)(void);
  const int8_t *in[2];
  uint32_t in_bytes[2];
  const int8_t *expected;
  uint32_t out_bytes, scratch_bytes;
  int inplace;
} entry;
static const entry table[] = {
@TABLE@
};
static uint8_t pool[@POOL@] __attribute__((aligned(16)));
void ek_pause(void);
__attribute__((noinline)) void ek_pause(void) { __asm__ volatile(""); }
static uint8_t *place(uint8_t **at, uint32_t bytes) {
  memset(*at, 0x5a, @GUARD@);
  uint8_t *p = *at + @GUARD@;
  *at = (uint8_t *)(((uintptr_t)p + bytes + 7) & ~(uintptr_t)7);
  memset(p + bytes, 0x5a, (size_t)(*at - (p + bytes)) + @GUARD@);
  return p;
}
static int broken(const uint8_t *p, uint32_t bytes) {
  int bad = 0;
  for (uint32_t i = 0; i < @GUARD@; ++i) bad |= p[-1 - (int32_t)i] != 0x5a;
  for (uint32_t i = 0; i < @GUARD@; ++i) bad |= p[bytes + i] != 0x5a;
  return bad;
}
static int check(const entry *e) {
  uint8_t *at = pool, *in[2], *out, *s;
  for (int i = 0; i < 2; ++i) {
    in[i] = place(&at, e->in_bytes[i]);
    if (e->in_bytes[i]) memcpy(in[i], e->in[i], e->in_bytes[i]);
  }
  out = e->inplace < 0 ? place(&at, e->out_bytes) : in[e->inplace];
  s = place(&at, e->scratch_bytes);
  memset(s, 0xa5, e->scratch_bytes);
  e->run((int8_t *)in[0], (int8_t *)in[1], (int8_t *)out, s);
  ek_pause();
  int bad = e->scratch() != (int32_t)e->scratch_bytes;
  for (uint32_t i = 0; i < e->out_bytes; ++i) bad |= (int8_t)out[i] != e->expected[i];
  bad |= broken(in[0], e->in_bytes[0]) | broken(in[1], e->in_bytes[1]);
  return bad | broken(out, e->out_bytes) | broken(s, e->scratch_bytes);
}
int ek_run(int argc, char **argv) {
  (void)argc;
  (void)argv;
  for (uint32_t i = 0; i < sizeof table / sizeof table[0]; ++i) {
    if (check(&table[i])) {
      char text[12] = "\n";
      char *p = text + 10;
      uint32_t n = i;
      *--p = '\n';
      do { *--p = (char)('0' + n % 10); n /= 10; } while (n);
      ek_io_print(p);
    }
  }
  ek_io_print("end\n");
  return 0;
}
"""


def _bytes(name: str, data: np.ndarray) -> str:
    body = ",".join(map(str, np.ascontiguousarray(data).reshape(-1).view(np.int8).tolist()))
    return f"static const int8_t {name}[] __attribute__((aligned(8))) = {{{body}}};"


def run_m55(
    cases: Sequence[Case],
    expected: Sequence[np.ndarray],
    folder: Path,
    compiler: str = "zig",
    optimize: str = "speed",
    timing: bool = True,
) -> M55Run:
    """Build and run the cases. timing: count instructions and estimate cycles a case."""
    from elftools.elf.elffile import ELFFile

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("startup.c", "io_semihosting.c", "ek_io.h", "ek_rt.c", "string.h"):
        shutil.copyfile(RUNTIME / name, folder / name)
    shutil.copytree(kernels_dir() / "include", folder / "include", dirs_exist_ok=True)
    sources = sorted({s for c in cases for s in c.call.sources})
    for s in sources:
        (folder / s).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kernels_dir() / s, folder / s)
    data, table, most = [], [], 0
    for i, (case, want) in enumerate(zip(cases, expected, strict=True)):
        sizes = [x.nbytes for x in case.inputs] + [0] * (2 - len(case.inputs))
        data += [_bytes(f"in{i}_{j}", x) for j, x in enumerate(case.inputs)]
        data.append(_bytes(f"want{i}", want.astype(np.int8)))
        second = f"in{i}_1" if len(case.inputs) > 1 else "0"
        table.append(
            f"  {{case_{i}, scratch_{i}, {{in{i}_0, {second}}}, {{{sizes[0]}, {sizes[1]}}}, "
            f"want{i}, {case.out_bytes}, {case.call.scratch_bytes}, "
            f"{-1 if case.inplace is None else case.inplace}}},"
        )
        most = max(most, sum(sizes) + case.out_bytes + case.call.scratch_bytes + 16 * GUARD)
    main = _MAIN.replace("@TABLE@", "\n".join(table)).replace("@POOL@", str(most))
    text = render(cases) + "\n".join(data) + main.replace("@GUARD@", str(GUARD))
    (folder / "cases.c").write_text(text)
    target = parse(m55())
    assert target.toolchain is not None and target.virtual is not None
    cc = arm_compiler(target.toolchain, compiler)
    units = [
        *(Unit(s, f"{s}.o") for s in sources),
        Unit("cases.c", "cases.o"),
        Unit("startup.c", "startup.o", flags=("-Os",)),
        Unit("io_semihosting.c", "io.o", flags=("-Os",)),
        Unit("ek_rt.c", "rt.o", flags=_RT_FLAGS[compiler]),
    ]
    cc.compile(folder, units, (".", "include"), optimize)  # type: ignore[arg-type]
    const = sum(c.data.nbytes for case in cases for c in case.call.consts)
    const += sum(x.nbytes for c in cases for x in c.inputs) + sum(map(len, expected))
    script = link_script(LINK_MAPS[target.virtual.map], const + 65536, 128 * 1024, most)
    (folder / "link.ld").write_text(script)
    objects = ["startup.o", "cases.o", "io.o", "rt.o", *(f"{s}.o" for s in sources)]
    cc.link_program(folder, objects, "cases.elf", ("-T", "link.ld"))
    with (folder / "cases.elf").open("rb") as f:
        symbols = list(ELFFile(f).get_section_by_name(".symtab").iter_symbols())
    sizes_of = {s.name: s["st_size"] for s in symbols if s["st_info"]["type"] == "STT_FUNC"}
    names = tuple(f"case_{i}" for i in range(len(cases))) if timing else ()
    with open_device("virtual:cortex-m55") as device:
        device.push(folder / "cases.elf", "cases.elf")
        sections = (*names, "ek_pause") if timing else ()
        result = device.run(RunRequest("cases.elf", (), 300.0, trace=timing, sections=sections))
    lines = result.stdout.split()
    assert lines and lines[-1] == "end", (result.stdout, result.stderr)
    counts = {s.name: s for s in result.trace.sections} if result.trace else {}
    functions = (
        {f.name: (f.instructions, f.cycles or 0) for f in result.trace.functions}
        if result.trace
        else {}
    )
    return M55Run(
        wrong=tuple(int(x) for x in lines[:-1]),
        results=tuple(M55Result(counts[n].instructions, counts[n].cycles or 0) for n in names),
        functions=functions,
        sizes=sizes_of,
    )
