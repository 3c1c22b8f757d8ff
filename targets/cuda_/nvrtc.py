"""NVIDIA's runtime compiler (NVRTC), in a process of its own:
``python -m edgekit_targets.cuda_.nvrtc LIBRARY SOURCE ARCH OUT INCLUDE...``.

ARCH ``sm_90`` gives machine code, ``compute_90`` PTX. The compiler's messages go to stderr; exit
code 1 when the source does not compile.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def compile_source(
    library: str, source: bytes, arch: str, includes: list[str]
) -> tuple[bytes | None, str]:
    """(machine code or PTX, or None; the log)."""
    for part in sorted(Path(library).parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(part))  # NVRTC looks for it by name alone; loaded is found
    rtc = ctypes.CDLL(library)
    program = ctypes.c_void_p()
    code = rtc.nvrtcCreateProgram(
        ctypes.byref(program), ctypes.c_char_p(source), b"kernels.cu", 0, None, None
    )
    if code:
        return None, f"NVRTC error {code}"
    words = [f"--gpu-architecture={arch}", "--std=c++17", "-w", "--ptxas-options=-v"]
    words += [f"--include-path={i}" for i in includes]
    options = (ctypes.c_char_p * len(words))(*(w.encode() for w in words))
    code = rtc.nvrtcCompileProgram(program, len(words), options)
    size = ctypes.c_size_t()
    rtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(max(size.value, 1))
    rtc.nvrtcGetProgramLog(program, log)
    text = log.value.decode("utf-8", "replace")
    if code:
        return None, text or f"NVRTC error {code}"
    form = "PTX" if arch.startswith("compute_") else "CUBIN"
    if getattr(rtc, f"nvrtcGet{form}Size")(program, ctypes.byref(size)) or not size.value:
        return None, f"NVRTC gives no {form} for {arch}"
    data = ctypes.create_string_buffer(size.value)
    getattr(rtc, f"nvrtcGet{form}")(program, data)
    return data.raw.rstrip(b"\0") if form == "PTX" else data.raw, text


def version(library: str) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    ctypes.CDLL(library).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def main(arguments: list[str]) -> int:
    if arguments[0] == "--version":
        print(version(arguments[1]))
        return 0
    library, source, arch, out, *includes = arguments
    data, log = compile_source(library, Path(source).read_bytes(), arch, includes)
    sys.stderr.write(log)
    if data is None:
        return 1
    Path(out).write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
