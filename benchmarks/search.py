"""The closed loop against its controls, on virtual and real devices; writes ``search.json``, ``search.md``.

    EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/search.py       # everything not there yet
    .venv/bin/python benchmarks/search.py loop [--nets kws] [--seeds 1] [--trials 30] [--jobs 2]
    .venv/bin/python benchmarks/search.py devices | overhead | kills | larger | table

``loop``: ResNet-8 and keyword spotting on the virtual Cortex-M4, three seeds; the closed loop against
uniform widths, a search by MACs and random search with the same trials; the winner's cycles at the same
accuracy budget, by the oracle's bytes. Nothing is trained: all networks are repaired by least squares on
unlabelled samples. ``devices``: networks found for one device, measured on all of them. ``overhead``: a
study of 200 trials, timed. ``kills``: a study killed at random moments against an undisturbed one.
``larger``: the space with the larger network in it.

Studies are kept in ``build/search`` and go on where they were: start a benchmark again that was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
RESULTS, PAGE = HERE / "search.json", HERE / "search.md"
WORK = ROOT / "build" / "search"
STRATEGIES = ("knapsack", "netadapt", "macs", "random", "uniform")
#: Network -> model, points of accuracy that may be lost.
NETS = {"kws": ("kws_dscnn_int8.tflite", 1.0), "resnet8": ("ic_resnet8_float.tflite", 3.0)}
DEVICES = {
    "cortex-m4": "virtual:cortex-m4", "cortex-m55": "virtual:cortex-m55", "ethos-u55-128": None,
    "host": None,
}  # fmt: skip


def data_of(net: str, seed: int) -> tuple[Any, Any]:
    """Unlabelled samples for the repair, and labelled ones to compare on; the seed chooses them."""
    from edgekit.data import Dataset

    if net == "kws":
        with np.load(SHARED / "data" / "kws01.npz") as z:
            order = np.random.default_rng([seed, 5]).permutation(len(z["x"]))
            a, b = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
            label = f"kws01.npz, half (seed {seed})"
            return Dataset({"x": z["x"][a]}, None, label), Dataset(
                {"x": z["x"][b]}, z["y"][b], label
            )
    with np.load(SHARED / "data" / "cifar10.npz") as z:
        pick = np.sort(np.random.default_rng([seed, 6]).permutation(len(z["train_x"]))[:2000])
        return (Dataset({"x": z["train_x"][pick]}, None, f"cifar10.npz, 2000 (seed {seed})"),
                Dataset({"x": z["val_x"]}, z["val_y"], "cifar10.npz:val_x,val_y"))  # fmt: skip


def search(name: str, net: str, seed: int, jobs: int, *, target: str = "cortex-m4",
           device: str | None = None, budgets: list[str] | None = None, larger: tuple[str, ...] = (),
           **options: Any) -> tuple[dict[str, Any], float]:  # fmt: skip
    """One study (continued where it was): the document of ``edgekit search``, and seconds of this run."""
    from edgekit import api
    from edgekit.search.study import SearchOptions

    model, points = NETS[net]
    data, val = data_of(net, seed)
    began = time.monotonic()
    document = api.search(
        SHARED / "zoo" / model, target, data, WORK / name, val=val, device=device,
        budgets=budgets or [f"accuracy_drop<={points:g}"],
        larger=[str(SHARED / "zoo" / m) for m in larger],
        options=SearchOptions(objective="latency_ms", seed=seed, jobs=jobs, predictor=False, **options),
        progress=lambda line: None,
    )  # fmt: skip
    return document, time.monotonic() - began


def kept() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def keep(section: str, name: str, row: dict[str, Any]) -> None:
    everything = kept()
    everything.setdefault(section, {})[name] = row
    RESULTS.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
    print(f"{section} {name}: {json.dumps(row)[:160]}", file=sys.stderr, flush=True)


def facts(document: dict[str, Any]) -> dict[str, Any]:
    w = document["winner"]
    row: dict[str, Any] = {"prediction": document["prediction"], "counts": document["counts"],
                           "seconds": document["seconds"], "winner": None}  # fmt: skip
    if w is not None:
        names = ("cycles", "instructions", "latency_ms", "macs", "accuracy", "accuracy_drop", "ram_bytes",
                 "flash_bytes")  # fmt: skip
        row["winner"] = {m: w["values"].get(m) for m in names} | {
            "number": w["number"], "point": w["point"], "wrong_bytes": w["verify"]["mismatched_bytes"],
            "standard_error": 100 * (w["quality"].get("standard_error") or 0),
        }  # fmt: skip
    return row


def uncut_of(name: str) -> dict[str, Any]:
    from edgekit.search.study import Study

    t = next(t for t in Study.open(WORK / name).trials if t.tag.get("as") == "uncut")
    return {m: t.values.get(m) for m in ("cycles", "latency_ms", "macs", "accuracy")}


def loop(args: argparse.Namespace) -> None:
    for net in args.nets:
        for seed in range(args.seeds):
            for strategy in args.strategies:
                name = f"{net}-{strategy}-{seed}-{args.trials}"
                if name in kept().get("loop", {}) and not args.again:
                    continue
                document, seconds = search(name, net, seed, args.jobs, strategy=strategy,
                                           trials=args.trials)  # fmt: skip
                keep("loop", name, {**facts(document), "net": net, "seed": seed, "strategy": strategy,
                                    "trials": args.trials, "uncut": uncut_of(name),
                                    "wall_s": round(seconds, 1)})  # fmt: skip


def larger(args: argparse.Namespace) -> None:
    for seed in range(args.seeds):
        name = f"larger-{seed}-{args.trials}"
        if name in kept().get("larger", {}) and not args.again:
            continue
        document, seconds = search(name, "resnet8", seed, args.jobs, trials=args.trials,
                                   larger=("ic_resnet_large_float.tflite",))  # fmt: skip
        keep("larger", name, {**facts(document), "seed": seed, "trials": args.trials,
                              "uncut": uncut_of(name), "wall_s": round(seconds, 1)})  # fmt: skip


def devices(args: argparse.Namespace) -> None:
    """A network for each device; every network on every device."""
    from edgekit import api
    from edgekit.search.evaluate import CALIBRATION
    from edgekit.search.study import Study
    from edgekit.targets.base import CompileOptions

    data, val = data_of("kws", 0)
    for target, device in DEVICES.items():
        name = f"devices-{target}-{args.trials}"
        if name in kept().get("devices", {}) and not args.again:
            continue
        document, _ = search(name, "kws", 0, args.jobs, target=target, device=device,
                             trials=args.trials)  # fmt: skip
        row = {**facts(document), "target": target, "trials": args.trials, "on": {}}
        if document["winner"] is not None:
            key = Study.open(WORK / name).get(document["winner"]["number"]).key
            graph = api.load(WORK / name / "cache" / str(key) / "graph.ekg")
            for other, where in DEVICES.items():
                with tempfile.TemporaryDirectory() as tmp:
                    art = api.compile(graph, other, Path(tmp) / "a", data=data,
                                      options=CompileOptions("auto", "speed"),
                                      calibration_samples=CALIBRATION)  # fmt: skip
                    runs = [
                        api.profile(art, device=where, data=val)
                        for _ in range(5 if other == "host" else 1)
                    ]
                times = [r["total"]["latency_ms"] for r in runs]
                row["on"][other] = {"latency_ms": float(np.median(times)), "kind": runs[0]["kind"],
                                    "cycles": runs[0]["total"]["cycles"]}  # fmt: skip
        keep("devices", name, row)


def overhead(args: argparse.Namespace) -> None:
    """A study of 200 trials without training, from nothing, its machinery's share and its time."""
    import shutil

    count = args.trials if args.trials != 60 else 200
    name = f"overhead-{count}"
    shutil.rmtree(WORK / name, ignore_errors=True)
    document, seconds = search(name, "kws", 0, args.jobs, trials=count)
    used = document["seconds"]
    keep("overhead", name, {**facts(document), "trials": count, "jobs": args.jobs,
                            "wall_s": round(seconds, 1), "load": list(os.getloadavg()),
                            "share": used["overhead"] / used["all"]})  # fmt: skip


