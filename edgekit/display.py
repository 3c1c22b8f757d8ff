"""Terminal output: the same documents that ``--json`` prints, as tables for people."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgekit.artifact import write_bytes
from edgekit.text import visible


def _console() -> Console:
    console = Console(highlight=False)
    # Piped into a file or a pager there is no width to fit: never cut names there.
    return console if console.is_terminal else Console(highlight=False, width=160)


def number(value: Any) -> str:
    """Thousands separated; ``-`` for what was not measured."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    for c in columns:
        right = c.startswith(">")
        table.add_column(c.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return table


def _rows(table: Table, rows: Sequence[Sequence[Any]]) -> Table:
    for row in rows:
        table.add_row(*[v if isinstance(v, Text) else Text(visible(str(v))) for v in row])
    return table


def _facts(pairs: Sequence[tuple[str, Any]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return _rows(table, pairs)


def inspection(d: Mapping[str, Any]) -> None:
    c = _console()
    c.print(Text(visible(f"{d['name']} ({d['format']}), {d['quantization']}"), style="bold"))
    for kind in ("inputs", "outputs"):
        for t in d[kind]:
            scale = "" if t["scale"] is None else f"  scale {t['scale']:g} zero {t['zero_point']}"
            c.print(Text(visible(f"  {kind[:-1]} {t['name']}: {t['dtype']}{t['shape']}{scale}")))
    rows = [
        (o["name"], o["op"], " ".join(o["outputs"]), number(o["macs"]), number(o["parameters"]))
        for o in d["ops"]
    ]
    c.print(_rows(_table("node", "op", "output", ">MACs", ">parameters"), rows))
    live = "not known: " + "unsupported operators" if d["live_macs"] is None else ""
    c.print(
        _facts(
            [
                ("MACs", f"{number(d['macs'])}, live {live or number(d['live_macs'])}"),
                ("parameters", f"{number(d['parameters'])}, live "
                 f"{live or number(d['live_parameters'])} ({number(d['parameter_bytes'])} bytes)"),
            ]
        )
    )  # fmt: skip
    for r in d["dead_channels"]:
        c.print(
            Text(
                f"  dead: {visible(r['tensor'])}: {r['constant']} constant, {r['unread']} unread "
                f"of {r['channels']} channels"
            )
        )
    for u in d["unsupported"]:
        c.print(
            Text(visible(f"  unsupported: {u['node']} ({u['op']}): {u['reason']}"), style="red")
        )


def targets(entries: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for e in entries:
        engines = ", ".join(
            g["name"] + ("" if g["usable"] else f" (no: {g['why_not']})") for g in e["engines"]
        )
        rows.append((e["name"], e["family"], e["board"], engines or f"broken: {e['error']}"))
    _console().print(_rows(_table("target", "family", "board", "engines"), rows))


def target(d: Mapping[str, Any]) -> None:
    c = _console()
    pairs: list[tuple[str, Any]] = [
        (k, d[k]) for k in ("name", "family", "description", "board", "source", "default_device")
    ]
    for core in d["cores"]:
        pairs.append(
            ("core", f"{core['count']} x {core['name']} ({core['isa']}; "
             f"{', '.join(core['features']) or 'no features'}) at {core['clock_hz'] / 1e6:g} MHz")
        )  # fmt: skip
    for m in d["memories"]:
        pairs.append(("memory", f"{m['name']}: {number(m['size'])} bytes {m['role']}"
                      + (f", {m['wait_states']} wait states" if m["wait_states"] else "")))  # fmt: skip
    for e in d["engines"]:
        pairs.append(("engine", e["name"] + ("" if e["usable"] else f": {e['why_not']}")))
        pairs += [("", f"--option {k}=: {v}") for k, v in e["options"].items()]
    c.print(_facts(pairs))


def devices(d: Mapping[str, Any]) -> None:
    c = _console()
    rows = [
        (t["name"], "yes" if t["usable"] else "no", t["why_not"] or "",
         " ".join(x["name"] for x in d["devices"] if x["transport"] == t["name"]))
        for t in d["transports"]
    ]  # fmt: skip
    c.print(_rows(_table("transport", "usable", "why not", "devices"), rows))
    named = [
        (x["name"], x["transport"], x["state"], x["fingerprint"] or "",
         x["why_not"] or x["facts"].get("description", ""))
        for x in d["devices"] if "from" in x
    ]  # fmt: skip
    if named:
        c.print(_rows(_table("device", "transport", "state", "fingerprint", ""), named))


def compiled(d: Mapping[str, Any]) -> None:
    c = _console()
    rows = [
        (
            p["name"],
            p["op"],
            p.get("variant", ""),
            number(p.get("macs")),
            number(p.get("flash_bytes")),
        )
        for p in d["plan"]
    ]
    c.print(_rows(_table("layer", "op", "kernel", ">MACs", ">flash"), rows))
    m = d["memory"]
    reasons = [
        (p["name"], f"{p['op']} on the {p['variant']}: {p['details']['reason']}")
        for p in d["plan"]
        if p.get("details", {}).get("reason")
    ]
    if reasons:  # what an accelerator left to the processor beside it
        c.print(_facts(reasons))
    c.print(
        _facts(
            [
                ("target", f"{d['target']['name']} ({d['target']['board']}), engine {d['engine']}"),
                (
                    "memory",
                    ", ".join(f"{k} {number(v)}" for k, v in m.items() if isinstance(v, int)),
                ),
                ("artifact", d["artifact"]),
            ]
        )
    )


def explained(d: Mapping[str, Any]) -> None:
    """Every layer with the kernels it could have had: figures, or why not."""
    c = _console()
    rows = []
    for p in d["plan"]:
        candidates = p.get("candidates", [])
        for k, o in enumerate(candidates):
            counted = (number(o.get("instructions")), number(o.get("cycles")))
            why = o.get("rejected") or ("chosen" if o["chosen"] else "")
            if len(candidates) == 1 and o["chosen"]:
                why = "the only one"
            rows.append(
                (
                    p["name"] if k == 0 else "",
                    p["op"] if k == 0 else "",
                    o["variant"],
                    *counted,
                    number(o.get("const_bytes")),
                    number(o.get("scratch_bytes")),
                    why,
                )
            )
    if rows:
        head = ("layer", "op", "kernel", ">instructions", ">cycles", ">constants", ">scratch", "")
        c.print(_rows(_table(*head), rows))
        by = d["details"].get("kernels_chosen_by")
        why = d["details"].get("kernels_not_counted")
        c.print(f"chosen by {by}" + (f": {visible(why)}" if why else ""))
    compiled(d)


def ran(d: Mapping[str, Any]) -> None:
    for o in d["outputs"]:
        print(f"{visible(o['name'])}: {o['dtype']}{o['shape']}")
    print(d["out"])


def profile(d: Mapping[str, Any]) -> None:
    c = _console()
    kinds = d["kinds"]
    measured = any(la["time_ms"] is not None for la in d["layers"])
    columns = ["layer", "op", ">MACs"]
    columns += [">ms (measured)"] if measured else []
    counted = [
        k
        for k in ("instructions", "cycles")
        if d["total"][k] is not None or (not measured and any(la[k] for la in d["layers"]))
    ]
    columns += [f">{k} ({kinds.get(k, d['kind'])})" for k in counted]
    rows = []
    for la in d["layers"]:
        row: list[Any] = [la["name"], la["op"], number(la["macs"])]
        row += [number(la["time_ms"])] if measured else []
        row += [number(la[k]) for k in counted]
        rows.append(row)
    c.print(_rows(_table(*columns), rows))
    _totals(c, d)


def _totals(c: Console, d: Mapping[str, Any]) -> None:
    total, kinds, memory = d["total"], d["kinds"], d["memory"]
    pairs: list[tuple[str, Any]] = [
        ("device", f"{d['device']} for target {d['target']}, engine {d['engine']}")
    ]
    for key, unit in (("instructions", ""), ("cycles", ""), ("latency_ms", " ms")):
        if total[key] is not None:
            name = "latency" if key == "latency_ms" else key
            pairs.append((name, f"{number(total[key])}{unit} ({kinds.get(key, d['kind'])})"))
    taken = d["details"].get("measurement")
    if taken:
        low, high = taken["interval_ms"]
        pairs.append(
            ("", f"95 % interval {number(low)} to {number(high)}, min {number(taken['min_ms'])}, "
             f"p90 {number(taken['p90_ms'])} ms, {taken['runs']} runs")
        )  # fmt: skip
        pairs.append(("quality", quality(taken)))
        if taken.get("energy"):
            e = taken["energy"]
            pairs.append(
                ("energy", f"{number(e['millijoules'])} mJ ({e['source']}, all it counted)")
            )
    if d["details"].get("complete") is False:
        without = [la["name"] for la in d["layers"] if la.get("not_costed")]
        pairs.append(("not counted", f"{', '.join(without[:5])}: the total is incomplete"))
    parts = ", ".join(
        f"{k.removesuffix('_bytes')} {number(v)}"
        for k, v in memory.items()
        if k not in ("flash_bytes", "ram_bytes")
    )
    if d["details"].get("untuned"):
        which = f"{d['details']['untuned']} of {d['details']['tunable']} kernels"
        pairs.append(("untuned", f"{which}: no tuning record; 'edgekit tune' makes them"))
    pairs.append(("flash", f"{number(memory.get('flash_bytes'))} bytes"))
    pairs.append(
        ("RAM", f"{number(memory.get('ram_bytes'))} bytes" + (f" ({parts})" if parts else ""))
    )
    c.print(_facts(pairs))


def quality(taken: Mapping[str, Any]) -> Text:
    """The verdict on a measurement, with its reasons."""
    style = "green" if taken["quality"] == "ok" else "bold red"
    why = "; ".join([*taken["reasons"], *taken.get("notes", [])])
    return Text(visible(f"{taken['quality']}{f': {why}' if why else ''}"), style=style)


def comparison(d: Mapping[str, Any]) -> None:
    """The two sides of ``compare``, and the ratio."""
    c = _console()
    unit = "" if d["unit"] == "instructions" or d["unit"] == "cycles" else f" {d['unit']}"
    rows = [
        (name, s["artifact"], s["target"], s["engine"], f"{number(s['value'])}{unit}")
        for name, s in (("A", d["a"]), ("B", d["b"]))
    ]
    c.print(
        _rows(_table("", "artifact", "target", "engine", f">{d['figure']} ({d['kind']})"), rows)
    )
    ratio = f"{d['ratio']:.4g}"
    if d["interval"]:
        low, high = d["interval"]
        ratio += f", 95 % interval {low:.4g} to {high:.4g} from {d['pairs']} pairs"
    pairs: list[tuple[str, Any]] = [
        ("B over A", ratio), ("verdict", d["verdict"]), ("device", d["device"])
    ]  # fmt: skip
    if d["quality"]:
        pairs.append(("quality", quality(d)))
    c.print(_facts(pairs))


def verification(d: Mapping[str, Any]) -> None:
    c = _console()
    good, criterion = d["passed"], d["criterion"]
    verdict = Text(
        f"{number(d['mismatched_bytes'])} of {number(d['bytes'])} bytes differ over "
        f"{number(d['samples'])} samples",
        style="green" if good else "bold red",
    )
    pairs: list[tuple[str, Any]] = [
        ("verify", verdict),
        ("what was run", d.get("verified")),
        ("oracle", d["oracle"]),
        ("device", d["device"]),
    ]
    if not criterion["exact"]:
        error = "not finite" if criterion["error"] is None else f"{criterion['error']:.2g}"
        text = f"{criterion['measure']}: {error} (limit {criterion['error_limit']:g})"
        if criterion["argmax_agreement"] is not None:
            text += (
                f", same class: {percent(criterion['argmax_agreement'])} "
                f"(limit {percent(criterion['argmax_limit'])})"
            )
        style = "green" if good else "bold red"
        pairs.append((f"{criterion['precision']} tolerance", Text(text, style=style)))
    if d["mismatched_bytes"]:
        pairs.append(("largest difference", number(d["max_abs_diff"])))
    if d["accuracy"] is not None:
        pairs.append(
            ("accuracy", f"{percent(d['accuracy'])} on the device, "
             f"{percent(d['reference_accuracy'])} for {d['reference']}")
        )  # fmt: skip
    layer = d["first_divergent_layer"]
    if layer is not None and (criterion["exact"] or not good):
        where = layer["layer"] or layer.get("reason")
        text = f"{where}"
        if layer["layer"] is not None:
            text += (
                f" ({layer['op']}): {layer['mismatched']} of {layer['elements']} values, first at "
                f"{layer['index']}: {layer['got']} instead of {layer['expected']}"
            )
        pairs.append(("first divergent layer", f"sample {layer['sample']}: {text}"))
    c.print(_facts(pairs))


def deployed(d: Mapping[str, Any]) -> None:
    profile(d["profile"])
    verification(d["verify"])
    if len(d["engines"]) > 1:
        engines(d)
    _console().print(_facts([("artifact", d["artifact"]), ("report", d["report"])]))


def engines(d: Mapping[str, Any]) -> None:
    """The table of ``--engine auto``."""
    rows = []
    for e in d["engines"]:
        total = e["total"] or {}
        mark = f" ({e['untuned']} kernels untuned)" if e.get("untuned") else ""
        latency, instructions = total.get("latency_ms"), total.get("instructions")
        rows.append(
            (
                Text(e["name"], style="bold green" if e["name"] == d["engine"] else ""),
                e["precision"] or "",
                "yes" if e["verified"] else "no",
                "exact" if e["exact"] else "tolerance",
                f"{number(latency)} ms" if latency is not None else "-",
                number(instructions),
                e["kind"] or "",
                (
                    "kept"
                    if e["name"] == d["engine"]
                    else e["reason"]
                    or ("slower" if any(total.values()) else "no figure to compare")
                )
                + mark,
            )
        )
    columns = ("engine", "type", "verified", "held to", ">latency", ">instructions", "kind", "")
    _console().print(_rows(_table(*columns), rows))


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def tuned(d: Mapping[str, Any]) -> None:
    """The table of ``tune``."""
    c = _console()
    rows = []
    for e in d["engines"]:
        if e["reason"]:
            rows.append((e["name"], "", "", "", "", "", e["reason"]))
            continue
        rows.append(
            (
                e["name"],
                number(e["kernels"]),
                number(e["tried"]),
                number(e["failed"]),
                f"{number(_whole(e['before']))} {e['unit']}",
                f"{number(_whole(e['after']))} {e['unit']}",
                f"{e['kind']} on {e['device']}",
            )
        )
    columns = ("engine", ">kernels", ">tried", ">failed", ">before", ">after", "")
    c.print(_rows(_table(*columns), rows))
    c.print(_facts([("records", e["records"]) for e in d["engines"] if not e["reason"]][:1]))


def emulation(d: Mapping[str, Any]) -> None:
    c = _console()
    if d["stdout"]:
        print(d["stdout"], end="" if d["stdout"].endswith("\n") else "\n")
    rows = [
        (f["name"], number(f["instructions"]), number(f["cycles"]), number(f.get("calls")))
        for f in d["functions"][:40]
    ]
    c.print(
        _rows(
            _table("function", ">instructions (simulated)", ">cycles (estimated)", ">calls"), rows
        )
    )
    total = d["total"]
    c.print(
        _facts(
            [
                ("instructions", f"{number(total['instructions'])} (simulated)"),
                ("cycles", f"{number(total['cycles'])} (estimated)"),
                ("exit code", d.get("exit_code")),
            ]
        )
    )


def exported(d: Mapping[str, Any]) -> None:
    _console().print(
        _facts(
            [
                ("written", d["out"]),
                ("form", f"{d['form']}, library {d['name']}"),
                ("of", f"{d['target']}, engine {d['engine']}"),
                ("files", f"{len(d['files'])} ({number(d['bytes'])} bytes); start with README.md"),
            ]
        )
    )


def doctor(d: Mapping[str, Any]) -> None:
    rows = [
        (
            x["name"],
            Text("yes" if x["ok"] else "no", style="green" if x["ok"] else "yellow"),
            x["version"] or "",
            x["needed_for"],
            "" if x["ok"] else x["how"],
        )
        for x in d["checks"]
    ]
    _console().print(_rows(_table("what", "here", "version", "needed for", "how to get it"), rows))


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write aside, then rename. Names that a zip entry could not hold safely lose their slashes."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {k.replace("/", "_"): v for k, v in arrays.items()}
    np.savez(buffer, **named)
    write_bytes(path, buffer.getvalue())
