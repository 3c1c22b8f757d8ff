"""Recipes: compression decisions as data, and their application.

A recipe is YAML or JSON::

    version: 1
    seed: 0
    steps:
      - step: prune
        importance: fisher
        macs: 0.6
      - step: reconstruct

Each entry names a step (:mod:`edgekit.compress.steps`) and its options. Everything is checked before
the first step runs. :func:`apply` keeps the graph after every step in the work folder, so that the same
recipe on the same model continues where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.compress.simplify import total_macs, total_parameters
from edgekit.compress.steps import StepContext, get_step
from edgekit.errors import EdgekitError, InputError
from edgekit.graph.ir import Graph

VERSION = 1
_MAX_STEPS = 1000


@dataclass(frozen=True)
class Recipe:
    """steps: (name, options) in order, options checked. seed: of everything random in it."""

    steps: tuple[tuple[str, dict[str, Any]], ...]
    seed: int = 0
    version: int = VERSION
    source: str = field(default="recipe", compare=False)

    def to_json(self) -> dict[str, Any]:
        """The recipe as data again: what :func:`parse` accepts."""
        steps = [{"step": name, **options} for name, options in self.steps]
        return {"version": self.version, "seed": self.seed, "steps": steps}


def parse(document: Any, source: str = "recipe") -> Recipe:
    """Check a recipe that has been read; InputError names the step, its number and the option."""
    if not isinstance(document, Mapping):
        raise InputError(f"{source} is not a mapping with the keys version, seed and steps")
    unknown = [str(k) for k in document if k not in ("version", "seed", "steps")]
    if unknown:
        raise InputError(f"{source} has the key '{unknown[0]}'; its keys are version, seed, steps")
    version, seed = document.get("version", VERSION), document.get("seed", 0)
    if version != VERSION or isinstance(version, bool):
        raise InputError(f"{source} has version {version!r}; accepted is {VERSION}")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"{source} has seed {seed!r}; accepted is a whole number in [0, 2^32)")
    entries = document.get("steps")
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_STEPS:
        raise InputError(f"{source} has no list of steps under 'steps' (1 to {_MAX_STEPS} of them)")
    steps = []
    for i, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("step"), str):
            raise InputError(f"entry {i} of {source} names no step with 'step: NAME'")
        if not all(isinstance(k, str) for k in entry):
            raise InputError(f"entry {i} of {source} has an option whose name is not a text")
        name = entry["step"]
        where = f"step {i} ('{name}') of {source}"
        try:
            known = get_step(name)
        except InputError as e:
            raise InputError(f"step {i} of {source}: {e}") from None
        given = {k: v for k, v in entry.items() if k != "step"}
        steps.append((name, known.checked(given, where)))
    return Recipe(tuple(steps), seed, VERSION, source)


def read(path: str | Path) -> Recipe:
    """Read a recipe file (``.yaml``, ``.yml`` or ``.json``); InputError in one sentence."""
    import yaml

    path = Path(path)
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise InputError(f"recipe '{path.name}' is not a .yaml, .yml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except OSError as e:
        raise InputError(f"recipe '{path.name}' cannot be read ({e.strerror or e})") from None
    except (ValueError, RecursionError, yaml.YAMLError) as e:
        reason = " ".join(str(e).split())[:160] or type(e).__name__
        raise InputError(f"recipe '{path.name}' is not valid YAML or JSON ({reason})") from None
    return parse(document, path.name)


def run_step(name: str, graph: Graph, ctx: StepContext, **options: Any) -> Graph:
    """One step by its name, options checked, with an entry in the context's log."""
    known = get_step(name)
    checked = known.checked(options, f"step '{name}'")
    before = size_of(graph)
    ctx.log.append({"step": name, "options": checked, "before": before})
    started = time.perf_counter()
    ctx.progress(f"{name}: started")
    result = known.function(graph, ctx, **checked).validate()
    ctx.note(after=size_of(result), seconds=round(time.perf_counter() - started, 3))
    return result


