"""All kernels of all instruction sets: what they take, whether their bytes are right, what they cost.

    python benchmarks/kernels.py support [--set dsp,mve] [--reasons]
    python benchmarks/kernels.py test    [--set ...] [--on host,device] [--random 4] [--ops ADD,...]
    python benchmarks/kernels.py perf    [--set ...] [--compiler zig|gcc]
    python benchmarks/kernels.py all     writes benchmarks/kernels.md (tests, layers, models, networks)

Cases: the one table ``tests/kernel_cases.py``; sets (portable, dsp, mve, aarch64) and how they run:
``tests/kernel_suite.py``. On the host the kernels run in their portable form under address and
undefined-behaviour sanitizers; a device is the set's virtual core. Exit status 1 where a byte differs, or
a chosen kernel is slower than the portable one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from kernel_cases import EDGES, LAYERS, PACKED, TableCase, random_cases  # noqa: E402
from kernel_suite import ON_HOST, SETS, Result, on_device, on_host, support, target_of  # noqa: E402

SHARED = Path(os.environ.get("EDGEKIT_SHARED", ROOT.parent / "shared"))
MODELS = ("ic_resnet8_int8", "kws_dscnn_int8", "ad_fcae_int8")
TARGETS = ("cortex-m4", "cortex-m55")

#: TFLM with CMSIS-NN, GCC 12.2, QEMU's cores, measured November 2026: instructions of the whole
#: model, and a MAC (an element for ADD) by position of the layer, where measured one by one.
CMSIS_NN: dict[tuple[str, str], tuple[int, dict[int, float]]] = {
    ("cortex-m4", "ic_resnet8_int8"): (
        28_507_000,
        {0: 4.77, 1: 2.33, 2: 2.33, 3: 81, 4: 2.14, 5: 1.93, 6: 4.30, 7: 81, 8: 1.86, 9: 1.76,
         10: 3.22, 11: 81},
    ),
    ("cortex-m4", "kws_dscnn_int8"): (
        7_225_901,
        {0: 3.50, 1: 7.80, 2: 2.09, 3: 7.80, 4: 2.09, 5: 7.80, 6: 2.09, 7: 7.80, 8: 2.09},
    ),
    ("cortex-m4", "ad_fcae_int8"): (
        573_204, {0: 1.96, 1: 2.29, 2: 2.29, 3: 2.29, 6: 2.29, 7: 2.29, 8: 2.29},
    ),
    ("cortex-m55", "ic_resnet8_int8"): (
        4_812_856,
        {0: 1.42, 1: 0.40, 2: 0.40, 3: 14, 5: 0.26, 6: 1.08, 7: 14, 9: 0.21, 10: 0.62, 11: 14},
    ),
    ("cortex-m55", "kws_dscnn_int8"): (
        1_784_640,
        {0: 0.96, 1: 2.35, 2: 0.40, 3: 2.35, 4: 0.40, 5: 2.35, 6: 0.40, 7: 2.35, 8: 0.40},
    ),
    ("cortex-m55", "ad_fcae_int8"): (
        149_915, {0: 0.49, 1: 0.60, 2: 0.60, 3: 0.60, 6: 0.60, 7: 0.60, 8: 0.60},
    ),
}  # fmt: skip


def cases(random: int, ops: tuple[str, ...] | None) -> list[TableCase]:
    named = [c for c in (*EDGES, *PACKED, *LAYERS) if ops is None or c.op in ops]
    return [*named, *random_cases(random, ops)]


def support_rows(name: str, table: Iterable[TableCase], reasons: bool) -> list[str]:
    """Operator by operator: which kernels take how many of its cases."""
    table = list(table)
    found = support(table, target_of(name))
    taken: dict[str, Counter[str]] = defaultdict(Counter)
    for e in found.entries:
        taken[e.case.op][e.call.variant] += 1
    total = Counter(c.op for c in table)
    rows = [
        f"| {name} | {op} | {n} | "
        + (", ".join(f"{v} {k}" for v, k in taken[op].most_common()) or "none")
        + " |"
        for op, n in sorted(total.items())
    ]
    if reasons:
        rows += [f"    {case}: {variant}: {why}" for case, variant, why in found.refused]
    return rows


def test_rows(
    names: Sequence[str], places: Sequence[str], table: Sequence[TableCase], compiler: str
) -> tuple[list[str], int]:
    """A line for each set and place, and how many kernels were wrong somewhere."""
    lines, bad = [], 0
    for name in names:
        entries = support(table, target_of(name)).entries
        kernels = len({e.call.variant for e in entries})
        for place in places if name in ON_HOST else [p for p in places if p != "host"]:
            got = (
                on_host(entries)
                if place == "host"
                else on_device(entries, target_of(name), compiler)
            )
            wrong = [r for r in got if r.wrong]
            bad += len(wrong)
            where = "host, ASan and UBSan" if place == "host" else f"virtual {SETS[name]}"
            lines.append(
                f"| {name} | {where} | {kernels} | {len({e.case.name for e in entries})} "
                f"| {len(got)} | {sum(r.wrong for r in wrong)} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
            for r in wrong:
                text = f"    {r.entry.case.name} by {r.entry.call.variant}: {r.wrong} bytes"
                print(text, file=sys.stderr)
    return lines, bad


def _work(r: Result) -> int:
    return (r.cycles if r.cycles is not None else r.instructions) or 0


def perf_rows(name: str, compiler: str) -> tuple[list[str], int]:
    """The best kernel of each known layer beside the best portable one; how many are slower or wrong."""
    from edgekit.graph.ops import macs

    results = on_device(support(LAYERS, target_of(name)).entries, target_of(name), compiler)
    lines, bad = [], sum(r.wrong > 0 for r in results)
    for case in LAYERS:
        mine = [r for r in results if r.entry.case is case]
        best = min(mine, key=_work)
        plain = min((r for r in mine if r.entry.portable), key=_work)
        n = macs(best.entry.node, best.entry.graph) or sum(
            t.elements for t in best.entry.graph.outs(best.entry.node)
        )
        const = sum(c.data.nbytes for c in best.entry.call.consts)
        lines.append(
            f"| {case.name} | {best.entry.call.variant} | {best.instructions:,} "
            f"| {(best.instructions or 0) / n:.2f} | {best.cycles or 0:,} "
            f"| {(plain.instructions or 0) / (best.instructions or 1):.1f}x | {const:,} "
            f"| {best.entry.call.scratch_bytes:,} |"
        )
    return lines, bad


PERF_HEADER = (
    "| layer | kernel | instructions | a MAC (element) | cycles | portable takes | constants "
    "| scratch |\n|---|---|---|---|---|---|---|---|"
)


def model_rows(model: str, target: str) -> list[str]:
    """A model by ``--optimize speed --toolchain best``, layer by layer."""
    from kernel_networks import compiled, counted

    from edgekit.artifact import Artifact
    from edgekit.formats import load
    from edgekit.graph.ir import Graph

    graph: Graph = load(SHARED / "zoo" / f"{model}.tflite")
    with tempfile.TemporaryDirectory() as tmp:
        artifact: Artifact = compiled(Path(tmp) / "a", graph, target, toolchain="best")
        from edgekit_targets.mcu.profile import fixed_pattern

        p, _ = counted(artifact, fixed_pattern(graph))
    whole, layers = CMSIS_NN[target, model]
    tried = artifact.manifest["details"].get("toolchains_compared", {})
    flags = "-O3"
    (tool, release), *_ = artifact.manifest["tools"].items()
    scale = p.details["cycle_scale"]
    lines = [
        f"### {model}, {target}",
        "",
        f"{tool} {release} {flags}"
        + (f" (the better of {' and '.join(sorted(tried))})" if len(tried) > 1 else "")
        + f": {p.instructions:,} instructions (CMSIS-NN {whole:,}), "
        f"{p.details['core_cycles']:,} cycles; flash {p.memory['flash_bytes']:,} bytes, "
        f"of which code {p.memory['code_bytes']:,}; RAM {p.memory['ram_bytes']:,}.",
        "",
        "| layer | kernel | MACs or elements | instructions | each | CMSIS-NN, each | cycles | flash "
        "| scratch |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for k, (layer, node) in enumerate(zip(p.layers, artifact.graph.nodes, strict=True)):
        out = artifact.graph.outs(node)[0]
        n = layer.macs or out.elements
        shape = "x".join(map(str, out.shape[1:]))
        lines.append(
            f"| {layer.op} {shape} | {layer.details['variant']} | {n:,} | {layer.instructions:,} "
            f"| {(layer.instructions or 0) / n:.2f} | {layers.get(k, '')} "
            f"| {round((layer.cycles or 0) / scale):,} | {layer.details['flash_bytes']:,} "
            f"| {layer.details['scratch_bytes']:,} |"
        )
    return [*lines, ""]


def everything(names: Sequence[str], random: int, networks: int, compiler: str) -> int:
    import kernel_networks

    tests, bad = test_rows(names, ("host", "device"), cases(random, None), compiler)
    lines = [
        "# Kernels",
        "",
        "Made by `EDGEKIT_SHARED=../shared python benchmarks/kernels.py all`. Instructions: kind",
        "simulated, exact (Unicorn for Cortex-M0+ and M4, QEMU for M55 and A76). Cycles: kind estimated,",
        "the core's timing table, memory that never waits. CMSIS-NN: TFLM's, GCC 12.2, QEMU, November",
        "2026.",
        f"Tools: edgekit {version('edgekit')}, unicorn {version('unicorn')}, {compiler} unless another is",
        "named, -O3.",
        "",
        "## Conformance",
        "",
        f"Named cases and {random} random ones of every operator, by every kernel that takes them, bytes",
        "against the reference executor (itself checked against TensorFlow Lite Micro).",
        "",
        "| set | where | kernels | cases | runs | wrong bytes |",
        "|---|---|---|---|---|---|",
        *tests,
        "",
        "## Layers",
        "",
    ]
    for name in names:
        rows, wrong = perf_rows(name, compiler)
        bad += wrong
        lines += [f"### {name} ({SETS[name]})", "", PERF_HEADER, *rows, ""]
        print(name, "layers counted", file=sys.stderr, flush=True)
    lines += ["## MLPerf Tiny models", ""]
    for target in TARGETS:
        for model in MODELS:
            lines += model_rows(model, target)
            print(model, target, file=sys.stderr, flush=True)
    lines += [
        "## Networks",
        "",
        f"{networks} networks made at random from the operator set (`benchmarks/random_networks.py`), a",
        "MobileNetV1 and a MobileNetV2, by `--optimize speed` and by `--option kernels=portable`: whole",
        "network, layers whose chosen kernel costs more cycles than the portable one, and bytes that",
        f"differ from the reference executor's in {kernel_networks.SAMPLES} inputs of either program.",
        "",
    ]
    for target in TARGETS:
        rows_ = list(kernel_networks.rows(target, range(networks), compiler))
        slow, wrong = sum(len(r.slow) for r in rows_), sum(r.wrong for r in rows_)
        bad += slow + wrong
        lines += [
            f"### {target} ({rows_[0].compiler} -O3)",
            "",
            f"{sum(r.layers for r in rows_):,} layers, {slow} slower, {wrong} wrong bytes.",
            "",
            kernel_networks.HEADER,
            *(r.line() for r in rows_),
            "",
        ]
    page = Path(__file__).with_suffix(".md")
    aside = page.with_suffix(".md.part")
    aside.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    os.replace(aside, page)
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("mode", choices=("support", "test", "perf", "all"))
    parser.add_argument("--set", default=",".join(SETS), help=f"of {', '.join(SETS)}")
    parser.add_argument("--on", default="host,device", help="host, device or both")
    parser.add_argument("--ops", help="operators, for test and support; all without")
    parser.add_argument("--random", type=int, default=4, help="random cases an operator")
    parser.add_argument("--networks", type=int, default=56, help="random networks, for all")
    parser.add_argument("--compiler", choices=("zig", "gcc"), default="zig")
    parser.add_argument("--reasons", action="store_true", help="with support: why kernels refuse")
    args = parser.parse_args()
    names, places = args.set.split(","), args.on.split(",")
    unknown = [*(set(names) - set(SETS)), *(set(places) - {"host", "device"})]
    if unknown:
        parser.error(f"there is no set or place '{unknown[0]}'")
    ops = tuple(args.ops.split(",")) if args.ops else None
    if args.mode == "support":
        print("| set | operator | cases | taken by |\n|---|---|---|---|")
        for name in names:
            print("\n".join(support_rows(name, cases(args.random, ops), args.reasons)))
        return 0
    if args.mode == "test":
        lines, bad = test_rows(names, places, cases(args.random, ops), args.compiler)
        print("| set | where | kernels | cases | runs | wrong bytes |\n|---|---|---|---|---|---|")
        print("\n".join(lines))
        return 1 if bad else 0
    if args.mode == "perf":
        bad = 0
        for name in names:
            rows, wrong = perf_rows(name, args.compiler)
            bad += wrong
            print(f"\n## {name}\n\n{PERF_HEADER}\n" + "\n".join(rows))
        return 1 if bad else 0
    return 1 if everything(names, args.random, args.networks, args.compiler) else 0


if __name__ == "__main__":
    raise SystemExit(main())
