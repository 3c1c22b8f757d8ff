"""How the family's layers are measured for a latency table, and how its backend would run a graph.

Every variant of every layer is counted on the virtual core, all of them in a few programs
(:mod:`.measure`). A graph is taken apart by the very code that chooses kernels (:mod:`.choose`), which gets
predicted costs in place of counted ones. Targets without a virtual core, and devices other than it, are
measured by whole programs (:mod:`edgekit.profile.whole`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edgekit.errors import DeviceError
from edgekit.graph.ir import Graph, Node
from edgekit.profile.design import joined
from edgekit.profile.family import Apart, LatencyModel, Measurement, Part, Price, Sample
from edgekit.profile.terms import Dims, dims_of
from edgekit.targets.base import Backend, Progress
from edgekit.targets.schema import Target

from . import loops, toolchain, variants
from .choose import Choice, Found, Option, choose, contested, find_options, least
from .config import McuTarget, parse
from .contract import KernelCall
from .layout import lay_out
from .measure import Cost, Costs, _salt, measure
from .memory import joined_parts
from .project import kernels_dir
from .toolchain import Compiler, Optimize

#: Portable kernels are an order of magnitude slower and their models simple: small layers show enough.
MAX_REF_MACS = 150_000
#: Flash of a program besides kernels and constants, and RAM besides the arena: start-up, stack.
_OTHER_FLASH, _OTHER_RAM = 4_200, 490
_FREE = frozenset({"RESHAPE", "SQUEEZE"})
_KEEP = 20_000  #: layers remembered


@dataclass(frozen=True)
class _Way:
    """One way to run one node."""

    option: Option
    kernel: str
    dims: Dims
    key: str


@dataclass
class _Machine:
    """A target with what is asked of it again and again."""

    mcu: McuTarget
    compiler: Compiler
    ways: dict[str, tuple[list[_Way], list[tuple[str, str]]]] = field(default_factory=dict)


class McuLatency:
    """:class:`edgekit.profile.family.LatencyModel` of the family."""

    def __init__(self, backend: Backend) -> None:
        from edgekit.profile.whole import WholeNetworks

        self._whole: LatencyModel = WholeNetworks(backend)
        self._machines: dict[str, _Machine] = {}

    def _machine(self, target: Target) -> _Machine | None:
        """None: there is no virtual core."""
        key = repr(target)
        if key not in self._machines:
            mcu = parse(target)
            if mcu.virtual is None or mcu.toolchain is None:
                return None
            self._machines[key] = _Machine(mcu, toolchain.arm_compiler(mcu.toolchain, "auto"))
        return self._machines[key]

    def table_of(self, target: Target, engine: str, optimize: str) -> str:
        return {"-O2": "balanced", "-O3": "speed", "-Os": "size"}[_flags(optimize)]

    def fingerprint(self, target: Target, engine: str, optimize: str) -> str:
        machine = self._machine(target)
        if machine is None:
            return self._whole.fingerprint(target, engine, optimize)
        digest = hashlib.sha256(_salt(machine.mcu, machine.compiler, _as(optimize)).encode())
        for path in sorted(kernels_dir().glob("*/*.c")):
            digest.update(path.name.encode() + path.read_bytes())
        digest.update(repr(target.timing).encode())
        return digest.hexdigest()[:24]

    # -- measuring -----------------------------------------------------------------------------

    def measure_layers(
        self,
        graphs: Sequence[Graph],
        target: Target,
        engine: str,
        optimize: str,
        device: str,
        progress: Progress | None = None,
    ) -> Measurement:
        machine = self._machine(target)
        if machine is None or device != f"virtual:{machine.mcu.virtual.core}":  # type: ignore[union-attr]
            return self._whole.measure_layers(graphs, target, engine, optimize, device, progress)
        from edgekit.graph.ops import macs
        from edgekit.profile.shapes import integer_form

        layers = [integer_form(g) for g in graphs]
        calls: dict[str, list[KernelCall]] = {}
        ways: dict[tuple[str, str], _Way] = {}
        for k, g in enumerate(layers):
            for name, found in find_options(g, target)[0].items():
                node = g.node(name)
                best = min(o.rank for o in found)
                small = macs(node, g) <= MAX_REF_MACS
                kept = [
                    o
                    for o in found
                    if small or o.rank == best or not o.call.variant.endswith("_ref")
                ]
                calls[f"{k}:{name}"] = [o.call for o in kept]
                for o in kept:
                    ways[f"{k}:{name}", o.call.variant] = _way(node, g, o)
        costs = measure(
            joined(layers), calls, machine.mcu, machine.compiler, _as(optimize), progress
        )
        if costs.absent is not None:
            raise DeviceError(f"kernels cannot be counted on {device}: {costs.absent}")
        timed = all(c.cycles is not None for c in costs.by_call.values())
        scale = target.timing.scale if timed and target.timing else 1.0
        samples = []
        for call, cost in costs.by_call.items():
            way = ways[call]
            value = cost.cycles if timed else cost.instructions
            samples.append(Sample(way.kernel, way.dims, scale * float(value or 0), way.key))
        return Measurement(
            samples,
            "cycles" if timed else "instructions",
            "estimated" if timed else "simulated",
            {machine.compiler.name: machine.compiler.version, **_emulator()},
            {"code_bytes": dict(costs.code_bytes), "clock_hz": target.core.clock_hz},
        )

    # -- predicting ----------------------------------------------------------------------------

    def take_apart(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        optimize: str,
        price: Price,
        facts: Mapping[str, Any],
    ) -> Apart:
        machine = self._machine(target)
        if machine is None or "code_bytes" not in facts:
            return self._whole.take_apart(graph, target, engine, optimize, price, facts)
        mode = _as(optimize)
        scale = target.timing.scale if target.timing else 1.0
        known: dict[tuple[str, str], _Way] = {}

        def found_in(g: Graph) -> Found:
            options: dict[str, list[Option]] = {}
            rejected: dict[str, list[tuple[str, str]]] = {}
            for node, key in zip(g.nodes, _node_keys(g, target), strict=True):
                ways, refused = self._ways(machine, node, g, key)
                options[node.name] = [w.option for w in ways]
                rejected[node.name] = refused
                known.update({(node.name, w.option.call.variant): w for w in ways})
            return options, rejected

        def costs(g: Graph, options: Mapping[str, Sequence[Option]]) -> Costs:
            by_call = {}
            for name, calls in contested(g, options).items():
                for call in calls:
                    w = known[name, call.variant]
                    value = round(price(w.kernel, w.dims, w.key) / scale)
                    by_call[name, call.variant] = Cost(value, value)
            return Costs(by_call, facts["code_bytes"])

        def select(
            graph: Graph, found: Found, optimize: Optimize, most_work: int | None = None
        ) -> Choice:
            if graph is not whole:  # streamed; lay_out found its options
                found = found_in(graph)
            return choose(
                graph, machine.mcu, machine.compiler, optimize, limits=limits, found=found,
                most_work=most_work, costs=costs(graph, found[0]),
            )  # fmt: skip

        from .backend import _limits

        whole = graph
        limits = _limits(machine.mcu)
        found = found_in(graph)
        tight = limits.ram is not None and least(graph, found)[1] > limits.ram
        if mode == "ram" or tight:
            graph_, choice, plan = lay_out(
                graph, found, target, select, mode, limits.ram, True, lambda _text: None
            )
            arena = plan.arena_bytes
            found_in(graph_)  # of all the ways to stream that were tried, the one that was kept
        else:
            graph_, choice = graph, select(graph, found, mode)
            arena = None
        parts = _merged(graph, graph_, choice, known, price)
        return Apart(parts, _memory(graph_, choice, facts, arena))

    def _ways(
        self, machine: _Machine, node: Node, graph: Graph, key: str
    ) -> tuple[list[_Way], list[tuple[str, str]]]:
        if any(hasattr(v, "concerns") for v in variants.variants_for(node, graph)):
            return _find_ways(node, graph, machine.mcu.target)  # goes by values; keys by shapes
        found = machine.ways.get(key)
        if found is None:
            found = _find_ways(node, graph, machine.mcu.target)
            if len(machine.ways) >= _KEEP:
                machine.ways.clear()
            machine.ways[key] = found
        return found

    def read_profile(
        self,
        graph: Graph,
        target: Target,
        engine: str,
        optimize: str,
        document: Mapping[str, Any],
        unit: str,
    ) -> Sequence[Sample]:
        machine = self._machine(target)
        if machine is None or unit == "ms":
            return self._whole.read_profile(graph, target, engine, optimize, document, unit)
        samples = []
        nodes = {
            n.name: (n, k) for n, k in zip(graph.nodes, _node_keys(graph, target), strict=True)
        }
        for layer in document["layers"]:
            value, place = layer.get(unit), nodes.get(layer["name"])
            if not value or place is None:
                continue
            for way in self._ways(machine, place[0], graph, place[1])[0]:
                if way.option.call.variant == layer.get("variant"):
                    samples.append(Sample(way.kernel, way.dims, float(value), way.key))
        return samples


def _as(optimize: str) -> Optimize:
    return optimize  # type: ignore[return-value]


def _flags(optimize: str) -> str:
    return toolchain.OPTIMIZE_FLAGS[_as(optimize)]


def _emulator() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return {"unicorn": version("unicorn")}
    except PackageNotFoundError:
        return {}


# -- a node's ways -----------------------------------------------------------------------------


def _find_ways(
    node: Node, graph: Graph, target: Target
) -> tuple[list[_Way], list[tuple[str, str]]]:
    ways, refused = [], []
    for v in variants.variants_for(node, graph):
        reason = v.reject(node, graph, target)
        if reason is None:
            ways.append(_way(node, graph, Option(v.lower(node, graph, target), v.rank)))
        else:
            refused.append((v.name, reason))
    if not ways:
        raise variants.unsupported(node, graph, target)
    return ways, refused


def _way(node: Node, graph: Graph, option: Option) -> _Way:
    call = option.call
    counts = loops.counts(node, graph, call)
    kernel = call.variant if counts is not None else f"{call.variant} {node.type}"
    dims = dims_of(node, graph) if counts is None else Dims(counts=counts)
    text: list[object] = [node.type, sorted(node.attrs.items())]
    for t in (*graph.ins(node), *graph.outs(node)):
        if t is not None:
            end = t.quant is not None and not t.is_const and t.quant.zp == -128
            text.append((t.shape, t.dtype, t.is_const, end))
    details = {k: v for k, v in call.details.items() if k != "constant_channels"}
    text.append(sorted((k, str(v)) for k, v in details.items()))
    key = hashlib.sha256(repr(text).encode()).hexdigest()[:16]
    return _Way(Option(_light(call), option.rank), kernel, dims, key)


def _light(call: KernelCall) -> KernelCall:
    """The call without the values of its constants: as many bytes, all of them the same one."""
    consts = tuple(
        replace(c, data=np.broadcast_to(np.zeros((), c.data.dtype), c.data.shape))
        for c in call.consts
    )
    return replace(call, consts=consts)


def _node_keys(graph: Graph, target: Target) -> list[str]:
    """For each node a digest of everything that its variants look at: shapes, scales, constants, and
    the room that the activations around it leave for scratch."""
    ram = target.memory_size("ram", "tcm")
    live = _live_bytes(graph)
    keys = []
    for step, node in enumerate(graph.nodes):
        digest = hashlib.blake2b(digest_size=16)
        row: list[object] = [node.type, sorted(node.attrs.items())]
        if node.type == "CONV_2D" and ram:
            row.append(min(max(8192, ram // 4), max(0, ram - ram // 8 - live[step])))
        for t in (*graph.ins(node), *graph.outs(node)):
            if t is None:
                row.append(None)
                continue
            row.append((t.shape, t.dtype, t.is_const))
            if t.quant is not None:
                digest.update(t.quant.scale.tobytes() + t.quant.zero_point.tobytes())
            if t.data is not None:
                digest.update(np.ascontiguousarray(t.data).data if t.data.size else b"")
        row.append(len(set(node.inputs)))
        digest.update(repr(row).encode())
        keys.append(digest.hexdigest())
    return keys


def _live_bytes(graph: Graph) -> list[int]:
    """Bytes of activations alive at each step, as :func:`.variants.dsp_tiles.live_bytes` counts."""
    first: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[str, int] = dict.fromkeys(graph.outputs, len(graph.nodes))
    for step, n in enumerate(graph.nodes):
        for name in n.outputs:
            first.setdefault(name, step)
            last.setdefault(name, step)
        for used in n.inputs:
            if used is not None:
                last[used] = max(last.get(used, 0), step)
    change = [0] * (len(graph.nodes) + 2)
    for name, at in first.items():
        size = graph.tensor(name).nbytes
        end = last.get(name, at)
        if end >= at:
            change[at] += size
            change[min(end, len(graph.nodes)) + 1] -= size
    live, total = [], 0
    for step in range(len(graph.nodes)):
        total += change[step]
        live.append(total)
    return live


# -- the parts ---------------------------------------------------------------------------------


def _free(graph: Graph, node: Node, call: KernelCall) -> bool:
    """Whether the planner puts the result where its bytes already lie."""
    if node.type in _FREE:
        return bool(call.inplace) and node.inputs[0] not in graph.inputs
    parts = joined_parts(graph, node)
    return bool(parts) and all(at % 8 == 0 and n not in graph.inputs for n, at in parts)


def _merged(
    graph: Graph,
    laid_out: Graph,
    choice: Choice,
    known: Mapping[tuple[str, str], _Way],
    price: Price,
) -> list[Part]:
    """A part for every node of ``graph``; what it was split into is added up."""
    own = {n.name for n in graph.nodes}
    if laid_out is graph:
        return [_part(graph, n, choice, known) for n in graph.nodes]
    pieces: dict[str, list[Part]] = {}
    for n in laid_out.nodes:
        part = _part(laid_out, n, choice, known)
        name = n.name
        while name not in own and ("/" in name or "_" in name or " " in name):
            name = name[: max(name.rfind("/"), name.rfind("_"), name.rfind(" "))]
        pieces.setdefault(name if name in own else graph.nodes[-1].name, []).append(part)
    parts = []
    for n in graph.nodes:
        of = [p for p in pieces.get(n.name, ()) if p.kernel is not None and p.dims is not None]
        if len(of) == 1:
            parts.append(replace(of[0], node=n.name))
        elif not of:
            parts.append(Part(n.name, None))
        else:
            parts += [replace(p, node=n.name) for p in of]
    return parts


def _part(graph: Graph, node: Node, choice: Choice, known: Mapping[tuple[str, str], _Way]) -> Part:
    call = choice.calls[node.name]
    if _free(graph, node, call):
        return Part(node.name, None)
    way = known[node.name, call.variant]
    return Part(node.name, way.kernel, way.dims, way.key, call.variant)


def _memory(
    graph: Graph, choice: Choice, facts: Mapping[str, Any], arena: int | None
) -> dict[str, int]:
    from .memory import make_buffers, mergeable, pack

    sources = {s for c in choice.calls.values() for s in c.sources}
    code = sum(int(facts["code_bytes"].get(s, 0)) for s in sources)
    constants = sum(variants.const_bytes(c) for c in choice.calls.values())
    if arena is None:
        ways = (mergeable(graph, choice.calls), ())
        arena = min(pack(make_buffers(graph, choice.calls, m), search=False)[0] for m in ways)
    return {
        "flash_bytes": constants + code + _OTHER_FLASH,
        "ram_bytes": arena + _OTHER_RAM,
        "arena_bytes": arena,
        "constants_bytes": constants,
    }
