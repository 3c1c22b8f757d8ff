"""Unpack a Keras file: ``python -m edgekit.formats.keras_container FILE OUT.npz``.

Runs in a process of its own because the HDF5 library crashes on some malformed files. OUT holds the
configuration (JSON) and every variable; a failure is one line on stdout, ``refused: ...`` or
``unsupported: ...``, and exit status 1. h5py is imported only where a file is read, so that
:func:`load` needs none.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    import h5py

MAX_CONFIG = 64 << 20
MAX_WEIGHTS = 2 << 30


@dataclass
class Weights:
    """Variables of a model's layers.

    named: layer name -> variable name -> array (.h5). numbered: position path of the layer
    (``layers/conv2d_1``) -> arrays in order (.keras).
    """

    named: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    numbered: dict[str, list[np.ndarray]] = field(default_factory=dict)
    is_numbered: bool = False
    keras2: bool = False  #: written by Keras 2, whose hard_sigmoid has another slope


def _get(group: h5py.Group, path: str) -> Any:
    """A member reached through hard links only: a file must not pull in other files."""
    import h5py

    node: Any = group
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if not isinstance(node, h5py.Group) or part not in node:
            raise FormatError(f"weights '{path}' are missing")
        if not isinstance(node.get(part, getlink=True), h5py.HardLink):
            raise FormatError(f"weights '{path}' are a link to somewhere else")
        node = node[part]
    return node


def _array(data: h5py.Dataset, name: str) -> np.ndarray:
    import h5py

    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise FormatError(f"weights '{name}' are not stored in the file")
    if data.nbytes > MAX_WEIGHTS:
        raise FormatError(f"weights '{name}' take {data.nbytes} bytes; at most {MAX_WEIGHTS} are")
    value = np.asarray(data[()])
    if value.dtype.kind not in "fiu":
        raise UnsupportedError(f"weights '{name}' have dtype {value.dtype}; float32 is read")
    if value.dtype.kind == "f" and not np.all(np.isfinite(value)):
        raise FormatError(f"weights '{name}' hold NaN or infinity")
    return value


def _json(text: bytes | str, source: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except ValueError as e:
        raise FormatError(f"the configuration in '{source}' is not JSON ({e})") from None
    if not isinstance(config, dict) or "class_name" not in config:
        raise FormatError(f"the configuration in '{source}' describes no model")
    return config


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def open_h5(path: Path) -> tuple[dict[str, Any], Weights]:
    import h5py

    try:
        f = h5py.File(path, "r")
    except OSError as e:
        raise FormatError(f"'{path.name}' is not a readable HDF5 file ({e})") from e
    with f:
        if "model_config" not in f.attrs:
            raise FormatError(
                f"'{path.name}' holds no model configuration; save the whole model, not only weights"
            )
        config = _json(f.attrs["model_config"], path.name)
        group = _get(f, "model_weights") if "model_weights" in f else f
        version = _text(f.attrs.get("keras_version", "2"))
        weights = Weights(keras2=version.startswith(("1", "2")))
        for layer in group:
            g = _get(group, layer)
            names = [_text(n) for n in g.attrs.get("weight_names", [])]
            for n in names:
                parts = n.split(":")[0].split("/")
                owner = parts[-2] if len(parts) > 1 else layer
                value = _array(_get(g, n), n)
                # The owner is the layer itself, or a layer of the nested model of that name.
                weights.named.setdefault(layer, {}).setdefault(parts[-1], value)
                weights.named.setdefault(f"{layer}/{owner}", {})[parts[-1]] = value
        return config, weights


def open_zip(path: Path) -> tuple[dict[str, Any], Weights]:
    import h5py

    with zipfile.ZipFile(path) as z:
        sizes = {i.filename: i.file_size for i in z.infolist()}
        for name, limit in (("config.json", MAX_CONFIG), ("model.weights.h5", MAX_WEIGHTS)):
            if name not in sizes:
                raise FormatError(f"'{path.name}' is not a .keras file: it has no {name}")
            if sizes[name] > limit:
                raise FormatError(f"{name} in '{path.name}' unpacks to {sizes[name]} bytes")
        config = _json(z.read("config.json"), path.name)
        data = io.BytesIO(z.read("model.weights.h5"))
    weights = Weights(is_numbered=True)

    def walk(group: h5py.Group, prefix: str) -> None:
        for key in group:
            member = _get(group, key)
            if not isinstance(member, h5py.Group) or (not prefix and key == "optimizer"):
                continue
            here = f"{prefix}/{key}" if prefix else key
            if key == "vars":
                weights.numbered[prefix] = [
                    _array(_get(member, k), f"{prefix}/{k}") for k in sorted(member, key=int)
                ]
            else:
                walk(member, here)

    with h5py.File(data, "r") as f:
        walk(f, "")
    return config, weights


def dump(config: dict[str, Any], weights: Weights, out: Path) -> None:
    """Write configuration and weights as an .npz without any pickled object."""
    arrays: list[np.ndarray] = []
    index: dict[str, Any] = {
        "config": config,
        "keras2": weights.keras2,
        "is_numbered": weights.is_numbered,
        "named": {},
        "numbered": {},
    }
    for layer, table in weights.named.items():
        index["named"][layer] = {}
        for name, value in table.items():
            index["named"][layer][name] = len(arrays)
            arrays.append(value)
    for layer, values in weights.numbered.items():
        index["numbered"][layer] = list(range(len(arrays), len(arrays) + len(values)))
        arrays.extend(values)
    text = np.frombuffer(json.dumps(index).encode(), np.uint8)
    named: dict[str, Any] = {f"a{k}": v for k, v in enumerate(arrays)}
    np.savez(out, index=text, **named)


def load(path: Path) -> tuple[dict[str, Any], Weights]:
    """What :func:`dump` wrote."""
    with np.load(path, allow_pickle=False) as z:
        index = json.loads(z["index"].tobytes())
        weights = Weights(is_numbered=index["is_numbered"], keras2=index["keras2"])
        for layer, table in index["named"].items():
            weights.named[layer] = {name: z[f"a{k}"] for name, k in table.items()}
        for layer, numbers in index["numbered"].items():
            weights.numbered[layer] = [z[f"a{k}"] for k in numbers]
    return index["config"], weights


def main(argv: list[str]) -> int:
    path, out = Path(argv[0]), Path(argv[1])
    try:
        config, weights = open_zip(path) if zipfile.is_zipfile(path) else open_h5(path)
    except UnsupportedError as e:
        print(f"unsupported: {e}")
        return 1
    except FormatError as e:
        print(f"refused: {e}")
        return 1
    except Exception as e:  # whatever the libraries raise on malformed bytes
        lines = [x.strip() for x in str(e).splitlines() if x.strip()] or [""]
        print(
            f"refused: '{path.name}' cannot be read as keras ({type(e).__name__}: {lines[0][:160]})"
        )
        return 1
    dump(config, weights, out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