def kills(args: argparse.Namespace) -> None:
    """An undisturbed study, and one that is killed ``--kills`` times; what both say."""
    import shutil

    from edgekit import api
    from edgekit.data import load_dataset
    from edgekit.search.study import SearchOptions, Study, make_study, run_study

    model = api.load(ROOT / "models" / "digits.tflite")
    data = load_dataset(f"{ROOT}/models/digits.npz:calibration_x")
    val = load_dataset(f"{ROOT}/models/digits.npz:val_x,val_y")
    count = min(args.trials, 40)
    studies = []
    for name in ("calm", "killed"):
        folder = WORK / f"kills-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        studies.append(make_study(model, "cortex-m4", data, val, folder, budgets=["accuracy_drop<=1"],
                                  options=SearchOptions(trials=count, predictor=False)))  # fmt: skip
    calm, killed = studies
    began = time.monotonic()
    run_study(calm)
    took = time.monotonic() - began
    rng = np.random.default_rng(0)
    for _ in range(args.kills):
        process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.cli", "study", str(killed.path), "resume"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(float(rng.random()) * (4 + 2 * took / args.kills))
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_study(killed)

    def told(study: Any) -> list[Any]:
        settled = sorted((t for t in study.trials if t.settled), key=lambda t: t.ordinal)
        return [
            (t.ordinal, t.state, sorted(t.point.items()), sorted(t.values.items())) for t in settled
        ]

    a, b = Study.open(calm), Study.open(killed)
    keep("kills", f"kills-{args.kills}", {
        "trials": count, "kills": args.kills, "same": told(a) == told(b),
        "lost": sum(t.state == "lost" for t in b.trials),
        "once": [t[0] for t in told(b)] == list(range(count)),
        "winner": None if a.winner is None else a.winner.point,
        "same_winner": (a.winner and a.winner.point) == (b.winner and b.winner.point),
    })  # fmt: skip


