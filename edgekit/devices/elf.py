"""Bare-metal Arm ELF files: segments to load, functions, symbols, where execution starts."""

from __future__ import annotations

import bisect
import io
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgekit.errors import InputError

#: Nothing that fits a microcontroller is larger; a larger file is not firmware.
MAX_BYTES = 512 << 20
#: Names under which start-up files of vendors and CMSIS keep their vector table.
_VECTOR_SYMBOLS = (
    "__Vectors",
    "__vectors",
    "__VECTOR_TABLE",
    "__vector_table",
    "__isr_vector",
    "g_pfnVectors",
    "vector_table",
    "_vectors",
    "vectors",
    "__ek_vectors",
)
_VECTOR_ADDRESSES = (0x0, 0x08000000, 0x00200000, 0x10000000, 0x60000000)


@dataclass(frozen=True)
class Segment:
    """A loadable segment: at run time it lies at ``address``, in the file's image at ``physical``
    (its load address; start-up code copies data from there)."""

    address: int
    physical: int
    data: bytes
    size: int
    writable: bool
    executable: bool


@dataclass(frozen=True)
class Function:
    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Boot:
    """How the core starts. vectors: address of the vector table, None when there is none (the core
    then starts at the ELF entry with a stack that the emulator provides)."""

    pc: int
    sp: int | None
    vectors: int | None


