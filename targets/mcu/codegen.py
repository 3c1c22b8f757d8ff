"""The code generator: a planned, lowered graph becomes ``edgekit_model.{h,c}`` and its constants.

Each node is one function without arguments, ``edgekit_layer_<index>_<op>``: a symbol that profilers
and debuggers can see. The text depends on the graph and the lowering only, so the same inputs give
the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from edgekit.errors import UnsupportedError
from edgekit.graph.ir import Graph, Node, Tensor

from .contract import ConstArray, KernelCall
from .memory import Plan, joined_parts

CTYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "bool": "uint8_t",
    "float32": "float",
    "float16": "uint16_t",
}
_NUMPY = {v: k for k, v in CTYPES.items() if k not in ("bool", "float16")}
_NUMPY["uint32_t"] = "uint32"
_PER_LINE = 100


@dataclass(frozen=True)
class Source:
    """The generated texts, and what each layer is called.

    layers: symbol of each node's function in order; None where in-place planning left nothing to do
    (a RESHAPE whose output is its input). const_bytes: flash of each node's constants, shared ones
    counted where they come first.
    """

    header: str
    model: str
    weights_header: str
    weights: str
    layers: tuple[str | None, ...]
    const_bytes: tuple[int, ...]


class _Constants:
    """Arrays in flash, each stored once whatever it is called."""

    def __init__(self) -> None:
        self._by_content: dict[tuple[str, bytes], str] = {}
        self._entries: dict[str, tuple[str, np.ndarray, int]] = {}
        self.bytes = 0

    def add(self, stem: str, ctype: str, data: np.ndarray, align: int) -> str:
        data = np.ascontiguousarray(data).reshape(-1)
        expected = _NUMPY.get(ctype)
        if expected is None:
            raise ValueError(f"constant '{stem}' has C type {ctype}")
        if data.dtype != np.dtype(expected):
            cast = data.astype(expected)
            if not np.array_equal(cast, data):
                raise ValueError(f"constant '{stem}' does not fit {ctype}")
            data = cast
        key = (ctype, data.tobytes())
        name = self._by_content.get(key)
        if name is None:
            name = self._by_content[key] = f"edgekit_{stem}"
            self._entries[name] = (ctype, data, align)
            self.bytes += data.nbytes
        else:
            kept = self._entries[name]
            self._entries[name] = (kept[0], kept[1], max(kept[2], align))
        return name

    def declarations(self) -> list[str]:
        return [f"extern const {c} {n}[{d.size}];" for n, (c, d, _) in self._entries.items()]

    def definitions(self) -> list[str]:
        out = []
        for name, (ctype, data, align) in self._entries.items():
            out.append(f"_Alignas({align}) const {ctype} {name}[{data.size}] = {{")
            out.extend(_rows(_literals(data)))
            out.append("};\n")
        return out


def _literals(data: np.ndarray) -> list[str]:
    if data.dtype.kind == "f":
        return [f"{float(v).hex()}f" for v in data]
    values = data.tolist()
    if data.dtype == np.int32:  # -2147483648 is no C literal
        return ["INT32_MIN" if v == -(1 << 31) else str(v) for v in values]
    if data.dtype == np.int64:
        return ["INT64_MIN" if v == -(1 << 63) else f"{v}ll" for v in values]
    if data.dtype == np.uint32:
        return [f"{v}u" for v in values]
    return [str(v) for v in values]


def _rows(literals: Sequence[str]) -> list[str]:
    rows: list[str] = []
    row: list[str] = []
    width = 0
    for text in literals:
        if width + len(text) + 1 > _PER_LINE and row:
            rows.append(",".join(row) + ",")
            row, width = [], 0
        row.append(text)
        width += len(text) + 1
    if row:
        rows.append(",".join(row) + ",")
    return rows


def layer_symbol(index: int, node: Node) -> str:
    """``edgekit_layer_003_conv_2d``."""
    return f"edgekit_layer_{index:03d}_{re.sub('[^a-z0-9]+', '_', node.type.lower())}"


def macro_name(text: str) -> str:
    return re.sub("[^A-Z0-9]+", "_", text.upper())


def is_alias(graph: Graph, node: Node, plan: Plan) -> bool:
    """Whether nothing has to be done: the same bytes already lie in the right place."""
    if parts := joined_parts(graph, node):
        base = plan.offsets[node.outputs[0]]
        return all(plan.offsets.get(name) == base + at for name, at in parts)
    if node.type not in ("RESHAPE", "SQUEEZE"):
        return False
    source, result = node.inputs[0], node.outputs[0]
    return (
        source is not None
        and source in plan.offsets
        and plan.offsets[source] == plan.offsets[result]
        and graph.tensor(source).dtype == graph.tensor(result).dtype
    )


_C_REF = re.compile(r"\{c\.(\w+)\}")


def generate(graph: Graph, calls: Mapping[str, KernelCall], plan: Plan) -> Source:
    """C text for ``graph``. calls: node name -> lowered node. ValueError for a faulty lowering."""
    constants = _Constants()
    params: dict[tuple[str, str], str] = {}
    param_lines: list[str] = []
    layers: list[str | None] = []
    bodies: list[str] = []
    const_bytes: list[int] = []
    headers: list[str] = []

    def pointer(tensor: Tensor, const: bool, stem: str) -> str:
        ctype = CTYPES[tensor.dtype]
        qualifier = "const " if const else ""
        if tensor.data is not None:
            data = tensor.data
            if tensor.dtype == "bool":
                data = data.astype(np.uint8)
            elif tensor.dtype == "float16":
                data = data.view(np.uint16)
            return constants.add(stem, ctype, data, 8)
        return f"(({qualifier}{ctype} *)(void *)(arena + {plan.offsets[tensor.name]}))"

    for index, node in enumerate(graph.nodes):
        before = constants.bytes
        if is_alias(graph, node, plan):
            layers.append(None)
            const_bytes.append(0)
            continue
        call = calls[node.name]
        headers += [h for h in (call.header, *call.more_headers) if h not in headers]
        names = {
            c.name: constants.add(f"c{index:03d}_{c.name}", c.ctype, c.data, max(c.align, 4))
            for c in call.consts
        }
        fields: dict[str, object] = {"c": SimpleNamespace(**names), "scratch": "NULL", "p": ""}
        if call.scratch_bytes:
            fields["scratch"] = f"((void *)(arena + {plan.scratch[node.name]}))"
        if call.params is not None and call.params_type is not None:
            text = _C_REF.sub(lambda m, n=names: n[m.group(1)], call.params)  # type: ignore[misc]
            key = (call.params_type, text)
            if key not in params:
                params[key] = f"p{index:03d}"
                param_lines.append(f"static const {call.params_type} p{index:03d} = {text};")
            fields["p"] = params[key]
        for k, tensor in enumerate(graph.ins(node)):
            if tensor is not None and f"{{in{k}}}" in call.call:
                fields[f"in{k}"] = pointer(tensor, True, f"c{index:03d}_in{k}")
        for k, tensor in enumerate(graph.outs(node)):
            fields[f"out{k}"] = pointer(tensor, False, "")
        try:
            statement = call.call.format(**fields)
        except (KeyError, IndexError, AttributeError, ValueError) as e:
            raise ValueError(f"kernel {call.variant} of node '{node.name}': bad call ({e})") from e
        symbol = layer_symbol(index, node)
        layers.append(symbol)
        const_bytes.append(constants.bytes - before)
        bodies.append(
            f"/* {_comment(node.name)}: {call.variant} */\n"
            f"EDGEKIT_LAYER void {symbol}(void) {{\n  {statement}\n}}\n"
        )

    return Source(
        header=_header(graph, plan),
        model=_model(graph, plan, headers, param_lines, bodies, layers, pointer),
        weights_header=_weights_header(constants),
        weights=_weights(constants),
        layers=tuple(layers),
        const_bytes=tuple(const_bytes),
    )


def _comment(text: str) -> str:
    """Text that cannot end the comment it stands in, ASCII only."""
    text = text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/")
    return "".join(c if " " <= c <= "~" and c != "?" else "_" for c in text)[:120]


def _header(graph: Graph, plan: Plan) -> str:
    lines = [
        f"/* {_comment(graph.name)}: generated by edgekit; do not edit. See README.txt. */",
        "#ifndef EDGEKIT_MODEL_H",
        "#define EDGEKIT_MODEL_H",
        "",
        "#include <stdint.h>",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/* Bytes of RAM for activations and scratch. It is a static array of the model, or, when",
        " * EDGEKIT_USER_ARENA is defined, yours: uint8_t edgekit_arena[EDGEKIT_MODEL_ARENA_BYTES],",
        " * 16-byte aligned. Where it goes: -DEDGEKIT_ARENA_ATTR='__attribute__((section(\".dtcm\")))'.",
        " */",
        f"#define EDGEKIT_MODEL_ARENA_BYTES {plan.arena_bytes}",
        f"#define EDGEKIT_MODEL_LAYERS {len(graph.nodes)}",
        f"#define EDGEKIT_MODEL_INPUTS {len(graph.inputs)}",
        f"#define EDGEKIT_MODEL_OUTPUTS {len(graph.outputs)}",
        "",
        "/* real = scale * (q - zero point); scale 0 where a value is not quantized. */",
    ]
    for kind, names in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
        for k, name in enumerate(names):
            lines += _tensor_macros(f"EDGEKIT_MODEL_{kind}_{k}", graph.tensor(name))
    lines += [
        "/* Before the first inference. Returns 0. */",
        "int edgekit_model_init(void);",
        "",
        "/* One inference: reads the inputs, writes the outputs. Returns 0. Input buffers are reused",
        " * for intermediate values: fill them before every call. */",
        "int edgekit_model_invoke(void);",
        "",
        "/* Buffers by index, NULL for an index that does not exist. Outputs stand until the next",
        " * write to an input or the next inference. */",
        "void *edgekit_model_input(int index);",
        "const void *edgekit_model_output(int index);",
        "uint32_t edgekit_model_input_bytes(int index);",
        "uint32_t edgekit_model_output_bytes(int index);",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _tensor_macros(prefix: str, t: Tensor) -> list[str]:
    shape = t.shape or (1,)
    q = t.quant if t.quant is not None and not t.quant.is_per_channel else None
    return [
        f"/* {_comment(t.name)}: {t.dtype}{list(t.shape)} */",
        f"typedef {CTYPES[t.dtype]} {prefix.lower()}_t;",
        f"#define {prefix}_DTYPE_{macro_name(t.dtype)} 1",
        f"#define {prefix}_BYTES {t.nbytes}",
        f"#define {prefix}_ELEMENTS {t.elements}",
        f"#define {prefix}_RANK {len(t.shape)}",
        f"#define {prefix}_SHAPE {{ {', '.join(str(d) for d in shape)} }}",
        f"#define {prefix}_SCALE {q.s if q else 0.0!r}f",
        f"#define {prefix}_ZERO_POINT {q.zp if q else 0}",
        "",
    ]


def _model(
    graph: Graph,
    plan: Plan,
    headers: Sequence[str],
    param_lines: Sequence[str],
    bodies: Sequence[str],
    layers: Sequence[str | None],
    pointer: object,
) -> str:
    assert callable(pointer)
    out = [
        f"/* {_comment(graph.name)}: generated by edgekit; do not edit. */",
        '#include "edgekit_model.h"',
        '#include "edgekit_weights.h"',
        "",
        "#include <stddef.h>",
        *(f'#include "{h}"' for h in sorted(headers)),
        "",
        "#ifndef EDGEKIT_ARENA_ATTR",
        "#define EDGEKIT_ARENA_ATTR",
        "#endif",
        "#ifdef EDGEKIT_USER_ARENA",
        "extern uint8_t edgekit_arena[EDGEKIT_MODEL_ARENA_BYTES];",
        "#define arena edgekit_arena",
        "#else",
        f"EDGEKIT_ARENA_ATTR _Alignas(16) static uint8_t arena[{max(plan.arena_bytes, 1)}];",
        "#endif",
        "",
        "/* A symbol each, so that profilers see layers. */",
        "#define EDGEKIT_LAYER __attribute__((noinline))",
        "",
        "/* With EDGEKIT_TRACE, edgekit_trace is called after each layer, once for each output. */",
        "#ifdef EDGEKIT_TRACE",
        "void edgekit_trace(int layer, int output, const void *data, uint32_t bytes);",
        "#define TRACE(layer, output, data, bytes) edgekit_trace(layer, output, data, bytes)",
        "#else",
        "#define TRACE(layer, output, data, bytes) ((void)0)",
        "#endif",
        "",
        *param_lines,
        "",
        *(f"void {s}(void);" for s in layers if s),
        "",
        *bodies,
        "int edgekit_model_init(void) { return 0; }",
        "",
        "int edgekit_model_invoke(void) {",
    ]
    for index, (node, symbol) in enumerate(zip(graph.nodes, layers, strict=True)):
        if symbol:
            out.append(f"  {symbol}();")
        for k, t in enumerate(graph.outs(node)):
            out.append(f"  TRACE({index}, {k}, arena + {plan.offsets[t.name]}, {t.nbytes}u);")
    out += ["  return 0;", "}", ""]

    def table(result: str, function: str, values: Sequence[str], default: str) -> list[str]:
        lines = [f"{result}{function}(int index) {{", "  switch (index) {"]
        lines += [f"    case {k}: return {v};" for k, v in enumerate(values)]
        return [*lines, f"    default: return {default};", "  }", "}", ""]

    ins = [graph.tensor(i) for i in graph.inputs]
    outs = [graph.tensor(o) for o in graph.outputs]
    out += table(
        "void *", "edgekit_model_input", [f"arena + {plan.offsets[t.name]}" for t in ins], "NULL"
    )
    out += table(
        "const void *",
        "edgekit_model_output",
        [pointer(t, True, f"out_{k}") for k, t in enumerate(outs)],
        "NULL",
    )
    out += table("uint32_t ", "edgekit_model_input_bytes", [f"{t.nbytes}u" for t in ins], "0")
    out += table("uint32_t ", "edgekit_model_output_bytes", [f"{t.nbytes}u" for t in outs], "0")
    return "\n".join(out)


def _weights_header(constants: _Constants) -> str:
    return "\n".join(
        [
            "/* Constants of the model; generated by edgekit. */",
            "#ifndef EDGEKIT_WEIGHTS_H",
            "#define EDGEKIT_WEIGHTS_H",
            "",
            "#include <stdint.h>",
            "",
            *constants.declarations(),
            "",
            "#endif",
            "",
        ]
    )


def _weights(constants: _Constants) -> str:
    return "\n".join(
        [
            "/* Constants of the model; generated by edgekit. */",
            '#include "edgekit_weights.h"',
            "",
            *constants.definitions(),
        ]
    )


def check_types(graph: Graph) -> None:
    """UnsupportedError for an activation whose dtype has no C type."""
    for t in graph.tensors.values():
        if t.dtype not in CTYPES and not t.is_const:  # constants are what the kernels make of them
            raise UnsupportedError(f"tensor '{t.name}' has dtype {t.dtype}, which has no C type")


__all__ = ["CTYPES", "ConstArray", "Source", "check_types", "generate", "is_alias", "layer_symbol"]
