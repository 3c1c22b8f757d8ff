"""How values are written on the page: numbers, sizes, and names that nobody vouches for."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

#: What stands for a value that is not known.
NONE = "–"


def clean(text: str) -> str:
    """``text`` without what could break or disguise a page: control and format characters (such as
    bidirectional overrides), surrogates and unassigned code points become one visible dot."""
    return "".join(
        "·" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else c
        for c in text
    )


def short(name: str, width: int = 32) -> str:
    """``name`` in at most ``width`` characters, the middle left out."""
    name = clean(name)
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"


def figure(value: Any) -> float | None:
    """A finite number, or None for anything else (documents may have been edited by hand)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def whole(value: Any) -> int | None:
    """An integer, or None for anything else."""
    n = figure(value)
    return None if n is None else int(n)


def mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def rows(value: Any) -> list[dict[str, Any]]:
    """The mappings in a list; everything else is left out."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return []
    return [dict(v) for v in value if isinstance(v, Mapping)]


def number(value: Any, digits: int = 2) -> str:
    """Thousands separated; integers exact, others to ``digits`` places."""
    n = figure(value)
    if n is None:
        return NONE
    return f"{n:,}" if isinstance(n, int) else f"{n:,.{digits}f}"


def compact(value: Any) -> str:
    """Three significant digits with k, M or G: for labels, never for a table."""
    n = figure(value)
    if n is None:
        return NONE
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= limit:
            return f"{n / limit:.3g} {unit}"
    return f"{n:.3g}"


def size(value: Any) -> str:
    """Bytes in the unit people read: ``95.9 KiB``."""
    n = figure(value)
    if n is None:
        return NONE
    for limit, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n >= limit:
            return f"{n / limit:.1f} {unit}".replace(".0 ", " ")
    return f"{int(n)} B"


def duration(ms: Any) -> str:
    """Milliseconds with sensible digits: ``200.8 ms``, ``0.85 ms``, ``2.31 s``."""
    n = figure(ms)
    if n is None:
        return NONE
    if n >= 1000:
        return f"{n / 1000:,.2f} s"
    return f"{n:.1f} ms" if n >= 10 else f"{n:.2f} ms" if n >= 0.1 else f"{n * 1000:.1f} µs"


def percent(value: Any, digits: int = 2) -> str:
    """A share 0..1 as per cent."""
    n = figure(value)
    return NONE if n is None else f"{100 * n:.{digits}f} %"


def shape(value: Any) -> str:
    """``32×32×16`` for ``[1, 32, 32, 16]``; the batch of one says nothing."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return NONE
    dims = [str(whole(d) or 0) for d in value]
    if len(dims) > 1 and dims[0] == "1":
        dims = dims[1:]
    return "×".join(dims) or "scalar"
