"""Counting executed blocks on Unicorn: the same record from a hook in Python (always there, the
reference) and from a hook in C (several times faster, see ``native/``).

Both are fed by UC_HOOK_BLOCK, which fires when a translation block starts. That is exact: Unicorn
ends a block at every branch, exception and semihosting call, and an instruction that an IT block
skips still counts, as it does on silicon and for QEMU's ``-icount``.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any, Protocol

from edgekit.devices.blocks import Block, instruction_sizes

#: Blocks between two looks at the wall clock.
CLOCK_STRIDE = 1 << 14

RUNNING, OUT_OF_BUDGET, OUT_OF_TIME, FAILED, STUCK = 0, 1, 2, 3, 4
#: ``b .``: without interrupts nothing ends it.
_SELF_BRANCH = b"\xfe\xe7"


class Counter(Protocol):
    """instructions: executed so far, the current block included. stopped: why the counter itself
    ended the run (``RUNNING`` when it did not). last: (address, size) of the current block."""

    name: str

    @property
    def instructions(self) -> int: ...

    @property
    def stopped(self) -> int: ...

    @property
    def last(self) -> tuple[int, int]: ...

    def install(self, uc: Any) -> None: ...

    def blocks(self) -> list[Block]: ...


class PythonCounter:
    """Block hook in Python. sections: addresses at whose execution the section changes."""

    name = "python"

    def __init__(self, sections: Sequence[int], budget: int, deadline: float) -> None:
        self.instructions = 0
        self.stopped = RUNNING
        self.last = (0, 0)
        self._switch = {address: i + 1 for i, address in enumerate(sections)}
        self._budget, self._deadline = budget, deadline
        self._section = 0
        # (section, address, size) -> [executions, taken, instructions, code]
        self._table: dict[tuple[int, int, int], list[Any]] = {}
        self._previous: list[Any] | None = None
        self._next = 0
        self._until_clock = CLOCK_STRIDE

    def install(self, uc: Any) -> None:
        from unicorn import UC_HOOK_BLOCK

        uc.hook_add(UC_HOOK_BLOCK, self._hook)

    def _hook(self, uc: Any, address: int, size: int, _data: Any) -> None:
        section = self._switch.get(address)
        if section is not None:
            self._section = section
        key = (self._section, address, size)
        entry = self._table.get(key)
        if entry is None:
            code = bytes(uc.mem_read(address, size))
            entry = self._table[key] = [0, 0, len(instruction_sizes(code)), code]
        entry[0] += 1
        self.instructions += entry[2]
        if self._previous is not None and self._next != address:
            self._previous[1] += 1
        self._previous, self._next = entry, address + size
        self.last = (address, size)
        if entry[3] == _SELF_BRANCH:
            self.stopped = STUCK
            uc.emu_stop()
        if self.instructions > self._budget:
            self.stopped = OUT_OF_BUDGET
            uc.emu_stop()
        self._until_clock -= 1
        if not self._until_clock:
            self._until_clock = CLOCK_STRIDE
            if time.monotonic() > self._deadline:
                self.stopped = OUT_OF_TIME
                uc.emu_stop()

    def blocks(self) -> list[Block]:
        return [
            Block(section, address, e[3], e[0], e[1])
            for (section, address, _), e in sorted(self._table.items())
        ]


class _Entry(ctypes.Structure):
    _fields_ = [
        ("executions", ctypes.c_uint64),
        ("taken", ctypes.c_uint64),
        ("address", ctypes.c_uint32),
        ("size", ctypes.c_uint32),
        ("instructions", ctypes.c_uint32),
        ("section", ctypes.c_uint32),
        ("switch_to", ctypes.c_uint32),
        ("code", ctypes.c_uint32),
        ("stuck", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class _State(ctypes.Structure):
    """``struct ek_state`` of native/blockhook.c, field by field."""

    _fields_ = [
        ("instructions", ctypes.c_uint64),
        ("budget", ctypes.c_uint64),
        ("deadline_ns", ctypes.c_uint64),
        ("mem_read", ctypes.c_void_p),
        ("emu_stop", ctypes.c_void_p),
        ("section_address", ctypes.POINTER(ctypes.c_uint32)),
        ("entries", ctypes.POINTER(_Entry)),
        ("index", ctypes.c_void_p),
        ("code", ctypes.POINTER(ctypes.c_uint8)),
        ("sections", ctypes.c_uint32),
        ("section", ctypes.c_uint32),
        ("used", ctypes.c_uint32),
        ("room", ctypes.c_uint32),
        ("code_used", ctypes.c_uint32),
        ("code_room", ctypes.c_uint32),
        ("previous", ctypes.c_uint32),
        ("next_address", ctypes.c_uint32),
        ("last_address", ctypes.c_uint32),
        ("last_size", ctypes.c_uint32),
        ("until_clock", ctypes.c_uint32),
        ("clock_stride", ctypes.c_uint32),
        ("stopped", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class NativeCounter:
    """Block hook in C (``native/blockhook.c``), called by Unicorn without passing through Python."""

    name = "c"

    def __init__(
        self, library: ctypes.CDLL, sections: Sequence[int], budget: int, deadline: float
    ) -> None:
        self._library = library
        library.ek_release.argtypes = [ctypes.POINTER(_State)]
        library.ek_state_bytes.restype = ctypes.c_size_t
        if library.ek_state_bytes() != ctypes.sizeof(_State):
            raise OSError("the compiled block hook has another layout than this version expects")
        self._sections = (ctypes.c_uint32 * max(1, len(sections)))(*sections)
        self._state = _State(
            budget=budget,
            deadline_ns=int(deadline * 1e9),
            section_address=ctypes.cast(self._sections, ctypes.POINTER(ctypes.c_uint32)),
            sections=len(sections),
            clock_stride=CLOCK_STRIDE,
            until_clock=CLOCK_STRIDE,
        )

    def install(self, uc: Any) -> None:
        from unicorn import UC_HOOK_BLOCK
        from unicorn.unicorn_py3 import unicorn as binding

        lib = binding.uclib
        address = lambda f: ctypes.cast(f, ctypes.c_void_p).value  # noqa: E731
        self._state.mem_read = address(lib.uc_mem_read)
        self._state.emu_stop = address(lib.uc_emu_stop)
        handle = ctypes.c_size_t()
        # Through a fresh handle: the binding's own prototypes are made for its Python callbacks.
        raw = ctypes.CDLL(lib._name).uc_hook_add
        raw.restype = ctypes.c_int
        raw.argtypes = [
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint64,
            ctypes.c_uint64,
        ]
        status = raw(
            uc._uch,
            ctypes.byref(handle),
            UC_HOOK_BLOCK,
            address(self._library.ek_block_hook),
            ctypes.addressof(self._state),
            1,
            0,
        )
        if status:
            raise OSError(f"Unicorn refused the native block hook (error {status})")

    @property
    def instructions(self) -> int:
        return int(self._state.instructions)

    @property
    def stopped(self) -> int:
        return int(self._state.stopped)

    @property
    def last(self) -> tuple[int, int]:
        return int(self._state.last_address), int(self._state.last_size)

    def blocks(self) -> list[Block]:
        state = self._state
        code = ctypes.string_at(state.code, state.code_used) if state.code_used else b""
        out = []
        for i in range(state.used):
            e = state.entries[i]
            if e.executions:
                out.append(
                    Block(
                        e.section, e.address, code[e.code : e.code + e.size], e.executions, e.taken
                    )
                )
        return sorted(out, key=lambda b: (b.section, b.start, len(b.code)))

    def __del__(self) -> None:
        if hasattr(self, "_state"):
            self._library.ek_release(ctypes.byref(self._state))
