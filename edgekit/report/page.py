"""The page: everything the template shows, and the rendering itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgekit.artifact import Artifact, write_text
from edgekit.errors import InputError
from edgekit.report import text
from edgekit.report.layers import Column, Layer, columns, join
from edgekit.report.memory_map import Usage, arena_map, usages
from edgekit.report.remarks import divergence, remarks
from edgekit.report.roofline import plot, roof_of

_KINDS = {
    "measured": "a clock on real silicon",
    "simulated": "instructions executed under emulation, counted exactly",
    "estimated": "a model of the pipeline",
    "linked": "read from the linked program",
}


@dataclass(frozen=True)
class Figure:
    """A key figure: ``kind`` is one of ``_KINDS`` or ""."""

    name: str
    value: str
    unit: str
    kind: str
    note: str


def write_report(art: Artifact, out: Path) -> Path:
    """Write one self-contained HTML page about ``art`` and its stored results; returns ``out``.

    The same artifact and results give the same bytes. Raises InputError where ``out`` cannot be
    written.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError(f"output '{out}' is a folder; name a file such as {out.name}/report.html")
    write_text(out, render(art))
    return out


def render(art: Artifact) -> str:
    """The page as text."""
    from markupsafe import Markup

    script = _asset("script.js")
    page = environment({"page": _asset("page.html.jinja"), "macros": _asset("macros.html.jinja")})
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return page.get_template("page").render(
        style=Markup(_asset("style.css")),
        script=Markup(script),
        script_digest=digest,
        data=Markup(_embedded(art)),
        **view(art),
    )


