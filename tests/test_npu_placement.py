"""Which node a line of Vela's belongs to, and the reasons, without Vela."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from netgen import Net
from npu_case import evil, float_net, int8_net, mixed_net

from edgekit.graph.ir import Graph
from edgekit_targets.npu.outputs import Outputs, Remaining, Row, reasons_in
from edgekit_targets.npu.placement import explain, place, safe_names

STDOUT = """\
Warning: No memory mode specified. Using a default.

Warning (supported operators) operator: RESIZE_BILINEAR, ofm: 'a, b'
Reason: HW scale-factor is not equal.
IF not so:
  - ELSE
    - so

Warning (supported operators) operator: SQRT, ofm: 'y'
Reason: Unsupported opType
Warning (supported operators) operator: SQRT, ofm: 'z'

################################################################################
Performance
"""


def outputs(**fields: object) -> Outputs:
    return replace(Outputs(b"", 1, (), {}, (), {}), **fields)  # type: ignore[arg-type]


def row(name: str, cycles: int = 1, source: str = "Conv2D") -> Row:
    return Row(source, source, True, cycles, 10 * cycles, name)


def test_warnings_are_read_with_all_their_lines() -> None:
    assert reasons_in(STDOUT) == {
        ("a, b", "RESIZE_BILINEAR"): (
            "HW scale-factor is not equal.",
            "IF not so:",
            "- ELSE",
            "- so",
        ),
        ("y", "SQRT"): ("Unsupported opType",),
    }
    assert reasons_in("") == {}


def cycles(graph: Graph, *rows: Row) -> tuple[list[int | None], list[str]]:
    placed, stray = place(graph, outputs(rows=rows), "Ethos-U55", "5.2.0")
    return [p.cycles for p in placed], [r.name for r in stray]


def test_rows_find_their_node_by_exact_name_suffix_and_derived_name() -> None:
    graph = int8_net()  # CONV_2D DEPTHWISE_CONV_2D CONV_2D ADD MEAN FULLY_CONNECTED SOFTMAX
    out = [n.outputs[0] for n in graph.nodes]
    rows = (
        row(out[0], 1),
        row(f"{out[0]}_act", 2),
        row(f"{graph.nodes[0].name}/padded", 4, "Pad"),
        row(f"{graph.nodes[0].name}/padded_act", 8, "PadV2"),
        row(out[1], 16, "DepthwiseConv2D"),
        row(out[5], 32, "FullyConnected"),
        row(f"{out[5]}_softmax_3", 64, "Softmax"),  # named after its input
        row("nobody", 128, "Cumsum"),
    )
    assert cycles(graph, *rows) == ([15, 16, 0, 0, 0, 32, 64], ["nobody"])
    placed, _ = place(graph, outputs(rows=rows), "Ethos-U55", "5.2.0")
    assert placed[2].variant == "npu (folded)" and placed[0].variant == "npu"
    assert placed[0].macs == 150 and len(placed[0].commands) == 4


def test_where_the_name_leaves_a_choice_the_order_decides() -> None:
    net = Net(np.random.default_rng(0), (1, 5))
    first = net.op("SOFTMAX", ["x"], beta=1.0)
    second = net.op("SOFTMAX", [first], beta=1.0)
    graph = net.finish(second)
    rows = [row(f"x_softmax_{k}", 1, "Softmax") for k in range(3)]
    rows += [row(first, 10, "Softmax")]
    rows += [row(f"{first}_softmax_{k}", 100, "Softmax") for k in range(3)]
    rows += [row(second, 1000, "Softmax")]
    assert cycles(graph, *rows) == ([13, 1300], [])
    unnamed = [row("#28", 1, "Softmax"), row(first, 2, "Softmax"), row("#31", 4, "Softmax")]
    assert cycles(graph, *unnamed, row(second, 8, "Softmax")) == ([3, 12], [])
    assert cycles(graph, row(second, 8, "Softmax"), row("#31", 4, "Softmax")) == ([0, 12], [])


def test_every_node_left_over_is_on_the_cpu_and_explained() -> None:
    graph = mixed_net()
    left = tuple(Remaining(n.type, n.outputs) for n in graph.nodes)
    placed, _ = place(graph, outputs(remaining=left, rows=None), "Ethos-U55", "5.2.0")
    assert not any(p.on_npu for p in placed)
    assert all(p.reason and p.reason.strip() for p in placed)
    assert all(p.cycles is None for p in placed)


def test_reasons_are_velas_own_or_ours() -> None:
    node, graph = int8_net().nodes[0], int8_net()
    said = explain(node, graph, ("too wide.", "At most 8.", "Or 9."), "Ethos-U55", "5.2.0")
    assert said == ("too wide.", "At most 8. Or 9.")
    assert explain(node, graph, ("Unsupported opType",), "Ethos-U85", "5.2.0") == (
        "Vela 5.2.0 has no Ethos-U85 form of CONV_2D",
        None,
    )
    assert "gave no reason" in explain(node, graph, (), "Ethos-U55", "5.2.0")[0]
    floats = float_net()
    assert "is float" in explain(floats.nodes[0], floats, (), "Ethos-U55", "5.2.0")[0]
    wide = graph.copy()
    out = node.outputs[0]
    wide.tensors[out] = wide.tensor(out).with_(dtype="int64", quant=None)
    assert "is int64" in explain(node, wide, (), "Ethos-U55", "5.2.0")[0]


@pytest.mark.parametrize("graph", [evil(mixed_net()), int8_net()], ids=["evil", "plain"])
def test_safe_names_are_unique_reversible_and_change_nothing_else(graph) -> None:
    safe, renamed = safe_names(graph)
    assert safe.validate() and len(safe.tensors) == len(graph.tensors)
    assert {renamed.get(t, t) for t in safe.tensors} == set(graph.tensors)
    assert [n.type for n in safe.nodes] == [n.type for n in graph.nodes]
    assert all(t.isascii() and not set(t) & set("\n,'\"") for t in safe.tensors)
    assert bool(renamed) == ("\n" in graph.inputs[0])
