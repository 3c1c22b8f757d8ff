"""The private peripheral bus of a virtual Cortex-M: SysTick, DWT, system control.

Time is virtual: one tick of SysTick and of DWT CYCCNT an executed instruction, so that firmware
which measures or waits for time gets plausible, repeatable values. No interrupt is ever delivered.
Addresses: Armv7-M Architecture Reference Manual, B3.2 (SCS), B3.3 (SysTick), C1.8 (DWT).
"""

from __future__ import annotations

from collections.abc import Callable

BASE, SIZE = 0xE0000000, 0x00100000
CPACR = 0xED88
_SYST_CSR, _SYST_RVR, _SYST_CVR, _SYST_CALIB = 0xE010, 0xE014, 0xE018, 0xE01C
_DWT_CTRL, _DWT_CYCCNT = 0x1000, 0x1004
_CPUID, _AIRCR = 0xED00, 0xED0C
_TICKINT = 2


class SystemReset(Exception):
    """Firmware asked for a reset through AIRCR."""


class PrivatePeripherals:
    """Registers by offset from 0xE0000000; what is not modelled reads back what was written."""

    def __init__(self, cpuid: int, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._store: dict[int, int] = {
            _CPUID: cpuid,
            CPACR: 0x00F00000,
            _DWT_CTRL: 0x40000000,
            _SYST_CALIB: 0xC0000000,
            _AIRCR: 0xFA050000,
        }
        self._tick_base = 0  # instruction count at which CVR was last cleared or enabled
        self._tick_reads = 0
        self._flag_from = 0
        self._cycle_base = 0

    @property
    def wants_interrupts(self) -> bool:
        """True when firmware enabled the SysTick interrupt, which nobody will deliver."""
        return bool(self._store.get(_SYST_CSR, 0) & _TICKINT)

    def read(self, offset: int, size: int) -> int:
        word, shift = offset & ~3, 8 * (offset & 3)
        return (self._word(word) >> shift) & ((1 << 8 * size) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        word, shift = offset & ~3, 8 * (offset & 3)
        if size < 4:
            mask = ((1 << 8 * size) - 1) << shift
            value = (self._store.get(word, 0) & ~mask) | (value << shift & mask)
        value &= 0xFFFFFFFF
        if word == _CPUID:
            return
        if word == _SYST_CVR:
            self._tick_base = self._flag_from = self._clock()
            return
        if word == _SYST_CSR and value & 1 and not self._store.get(word, 0) & 1:
            self._tick_base = self._flag_from = self._clock()
        if word == _DWT_CYCCNT:
            self._cycle_base = self._clock() - value
            return
        if word == _AIRCR:
            if value >> 16 == 0x05FA and value & 4:
                raise SystemReset
            value = 0xFA050000 | value & 0x700
        self._store[word] = value

    def _word(self, word: int) -> int:
        value = self._store.get(word, 0)
        if word == _SYST_CVR:
            return self._current()
        if word == _SYST_CSR:
            now = self._clock()
            period = (self._store.get(_SYST_RVR, 0) & 0xFFFFFF) + 1
            wraps = (now - self._tick_base) // period - (
                self._flag_from - self._tick_base
            ) // period
            self._flag_from = now
            return value & 7 | (0x10000 if value & 1 and wraps > 0 else 0)
        if word == _DWT_CYCCNT:
            counting = self._store.get(_DWT_CTRL, 0) & 1
            return (self._clock() - self._cycle_base) & 0xFFFFFFFF if counting else 0
        return value

    def _current(self) -> int:
        if not self._store.get(_SYST_CSR, 0) & 1:
            return 0
        reload = self._store.get(_SYST_RVR, 0) & 0xFFFFFF
        # The clock stands still inside a block; each read moves on by one so that a loop without
        # a branch in between still sees time pass.
        self._tick_reads += 1
        return reload - (self._clock() + self._tick_reads - self._tick_base) % (reload + 1)
