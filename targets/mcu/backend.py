"""The backend of the ``mcu`` family: compile, run and profile."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.devices.base import Device
from edgekit.errors import DoesNotFitError, InputError, UnsupportedError
from edgekit.graph.ir import Graph, Node
from edgekit.graph.ops import macs
from edgekit.targets.base import (
    Compiled,
    CompileOptions,
    EngineInfo,
    Profile,
    Progress,
    RunOutput,
    Unsupported,
    refuse_unknown,
)
from edgekit.targets.schema import Target

from . import codegen, profile, toolchain, variants
from .choose import Choice, Found, Limits, choose, find_options, least
from .config import McuTarget, parse
from .layout import lay_out
from .memory import Plan
from .project import build_firmware, build_host, read_sizes, write_project

ENGINE = "c"


@dataclass(frozen=True)
class _Fit:
    """What is needed of a memory, and what there is (None: no limit)."""

    what: str
    needed: int
    available: int | None

    @property
    def ok(self) -> bool:
        return self.available is None or self.needed <= self.available


class McuBackend:
    """Standalone C for Cortex-M, and the same C for this machine."""

    family = "mcu"

    def engines(self, target: Target) -> Sequence[EngineInfo]:
        mcu = parse(target)
        if mcu.is_host:
            why = toolchain.why_missing("host")
        else:
            why = toolchain.why_missing("zig")
            if why is not None and toolchain.why_missing("gcc") is None:
                why = None
        options = {
            "toolchain": "auto, zig or gcc",
            "objective": "cycles or instructions: what the choice of kernels makes small",
            "kernels": "measure or rank: how kernels are chosen",
            "flash_limit": "bytes of flash the model may take, instead of the target's",
            "ram_limit": "bytes of RAM the model may take, instead of the target's",
        }
        what = "handwritten C kernels, no runtime"
        return [EngineInfo(ENGINE, why is None, why, what, options=options)]

    def supports(self, graph: Graph, target: Target, engine: str = ENGINE) -> Sequence[Unsupported]:
        _check_engine(engine)
        found = []
        for node in graph.nodes:
            reason = variants.reject_reason(node, graph, target)
            if reason is not None:
                found.append(Unsupported(node.name, node.type, reason))
        return found

    def needs_int8(self, target: Target, engine: str = ENGINE) -> bool:
        return True

    def default_device(self, target: Target) -> str:
        mcu = parse(target)
        return "host" if mcu.virtual is None else f"virtual:{mcu.virtual.core}"

    # -- compile -------------------------------------------------------------------------------

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        """``options.extra``: ``toolchain`` (``auto``, ``zig``, ``gcc``); ``flash_limit`` and
        ``ram_limit`` (bytes that the choice of kernels has to keep, instead of the target's);
        ``objective`` (``cycles``, ``instructions``); ``kernels`` (``measure``, ``rank``). Raises
        UnsupportedError (every node named), DoesNotFitError (both numbers), ToolchainError."""
        _check_engine(options.engine)
        mcu = parse(target)
        check_extra(options.extra)
        given = {k: int(options.extra[k]) for k in _LIMITS if k in options.extra}
        mcu = replace(mcu, flash_limit=given.get("flash_limit"), ram_limit=given.get("ram_limit"))
        choice = str(options.extra.get("toolchain", "auto"))
        compiler = (
            toolchain.host_compiler(choice)
            if mcu.toolchain is None
            else toolchain.arm_compiler(mcu.toolchain, choice)
        )
        return self.build(graph, mcu, compiler, out, options, progress)

    def count_nodes(
        self, graph: Graph, target: Target, progress: Progress | None = None
    ) -> Mapping[str, float]:
        """Cycles of each node by itself (:mod:`.counting`)."""
        from .counting import count_nodes

        return count_nodes(graph, target, progress)

    def build(
        self,
        graph: Graph,
        mcu: McuTarget,
        compiler: toolchain.Compiler,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        """:meth:`compile` with a given compiler; other families build their programs with it."""
        say = progress or (lambda _text: None)
        target = mcu.target
        codegen.check_types(graph)
        missing = self.supports(graph, target)
        if missing:
            first = missing[0]
            more = ", ".join(f"'{u.node}' ({u.op})" for u in missing[1:6])
            more += f" and {len(missing) - 6} more" if len(missing) > 6 else ""
            raise UnsupportedError(
                f"{target.name} cannot take node '{first.node}' ({first.op}): {first.reason}"
                + (f"; nor {more}" if more else "")
            )

        say("choosing kernels")
        found = find_options(graph, target)
        limits = _limits(mcu)
        whole = graph
        constants, arena = least(graph, found)
        if mcu.flash_bytes is not None and constants > mcu.flash_bytes:
            _check_fit(target, mcu, constants, arena + mcu.config.stack_bytes, "at least ")

        def select(
            graph: Graph, found: Found, optimize: toolchain.Optimize, most_work: int | None = None
        ) -> Choice:
            return choose(
                graph,
                mcu,
                compiler,
                optimize,
                objective=options.extra.get("objective", "cycles"),
                limits=limits,
                by_rank=options.extra.get("kernels", "measure") == "rank",
                found=found,
                most_work=most_work,
                progress=progress,
            )

        graph, choice, plan = lay_out(
            graph, found, target, select, options.optimize, limits.ram, not mcu.is_host, say
        )
        calls = choice.calls
        source = codegen.generate(graph, calls, plan)
        constants = sum(source.const_bytes)
        _check_fit(target, mcu, constants, plan.arena_bytes + mcu.config.stack_bytes, "at least ")

        say("writing C")
        project = write_project(out, graph, calls, source, mcu, options.optimize)
        say(f"compiling with {compiler.name} {compiler.version}")
        memory: dict[str, Any] = {
            "arena_bytes": plan.arena_bytes,
            "lower_bound_bytes": plan.lower_bound,
            "scratch_bytes": plan.scratch_bytes,
            "weights_bytes": constants,
            "buffers": plan.to_json(),
            "peak_node": graph.nodes[plan.peak_step].name
            if 0 <= plan.peak_step < len(graph.nodes)
            else None,
            "flash_available": mcu.flash_bytes,
            "ram_available": mcu.ram_bytes,
        }
        if mcu.is_host:
            programs = build_host(out, project, compiler, options.optimize)
            memory |= {"flash_bytes": constants, "constants_bytes": constants, "code_bytes": 0}
            memory |= {"static_ram_bytes": plan.arena_bytes, "data_bss_bytes": 0}
        else:
            programs = build_firmware(
                out, project, plan, constants, mcu, compiler, options.optimize
            )
            sizes = read_sizes(out / programs[0])
            _check_fit(target, mcu, sizes.flash, sizes.static_ram + mcu.config.stack_bytes)
            memory |= {
                "flash_bytes": sizes.flash,
                "code_bytes": sizes.code,
                "constants_bytes": sizes.constants,
                "static_ram_bytes": sizes.static_ram,
                "data_bss_bytes": sizes.static_ram - plan.arena_bytes,
            }
        return Compiled(
            engine=ENGINE,
            files=sorted([*project.files, *programs]),
            plan=_plan_rows(graph, choice, source, plan),
            memory=memory,
            tools={compiler.name: compiler.version},
            graph=None if graph is whole else graph,
            details={
                "program": programs[0],
                "trace_program": programs[1],
                "toolchain": compiler.name,
                "optimize": options.optimize,
                "kernels_chosen_by": choice.by,
                "kernels_not_counted": choice.why_rank,
                "host": mcu.is_host,
            },
        )

    # -- run -----------------------------------------------------------------------------------

    def run(
        self,
        artifact: Any,
        device: Device,
        inputs: Sequence[np.ndarray],
        trace_layers: bool = False,
        progress: Progress | None = None,
    ) -> RunOutput:
        graph: Graph = artifact.graph
        samples, data = pack_inputs(graph, inputs)
        details = artifact.manifest["details"]
        program = details["trace_program" if trace_layers else "program"]
        device.push(artifact.file(program), program)
        if progress:
            progress(f"running {samples} sample{'s' if samples != 1 else ''} on {device.name}")
        verb = "trace" if trace_layers else "run"
        device.push_bytes(data, "in.bin")
        profile.execute(device, program, (verb, "in.bin", "out.bin"))
        raw = device.pull("out.bin")
        if not trace_layers:
            return RunOutput(unpack(raw, [graph.tensor(o) for o in graph.outputs], samples))
        layers = _split_trace(graph, raw, samples)
        outputs = []
        for name in graph.outputs:
            t = graph.tensor(name)
            if t.data is not None:
                outputs.append(
                    np.repeat(t.data[None], samples, axis=0).reshape(_stacked(t, samples))
                )
            elif name in layers[0]:
                rows = [layer[name] for layer in layers]
                outputs.append(np.stack(rows).reshape(_stacked(t, samples)))
            else:  # an input that is an output, too
                outputs.append(np.asarray(inputs[graph.inputs.index(name)]))
        return RunOutput(outputs, layers)

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        graph: Graph = artifact.graph
        if inputs is None:
            inputs = profile.fixed_pattern(graph)
        _, data = pack_inputs(graph, [np.asarray(x)[:1] for x in inputs])
        if artifact.manifest["details"]["host"] and device.info().kind == "measured":
            return profile.measure_host(artifact, device, data)
        return profile.count_virtual(artifact, device, data)


def _check_engine(engine: str) -> None:
    if engine not in ("auto", ENGINE):
        raise InputError(f"family 'mcu' has no engine '{engine}'; it has: {ENGINE}")


_EXTRA = {
    "toolchain": ("auto", "zig", "gcc"),
    "objective": ("cycles", "instructions"),
    "kernels": ("measure", "rank"),
    "flash_limit": None,
    "ram_limit": None,
}


def check_extra(extra: Mapping[str, Any]) -> None:
    """InputError for an option of the engine that there is not, or a value it cannot have."""
    refuse_unknown(ENGINE, extra, tuple(_EXTRA))
    for name, value in sorted(extra.items()):
        allowed = _EXTRA[name]
        if allowed is None:
            if not str(value).isdigit() or int(value) == 0:
                raise InputError(
                    f"option '{name}' of engine '{ENGINE}' is a positive number of bytes, "
                    f"not '{value}'"
                )
        elif value not in allowed and name != "toolchain":  # the toolchain names its own
            raise InputError(
                f"option '{name}' of engine '{ENGINE}' is {' or '.join(allowed)}, not '{value}'"
            )


_LIMITS = ("flash_limit", "ram_limit")

#: Code of start-up and test program that is in a firmware besides kernels and constants, roughly.
_OTHER_CODE = 6 * 1024


def _limits(mcu: McuTarget) -> Limits:
    """What the choice of kernels has to keep. The test program and the stack are taken off; the
    linked program is checked again."""
    flash, ram = mcu.flash_bytes, mcu.ram_bytes
    return Limits(
        None if flash is None else max(0, flash - _OTHER_CODE),
        None if ram is None else max(0, ram - mcu.config.stack_bytes),
    )


def _check_fit(target: Target, mcu: McuTarget, flash: int, ram: int, bound: str = "") -> None:
    fits = (_Fit("flash", flash, mcu.flash_bytes), _Fit("RAM", ram, mcu.ram_bytes))
    if all(f.ok for f in fits):
        return
    text = " and ".join(
        f"{f.needed:,} bytes of {f.what} ({target.name} has {f.available:,}"
        f"{'' if f.ok else ': too little'})"
        for f in fits
        if f.available is not None
    )
    raise DoesNotFitError(f"the model does not fit {target.name}: it needs {bound}{text}")


def _plan_rows(
    graph: Graph, choice: Choice, source: codegen.Source, plan: Plan
) -> list[dict[str, Any]]:
    rows = []
    for k, node in enumerate(graph.nodes):
        call = choice.calls[node.name]
        alias = source.layers[k] is None
        rows.append(
            {
                "name": node.name,
                "op": node.type,
                "variant": "none (in place)" if alias else call.variant,
                "symbol": source.layers[k],
                "macs": macs(node, graph),
                "flash_bytes": source.const_bytes[k],
                "scratch_bytes": 0 if alias else call.scratch_bytes,
                "input_shapes": [list(t.shape) for t in _activations(graph, node)],
                "output_shapes": [list(t.shape) for t in graph.outs(node)],
                "details": {key: _plain(v) for key, v in sorted(call.details.items())},
                "candidates": choice.explain(node.name),
            }
        )
    return rows


def _activations(graph: Graph, node: Node) -> list[Any]:
    return [t for t in graph.ins(node) if t is not None and not t.is_const]


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, list, type(None))) else str(value)


# -- the runner's files ------------------------------------------------------------------------


def _stacked(tensor: Any, samples: int) -> tuple[int, ...]:
    """Shape of ``samples`` values: along axis 0 where that is the batch, else a new axis 0."""
    if tensor.shape and tensor.shape[0] == 1:
        return (samples, *tensor.shape[1:])
    return (samples, *tensor.shape)


def pack_inputs(graph: Graph, inputs: Sequence[np.ndarray]) -> tuple[int, bytes]:
    """(samples, file content): sample after sample, each with all inputs. InputError for wrong
    counts, dtypes and shapes."""
    if len(inputs) != len(graph.inputs):
        raise InputError(f"the model has {len(graph.inputs)} inputs; {len(inputs)} were given")
    columns = []
    samples: int | None = None
    for name, value in zip(graph.inputs, inputs, strict=True):
        t = graph.tensor(name)
        x = np.asarray(value)
        if x.dtype != np.dtype(t.dtype):
            raise InputError(f"input '{name}' takes {t.dtype}; {x.dtype} was given")
        n = x.size // t.elements if t.elements else 0
        if x.ndim == 0 or n == 0 or x.size != n * t.elements or x.shape != _stacked(t, n):
            raise InputError(
                f"input '{name}' takes arrays of shape {list(_stacked(t, 1))[1:]} with samples "
                f"along a first axis; {list(x.shape)} was given"
            )
        if samples not in (None, n):
            raise InputError(f"input '{name}' has {n} samples; the others have {samples}")
        samples = n
        x = np.ascontiguousarray(x.astype(x.dtype.newbyteorder("<"), copy=False))
        columns.append(x.reshape(n, -1).view(np.uint8))
    assert samples is not None
    return samples, np.concatenate(columns, axis=1).tobytes()


def unpack(raw: bytes, tensors: Sequence[Any], samples: int) -> list[np.ndarray]:
    """The runner's output file as one array for each tensor."""
    width = sum(t.nbytes for t in tensors)
    if len(raw) != width * samples:
        raise profile.runner_error(f"gave {len(raw)} bytes for {samples} samples of {width}")
    table = np.frombuffer(raw, np.uint8).reshape(samples, width)
    outputs, at = [], 0
    for t in tensors:
        part = np.ascontiguousarray(table[:, at : at + t.nbytes])
        outputs.append(part.view(np.dtype(t.dtype).newbyteorder("<")).reshape(_stacked(t, samples)))
        at += t.nbytes
    return outputs


def _split_trace(graph: Graph, raw: bytes, samples: int) -> list[dict[str, np.ndarray]]:
    """The runner's trace file: per sample, tensor name -> value of its shape."""
    at = 0
    result = []
    for _ in range(samples):
        layers: dict[str, np.ndarray] = {}
        for index, node in enumerate(graph.nodes):
            for k, t in enumerate(graph.outs(node)):
                if at + 12 > len(raw) or struct.unpack_from("<3I", raw, at) != (index, k, t.nbytes):
                    raise profile.runner_error(f"gave no record for layer '{node.name}'")
                at += 12
                dtype = np.dtype(t.dtype).newbyteorder("<")
                layers[t.name] = np.frombuffer(raw, dtype, t.elements, at).reshape(t.shape)
                at += t.nbytes
        result.append(layers)
    return result
