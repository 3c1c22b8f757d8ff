"""The verbs of the command line as Python functions. The CLI is a thin skin over this module.

Every function raises :class:`edgekit.errors.EdgekitError` with one sentence for anything a user can
get wrong. ``progress`` arguments are callables that get one short line at a time, or None.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.artifact import Artifact, new_folder, sha256_file, write_manifest
from edgekit.data import Dataset, load_dataset, model_inputs
from edgekit.errors import DeviceError, EdgekitError, InputError, UnsupportedError
from edgekit.text import printable

if TYPE_CHECKING:
    from edgekit.compress import QuantizeOptions
    from edgekit.devices.base import Device
    from edgekit.graph.ir import Graph
    from edgekit.pipeline import Prepared
    from edgekit.profile.measure import Protocol
    from edgekit.search.loop import Watch
    from edgekit.search.study import SearchOptions
    from edgekit.targets.base import Backend, CompileOptions, Progress
    from edgekit.targets.schema import Target

Shapes = Mapping[str, tuple[int, ...]]


def load(model: str | Path, input_shapes: Shapes | None = None) -> Graph:
    """Read a model: .tflite, .onnx, .h5/.keras, ``file.py:factory``, a SavedModel folder, .ekg."""
    from edgekit import formats

    return formats.load(model, input_shapes=None if input_shapes is None else dict(input_shapes))


def inspect(model: str | Path | Graph, input_shapes: Shapes | None = None) -> dict[str, Any]:
    """Operators, shapes, MACs, parameters, quantization, dead channels."""
    from edgekit.inspection import describe

    graph = load(model, input_shapes) if isinstance(model, (str, Path)) else model
    return describe(graph)


def targets(name: str | None = None) -> list[dict[str, Any]] | dict[str, Any]:
    """All targets with what is usable here and why not; or everything about one."""
    from edgekit.targets import registry

    if name is None:
        return [
            {
                "name": e.name,
                "family": e.family,
                "description": e.description,
                "board": e.board,
                "usable": e.usable,
                "engines": [
                    {"name": g.name, "usable": g.usable, "why_not": g.why_not} for g in e.engines
                ],
                "error": e.error,
            }
            for e in registry.list_targets()
        ]
    target = registry.get_target(name)
    backend = registry.get_backend(target.family)
    document = target.model_dump(mode="json")
    document["default_device"] = backend.default_device(target)
    document["engines"] = [
        {
            "name": g.name,
            "usable": g.usable,
            "why_not": g.why_not,
            "description": g.description,
            "options": dict(g.options),
        }
        for g in backend.engines(target)
    ]
    return document


def devices() -> dict[str, Any]:
    """What can be reached now: ``transports[]`` and ``devices[]``. Attached devices are asked, at most
    :data:`edgekit.devices.transport.PROBE_S` seconds each, all at once."""
    from edgekit.devices import list_transports
    from edgekit.devices.local import fingerprint as here
    from edgekit.devices.registry import attached
    from edgekit.targets.registry import list_transports as of_families

    transports = [*list_transports(), *of_families()]
    found = []
    for entry, probe in attached():
        assert probe is not None
        found.append(
            {
                "name": entry.name,
                "transport": entry.transport,
                "usable": probe.state == "ready",
                "state": probe.state,
                "why_not": probe.why,
                "fingerprint": probe.fingerprint,
                "facts": dict(probe.facts),
                "from": entry.source,
            }
        )
    return {
        "transports": [
            {"name": t.name, "usable": t.usable, "why_not": t.why_not} for t in transports
        ],
        "devices": [
            {
                "name": d,
                "transport": t.name,
                "usable": t.usable,
                "state": "ready" if t.usable else "unusable",
                "why_not": t.why_not,
                "fingerprint": here() if d == "host" else None,
            }
            for t in transports
            for d in t.devices
        ]
        + found,
    }


def compile(
    model: str | Path | Graph,
    target: str,
    out: str | Path,
    *,
    data: str | Path | Dataset | None = None,
    options: CompileOptions | None = None,
    quantize: QuantizeOptions | None = None,
    simplify: bool = True,
    calibration_samples: int | None = None,
    input_shapes: Shapes | None = None,
    tune: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model for a target into the artifact folder ``out``.

    data: calibration samples, needed when the model is float and the target int8. simplify: remove
    dead channels (lossless). tune: candidates to measure for each kernel first (:mod:`edgekit.tuning`),
    on ``device``. Raises UnsupportedError naming each node the engine cannot take,
    DoesNotFitError with both numbers when flash or RAM would not do.
    """
    from edgekit import tuning
    from edgekit.engines import first_usable
    from edgekit.pipeline import CALIBRATION_SAMPLES, prepare
    from edgekit.targets import registry
    from edgekit.targets.base import CompileOptions

    options = options or CompileOptions()
    chosen = registry.get_target(target)
    backend = registry.get_backend(chosen.family)
    if options.engine != "auto":
        _check_engine(backend, chosen, options.engine)
    dataset = _dataset(data)
    with new_folder(Path(out)) as folder:
        if progress:
            progress("loading the model")
        graph = load(model, input_shapes) if isinstance(model, (str, Path)) else model
        engine = options.engine
        if engine == "auto":
            engine = first_usable(backend, chosen, graph, dataset is not None)
        ready = prepare(
            graph,
            needs_int8=backend.needs_int8(chosen, engine),
            data=dataset,
            options=quantize,
            simplify_dead=simplify,
            samples=calibration_samples or CALIBRATION_SAMPLES,
            progress=progress,
        )
        entry = _model_entry(model, graph)
        if tune:
            tuning.tune_engine(backend, chosen, engine, ready.graph, tune, device, progress)
        _build(folder, ready, entry, backend, chosen, replace(options, engine=engine), progress)
    return Artifact.open(out, check=False)


