"""Read a TensorFlow SavedModel folder: TensorFlow, in a process of its own, makes a .tflite of it.

TensorFlow stays out of this process (1.9 GB, 3.5 s to import, and it breaks other runtimes that are
imported after it); a crash or a hang of the converter is one sentence here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import FormatError, ToolchainError

if TYPE_CHECKING:
    from edgekit.graph.ir import Graph

TIMEOUT_S = 300.0


def read(
    path: Path | str,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Graph:
    """Convert a SavedModel folder and read the result.

    input_shapes: input name of the serving signature -> complete shape; a dynamic batch becomes 1.
    Raises ToolchainError (TensorFlow missing, crashed, or slower than ``timeout_s`` seconds) and
    FormatError (what TensorFlow cannot load or convert).
    """
    from edgekit.formats import tflite

    path = Path(path)
    if not (path / "saved_model.pb").is_file():
        raise FormatError(f"'{path.name}' is not a SavedModel: it has no saved_model.pb")
    if importlib.util.find_spec("tensorflow") is None:
        raise ToolchainError(
            f"reading the SavedModel '{path.name}' needs TensorFlow; install it with "
            "pip install edgekit[tensorflow]"
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.tflite"
        shapes = {k: list(v) for k, v in (input_shapes or {}).items()}
        _convert(path, out, shapes, timeout_s)
        graph = tflite.read(out, {})
    graph = _plain_inputs(graph)
    graph.metadata.update({"format": "savedmodel", "source": path.name})
    return graph


def _plain_inputs(graph: Graph) -> Graph:
    """``serving_default_x:0`` is the input that the signature calls ``x``."""
    for old in graph.inputs:
        new = old.removeprefix("serving_default_").removesuffix(":0")
        if new == old or new in graph.tensors:
            continue
        graph.tensors[new] = graph.tensors.pop(old).with_(name=new)
        graph.rename_uses(old, new)
        graph.inputs = tuple(new if i == old else i for i in graph.inputs)
    return graph


def _convert(path: Path, out: Path, shapes: dict[str, list[int]], timeout_s: float) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "edgekit.formats.savedmodel_worker",
        str(path.resolve()),
        str(out),
        json.dumps(shapes),
    ]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(
            f"TensorFlow took more than {timeout_s:g} s to convert '{path.name}'"
        ) from None
    if done.returncode == 0 and out.is_file():
        return
    lines = [x for x in done.stdout.splitlines() if x.startswith("error: ")]
    if lines:
        raise FormatError(f"TensorFlow cannot convert '{path.name}' ({lines[-1][7:]})")
    raise ToolchainError(
        f"TensorFlow's converter ended with status {done.returncode} on '{path.name}'"
    )
