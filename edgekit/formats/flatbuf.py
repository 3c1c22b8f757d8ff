"""A flatbuffer reader for files that nobody has verified.

Google's Python runtime has no verifier and follows whatever offset it finds; here every offset,
vtable and vector is checked against the file before it is used, and the total that is read is
bounded by a budget, so that tables which all point at the same bytes cannot make a small file
expensive. Format: the flatbuffers "Internals" document (little-endian; a table starts with the
signed distance back to its vtable; slot ``4 + 2 * id`` of the vtable is a field's offset, 0 when
the field is absent).
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from edgekit.errors import FormatError

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_SCALARS = {f: struct.Struct("<" + f) for f in ("b", "B", "?", "h", "H", "i", "I", "q", "Q", "f")}

_TABLE_COST = 16
_MAX_TABLES = 100_000


class FlatFile:
    """The bytes of a file and what may still be read of them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.budget = 4 * len(data) + (1 << 16)

    def root(self) -> Table:
        return Table(self, self.u32(0))

    def spend(self, amount: int) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise FormatError("the same bytes are used too many times")

    def check(self, pos: int, length: int) -> None:
        if pos < 0 or length < 0 or pos + length > self.size:
            raise FormatError(
                f"{length} bytes at offset {pos} are outside the file's {self.size} bytes"
            )

    def u32(self, pos: int) -> int:
        self.check(pos, 4)
        return int(_U32.unpack_from(self.data, pos)[0])

    def target(self, pos: int) -> int:
        """Where the unsigned offset stored at ``pos`` points."""
        return pos + self.u32(pos)


class Table:
    """A table whose vtable lies inside the file. ``slot`` is the vtable offset, ``4 + 2 * id``."""

    __slots__ = ("_end", "_vtable", "file", "pos")

    def __init__(self, file: FlatFile, pos: int) -> None:
        file.check(pos, 4)
        vtable = pos - int(_I32.unpack_from(file.data, pos)[0])
        file.check(vtable, 4)
        size = int(_U16.unpack_from(file.data, vtable)[0])
        if size < 4:
            raise FormatError(f"the vtable at offset {vtable} has {size} bytes")
        file.check(vtable, size)
        file.spend(_TABLE_COST)
        self.file, self.pos, self._vtable, self._end = file, pos, vtable, size

    def _field(self, slot: int) -> int:
        """The absolute position of a field, 0 when it is absent."""
        if slot + 2 > self._end:
            return 0
        offset = int(_U16.unpack_from(self.file.data, self._vtable + slot)[0])
        return self.pos + offset if offset else 0

    def has(self, slot: int) -> bool:
        return self._field(slot) != 0

    def scalar(self, slot: int, kind: str, default: Any) -> Any:
        """A scalar field; ``kind`` is a struct code (``b B ? h H i I q Q f``)."""
        pos = self._field(slot)
        if not pos:
            return default
        s = _SCALARS[kind]
        self.file.check(pos, s.size)
        return s.unpack_from(self.file.data, pos)[0]

    def table(self, slot: int) -> Table | None:
        pos = self._field(slot)
        return Table(self.file, self.file.target(pos)) if pos else None

    def _vector(self, slot: int, item: int) -> tuple[int, int] | None:
        """(start, length) of a vector of ``item``-byte elements that lies inside the file."""
        pos = self._field(slot)
        if not pos:
            return None
        start = self.file.target(pos)
        length = self.file.u32(start)
        self.file.check(start + 4, length * item)
        return start + 4, length

    def array(self, slot: int, dtype: str, *, free: bool = False) -> np.ndarray:
        """A vector of scalars, a read-only view; empty when absent. ``free``: not budgeted, for
        bulk data that is used without being copied."""
        t = np.dtype(dtype).newbyteorder("<")
        where = self._vector(slot, t.itemsize)
        if where is None:
            return np.empty(0, t)
        if not free:
            self.file.spend(where[1] * t.itemsize)
        return np.frombuffer(self.file.data, t, where[1], where[0])

    def ints(self, slot: int, dtype: str = "int32") -> tuple[int, ...]:
        return tuple(self.array(slot, dtype).tolist())

    def string(self, slot: int) -> str:
        """A string, with what a terminal could stumble over replaced; empty when absent."""
        raw = self.array(slot, "uint8").tobytes().decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in raw)

    def tables(self, slot: int) -> list[Table]:
        where = self._vector(slot, 4)
        if where is None:
            return []
        start, length = where
        if length > _MAX_TABLES:
            raise FormatError(f"{length} tables in one vector; at most {_MAX_TABLES} are read")
        return [Table(self.file, self.file.target(start + 4 * i)) for i in range(length)]
