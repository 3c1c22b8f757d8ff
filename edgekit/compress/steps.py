"""The contract of a compression step, and the registry of steps.

A step is a function ``(graph, context, **options) -> Graph`` registered with :func:`step`. Its options
are keyword-only parameters with annotations; they are the schema by which a recipe is checked
(:mod:`edgekit.compress.recipe`)::

    @step("prune", cites="Li et al., ICLR 2017")
    def prune(graph: Graph, ctx: StepContext, *, macs: Annotated[float | None, Within(0, 1)] = None,
              importance: Literal["l1", "l2"] = "l1") -> Graph: ...

Every step is usable alone: ``prune(graph, StepContext(data=Dataset.of(x)), macs=0.5)``. What a step
leaves for the next one is in the graph itself (a mask is the zeros of a weight tensor, a codebook its
distinct values), so that a recipe can be resumed from the graph after any step.
"""

from __future__ import annotations

import importlib
import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from edgekit.data import Dataset, model_inputs
from edgekit.errors import InputError
from edgekit.graph.ir import Graph

if TYPE_CHECKING:
    from edgekit.targets.schema import Target

#: Modules that register steps when imported; a new family of steps is one more name here.
_FAMILIES = (
    "edgekit.compress.basic_steps",
    "edgekit.compress.prune",
    "edgekit.compress.depth",
    "edgekit.compress.repair",
    "edgekit.compress.factorize",
    "edgekit.compress.share",
    "edgekit.compress.int4",
    "edgekit.compress.mixed",
    "edgekit.compress.codebook",
    "edgekit.compress.blocks",
    "edgekit.compress.train.steps",
    "edgekit.compress.train.channel_steps",
    "edgekit.compress.train.fewbits_step",
)


def _silent(line: str) -> None:
    """Progress that nobody reads."""


@dataclass
class StepContext:
    """What a step may use besides the graph.

    data: calibration or training samples, in the *float* model's own units, labelled or not; None
    without data. val: samples that nothing is fitted to, for measuring only. target: what the result
    is for (granularity of channels, cost of layers). original: the float graph that the recipe began
    with (the teacher); None: the graph that the step is given. seed: of the whole recipe. index: number
    of the step in the recipe. device: "cpu" or "cuda", for what runs in torch. work: a folder for
    checkpoints, the step's own; None: none are kept. progress: told one short line at a time.
    log: JSON-ready entries, one for every step that has run; a step adds to its own with :meth:`note`.
    """

    data: Dataset | None = None
    val: Dataset | None = None
    target: Target | None = None
    original: Graph | None = None
    seed: int = 0
    index: int = 0
    device: str = "cpu"
    work: Path | None = None
    progress: Callable[[str], None] = _silent
    log: list[dict[str, Any]] = field(default_factory=list)

    def note(self, **entries: Any) -> None:
        """Add JSON-ready facts to the log of the step that is running."""
        if not self.log:
            self.log.append({})
        self.log[-1].update(entries)

    def rng(self, *salt: int) -> np.random.Generator:
        """A generator of its own for this step (and for each ``salt``): the same in every run."""
        return np.random.default_rng([self.seed, self.index, *salt])

    def need_data(self, what: str, at_least: int = 1) -> Dataset:
        """The samples; InputError naming ``what`` needs them where there are none, or too few."""
        if self.data is None:
            raise InputError(
                f"{what} needs samples; give some with --data file.npz[:x_key[,y_key]]"
            )
        if len(self.data) < at_least:
            raise InputError(
                f"{what} needs at least {at_least} samples; {self.data.source} holds {len(self.data)}"
            )
        return self.data

    def inputs(self, graph: Graph, what: str, most: int | None = None, at_least: int = 1,
               ) -> list[np.ndarray]:  # fmt: skip
        """The samples as ``graph``'s inputs (float32, samples along axis 0, graph order).

        most: a seeded choice of that many where there are more.
        """
        return model_inputs(graph, chosen(self.need_data(what, at_least), most, self.seed))

    def labels(self, graph: Graph, most: int | None = None) -> np.ndarray | None:
        """The labels that belong to :meth:`inputs` of the same ``most``, or None; InputError where
        one is not a class of ``graph``'s first output."""
        if self.data is None or self.data.y is None:
            return None
        return checked_labels(graph, chosen(self.data, most, self.seed))


def chosen(data: Dataset, most: int | None, seed: int) -> Dataset:
    """``most`` samples of ``data``, the same ones for the same seed, in their own order."""
    n = len(data)
    if most is None or most >= n:
        return data
    pick = np.sort(np.random.default_rng([seed, n, most]).permutation(n)[:most])
    y = None if data.y is None else data.y[pick]
    return Dataset({k: v[pick] for k, v in data.x.items()}, y, data.source)


