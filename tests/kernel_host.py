"""Runs lowered kernel calls on the host, away from any generated project.

Many single-node graphs become one C program: each lowered :class:`KernelCall` is emitted as the
code generator does it (constants, parameters, the call), the program reads the samples from a file
and writes the outputs to another. Two builds:

* ``sanitize=True``: address and undefined-behaviour sanitizers, every buffer exactly as large as
  the tensor, so that one byte read or written beyond is an error;
* ``sanitize=False``: optimised, 64 guard bytes around every buffer, checked after every call.

Both check that the C function's own ``*_scratch_bytes`` is what the lowering said, that inputs are
left alone, and that each in-place form that the lowering offers gives the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from edgekit.graph import reference
from edgekit.graph.ir import Graph, Tensor
from edgekit.targets.schema import Core, Memory, Target
from edgekit_kernels import include_dir, reference_sources, source_root
from edgekit_targets.mcu import variants
from edgekit_targets.mcu.contract import KernelCall

CTYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "bool": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "float32": "float",
}

WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")
SANITIZE = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
OPTIMIZE = ("-O2", "-DGUARD=64")


def plain_core() -> Target:
    """A core without any extension: only the portable variants take anything."""
    return Target(
        name="plain",
        family="mcu",
        description="Cortex-M0+",
        board="none",
        source="test",
        cores=(Core(name="cortex-m0plus", isa="armv6-m", count=1, clock_hz=1),),
        memories=(Memory(name="flash", role="flash", size=1 << 20, wait_states=0),),
    )


@dataclass
class Case:
    """A graph of one node, samples for it, and the call that runs it.

    inputs: as :func:`edgekit.graph.reference.run` takes them. call: None: what ``select`` picks.
    """

    graph: Graph
    inputs: Sequence[np.ndarray]
    call: KernelCall | None = None

    def lowered(self) -> KernelCall:
        if self.call is None:
            node, target = self.graph.nodes[0], plain_core()
            self.call = variants.select(node, self.graph, target).lower(node, self.graph, target)
        return self.call

    @property
    def samples(self) -> int:
        return len(self.inputs[0]) if len(self.inputs) else 1

    def expected(self) -> list[np.ndarray]:
        """The reference's outputs, each ``[samples, ...]``."""
        values = reference.run(self.graph, list(self.inputs))
        return [values[o] for o in self.graph.outputs]


def _literals(data: np.ndarray) -> str:
    if data.dtype == np.float32:
        return ", ".join(f"{float(v).hex()}f" for v in data)
    return ", ".join("INT32_MIN" if int(v) == -(2**31) else str(int(v)) for v in data)


def _array(ctype: str, name: str, data: np.ndarray, align: int) -> str:
    flat = np.ascontiguousarray(data).reshape(-1)
    return f"static const {ctype} {name}[] __attribute__((aligned({align}))) = {{ {_literals(flat)} }};"


def _scratch_function(call: KernelCall) -> str | None:
    """The name of the call's ``*_scratch_bytes``, where its header declares one."""
    found = re.findall(r"\b(ek_\w+)\(", call.call)
    assert found, f"no kernel call in {call.call!r}"
    name = f"{found[-1]}_scratch_bytes"  # what comes before it only unpacks
    return name if name in (include_dir() / call.header).read_text() else None


def _activations(graph: Graph) -> list[tuple[int, Tensor]]:
    """(position, tensor) of the node's inputs that are graph inputs, in graph-input order."""
    node = graph.nodes[0]
    return [(node.inputs.index(name), graph.tensor(name)) for name in graph.inputs]


