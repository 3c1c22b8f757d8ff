"""Whole networks and every operator through the OpenCL engines on PoCL."""

from __future__ import annotations

import filecmp
import io
import subprocess
from pathlib import Path

import numpy as np
import opgen
import opgen_all  # noqa: F401  registers every generator
import pytest
from elftools.elf.elffile import ELFFile
from engine_case import QEMU, compile_with, data_for, int8_net, needs_qemu
from mobile_gpu_case import mobilenet_v2, needs_opencl, small_net, virtual
from tvm_case import Case, merge

from edgekit import api
from edgekit.data import Dataset
from edgekit.formats import tflite
from edgekit.graph import reference
from edgekit.graph.ir import Graph
from edgekit.targets import get_backend
from edgekit_targets.mobile_gpu import program, support
from edgekit_targets.mobile_gpu.layers import layer_errors

BACKEND = get_backend("mobile_gpu")
#: Largest difference of any layer, as a share of its largest magnitude. float16: every tensor and
#: weight is rounded once, 2^-11 of its own value; a network of some 50 layers adds that up.
LIMITS = {"opencl": 1e-4, "opencl-fp16": 1e-2}
ENGINES = sorted(LIMITS)


def check_layers(graph: Graph, engine: str, target: str, folder: Path, samples: int = 2) -> None:
    needs_opencl()
    artifact = compile_with(folder, graph, target, engine)
    x = list(data_for(graph, samples, 3).x.values())
    with virtual() as device:
        errors = layer_errors(artifact, device, x)
    worst = max(errors, key=lambda e: e.error)
    assert worst.error < LIMITS[engine], worst
    if engine == "opencl-fp16":  # it is another arithmetic, and weighs half
        assert worst.error > 1e-6
        weights = sum(t.nbytes for t in graph.tensors.values() if t.is_const)
        assert artifact.file("weights.bin").stat().st_size < 0.7 * weights


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_resnet8(engine: str, shared: Path, tmp_path: Path) -> None:
    graph = tflite.read(shared / "zoo" / "ic_resnet8_float.tflite")
    check_layers(graph, engine, "adreno-650", tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_mobilenet_v2(engine: str, tmp_path: Path) -> None:
    check_layers(mobilenet_v2(0.35, 96), engine, "mali-g78", tmp_path / "out", samples=1)


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    needs_opencl()
    for name in ("a", "b"):
        compile_with(tmp_path / name, small_net(), "mali-g610", "opencl-fp16")
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert "kernels.cl" in names and program.ANDROID in names
    same, different, errors = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)
    assert same == names and not different and not errors


@pytest.mark.slow
def test_deploy_tries_every_engine(tmp_path: Path) -> None:
    needs_opencl()
    graph = small_net()
    document = api.deploy(graph, "adreno-740", data_for(graph, 4), tmp_path / "out")
    table = {e["name"]: e for e in document["engines"]}
    assert list(table) == ["opencl", "opencl-fp16", "litert-fp16"]
    assert all(e["verified"] and e["kind"] == "simulated" for e in table.values())
    assert all(e["total"]["latency_ms"] is None for e in table.values())
    assert table["opencl"]["precision"] == "float32"
    assert table["opencl-fp16"]["precision"] == table["litert-fp16"]["precision"] == "float16"


@pytest.mark.slow
def test_an_int8_model_is_computed_on_its_own_grid(tmp_path: Path) -> None:
    """Each value within one step of the oracle's where the kernel's inputs are the same."""
    needs_opencl()
    graph = int8_net()
    artifact = compile_with(tmp_path / "out", graph, "mali-g78", "opencl")
    x = [
        np.random.default_rng(0).integers(-128, 128, (8, *graph.tensor(i).shape[1:])).astype("int8")
        for i in graph.inputs
    ]
    with virtual() as device:
        errors = layer_errors(artifact, device, x)
        (got,) = BACKEND.run(artifact, device, x).outputs
    assert got.dtype == np.int8
    assert max(e.error for e in errors) <= 2  # steps; one is rounding, a layer may pass it on
    document = api.verify(artifact.path, data=Dataset.of(x))
    assert document["passed"] and document["criterion"]["precision"] == "int8"


# -- operators ---------------------------------------------------------------------------------


def cases(dtype: str, seeds: range) -> list[Case]:
    """Random graphs of every operator that draws ``dtype``."""
    found = []
    for op in sorted(opgen.CASES):
        for seed in seeds:
            rng = np.random.default_rng([seed, len(op), sum(map(ord, op))])
            try:
                graph, x = (
                    opgen.CASES[op](rng) if dtype == "int8" else opgen.CASES[op](rng, dtype)  # type: ignore[call-arg]
                )
            except TypeError:  # this generator draws int8 only
                break
            if not support.unsupported(graph):
                found.append((graph, x))
    return found


def float_form(case: Case) -> Case:
    """An int8 case of an operator that moves or maps values, in float32."""
    graph, x = case
    g = graph.copy()
    for name, t in graph.tensors.items():
        if t.dtype in ("int8", "uint8"):
            data = None if t.data is None else t.data.astype(np.float32) / 32
            g.tensors[name] = t.with_(dtype="float32", quant=None, data=data)
    shift = 0.0 if graph.nodes[0].type not in ("LOG", "SQRT", "RSQRT") else 4.5
    return g.validate(), [v.astype(np.float32) / 32 + np.float32(shift) for v in x]


_MAPS = [
    "ABS",
    "CONCATENATION",
    "EXP",
    "GATHER",
    "GELU",
    "HARD_SWISH",
    "LEAKY_RELU",
    "LOG",
    "LOGISTIC",
    "NEG",
    "PAD",
    "PRELU",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "RSQRT",
    "SOFTMAX",
    "SPLIT",
    "SQRT",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TANH",
    "TRANSPOSE",
]


