"""Terminal output of ``calibrate``, ``predict`` and ``configs``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.display import _console, _facts, _rows, _table, number, percent


def calibrated(d: Mapping[str, Any]) -> None:
    c = _console()
    rows = [
        [name, m["samples"], m["terms"], percent(m["median"]), f"± {percent(m['error'])}"]
        for name, m in d["models"].items()
    ]
    c.print(_rows(_table("kernel", ">layers", ">terms", ">median error", ">90 % within"), rows))
    tools = ", ".join(f"{k} {v}" for k, v in d["tools"].items())
    c.print(
        _facts(
            [
                ("device", f"{d['device']} for target {d['target']}, engine {d['engine']}"),
                ("layers", f"{number(d['samples'])} ({d['kind']}, in {d['unit']})"),
                ("errors", "of layers that were left out of the fit"),
                ("table", d["id"]),
                ("tools", tools or "-"),
                ("took", f"{d['seconds']:.1f} s"),
            ]
        )
    )


def predicted(d: Mapping[str, Any]) -> None:
    c = _console()
    unit = d["total"]["unit"]
    rows = [
        [
            la["name"],
            la["op"],
            la["variant"] or "-",
            number(la["macs"]),
            _figure(la[unit], unit),
            f"± {_figure(la['error'], unit)}",
            la["by"],
        ]
        for la in d["layers"]
    ]
    c.print(
        _rows(_table("layer", "op", "kernel", ">MACs", f">{unit} (estimated)", ">", "by"), rows)
    )
    total, memory = d["total"], d["memory"]
    pairs = [("device", f"{d['device']} for target {d['target']}, engine {d['engine']}")]
    if unit != "ms":
        value = f"{_figure(total[unit], unit)} ± {_figure(total['error'], unit)}"
        pairs.append((unit, f"{value} (estimated)"))
    if total["latency_ms"] is not None:
        pairs.append(
            (
                "latency",
                f"{total['latency_ms']:.4g} ± {total['latency_error_ms']:.2g} ms (estimated)",
            )
        )
    if memory:
        flash, ram = number(memory["flash_bytes"]), number(memory["ram_bytes"])
        pairs.append(("memory", f"about {flash} bytes of flash, {ram} of RAM (estimated)"))
    pairs.append(("error bars", "hold 9 of 10 unseen layers, or networks"))
    c.print(_facts(pairs))


def _figure(value: float, unit: str) -> str:
    return f"{value:.4g}" if unit == "ms" else number(round(value))


def configurations(d: Mapping[str, Any]) -> None:
    c = _console()
    columns = (
        "target", "engine", "optimize", "quantization", ">latency ms", "kind", ">cycles", ">flash",
        ">RAM", ">accuracy", ">as given", ">agreement", "",
    )  # fmt: skip
    rows = []
    for r in d["configs"]:
        note = "" if r["fits"] else ("does not fit: " if r["fits"] is False else "") + r["reason"]
        rows.append(
            [
                r["target"],
                r["engine"],
                r["optimize"],
                r["quantization"] or "-",
                "-" if r["latency_ms"] is None else f"{r['latency_ms']:.4g}",
                r["kind"] or "-",
                number(r["cycles"]),
                number(r["flash_bytes"]),
                number(r["ram_bytes"]),
                percent(r["accuracy"]),
                percent(r["reference_accuracy"]),
                percent(r["agreement"]),
                note,
            ]
        )
    c.print(_rows(_table(*columns), rows))
    others = sum(len(rows) for rows in d["tried"].values()) - len(d["configs"])
    pairs = [("best by", f"{d['prefer']}, of what fits; {others} other configurations tried")]
    pairs.append(("kinds", "latencies of different kinds are not to be compared"))
    c.print(_facts(pairs))