def emit(index: int, case: Case) -> str:
    """Constants, parameters and ``run_<index>(in, out, scratch)`` of one case."""
    graph, call = case.graph, case.lowered()
    node = graph.nodes[0]
    lines: list[str] = []
    names = {}
    for c in call.consts:
        names[c.name] = f"k{index}_{c.name}"
        assert f"{c.data.dtype}_t" == c.ctype, (c.name, c.data.dtype, c.ctype)
        lines.append(_array(c.ctype, names[c.name], c.data, max(c.align, 4)))
    fields: dict[str, object] = {"c": SimpleNamespace(**names), "scratch": "scratch"}
    if call.params is not None:
        text = re.sub(r"\{c\.(\w+)\}", lambda m: names[m.group(1)], call.params)
        lines.append(f"static const {call.params_type} p{index} = {text};")
        fields["p"] = f"p{index}"
    slots = {position: slot for slot, (position, _) in enumerate(_activations(graph))}
    for position, t in enumerate(graph.ins(node)):
        if t is None or f"{{in{position}}}" not in call.call:
            continue
        ctype = CTYPES[t.dtype]
        if t.data is not None:
            lines.append(_array(ctype, f"k{index}_in{position}", t.data, 8))
            fields[f"in{position}"] = f"k{index}_in{position}"
        else:
            slot = slots.get(position)
            slot = slots[node.inputs.index(t.name)] if slot is None else slot
            fields[f"in{position}"] = f"((const {ctype} *)in[{slot}])"
    for k, t in enumerate(graph.outs(node)):
        fields[f"out{k}"] = f"(({CTYPES[t.dtype]} *)out[{k}])"
    lines.append(
        f"static void run_{index}(const void *const *in, void *const *out, void *scratch) {{\n"
        f"  (void)in; (void)out; (void)scratch;\n  {call.call.format(**fields)}\n}}"
    )
    function = _scratch_function(call)
    size = "0" if function is None else f"{function}({'&' + str(fields['p'])})"
    if "inner_scratch" in call.details:
        size += f" + {call.scratch_bytes - int(str(call.details['inner_scratch']))}"
    lines.append(f"static int32_t scratch_{index}(void) {{ return {size}; }}")
    return "\n".join(lines)


_MAIN = r"""
#include <stdio.h>
#include <stdlib.h>
#ifndef GUARD
#define GUARD 0
#endif
typedef void (*run_fn)(const void *const *, void *const *, void *);
typedef struct {
  run_fn run; int32_t (*scratch)(void); int32_t scratch_bytes;
  int samples, inputs, outputs; const size_t *in_bytes, *out_bytes;
  int pairs; const int *pair;
} entry;
static const entry table[] = {
@TABLE@
};
static int id;
static void fail(const char *what) { fprintf(stderr, "case %d: %s\n", id, what); exit(4); }
static unsigned char *get(size_t n) {
  unsigned char *p = malloc(n + 2 * GUARD + (n + GUARD == 0));
  if (!p) exit(5);
  memset(p, 0xA5, n + 2 * GUARD);
  return p + GUARD;
}
static void put(unsigned char *p, size_t n, const char *what) {
  (void)n;
  for (int i = 0; i < GUARD; ++i) {
    if (p[-1 - i] != 0xA5 || p[n + (size_t)i] != 0xA5) fail(what);
  }
  free(p - GUARD);
}
static void call(const entry *e, unsigned char **in, unsigned char **out) {
  unsigned char *scratch = e->scratch_bytes ? get((size_t)e->scratch_bytes) : NULL;
  e->run((const void *const *)in, (void *const *)out, scratch);
  if (scratch) put(scratch, (size_t)e->scratch_bytes, "wrote beyond its scratch");
}
int main(int argc, char **argv) {
  FILE *fin = fopen(argv[1], "rb"), *fout = fopen(argv[2], "wb");
  (void)argc;
  if (!fin || !fout) return 2;
  for (id = 0; id < (int)(sizeof table / sizeof table[0]); ++id) {
    const entry *e = &table[id];
    if (e->scratch() != e->scratch_bytes) fail("scratch size differs from the lowering's");
    for (int s = 0; s < e->samples; ++s) {
      unsigned char *in[8], *copy[8], *out[64];
      for (int i = 0; i < e->inputs; ++i) {
        in[i] = get(e->in_bytes[i]);
        copy[i] = get(e->in_bytes[i]);
        if (fread(in[i], 1, e->in_bytes[i], fin) != e->in_bytes[i]) return 3;
        memcpy(copy[i], in[i], e->in_bytes[i]);
      }
      for (int o = 0; o < e->outputs; ++o) out[o] = get(e->out_bytes[o]);
      call(e, in, out);
      for (int i = 0; i < e->inputs; ++i) {
        if (memcmp(in[i], copy[i], e->in_bytes[i])) fail("wrote to an input");
      }
      for (int o = 0; o < e->outputs; ++o) fwrite(out[o], 1, e->out_bytes[o], fout);
      for (int k = 0; k < e->pairs; ++k) {
        const int i = e->pair[2 * k], o = e->pair[2 * k + 1];
        unsigned char *keep_in = in[i], *keep_out = out[o];
        const size_t n = e->in_bytes[i] > e->out_bytes[o] ? e->in_bytes[i] : e->out_bytes[o];
        unsigned char *both = get(n);
        memcpy(both, copy[i], e->in_bytes[i]);
        in[i] = out[o] = both;
        call(e, in, out);
        if (memcmp(both, keep_out, e->out_bytes[o])) fail("in place gives other bytes");
        put(both, n, "wrote beyond a buffer in place");
        in[i] = keep_in;
        out[o] = keep_out;
      }
      for (int o = 0; o < e->outputs; ++o) put(out[o], e->out_bytes[o], "wrote beyond an output");
      for (int i = 0; i < e->inputs; ++i) {
        put(in[i], e->in_bytes[i], "wrote beyond an input");
        put(copy[i], e->in_bytes[i], "wrote to a copy");
      }
    }
  }
  return fclose(fout) || fclose(fin);
}
"""


