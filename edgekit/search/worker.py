"""A worker process: reads one task a line from its standard input, writes one answer a line.

A process of its own for each job, so that a trial that crashes, hangs or eats the memory is a result and
not the end of the study. It ends when its input does: a killed study leaves no workers behind.

    python -m edgekit.search.worker STUDY
"""

from __future__ import annotations

import json
import os
import sys
import threading
from queue import Queue
from typing import Any

from edgekit.errors import EdgekitError


def answer(evaluator: Any, task: dict[str, Any]) -> dict[str, Any]:
    """``{"id", "ok": true, "result"}`` or ``{"id", "ok": false, "error"}``."""
    try:
        return {"id": task["id"], "ok": True, "result": evaluator.work(task)}
    except EdgekitError as e:
        return {"id": task["id"], "ok": False, "error": str(e)}
    except MemoryError:
        return {"id": task["id"], "ok": False, "error": "out of memory"}
    except Exception as e:  # a bug in one trial must not end the study
        import traceback

        traceback.print_exc()
        return {"id": task["id"], "ok": False, "error": f"{type(e).__name__}: {e}"[:300]}


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(type(value).__name__)


def main(folder: str) -> None:
    # what libraries print must not get between the answers
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tasks: Queue[dict[str, Any]] = Queue()

    def read() -> None:
        for line in sys.stdin:
            tasks.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    from edgekit.search.evaluate import Evaluator
    from edgekit.search.folder import StudyFolder

    evaluator = Evaluator(StudyFolder.open(folder))
    out.write(json.dumps({"ready": True}) + "\n")
    out.flush()
    while True:
        out.write(json.dumps(answer(evaluator, tasks.get()), default=plain) + "\n")
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
