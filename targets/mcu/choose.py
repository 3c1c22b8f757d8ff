"""Which kernel runs each node: decided once for the whole model, from what was counted.

Limits of flash and RAM belong to the model, not to a node: kernels share their code, and a node's
scratch only counts where the arena is fullest. Flash adds up, so the least work within a limit of it, and
the fewest bytes, are found exactly (``knapsack``); the arena does not, so there the choice is improved
by exchanging one node's variant at a time, judged on the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from edgekit.graph.ir import Graph
from edgekit.targets.base import Progress
from edgekit.targets.schema import Target

from . import variants
from .config import McuTarget
from .contract import KernelCall
from .knapsack import Code, Item, solve
from .measure import Cost, Costs, measure
from .memory import (
    Buffer,
    activation_buffers,
    alive_bytes,
    lower_bound,
    make_buffers,
    mergeable,
    pack,
    scratch_buffers,
)
from .toolchain import Compiler, Optimize

Objective = Literal["cycles", "instructions"]

#: Least RAM may cost so many times the work of the fastest choice.
RAM_SLOWDOWN = 1.5
MANY_BUFFERS = 60
MANY_OPTIONS = 150
#: What every program has besides kernels, constants and arena: start-up, layers' calls; stack.
OTHER_FLASH, OTHER_RAM = 6 * 1024, 1024
#: A portable kernel is not counted on a layer with so many MACs when there is a better rank: it takes
#: seconds to execute and is an order of magnitude behind.
MAX_REF_MACS = 4_000_000


#: Share of a target's RAM below which a model's use of it hardly matters.
LITTLE = 64


def beside(mcu: McuTarget) -> tuple[int, int]:
    """Bytes of flash and RAM that :func:`balance` adds to a model's: a model that takes 10 KB of RAM
    instead of 20 KB is half as large where 64 KB are all there is, and the same where there are
    megabytes."""
    return OTHER_FLASH, max(OTHER_RAM, (mcu.ram_bytes or 0) // LITTLE)


def balance(work: int, flash: int, ram: int, beside: tuple[int, int]) -> int:
    """What ``balanced`` makes small: a product of work, flash and RAM, in which a percent of RAM is worth
    two of speed and one of flash one and a half: memory is what microcontrollers have least of."""
    return work**2 * (flash + beside[0]) ** 3 * (ram + beside[1]) ** 4


@dataclass(frozen=True)
class Limits:
    """Most bytes of constants and kernel code, and of arena; None: no limit."""

    flash: int | None = None
    ram: int | None = None


@dataclass(frozen=True)
class Option:
    """One way to run one node. work: cycles or instructions, None when nothing was counted."""

    call: KernelCall
    rank: int
    cost: Cost | None = None
    work: int | None = None

    @property
    def const_bytes(self) -> int:
        return variants.const_bytes(self.call)


#: Node -> its options; node -> (variant, reason) of those that do not take it.
Found = tuple[dict[str, list[Option]], dict[str, list[tuple[str, str]]]]


@dataclass(frozen=True)
class Choice:
    """calls: node name -> what it runs. options: what there was. rejected: variant -> reason.
    by: ``measurement`` or ``rank``; why_rank: why nothing was counted. work: of the nodes that had a
    choice; least_work: of the fastest choice. flash: bytes of constants and kernel code. limited:
    whether the limits made it another choice."""

    calls: Mapping[str, KernelCall]
    options: Mapping[str, Sequence[Option]]
    rejected: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    by: Literal["measurement", "rank"] = "rank"
    why_rank: str | None = None
    work: int = 0
    least_work: int = 0
    flash: int = 0
    limited: bool = False

    def explain(self, node: str) -> list[dict[str, Any]]:
        """JSON-ready rows of a node: every variant, its figures or the reason it was not taken."""
        chosen = self.calls[node].variant
        rows: list[dict[str, Any]] = [
            {
                "variant": o.call.variant,
                "chosen": o.call.variant == chosen,
                "instructions": o.cost.instructions if o.cost else None,
                "cycles": o.cost.cycles if o.cost else None,
                "const_bytes": o.const_bytes,
                "scratch_bytes": o.call.scratch_bytes,
            }
            for o in self.options[node]
        ]
        rows += [
            {"variant": name, "chosen": False, "rejected": reason}
            for name, reason in self.rejected.get(node, ())
        ]
        return rows


def choose(
    graph: Graph,
    mcu: McuTarget,
    compiler: Compiler,
    optimize: Optimize = "balanced",
    *,
    objective: Objective = "cycles",
    limits: Limits | None = None,
    by_rank: bool = False,
    found: Found | None = None,
    most_work: int | None = None,
    progress: Progress | None = None,
    costs: Costs | None = None,
) -> Choice:
    """The variant of every node of ``graph``.

    balanced: least weighted product of work, flash and RAM; speed: least work (cycles or
    instructions) within ``limits``; size: fewest bytes of flash; ram: smallest arena, then least
    work, at no more than ``RAM_SLOWDOWN`` times the least. Where there is no virtual core to count
    on, or with ``by_rank``, the variants' own order stands for the work. Under an operating system
    memory is plenty: balanced is speed there.
    most_work: for ram, instead of that many times the least of this graph. found: what
    :func:`find_options` gave, if it was called already. costs: taken for the counts, of the nodes
    that :func:`contested` names. UnsupportedError names the first node without a variant.
    """
    limits = limits or Limits()
    options, rejected = found or find_options(graph, mcu.target)
    if costs is None:
        costs = Costs({}, {}, "not asked for")
        if not by_rank:
            alone = [found[0].call for found in options.values() if len(found) == 1]
            calls = contested(graph, options, mcu.is_host)
            costs = measure(graph, calls, mcu, compiler, optimize, progress, alone)
    measured = costs.absent is None
    if mcu.is_host and optimize == "balanced":
        optimize = "speed"
    options = {
        name: [_with_cost(o, costs.by_call.get((name, o.call.variant)), objective) for o in found]
        for name, found in options.items()
    }
    search = _Search(graph, options, costs.code_bytes, beside(mcu))
    if optimize == "size":
        wanted = search.smallest()
    elif optimize == "ram":
        wanted = search.least_ram(most_work)
    elif optimize == "balanced" and measured:
        wanted = search.balanced()
    else:
        wanted = search.fastest()
    value = search.aim(optimize if measured or optimize != "balanced" else "speed")
    state = search.within(wanted, limits, value)
    return Choice(
        {name: options[name][k].call for name, k in state.items()},
        options,
        rejected,
        "measurement" if measured else "rank",
        costs.absent,
        search.work(state),
        search.work(search.fastest()),
        search.flash(state),
        state != wanted,
    )


def least(graph: Graph, found: Found) -> tuple[int, int]:
    """(bytes of constants, bytes of arena) that no choice can go below."""
    everywhere = {
        name: replace(
            call,
            inplace=tuple(sorted({pair for o in found[0][name] for pair in o.call.inplace})),
        )
        for name, call in least_scratch(found).items()
    }
    buffers = (make_buffers(graph, everywhere, m) for m in ((), mergeable(graph, everywhere)))
    arena = min(lower_bound(b)[0] for b in buffers)
    return sum(min(o.const_bytes for o in options) for options in found[0].values()), arena


def least_scratch(found: Found) -> dict[str, KernelCall]:
    """The call of every node that needs the fewest bytes beside its tensors."""
    return {
        name: min(options, key=lambda o: o.call.scratch_bytes).call
        for name, options in found[0].items()
    }


def find_options(graph: Graph, target: Target, portable: bool = False) -> Found:
    """Every node's variants that take it, and the reasons of those that do not. UnsupportedError
    names the first node that none takes. portable: only those that any core can run."""
    options: dict[str, list[Option]] = {}
    rejected: dict[str, list[tuple[str, str]]] = {}
    for node in graph.nodes:
        found, refused = [], []
        for v in variants.variants_for(node, graph):
            reason = v.reject(node, graph, target)
            if portable and v.rank < variants.REF_RANK:
                reason = "portable kernels were asked for"
            if reason is None:
                found.append(Option(v.lower(node, graph, target), v.rank))
            else:
                refused.append((v.name, reason))
        if not found:
            raise variants.unsupported(node, graph, target)
        options[node.name], rejected[node.name] = found, refused
    return options, rejected


def contested(
    graph: Graph, options: Mapping[str, Sequence[Option]], process: bool = False
) -> dict[str, list[KernelCall]]:
    """What is counted: the calls of the nodes that have a choice. process: the target is a program
    under an operating system."""
    return {
        name: [o.call for o in _worth_counting(graph, name, found, process)]
        for name, found in options.items()
        if len(found) > 1
    }


def _worth_counting(
    graph: Graph, name: str, found: Sequence[Option], process: bool
) -> Sequence[Option]:
    """process: the layers of programs under an operating system are large, and so are their constants,
    of which every kernel has its own form: only kernels of about the best rank are counted then."""
    from edgekit.graph.ops import macs

    if macs(graph.node(name), graph) <= MAX_REF_MACS:
        return found
    best = min(o.rank for o in found)
    if process:
        return [o for o in found if o.rank <= best + variants.NEAR_RANK]
    return [o for o in found if o.rank == best or o.rank < variants.REF_RANK]


def _with_cost(option: Option, cost: Cost | None, objective: Objective) -> Option:
    if cost is None:
        return option
    counted = cost.cycles if objective == "cycles" else None
    return Option(option.call, option.rank, cost, cost.instructions if counted is None else counted)


State = dict[str, int]  #: node name -> index of its option


@dataclass(frozen=True)
class _Activations:
    """Buffers of activations, and the bytes of them alive at each step from -1 on."""

    buffers: Sequence[Buffer]
    alive: Sequence[int]


def _room(option: Option) -> tuple[int, tuple[tuple[int, int], ...]]:
    """What an option takes beside its tensors, and what it can compute in place."""
    return option.call.scratch_bytes, tuple(option.call.inplace)


def _first(values: Sequence[Any], value: Any) -> int:
    return next(k for k, v in enumerate(values) if v == value)


class _Search:
    """Exchanging one node's option at a time. Ties always go to the earlier option, so the result
    depends on the graph and the counts only."""

    def __init__(
        self,
        graph: Graph,
        options: Mapping[str, Sequence[Option]],
        code_bytes: Mapping[str, int],
        beside: tuple[int, int] = (OTHER_FLASH, OTHER_RAM),
    ) -> None:
        self.graph = graph
        self.beside = beside
        self.options = options
        self.code_bytes = code_bytes
        self.order = list(options)
        self._work = {name: self._works(found) for name, found in options.items()}
        self._const = {name: [o.const_bytes for o in found] for name, found in options.items()}
        # what the arena depends on: options of one number are alike
        self._alike = {
            name: [_first([_room(o) for o in found], _room(o)) for o in found]
            for name, found in options.items()
        }
        self._ram: dict[tuple[int, ...], int] = {}
        self._plans: dict[tuple[object, ...], tuple[_Activations, ...]] = {}

    @staticmethod
    def _works(found: Sequence[Option]) -> list[int]:
        """Work by option. What was not counted stands behind everything that was, in rank order;
        where nothing was counted the rank is the work."""
        counted = [o.work for o in found if o.work is not None]
        if not counted:
            return [o.rank for o in found]
        behind = max(counted)
        return [o.work if o.work is not None else behind + 1 + o.rank for o in found]

    def calls(self, state: State) -> dict[str, KernelCall]:
        return {name: self.options[name][k].call for name, k in state.items()}

    def work(self, state: State) -> int:
        return sum(self._work[name][k] for name, k in state.items())

    def flash(self, state: State) -> int:
        """Constants of the nodes and code of the kernels used, each kernel once."""
        sources: set[str] = set()
        total = 0
        for name, k in state.items():
            total += self._const[name][k]
            sources.update(self.options[name][k].call.sources)
        return total + sum(self.code_bytes.get(s, 0) for s in sources)

    def ram(self, state: State) -> int:
        """Bytes of the arena, as the planner's quick orders pack it."""
        key = tuple(self._alike[name][state[name]] for name in self.order)
        if key not in self._ram:
            plans = self._activations(state)
            scratch = self._scratch(state)
            best = min(max(map(sum, zip(p.alive, scratch, strict=True))) for p in plans)
            # packing hundreds of stripes takes long, and they pack alike whatever their kernels
            many = len(plans[1].buffers) + sum(map(bool, scratch)) > MANY_BUFFERS
            sizes = [best] if many else []
            if not sizes:
                extra = scratch_buffers(self.graph, self.calls(state))
                for p in plans:
                    sizes.append(pack([*p.buffers, *extra], search=False)[0])
                    if sizes[-1] <= best:
                        break
            self._ram[key] = min(sizes)
        return self._ram[key]

    def _activations(self, state: State) -> tuple[_Activations, ...]:
        """Of a choice: with all in-place pairs its kernels allow, and without. Kernels that work in place
        alike share them."""
        key = tuple(self.options[name][k].call.inplace for name, k in state.items())
        if key not in self._plans:
            pairs = mergeable(self.graph, self.calls(state))
            made = [activation_buffers(self.graph, merge) for merge in (pairs, [])]
            steps = len(self.graph.nodes)
            self._plans[key] = tuple(_Activations(b, alive_bytes(b, steps)) for b in made)
        return self._plans[key]

    def _scratch(self, state: State) -> list[int]:
        """Bytes of scratch at each step from -1 to the number of nodes."""
        bytes_of = {name: self.options[name][k].call.scratch_bytes for name, k in state.items()}
        return [0, *(bytes_of.get(n.name, 0) for n in self.graph.nodes), 0]

    # -- the three aims ------------------------------------------------------------------------

    def fastest(self) -> State:
        return {
            name: min(range(len(found)), key=lambda k, n=name: (self._work[n][k], k))  # type: ignore[misc]
            for name, found in self.options.items()
        }

    def smallest(self) -> State:
        """Fewest bytes of flash, then least work."""
        most = 1 + sum(max(works) for works in self._work.values())
        found = self._solve(lambda work, size: size * most + work)
        assert found is not None
        return found

    def aim(self, optimize: Optimize) -> Callable[[State], tuple[int, ...]]:
        """What a preference makes small. balanced: see :func:`balance`."""

        def balanced(s: State) -> tuple[int, ...]:
            return (balance(self.work(s), self.flash(s), self.ram(s), self.beside),)

        return {
            "balanced": balanced,
            "ram": lambda s: (self.ram(s), self.full_steps(s), self.work(s)),
            "size": lambda s: (self.flash(s), self.work(s)),
            "speed": lambda s: (self.work(s),),
        }[optimize]

    def balanced(self) -> State:
        """The balanced aim, by exchanges from several ends."""
        value = self.aim("balanced")
        found = [self._descend(start, value) for start in (self.fastest(), self.smallest())]
        state = min(found, key=value)
        while True:
            trials = [trial for *_, trial in self._exchanges(state)]
            better = min(trials, key=value, default=state)
            if value(better) >= value(state):
                return state
            state = self._descend(better, value)

    def least_ram(self, most_work: int | None = None) -> State:
        state = self.fastest()
        most = most_work or int(self.work(state) * RAM_SLOWDOWN)
        value = self.aim("ram")
        starts = [state]
        if sum(len(found) for found in self.options.values()) <= MANY_OPTIONS:
            starts.append(self.balanced())
        found = [
            self._descend(start, value, lambda s: self.work(s) <= most)
            for start in starts
            if start is state or self.work(start) <= most
        ]
        return min(found, key=value)

    def full_steps(self, state: State) -> int:
        """Steps at which most bytes are alive: where equal layers fill the arena, exchanging one of
        them is progress before the arena shrinks."""
        plan = self._activations(state)[0]
        scratch = self._scratch(state)
        if len(plan.buffers) + sum(map(bool, scratch)) > MANY_BUFFERS:
            return 0
        alive = [*map(sum, zip(plan.alive, scratch, strict=True))]
        return alive.count(max(alive, default=0))

    def within(
        self, state: State, limits: Limits, value: Callable[[State], tuple[int, ...]]
    ) -> State:
        """``state`` if it keeps the limits, else the choice of least work that does, from where
        ``value`` is made small within them. Where none keeps them, the nearest that exchanges find:
        the caller's check of the linked program has the last word."""

        def fits(s: State) -> bool:
            small = limits.flash is None or self.flash(s) <= limits.flash
            return small and (limits.ram is None or self.ram(s) <= limits.ram)

        if fits(state):
            return state
        allowed = None
        if limits.ram is not None and self.ram(state) > limits.ram:
            # what does not fit where all others need least does not fit at all
            roomy = {
                name: min(range(len(f)), key=lambda k, f=f: (f[k].call.scratch_bytes, k))  # type: ignore[misc]
                for name, f in self.options.items()
            }
            allowed = {
                name: [k for k in range(len(f)) if self.ram({**roomy, name: k}) <= limits.ram]
                for name, f in self.options.items()
            }
        if allowed is None or all(allowed.values()):
            found = self._solve(lambda work, _size: work, limits.flash, allowed)
            if found is not None:
                state = found
        for bytes_of, limit in ((self.flash, limits.flash), (self.ram, limits.ram)):
            while limit is not None and (have := bytes_of(state)) > limit:
                best: tuple[float, str, int] | None = None
                then = state
                for name, k, trial in self._exchanges(state):
                    saved = have - bytes_of(trial)
                    if saved <= 0:
                        continue
                    price = max(0, self.work(trial) - self.work(state)) / min(saved, have - limit)
                    if best is None or (price, name, k) < best:
                        best, then = (price, name, k), trial
                if best is None:
                    return state
                state = then
        return self._descend(state, value, fits) if fits(state) else state

    def _solve(
        self,
        cost: Callable[[int, int], int],
        limit: int | None = None,
        allowed: Mapping[str, Sequence[int]] | None = None,
    ) -> State | None:
        """The choice of least cost(work, bytes) within a limit of flash, among the allowed options.
        cost has to be linear: it is asked for options and for kernels' code."""
        names = sorted({s for f in self.options.values() for o in f for s in o.call.sources})
        index = {s: k for k, s in enumerate(names)}
        uses: dict[str, list[list[int]]] = {
            name: [sorted({index[s] for s in o.call.sources}) for o in found]
            for name, found in self.options.items()
        }
        keys = {
            name: list(range(len(found))) if allowed is None else list(allowed[name])
            for name, found in self.options.items()
        }
        solution = solve(
            [
                [
                    Item(
                        cost(self._work[name][k], self.options[name][k].const_bytes),
                        self.options[name][k].const_bytes,
                        frozenset(uses[name][k]),
                    )
                    for k in keys[name]
                ]
                for name in self.options
            ],
            [Code(size, cost(0, size)) for size in (self.code_bytes.get(s, 0) for s in names)],
            limit,
        )
        if solution is None:
            return None
        return {name: keys[name][k] for name, k in zip(self.options, solution.picks, strict=True)}

    def _exchanges(self, state: State) -> list[tuple[str, int, State]]:
        """Of one node's option; and of a kernel by another wherever both can be, since kernels share
        their code: one node less saves nothing while another node keeps it."""
        single = [
            (name, k, {**state, name: k})
            for name, found in self.options.items()
            for k in range(len(found))
            if k != state[name]
        ]
        users: dict[str, list[str]] = {}
        for name, k in state.items():
            users.setdefault(self.options[name][k].call.variant, []).append(name)
        whole = []
        for used, names in users.items():
            if len(names) < 2:
                continue
            for other in sorted({o.call.variant for n in names for o in self.options[n]} - {used}):
                trial = dict(state)
                for n in names:
                    for k, o in enumerate(self.options[n]):
                        if o.call.variant == other:
                            trial[n] = k
                whole.append((f"{used} {other}", 0, trial))
        return single + whole

    def _descend(
        self,
        state: State,
        value: Callable[[State], tuple[int, ...]],
        allowed: Callable[[State], bool] = lambda _s: True,
    ) -> State:
        """Exchange while ``value`` falls: first improvement, node by node, until a whole round
        changes nothing."""
        current = value(state)
        changed = True
        while changed:
            changed = False
            for name, found in self.options.items():
                for k in range(len(found)):
                    if k == state[name]:
                        continue
                    trial = {**state, name: k}
                    v = value(trial)
                    if v < current and allowed(trial):
                        state, current, changed = trial, v, True
        return state
