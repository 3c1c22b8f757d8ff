"""The backend of the ``mcu`` family: compile, run and profile."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.devices.base import Device, ModelBoard
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

from . import board, codegen, profile, toolchain, variants
from .choose import Choice, Found, Limits, balance, beside, choose, find_options, least
from .config import McuTarget, parse
from .layout import lay_out
from .memory import Plan
from .project import build_firmware, build_host, build_serial, read_sizes, write_project
from .toolchain import gcc_flags

if TYPE_CHECKING:
    from edgekit.profile.family import LatencyModel

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
            "toolchain": "auto, zig, gcc, or best: both are counted and the better one is taken",
            "objective": "cycles or instructions: what the choice of kernels makes small",
            "kernels": "measure or rank: how kernels are chosen; portable: of portable C only",
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

    def latency_model(self) -> LatencyModel:
        """See :class:`edgekit.profile.family.HasLatencyModel`."""
        from .predict import McuLatency

        return McuLatency(self)

    # -- compile -------------------------------------------------------------------------------

    def compile(
        self,
        graph: Graph,
        target: Target,
        out: Path,
        options: CompileOptions,
        progress: Progress | None = None,
    ) -> Compiled:
        """``options.extra``: ``toolchain`` (``auto``, ``zig``, ``gcc``, ``best``); ``flash_limit`` and
        ``ram_limit`` (bytes that the choice of kernels has to keep, instead of the target's);
        ``objective`` (``cycles``, ``instructions``); ``kernels`` (``measure``, ``rank``,
        ``portable``: measured, but only C that any core can run). Raises
        UnsupportedError (every node named), DoesNotFitError (both numbers), ToolchainError."""
        _check_engine(options.engine)
        mcu = parse(target)
        check_extra(options.extra)
        given = {k: int(options.extra[k]) for k in _LIMITS if k in options.extra}
        mcu = replace(mcu, flash_limit=given.get("flash_limit"), ram_limit=given.get("ram_limit"))
        choice = str(options.extra.get("toolchain", "auto"))
        if mcu.toolchain is None:
            compiler = toolchain.host_compiler("auto" if choice == "best" else choice)
            return self.build(graph, mcu, compiler, out, options, progress)
        compilers = toolchain.arm_compilers(mcu.toolchain, choice)
        if len(compilers) == 1:
            return self.build(graph, mcu, compilers[0], out, options, progress)
        return self._build_best(graph, mcu, compilers, out, options, progress)

    def _build_best(
        self,
        graph: Graph,
        mcu: McuTarget,
        compilers: Sequence[toolchain.Compiler],
        out: Path,
        options: CompileOptions,
        progress: Progress | None,
    ) -> Compiled:
        """:meth:`build` with each compiler; the result that the preference asks for, earlier ones
        first where they are equal. Which were tried is in the details."""
        made: list[tuple[tuple[int, ...], Compiled, Path]] = []
        refused: DoesNotFitError | None = None
        for compiler in compilers:
            folder = out / f".{compiler.name}"
            folder.mkdir()
            try:
                compiled = self.build(graph, mcu, compiler, folder, options, progress)
            except DoesNotFitError as e:
                refused = e
                shutil.rmtree(folder)
                continue
            made.append((_merit(compiled, options.optimize, mcu), compiled, folder))
        if not made:
            assert refused is not None
            raise refused
        _, best, chosen = min(made, key=lambda m: m[0])
        for path in sorted(chosen.iterdir()):
            os.replace(path, out / path.name)
        for _, _, folder in made:
            shutil.rmtree(folder)
        tried = {str(c.details["toolchain"]): c.details["kernels_work"] for _, c, _ in made}
        return replace(best, details={**best.details, "toolchains_compared": tried})

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
        portable = options.extra.get("kernels") == "portable"
        found = find_options(graph, target, portable)
        limits = _limits(mcu)
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

        given, room, attempts = graph, limits, 0
        best: Compiled | None = None
        tried: dict[str, str] | None = None
        while True:
            attempts += 1
            folder = out if attempts == 1 else out / ".again"
            graph, choice, plan = lay_out(
                given,
                found,
                target,
                select,
                options.optimize,
                limits.ram,
                not mcu.is_host,
                say,
                portable,
            )
            names = {name: call.variant for name, call in choice.calls.items()}
            if names == tried:
                break
            tried = names
            if attempts > 1:
                folder.mkdir()
            compiled = self._build_chosen(graph, choice, plan, mcu, compiler, folder, options, say)
            compiled = replace(compiled, graph=None if graph is given else graph)
            if attempts == 1 or best is None or _better(compiled, best, mcu):
                if attempts > 1:
                    _replace_contents(out, folder)
                best = compiled
            elif attempts > 1:
                shutil.rmtree(folder)
            flash = mcu.flash_bytes
            if flash is None or mcu.is_host or (not choice.limited and _fits(compiled, mcu)):
                break
            if attempts == MOST_ATTEMPTS:
                break
            # what is in the program beside constants and kernels is known now
            rest = compiled.memory["flash_bytes"] - choice.flash
            limits = replace(room, flash=max(0, flash - rest))
        assert best is not None
        if not mcu.is_host:
            flash, ram = best.memory["flash_bytes"], best.memory["static_ram_bytes"]
            _check_fit(target, mcu, flash, ram + mcu.config.stack_bytes)
        return best

    def _build_chosen(
        self,
        graph: Graph,
        choice: Choice,
        plan: Plan,
        mcu: McuTarget,
        compiler: toolchain.Compiler,
        out: Path,
        options: CompileOptions,
        say: Progress,
    ) -> Compiled:
        """The project of a choice, and its programs, in ``out``; whether its code fits is not looked at."""
        calls = choice.calls
        source = codegen.generate(graph, calls, plan)
        constants = sum(source.const_bytes)
        ram = plan.arena_bytes + mcu.config.stack_bytes
        _check_fit(mcu.target, mcu, constants, ram, "at least ")

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
            details={
                "program": programs[0],
                "trace_program": programs[1],
                "toolchain": compiler.name,
                "optimize": options.optimize,
                "kernels_chosen_by": choice.by,
                "kernels_not_counted": choice.why_rank,
                "kernels_work": choice.work,
                "host": mcu.is_host,
                "flags": [] if mcu.toolchain is None else list(gcc_flags(mcu.toolchain)),
            },
        )

    def serial_firmware(self, artifact: Any, folder: Path) -> Path:
        """See :class:`edgekit.targets.base.BuildsSerialFirmware`."""
        mcu = parse(artifact.target)
        if mcu.toolchain is None:
            raise InputError(f"'{artifact.path}' is for the host; serial firmware is for boards")
        compiler = toolchain.arm_compiler(mcu.toolchain, artifact.details["toolchain"])
        return build_serial(folder, mcu, compiler, artifact.details["optimize"])

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
        if isinstance(device, ModelBoard):
            split = _split_inputs(graph, data, samples)
            if trace_layers:
                return _traced(graph, inputs, samples, _named(graph, artifact, device, split))
            raw = board.run_samples(artifact, device, split, progress)
            return RunOutput(unpack(raw, [graph.tensor(o) for o in graph.outputs], samples))
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
        return _traced(graph, inputs, samples, _split_trace(graph, raw, samples))

    def profile(
        self, artifact: Any, device: Device, inputs: Sequence[np.ndarray] | None = None
    ) -> Profile:
        graph: Graph = artifact.graph
        if inputs is None:
            inputs = profile.fixed_pattern(graph)
        _, data = pack_inputs(graph, [np.asarray(x)[:1] for x in inputs])
        if isinstance(device, ModelBoard):
            return board.measure_board(artifact, device, _split_inputs(graph, data, 1)[0])
        if artifact.manifest["details"]["host"] and device.info().kind == "measured":
            return profile.measure_host(artifact, device, data)
        return profile.count_virtual(artifact, device, data)


def _check_engine(engine: str) -> None:
    if engine not in ("auto", ENGINE):
        raise InputError(f"family 'mcu' has no engine '{engine}'; it has: {ENGINE}")


_EXTRA = {
    "toolchain": ("auto", "zig", "gcc", "best"),
    "objective": ("cycles", "instructions"),
    "kernels": ("measure", "rank", "portable"),
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


#: Programs that are linked at most to come near a limit of flash.
MOST_ATTEMPTS = 3

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


def _fits(compiled: Compiled, mcu: McuTarget) -> bool:
    flash, ram = compiled.memory["flash_bytes"], compiled.memory["static_ram_bytes"]
    small = mcu.flash_bytes is None or flash <= mcu.flash_bytes
    return small and (mcu.ram_bytes is None or ram + mcu.config.stack_bytes <= mcu.ram_bytes)


def _better(new: Compiled, old: Compiled, mcu: McuTarget) -> bool:
    """Whether ``new`` fits and ``old`` does not, or fits, too, at less work."""
    if not _fits(old, mcu):
        return _fits(new, mcu) or new.memory["flash_bytes"] < old.memory["flash_bytes"]
    return _fits(new, mcu) and new.details["kernels_work"] < old.details["kernels_work"]


def _replace_contents(out: Path, folder: Path) -> None:
    """What is in ``folder``, a folder in ``out``, instead of everything else there."""
    for path in sorted(out.iterdir()):
        if path != folder:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in sorted(folder.iterdir()):
        os.replace(path, out / path.name)
    folder.rmdir()


def _merit(compiled: Compiled, optimize: toolchain.Optimize, mcu: McuTarget) -> tuple[int, ...]:
    """What a preference makes small, of the linked program."""
    work, memory = compiled.details["kernels_work"], compiled.memory
    flash, ram = memory["flash_bytes"], memory["static_ram_bytes"]
    return {
        "speed": (work, flash),
        "size": (flash, work),
        "ram": (ram, work),
        "balanced": (balance(work, flash, ram, beside(mcu)),),
    }[optimize]


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


def _traced(
    graph: Graph,
    inputs: Sequence[np.ndarray],
    samples: int,
    layers: Sequence[dict[str, np.ndarray]],
) -> RunOutput:
    """The outputs of traced samples, and the trace."""
    outputs = []
    for name in graph.outputs:
        t = graph.tensor(name)
        if t.data is not None:
            outputs.append(np.repeat(t.data[None], samples, axis=0).reshape(_stacked(t, samples)))
        elif name in layers[0]:
            rows = [layer[name] for layer in layers]
            outputs.append(np.stack(rows).reshape(_stacked(t, samples)))
        else:  # an input that is an output, too
            outputs.append(np.asarray(inputs[graph.inputs.index(name)]))
    return RunOutput(outputs, layers)


def _split_inputs(graph: Graph, data: bytes, samples: int) -> list[list[bytes]]:
    """Packed inputs again apart: for each sample the bytes of each input."""
    sizes = [graph.tensor(i).nbytes for i in graph.inputs]
    found, at = [], 0
    for _ in range(samples):
        row = []
        for size in sizes:
            row.append(data[at : at + size])
            at += size
        found.append(row)
    return found


def _named(
    graph: Graph, artifact: Any, device: ModelBoard, inputs: list[list[bytes]]
) -> list[dict[str, np.ndarray]]:
    """Traces of a board by tensor name."""
    found = []
    for trace in board.trace_samples(artifact, device, inputs):
        layers: dict[str, np.ndarray] = {}
        for layer, output, data in trace:
            if layer >= len(graph.nodes) or output >= len(graph.nodes[layer].outputs):
                raise profile.runner_error("traced a layer that the model does not have")
            t = graph.tensor(graph.nodes[layer].outputs[output])
            if len(data) != t.nbytes:
                raise profile.runner_error(f"traced '{t.name}' with {len(data)} bytes")
            layers[t.name] = np.frombuffer(data, np.dtype(t.dtype).newbyteorder("<")).reshape(
                t.shape
            )
        found.append(layers)
    return found


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
