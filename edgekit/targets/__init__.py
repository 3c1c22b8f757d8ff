"""Targets: the plug-in contract (``base``), the YAML schema (``schema``), the registry."""

from edgekit.targets.registry import (
    TargetEntry,
    families,
    get_backend,
    get_family,
    get_target,
    list_targets,
    load_target,
    target_names,
)

__all__ = [
    "TargetEntry",
    "families",
    "get_backend",
    "get_family",
    "get_target",
    "list_targets",
    "load_target",
    "target_names",
]
