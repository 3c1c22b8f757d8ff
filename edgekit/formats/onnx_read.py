"""Read .onnx: opset 13 to the latest, float32 or QDQ, into an NHWC graph.

Three steps: every node is folded or converted in ONNX's own layout (NCHW), with explicit
transposes around what needs NHWC (``onnx_ops_*``); the transposes are moved until they cancel
(``onnx_layout``); integer islands between DequantizeLinear and QuantizeLinear become integer nodes
(``onnx_qdq``). A 4-D image input or output is NHWC in the graph; the metadata say so.

Operator semantics: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import FormatError, GraphError, InputError, UnsupportedError
from edgekit.formats.onnx_context import HIDDEN, Context, Converter, Op, decode
from edgekit.graph.ir import Graph, QuantParams, Tensor

if TYPE_CHECKING:
    import onnx

OLDEST_OPSET = 13
UINT8 = 2  #: onnx.TensorProto.UINT8

_INPUT_DTYPES = {1: "float32", 10: "float32", 11: "float32", 2: "uint8", 3: "int8", 5: "int16"}
#: Domains whose operators have the same meaning as in the standard one.
_QDQ_DOMAIN = "com.microsoft"
_QDQ_TYPES = ("QuantizeLinear", "DequantizeLinear", "Gelu")


def converters() -> dict[str, Converter]:
    """ONNX operator type -> converter; what is not here is refused by name."""
    from edgekit.formats import (
        onnx_ops_math,
        onnx_ops_nn,
        onnx_ops_norm,
        onnx_ops_resize,
        onnx_ops_shape,
    )

    return {
        **onnx_ops_nn.CONVERTERS,
        **onnx_ops_norm.CONVERTERS,
        **onnx_ops_resize.CONVERTERS,
        **onnx_ops_math.CONVERTERS,
        **onnx_ops_shape.CONVERTERS,
    }


def read(path: Path | str, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Read an .onnx file.

    input_shapes: ONNX input name -> complete shape in the model's own layout (NCHW). Raises
    FormatError (malformed), InputError (dynamic dimensions left open), UnsupportedError (operators
    or forms that edgekit lacks, every node named).
    """
    import onnx

    path = Path(path)
    try:
        model = onnx.load(str(path))
    except Exception as e:
        text = str(e).replace(f"{path.parent}/", "").replace(str(path.parent), "its folder")
        reason = (text.strip().splitlines() or [type(e).__name__])[0][:120]
        raise FormatError(f"'{path.name}' is not a readable ONNX model ({reason})") from e
    return from_model(model, input_shapes, source=path.name)


def from_model(
    model: onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    source: str = "model",
) -> Graph:
    """Convert a ModelProto; as :func:`read`, ``source`` names it in messages."""
    from edgekit.formats.base import malformed_is_format_error

    with malformed_is_format_error(source, "onnx"):
        try:
            return _import(model, dict(input_shapes or {}), source)
        except GraphError as e:
            raise FormatError(f"'{source}' is inconsistent: {e}") from e


def _import(model: onnx.ModelProto, input_shapes: dict[str, tuple[int, ...]], source: str) -> Graph:
    from edgekit.formats.onnx_layout import to_nhwc
    from edgekit.formats.onnx_patterns import fuse
    from edgekit.formats.onnx_qdq import integer_islands, is_qdq
    from edgekit.formats.onnx_write import NHWC_KEY

    nchw = all(p.key != NHWC_KEY for p in model.metadata_props)
    model, opset = _prepare(model, source)
    ctx = Context(Graph(model.graph.name or "onnx", {}, [], (), ()), opset)
    _inputs(ctx, model.graph, input_shapes, source)
    nodes = [(decode(n, i), n) for i, n in enumerate(model.graph.node)]
    outputs = [o.name for o in model.graph.output]
    nodes = fuse(nodes, ctx, outputs)
    _convert(ctx, nodes, source)
    if not outputs:
        raise FormatError(f"'{source}' has no outputs")
    names = tuple(_output(ctx, o) for o in model.graph.output)
    if not all(ctx.graph.tensors[n].elements for n in names):
        raise FormatError(f"'{source}' has an empty output")
    ctx.graph.outputs = names
    ctx.graph.prune()
    graph = to_nhwc(ctx.graph, dict(zip(names, outputs, strict=True)), nchw=nchw)
    if is_qdq(graph):
        graph = integer_islands(graph)
    graph.metadata.update({"format": "onnx", "source": source, "opset": str(opset)})
    if model.producer_name:
        graph.metadata["producer"] = f"{model.producer_name} {model.producer_version}".strip()
    return graph.validate()


def _prepare(model: onnx.ModelProto, source: str) -> tuple[onnx.ModelProto, int]:
    """The model with local functions inlined and opset >= 13, and its opset."""
    from onnx import defs, inliner, version_converter

    if not model.graph.node and not model.graph.output:
        raise FormatError(f"'{source}' is not an ONNX model: it holds no graph")
    if model.functions:
        model = inliner.inline_local_functions(model)
    opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    opset = int(opsets.get("", 0))
    if opset < 1:
        raise FormatError(f"'{source}' does not say which opset it uses")
    if opset > defs.onnx_opset_version():
        raise UnsupportedError(
            f"'{source}' uses opset {opset}; the installed onnx knows up to "
            f"{defs.onnx_opset_version()}"
        )
    if opset < OLDEST_OPSET:
        try:
            model = version_converter.convert_version(model, OLDEST_OPSET)
        except Exception as e:
            raise UnsupportedError(
                f"'{source}' uses opset {opset} and cannot be converted to {OLDEST_OPSET}; "
                f"export it with opset {OLDEST_OPSET} or later"
            ) from e
        opset = OLDEST_OPSET
    if model.graph.sparse_initializer:
        raise UnsupportedError(f"'{source}' has sparse initializers; only dense ones are read")
    return model, opset


