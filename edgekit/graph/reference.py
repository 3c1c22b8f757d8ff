"""Run a graph in NumPy: float32, and int8 with exactly the bytes of TFLite Micro's kernels.

Every operator computes with the ``reference`` of its :class:`edgekit.graph.ops.OpSpec`; this module
orders the nodes, batches the samples and frees values when their last reader has run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edgekit.errors import EdgekitError, GraphError, InputError
from edgekit.graph.ir import Graph, Node, Tensor
from edgekit.graph.ops import Call, spec

#: Bytes that activations and temporaries of one batch of samples may take.
_BATCH_BYTES = 128 << 20
#: Temporaries of an operator, in bytes per element of its largest tensor (int64 intermediates).
_TEMPORARY_BYTES = 32


def run_node(node: Node, graph: Graph, values: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Compute one node: its outputs in order.

    values: what its activation inputs hold, by tensor name (constants come from the graph). Many
    samples may lie along axis 0 where the operator is batchable. Errors name the node.
    """
    ins, outs = graph.ins(node), graph.outs(node)
    x: list[np.ndarray | None] = []
    for t in ins:
        if t is None:
            x.append(None)
        elif t.data is not None:
            x.append(t.data)
        elif t.name in values:
            x.append(values[t.name])
        else:
            raise GraphError(
                f"node '{node.name}' ({node.type}) needs '{t.name}', which has no value"
            )
    try:
        results = spec(node.type).reference(Call(node, ins, outs, x))
    except EdgekitError as e:
        raise type(e)(f"node '{node.name}' ({node.type}): {e}") from None
    if len(results) != len(outs):
        raise GraphError(
            f"node '{node.name}' ({node.type}) gave {len(results)} results for {len(outs)} outputs"
        )
    for t, r in zip(outs, results, strict=True):
        if r.shape[1:] != t.shape[1:] or r.ndim != len(t.shape) or r.dtype != np.dtype(t.dtype):
            raise GraphError(
                f"node '{node.name}' ({node.type}) gave {r.dtype}{list(r.shape)} for '{t.name}', "
                f"which is declared {t.dtype}{list(t.shape)}"
            )
    return results


def _has_sample_axis(t: Tensor) -> bool:
    return len(t.shape) > 0 and t.shape[0] == 1


def sample_shape(t: Tensor, samples: int) -> tuple[int, ...]:
    """Shape of ``samples`` samples of a tensor: axis 0 grows where it is 1, else is prepended."""
    return (samples, *(t.shape[1:] if _has_sample_axis(t) else t.shape))


def _collect(
    graph: Graph, inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], int]:
    """Inputs by name, each with the sample axis in front, and the number of samples."""
    if isinstance(inputs, np.ndarray):
        raise InputError("the inputs are one array; a list of arrays or a dict by name is needed")
    if isinstance(inputs, Mapping):
        unknown = [k for k in inputs if k not in graph.inputs]
        missing = [k for k in graph.inputs if k not in inputs]
        if unknown or missing:
            raise InputError(
                f"the inputs given are {sorted(inputs)}; the graph takes {list(graph.inputs)}"
            )
        given = [inputs[k] for k in graph.inputs]
    else:
        given = list(inputs)
        if len(given) != len(graph.inputs):
            raise InputError(
                f"{len(given)} inputs are given; the graph takes {len(graph.inputs)}: "
                f"{', '.join(graph.inputs)}"
            )
    out: dict[str, np.ndarray] = {}
    samples = 0
    for name, value in zip(graph.inputs, given, strict=True):
        t = graph.tensor(name)
        a = np.asarray(value)
        if not _has_sample_axis(t) and a.shape == t.shape:
            a = a[None]
        wanted = sample_shape(t, a.shape[0] if a.ndim else 1)
        if a.dtype != np.dtype(t.dtype) or a.shape != wanted or a.ndim == 0 or a.shape[0] < 1:
            raise InputError(
                f"input '{name}' is {a.dtype}{list(a.shape)}; {t.dtype}"
                f"[samples{''.join(f', {d}' for d in wanted[1:])}] would be accepted"
            )
        if samples and a.shape[0] != samples:
            raise InputError(
                f"input '{name}' has {a.shape[0]} samples; the inputs before it have {samples}"
            )
        samples = a.shape[0]
        out[name] = a
    return out, samples or 1


def _varying(graph: Graph) -> set[str]:
    """Tensors that depend on an input (the others are the same for every sample)."""
    out = set(graph.inputs)
    for n in graph.nodes:
        if any(i in out for i in n.inputs):
            out.update(n.outputs)
    return out


