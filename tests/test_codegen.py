"""The generated C project: standalone, deterministic, clean, and without hidden needs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mcu_case import compile_to, samples, small_net

from edgekit.artifact import Artifact
from edgekit.graph import reference
from edgekit.graph.ir import Graph, Tensor
from edgekit.targets import get_target
from edgekit_targets.mcu import codegen, variants
from edgekit_targets.mcu.contract import ConstArray, KernelCall
from edgekit_targets.mcu.memory import plan_memory

CC = shutil.which("gcc") or shutil.which("cc")
needs_cc = pytest.mark.skipif(CC is None, reason="no C compiler for this machine on PATH")


def generate(graph: Graph, target: str = "cortex-m4") -> codegen.Source:
    t = get_target(target)
    calls = {n.name: variants.select(n, graph, t).lower(n, graph, t) for n in graph.nodes}
    return codegen.generate(graph, calls, plan_memory(graph, calls))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The small network compiled for this machine: portable kernels."""
    return compile_to(tmp_path_factory.mktemp("codegen") / "out", small_net(), "host")


def c_sources(project: Artifact) -> list[str]:
    names = [n for n in project.manifest["files"] if n.endswith(".c")]
    return [n for n in names if not n.startswith("runtime/")]


def cc(project: Artifact, *args: str, cwd: Path | None = None) -> str:
    assert CC is not None
    includes = [f"-I{project.path / d}" for d in ("include", "src", "kernels/include", "runtime")]
    done = subprocess.run(
        [CC, "-std=c11", "-Wall", "-Wextra", "-Werror", *includes, *args],
        cwd=cwd or project.path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_graph_gives_the_same_text() -> None:
    assert generate(small_net()) == generate(small_net())


def test_one_symbol_a_layer_and_none_for_aliases() -> None:
    graph = small_net()
    source = generate(graph)
    assert len(source.layers) == len(graph.nodes)
    for k, (node, symbol) in enumerate(zip(graph.nodes, source.layers, strict=True)):
        if symbol is None:
            assert node.type == "RESHAPE"
        else:
            assert symbol == f"edgekit_layer_{k:03d}_{node.type.lower()}"
            assert source.model.count(f"  {symbol}();") == 1
    assert None in source.layers


def test_names_from_the_model_cannot_break_the_source() -> None:
    text = generate(small_net()).model
    comments = re.findall(r"/\* .* \*/$", text, re.MULTILINE)
    assert any("evil * / #error /" in c for c in comments)
    assert "ü" not in text and "#error" not in re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def toy(calls: dict[str, KernelCall], dtype: str = "int8") -> codegen.Source:
    g = Graph("toy", {k: Tensor(k, (4,), dtype) for k in "abc"}, [], ("a",), ("c",))
    g.add_node("RELU", ["a"], ["b"], name="n0")
    g.add_node("RELU", ["b"], ["c"], name="n1")
    return codegen.generate(g, calls, plan_memory(g, calls))


def toy_call(
    *consts: ConstArray, params: str = "{ .n = 4 }", text: str = "f(&{p}, {in0}, {out0});"
):
    return KernelCall("f", (), "ek_common.h", text, "ek_toy", params, consts)


def test_equal_constants_and_parameters_are_stored_once() -> None:
    w = ConstArray("w", "int8_t", np.arange(8, dtype=np.int8))
    aligned = ConstArray("w", "int8_t", np.arange(8, dtype=np.int8), align=16)
    other = ConstArray("w", "uint8_t", np.arange(8, dtype=np.uint8))
    source = toy({"n0": toy_call(w), "n1": toy_call(aligned, other)})
    assert source.weights.count("0,1,2,3,4,5,6,7,") == 2  # int8_t once, uint8_t once
    assert "_Alignas(16) const int8_t edgekit_c000_w[8]" in source.weights
    assert source.const_bytes == (8, 8)
    assert source.model.count("static const ek_toy") == 1


def test_extreme_constants_are_valid_c() -> None:
    big = ConstArray("b", "int32_t", np.array([-(2**31), 2**31 - 1], np.int64))
    source = toy({"n0": toy_call(big), "n1": toy_call()})
    assert "INT32_MIN,2147483647," in source.weights


def test_faulty_lowerings_are_named() -> None:
    wide = ConstArray("w", "int8_t", np.array([300]))
    with pytest.raises(ValueError, match="does not fit int8_t"):
        toy({"n0": toy_call(wide), "n1": toy_call()})
    with pytest.raises(ValueError, match="kernel f of node 'n0': bad call"):
        toy({"n0": toy_call(text="f({in7});"), "n1": toy_call()})


def test_placeholders_in_parameters() -> None:
    w = ConstArray("w", "int8_t", np.arange(8, dtype=np.int8))
    source = toy({"n0": toy_call(w, params="{ .w = {c.w}, .d = { 1, 2 } }"), "n1": toy_call()})
    assert "static const ek_toy p000 = { .w = edgekit_c000_w, .d = { 1, 2 } };" in source.model


def test_only_what_is_used_is_in_the_project(project: Artifact) -> None:
    files = project.manifest["files"]
    kernels = {n for n in files if n.startswith("kernels/") and n.endswith(".c")}
    used = {r["variant"] for r in project.manifest["plan"]}
    assert "kernels/ref/transpose_conv_s8_gather_ref.c" not in kernels
    assert any(f"kernels/ref/{v}.c" in kernels for v in used)
    assert str(Path.cwd()) not in "".join(
        (project.path / n).read_text("utf-8") for n in files if n.endswith((".c", ".h", ".txt"))
    )


@needs_cc
def test_it_needs_nothing_but_memcpy_and_memset(project: Artifact, tmp_path: Path) -> None:
    objects = []
    for k, name in enumerate(c_sources(project)):
        obj = tmp_path / f"{k}.o"
        cc(project, "-O2", "-ffreestanding", "-fno-stack-protector", "-c", name, "-o", str(obj))
        objects.append(str(obj))
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is not installed")
    out = subprocess.run([nm, *objects], capture_output=True, text=True, check=True).stdout
    defined = set(re.findall(r" [TRDBtrdb] (\w+)", out))
    undefined = set(re.findall(r" U (\w+)", out)) - defined
    assert undefined <= {"memcpy", "memset", "memmove", "_GLOBAL_OFFSET_TABLE_"}


@needs_cc
def test_the_header_describes_the_model_to_a_program(project: Artifact, tmp_path: Path) -> None:
    """A product's own main with its own arena, under the address and undefined sanitizers."""
    graph = small_net()
    x = samples(graph, 3)[0][1:2]  # the first and last are all minima and maxima
    want = reference.run(graph, [x])[graph.outputs[0]].reshape(-1)
    t, o = graph.tensor(graph.inputs[0]), graph.tensor(graph.outputs[0])
    assert t.quant is not None and o.quant is not None
    main = tmp_path / "main.c"
    main.write_text(
        f"""
#include <stdio.h>
#include <string.h>
#include "edgekit_model.h"
_Alignas(16) uint8_t edgekit_arena[EDGEKIT_MODEL_ARENA_BYTES];
static const int shape[] = EDGEKIT_MODEL_INPUT_0_SHAPE;
int main(void) {{
  static const edgekit_model_input_0_t x[] = {{ {",".join(map(str, x.reshape(-1)))} }};
  _Static_assert(sizeof x == EDGEKIT_MODEL_INPUT_0_BYTES, "bytes");
  _Static_assert(EDGEKIT_MODEL_INPUT_0_DTYPE_INT8 && EDGEKIT_MODEL_INPUT_0_RANK == 4, "type");
  if (sizeof shape / sizeof *shape != 4 || shape[3] != 3) return 1;
  if (EDGEKIT_MODEL_INPUT_0_SCALE != {t.quant.s!r}f) return 2;
  if (EDGEKIT_MODEL_OUTPUT_0_ZERO_POINT != {o.quant.zp}) return 3;
  if (edgekit_model_input(1) || edgekit_model_output(-1) || edgekit_model_input_bytes(9)) return 4;
  if (edgekit_model_output_bytes(0) != {o.nbytes}) return 5;
  if (edgekit_model_init()) return 6;
  for (int twice = 0; twice < 2; ++twice) {{
    memcpy(edgekit_model_input(0), x, sizeof x);
    if (edgekit_model_invoke()) return 7;
  }}
  const edgekit_model_output_0_t *y = edgekit_model_output(0);
  for (int i = 0; i < EDGEKIT_MODEL_OUTPUT_0_ELEMENTS; ++i) printf("%d ", y[i]);
  return 0;
}}
"""
    )
    program = tmp_path / "main"
    cc(
        project,
        *("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
        "-DEDGEKIT_USER_ARENA",
        *(str(project.path / s) for s in c_sources(project)),
        *(str(main), "-o", str(program)),
    )
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [int(v) for v in done.stdout.split()] == want.tolist()


@needs_cc
def test_the_header_is_also_cplusplus(project: Artifact) -> None:
    gxx = shutil.which("g++")
    if gxx is None:
        pytest.skip("g++ is not installed")
    header = project.path / "include/edgekit_model.h"
    subprocess.run(
        [gxx, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++", str(header)],
        check=True,
        timeout=60,
    )


@needs_cc
def test_cmake_builds_a_library(project: Artifact, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    for command in (["-S", str(project.path), "-B", str(tmp_path)], ["--build", str(tmp_path)]):
        done = subprocess.run(
            [cmake, *command], capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "libedgekit_model.a").is_file()
