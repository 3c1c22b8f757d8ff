"""Read Keras .h5 (Keras 2 and 3) and .keras (Keras 3) without Keras: config JSON and weights.

The network is walked from its own configuration, so nothing of the file is ever executed (a
``Lambda`` is refused by name), no backend is needed. Layers are in
:mod:`edgekit.formats.keras_layers`; this module knows the containers, nested and shared layers.

Formats: https://keras.io/guides/serialization_and_saving/ (``config.json``, ``model.weights.h5``,
and the older ``model_config`` attribute with ``model_weights``).
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FormatError, GraphError, InputError, UnsupportedError
from edgekit.formats.builder import Builder
from edgekit.graph.ir import Graph, Tensor

if TYPE_CHECKING:
    from edgekit.formats.keras_container import Weights

TIMEOUT_S = 120.0
_MODELS = ("Functional", "Model", "Sequential")


def read(path: Path | str, input_shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Read a .h5, .hdf5 or .keras file.

    input_shapes: input layer name -> complete shape, for sizes that the file leaves open. Raises
    FormatError (malformed, NaN weights), InputError (open sizes), UnsupportedError (layers that
    edgekit lacks, all named).
    """
    from edgekit.formats.base import malformed_is_format_error

    path = Path(path)
    with malformed_is_format_error(path.name, "keras"):
        config, weights = _contents(path)
        try:
            return Importer(path.name, dict(input_shapes or {})).model(config, weights)
        except GraphError as e:
            raise FormatError(f"'{path.name}' is inconsistent: {e}") from e


