"""TIR functions for CONV_2D, FULLY_CONNECTED and DEPTHWISE_CONV_2D, written in vectors.

One function a layer: padding, sums, bias, requantization and clamp, so that nothing but the output
is written back. The loops are those of a register-blocked matrix product: a tile of pixels x
vectors of output channels is summed in registers over the whole window, each step multiplying
``group`` input channels of one pixel, broadcast, with a vector of packed weights
(:func:`edgekit_targets.tvm_.linear.pack_weights`).

LLVM finds these instructions in scalar loops only sometimes, and then not blocked; measured on
ResNet-8 that is a factor of three and more.
"""

from __future__ import annotations

from typing import Any

from edgekit_targets.tvm_ import vector as vx
from edgekit_targets.tvm_.isa import CpuTarget
from edgekit_targets.tvm_.linear import Outgoing, Tile, Window
from edgekit_targets.tvm_.vector import Expr, at, cast, clamp, const, script

#: Bytes behind the last pixel that a step of a run may read.
_SLACK = 64


class LinearKernel:
    """Emits one linear layer. out: None for float32."""

    def __init__(self, win: Window, target: CpuTarget, tile: Tile, out: Outgoing | None) -> None:
        self.win, self.target, self.tile, self.out = win, target, tile, out
        self.lanes = target.lanes
        dot = target.dot
        self.group = dot.group if out else 1
        self.x_dtype = dot.x_dtype if out else "float32"
        self.w_dtype = dot.w_dtype if out else "float32"
        self.x_offset = dot.x_offset if out else 0
        self.acc_dtype = "int32" if out else "float32"
        self.bounds: tuple[float | None, float | None] = (None, None)
        self.T = script()

    # -- the input ---------------------------------------------------------------------------

    def needs_copy(self) -> bool:
        """Whether the input has to be padded, converted, or followed by readable memory."""
        _, run = self.win.runs
        converted = self.out is not None and self.x_dtype != "int8"
        return self.win.padded or converted or run % self.group != 0

    def copy_input(self, x: Any, zero_point: int) -> Any:
        """The padded input in the type that the dot product takes, as a flat buffer."""
        T, win = self.T, self.win
        offset = self.x_offset
        row, top = win.row, win.pads[0]
        left, inner = win.pads[2] * win.channels, win.width * win.channels
        size = win.rows * row + _SLACK
        buf = T.alloc_buffer((size,), self.x_dtype, scope="global")
        border = const(zero_point + offset, self.x_dtype)

        def fill(start: Expr, count: int) -> None:
            if count:
                with T.serial(0, count) as i:
                    T.buffer_store(buf, border, [start + i])

        def body(value: Expr) -> Expr:
            if not self.out or self.x_dtype == "int8":
                return value
            if self.x_dtype == "uint8":  # + 128, modulo 256
                flipped = T.Cast("int32", value) + const(offset, "int32")
                return T.Cast("uint8", flipped)
            return T.Cast(self.x_dtype, value)

        fill(const(0, "int32"), top * row)
        with T.serial(0, win.height) as h:
            start = (h + top) * row
            fill(start, left)
            with T.serial(0, inner) as i:
                T.buffer_store(buf, body(x[h * inner + i]), [start + left + i])
            fill(start + left + inner, row - left - inner)
        fill(const((top + win.height) * row, "int32"), size - (top + win.height) * row)
        return buf

    # -- arithmetic --------------------------------------------------------------------------

    def broadcast(self, x: Any, index: Expr) -> Expr:
        """``group`` neighbouring inputs in every lane, as the dot product takes them."""
        T, n = self.T, self.lanes
        if self.group == 1:
            return T.Broadcast(x[index], n)
        word = T.reinterpret("int32", x[at(index, self.group)])
        kind = "int16" if self.w_dtype == "int16" else "int8"
        return T.reinterpret(f"{kind}x{n * self.group}", T.Broadcast(word, n))

    def multiply_add(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        T, n = self.T, self.lanes
        if not self.out:
            return T.call_llvm_pure_intrin(f"float32x{n}", f"llvm.fma.v{n}f32", x, w, acc)
        kind, name = f"int32x{n}", self.target.dot.name
        if name == "vnni":
            return T.call_llvm_pure_intrin(
                kind, f"llvm.x86.avx512.vpdpbusd.{self.target.bits}", acc, x, w
            )
        if name == "sdot":
            return T.call_llvm_pure_intrin(kind, "llvm.aarch64.neon.sdot.v4i32.v16i8", acc, w, x)
        if name == "pmaddwd":
            if self.target.bits == 512:
                pairs = "llvm.x86.avx512.pmaddw.d.512"
            else:
                pairs = "llvm.x86.avx2.pmadd.wd"
            return acc + T.call_llvm_pure_intrin(kind, pairs, x, w)
        return acc + cast(x, "int32", n) * cast(w, "int32", n)

    def leave(self, acc: Expr, table: Any, channel: Expr) -> Expr:
        """A vector of sums as output values; channel: the first one's index."""
        T, n, out = self.T, self.lanes, self.out
        if out is None:
            lo, hi = self.bounds
            if lo is not None:
                acc = T.max(acc, const(lo, "float32", n))
            if hi is not None:
                acc = T.min(acc, const(hi, "float32", n))
            return acc

        def row(i: int) -> Expr:
            return table[at(channel + i * out.padded, n)]

        if out.left:
            acc = acc << row(4)
        wide = "int64" if out.wide else "int32"
        high = vx.high_mul(acc, row(1), n)
        if not out.wide:
            high = cast(high, "int32", n)
        if out.rounds:
            high = T.Bind(high)
            nudge = high >> const(63 if out.wide else 31, wide, n)
            if out.masked:
                nudge = nudge & cast(row(5 if out.left else 4), wide, n)
            high = (high + nudge + cast(row(2), wide, n)) >> cast(row(3), wide, n)
        y = cast(high, "int32", n) + const(out.zero_point, "int32", n)
        return cast(clamp(y, *out.limits, "int32", n), out.dtype, n)

    def store(self, y: Any, value: Expr, index: Expr, count: int) -> None:
        """``count`` of a vector's values to the output, from ``index`` on."""
        T, n = self.T, self.lanes
        if count >= n:
            T.buffer_store(y, value, [at(index, n)])
            return
        part = T.alloc_buffer((n,), self.out.dtype if self.out else "float32", scope="local")
        T.buffer_store(part, value, [at(const(0, "int32"), n)])
        for i in range(count):
            T.buffer_store(y, part[i], [index + i])

    # -- tiles -------------------------------------------------------------------------------

    def tile_sums(
        self, bufs: tuple[Any, Any, Any, Any], oh: Expr, ow: Expr, pixels: int, block: tuple
    ) -> None:
        """One tile. block: (first channel, first weight, vectors, channels of the last vector)."""
        T, win, n = self.T, self.win, self.lanes
        x, w, table, y = bufs
        channel, w_base, vectors, last = block
        (rv, rh), run = win.runs
        steps = -(-run // self.group)
        width = n * self.group
        acc = T.alloc_buffer((pixels * vectors * n,), self.acc_dtype, scope="local")

        def slot(p: int, j: int) -> Expr:
            return at(const((p * vectors + j) * n, "int32"), n)

        for j in range(vectors):
            bias = T.Bind(table[at(channel + j * n, n)])
            for p in range(pixels):
                T.buffer_store(acc, bias, [slot(p, j)])
        (sh, sw), (dh, dw) = win.stride, win.dilation

        def step(r: Expr, k: Expr) -> None:
            row = oh * sh + (r // rh if rh > 1 else r) * dh
            cell = (r % rh) * dw if rh > 1 else 0
            origin = row * win.row + (ow * sw + cell) * win.channels + k * self.group
            weights = [
                T.Bind(w[at(w_base + ((r * steps + k) * vectors + j) * width, width)])
                for j in range(vectors)
            ]
            for p in range(pixels):
                v = T.Bind(self.broadcast(x, origin + p * sw * win.channels))
                for j in range(vectors):
                    total = self.multiply_add(acc[slot(p, j)], v, weights[j])
                    T.buffer_store(acc, total, [slot(p, j)])

        with T.serial(0, rv * rh) as r, T.serial(0, steps) as k:
            step(r, k)
        for p in range(pixels):
            base = (oh * win.out_width + ow + p) * win.outputs + channel
            for j in range(vectors):
                value = self.leave(acc[slot(p, j)], table, channel + j * n)
                self.store(y, value, base + j * n, last if j == vectors - 1 else n)

    def rows(self, bufs: tuple[Any, Any, Any, Any], block: tuple, oh: Expr) -> None:
        """All tiles of one output row."""
        T, win, p = self.T, self.win, min(self.tile.pixels, self.win.out_width)
        full, tail = divmod(win.out_width, p)
        if full > 1:
            with T.serial(0, full) as i:
                self.tile_sums(bufs, oh, i * p, p, block)
        elif full:
            self.tile_sums(bufs, oh, const(0, "int32"), p, block)
        if tail:
            self.tile_sums(bufs, oh, const(full * p, "int32"), tail, block)

    def blocks(self, each: Any) -> None:
        """Call ``each(block)`` inside a loop over the blocks of output channels."""
        T, win, n, v = self.T, self.win, self.lanes, self.tile.vectors
        (rv, rh), run = win.runs
        per_vector = rv * rh * -(-run // self.group) * n * self.group
        needed = -(-win.outputs // n)
        ragged = win.outputs % n
        full = needed // v
        if ragged and needed % v == 0:
            full -= 1  # the block with the ragged vector stands apart
        rest = needed - full * v
        if full > 1:
            with T.serial(0, full) as b:
                each((b * (v * n), b * (v * per_vector), v, n))
        elif full:
            each((const(0, "int32"), const(0, "int32"), v, n))
        if rest:
            first = const(full * v * n, "int32")
            each((first, const(full * v * per_vector, "int32"), rest, ragged or n))

    def emit(self, bufs: tuple[Any, Any, Any, Any]) -> None:
        T, win = self.T, self.win
        if self.tile.channels_outer or win.out_height == 1:

            def each(block: tuple) -> None:
                with T.serial(0, win.out_height) as oh:
                    self.rows(bufs, block, oh)

            self.blocks(each)
        else:
            with T.serial(0, win.out_height) as oh:
                self.blocks(lambda block: self.rows(bufs, block, oh))


def _begin(T: Any, name: str, shapes: list[tuple[tuple[int, ...], str]]) -> list[Any]:
    """Function head: buffers of the tensors' own shapes, and flat views of them."""
    T.func_name(name)
    T.func_attr({"global_symbol": name, "tirx.noalias": True})
    args = [T.arg(f"a{i}", T.buffer(s, d)) for i, (s, d) in enumerate(shapes)]
    return [flat(T, a, s, d) for a, (s, d) in zip(args, shapes, strict=True)]


def flat(T: Any, buffer: Any, shape: tuple[int, ...], dtype: str) -> Any:
    n = 1
    for d in shape:
        n *= d
    return T.decl_buffer((n,), dtype, data=buffer.data)


def linear_function(
    name: str,
    win: Window,
    target: CpuTarget,
    tile: Tile,
    shapes: list[tuple[tuple[int, ...], str]],
    *,
    out: Outgoing | None,
    zero_point: int = 0,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Any:
    """The TIR function of a CONV_2D or FULLY_CONNECTED layer.

    shapes: (shape, dtype) of input, packed weights, table (``Outgoing.table`` flattened, or the
    padded float bias) and output. zero_point: the input's. bounds: a float layer's clamp.
    """
    from tvm.script.ir_builder import IRBuilder

    T = script()
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        x, w, table, y = _begin(T, name, shapes)
        kernel = LinearKernel(win, target, tile, out)
        kernel.bounds = bounds
        if kernel.needs_copy():
            x = kernel.copy_input(x, zero_point if out else 0)
        kernel.emit((x, w, table, y))
    return builder.get()


# -- depthwise -----------------------------------------------------------------------------------


class DepthwiseKernel(LinearKernel):
    """DEPTHWISE_CONV_2D with one output per channel: vectors lie along the channels.

    pairs: no weight is -128, so that two products may be added in 16 bits.
    """

    pairs = False

    def __init__(self, win: Window, target: CpuTarget, tile: Tile, out: Outgoing | None) -> None:
        super().__init__(win, target, tile, out)
        self.group, self.x_offset = 1, 0
        self.x_dtype = "int8" if out else "float32"
        self.w_dtype = "int8" if out else "float32"

    @property
    def direct(self) -> bool:
        """Whether the border is computed tap by tap, without a padded copy of the input: floats in
        whole vectors, where a tap outside adds nothing."""
        kh, kw = self.win.kernel
        whole = self.win.channels % self.lanes == 0
        return self.win.padded and self.out is None and whole and kh * kw <= 25

    def needs_copy(self) -> bool:
        return self.win.padded and not self.direct

    def inside(self, axis: int) -> tuple[int, int]:
        """First and end of the output rows (axis 0) or pixels (1) with the whole window inside."""
        win = self.win
        size = (win.height, win.width)[axis]
        count = (win.out_height, win.out_width)[axis]
        before, reach = win.pads[2 * axis], (win.kernel[axis] - 1) * win.dilation[axis]
        first = min(-(-before // win.stride[axis]), count)
        end = (size - 1 - reach + before) // win.stride[axis] + 1
        return first, max(first, min(end, count))

    def taps(self, axis: int, at_: int) -> list[int]:
        """Window cells of one output row or pixel that lie inside of the input."""
        win = self.win
        size = (win.height, win.width)[axis]
        origin = at_ * win.stride[axis] - win.pads[2 * axis]
        cells = range(win.kernel[axis])
        return [i for i in cells if 0 <= origin + i * win.dilation[axis] < size]

    def emit(self, bufs: tuple[Any, Any, Any, Any]) -> None:
        if not self.direct:
            super().emit(bufs)
            return
        T, win, p = self.T, self.win, self.tile.pixels
        (top, bottom), (left, right) = self.inside(0), self.inside(1)

        def row(block: tuple, oh: Expr, rows: list[int]) -> None:
            def tile(ow: Expr, pixels: int, cols: list[int]) -> None:
                self.tile_sums(bufs, oh, ow, pixels, block, (rows, cols))

            every = list(range(win.kernel[1]))
            for ow in range(left):
                tile(const(ow, "int32"), 1, self.taps(1, ow))
            full, tail = divmod(right - left, p)
            if full:
                with T.serial(0, full) as i:
                    tile(i * p + left, p, every)
            if tail:
                tile(const(left + full * p, "int32"), tail, every)
            for ow in range(right, win.out_width):
                tile(const(ow, "int32"), 1, self.taps(1, ow))

        def rows_of(each: Any) -> None:
            for oh in range(top):
                each(const(oh, "int32"), self.taps(0, oh))
            if bottom > top:
                with T.serial(0, bottom - top) as r:
                    each(r + top, list(range(win.kernel[0])))
            for oh in range(bottom, win.out_height):
                each(const(oh, "int32"), self.taps(0, oh))

        if self.tile.channels_outer:
            self.blocks(lambda block: rows_of(lambda oh, rows: row(block, oh, rows)))
        else:
            rows_of(lambda oh, rows: self.blocks(lambda block: row(block, oh, rows)))

    def tile_sums(
        self,
        bufs: tuple[Any, Any, Any, Any],
        oh: Expr,
        ow: Expr,
        pixels: int,
        block: tuple,
        cells_inside: tuple[list[int], list[int]] | None = None,
    ) -> None:
        T, win = self.T, self.win
        top, left = (win.pads[0], win.pads[2]) if self.direct else (0, 0)
        stride = win.width * win.channels if self.direct else win.row
        x, w, table, y = bufs
        channel, _, _, count = block
        n = self.lanes
        acc = T.alloc_buffer((pixels * n,), self.acc_dtype, scope="local")
        bias = T.Bind(table[at(channel, n)])
        for p in range(pixels):
            T.buffer_store(acc, bias, [at(const(p * n, "int32"), n)])
        (sh, sw), (dh, dw) = win.stride, win.dilation
        kh, kw = win.kernel

        def values(p: int, i: Expr, j: int) -> Expr:
            row = (oh * sh + i * dh - top) * stride
            return x[at(row + ((ow + p) * sw + j * dw - left) * win.channels + channel, n)]

        def weights(i: Expr, j: int) -> Expr:
            return w[at((i * kw + j) * self.padded + channel, n)]

        def add(p: int, term: Expr) -> None:
            slot = at(const(p * n, "int32"), n)
            T.buffer_store(acc, acc[slot] + term, [slot])

        def summed(taps: list[tuple[Expr, int]]) -> None:
            """Add the products of one or two cells of the window. Products of bytes fit 16 bits, and
            so do two of them, as long as no weight is -128."""
            narrow = "int16" if self.out else "float32"
            values_w = [T.Bind(cast(weights(i, j), narrow, n)) for i, j in taps]
            for p in range(pixels):
                terms = [
                    cast(values(p, i, j), narrow, n) * v
                    for (i, j), v in zip(taps, values_w, strict=True)
                ]
                total = terms[0] if len(terms) == 1 else terms[0] + terms[1]
                add(p, cast(total, "int32", n) if self.out else total)

        step = 2 if self.pairs else 1
        if kh * kw <= 25:  # unrolled, pairs may span rows
            within = cells_inside or (list(range(kh)), list(range(kw)))
            cells = [(const(i, "int32"), j) for i in within[0] for j in within[1]]
            for k in range(0, len(cells), step):
                summed(cells[k : k + step])
        else:
            with T.serial(0, kh) as i:
                for j in range(0, kw, step):
                    summed([(i, jj) for jj in range(j, min(j + step, kw))])
        for p in range(pixels):
            value = self.leave(acc[at(const(p * n, "int32"), n)], table, channel)
            index = (oh * win.out_width + ow + p) * win.outputs + channel
            self.store(y, value, index, count)

    @property
    def padded(self) -> int:
        return -(-self.win.outputs // self.lanes) * self.lanes

    def blocks(self, each: Any) -> None:
        T, n = self.T, self.lanes
        full, ragged = divmod(self.win.outputs, n)
        if full > 1:
            with T.serial(0, full) as b:
                each((b * n, const(0, "int32"), 1, n))
        elif full:
            each((const(0, "int32"), const(0, "int32"), 1, n))
        if ragged:
            each((const(full * n, "int32"), const(0, "int32"), 1, ragged))


def depthwise_function(
    name: str,
    win: Window,
    target: CpuTarget,
    tile: Tile,
    shapes: list[tuple[tuple[int, ...], str]],
    *,
    out: Outgoing | None,
    zero_point: int = 0,
    bounds: tuple[float | None, float | None] = (None, None),
    pairs: bool = False,
) -> Any:
    """The TIR function of a DEPTHWISE_CONV_2D layer of multiplier 1.

    As :func:`linear_function`; the weights are ``[kh, kw, padded channels]``, flat. The last
    vector may read up to ``lanes - 1`` elements behind the last pixel: the input is copied where
    the channels are no whole vectors.
    """
    from tvm.script.ir_builder import IRBuilder

    T = script()
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        x, w, table, y = _begin(T, name, shapes)
        kernel = DepthwiseKernel(win, target, tile, out)
        kernel.bounds, kernel.pairs = bounds, pairs
        if kernel.needs_copy() or win.channels % kernel.lanes:
            x = kernel.copy_input(x, zero_point if out else 0)
        kernel.emit((x, w, table, y))
    return builder.get()
