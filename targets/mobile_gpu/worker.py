"""The process in which TVM generates kernels: ``python -m edgekit_targets.mobile_gpu.worker JOB``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from edgekit_targets.tvm_ import worker

MODULE = "edgekit_targets.mobile_gpu.worker"


def _generate(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """``kernels.cl``, ``weights.bin`` and ``plan.txt`` below the job's output folder; answers what
    the manifest tells about them."""
    from edgekit.formats import ekg

    from . import launch
    from .lower import Limits, lower

    graph = ekg.read(Path(job["graph"]))
    limits = Limits(**{**job["limits"], "max_items": tuple(job["limits"]["max_items"])})
    lowered = lower(graph, bool(job["half"]), limits)
    return launch.write(lowered, Path(job["output"]))


if __name__ == "__main__":
    worker.main(Path(sys.argv[1]), {"generate": _generate})