class Firmware:
    """A parsed ELF file. Raises InputError, in one sentence, for anything that is not a 32-bit
    little-endian Arm executable (ELF for the Arm Architecture, ARM IHI 0044)."""

    def __init__(self, data: bytes, name: str = "firmware") -> None:
        self.name = name
        self.segments: list[Segment] = []
        self.symbols: dict[str, int] = {}  #: name -> address without the Thumb bit
        self._sized: dict[str, int] = {}  #: name -> size in bytes, of sized symbols
        self._functions: list[tuple[str, int, int]] = []
        self._labels: list[tuple[str, int]] = []  #: untyped global symbols in code (assembly)
        self._code_ends: list[int] = []
        self._parse(data)

    @classmethod
    def from_path(cls, path: Path) -> Firmware:
        path = Path(path)
        if not path.is_file():
            raise InputError(f"the firmware file '{path}' does not exist or is not a plain file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                f"'{path.name}' has {size:,} bytes, more than the {MAX_BYTES:,} accepted as firmware"
            )
        return cls(path.read_bytes(), path.name)

    def _refuse(self, why: str) -> InputError:
        return InputError(
            f"'{self.name}' {why}; a linked, little-endian 32-bit Arm ELF executable is accepted"
        )

    def _parse(self, data: bytes) -> None:
        if not data:
            raise self._refuse("is empty")
        if data[:4] != b"\x7fELF":
            raise self._refuse("is not an ELF file")
        try:
            self._read(data)
        except InputError:
            raise
        except Exception as error:  # pyelftools raises many kinds on damaged files
            raise self._refuse(f"is a damaged ELF file ({type(error).__name__})") from None

    def _read(self, data: bytes) -> None:
        from elftools.elf.elffile import ELFFile
        from elftools.elf.sections import SymbolTableSection

        elf = ELFFile(io.BytesIO(data))
        if elf.elfclass != 32 or not elf.little_endian or elf["e_machine"] != "EM_ARM":
            machine = str(elf["e_machine"]).removeprefix("EM_")
            raise self._refuse(f"is a {elf.elfclass}-bit ELF file for {machine}")
        if elf["e_type"] != "ET_EXEC":
            raise self._refuse("is an object or shared library, not a linked executable")
        self.entry = int(elf["e_entry"]) & ~1
        for seg in elf.iter_segments("PT_LOAD"):
            size, filesz = int(seg["p_memsz"]), int(seg["p_filesz"])
            if size == 0:
                continue
            image = data[seg["p_offset"] : seg["p_offset"] + filesz]
            if len(image) != filesz:
                raise self._refuse("is truncated: a segment lies beyond the end of the file")
            address = int(seg["p_vaddr"])
            if size < filesz or address + size > 1 << 32 or size > MAX_BYTES:
                raise self._refuse(f"has a segment of {size:,} bytes at {address:#x}")
            flags = int(seg["p_flags"])
            self.segments.append(
                Segment(address, int(seg["p_paddr"]), image, size, bool(flags & 2), bool(flags & 1))
            )
        if not any(s.executable for s in self.segments):
            raise self._refuse("has no executable segment")
        code = {i for i, s in enumerate(elf.iter_sections()) if s["sh_flags"] & 4 and s["sh_size"]}
        ends = [int(s["sh_addr"] + s["sh_size"]) for s in elf.iter_sections() if s["sh_flags"] & 4]
        self._code_ends = sorted(ends)
        for table in elf.iter_sections():
            if not isinstance(table, SymbolTableSection):
                continue
            for sym in table.iter_symbols():
                kind = sym["st_info"]["type"]
                if not sym.name or sym["st_shndx"] == "SHN_UNDEF" or sym.name[0] == "$":
                    continue
                if kind in ("STT_FILE", "STT_SECTION"):
                    continue
                value = int(sym["st_value"])
                if kind == "STT_FUNC":
                    value &= ~1
                    self._functions.append((sym.name, value, int(sym["st_size"])))
                elif kind == "STT_NOTYPE" and sym["st_shndx"] in code:
                    value &= ~1
                    if sym["st_info"]["bind"] == "STB_GLOBAL":
                        self._labels.append((sym.name, value))
                self.symbols.setdefault(sym.name, value)
                if sym["st_size"]:
                    self._sized.setdefault(sym.name, int(sym["st_size"]))

    @cached_property
    def functions(self) -> list[Function]:
        """Functions by address, not overlapping. A function without a size (assembly) reaches to the
        next one, or to the end of its section; of aliases the global-looking name is kept."""
        by_start: dict[int, tuple[str, int]] = {}
        for name, start, size in self._functions:
            old = by_start.get(start)
            # Weak aliases of one address: the longer range wins, then the shorter name.
            if old is None or (size, -len(name)) > (old[1], -len(old[0])):
                by_start[start] = (name, size)
        # A label that assembly did not declare as a function is one, unless it lies inside of one.
        sized = sorted((start, start + size) for start, (_, size) in by_start.items() if size)
        lows = [low for low, _ in sized]
        for name, start in self._labels:
            i = bisect.bisect_right(lows, start) - 1
            if start not in by_start and (i < 0 or start >= sized[i][1]):
                by_start[start] = (name, 0)
        starts = sorted(by_start)
        seen: dict[str, int] = {}
        out: list[Function] = []
        for i, start in enumerate(starts):
            name, size = by_start[start]
            limit = starts[i + 1] if i + 1 < len(starts) else 1 << 32
            k = bisect.bisect_right(self._code_ends, start)
            section_end = self._code_ends[k] if k < len(self._code_ends) else limit
            end = min(limit, start + size if size else section_end)
            seen[name] = seen.get(name, 0) + 1
            label = name if seen[name] == 1 else f"{name} ({start:#x})"
            out.append(Function(label, start, end))
        return out

    @cached_property
    def _starts(self) -> list[int]:
        return [f.start for f in self.functions]

    def function_at(self, address: int) -> Function | None:
        i = bisect.bisect_right(self._starts, address) - 1
        if i < 0 or address >= self.functions[i].end:
            return None
        return self.functions[i]

    def where(self, address: int) -> str:
        """``0x1234 (main+0x12)``, for messages."""
        fn = self.function_at(address)
        return f"{address:#010x}" + (f" ({fn.name}+{address - fn.start:#x})" if fn else "")

    def address_of(self, symbol: str) -> int:
        """Address of a symbol (Thumb bit cleared); InputError when the file has none of that name."""
        try:
            return self.symbols[symbol]
        except KeyError:
            raise InputError(f"'{self.name}' has no symbol '{symbol}'") from None

    def size_of(self, symbol: str) -> int | None:
        """Bytes of a sized symbol, None when it has no size."""
        return self._sized.get(symbol)

    def read_image(self, address: int, size: int) -> bytes | None:
        """Initial contents at a run-time address; None where the file has no bytes."""
        for seg in self.segments:
            offset = address - seg.address
            if offset >= 0 and offset + size <= len(seg.data):
                return seg.data[offset : offset + size]
        return None

    def _executable(self, address: int) -> bool:
        return any(
            s.executable and s.address <= address < s.address + s.size for s in self.segments
        )

    @cached_property
    def boot(self) -> Boot:
        """Where execution starts: through a vector table when there is one (Armv7-M ARM, B1.5.5)."""
        named = [self.symbols[s] for s in _VECTOR_SYMBOLS if s in self.symbols]
        lowest = min(s.address for s in self.segments)
        for address in dict.fromkeys([*_VECTOR_ADDRESSES, *named, lowest]):
            words = self.read_image(address, 8)
            if words is None or address % 4:
                continue
            sp, pc = struct.unpack("<II", words)
            if not (pc & 1 and sp and sp % 4 == 0 and self._executable(pc & ~1)):
                continue
            if address in _VECTOR_ADDRESSES or address in named or pc & ~1 == self.entry:
                return Boot(pc & ~1, sp, address)
        if not self._executable(self.entry):
            raise self._refuse(
                f"has no vector table and its entry point {self.entry:#x} is not in a code segment"
            )
        return Boot(self.entry, None, None)
