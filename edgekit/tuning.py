"""Tuning, the same for every family: which engines have something to tune, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph
    from edgekit.targets.base import Backend, Progress
    from edgekit.targets.schema import Target


def tunable(backend: Backend, target: Target, engine: str = "auto") -> list[str]:
    """Names of the usable engines that can be tuned, or just ``engine``. InputError when there is
    none, naming those that there are."""
    from edgekit.targets.base import Tunes

    infos = [e for e in backend.engines(target) if e.tunable and isinstance(backend, Tunes)]
    names = [e.name for e in infos if e.usable]
    if engine != "auto":
        if engine not in names:
            known = f"; {', '.join(names)} can be tuned" if names else ""
            raise InputError(
                f"engine '{engine}' of target '{target.name}' has nothing to tune{known}"
            )
        return [engine]
    if not names:
        reasons = "; ".join(f"{e.name}: {e.why_not}" for e in infos)
        raise InputError(
            f"target '{target.name}' has no engine that can be tuned{f' here ({reasons})' * bool(infos)}"
        )
    return names


def tune_engine(
    backend: Backend,
    target: Target,
    engine: str,
    graph: Graph,
    trials: int,
    device: str | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Tune one engine for a prepared graph on a device (the target's own by default)."""
    from edgekit.devices import open_device
    from edgekit.targets.base import Tunes

    tunable(backend, target, engine)
    assert isinstance(backend, Tunes)
    missing = backend.supports(graph, target, engine)
    if missing:
        u = missing[0]
        raise UnsupportedError(
            f"engine '{engine}' of target '{target.name}' cannot take node '{u.node}' ({u.op}): {u.reason}"
        )
    name = device or backend.default_device(target)
    with open_device(name, target=target) as dev:
        return backend.tune(graph, target, engine, dev, trials, progress)