# -- the page --------------------------------------------------------------------------------------


def paired(rows: list[dict[str, Any]], strategy: str, against: str) -> str:
    """Mean relative difference in cycles over the seeds that both have, and its standard error."""
    mine = {r["seed"]: r for r in rows if r["strategy"] == strategy and r["winner"]}
    its = {r["seed"]: r for r in rows if r["strategy"] == against and r["winner"]}
    d = np.array([mine[s]["winner"]["cycles"] / its[s]["winner"]["cycles"] - 1
                  for s in sorted({*mine} & {*its})])  # fmt: skip
    if not len(d):
        return "–"
    if len(d) == 1:
        return f"{100 * d[0]:+.1f} % (one seed)"
    return f"{100 * d.mean():+.1f} ± {100 * d.std(ddof=1) / np.sqrt(len(d)):.1f} %"


HEAD = """# The closed loop, measured

`EDGEKIT_SHARED=../shared .venv/bin/python benchmarks/search.py` makes everything; what was run is in
`search.json`. Cycles of the virtual Cortex-M4 are *estimated* from exactly counted instructions
(`--optimize speed`); accuracy is that of the bytes the firmware gives, by the oracle. Nothing is trained:
networks are repaired by least squares on unlabelled samples. Every search has the same trials, the same
rungs (predicted, repaired, measured) and the same repair; the controls differ in what they propose only,
and their winner is the best of what *they* measured. Standard errors are paired.
"""


