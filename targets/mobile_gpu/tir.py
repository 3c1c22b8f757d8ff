"""Writing one OpenCL kernel as a TIR function: launch geometry, storage types, operands.

A kernel's arguments are flat buffers. How a value is *stored* is its :class:`Storage`; arithmetic
is always float32: float16 is a storage type (``vload_half``, ``vstore_half``, which every OpenCL
device has, with or without ``cl_khr_fp16``), int8 is read as ``scale * (q - zero_point)`` and
written rounded, half away from zero, and clamped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgekit.graph.ir import Tensor
from edgekit_targets.tvm_.vector import Expr, cast, const, script

#: Storage types -> TIR's. float16 travels as bits, so that no kernel needs half arithmetic.
TYPES = {
    "float32": "float32",
    "float16": "uint16",
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
}
#: What TVM's source is preceded by.
PRELUDE = """\
#define ek_load_half1(p, i) vload_half((i), (const __global half *)(p))
#define ek_load_half2(p, i) vload_half2(0, (const __global half *)(p) + (i))
#define ek_load_half4(p, i) vload_half4(0, (const __global half *)(p) + (i))
#define ek_store_half1(v, p, i) vstore_half((v), (i), (__global half *)(p))
#define ek_store_half2(v, p, i) vstore_half2((v), 0, (__global half *)(p) + (i))
#define ek_store_half4(v, p, i) vstore_half4((v), 0, (__global half *)(p) + (i))
#define ek_lane0(v) ((v).s0)
#define ek_lane1(v) ((v).s1)
#define ek_lane2(v) ((v).s2)
#define ek_lane3(v) ((v).s3)
"""


@dataclass(frozen=True)
class Storage:
    """dtype: a key of :data:`TYPES`. scale, zero_point: of quantized values; 1 and 0 read numbers
    as they are."""

    dtype: str
    scale: float = 1.0
    zero_point: int = 0
    quantized: bool = False

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize


FLOAT = Storage("float32")


def storage_of(t: Tensor, half: bool) -> Storage:
    """How a computed tensor is stored. half: float32 tensors are stored as float16."""
    if t.is_float:
        return Storage("float16" if half or t.dtype == "float16" else "float32")
    if t.quant is not None:
        return Storage(t.dtype, t.quant.s, t.quant.zp, True)
    return Storage(t.dtype)


def width(n: int) -> int:
    """Elements that one vector access takes where runs of ``n`` elements have to be covered."""
    return 4 if n % 4 == 0 else 2 if n % 2 == 0 else 1


@dataclass(frozen=True)
class Grid:
    """items: work-items needed along x, y, z. local: the work-group. Groups are whole: what lies
    beyond ``items`` does nothing."""

    items: tuple[int, int, int]
    local: tuple[int, int, int]

    @property
    def groups(self) -> tuple[int, int, int]:
        x, y, z = (-(-n // k) for n, k in zip(self.items, self.local, strict=True))
        return x, y, z

    @property
    def size(self) -> tuple[int, int, int]:
        """The global work size, a multiple of the work-group."""
        x, y, z = (n * k for n, k in zip(self.groups, self.local, strict=True))
        return x, y, z


def _power(n: int, most: int) -> int:
    """The power of two that covers ``n`` with least waste, at most ``most``."""
    p = 1
    while p * 2 <= most and p < n:
        p *= 2
    return p


def grid(items: Sequence[int], group: int, limits: Sequence[int]) -> Grid:
    """Work-groups of about ``group`` work-items, x first: neighbours in x read neighbouring
    channels. limits: the device's largest work-group along x, y, z."""
    local = []
    left = group
    for n, limit in zip(items, limits, strict=True):
        k = _power(n, min(left, limit))
        local.append(k)
        left //= k
    return Grid(tuple(items), tuple(local))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Arg:
    """A kernel argument: a tensor of the graph or a constant of the weights file."""

    name: str
    constant: bool
    storage: Storage
    elements: int