def program(cases: Sequence[Case]) -> str:
    """The whole C program of the cases."""
    parts = ["#include <stddef.h>", "#include <stdint.h>", "#include <string.h>"]
    calls = [c.lowered() for c in cases]
    headers = {h for call in calls for h in (call.header, *call.more_headers)}
    parts += [f'#include "{h}"' for h in sorted(headers)]
    table = []
    for i, case in enumerate(cases):
        parts.append(emit(i, case))
        call, graph = case.lowered(), case.graph
        ins = [t.nbytes for _, t in _activations(graph)]
        outs = [t.nbytes for t in graph.outs(graph.nodes[0])]
        slots = {position: slot for slot, (position, _) in enumerate(_activations(graph))}
        pairs = [(slots[a], b) for a, b in call.inplace if a in slots]
        for name, values in (("ib", ins), ("ob", outs)):
            body = ", ".join(map(str, values or [0]))
            parts.append(f"static const size_t {name}{i}[] = {{ {body} }};")
        flat = ", ".join(f"{a}, {b}" for a, b in pairs) or "0, 0"
        parts.append(f"static const int pr{i}[] = {{ {flat} }};")
        table.append(
            f"  {{ run_{i}, scratch_{i}, {call.scratch_bytes}, {case.samples}, {len(ins)}, "
            f"{len(outs)}, ib{i}, ob{i}, {len(pairs)}, pr{i} }},"
        )
    return "\n".join(parts) + _MAIN.replace("@TABLE@", "\n".join(table))


