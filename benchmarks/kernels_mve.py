"""Executed instructions of the Helium kernels, layer by layer, for the MLPerf Tiny int8 models.

    python benchmarks/kernels_mve.py > benchmarks/kernels_mve.md
    python benchmarks/kernels_mve.py [--models DIR] [--compiler zig|gcc] [--functions]

Each layer is lowered for a Cortex-M55 by the variant that would be selected, run alone on QEMU's
M55 with a random input and compared byte for byte with the reference executor. Instructions are
simulated (exact; QEMU counts LE and LETP, which cost nothing on silicon), cycles estimated by the
core table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

MODELS = ("ic_resnet8_int8", "kws_dscnn_int8", "ad_fcae_int8")

#: Whole models under TFLM with CMSIS-NN (Helium) on QEMU's Cortex-M55, GCC 12.2, November 2026.
CMSIS_NN = {"ic_resnet8_int8": 4_812_856, "kws_dscnn_int8": 1_784_640, "ad_fcae_int8": 149_915}

#: Its instructions per MAC (per element for ADD) by position of the layer, where measured.
CMSIS_NN_LAYERS = {
    "ic_resnet8_int8": {
        0: 1.42, 1: 0.40, 2: 0.40, 3: 14, 5: 0.26, 6: 1.08, 7: 14, 9: 0.21, 10: 0.62, 11: 14,
    },
    "kws_dscnn_int8": {
        0: 0.96, 1: 2.35, 2: 0.40, 3: 2.35, 4: 0.40, 5: 2.35, 6: 0.40, 7: 2.35, 8: 0.40,
    },
    "ad_fcae_int8": {0: 0.49, 1: 0.60, 2: 0.60, 3: 0.60, 6: 0.60, 7: 0.60, 8: 0.60},
}  # fmt: skip


def layer_cases(path: Path, seed: int):
    """(node, case or None, expected output) of every node, each alone in a graph of its own. None:
    no kernel of this set or the portable one takes it in one call (a RESHAPE that moves nothing)."""
    from dsp_harness import Case
    from mve_harness import m55

    from edgekit.formats import tflite
    from edgekit.graph.ir import Graph
    from edgekit.graph.reference import run_node
    from edgekit_targets.mcu import variants

    graph = tflite.read(path)
    rng = np.random.default_rng(seed)
    values = {
        i: rng.integers(-128, 128, graph.tensor(i).shape).astype(np.int8) for i in graph.inputs
    }
    target = m55()
    for node in graph.nodes:
        values.update(zip(node.outputs, run_node(node, graph, values), strict=True))
        acts = tuple(i for i in node.inputs if i is not None and not graph.tensor(i).is_const)
        names = [*(i for i in node.inputs if i is not None), *node.outputs]
        alone = Graph(node.name, {n: graph.tensor(n) for n in names}, [node], acts, node.outputs)
        case = None
        if node.type != "RESHAPE":
            variant = variants.select(node, graph, target)
            case = Case(alone, variant.lower(node, alone, target), [values[i] for i in acts])
        yield node, case, values[node.outputs[0]].reshape(-1)


def main() -> int:
    """Print the table; exit status 1 when a layer's bytes differ from the reference."""
    from mve_harness import run_m55

    from edgekit.graph.ops import macs

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--compiler", choices=("zig", "gcc"), default="zig")
    parser.add_argument("--functions", action="store_true")
    args = parser.parse_args()
    wrong = 0
    print("# Helium kernels on a Cortex-M55: executed instructions and estimated cycles\n")
    print(
        "Made by `python benchmarks/kernels_mve.py`. Instructions: simulated (QEMU, LE counted);\n"
        "cycles: estimated (core table `m55`, no memory waits). Random inputs, each layer alone.\n"
        "CMSIS-NN's figures: TFLM on QEMU's Cortex-M55, simulated, November 2026."
    )
    for model in MODELS:
        print(f"\n## {model} ({args.compiler}, `-O3`)\n")
        print(
            "| layer | kernel | MACs or elements | instructions | each | CMSIS-NN, each "
            "| cycles | scratch | constants |\n|---|---|---|---|---|---|---|---|---|"
        )
        rows = list(layer_cases(args.models / f"{model}.tflite", 1))
        cases = [c for _, c, _ in rows if c is not None]
        with tempfile.TemporaryDirectory() as tmp:
            wanted = [e for _, c, e in rows if c is not None]
            run = run_m55(cases, wanted, Path(tmp), args.compiler)
        index, instructions, cycles, constants = 0, 0, 0, 0
        for position, (node, case, _) in enumerate(rows):
            if case is None:
                print(f"| {node.type} | nothing to do | | | | | | | |")
                continue
            result = run.results[index]
            wrong += index in run.wrong
            index += 1
            instructions += result.instructions
            cycles += result.cycles
            n = macs(node, case.graph) or case.out_bytes
            const = sum(c.data.nbytes for c in case.call.consts)
            constants += const
            shape = "x".join(map(str, case.graph.tensor(node.outputs[0]).shape[1:]))
            print(
                f"| {node.type} {shape} | {case.call.variant} | {n:,} "
                f"| {result.instructions:,} | {result.instructions / n:.2f} "
                f"| {CMSIS_NN_LAYERS[model].get(position, '')} "
                f"| {result.cycles:,} | {case.call.scratch_bytes} | {const:,} |"
            )
        if args.functions:
            for name, k in sorted(run.functions.items(), key=lambda kv: -kv[1][1])[:16]:
                print(f"    {name}: {k[0]:,} {k[1]:,}", file=sys.stderr)
        other = ("case_", "scratch_", "ek_io", "ek_main", "ek_run", "check", "Reset", "ek_start")
        code = sum(s for f, s in run.sizes.items() if not f.startswith(other))
        print(
            f"\n{instructions:,} instructions, {cycles:,} cycles (TFLM with CMSIS-NN, whole model: "
            f"{CMSIS_NN[model]:,} instructions); {constants:,} bytes of constants, "
            f"{code:,} bytes of kernel code."
        )
    print(
        "\nOutput bytes: "
        + ("all equal to the reference." if not wrong else f"{wrong} LAYERS DIFFER")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
