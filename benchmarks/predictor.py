"""Predicted against profiled, on random networks that no table saw; writes ``benchmarks/predictor.md``.

    .venv/bin/python benchmarks/predictor.py [--networks 100] [--run TARGET[:ENGINE[:OPTIMIZE[:N]]] ...]

For every run: ``edgekit calibrate`` in an empty cache (timed), then each network is quantized, predicted,
compiled and profiled (``predictor_networks.py``; the seeds are always the same). Profiles lie beside the
page in ``predictor.json`` with the hash of what they were made with, and are not made again while that
stands; ``--again`` makes them anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from predictor_networks import FAMILIES, network, quantized

PAGE = Path(__file__).with_suffix(".md")
KEPT = Path(__file__).with_suffix(".json")
RUNS = (
    "cortex-m4:c:balanced",
    "cortex-m4:c:speed",
    "cortex-m55:c:balanced:40",
    "x86-64-host:c:balanced:40",
)


def profiled(graph: Any, target: str, engine: str, optimize: str) -> dict[str, Any]:
    """What is kept of a profile."""
    from edgekit import api
    from edgekit.targets.base import CompileOptions

    options = CompileOptions(engine=engine, optimize=optimize)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as tmp:
        artifact = api.compile(graph, target, Path(tmp) / "a", options=options)
        document = api.profile(artifact)
        if document["kind"] == "measured":  # what disturbs a machine only ever adds time
            other = api.profile(artifact)
            document = min(document, other, key=lambda d: d["total"]["latency_ms"])
    total = dict(document["total"])
    if document["kind"] == "measured":
        total["latency_ms"] = document["details"].get("latency_ms_min", total["latency_ms"])
    memory = {k: document["memory"].get(k) for k in ("flash_bytes", "ram_bytes")}
    return {"total": total, "kind": document["kind"], "memory": memory}


def evaluate(
    run: str, networks: int, kept: dict[str, Any], again: bool, calibrated: bool
) -> dict[str, Any]:
    """One run: calibrate, predict and profile; JSON-ready. calibrated: with the table in the user's
    cache instead."""
    from edgekit.compress import simplify
    from edgekit.profile.calibrate import calibrate
    from edgekit.profile.calibrate import load as load_predictor
    from edgekit.profile.estimator import total_of

    target, engine, optimize, *rest = [*run.split(":"), "c", "balanced"][:3] + run.split(":")[3:4]
    count = min(networks, int(rest[0])) if rest else networks
    with tempfile.TemporaryDirectory() as empty:
        if not calibrated:
            os.environ["EDGEKIT_CACHE"] = empty
        say = lambda line: print(f"{run}: {line}", file=sys.stderr, flush=True)  # noqa: E731
        if not calibrated:
            calibrate(target, None, engine, optimize, progress=say)
        predictor = load_predictor(target, None, engine, optimize)
        table = predictor.table
        rows = []
        for seed in range(count):
            source = network(seed)
            graph = simplify(quantized(source)).graph
            started = time.process_time()
            integer = predictor.predict(graph)
            spent = time.process_time() - started
            from_float = predictor.predict(source)
            key = f"{target}:{engine}:{optimize}:{seed}:{table.fingerprint}"
            if again or key not in kept:
                kept[key] = profiled(graph, target, engine, optimize)
                write(KEPT, json.dumps(kept, sort_keys=True, separators=(",\n", ":")) + "\n")
            truth = total_of(kept[key], table.unit)
            assert truth is not None
            rows.append(
                {
                    "network": source.name,
                    "measured": truth,
                    "predicted": integer.value,
                    "float": from_float.value,
                    "bar": integer.error,
                    "ms": 1e3 * spent,
                    "flash": _ratio(integer.memory, kept[key]["memory"], "flash_bytes"),
                    "ram": _ratio(integer.memory, kept[key]["memory"], "ram_bytes"),
                }
            )
            say(f"{source.name}: {100 * (integer.value / truth - 1):+.2f} %")
    return {"run": (target, engine, optimize), "table": table.summary(), "rows": rows}


def _ratio(ours: Any, theirs: dict[str, Any], key: str) -> float | None:
    return ours[key] / theirs[key] - 1.0 if ours.get(key) and theirs.get(key) else None


def _errors(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.abs([r[key] / r["measured"] - 1.0 for r in rows])


def _percent(values: np.ndarray) -> str:
    m, p, w = np.median(values), np.quantile(values, 0.95), values.max()
    return f"{100 * m:.2f} % | {100 * p:.2f} % | {100 * w:.1f} %"


def page(results: list[dict[str, Any]], calibrated: bool) -> str:
    cache = (
        "`edgekit calibrate` had run before (its time is that of a machine busy with other work)"
        if calibrated
        else "`edgekit calibrate` ran in an empty cache"
    )
    lines = [
        "# Predicted against profiled",
        "",
        "Made by `.venv/bin/python benchmarks/predictor.py`: random networks "
        f"({', '.join(f.__name__ for f in FAMILIES)}; 0.3 to 12 million MACs,",
        f"`benchmarks/predictor_networks.py`) that no table has seen. {cache};",
        "then each network was predicted, compiled and profiled. Errors are relative to the",
        "profile, whose kind is named; predictions are of the kind estimated. *from the int8 network*:",
        "what `edgekit predict MODEL.tflite` gives; *from the float network*: shapes only, no weights, no",
        "data, as a search asks before it quantizes anything. *within the bar*: share of the networks",
        "within the error bar given (aimed at: 90 %).",
        "",
        "| target | engine | optimize | networks | profile | calibration | layers | input | median "
        "| 95th percentile | worst | within the bar |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        (target, engine, optimize), t, rows = r["run"], r["table"], r["rows"]
        bars = np.mean([abs(x["predicted"] - x["measured"]) <= x["bar"] for x in rows])
        head = (
            f"| {target} | {engine} | {optimize} | {len(rows)} | {t['unit']}, {t['kind']} "
            f"| {t['seconds']:.0f} s | {t['samples']:,}"
        )
        lines.append(
            f"{head} | int8 | {_percent(_errors(rows, 'predicted'))} | {100 * bars:.0f} % |"
        )
        lines.append(f"{head} | float | {_percent(_errors(rows, 'float'))} | |")
    for r in results:
        rows = [x for x in r["rows"] if x["ram"] is not None]
        if rows:
            flash = _percent(np.abs([x["flash"] for x in rows]))
            ram = _percent(np.abs([x["ram"] for x in rows]))
            name = " ".join(r["run"])
            lines += [
                "",
                f"Memory, {name} (median, 95th percentile, worst): flash {flash}; RAM {ram}.",
            ]
        spent = np.median([x["ms"] for x in r["rows"]])
        lines.append(
            f"A prediction, {' '.join(r['run'])}: {spent:.0f} ms of CPU for a new network."
        )
    tools = sorted({f"{k} {v}" for r in results for k, v in r["table"]["tools"].items()})
    lines += ["", f"Tools: edgekit {version('edgekit')}, {', '.join(tools)}."]
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--run", action="append", help="TARGET[:ENGINE[:OPTIMIZE[:NETWORKS]]]")
    parser.add_argument("--again", action="store_true", help="profile every network anew")
    parser.add_argument(
        "--calibrated", action="store_true", help="with the tables of the user's cache"
    )
    args = parser.parse_args()
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.is_file() else {}
    results = []
    for run in args.run or RUNS:
        results.append(evaluate(run, args.networks, kept, args.again, args.calibrated))
        write(PAGE, page(results, args.calibrated))
    return 0


if __name__ == "__main__":
    sys.exit(main())