def snake_case(class_name: str) -> str:
    """Keras's own rule for the folder of a layer in model.weights.h5."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _contents(path: Path) -> tuple[dict[str, Any], Weights]:
    """Configuration and weights, unpacked by a process of its own: HDF5 crashes on bad files."""
    from edgekit.formats.keras_container import load

    if importlib.util.find_spec("h5py") is None:
        raise InputError(
            f"reading '{path.name}' needs h5py; install it with pip install edgekit[keras]"
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "contents.npz"
        command = [
            sys.executable,
            "-P",
            "-m",
            "edgekit.formats.keras_container",
            str(path),
            str(out),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise FormatError(
                f"'{path.name}' is not a readable Keras file: unpacking it took more than "
                f"{TIMEOUT_S:g} s"
            ) from None
        if done.returncode == 0:
            return load(out)
    reason = done.stdout.strip().splitlines()
    if done.returncode == 1 and reason:
        kind = UnsupportedError if reason[-1].startswith("unsupported: ") else FormatError
        raise kind(reason[-1].split(": ", 1)[1])
    raise FormatError(
        f"'{path.name}' is not a readable Keras file: the HDF5 library fails on it "
        f"(status {done.returncode})"
    )


# -- the walk ----------------------------------------------------------------------------------


class Layer:
    """One layer: its class, configuration and variables.

    ``var(index, *names)``: a variable by its position (.keras) or by one of its names (.h5).
    """

    def __init__(self, cls: str, config: dict[str, Any], name: str, weights: Weights, at: str):
        self.cls, self.config, self.name = cls, config, name
        self._weights, self._at = weights, at
        self.keras2 = weights.keras2

    def get(self, key: str, default: Any = None) -> Any:
        return self.config.get(key, default)

    def var(self, index: int, *names: str) -> np.ndarray:
        if self._weights.is_numbered:
            found = self._weights.numbered.get(self._at, [])
            if index < len(found):
                return found[index]
        else:
            table = self._weights.named.get(self._at, {})
            for n in names:
                if n in table:
                    return table[n]
        raise FormatError(f"layer '{self.name}' ({self.cls}) has no weights '{names[0]}'")


class Importer(Builder):
    """Walks a model's configuration and emits its layers."""

    def __init__(self, source: str, input_shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__(Graph("keras", {}, [], (), ()))
        self.source = source
        self.fixed = input_shapes
        self.refused: list[str] = []

    def model(self, config: dict[str, Any], weights: Weights) -> Graph:
        from edgekit.formats.onnx_tidy import plain_names

        cls, inner = str(config["class_name"]), config.get("config", {})
        if cls not in _MODELS or not isinstance(inner, (dict, list)):
            raise UnsupportedError(
                f"'{self.source}' is a {cls}; Functional and Sequential models are read"
            )
        if isinstance(inner, list):  # Sequential of the oldest files
            inner = {"name": "sequential", "layers": inner}
        self._check(inner)
        if self.refused:
            raise UnsupportedError(
                f"'{self.source}' uses what edgekit does not implement: {'; '.join(self.refused)}"
            )
        self.graph.name = str(inner.get("name", "keras"))
        outs = self._model(cls, inner, weights, None, "", "")
        unknown = sorted(set(self.fixed) - set(self.graph.inputs))
        if unknown:
            raise InputError(
                f"'{self.source}' has no input '{unknown[0]}'; its inputs are "
                f"{', '.join(self.graph.inputs)}"
            )
        self.graph.outputs = tuple(outs)
        if not outs or any(o in self.graph.inputs for o in outs):
            raise FormatError(f"'{self.source}' has no layers between its input and its output")
        self.graph.metadata.update({"format": "keras", "source": self.source})
        self.graph.prune()
        plain_names(self.graph)
        return self.graph.validate()

    def _check(self, config: dict[str, Any]) -> None:
        """Collect every layer that is not implemented, nested models included."""
        from edgekit.formats.keras_layers import CONVERTERS, check

        for layer in _layers(config):
            cls, inner = str(layer["class_name"]), layer.get("config", {})
            name = str(layer.get("name") or inner.get("name") or cls)
            if cls in _MODELS:
                self._check(inner if isinstance(inner, dict) else {"layers": inner})
            elif cls == "InputLayer":
                continue
            elif cls not in CONVERTERS or ".ops" in str(layer.get("module") or ""):
                self.refused.append(f"layer '{name}' ({cls})")
            else:
                reason = check(cls, inner)
                if reason:
                    self.refused.append(f"layer '{name}' ({cls}): {reason}")

    def _input(self, name: str, shape: Any) -> str:
        if shape is None and name in self.fixed:
            shape = [None] * len(self.fixed[name])
        if shape is None:
            raise InputError(
                f"input '{name}' of '{self.source}' has no shape; give one with "
                f"--input-shape {name}=1,32,32,3"
            )
        dims = [None if d is None else int(d) for d in shape]
        if name in self.fixed:
            want = [int(d) for d in self.fixed[name]]
            fits = len(want) == len(dims) and min(want) > 0
            if not fits or any(d not in (None, w) for d, w in zip(dims, want, strict=True)):
                raise InputError(
                    f"the shape {want} does not fit input '{name}' of '{self.source}', which is "
                    f"{['?' if d is None else d for d in dims]}"
                )
            dims = list(want)
        dims[0] = dims[0] or 1
        if any(d is None for d in dims):
            example = ",".join(str(d or 32) for d in dims)
            raise InputError(
                f"dimension {dims.index(None)} of input '{name}' of '{self.source}' is open; fix "
                f"it with --input-shape {name}={example}"
            )
        sizes = tuple(int(d) for d in dims if d is not None)
        if min(sizes) < 1 or int(np.prod(sizes, dtype=np.float64)) > 1 << 31:
            raise FormatError(f"input '{name}' of '{self.source}' has the shape {list(sizes)}")
        t = self.graph.add_tensor(Tensor(name, sizes, "float32")).name
        self.graph.inputs = (*self.graph.inputs, t)
        return t

    def _model(
        self,
        cls: str,
        config: dict[str, Any],
        weights: Weights,
        given: list[str] | None,
        numbered: str,
        owner: str,
    ) -> list[str]:
        """Emit a model; ``given``: its inputs when nested, ``numbered``/``owner``: where its weights are.

        Returns the output tensors.
        """
        layers = [self._layer(layer, weights, numbered, owner) for layer in _numbered(config)]
        if cls == "Sequential":
            return self._sequential(config, layers, weights, given)
        return self._functional(config, layers, weights, given)

    @staticmethod
    def _layer(entry: tuple[dict[str, Any], str], weights: Weights, at: str, owner: str) -> _Entry:
        layer, folder = entry
        config = layer.get("config", {})
        cls = str(layer["class_name"])
        name = str(layer.get("name") or (config.get("name") if isinstance(config, dict) else cls))
        where = f"{at}/layers/{folder}".lstrip("/") if weights.is_numbered else ""
        if not weights.is_numbered:
            where = f"{owner}/{name}" if owner else name
        return _Entry(layer, cls, config, name, where)

    def _apply(self, e: _Entry, ins: list[str], weights: Weights) -> list[str]:
        from edgekit.formats.keras_layers import CONVERTERS

        if e.cls in _MODELS:
            inner = e.config if isinstance(e.config, dict) else {"layers": e.config}
            owner = e.where.split("/")[0] if not weights.is_numbered else ""
            return self._model(e.cls, inner, weights, ins, e.where, owner)
        layer = Layer(e.cls, e.config, e.name, weights, e.where)
        try:
            return [CONVERTERS[e.cls](self, layer, ins)]
        except UnsupportedError as err:
            raise UnsupportedError(f"layer '{e.name}' ({e.cls}): {err}") from None

    def _sequential(
        self,
        config: dict[str, Any],
        layers: list[_Entry],
        weights: Weights,
        given: list[str] | None,
    ) -> list[str]:
        values = given
        for k, e in enumerate(layers):
            if e.cls == "InputLayer":
                if values is None:
                    values = [self._input(e.name, _shape(e.config))]
                continue
            if values is None:
                shape = _shape(e.config) if isinstance(e.config, dict) else None
                inner = e.config
                while shape is None and isinstance(inner, dict) and inner.get("layers"):
                    inner = inner["layers"][0].get("config", {})
                    shape = _shape(inner)
                shape = shape or config.get("build_input_shape")
                name = next(iter(self.fixed), f"{e.name}_input" if k == 0 else "input")
                values = [self._input(name, shape)]
            values = self._apply(e, values, weights)
        return values or []

    def _functional(
        self,
        config: dict[str, Any],
        layers: list[_Entry],
        weights: Weights,
        given: list[str] | None,
    ) -> list[str]:
        made: dict[tuple[str, int], list[str]] = {}
        inputs = [r[0] for r in _references(config.get("input_layers", []))]
        by_name = {e.name: e for e in layers}
        for k, name in enumerate(inputs):
            if name not in by_name:
                raise FormatError(f"'{self.source}' has no input layer '{name}'")
            if given is None:
                made[(name, 0)] = [self._input(name, _shape(by_name[name].config))]
            elif k < len(given):
                made[(name, 0)] = [given[k]]
        waiting = [
            (e, k, refs)
            for e in layers
            if e.cls != "InputLayer"
            for k, refs in enumerate(_calls(e.entry.get("inbound_nodes", [])))
        ]
        while waiting:
            left = []
            for e, k, refs in waiting:
                ins = [_lookup(made, r) for r in refs]
                if refs and all(i is not None for i in ins):
                    made[(e.name, k)] = self._apply(e, [i for i in ins if i], weights)
                else:
                    left.append((e, k, refs))
            if len(left) == len(waiting):
                raise FormatError(
                    f"layer '{left[0][0].name}' of '{self.source}' reads what nothing produces"
                )
            waiting = left
        outs = []
        for r in _references(config.get("output_layers", [])):
            o = _lookup(made, r)
            if o is None:
                raise FormatError(f"'{self.source}' has no layer '{r[0]}' for its output")
            outs.append(o)
        return outs


@dataclass
class _Entry:
    entry: dict[str, Any]
    cls: str
    config: Any
    name: str
    where: str


def _layers(config: dict[str, Any]) -> list[dict[str, Any]]:
    layers = config.get("layers", [])
    if not isinstance(layers, list) or not all(
        isinstance(la, dict) and "class_name" in la for la in layers
    ):
        raise FormatError("the model's configuration has no list of layers")
    return layers


def _numbered(config: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Layers with the folder of each in model.weights.h5: class name, then ``_1``, ``_2``."""
    used: dict[str, int] = {}
    out = []
    for layer in _layers(config):
        name = snake_case(str(layer["class_name"]))
        k = used.get(name, 0)
        used[name] = k + 1
        out.append((layer, f"{name}_{k}" if k else name))
    return out


def _shape(config: Any) -> Any:
    if not isinstance(config, dict):
        return None
    return config.get("batch_shape") or config.get("batch_input_shape")


Reference = tuple[str, int, int]


def _references(value: Any) -> list[Reference]:
    """[['a', 0, 0], ...], ['a', 0, 0] or a dict of them -> list of (layer, call, output)."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        value = [value]
    return [(str(v[0]), int(v[1]), int(v[2])) for v in value]


def _calls(nodes: Any) -> list[list[Reference]]:
    """Inputs of every call of a layer, in Keras 2's and Keras 3's notation."""
    calls = []
    for node in nodes:
        if isinstance(node, dict):
            found: list[Reference] = []
            _histories(node.get("args", []), found)
            _histories({k: v for k, v in node.get("kwargs", {}).items() if k != "mask"}, found)
            calls.append(found)
        elif node and isinstance(node[0], str):
            calls.append([(str(node[0]), int(node[1]), int(node[2]))])
        else:
            calls.append([(str(r[0]), int(r[1]), int(r[2])) for r in node])
    return calls


def _histories(value: Any, found: list[Reference]) -> None:
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            h = value["config"]["keras_history"]
            found.append((str(h[0]), int(h[1]), int(h[2])))
        else:
            for v in value.values():
                _histories(v, found)
    elif isinstance(value, list):
        for v in value:
            _histories(v, found)


def _lookup(made: dict[tuple[str, int], list[str]], ref: Reference) -> str | None:
    outs = made.get((ref[0], ref[1]))
    return outs[ref[2]] if outs is not None and ref[2] < len(outs) else None
