"""Text that comes from outside, such as file names. A leaf module."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` as valid Unicode: bytes of a file name that the locale could not decode (Python's
    lone surrogates) are read as UTF-8, and what is not UTF-8 becomes U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def visible(text: str) -> str:
    """``text`` on one line and without control characters, which could drive a terminal (names in a
    model file are anybody's); they appear as ``\\x1b``, ``\\n``."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
