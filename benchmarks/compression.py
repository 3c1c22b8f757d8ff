"""Every compression method with real numbers; writes ``compression.json`` and ``compression.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/compression.py            # rows not there yet
    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/compression.py NAME ...   # these, again
    .venv/bin/python benchmarks/compression.py --list | --table | --merge OTHER.json

A row is a recipe applied to a model. Its figures: MACs; accuracy of the float result and of its int8 form
on the 500 validation images, as paired differences to the uncut network's with their standard errors;
cycles on the virtual Cortex-M4 (estimated from counted instructions) and what of the saved MACs arrives in
them. The int8 accuracy is that of the integer graph whose bytes the firmware is checked against.

More rows: a file ``compression_rows_<what>.py`` beside this one with a function ``rows() -> list[Row]``.
Results are kept by name, so that slow rows can be run one at a time, on different days.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", HERE.parent.parent / "shared"))
RESULTS, PAGE = HERE / "compression.json", HERE / "compression.md"
TARGET = "cortex-m4"


@dataclass(frozen=True)
class Row:
    """section: heading of the table it is in. steps: of the recipe. model: file in the zoo, or a path.
    data: name -> Dataset for ``data`` (what steps may use); the default is the 5,000 lossless images
    without their labels; val: what is measured on, likewise, and split: its name where it is another one
    than the 500 validation images. after: changes the result before it is measured (a training step
    outside of recipes, say)."""

    name: str
    steps: list[dict[str, Any]]
    section: str = "No labels, no training"
    model: str = "ic_resnet8_float.tflite"
    seed: int = 0
    data: Callable[[], Any] | None = None
    after: Callable[[Any], Any] | None = None
    note: str = ""
    target: str | None = TARGET
    val: Callable[[], Any] | None = None
    split: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


#: Samples and output positions that the repair of these rows uses.
FIT = {"repair": "least_squares", "repair_samples": 2000, "rows": 50_000}


#: Least speed-up for the MACs saved that the choice of widths is held to, where it can be.
REALISED = 0.86


def _prune(importance: str, cycles: float | None, allocation: str, **more: Any) -> dict[str, Any]:
    """Budgets are shares of the cycles on ``TARGET``, so that rows of one budget cost the same."""
    held = {"realised": REALISED} if allocation in ("global", "sensitivity") else {}
    step = {"step": "prune", "importance": importance, "cycles": cycles, "allocation": allocation,
            "multiple": 4, "samples": 1000, **FIT, **held, **more}  # fmt: skip
    return {k: v for k, v in step.items() if v is not None}


def _kws(half: int, labels: bool) -> Callable[[], Any]:
    def load() -> Any:
        from edgekit.data import Dataset

        with np.load(SHARED / "data" / "kws01.npz") as z:
            pick = slice(half, None, 2)
            y = z["y"][pick] if labels else None
            return Dataset({"x": z["x"][pick]}, y, f"kws01.npz, half {half + 1}")

    return load


def own_rows() -> list[Row]:
    rows = [Row("uncut", [])]
    for share in (0.75, 0.6, 0.5, 0.33):
        for importance in ("surgeon", "fisher"):
            step = _prune(importance, share, "global")
            rows.append(Row(f"{importance}, global, {share:g}", [step]))
    for share in (0.75, 0.5):
        step = _prune("surgeon", share, "global", realised=None)
        rows.append(Row(f"surgeon, global, {share:g}, realised speed-up left free", [step]))
    step = _prune("surgeon", None, "global", realised=None, macs=0.5)
    rows += [
        Row("surgeon, global, 0.5 of the MACs", [step]),
        Row("fisher, sensitivity, 0.75", [_prune("fisher", 0.75, "sensitivity")]),
        Row("fisher, measured, 0.75", [_prune("fisher", 0.75, "measured")]),
        Row("surgeon, global, 0.5, 3 rounds", [_prune("surgeon", 0.5, "global", rounds=3)]),
        Row(
            "surgeon, global, 0.75, multiples of 8", [_prune("surgeon", 0.75, "global", multiple=8)]
        ),
    ]
    for repair in ("none", "bias", "affine"):
        step = _prune("fisher", 0.75, "global", repair=repair)
        rows.append(Row(f"fisher, global, 0.75, repair {repair}", [step]))
    for importance in ("fisher", "l1", "l2", "geometric", "apoz", "reconstruction", "taylor"):
        rows.append(Row(f"{importance}, uniform, 0.75", [_prune(importance, 0.75, "uniform")]))
    for seed in range(3):
        step = _prune("random", 0.75, "uniform")
        rows.append(Row(f"random, uniform, 0.75, seed {seed}", [step], seed=seed))
    for importance in ("l2", "taylor"):
        rows.append(Row(f"{importance}, global, 0.75", [_prune(importance, 0.75, "global")]))
    low = {"step": "factorize", "repair": "least_squares", "samples": 2000}
    for form in ("auto", "spatial", "tucker", "cp"):
        rows.append(
            Row(f"factorize, {form}, 0.75 of the MACs", [{**low, "form": form, "macs": 0.75}])
        )
    rows.append(Row("factorize, auto, 0.5 of the MACs", [{**low, "macs": 0.5}]))
    both = [_prune("surgeon", 0.8, "global"), {**low, "macs": 0.75}]
    rows.append(Row("surgeon 0.8, then factorize 0.75 of the MACs", both))
    drop = {"step": "drop_blocks", "count": 1, "repair": "least_squares", "samples": 2000}
    rows.append(Row("drop one residual block", [drop]))
    rows += [
        Row("share, 16 values", [{"step": "share", "values": 16}]),
        Row("share, 64 values", [{"step": "share", "values": 64}]),
        Row("sparsify 0.3, re-estimate, share 64 values", [
            {"step": "sparsify", "zeros": 0.3}, {"step": "reestimate"}, {"step": "share", "values": 64}]),
        Row("sparsify 2 of 4, re-estimate", [
            {"step": "sparsify", "pattern": [2, 4]}, {"step": "reestimate"}]),
        Row("sparsify 0.5, least squares", [
            {"step": "sparsify", "zeros": 0.5}, {"step": "reconstruct"},
            {"step": "sparsify", "zeros": 0.5}]),
    ]  # fmt: skip
    none = "No data at all (images only for the scales of the int8 form)"
    for macs in (0.9, 0.74):
        step = {**_prune("l2", None, "uniform", macs=macs), "repair": "none"}
        rows.append(
            Row(f"no data: l2, uniform, {macs:g} of the MACs", [step], none, data=lambda: None)
        )
        step = {"step": "factorize", "macs": macs}
        rows.append(Row(f"no data: factorize, auto, {macs:g} of the MACs", [step], none,
                        data=lambda: None))  # fmt: skip
    large, wide = (
        "ic_resnet_large_float.tflite",
        "Six times the MACs of ResNet-8, no labels, no training",
    )
    rows.append(Row("large: uncut", [], wide, model=large))
    for share in (0.75, 0.55, 0.25):
        step = _prune("surgeon", share, "global", repair_samples=1000, rows=40_000)
        rows.append(Row(f"large: surgeon, global, {share:g}", [step], wide, model=large))
    for half in (0, 1):  # what is tuned on is not what is reported: the other half of the inputs
        for share in (0.75, 0.5):
            step = _prune("surgeon", share, "global")
            rows.append(Row(
                f"kws: surgeon, global, {share:g}, tuned on half {half + 1}", [step],
                "Keyword spotting, unlabelled halves", "kws_dscnn_int8.tflite",
                data=_kws(half, False), val=_kws(1 - half, True), split=f"half {2 - half}",
            ))  # fmt: skip
    return rows


def all_rows() -> dict[str, Row]:
    rows = own_rows()
    for path in sorted(HERE.glob("compression_rows_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        rows += module.rows()
    return {r.name: r for r in rows}


# -- measuring -------------------------------------------------------------------------------------


def unlabelled() -> Any:
    from edgekit.data import Dataset

    with np.load(SHARED / "data" / "cifar10.npz") as z:
        return Dataset({"x": z["train_x"]}, None, "cifar10.npz:train_x, labels unused")


def validation() -> Any:
    from edgekit.data import load_dataset

    return load_dataset(SHARED / "data" / "cifar10.npz:val_x,val_y")


def _model(name: str) -> Any:
    from edgekit import api

    path = Path(name)
    return api.load(path if path.is_file() else SHARED / "zoo" / name)


def on_device(graph: Any, data: Any) -> tuple[dict[str, Any], Any]:
    """Cost on the target (``cycles``, ``instructions``, ``flash``, ``ram``, ``tools``) and the integer
    graph."""
    from edgekit import api
    from edgekit.targets.base import CompileOptions

    with tempfile.TemporaryDirectory() as tmp:
        options = CompileOptions(optimize="speed")
        artifact = api.compile(graph, TARGET, Path(tmp) / "a", data=data, options=options)
        p = api.profile(artifact)
        reference = api.open_artifact(Path(tmp) / "a").reference
    return {
        "cycles": p["total"]["cycles"],
        "instructions": p["total"]["instructions"],
        "flash": p["memory"]["flash_bytes"],
        "ram": p["memory"]["ram_bytes"],
        "tools": p["tools"],
    }, reference


def baseline(row: Row, known: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The uncut network: its costs, and what its float and int8 forms say about the row's validation
    set. A model that comes quantized is its own int8 form."""
    from edgekit.compress.job import float_form, float_samples, says_real
    from edgekit.compress.simplify import total_macs

    key = f"baseline {row.model}" + (f" {row.split}" if row.split else "")
    given = _model(row.model)
    graph = float_form(given)
    cache = Path(tempfile.gettempdir()) / f"edgekit-bench-{Path(row.model).stem}{row.split}.npz"
    if key not in known or not cache.is_file():
        costs, integer = on_device(given, row.data() if row.data and row.split else unlabelled())
        val = float_samples(given, (row.val or validation)())
        assert val is not None
        said, said8 = says_real(graph, val), says_real(integer, val)
        np.savez(cache, said=said, said8=said8)
        known[key] = {**costs, "macs": total_macs(graph)}
    with np.load(cache) as z:
        return known[key], z["said"], z["said8"]


