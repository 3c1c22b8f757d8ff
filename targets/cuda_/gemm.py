"""CONV_2D and FULLY_CONNECTED as matrix products, in TIR with threads and shared memory.

*Implicit matrix product*: rows are output pixels, columns output channels, the depth is the window
(kernel cells x channels). A block of 128 threads computes a tile of 64 rows: it copies a slice of
the input and of the weights to shared memory, gathering input cells as it goes (no im2col in
memory), and multiplies there.

Everything is moved in 32-bit *words*: four int8, two float16, or one float32 along the channels.
Then a step of the tensor cores is 8 words deep for every type (``mma.sync`` m16n8k32 for int8,
m16n8k16 for float16, m16n8k8 for tf32), and its fragments are the same words of the same tiles (PTX
ISA, "Matrix Fragments for mma.m16n8k*"). IEEE float32 has no tensor core: there each thread keeps a
small tile of sums in registers.

One row (a fully connected layer, one sample) is no matrix product: a warp per output channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgekit_targets.tvm_.linear import Window
from edgekit_targets.tvm_.vector import Expr, const, script

Kind = Literal["s8", "f16", "tf32", "f32"]
PER_WORD: dict[str, int] = {"s8": 4, "f16": 2, "tf32": 1, "f32": 1}
#: dtype of the words in shared memory and in packed weights
WORD: dict[str, str] = {"s8": "int32", "f16": "int32", "tf32": "int32", "f32": "float32"}
THREADS = 128
ROWS = 64
#: Rows up to which a layer is computed by warps instead of tiles.
FEW_ROWS = 4


@dataclass(frozen=True)
class Operand:
    """The input as the kernel sees it. dtype: as stored; pad: the value outside of the image."""

    dtype: str
    elements: int
    pad: int = 0


@dataclass(frozen=True)
class Tiling:
    """How a layer is cut. columns: of a block's tile; words: depth of a slice, a multiple of 8.
    cell_words: words of one kernel cell; depth_words: of the whole window, padded to slices."""

    columns: int
    words: int
    cell_words: int
    depth_words: int
    padded_outputs: int

    @property
    def slices(self) -> int:
        return self.depth_words // self.words


def tiling(win: Window, kind: Kind) -> Tiling:
    cell = -(-win.channels // PER_WORD[kind])
    depth = win.kernel[0] * win.kernel[1] * cell
    words = 16 if depth > 8 else 8
    columns = 64 if win.outputs > 32 else 32
    return Tiling(
        columns, words, cell, -(-depth // words) * words, -(-win.outputs // columns) * columns
    )


def rounded_tf32(values: np.ndarray) -> np.ndarray:
    """float32 -> the bits of the nearest tf32 (ties away from zero), as ``cvt.rna.tf32.f32``."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.int32)


def pack(weights: np.ndarray, kind: Kind, t: Tiling) -> np.ndarray:
    """``[O, kh, kw, C]`` -> words ``[padded outputs, depth words]``; what is missing is zero."""
    o, kh, kw, c = weights.shape
    per = PER_WORD[kind]
    dtype = {"s8": np.int8, "f16": np.float16}.get(kind, np.float32)
    full = np.zeros((t.padded_outputs, kh * kw, t.cell_words * per), dtype)
    full[:o, :, :c] = weights.reshape(o, kh * kw, c).astype(dtype)
    flat = full.reshape(t.padded_outputs, -1)
    if kind == "tf32":
        flat = rounded_tf32(flat)
    words = np.ascontiguousarray(flat).view(np.float32 if kind == "f32" else np.int32)
    out = np.zeros((t.padded_outputs, t.depth_words), words.dtype)
    out[:, : words.shape[1]] = words
    return out