@pytest.mark.slow
def test_every_operator_in_float32(tmp_path: Path) -> None:
    needs_opencl()
    several = cases("float32", range(2))
    for op in _MAPS:
        for seed in range(2):
            several.append(float_form(opgen.random_case(op, np.random.default_rng([seed, 7]))))
    check_merged(several, tmp_path / "out", 1e-4)
    assert {n.type for g, _ in several for n in g.nodes} >= {*_MAPS, "CONV_2D", "BATCH_MATMUL"}


@pytest.mark.slow
def test_every_operator_in_int8(tmp_path: Path) -> None:
    """At most one step from the oracle: it rounds twice, a float once."""
    needs_opencl()
    several = cases("int8", range(1))
    check_merged(several, tmp_path / "out", 1e-4)
    assert len({n.type for g, _ in several for n in g.nodes}) >= 40


def check_merged(several: list[Case], folder: Path, limit: float) -> None:
    graph, x = merge(several)
    want = reference.run(graph, x)
    artifact = compile_with(folder, graph, "mali-g52", "opencl")
    with virtual() as device:
        got = BACKEND.run(artifact, device, x).outputs
    wrong = []
    for name, y in zip(graph.outputs, got, strict=True):
        expected = want[name].reshape(y.shape).astype(np.float64)
        difference = float(np.abs(y - expected).max(initial=0.0))
        allowed = 1.0
        if y.dtype.kind == "f":
            allowed = limit * max(1e-30, float(np.abs(expected).max(initial=0.0)))
        if not difference <= allowed:
            node = graph.producers()[name]
            wrong.append(f"{node.type} {dict(node.attrs)}: {difference} > {allowed}")
    assert not wrong, "\n".join(wrong[:5])


@pytest.mark.slow
def test_programs_are_for_linux_and_android() -> None:
    """What a phone's loader reads: the interpreter, the libraries, 16 KiB pages."""
    why = program.why_missing()
    if why is not None:
        pytest.skip(why)
    built = program.for_target()
    for name, interpreter, libraries in (
        (program.LINUX, "/lib/ld-linux-aarch64.so.1", {"libc.so.6"}),
        (program.ANDROID, "/system/bin/linker64", {"libc.so", "libdl.so"}),
    ):
        elf = ELFFile(io.BytesIO(built[name]))
        assert elf.get_machine_arch() == "AArch64"
        segments = list(elf.iter_segments())
        (interp,) = [s for s in segments if s["p_type"] == "PT_INTERP"]
        assert interp.get_interp_name() == interpreter
        dynamic = elf.get_section_by_name(".dynamic")
        needed = {t.needed for t in dynamic.iter_tags() if t.entry.d_tag == "DT_NEEDED"}
        assert libraries <= needed <= libraries | {"libdl.so.2"}
        if name == program.ANDROID:
            assert elf["e_type"] == "ET_DYN"  # Android starts nothing else
            loads = [s for s in segments if s["p_type"] == "PT_LOAD"]
            assert all(s["p_align"] % 16384 == 0 for s in loads)


_BIONIC = """
void exit(int);
void __libc_init(long *stack, void (*on_exit)(void), int (*run)(int, char **, char **), void *lists) {
    (void)on_exit;
    (void)lists;
    exit(run((int)stack[0], (char **)(stack + 1), (char **)(stack + 2 + stack[0])));
}
"""
_GLIBC = Path("/usr/aarch64-linux-gnu")


@pytest.mark.slow
@needs_qemu
@pytest.mark.skipif(
    not (_GLIBC / "lib" / "ld-linux-aarch64.so.1").exists(),
    reason="no C library for 64-bit Arm is installed (libc6-arm64-cross)",
)
def test_the_android_program_starts_where_bionic_would_start_it(tmp_path: Path) -> None:
    """Its entry point, relocations and plan reader, on glibc with bionic's entry in front: there is
    no Android here. It gets as far as looking for libOpenCL."""
    from edgekit_targets.tvm_ import zig

    why = program.why_missing()
    if why is not None:
        pytest.skip(why)
    glibc = str(_GLIBC / "lib" / "libc.so.6")
    shim = ["-target", "aarch64-linux-android", "-shared", "-fPIC", "-nostdlib", "-O2"]
    for library, text in (("libc", _BIONIC), ("libdl", "int ek_nothing;")):
        (tmp_path / f"{library}.c").write_text(text)
        names = [f"-Wl,-soname,{library}.so", "-o", f"{library}.so", f"{library}.c", glibc]
        zig.run([*shim, *names], "building the stand-in", tmp_path)
    (tmp_path / "runner").write_bytes(program.for_target()[program.ANDROID])
    (tmp_path / "runner").chmod(0o755)

    def run(*args: str) -> str:
        loader = [str(_GLIBC / "lib" / "ld-linux-aarch64.so.1"), "--library-path"]
        command = [str(QEMU), *loader, f"{tmp_path}:{_GLIBC / 'lib'}", "./runner", *args]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1
        return done.stdout

    assert "usage: runner" in run("gpu")
    assert "no OpenCL library was found" in run("gpu", "info")
    for name in ("weights.bin", "kernels.cl", "in.bin"):
        (tmp_path / name).write_bytes(bytes(64))
    for plan, said in (
        ("nonsense", "no launch plan"),
        (
            "edgekit-opencl-plan 1\nbuffers 1\n64\n"
            "constants 0\ninputs 1\n0 64\noutputs 1\n0 64\nkernels 0\n",
            "no OpenCL library",
        ),
    ):
        (tmp_path / "plan.txt").write_text(plan)
        assert said in run("gpu", "run", "in.bin", "out.bin")