def measure(row: Row, known: dict[str, Any]) -> dict[str, Any]:
    from edgekit.compress.execute import compare
    from edgekit.compress.job import compress, float_samples, says_real
    from edgekit.targets.registry import get_target

    base, said, said8 = baseline(row, known)
    given = graph = _model(row.model)
    data = row.data() if row.data is not None else unlabelled()
    started = time.perf_counter()
    log: list[dict[str, Any]] = []
    if row.steps:
        recipe = {"version": 1, "seed": row.seed, "steps": row.steps}
        target = None if row.target is None else get_target(row.target)
        graph, report = compress(
            graph, recipe, data=data, target=target, progress=lambda line: None
        )
        log = report["steps"]
    if row.after is not None:
        graph = row.after(graph)
    seconds = time.perf_counter() - started
    # without data, too: int8 needs some for its scales
    data = float_samples(given, data) if row.steps else data
    costs, integer = on_device(graph, data or unlabelled())
    from edgekit.compress.recipe import size_of

    val = float_samples(given, (row.val or validation)())
    assert val is not None
    real = compare(said, says_real(graph, val), val.y, True).to_json()
    int8 = compare(said8, says_real(integer, val), val.y, True).to_json()
    size = size_of(graph)
    ratio, speedup = base["macs"] / size["macs"], base["cycles"] / costs["cycles"]
    sizes = next((e["sizes"]["total"] for e in reversed(log) if "sizes" in e), None)
    return {
        **costs, **size, "float": real, "int8": int8, "seconds": round(seconds, 1),
        "macs_left": size["macs"] / base["macs"], "speedup": speedup,
        "realised": speedup / ratio, "steps": row.steps, "seed": row.seed, "model": row.model,
        "section": row.section, "note": row.note, "sizes": sizes,
        "widths": next((e["widths"] for e in reversed(log) if "widths" in e), None), **row.extra,
    }  # fmt: skip