class Loader:
    """Reads the words of the input: word ``depth`` of the window of output pixel ``row``."""

    def __init__(self, win: Window, kind: Kind, x: Operand, t: Tiling) -> None:
        self.win, self.kind, self.x, self.t = win, kind, x, t
        self.T = script()
        per = PER_WORD[kind]
        stored = {"int8": 4, "float16": 2, "float32": 1}[x.dtype]
        #: whole words can be read as they lie in memory
        self.whole = stored == per and win.channels % per == 0
        self.word_type = WORD[kind]

    def argument(self, name: str) -> Any:
        T, per = self.T, PER_WORD[self.kind]
        if self.whole and per > 1:
            return T.arg(name, T.buffer((self.x.elements // per,), "int32"))
        return T.arg(name, T.buffer((self.x.elements,), self.x.dtype))

    def outside(self) -> Expr:
        if self.kind == "s8":
            word = int(np.array([self.x.pad] * 4, np.int8).view(np.int32)[0])
            return const(word, "int32")
        return const(0, self.word_type)

    def _element(self, x: Any, cell: Expr, c: Expr) -> Expr:
        """One value of the pixel that starts at ``cell``; the pad's value beyond its channels."""
        T = self.T
        kind = "int32" if self.kind == "s8" else "float32"
        value = T.Cast(kind, x[cell + c])
        if self.win.channels % PER_WORD[self.kind] == 0:
            return value
        return T.if_then_else(c < self.win.channels, value, const(0, kind))

    def _word(self, x: Any, pixel: Expr, word: Expr) -> Expr:
        T, per = self.T, PER_WORD[self.kind]
        if self.whole:
            value = x[pixel * self.t.cell_words + word]
            if self.kind == "tf32":
                return T.call_extern("int32", "ek_tf32", value)
            return value
        cell = pixel * self.win.channels
        parts = [self._element(x, cell, word * per + i) for i in range(per)]
        if self.kind == "s8":
            parts = [p & const(255, "int32") for p in parts]
            return parts[0] | parts[1] << 8 | parts[2] << 16 | parts[3] << 24
        if self.kind == "f16":
            return T.call_extern("int32", "ek_half2", *parts)
        if self.kind == "tf32":
            return T.call_extern("int32", "ek_tf32", parts[0])
        return parts[0]

    def __call__(self, x: Any, row: Expr, depth: Expr, row_guard: bool = True) -> Expr:
        from tvm import tirx

        T, win, t = self.T, self.win, self.t
        kh, kw = win.kernel
        (sh, sw), (dh, dw) = win.stride, win.dilation
        cells = kh * kw
        guards = []
        if row_guard and (win.out_height * win.out_width) % ROWS:
            guards.append(row < win.out_height * win.out_width)
        if cells * t.cell_words != t.depth_words:
            guards.append(depth < cells * t.cell_words)
        if cells == 1:
            cell, word = const(0, "int32"), depth
        else:
            cell = T.Bind(T.truncdiv(depth, t.cell_words))
            word = T.truncmod(depth, t.cell_words)
        y = T.truncdiv(row, win.out_width) * sh - win.pads[0]
        z = T.truncmod(row, win.out_width) * sw - win.pads[2]
        if cells > 1:
            y = y + T.truncdiv(cell, kw) * dh
            z = z + T.truncmod(cell, kw) * dw
        y, z = T.Bind(y), T.Bind(z)
        if win.padded:
            guards += [y >= 0, y < win.height, z >= 0, z < win.width]
        value = self._word(x, y * win.width + z, word)
        if not guards:
            return value
        return T.if_then_else(tirx.all(*guards), value, self.outside())


#: (acc, column) -> the value to store
Leave = Callable[[Expr, Expr], Expr]


def tiled(
    name: str,
    win: Window,
    kind: Kind,
    x: Operand,
    t: Tiling,
    table: tuple[tuple[int, ...], str],
    out_dtype: str,
    leave: Callable[[Any], Leave],
) -> Any:
    """The kernel for many rows. Arguments a0: input, a1: packed weights, a2: ``table``, a3: output.

    leave: given the table's buffer, how a sum of a column leaves.
    """
    from tvm.script.ir_builder import IRBuilder

    T = script()
    rows, load = win.out_height * win.out_width, Loader(win, kind, x, t)
    word, acc_type = WORD[kind], "int32" if kind == "s8" else "float32"
    stride = t.words + 4  # shared rows start in different banks
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True, "tirx.is_scheduled": True})
        a = load.argument("a0")
        w = T.arg("a1", T.buffer((t.padded_outputs * t.depth_words,), word))
        tab = T.arg("a2", T.buffer(*table))
        y = T.arg("a3", T.buffer((rows * win.outputs,), out_dtype))
        store = leave(tab)
        with (
            T.launch_thread("blockIdx.x", t.padded_outputs // t.columns) as bn,
            T.launch_thread("blockIdx.y", -(-rows // ROWS)) as bm,
            T.launch_thread("threadIdx.x", THREADS) as tid,
        ):
            sa = T.alloc_buffer((ROWS * stride,), word, scope="shared")
            sb = T.alloc_buffer((t.columns * stride,), word, scope="shared")
            body = _scalar_body if kind == "f32" else _mma_body
            init, step, finish = body(T, t, kind, sa, sb, tid, stride, acc_type)
            init()

            def copy(k: Expr) -> None:
                with T.unroll(0, ROWS * t.words // THREADS) as i:
                    at = T.Bind(tid + i * THREADS)
                    r, c = T.Bind(T.truncdiv(at, t.words)), T.Bind(T.truncmod(at, t.words))
                    value = load(a, T.Bind(bm * ROWS + r), T.Bind(k * t.words + c))
                    T.buffer_store(sa, value, [r * stride + c])
                with T.unroll(0, t.columns * t.words // THREADS) as i:
                    at = T.Bind(tid + i * THREADS)
                    r, c = T.Bind(T.truncdiv(at, t.words)), T.Bind(T.truncmod(at, t.words))
                    value = w[(bn * t.columns + r) * t.depth_words + k * t.words + c]
                    T.buffer_store(sb, value, [r * stride + c])

            with T.serial(0, t.slices) as k:
                copy(k)
                T.evaluate(T.tvm_storage_sync("shared"))
                step()
                T.evaluate(T.tvm_storage_sync("shared"))

            def emit(r: Expr, c: Expr, value: Expr) -> None:
                from tvm import tirx

                row, column = T.Bind(bm * ROWS + r), T.Bind(bn * t.columns + c)
                guards = []
                if rows % ROWS:
                    guards.append(row < rows)
                if win.outputs % t.columns:
                    guards.append(column < win.outputs)
                if guards:
                    with T.If(tirx.all(*guards)), T.Then():
                        T.buffer_store(y, store(value, column), [row * win.outputs + column])
                else:
                    T.buffer_store(y, store(value, column), [row * win.outputs + column])

            finish(emit)
    return builder.get()


def _mma_body(
    T: Any, t: Tiling, kind: Kind, sa: Any, sb: Any, tid: Expr, stride: int, acc_type: str
) -> tuple[Callable[[], None], Callable[[], None], Callable[[Any], None]]:
    """Four warps; a warp's tile is 32x32 of 64 columns, or 16x32 of 32."""
    down = 2 if t.columns == 64 else 1  # 16-row steps of one warp
    across = 4  # 8-column steps of one warp
    acc = T.alloc_buffer((down * across * 4,), acc_type, scope="local")
    fa = T.alloc_buffer((down * 4,), "int32", scope="local")
    fb = T.alloc_buffer((across * 2,), "int32", scope="local")
    lane, warp = T.Bind(T.truncmod(tid, 32)), T.Bind(T.truncdiv(tid, 32))
    group, place = T.Bind(T.truncdiv(lane, 4)), T.Bind(T.truncmod(lane, 4))
    if t.columns == 64:
        row0, col0 = T.Bind(T.truncdiv(warp, 2) * 32), T.Bind(T.truncmod(warp, 2) * 32)
    else:
        row0, col0 = T.Bind(warp * 16), const(0, "int32")

    def init() -> None:
        with T.unroll(0, down * across * 4) as i:
            T.buffer_store(acc, const(0, acc_type), [i])

    def step() -> None:
        with T.unroll(0, t.words // 8) as s:
            with T.unroll(0, down) as i, T.unroll(0, 4) as j:
                r = row0 + i * 16 + group + T.truncmod(j, 2) * 8
                c = s * 8 + place + T.truncdiv(j, 2) * 4
                T.buffer_store(fa, sa[r * stride + c], [i * 4 + j])
            with T.unroll(0, across) as i, T.unroll(0, 2) as j:
                value = sb[(col0 + i * 8 + group) * stride + s * 8 + place + j * 4]
                T.buffer_store(fb, value, [i * 2 + j])
            with T.unroll(0, down) as i, T.unroll(0, across) as j:
                T.evaluate(
                    T.call_extern(
                        "void",
                        f"ek_mma_{kind}",
                        T.address_of(acc[(i * across + j) * 4]),
                        T.address_of(fa[i * 4]),
                        T.address_of(fb[j * 2]),
                    )
                )

    def finish(emit: Any) -> None:
        with T.unroll(0, down) as i, T.unroll(0, across) as j, T.unroll(0, 4) as k:
            r = row0 + i * 16 + group + T.truncdiv(k, 2) * 8
            c = col0 + j * 8 + place * 2 + T.truncmod(k, 2)
            emit(r, c, acc[(i * across + j) * 4 + k])

    return init, step, finish


def _scalar_body(
    T: Any, t: Tiling, kind: Kind, sa: Any, sb: Any, tid: Expr, stride: int, acc_type: str
) -> tuple[Callable[[], None], Callable[[], None], Callable[[Any], None]]:
    """Threads are 16 x 8; each keeps 4 rows x (columns / 8) sums."""
    down, across = 4, t.columns // 8
    acc = T.alloc_buffer((down * across,), acc_type, scope="local")
    fa = T.alloc_buffer((down,), "float32", scope="local")
    fb = T.alloc_buffer((across,), "float32", scope="local")
    ty, tx = T.Bind(T.truncdiv(tid, 8)), T.Bind(T.truncmod(tid, 8))

    def init() -> None:
        with T.unroll(0, down * across) as i:
            T.buffer_store(acc, const(0, acc_type), [i])

    def step() -> None:
        with T.serial(0, t.words) as k:
            with T.unroll(0, down) as i:
                T.buffer_store(fa, sa[(ty * down + i) * stride + k], [i])
            with T.unroll(0, across) as j:
                T.buffer_store(fb, sb[(tx + j * 8) * stride + k], [j])
            with T.unroll(0, down) as i, T.unroll(0, across) as j:
                value = acc[i * across + j] + fa[i] * fb[j]
                T.buffer_store(acc, value, [i * across + j])

    def finish(emit: Any) -> None:
        with T.unroll(0, down) as i, T.unroll(0, across) as j:
            emit(ty * down + i, tx + j * 8, acc[i * across + j])

    return init, step, finish


def by_warps(
    name: str,
    win: Window,
    kind: Kind,
    x: Operand,
    t: Tiling,
    table: tuple[tuple[int, ...], str],
    out_dtype: str,
    leave: Callable[[Any], Leave],
) -> Any:
    """The kernel for few rows: a warp sums one output channel of one row (``dp4a`` for int8, float
    multiply-adds otherwise). Arguments as for :func:`tiled`."""
    from tvm.script.ir_builder import IRBuilder

    T = script()
    rows, load = win.out_height * win.out_width, Loader(win, kind, x, t)
    acc_type = "int32" if kind == "s8" else "float32"
    warps = THREADS // 32
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True, "tirx.is_scheduled": True})
        a = load.argument("a0")
        w = T.arg("a1", T.buffer((t.padded_outputs * t.depth_words,), WORD[kind]))
        tab = T.arg("a2", T.buffer(*table))
        y = T.arg("a3", T.buffer((rows * win.outputs,), out_dtype))
        store = leave(tab)
        with (
            T.launch_thread("blockIdx.x", -(-win.outputs // warps)) as bn,
            T.launch_thread("blockIdx.y", rows) as row,
            T.launch_thread("threadIdx.x", THREADS) as tid,
        ):
            acc = T.alloc_buffer((1,), acc_type, scope="local")
            lane = T.Bind(T.truncmod(tid, 32))
            column = T.Bind(bn * warps + T.truncdiv(tid, 32))  # rows beyond are zero weights
            T.buffer_store(acc, const(0, acc_type), [0])
            with T.serial(0, -(-t.depth_words // 32)) as k:
                depth = T.Bind(k * 32 + lane)
                with T.If(depth < t.depth_words), T.Then():
                    weight = w[column * t.depth_words + depth]
                    value = load(a, row, depth, row_guard=False)
                    total = T.call_extern(acc_type, f"ek_dot_{kind}", value, weight, acc[0])
                    T.buffer_store(acc, total, [0])
            T.buffer_store(acc, T.call_extern(acc_type, f"ek_sum_{acc_type}", acc[0]), [0])

            def emit() -> None:
                T.buffer_store(y, store(acc[0], column), [row * win.outputs + column])

            with T.If(lane == 0), T.Then():
                if win.outputs % warps:
                    with T.If(column < win.outputs), T.Then():
                        emit()
                else:
                    emit()
    return builder.get()