def checked_labels(graph: Graph, data: Dataset) -> np.ndarray:
    """The labels of ``data``; InputError where one is no class of ``graph``'s first output."""
    assert data.y is not None
    classes = graph.tensor(graph.outputs[0]).elements
    low, high = int(data.y.min()), int(data.y.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"labels in {data.source} run from {low} to {high}; "
            f"the model has {classes} classes, numbered from 0"
        )
    return data.y


# -- options ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Within:
    """Annotation of a number: the range it may be in. open_low, open_high: the end is left out."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"{ends[0]}{self.low:g}, {self.high:g}{ends[1]}"


#: A share of something that must stay: more than nothing, at most all.
Share = Annotated[float, Within(0, 1, open_low=True)]
Count = Annotated[int, Within(1)]


def _check(where: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotation wants it; InputError naming ``where`` and what is accepted."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        value = _check(where, value, args[0])
        for limit in args[1:]:
            if isinstance(limit, Within) and value is not None and value not in limit:
                raise InputError(f"{where} is {value}; accepted is a number in {limit}")
        return value
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise InputError(f"{where} is {value!r}; accepted are {', '.join(map(str, args))}")
        return value
    if origin in (Union, types.UnionType):
        return _check_union(where, value, args)
    if origin is dict:
        if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
            raise InputError(f"{where} is {value!r}; accepted is a mapping of names")
        return {k: _check(f"{where}['{k}']", v, args[1]) for k, v in value.items()}
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} is {value!r}; accepted is a list")
        return [_check(f"{where}[{i}]", v, args[0]) for i, v in enumerate(value)]
    return _check_scalar(where, value, hint)


def _check_union(where: str, value: Any, args: tuple[Any, ...]) -> Any:
    if value is None and types.NoneType in args:
        return None
    problems = []
    for a in args:
        if a is types.NoneType:
            continue
        try:
            return _check(where, value, a)
        except InputError as e:
            problems.append(e)
    raise problems[0]


_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


def _check_scalar(where: str, value: Any, hint: Any) -> Any:
    ok = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, (int, float)) and not isinstance(value, bool)
        and math.isfinite(value),
        str: isinstance(value, str),
    }.get(hint)  # fmt: skip
    if ok is None:
        raise TypeError(f"the annotation {hint} of {where} cannot be checked")
    if not ok:
        raise InputError(f"{where} is {value!r}; accepted is {_WORDS[hint]}")
    return float(value) if hint is float else value


@dataclass(frozen=True)
class Step:
    """A registered step. options: name -> (annotation, default, required)."""

    name: str
    function: Callable[..., Graph]
    about: str
    cites: str
    options: Mapping[str, tuple[Any, Any, bool]]

    def checked(self, options: Mapping[str, Any], where: str) -> dict[str, Any]:
        """The options after checking; InputError names ``where`` and the option."""
        for name in options:
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(f"{where} has no option '{name}'; its options are {known}")
        out = {}
        for name, (hint, _, required) in self.options.items():
            if name in options:
                out[name] = _check(f"{where}: option '{name}'", options[name], hint)
            elif required:
                raise InputError(f"{where} lacks the option '{name}'")
        return out


_REGISTRY: dict[str, Step] = {}
F = TypeVar("F", bound=Callable[..., Graph])


def step(name: str, *, cites: str = "") -> Callable[[F], F]:
    """Register the decorated function as a step. cites: the paper or source of the method."""

    def add(function: F) -> F:
        if name in _REGISTRY and _REGISTRY[name].function is not function:
            raise ValueError(f"the step '{name}' is registered twice")
        hints = get_type_hints(function, include_extras=True)
        options = {
            p.name: (hints[p.name], p.default, p.default is inspect.Parameter.empty)
            for p in inspect.signature(function).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        about = (inspect.getdoc(function) or "").split("\n\n", maxsplit=1)[0].replace("\n", " ")
        _REGISTRY[name] = Step(name, function, about, cites, options)
        return function

    return add


def _load() -> None:
    for module in _FAMILIES:
        importlib.import_module(module)


def step_names() -> list[str]:
    _load()
    return sorted(_REGISTRY)


def get_step(name: str) -> Step:
    """The step of that name; InputError naming the known ones."""
    _load()
    if name not in _REGISTRY:
        raise InputError(f"there is no step '{name}'; known are {', '.join(sorted(_REGISTRY))}")
    return _REGISTRY[name]