def _row(*cells: Any) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def _loop_tables(rows: list[dict[str, Any]]) -> list[str]:
    out = []
    for net, trials in sorted({(r["net"], r["trials"]) for r in rows}):
        mine = [r for r in rows if r["net"] == net and r["trials"] == trials]
        out += [f"## {net}, {trials} trials, at most {NETS[net][1]:g} points lost", ""]
        head = (
            "search",
            "seed",
            "cycles",
            "uncut / found",
            "points lost",
            "measured",
            "prediction off",
        )
        out += [_row(*head), _rule(len(head))]
        for r in sorted(mine, key=lambda r: (STRATEGIES.index(r["strategy"]), r["seed"])):
            w, off = r["winner"], r["prediction"]["median_error"]
            if w is None:
                out.append(_row(r["strategy"], r["seed"], "none found", "", "", "", ""))
                continue
            faster = r["uncut"]["cycles"] / w["cycles"]
            lost = f"{w['accuracy_drop']:+.2f} ± {w['standard_error']:.2f}"
            shown = "–" if off is None else f"{100 * off:.1f} %"
            out.append(_row(r["strategy"], r["seed"], f"{w['cycles']:,}", f"{faster:.2f}", lost,
                            r["counts"].get("complete", 0), shown))  # fmt: skip
        out += [
            "",
            "Cycles of the closed loop (`knapsack`) relative to the others, paired by seed:",
            "",
        ]
        out += [_row("against", "difference"), _rule(2)]
        out += [
            _row(s, paired(mine, "knapsack", s))
            for s in STRATEGIES[1:]
            if any(r["strategy"] == s for r in mine)
        ]
        out.append("")
    return out


def _larger_table(rows: list[dict[str, Any]]) -> list[str]:
    head = ("seed", "trials", "cycles", "uncut / found", "points lost", "begun from")
    out = ["## ResNet-8 with the larger network in the space", "", _row(*head), _rule(len(head))]
    for r in rows:
        w = r["winner"]
        if w is None:
            out.append(_row(r["seed"], r["trials"], "none found", "", "", ""))
            continue
        begun = "the larger" if w["point"].get("base") else "ResNet-8"
        faster, lost = r["uncut"]["cycles"] / w["cycles"], w["accuracy_drop"]
        cells = (f"{w['cycles']:,}", f"{faster:.2f}", f"{lost:+.2f}", begun)
        out.append(_row(r["seed"], r["trials"], *cells))
    return [*out, ""]


def _device_table(rows: list[dict[str, Any]]) -> list[str]:
    out = ["## The device matters (kws)", "",
           "Rows: the device that the network was searched for. Columns: milliseconds where it was",
           "measured (host: median of five).", ""]  # fmt: skip
    out += [_row("found for", *DEVICES), _rule(1 + len(DEVICES))]
    for r in rows:
        cells = [
            f"{r['on'][d]['latency_ms']:.4g} ({r['on'][d]['kind']})" if d in r["on"] else "–"
            for d in DEVICES
        ]
        out.append(_row(f"{r['target']}, {r['trials']} trials", *cells))
    return [*out, ""]


def table() -> None:
    everything = kept()
    out = [HEAD, *_loop_tables(list(everything.get("loop", {}).values()))]
    if everything.get("larger"):
        out += _larger_table(list(everything["larger"].values()))
    if everything.get("devices"):
        out += _device_table(list(everything["devices"].values()))
    for r in everything.get("overhead", {}).values():
        out += ["## Overhead", ""]
        out += [
            f"{r['trials']} trials (kws, `--jobs {r['jobs']}`): {r['wall_s']:.0f} s; the machinery of the",
            f"search took {100 * r['share']:.1f} % of the wall time (load average {r['load'][0]:.1f}).",
            "",
        ]
    for r in everything.get("kills", {}).values():
        yes = {k: "yes" if r[k] else "NO" for k in ("once", "same", "same_winner")}
        out += ["## Kills", ""]
        out += [
            f"{r['kills']} times `kill -9` at random moments of a study of {r['trials']} trials (digits):",
            f"every result once: {yes['once']}; the same trials as undisturbed: {yes['same']}; the same",
            f"winner: {yes['same_winner']}; {r['lost']} trials in flight were lost and done again.",
            "",
        ]
    PAGE.write_text("\n".join(out).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "what", nargs="*", default=["loop", "larger", "devices", "overhead", "kills"]
    )
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    parser.add_argument(
        "--strategies", nargs="*", default=list(STRATEGIES), choices=list(STRATEGIES)
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--again", action="store_true", help="also what is there already")
    args = parser.parse_args()
    known = {
        "loop": loop,
        "larger": larger,
        "devices": devices,
        "overhead": overhead,
        "kills": kills,
    }
    for what in args.what:
        if what != "table":
            known[what](args)
        table()


if __name__ == "__main__":
    main()