def _batchable(graph: Graph, varying: set[str]) -> bool:
    for n in graph.nodes:
        ins, outs = graph.ins(n), graph.outs(n)
        tensors = [t for t in [*ins, *outs] if t is not None and t.name in varying]
        if not tensors:
            continue
        if not all(_has_sample_axis(t) for t in tensors):
            return False
        if not spec(n.type).batchable(n, ins, outs):
            return False
    return True


def _sample_bytes(graph: Graph) -> int:
    """About what one sample needs: the live activations at the worst node, and temporaries."""
    last = {t: i for i, n in enumerate(graph.nodes) for t in n.inputs if t is not None}
    live = sum(graph.tensor(i).nbytes for i in graph.inputs)
    peak = live
    for i, n in enumerate(graph.nodes):
        outs = graph.outs(n)
        live += sum(t.nbytes for t in outs)
        widest = max(
            (t.elements for t in [*graph.ins(n), *outs] if t and not t.is_const), default=0
        )
        peak = max(peak, live + _TEMPORARY_BYTES * widest)
        for name in dict.fromkeys(n.inputs):
            if name is not None and last[name] == i and not graph.tensor(name).is_const:
                live -= graph.tensor(name).nbytes
    return max(peak, 1)


def _execute(graph: Graph, values: dict[str, np.ndarray], keep: set[str]) -> dict[str, np.ndarray]:
    """Run all nodes; returns the kept values. Values nobody needs any more are dropped."""
    last = {t: i for i, n in enumerate(graph.nodes) for t in n.inputs if t is not None}
    kept = {k: v for k, v in values.items() if k in keep}
    for i, n in enumerate(graph.nodes):
        for name, result in zip(n.outputs, run_node(n, graph, values), strict=True):
            if name in keep:
                kept[name] = result
            if name in last:
                values[name] = result
        for t in dict.fromkeys(n.inputs):
            if t is not None and last[t] == i:
                values.pop(t, None)
    return kept


def _wanted(graph: Graph, keep: str | Iterable[str]) -> list[str]:
    if keep == "outputs":
        return list(dict.fromkeys(graph.outputs))
    if keep == "all":
        return [*graph.inputs, *(o for n in graph.nodes for o in n.outputs)]
    if isinstance(keep, str):
        raise InputError(f"keep is '{keep}'; 'outputs', 'all' or a list of tensor names is needed")
    names = list(dict.fromkeys(keep))
    for k in names:
        graph.tensor(k)
    return names


def run(
    graph: Graph,
    inputs: Sequence[np.ndarray] | Mapping[str, np.ndarray],
    *,
    keep: str | Iterable[str] = "outputs",
) -> dict[str, np.ndarray]:
    """Run ``graph`` on one or many samples; returns tensor values by name.

    inputs: arrays in graph-input order, or by name, in the tensors' own dtypes, shape
    ``[samples, ...]``: the leading 1 of the declared shape replaced by the number of samples (or
    the samples prepended, where the declared shape doesn't start with 1). Results have the same
    form. keep: "outputs", "all" (every activation, inputs included) or names.

    Raises InputError naming the input for a wrong name, shape or dtype; UnsupportedError where an
    operator lacks a dtype combination.
    """
    wanted = _wanted(graph, keep)
    values, samples = _collect(graph, inputs)
    varying = _varying(graph)
    if _batchable(graph, varying) and all(_has_sample_axis(graph.tensor(i)) for i in graph.inputs):
        step = max(1, min(samples, _BATCH_BYTES // _sample_bytes(graph)))
    else:
        step = 0  # one by one, as the graph declares it
    need = {k for k in wanted if not graph.tensor(k).is_const}
    parts: dict[str, list[np.ndarray]] = {k: [] for k in need}
    for i in range(0, samples, step or 1):
        if step:
            chunk = {k: v[i : i + step] for k, v in values.items()}
        else:
            chunk = {k: v[i].reshape(graph.tensor(k).shape) for k, v in values.items()}
        count = min(step or 1, samples - i)
        for k, v in _execute(graph, chunk, need).items():
            t = graph.tensor(k)
            if k in varying:
                parts[k].append(v.reshape(sample_shape(t, count)))
            else:
                parts[k].append(
                    np.broadcast_to(v.reshape(sample_shape(t, 1)), sample_shape(t, count))
                )
    out: dict[str, np.ndarray] = {}
    for k in wanted:
        t = graph.tensor(k)
        if t.data is not None:
            out[k] = np.broadcast_to(t.data.reshape(sample_shape(t, 1)), sample_shape(t, samples))
        elif not parts[k]:
            raise GraphError(f"tensor '{k}' is produced by nothing")
        else:
            out[k] = parts[k][0] if len(parts[k]) == 1 else np.concatenate(parts[k])
    return out