def _cc(*args: object) -> None:
    done = subprocess.run(
        [os.environ.get("CC", "cc"), *map(str, args)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


def kernel_objects(sources: Sequence[str], flags: Sequence[str]) -> list[Path]:
    """Object files of the kernels, each built once per content of sources, headers and flags."""
    headers = b"".join(h.read_bytes() for h in sorted(include_dir().glob("*.h")))
    cache = Path(tempfile.gettempdir()) / f"edgekit-kernel-objects-{os.getuid()}"
    cache.mkdir(exist_ok=True)
    objects = []
    for source in sources:
        path = source_root() / source
        digest = hashlib.sha256(
            b"\0".join([path.read_bytes(), headers, " ".join(flags).encode()])
        ).hexdigest()[:32]
        target = cache / f"{digest}.o"
        if not target.exists():
            part = cache / f"{digest}.{os.getpid()}.o"
            _cc(*WARNINGS, *flags, f"-I{include_dir()}", "-c", path, "-o", part)
            os.replace(part, target)
        objects.append(target)
    return objects


def run_cases(
    cases: Sequence[Case], folder: Path, *, sanitize: bool = True
) -> list[list[np.ndarray]]:
    """Outputs of every case, each ``[samples, ...]`` as ``reference.run`` shapes them.

    AssertionError with the compiler's or the sanitizer's words where anything is wrong.
    """
    flags = SANITIZE if sanitize else OPTIMIZE
    sources = sorted({s for c in cases for s in c.lowered().sources})
    objects = kernel_objects(sources, flags)
    (folder / "cases.c").write_text(program(cases))
    binary = folder / "cases"
    # the cases themselves are data and calls: unoptimised, they compile much faster
    quick = [f for f in flags if not f.startswith("-O")] + ["-O0"]
    includes = f"-I{include_dir()}"
    _cc(*WARNINGS, *quick, includes, "-o", binary, folder / "cases.c", *objects)
    with (folder / "in.bin").open("wb") as f:
        for case in cases:
            for s in range(case.samples):
                for x in case.inputs:
                    f.write(np.ascontiguousarray(x[s]).tobytes())
    done = subprocess.run(
        [str(binary), str(folder / "in.bin"), str(folder / "out.bin")],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    if done.returncode:
        which = re.search(r"case (\d+)|run_(\d+)", done.stderr)
        hint = ""
        if which:
            case = cases[int(which.group(1) or which.group(2))]
            hint = f"\n{case.graph.nodes[0]} {case.lowered().params}"
        raise AssertionError(f"exit {done.returncode}: {done.stderr[-3000:]}{hint}")
    data = (folder / "out.bin").read_bytes()
    at = 0
    results: list[list[np.ndarray]] = []
    for case in cases:
        tensors = [case.graph.tensor(o) for o in case.graph.outputs]
        outs: list[list[np.ndarray]] = [[] for _ in tensors]
        for _ in range(case.samples):
            for k, t in enumerate(tensors):
                part = np.frombuffer(data, np.dtype(t.dtype), t.elements, at)
                outs[k].append(part.reshape(t.shape))
                at += t.nbytes
        results.append(
            [
                np.stack(o).reshape(reference.sample_shape(t, len(o)))
                for o, t in zip(outs, tensors, strict=True)
            ]
        )
    assert at == len(data)
    return results


def run_call(
    graph: Graph, inputs: Sequence[np.ndarray], folder: Path, *, sanitize: bool = True
) -> list[np.ndarray]:
    """Outputs of one single-node graph by the portable kernel that ``select`` picks."""
    return run_cases([Case(graph, inputs)], folder, sanitize=sanitize)[0]


def check(cases: Sequence[Case], folder: Path, *, sanitize: bool = True) -> None:
    """Every case's bytes are the reference's."""
    for case, got in zip(cases, run_cases(cases, folder, sanitize=sanitize), strict=True):
        for o, (mine, theirs) in enumerate(zip(got, case.expected(), strict=True)):
            if mine.tobytes() == theirs.tobytes():
                continue
            wrong = np.argwhere(mine != theirs)
            at = tuple(wrong[0]) if len(wrong) else ()
            raise AssertionError(
                f"{case.graph.nodes[0]} by {case.lowered().variant}: output {o}, {len(wrong)} of "
                f"{mine.size} values differ, first at {at}: {mine[at]} for {theirs[at]}\n"
                f"{case.lowered().params}"
            )


def all_reference_sources() -> list[str]:
    """Every portable kernel, relative to ``kernels/``."""
    return [f"ref/{p.name}" for p in reference_sources()]