# -- the page --------------------------------------------------------------------------------------


def _points(q: dict[str, Any]) -> str:
    if q["standard_error"] is None:
        return "-"
    return f"{100 * q['difference']:+.1f} ± {100 * q['standard_error']:.1f}"


def page(known: dict[str, Any]) -> str:
    lines = [
        "# Compression, method by method",
        "",
        "`EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/compression.py [NAME ...]` makes a row; the "
        "recipe of each (steps, seed) is in `compression.json`. Differences in points are to the uncut "
        "network of the same form, paired on the same 500 lossless CIFAR-10 validation images (or as the "
        "heading says), with their standard error. Cycles: virtual Cortex-M4, *estimated* from exactly "
        "counted instructions, compiled with `--optimize speed` (whatever flash that takes). "
        "*Realised*: speed-up in cycles over the reduction in MACs. Time: wall clock on a shared, busy "
        "2-core machine, only for its order of magnitude.",
    ]
    results = {k: v for k, v in known.items() if not k.startswith("baseline ")}
    for section in dict.fromkeys(r["section"] for r in results.values()):
        lines += [
            "", f"## {section}", "",
            "| method | MACs left | float accuracy | difference (float) | difference (int8) | "
            "M4 cycles | speed-up | realised | flash bytes | RAM bytes | s |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        mine = {k: v for k, v in results.items() if v["section"] == section}
        for name, r in mine.items():
            lines.append(
                f"| {name} | {r['macs_left']:.3f} | {100 * r['float']['accuracy']:.1f} % | "
                f"{_points(r['float'])} | {_points(r['int8'])} | {r['cycles']:,} | "
                f"{r['speedup']:.2f} | {r['realised']:.2f} | {r['flash']:,} | {r['ram']:,} | "
                f"{r['seconds']:.0f} |"
            )
    slow = [k for k, r in results.items() if r["macs_left"] < 0.999 and r["realised"] < 0.85]
    if slow:
        lines += ["", "Realised below 0.85 (what they save in MACs does not arrive in cycles):", ""]
        lines += [f"- {k}: {results[k]['realised']:.2f}" for k in slow]
    shared = {k: r for k, r in results.items() if r.get("sizes")}
    if shared:
        lines += ["", "Weights in bytes as float32, with a codebook, Huffman-coded (none of which a "
                  "kernel here reads):", ""]  # fmt: skip
        for name, r in shared.items():
            s = r["sizes"]
            lines.append(
                f"- {name}: {s['plain_bytes']:,}, {s['codebook_bytes']:,}, {s['huffman_bytes']:,}"
            )
    tools: dict[str, str] = next((r["tools"] for r in results.values()), {})
    lines += ["", "Tools: " + ", ".join(f"{k} {v}" for k, v in sorted(tools.items())) + ".", ""]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rows = all_rows()
    if arguments == ["--list"]:
        print("\n".join(rows))
        return
    if arguments[:1] == ["--merge"]:  # results made on another branch
        for other in arguments[1:]:
            known = {**json.loads(Path(other).read_text()), **known}
        RESULTS.write_text(json.dumps(known, indent=1, sort_keys=False) + "\n")
        PAGE.write_text(page(known))
        return
    unknown = [a for a in arguments if a not in rows and a != "--table"]
    if unknown:
        raise SystemExit(f"there is no row '{unknown[0]}'; --list names them")
    wanted = [] if arguments == ["--table"] else arguments or [n for n in rows if n not in known]
    for name in wanted:
        result = measure(rows[name], known)
        if RESULTS.is_file():  # another process may have made rows meanwhile
            known |= {k: v for k, v in json.loads(RESULTS.read_text()).items() if k not in wanted}
        known[name] = result
        ordered = {
            k: known[k]
            for k in (*(k for k in known if k not in rows), *(n for n in rows if n in known))
        }
        RESULTS.write_text(json.dumps(ordered, indent=1, sort_keys=False) + "\n")
        PAGE.write_text(page(ordered))
        print(
            f"{name}: MACs {result['macs_left']:.3f}, float {_points(result['float'])}, "
            f"int8 {_points(result['int8'])}, realised {result['realised']:.2f}",
            flush=True,
        )
    if not wanted:
        PAGE.write_text(page(known))


if __name__ == "__main__":
    main(sys.argv[1:])