def _inputs(
    ctx: Context, graph: onnx.GraphProto, fixed: dict[str, tuple[int, ...]], source: str
) -> None:
    """Declare the model's inputs and constants."""
    from onnx import numpy_helper

    for init in graph.initializer:
        value = numpy_helper.to_array(init)
        if value.dtype.kind == "f" and not np.all(np.isfinite(value)) and value.size > 1:
            raise FormatError(f"initializer '{init.name}' of '{source}' holds NaN or infinity")
        ctx.values[init.name] = value
    known = [i.name for i in graph.input if i.name not in ctx.values]
    unknown = sorted(set(fixed) - set(known))
    if unknown:
        raise InputError(
            f"'{source}' has no input '{unknown[0]}'; its inputs are {', '.join(known) or 'none'}"
        )
    names: list[str] = []
    for i in graph.input:
        if i.name in ctx.values:
            continue
        kind = i.type.tensor_type.elem_type
        if not i.type.HasField("tensor_type") or kind not in _INPUT_DTYPES:
            raise UnsupportedError(
                f"input '{i.name}' of '{source}' has element type {kind}; float32, float16, int8, "
                "uint8 and int16 are read"
            )
        shape = _fixed_shape(i, fixed, source)
        ctx.graph.add_tensor(Tensor(i.name, shape, _INPUT_DTYPES[kind]))
        ctx.bind(i.name, i.name)
        names.append(i.name)
    if not names:
        raise FormatError(f"'{source}' has no inputs")
    ctx.graph.inputs = tuple(names)


def _fixed_shape(
    i: onnx.ValueInfoProto, fixed: dict[str, tuple[int, ...]], source: str
) -> tuple[int, ...]:
    """All dimensions of an input known: from the file, the option, or 1 for a symbolic batch."""
    declared = i.type.tensor_type.HasField("shape")
    dims = list(i.type.tensor_type.shape.dim)
    if i.name in fixed:
        want = tuple(int(d) for d in fixed[i.name])
        known = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
        if min(want, default=1) < 1 or (
            declared
            and (
                len(want) != len(dims)
                or any(k is not None and k != w for k, w in zip(known, want, strict=True))
            )
        ):
            raise InputError(
                f"the shape {list(want)} does not fit input '{i.name}' of '{source}', which is "
                f"{[k if k else '?' for k in known]}"
            )
        return want
    if not declared:
        raise InputError(
            f"input '{i.name}' of '{source}' has no shape; give one with "
            f"--input-shape {i.name}=1,3,32,32"
        )
    out = []
    for k, d in enumerate(dims):
        if d.HasField("dim_value") and d.dim_value > 0:
            out.append(int(d.dim_value))
        elif k == 0 and not (d.HasField("dim_value") and d.dim_value < -1):
            out.append(1)
        else:
            example = ",".join(
                str(e.dim_value)
                if e.HasField("dim_value") and e.dim_value > 0
                else ("1" if n == 0 else "32")
                for n, e in enumerate(dims)
            )
            name = d.dim_param or "?"
            raise InputError(
                f"dimension {k} ('{name}') of input '{i.name}' of '{source}' is dynamic; fix it "
                f"with --input-shape {i.name}={example}"
            )
    if int(np.prod(out, dtype=np.float64)) > 1 << 31:
        raise FormatError(f"input '{i.name}' of '{source}' has the shape {out}: too large")
    return tuple(out)


def _convert(ctx: Context, nodes: list[tuple[Op, onnx.NodeProto | None]], source: str) -> None:
    """Fold or convert every node, in order; UnsupportedError naming all that cannot be."""
    from edgekit.formats.onnx_fold import fold

    table = converters()
    refused: list[str] = []
    lost: set[str] = set()
    for op, node in nodes:
        standard = op.domain == "" or (op.domain == _QDQ_DOMAIN and op.type in _QDQ_TYPES)
        known = standard and op.type in table
        reason = ""
        try:
            if (
                not any(i in lost for i in op.inputs if i)
                and node is not None
                and fold(ctx, op, node)
            ):
                continue
            if not known:
                reason = f"node '{op.name}' ({op.type})"
            elif any(i in lost for i in op.inputs if i):
                lost.update(o for o in op.outputs if o)
                continue
            else:
                table[op.type](ctx, op)
        except UnsupportedError as e:
            reason = f"node '{op.name}' ({op.type}): {e}"
        if reason:
            refused.append(reason)
            lost.update(o for o in op.outputs if o)
    if refused:
        raise UnsupportedError(
            f"'{source}' uses what edgekit does not implement: {'; '.join(refused)}"
        )


def _output(ctx: Context, declared: onnx.ValueInfoProto) -> str:
    name = declared.name
    if name not in ctx.bound and not ctx.is_const(name):
        raise FormatError(f"output '{name}' is produced by nothing")
    t = ctx.graph.tensor(ctx.tensor(name))
    if declared.type.tensor_type.elem_type == UINT8 and t.dtype == "int8" and t.quant is not None:
        quant = QuantParams.per_tensor(t.quant.s, t.quant.zp + 128)
        return ctx.emit("QUANTIZE", [t.name], out=f"{name}{HIDDEN}u8", dtype="uint8", quant=quant)
    return t.name
