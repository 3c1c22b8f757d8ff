"""Text that comes from outside, such as file names. A leaf module."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` as valid Unicode: bytes of a file name that the locale could not decode (Python's
    lone surrogates) are read as UTF-8, and what is not UTF-8 becomes U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