@dataclass
class Kernel:
    """One kernel being written. Operands are declared first, then the body inside :meth:`body`."""

    name: str
    group: int
    limits: tuple[int, int, int]
    args: list[Arg] = field(default_factory=list)
    grid: Grid | None = None
    function: Any = None
    local_bytes: int = 0
    _buffers: list[Any] = field(default_factory=list)
    _threads: tuple[Expr, ...] = ()

    def operand(self, arg: Arg) -> int:
        """The argument's number; the same tensor is passed once."""
        for k, known in enumerate(self.args):
            if (known.name, known.constant) == (arg.name, arg.constant):
                return k
        self.args.append(arg)
        return len(self.args) - 1

    @contextmanager
    def body(self, g: Grid, guarded: bool = True) -> Iterator[tuple[Expr, Expr, Expr]]:
        """Global ids x, y, z (variables). guarded: work-items beyond ``g.items`` skip the body;
        kernels with barriers guard their stores themselves."""
        from tvm.script.ir_builder import IRBuilder

        T = script()
        self.grid = g
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name(self.name)
            T.func_attr({"global_symbol": self.name, "tirx.noalias": True})
            self._buffers = [
                T.arg(f"a{i}", T.buffer((a.elements,), TYPES[a.storage.dtype]))
                for i, a in enumerate(self.args)
            ]
            with ExitStack() as stack:
                ids = []
                for axis, n, k in zip("xyz", g.groups, g.local, strict=True):
                    block = stack.enter_context(T.launch_thread(f"blockIdx.{axis}", n))
                    thread = stack.enter_context(T.launch_thread(f"threadIdx.{axis}", k))
                    ids.append(block * k + thread)
                    self._threads = (*self._threads, thread)
                if guarded:
                    for i, n, size in zip(ids, g.items, g.size, strict=True):
                        if n != size:
                            stack.enter_context(T.If(i < n))
                            stack.enter_context(T.Then())
                yield ids[0], ids[1], ids[2]
        self.function = builder.get()

    @property
    def threads(self) -> tuple[Expr, Expr, Expr]:
        """Ids inside of the work-group."""
        x, y, z = self._threads
        return x, y, z

    # -- values ----------------------------------------------------------------------------------

    def raw(self, k: int, index: Expr, n: int = 1) -> Expr:
        """Stored numbers (of integers) as float32, without scale and zero point."""
        T, arg, buffer = script(), self.args[k], self._buffers[k]
        if arg.storage.dtype == "float16":
            return T.call_extern(vec(n), f"ek_load_half{n}", buffer.data, index)
        value = buffer[index if n == 1 else T.Ramp(index, 1, n)]
        return value if arg.storage.dtype == "float32" else cast(value, "float32", n)

    def integer(self, k: int, index: Expr) -> Expr:
        """An int32 constant, such as an entry of an index table."""
        return self._buffers[k][index]

    def load(self, k: int, index: Expr, n: int = 1) -> Expr:
        """``n`` real values from flat ``index``, float32."""
        s = self.args[k].storage
        value = self.raw(k, index, n)
        if s.zero_point:
            value = value - const(s.zero_point, "float32", n)
        return value * const(s.scale, "float32", n) if s.scale != 1.0 else value

    def store(self, k: int, index: Expr, value: Expr, n: int = 1) -> None:
        """Write ``n`` real values at flat ``index``."""
        T, s, buffer = script(), self.args[k].storage, self._buffers[k]
        if s.dtype == "float16":
            T.evaluate(T.call_extern("int32", f"ek_store_half{n}", value, buffer.data, index))
            return
        if s.dtype != "float32":
            value = cast(to_grid(value, s, n), TYPES[s.dtype], n)
        T.buffer_store(buffer, value, [index if n == 1 else T.Ramp(index, 1, n)])

    def store_integer(self, k: int, index: Expr, value: Expr) -> None:
        script().buffer_store(
            self._buffers[k], cast(value, TYPES[self.args[k].storage.dtype], 1), [index]
        )

    def registers(self, count: int, n: int) -> Any:
        """Private float32 vectors."""
        return script().alloc_buffer((count,), vec(n), scope="local")

    def shared(self, count: int, n: int) -> Any:
        """Local memory of the work-group."""
        self.local_bytes += 4 * n * count
        return script().alloc_buffer((count,), vec(n), scope="shared")


def vec(n: int) -> str:
    return "float32" if n == 1 else f"float32x{n}"


def zero(n: int) -> Expr:
    return const(0.0, "float32", n)


def spread(value: Expr, n: int) -> Expr:
    """A scalar in all lanes."""
    return value if n == 1 else script().Broadcast(value, n)


def lane(value: Expr, k: int, n: int) -> Expr:
    return value if n == 1 else script().call_extern("float32", f"ek_lane{k}", value)


def barrier() -> None:
    T = script()
    T.evaluate(T.tvm_storage_sync("shared"))


def to_grid(value: Expr, s: Storage, n: int) -> Expr:
    """Real values as the numbers that are stored, still float32."""
    T = script()
    info = np.iinfo(s.dtype)
    if s.scale != 1.0:
        value = value / const(s.scale, "float32", n)
    value = T.call_extern(vec(n), "round", value)
    if s.zero_point:
        value = value + const(s.zero_point, "float32", n)
    low, high = const(int(info.min), "float32", n), const(int(info.max), "float32", n)
    return T.min(T.max(value, low), high)


def snapped(value: Expr, s: Storage, n: int) -> Expr:
    """What :meth:`Kernel.load` would read after :meth:`Kernel.store`, without memory between."""
    if not s.quantized:
        return value
    value = to_grid(value, s, n) - const(s.zero_point, "float32", n)
    return value * const(s.scale, "float32", n)
