"""Handwritten C kernels. ``ref/`` is portable C; the other folders are one instruction set each."""

from __future__ import annotations

from pathlib import Path


def source_root() -> Path:
    """The folder that :attr:`KernelCall.sources` paths are relative to (``include/``, ``ref/``)."""
    return Path(__file__).resolve().parent


def include_dir() -> Path:
    """The folder of the kernel headers."""
    return source_root() / "include"


def reference_sources() -> list[Path]:
    """Every portable C file, sorted: what builds and runs on any host."""
    return sorted((source_root() / "ref").glob("*.c"))