def _build(
    folder: Path,
    ready: Prepared,
    model: Mapping[str, Any],
    backend: Backend,
    target: Target,
    options: CompileOptions,
    progress: Progress | None,
) -> Artifact:
    """Compile a prepared graph with one engine into an empty folder, and write the manifest."""
    from edgekit.formats import ekg

    engine = options.engine
    missing = backend.supports(ready.graph, target, engine)
    if missing:
        listed = "; ".join(f"node '{u.node}' ({u.op}): {u.reason}" for u in missing[:5])
        more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UnsupportedError(
            f"engine '{engine}' of target '{target.name}' cannot take the model: {listed}{more}"
        )
    compiled = backend.compile(ready.graph, target, folder, options, progress)
    laid_out = compiled.graph or ready.graph
    graphs = {"graph": laid_out}
    if ekg.write_bytes(ready.reference) != ekg.write_bytes(laid_out):
        graphs["reference"] = ready.reference
    if ready.source is not None:
        graphs["source"] = ready.source
    write_manifest(
        folder,
        model=model,
        recipe={**ready.recipe, "engine": engine, "optimize": options.optimize},
        target=target,
        compiled=compiled,
        graphs=graphs,
    )
    return Artifact.open(folder, check=False)


def _check_engine(backend: Backend, target: Target, wanted: str) -> None:
    engines = list(backend.engines(target))
    for e in engines:
        if e.name == wanted:
            if not e.usable:
                raise InputError(f"engine '{wanted}' cannot be used on this machine: {e.why_not}")
            return
    names = ", ".join(e.name for e in engines)
    raise InputError(f"target '{target.name}' has no engine '{wanted}'; it has {names}")


def _dataset(data: str | Path | Dataset | None) -> Dataset | None:
    return load_dataset(data) if isinstance(data, (str, Path)) else data


def _model_entry(model: str | Path | Graph, graph: Graph) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": graph.name, "format": graph.metadata.get("format")}
    if isinstance(model, (str, Path)):
        path = Path(str(model).partition(":")[0] if ".py:" in str(model) else model)
        entry["source"] = printable(path.name)
        if path.is_file():
            entry["sha256"] = sha256_file(path)
    else:
        from edgekit.formats import ekg

        entry["sha256"] = hashlib.sha256(ekg.write_bytes(graph)).hexdigest()
    return entry


def open_artifact(artifact: str | Path | Artifact) -> Artifact:
    return artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)


@contextmanager
def _open_device(artifact: Artifact, backend: Backend, device: str | None) -> Iterator[Device]:
    """The device to use; what fails on another one than the target's own says so."""
    from edgekit.devices import open_device

    own = backend.default_device(artifact.target)
    with open_device(device or own, target=artifact.target) as dev:
        try:
            yield dev
        except DeviceError as e:
            if dev.name == own:
                raise
            raise DeviceError(
                f"{e} (the artifact is compiled for {artifact.target.name}; its own device is {own})"
            ) from None


