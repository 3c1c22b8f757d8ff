"""Executed instructions of the DSP kernels, layer by layer, for the MLPerf Tiny int8 models.

    python benchmarks/kernels_dsp.py [--models DIR] [--compiler zig|gcc] [--opt=-O2] [--functions]
    python benchmarks/kernels_dsp.py > benchmarks/kernels_dsp.md

Each layer is lowered for a Cortex-M4 by the variant of the lowest rank that takes it, built on its
own, run on Unicorn with a random input and compared byte for byte with the reference executor; a
second table, for networks that have any, has the convolutions with int8 weights in flash only.
Layers that no DSP variant takes are named. Instructions are simulated, cycles estimated (core table
``m4``, memory that never waits). ``--functions`` adds where the instructions go.
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

#: Whole models under TFLM with CMSIS-NN on QEMU's Cortex-M4 (GCC 12.2, inline-assembly requantize).
CMSIS_NN = {"ic_resnet8_int8": 28_507_000, "kws_dscnn_int8": 7_225_901, "ad_fcae_int8": 573_204}

#: Its instructions per MAC (per element for ADD) by position of the layer, where measured one by one.
CMSIS_NN_LAYERS = {
    "ic_resnet8_int8": {
        0: 4.77, 1: 2.33, 2: 2.33, 3: 81, 4: 2.14, 5: 1.93, 6: 4.30, 7: 81, 8: 1.86, 9: 1.76,
        10: 3.22, 11: 81,
    },
    "kws_dscnn_int8": {
        0: 3.50, 1: 7.80, 2: 2.09, 3: 7.80, 4: 2.09, 5: 7.80, 6: 2.09, 7: 7.80, 8: 2.09,
    },
    "ad_fcae_int8": {0: 1.96, 1: 2.29, 2: 2.29, 3: 2.29, 6: 2.29, 7: 2.29, 8: 2.29},
}  # fmt: skip


def lean(variant, node, graph, target) -> bool:
    """Whether a variant keeps no more than int8 weights, and 32 bytes a channel."""
    from edgekit_targets.mcu.variants import const_bytes

    w = graph.tensor(node.inputs[1])
    most = w.nbytes * 4 // 3 + 32 * (w.shape[0] + 1)
    return const_bytes(variant.lower(node, graph, target)) <= most


def layer_cases(path: Path, seed: int, int8_only: bool = False):
    """(node, case or None, expected output) of every node, each alone in a graph of its own;
    int8_only: 3x3 convolutions by variants that store no more than their int8 weights."""
    from dsp_harness import Case, m4

    from edgekit.formats import tflite
    from edgekit.graph.ir import Graph
    from edgekit.graph.reference import run_node
    from edgekit_targets.mcu import variants

    graph = tflite.read(path)
    rng = np.random.default_rng(seed)
    values = {
        i: rng.integers(-128, 128, graph.tensor(i).shape).astype(np.int8) for i in graph.inputs
    }
    target = m4()
    for node in graph.nodes:
        values.update(zip(node.outputs, run_node(node, graph, values), strict=True))
        acts = tuple(i for i in node.inputs if i is not None and not graph.tensor(i).is_const)
        names = [*(i for i in node.inputs if i is not None), *node.outputs]
        alone = Graph(node.name, {n: graph.tensor(n) for n in names}, [node], acts, node.outputs)
        found = [v for v in variants.candidates(node, graph, target) if v.name.endswith("_dsp")]
        if int8_only:
            if node.type != "CONV_2D" or graph.tensor(node.inputs[1]).shape[1:3] != (3, 3):
                continue
            found = [v for v in found if lean(v, node, graph, target)]
        case = None
        if found:
            case = Case(alone, found[0].lower(node, alone, target), [values[i] for i in acts])
        yield node, case, values[node.outputs[0]].reshape(-1)


def table(rows, model: str, args) -> tuple[int, int, int, int]:
    """Print one table; (instructions, cycles, bytes of kernel code, layers with wrong bytes)."""
    from dsp_harness import M4Program

    from edgekit.graph.ops import macs

    print(
        "| layer | kernel | MACs or elements | instructions | each | CMSIS-NN, each | cycles "
        "| stack | scratch | constants |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    total, cycles, wrong, index = 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as tmp:
        cases = [c for _, c, _ in rows if c is not None]
        program = M4Program(cases, Path(tmp), args.compiler, args.opt)
        for position, (node, case, expected) in enumerate(rows):
            if case is None:
                print(f"| {node.type} | none of this set | | | | | | | | |")
                continue
            result = program.run(index)
            index += 1
            wrong += not np.array_equal(result.output, expected)
            total += result.instructions
            cycles += result.cycles
            n = macs(node, case.graph) or case.out_bytes
            const = sum(c.data.nbytes for c in case.call.consts)
            shape = "x".join(map(str, case.graph.tensor(node.outputs[0]).shape[1:]))
            there = CMSIS_NN_LAYERS[model].get(position, "") if len(rows) > 8 else ""
            print(
                f"| {node.type} {shape} | {case.call.variant} | {n:,} "
                f"| {result.instructions:,} | {result.instructions / n:.2f} | {there} "
                f"| {result.cycles:,} | {result.stack_bytes} | {case.call.scratch_bytes} | {const:,} |"
            )
            if args.functions:
                for name, k in sorted(result.functions.items(), key=lambda kv: -kv[1])[:4]:
                    print(f"    {name}: {k:,}", file=sys.stderr)
        code = sum(s for f, s in program.sizes.items() if not f.startswith(("case_", "scratch_")))
    return total, cycles, code, wrong


def main() -> int:
    """Print the table; exit status 1 when a layer's bytes differ from the reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--compiler", choices=("zig", "gcc"), default="zig")
    parser.add_argument("--opt", default="-O2")
    parser.add_argument("--functions", action="store_true")
    args = parser.parse_args()
    wrong = 0
    print("# DSP kernels on a Cortex-M4: executed instructions\n")
    print(
        "Made by `python benchmarks/kernels_dsp.py`. Instructions simulated (Unicorn), cycles estimated;"
    )
    print("each layer built alone, random inputs, by the variant of the lowest rank.")
    print("CMSIS-NN's figures: TFLM on QEMU's Cortex-M4, measured November 2026.")
    for model in MODELS:
        path = args.models / f"{model}.tflite"
        print(f"\n## {model} ({args.compiler} {args.opt})\n")
        total, cycles, code, bad = table(list(layer_cases(path, 1)), model, args)
        wrong += bad
        print(
            f"\n{total:,} instructions, about {cycles:,} cycles in these layers (TFLM with CMSIS-NN, "
            f"whole model: {CMSIS_NN[model]:,} instructions); {code:,} bytes of kernel code."
        )
        rows = list(layer_cases(path, 1, int8_only=True))
        if rows:
            print("\nThe 3x3 convolutions with int8 weights in flash only:\n")
            total, cycles, code, bad = table(rows, model, args)
            wrong += bad
            print(
                f"\n{total:,} instructions, about {cycles:,} cycles; {code:,} bytes of kernel code."
            )
    print(
        "\nOutput bytes: "
        + ("all equal to the reference." if not wrong else f"{wrong} LAYERS DIFFER")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
