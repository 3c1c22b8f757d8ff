"""The runner of launch plans and the CUDA driver that needs no GPU, by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgekit_targets.cuda_ import build, virtual


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner")
    build.build_runner(folder)
    return folder / "runner"


def kernel_of(body: str, out: str = "int") -> str:
    """CUDA source of one kernel, as the generator writes it."""
    parameters = f"int* __restrict__ a, {out}* __restrict__ b"
    head = 'extern "C" __global__ void __launch_bounds__(32)'
    return f"{head} k_kernel({parameters}) {{\n{body}\n}}\n"


PLAN = """edgekit-cuda 1
arena 512
weights 0
steps 1
input 0 4
output 256 4
launch k_kernel 1 1 1 32 1 1 2 a0 a256
"""
COPY = kernel_of("  if (threadIdx.x == 0) {\n    b[0] = a[0];\n  }")


def start(folder: Path, runner: Path, kernels: str, plan: str, *args: str) -> tuple[int, str]:
    """(exit status, stdout) of the runner with these kernels behind the driver without a GPU."""
    shutil.copyfile(runner, folder / "runner")
    (folder / "runner").chmod(0o755)
    (folder / "plan.txt").write_text(plan)
    for name in ("kernels.cubin", "weights.bin"):
        (folder / name).write_bytes(b"")
    (folder / "in.bin").write_bytes(b"\1\2\3\4\5\6\7\10")
    driver = str(virtual.build_driver(kernels)) if kernels else "/nonexistent/libcuda.so.1"
    done = subprocess.run(
        ["./runner", *args],
        cwd=folder,
        env={**os.environ, "EDGEKIT_CUDA_DRIVER": driver},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_kernel_runs_without_a_gpu(runner: Path, tmp_path: Path) -> None:
    code, out = start(tmp_path, runner, COPY, PLAN, "run", "in.bin", "out.bin")
    assert (code, out) == (0, "module=cubin\n")
    assert (tmp_path / "out.bin").read_bytes() == b"\1\2\3\4\5\6\7\10", "two samples of four bytes"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("edgekit-cuda 1", "edgekit-cuda 2", "no launch plan of version 1"),
        ("output 256 4", "output 510 4", "damaged at 'output'"),
        ("a0 a256", "a0 a999", "damaged at 'launch'"),
        ("a0 a256", "x0 a256", "damaged at 'launch'"),
        ("steps 1", "steps 2", "ends too early"),
        ("steps 1", "steps -1", "damaged at 'steps'"),
        ("k_kernel", "other", "the module has no other"),
        ("32 1 1 2", "2048 1 1 2", "launch of k_kernel failed"),
        ("input 0 4", "input 0 3", "no whole number of samples"),
    ],
)
def test_damaged_plans_are_refused(
    runner: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    plan = PLAN.replace(old, new)
    code, out = start(tmp_path, runner, COPY, plan, "run", "in.bin", "out.bin")
    assert code == 1 and out.splitlines()[-1].startswith("error=") and words in out


def test_without_a_gpu_nothing_is_timed(runner: Path, tmp_path: Path) -> None:
    code, out = start(tmp_path, runner, COPY, PLAN, "time", "in.bin", "3")
    assert code == 1 and "error=this device has no clock" in out and "total_ns" not in out


def test_a_missing_driver_is_said(runner: Path, tmp_path: Path) -> None:
    code, out = start(tmp_path, runner, "", PLAN, "run", "in.bin", "out.bin")
    assert code == 1 and out.startswith("error=no NVIDIA GPU: the driver library")


def test_threads_that_do_not_meet_are_found(runner: Path, tmp_path: Path) -> None:
    kernel = COPY.replace("b[0] = a[0];", "__syncthreads();\n    b[0] = a[0];")
    code, out = start(tmp_path, runner, kernel, PLAN, "run", "in.bin", "out.bin")
    assert code == 1 and "CUDA error 719" in out


def test_writing_beyond_the_arena_is_found(runner: Path, tmp_path: Path) -> None:
    kernel = COPY.replace("b[0] = a[0];", "b[64] = a[0];")
    code, _ = start(tmp_path, runner, kernel, PLAN, "run", "in.bin", "out.bin")
    assert code < 0, "ended by a signal"


def test_barriers_and_shuffles_have_cudas_meaning(runner: Path, tmp_path: Path) -> None:
    """Every thread hands its number on through shared memory; then the warp adds them up."""
    body = """
  __shared__ alignas(64) int s[32];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  int v = s[31 - threadIdx.x] + (threadIdx.x == 3 ? a[0] : 0);
  v = v + __shfl_down_sync(__activemask(), v, 16, 32);
  v = v + __shfl_down_sync(__activemask(), v, 8, 32);
  v = v + __shfl_down_sync(__activemask(), v, 4, 32);
  v = v + __shfl_down_sync(__activemask(), v, 2, 32);
  v = v + __shfl_down_sync(__activemask(), v, 1, 32);
  if (threadIdx.x == 0) {
    b[0] = v;
  }