def _check_device(device: str | None, target: Target) -> None:
    """DeviceError or InputError before any work is done, rather than after compiling."""
    from edgekit.devices import open_device

    if device is not None:
        open_device(device, target=target).close()


def _backend(artifact: Artifact) -> Backend:
    from edgekit.targets import registry

    return registry.get_backend(artifact.target.family)


def run(
    artifact: str | Path | Artifact,
    data: str | Path | Dataset,
    *,
    device: str | None = None,
    samples: int | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """Outputs by name, samples along axis 0, in the model's own dtypes."""
    art = open_artifact(artifact)
    dataset = _dataset(data)
    assert dataset is not None
    inputs = model_inputs(art.reference, dataset.head(samples))
    backend = _backend(art)
    with _open_device(art, backend, device) as dev:
        outputs = backend.run(art, dev, inputs, progress=progress).outputs
    return dict(zip(art.reference.outputs, outputs, strict=True))


def profile(
    artifact: str | Path | Artifact,
    *,
    device: str | None = None,
    data: str | Path | Dataset | None = None,
    protocol: Protocol | None = None,
) -> dict[str, Any]:
    """What one inference costs, per layer (``Profile.to_json``). protocol: how it is measured on real
    silicon (:mod:`edgekit.profile.measure`)."""
    from edgekit.profile import measure

    art = open_artifact(artifact)
    dataset = _dataset(data)
    inputs = None if dataset is None else model_inputs(art.reference, dataset.head(1))
    backend = _backend(art)
    settings = protocol or measure.Protocol()
    with _open_device(art, backend, device) as dev, measure.protocol(settings):
        used = measure.pinned(dev, settings.cpus)
        return backend.profile(art, used, inputs).to_json()


def compare(
    first: str | Path | Artifact,
    second: str | Path | Artifact,
    *,
    device: str | None = None,
    data: str | Path | Dataset | None = None,
    protocol: Protocol | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Two artifacts in turn on one device: by how much the second is slower, with an interval
    (:mod:`edgekit.profile.compare`). protocol: ``max_secs`` is for both together."""
    from edgekit.profile import measure
    from edgekit.profile.compare import Side, compare_sides

    settings = protocol or measure.Protocol(max_secs=20.0)
    dataset = _dataset(data)
    arts = [open_artifact(a) for a in (first, second)]
    names = [str(a.path) for a in arts]
    backends = [_backend(a) for a in arts]
    owns = [device or b.default_device(a.target) for a, b in zip(arts, backends, strict=True)]
    if owns[0] != owns[1]:
        raise InputError(
            f"the artifacts' own devices are {owns[0]} and {owns[1]}: name one for both with --device"
        )
    inputs = [None if dataset is None else model_inputs(a.reference, dataset.head(1)) for a in arts]
    # Two folders on one device, so that neither has to be sent again; one lock.
    with (
        _open_device(arts[0], backends[0], owns[0]) as one,
        _open_device(arts[1], backends[1], owns[1]) as two,
    ):
        sides = [
            Side(name, art, backend, measure.pinned(dev, settings.cpus), x)
            for name, art, backend, dev, x in zip(
                names, arts, backends, (one, two), inputs, strict=True
            )
        ]
        return compare_sides(sides[0], sides[1], settings, progress)


def verify(
    artifact: str | Path | Artifact,
    data: str | Path | Dataset,
    *,
    device: str | None = None,
    samples: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Bytes against the oracle, accuracy where there are labels (see :mod:`edgekit.verify`)."""
    from edgekit.verify import verify as check

    art = open_artifact(artifact)
    dataset = _dataset(data)
    assert dataset is not None
    backend = _backend(art)
    with _open_device(art, backend, device) as dev:
        return check(art, backend, dev, dataset.head(samples), progress)


def deploy(
    model: str | Path | Graph,
    target: str,
    data: str | Path | Dataset,
    out: str | Path,
    *,
    val: str | Path | Dataset | None = None,
    device: str | None = None,
    options: CompileOptions | None = None,
    quantize: QuantizeOptions | None = None,
    simplify: bool = True,
    samples: int | None = None,
    calibration_samples: int | None = None,
    input_shapes: Shapes | None = None,
    tune: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """compile (tune), profile, verify, report. ``data`` calibrates (float models) and, unless ``val`` is
    given, verifies. Returns ``{"artifact", "engine", "profile", "verify", "report", "engines"}``; a
    failed check is in ``verify``, not raised."""
    from edgekit.engines import several, single_row
    from edgekit.targets import registry

    dataset = _dataset(data)
    assert dataset is not None
    checks = _dataset(val) or dataset
    chosen = registry.get_target(target)
    _check_device(device, chosen)
    settings: dict[str, Any] = {
        "options": options,
        "quantize": quantize,
        "simplify": simplify,
        "calibration_samples": calibration_samples,
        "input_shapes": input_shapes,
        "tune": tune,
        "progress": progress,
    }
    wanted = "auto" if options is None else options.engine
    if wanted == "auto" and several(registry.get_backend(chosen.family), chosen):
        art, rows = _fastest(model, chosen, out, dataset, checks.head(samples), device, **settings)
        costs, checked = art.result("profile"), art.result("verify")
        assert costs is not None and checked is not None
    else:
        art = compile(model, target, out, data=dataset, device=device, **settings)
        if progress:
            progress("profiling")
        costs = profile(art, device=device, data=checks)
        art.store_result("profile", costs)
        checked = verify(art, checks, device=device, samples=samples, progress=progress)
        art.store_result("verify", checked)
        rows = [single_row(art, costs, checked)]
    page = Path(out) / "report.html"
    report(art, page)
    return {
        "artifact": str(out),
        "engine": art.engine,
        "profile": costs,
        "verify": checked,
        "report": str(page),
        "engines": rows,
    }


def _fastest(
    model: str | Path | Graph,
    target: Target,
    out: str | Path,
    data: Dataset,
    checks: Dataset,
    device: str | None,
    *,
    options: CompileOptions | None,
    quantize: QuantizeOptions | None,
    simplify: bool,
    calibration_samples: int | None,
    input_shapes: Shapes | None,
    tune: int,
    progress: Progress | None,
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Every engine of the target, the fastest verified one in ``out`` (:mod:`edgekit.engines`)."""
    from edgekit import tuning
    from edgekit.engines import try_all
    from edgekit.pipeline import CALIBRATION_SAMPLES, prepare
    from edgekit.targets import registry
    from edgekit.targets.base import CompileOptions

    backend = registry.get_backend(target.family)
    tunable = tuning.tunable(backend, target) if tune else []
    known: dict[bool, Prepared] = {}  # the model is quantized once for all engines that need it
    with new_folder(Path(out)) as folder:
        if progress:
            progress("loading the model")
        graph = load(model, input_shapes) if isinstance(model, (str, Path)) else model
        entry = _model_entry(model, graph)

        def build(engine: str, place: Path) -> Artifact:
            int8 = backend.needs_int8(target, engine)
            if int8 not in known:
                known[int8] = prepare(
                    graph,
                    needs_int8=int8,
                    data=data,
                    options=quantize,
                    simplify_dead=simplify,
                    samples=calibration_samples or CALIBRATION_SAMPLES,
                    progress=progress,
                )
            if engine in tunable:
                tuning.tune_engine(
                    backend, target, engine, known[int8].graph, tune, device, progress
                )
            chosen = replace(options or CompileOptions(), engine=engine)
            return _build(place, known[int8], entry, backend, target, chosen, progress)

        _, rows = try_all(
            backend,
            target,
            graph,
            checks,
            folder,
            build,
            lambda art: _open_device(art, backend, device),
            progress,
        )
    return Artifact.open(out, check=False), rows


def tune(
    model: str | Path | Graph,
    target: str,
    *,
    trials: int = 12,
    engine: str = "auto",
    device: str | None = None,
    data: str | Path | Dataset | None = None,
    quantize: QuantizeOptions | None = None,
    simplify: bool = True,
    calibration_samples: int | None = None,
    input_shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure candidates for the kernels of a model on a device and put them on record, for every
    tunable engine of the target that takes the model (or for ``engine``).

    ``{"target", "device", "engines"}``: a row an engine (``Tunes.tune``, or why it was left out).
    """
    from edgekit import tuning
    from edgekit.engines import int8_already
    from edgekit.pipeline import CALIBRATION_SAMPLES, prepare
    from edgekit.targets import registry

    chosen = registry.get_target(target)
    backend = registry.get_backend(chosen.family)
    if engine != "auto":
        _check_engine(backend, chosen, engine)
    _check_device(device, chosen)
    names = tuning.tunable(backend, chosen, engine)
    dataset = _dataset(data)
    if progress:
        progress("loading the model")
    graph = load(model, input_shapes) if isinstance(model, (str, Path)) else model
    rows: list[dict[str, Any]] = []
    for name in names:
        row: dict[str, Any] = {"name": name, "reason": None}
        rows.append(row)
        try:
            if len(names) > 1 and (same := int8_already(backend, chosen, name, graph)):
                raise InputError(same)
            ready = prepare(
                graph,
                needs_int8=backend.needs_int8(chosen, name),
                data=dataset,
                options=quantize,
                simplify_dead=simplify,
                samples=calibration_samples or CALIBRATION_SAMPLES,
                progress=progress,
            )
            row |= tuning.tune_engine(backend, chosen, name, ready.graph, trials, device, progress)
        except EdgekitError as e:
            if len(names) == 1:
                raise
            row["reason"] = str(e)
    if all(r["reason"] for r in rows):
        raise InputError("; ".join(f"engine '{r['name']}': {r['reason']}" for r in rows))
    own = device or backend.default_device(chosen)
    return {"target": chosen.name, "device": own, "engines": rows}


def compress(
    model: str | Path | Graph,
    recipe: str | Path,
    out: str | Path,
    *,
    data: str | Path | Dataset | None = None,
    val: str | Path | Dataset | None = None,
    target: str | None = None,
    device: str = "auto",
    work: str | Path | None = None,
    input_shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Apply a compression recipe; writes ``out`` and its report (:mod:`edgekit.compress.job`)."""
    from edgekit.compress.job import compress_to
    from edgekit.compress.recipe import read
    from edgekit.targets import registry

    steps = read(recipe)
    return compress_to(
        load(model, input_shapes) if isinstance(model, (str, Path)) else model,
        steps,
        Path(out),
        data=_dataset(data),
        val=_dataset(val),
        target=None if target is None else registry.get_target(target),
        device=device,
        work=None if work is None else Path(work),
        progress=progress,
    )


def sensitivity(
    model: str | Path | Graph,
    data: str | Path | Dataset,
    *,
    val: str | Path | Dataset | None = None,
    target: str | None = None,
    methods: list[str] | None = None,
    importance: str = "l2",
    samples: int = 500,
    seed: int = 0,
    device: str = "auto",
    input_shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What each compression method costs and saves, by layer and channel group."""
    from edgekit.compress.job import examine
    from edgekit.targets import registry

    return examine(
        load(model, input_shapes) if isinstance(model, (str, Path)) else model,
        data=_dataset(data),
        val=_dataset(val),
        target=None if target is None else registry.get_target(target),
        methods=methods,
        importance=importance,
        samples=samples,
        seed=seed,
        device=device,
        progress=progress,
    )


def calibrate(
    target: str,
    *,
    device: str | None = None,
    engine: str = "auto",
    optimize: str = "balanced",
    quick: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure layers on a device and keep the fitted latency table (:mod:`edgekit.profile`)."""
    from edgekit.profile.calibrate import calibrate as run

    return run(target, device, engine, optimize, quick=quick, progress=progress).summary()


def predict(
    model: str | Path | Graph,
    target: str,
    *,
    device: str | None = None,
    engine: str = "auto",
    optimize: str = "balanced",
    input_shapes: Shapes | None = None,
) -> dict[str, Any]:
    """What the model will cost on a calibrated device (``Prediction.to_json``)."""
    from edgekit.compress import simplify
    from edgekit.profile.predictor import load_predictor

    predictor = load_predictor(target, device, engine, optimize)
    graph = load(model, input_shapes) if isinstance(model, (str, Path)) else model
    if graph.is_quantized:  # as compile does: channels that nobody needs cost nothing
        graph = simplify(graph).graph
    return predictor.predict(graph).to_json()


def configs(
    model: str | Path | Graph,
    targets: list[str],
    data: str | Path | Dataset,
    *,
    prefer: str = "latency",
    samples: int = 100,
    calibration_samples: int | None = None,
    input_shapes: Shapes | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The best configuration of the model for each target (:mod:`edgekit.configs`)."""
    from edgekit.configs import configs as find

    dataset = _dataset(data)
    assert dataset is not None
    graph = load(model, input_shapes) if isinstance(model, (str, Path)) else model
    return find(
        graph,
        targets,
        dataset,
        prefer=prefer,
        samples=samples,
        calibration_samples=calibration_samples,
        progress=progress,
    )


def search(
    model: str | Path | Graph,
    target: str,
    data: str | Path | Dataset,
    out: str | Path,
    *,
    val: str | Path | Dataset | None = None,
    device: str | None = None,
    budgets: list[str] | None = None,
    options: SearchOptions | None = None,
    larger: list[str] | None = None,
    input_shapes: Shapes | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Search the best network for a device (:mod:`edgekit.search`); ``out`` is the study's folder, and the
    winner is compiled and verified in ``out/winner``. A study that is there already goes on."""
    from edgekit.search import job

    dataset = _dataset(data)
    assert dataset is not None
    return job.search(
        load(model, input_shapes) if isinstance(model, (str, Path)) else model,
        target,
        dataset,
        _dataset(val) or dataset,
        out,
        device=device,
        budgets=budgets or [],
        options=options,
        larger=[load(m, input_shapes) for m in larger or []],
        watch=watch,
        progress=progress,
    )


def select(
    study: str | Path,
    out: str | Path,
    *,
    pick: int | None = None,
    budgets: list[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The winner of a study (or the trial ``pick``), compiled into ``out`` and verified."""
    from edgekit.search.study import Study
    from edgekit.search.winner import select as chosen

    return chosen(Study.open(study), out, pick=pick, budgets=budgets, progress=progress)


def study(
    path: str | Path,
    action: str = "list",
    *,
    number: int | None = None,
    out: str | Path | None = None,
    trials: int | None = None,
    jobs: int | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What was tried and why it won: ``list``, ``show`` (``number``), ``pareto``, ``export`` (``out``), or
    ``resume`` (go on, to ``trials`` of them)."""
    from edgekit.search import job

    return job.study(
        path, action, number=number, out=out, trials=trials, jobs=jobs, watch=watch,
        progress=progress,
    )  # fmt: skip


def emulate(
    firmware: str | Path,
    core: str,
    *,
    backend: str = "auto",
    max_instructions: int | None = None,
    timeout_s: float = 120.0,
    args: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Run any bare-metal ELF on a virtual Cortex-M: instructions, cycles, by function."""
    from edgekit.devices.emulate import emulate as emulate_elf

    extra: dict[str, Any] = (
        {} if max_instructions is None else {"max_instructions": max_instructions}
    )
    return emulate_elf(
        Path(firmware), core, backend=backend, timeout_s=timeout_s, args=tuple(args), **extra
    ).to_json()


def report(artifact: str | Path | Artifact, out: str | Path) -> Path:
    """Write one self-contained HTML page about the artifact (or the study) and its stored results."""
    from edgekit.report import write_report
    from edgekit.search.folder import is_study

    if isinstance(artifact, (str, Path)) and is_study(artifact):
        from edgekit.report.study_page import write_study_report

        return write_study_report(artifact, Path(out))
    art = open_artifact(artifact)
    return write_report(art, Path(out))


def export(
    artifact: str | Path | Artifact,
    form: str,
    out: str | Path,
    *,
    name: str | None = None,
    license: str | None = None,
) -> dict[str, Any]:
    """Write an artifact as the package that another project takes in (:data:`edgekit.export.FORMS`).

    license: SPDX expression of the model's licence, for its card. Raises InputError for a form that
    there is not or that the artifact's engine cannot have.
    """
    from edgekit import export as forms

    art = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    return forms.write(art, form, out, name=name, license=license)


def doctor() -> list[dict[str, Any]]:
    """What is installed, what is missing, how to get it."""
    from edgekit.doctor import examine

    return examine()


__all__ = [
    "Artifact",
    "EdgekitError",
    "calibrate",
    "compare",
    "compile",
    "compress",
    "configs",
    "deploy",
    "devices",
    "doctor",
    "emulate",
    "export",
    "inspect",
    "load",
    "open_artifact",
    "predict",
    "profile",
    "report",
    "run",
    "search",
    "select",
    "sensitivity",
    "study",
    "targets",
    "tune",
    "verify",
]