def size_of(graph: Graph) -> dict[str, int]:
    """MACs, parameters and bytes of constants."""
    used = {i for n in graph.nodes for i in n.inputs if i is not None}
    weight_bytes = sum(t.nbytes for t in graph.constants() if t.name in used)
    return {
        "macs": total_macs(graph),
        "parameters": total_parameters(graph),
        "weight_bytes": weight_bytes,
    }


def apply(recipe: Recipe, graph: Graph, ctx: StepContext | None = None) -> Graph:
    """All steps in order; ``ctx.log`` says what each of them did.

    With ``ctx.work`` the graph and the log are kept there after each step; a later call with the same
    recipe, model and data continues after the last step that was finished. Each step gets a work folder
    of its own below it.
    """
    ctx = ctx or StepContext()
    original = ctx.original or graph
    start, log = 0, list(ctx.log)
    key = _key(recipe, graph, ctx)
    if ctx.work is not None:
        _make_folder(ctx.work)
        start, kept, entries = _resume(ctx.work, key)
        if kept is not None:
            graph = kept
            log += entries
            ctx.progress(f"resuming after step {start} of {len(recipe.steps)}")
    first = len(ctx.log)
    ctx.log[:] = log
    for i in range(start, len(recipe.steps)):
        name, options = recipe.steps[i]
        work = None if ctx.work is None else ctx.work / f"step-{i + 1:03d}"
        if work is not None:
            _make_folder(work)
        mine = replace(ctx, original=original, seed=recipe.seed, index=i, work=work, log=ctx.log)
        try:
            graph = run_step(name, graph, mine, **options)
        except EdgekitError as e:
            raise type(e)(f"step {i + 1} ('{name}') of {recipe.source}: {e}") from None
        if ctx.work is not None:
            _keep(ctx.work, key, i + 1, graph, ctx.log[first:])
    return graph


# -- what is kept between steps --------------------------------------------------------------------


def _key(recipe: Recipe, graph: Graph, ctx: StepContext) -> str:
    from edgekit.formats import ekg

    h = hashlib.sha256(json.dumps(recipe.to_json(), sort_keys=True).encode())
    h.update(ekg.write_bytes(graph))
    h.update(b"" if ctx.target is None else ctx.target.model_dump_json().encode())
    for data in (ctx.data, ctx.val):
        for name, a in sorted({} if data is None else data.x.items()):
            h.update(f"{name}{a.dtype}{a.shape}".encode())
            h.update(a.tobytes() if a.nbytes < 1 << 24 else a[:: max(1, len(a) // 256)].tobytes())
        if data is not None and data.y is not None:
            h.update(data.y.tobytes())
    return h.hexdigest()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"the work folder '{path}' cannot be made ({e.strerror or e})") from None


def _keep(work: Path, key: str, done: int, graph: Graph, log: list[dict[str, Any]]) -> None:
    """The graph first, then the state that names it: a kill between them leaves the older state."""
    from edgekit.artifact import json_text
    from edgekit.formats import save

    save(graph, work / f"after-{done:03d}.ekg")
    state = work / "state.json"
    temp = work / f".state.{os.getpid()}.tmp"
    temp.write_text(json_text({"key": key, "done": done, "log": log}), encoding="utf-8")
    os.replace(temp, state)


def _resume(work: Path, key: str) -> tuple[int, Graph | None, list[dict[str, Any]]]:
    from edgekit.formats import load

    state = work / "state.json"
    if not state.is_file():
        return 0, None, []
    try:
        document = json.loads(state.read_text(encoding="utf-8"))
        done, log = int(document["done"]), list(document["log"])
        same = document["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            f"'{state}' is not the state of a recipe; name another work folder, or remove it"
        ) from None
    if not same:
        raise InputError(
            f"the work folder '{work}' belongs to another recipe, model, target or data; "
            "name another one, or remove it"
        )
    return done, load(work / f"after-{done:03d}.ekg"), log