"""
    kernel = kernel_of(body)
    code, out = start(tmp_path, runner, kernel, PLAN, "run", "in.bin", "out.bin")
    assert code == 0, out
    got = np.frombuffer((tmp_path / "out.bin").read_bytes(), "<i4") - np.frombuffer(
        b"\1\2\3\4\5\6\7\10", "<i4"
    )
    assert got.tolist() == [496, 496]


@pytest.mark.parametrize("kind", ["s8", "f16", "tf32"])
def test_fragments_of_the_matrix_product(kind: str, runner: Path, tmp_path: Path) -> None:
    """One ``mma`` of 16 x 8 x 8 words against NumPy, with the PTX ISA's formulas for the rows and
    columns of each register, written here from the manual's tables of each shape."""
    per = {"s8": 4, "f16": 2, "tf32": 1}[kind]
    rng = np.random.default_rng(4)
    depth = 8 * per
    a = rng.integers(-8, 8, (16, depth))
    b = rng.integers(-8, 8, (depth, 8))
    dtype = {"s8": np.int8, "f16": np.float16, "tf32": np.float32}[kind]
    fa = np.zeros((32, 4, per), dtype)
    fb = np.zeros((32, 2, per), dtype)
    rows = np.zeros((32, 4), int)
    cols = np.zeros((32, 4), int)
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(4 * per):  # element i of the A fragment
            if kind == "tf32":
                row, col = group + 8 * (i in (1, 3)), thread + 4 * (i >= 2)
            elif kind == "f16":
                row = group if i in (0, 1, 4, 5) else group + 8
                col = thread * 2 + (i & 1) + (8 if i >= 4 else 0)
            else:
                row = group if i < 4 or 8 <= i < 12 else group + 8
                col = thread * 4 + (i & 3) + (16 if i >= 8 else 0)
            fa[lane, i // per, i % per] = a[row, col]
        for i in range(2 * per):  # element i of the B fragment
            row = {"tf32": thread + 4 * i, "f16": thread * 2 + (i & 1) + 8 * (i >= 2),
                   "s8": thread * 4 + (i & 3) + 16 * (i >= 4)}[kind]  # fmt: skip
            fb[lane, i // per, i % per] = b[row, group]
        for i in range(4):
            rows[lane, i] = group if i < 2 else group + 8
            cols[lane, i] = thread * 2 + (i & 1)
    words = np.concatenate(
        [fa.reshape(32, -1).view(np.int32), fb.reshape(32, -1).view(np.int32)], 1
    )
    acc = "int" if kind == "s8" else "float"
    body = f"""
  {acc} d[4] = {{0, 0, 0, 0}};
  int fa[4], fb[2];
  for (int i = 0; i < 4; ++i) {{ fa[i] = a[threadIdx.x * 6 + i]; }}
  for (int i = 0; i < 2; ++i) {{ fb[i] = a[threadIdx.x * 6 + 4 + i]; }}
  ek_mma_{kind}(d, fa, fb);
  for (int i = 0; i < 4; ++i) {{ b[threadIdx.x * 4 + i] = d[i]; }}
"""
    kernel = kernel_of(body, acc)
    plan = (
        "edgekit-cuda 1\narena 2048\nweights 0\nsteps 1\ninput 0 768\noutput 1024 512\n"
        "launch k_kernel 1 1 1 32 1 1 2 a0 a1024\n"
    )
    start(tmp_path, runner, kernel, plan, "info")
    (tmp_path / "x.bin").write_bytes(words.astype("<i4").tobytes())
    code, out = start(tmp_path, runner, kernel, plan, "run", "x.bin", "out.bin")
    assert code == 0, out
    got = np.frombuffer((tmp_path / "out.bin").read_bytes(), "<i4" if kind == "s8" else "<f4")
    np.testing.assert_array_equal(got.reshape(32, 4), (a @ b)[rows, cols])


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
def test_the_runner_is_clean_under_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "sanitized"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-g"]
    flags += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    source = str(build.RUNTIME / "runner.c")
    done = subprocess.run(
        ["cc", *flags, source, "-ldl", "-o", str(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "cannot find -lasan" in done.stderr or "libasan" in done.stderr:
        pytest.skip("the C compiler has no address sanitizer")
    assert done.returncode == 0, done.stderr
    code, out = start(tmp_path, program, COPY, PLAN, "run", "in.bin", "out.bin")
    assert code == 0, out
    for new in ("a999 a256", "a0 a256 a0", ""):
        plan = PLAN.replace("a0 a256", new)
        code, out = start(tmp_path, program, COPY, plan, "run", "in.bin", "out.bin")
        assert code == 1 and "error=" in out, out
