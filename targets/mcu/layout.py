"""The graph, its kernels and its memory plan together: whether layers are streamed by rows, and how.

Which stripes are best depends on the kernels, whose speed depends on the stripes. So a few ways to
stream are tried to the end, the whole graph among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from edgekit.graph.ir import Graph
from edgekit.targets.base import Progress
from edgekit.targets.schema import Target

from .choose import RAM_SLOWDOWN, Choice, Found, find_options, least, least_scratch
from .memory import Plan, plan_memory
from .stream import NEAR, streamed
from .toolchain import Optimize

#: Ways to stream: how many times the least peak may be spent on fewer stripes.
WAYS = (1.4, NEAR)


_ANY = 1 << 62  #: work without a limit


class Select(Protocol):
    def __call__(
        self, graph: Graph, found: Found, optimize: Optimize, most_work: int | None = None
    ) -> Choice: ...


def lay_out(
    graph: Graph,
    found: Found,
    target: Target,
    select: Select,
    optimize: Optimize,
    ram_limit: int | None,
    may_stream: bool,
    say: Progress,
    portable: bool = False,
) -> tuple[Graph, Choice, Plan]:
    """``graph``, streamed or not, with the kernels of its nodes and their plan.

    ram: the smallest arena of all ways whose work is at most ``RAM_SLOWDOWN`` times that of the
    fastest whole graph, or that of the balanced one if only that brings less RAM. Else the whole
    graph; where its arena cannot keep ``ram_limit``, the stream that needs least. ``found`` belongs
    to ``graph``. portable: of stripes, too, only kernels that any core can run.
    """
    tight = ram_limit is not None and least(graph, found)[1] > ram_limit
    if not may_stream or (optimize != "ram" and not tight):
        return _planned(graph, select(graph, found, optimize), say)
    if optimize != "ram":
        small = streamed(graph, least_scratch(found), NEAR, say)
        options = found if small is graph else find_options(small, target, portable)
        best = _planned(small, select(small, options, optimize), say)
        if ram_limit is not None and best[2].arena_bytes > ram_limit:
            # the choice goes by bounds, the plan has gaps: the least there is, however slow
            best = _planned(small, select(small, options, "ram", _ANY), say)
        return best
    whole = select(graph, found, "ram")
    best = _planned(graph, whole, say)
    usual = _planned(graph, select(graph, found, "balanced"), say)
    most = int(whole.least_work * RAM_SLOWDOWN)
    others = [(other, find_options(other, target, portable)) for other in _ways(graph, found, say)]
    while True:
        for other, options in others:
            choice = select(other, options, "ram", most)
            if choice.work <= most:
                tried = _planned(other, choice, say)
                if tried[2].arena_bytes < best[2].arena_bytes:
                    best = tried
        if usual[2].arena_bytes >= best[2].arena_bytes:
            return best
        # less RAM than the default needs is what was asked for, at whatever speed the default has
        best, most = usual, usual[1].work


def _planned(graph: Graph, choice: Choice, say: Progress) -> tuple[Graph, Choice, Plan]:
    say("planning memory")
    return graph, choice, plan_memory(graph, choice.calls)


def _ways(graph: Graph, found: Found, say: Progress) -> Iterator[Graph]:
    seen = {len(graph.nodes)}
    for near in WAYS:
        other = streamed(graph, least_scratch(found), near, say)
        if len(other.nodes) not in seen:
            seen.add(len(other.nodes))
            yield other