def environment(templates: Mapping[str, str]) -> Any:
    """Jinja with autoescape, and with all text that is shown cleaned (:func:`.text.clean`)."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    def finish(value: Any) -> Any:
        return (
            value if isinstance(value, Markup) or not isinstance(value, str) else text.clean(value)
        )

    made = Environment(
        loader=DictLoader(dict(templates)),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finish,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for f in (text.number, text.compact, text.size, text.percent, text.short, text.shape):
        made.filters[f.__name__] = f
    return made


def _asset(name: str) -> str:
    return resources.files("edgekit.report").joinpath(name).read_text("utf-8").rstrip("\n") + "\n"


def _embedded(art: Artifact) -> str:
    """The results as JSON that is safe inside <script>: no ``<``, ``>``, ``&``, no line separators
    (all non-ASCII characters are escapes)."""
    document = {
        "model": art.manifest.get("model"),
        "target": art.target.name,
        "engine": art.engine,
        "profile": art.result("profile"),
        "verify": art.result("verify"),
    }
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def view(art: Artifact) -> dict[str, Any]:
    """What the template gets: plain values and the dataclasses of this package."""
    manifest = text.mapping(art.manifest)
    profile, check = _result(art, "profile", "total"), _result(art, "verify", "mismatched_bytes")
    graph, target = art.graph, art.target
    memory = text.mapping(manifest.get("memory"))
    layers = join(text.rows(manifest.get("plan")), profile, graph)
    costs = columns(layers, profile)
    main = costs[0] if costs else None
    used = usages(memory, text.mapping(text.mapping(profile).get("memory")))
    model = text.mapping(manifest.get("model"))
    recipe = text.mapping(manifest.get("recipe"))
    return {
        "title": f"{model.get('source') or model.get('name') or graph.name} on {target.name}",
        "model": model,
        "model_name": str(model.get("source") or model.get("name") or graph.name),
        "target": target,
        "engine": art.engine,
        "device": text.mapping(profile).get("device") or text.mapping(check).get("device"),
        "verdict": _verdict(check),
        "figures": _figures(profile, check, used, layers),
        "kinds": _KINDS,
        "remarks": remarks(
            target=target,
            graph=graph,
            layers=layers,
            column=main,
            usages=used,
            profile=profile,
            verify=check,
            details=art.details,
        ),
        "check": check,
        "divergence": None if check is None else divergence(check),
        "usages": used,
        "arena": arena_map(memory, graph),
        "memory": memory,
        "layers": layers,
        "costs": costs,
        "main": main,
        "tops": {c.key: max((la.cost(c.key) or 0 for la in layers), default=0) for c in costs},
        "totals": _totals(layers, profile, costs),
        "top_macs": max((la.macs for la in layers), default=0),
        "plot": plot(layers, main, target),
        "roof": roof_of(target),
        "profiled": profile is not None,
        "simplify": _simplify(recipe),
        "quantize": text.mapping(recipe.get("quantize")) or None,
        "recipe": {k: v for k, v in sorted(recipe.items()) if k not in ("simplify", "quantize")},
        "tools": _tools(manifest, profile, check),
        "files": dict(sorted(text.mapping(manifest.get("files")).items())),
        "inputs": [graph.tensor(i) for i in graph.inputs],
        "outputs": [graph.tensor(o) for o in graph.outputs],
    }


def _result(art: Artifact, name: str, key: str) -> dict[str, Any] | None:
    """A stored result, or None when there is none or it is something else."""
    document = art.result(name)
    return document if document is not None and key in document else None


def _verdict(check: Mapping[str, Any] | None) -> tuple[str, str]:
    """(level, words) of the pill beside the title."""
    if check is None:
        return "note", "not verified yet"
    wrong = text.whole(check.get("mismatched_bytes"))
    if wrong == 0:
        return (
            "good",
            f"verified: 0 wrong bytes in {text.number(text.whole(check.get('samples')))} samples",
        )
    if check.get("passed") is True:
        return "good", "verified within its tolerance"
    return "bad", f"failed: {text.number(wrong)} wrong bytes"


def _figures(
    profile: Mapping[str, Any] | None,
    check: Mapping[str, Any] | None,
    used: Sequence[Usage],
    layers: Sequence[Layer],
) -> list[Figure]:
    document = text.mapping(profile)
    total, kinds = text.mapping(document.get("total")), text.mapping(document.get("kinds"))
    kind = str(document.get("kind", ""))
    found = []
    latency = text.figure(total.get("latency_ms"))
    if latency is not None:
        value, _, unit = text.duration(latency).partition(" ")
        clock = text.figure(text.mapping(document.get("details")).get("clock_hz"))
        note = f"one inference at {clock / 1e6:g} MHz" if clock else "one inference, median"
        taken = text.mapping(text.mapping(document.get("details")).get("measurement"))
        if taken.get("quality"):
            note += f" of {text.whole(taken.get('runs'))}; quality: {taken['quality']}"
        found.append(Figure("Latency", value, unit, str(kinds.get("latency_ms", kind)), note))
    macs = sum(la.macs for la in layers)
    for key, name in (("cycles", "Cycles"), ("instructions", "Instructions")):
        n = text.figure(total.get(key))
        if n is not None:
            note = f"{n / macs:.2f} a MAC" if macs else ""
            value, _, unit = text.compact(n).partition(" ")
            found.append(
                Figure(name, value, unit, str(kinds.get(key, kind)), f"{text.number(n)}; {note}")
            )
    for u in used:
        value, _, unit = text.size(u.used).partition(" ")
        note = f"{text.number(u.used)} bytes"
        if u.share is not None:
            note += f", {text.percent(u.share, 1)} of {text.size(u.available)}"
        where = "linked"
        if u.name == "RAM" and text.whole(text.mapping(document.get("memory")).get("stack_bytes")):
            where = kind  # the stack's high-water mark comes from a run
        elif u.name == "RAM" and not document:
            note += "; the stack is not in it yet"
        found.append(Figure(u.name, value, unit, where, note))
    if check is not None:
        found.append(_accuracy(check))
    return found


def _accuracy(check: Mapping[str, Any]) -> Figure:
    kind = "simulated" if str(check.get("device", "")).startswith("virtual:") else "measured"
    ours, theirs = text.figure(check.get("accuracy")), text.figure(check.get("reference_accuracy"))
    samples = text.number(text.whole(check.get("samples")))
    if ours is None:
        wrong = text.number(text.whole(check.get("mismatched_bytes")))
        return Figure("Wrong bytes", wrong, "", kind, f"{samples} samples, no labels for accuracy")
    note = f"{samples} samples"
    if theirs is not None:
        note += f"; {text.percent(theirs)} for {check.get('reference', 'the source model')}"
    return Figure("Accuracy", f"{100 * ours:.2f}", "%", kind, note)


def _totals(
    layers: Sequence[Layer], profile: Mapping[str, Any] | None, costs: Sequence[Column]
) -> dict[str, tuple[float | None, float | None]]:
    """Cost -> (sum of the layers, what the whole inference takes beyond them)."""
    total = text.mapping(text.mapping(profile).get("total"))
    found: dict[str, tuple[float | None, float | None]] = {}
    for c in costs:
        inside = sum(la.cost(c.key) or 0 for la in layers)
        everything = text.figure(total.get("latency_ms" if c.key == "time_ms" else c.key))
        # The layers of a timed run come from an instrumented program: no remainder to show.
        rest = None if everything is None or c.key == "time_ms" else everything - inside
        found[c.key] = (inside, rest if rest is not None and rest >= 0 else None)
    return found


def _simplify(recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    s = text.mapping(recipe.get("simplify"))
    if not s:
        return None
    removed = text.rows(s.get("removed_channels"))
    for r in removed:
        r["gone"] = (text.whole(r.get("constant")) or 0) + (text.whole(r.get("unread")) or 0)
    removed.sort(key=lambda r: (-r["gone"], str(r.get("tensor", ""))))
    return {**s, "removed": removed, "gone": sum(r["gone"] for r in removed)}


def _tools(
    manifest: Mapping[str, Any], profile: Mapping[str, Any] | None, check: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    found = {"edgekit": str(manifest.get("edgekit", ""))}
    for document in (manifest, text.mapping(profile)):
        found |= {str(k): str(v) for k, v in text.mapping(document.get("tools")).items()}
    if check is not None and check.get("oracle"):
        found["oracle"] = str(check["oracle"])
    return sorted(found.items())
