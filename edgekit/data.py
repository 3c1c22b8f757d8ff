"""Data sets as the command line names them: ``file.npz[:x_key[,y_key]]`` (or ``file.npy``).

Arrays are in the model's own real units (pixels 0..255 if that is what the network was trained on);
an integer array of exactly the model's input dtype passes through unquantized.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.errors import InputError
from edgekit.graph.ir import Graph, Tensor
from edgekit.text import printable

#: Key pairs tried in this order when the user names none.
_KNOWN_KEYS = (
    ("x", "y"),
    ("val_x", "val_y"),
    ("x_val", "y_val"),
    ("test_x", "test_y"),
    ("x_test", "y_test"),
    ("images", "labels"),
    ("inputs", "labels"),
    ("data", "labels"),
    ("train_x", "train_y"),
    ("x_train", "y_train"),
)


@dataclass(frozen=True)
class Dataset:
    """Samples and, where there are any, integer labels.

    x: name -> array with samples along axis 0 (one entry for models with one input, whatever its
    name). y: ``[N]`` integers or None. source: file name and keys, for reports.
    """

    x: dict[str, np.ndarray]
    y: np.ndarray | None
    source: str

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))

    def head(self, n: int | None) -> Dataset:
        """The first ``n`` samples (all for None)."""
        if n is None or n >= len(self):
            return self
        return Dataset(
            {k: v[:n] for k, v in self.x.items()},
            None if self.y is None else self.y[:n],
            self.source,
        )

    @staticmethod
    def of(x: np.ndarray | Sequence[np.ndarray], y: np.ndarray | None = None) -> Dataset:
        """From arrays in memory; several inputs as a sequence in graph order."""
        arrays = [x] if isinstance(x, np.ndarray) else list(x)
        return Dataset({f"input{i}": a for i, a in enumerate(arrays)}, y, "arrays in memory")


def load_dataset(spec: str | Path) -> Dataset:
    """Read ``file.npz[:x_key[,y_key]]``; several x keys (one a model input) join with ``+``.

    Raises InputError for a missing, unreadable or pickled file, unknown keys, or unequal lengths.
    """
    text = str(spec)
    file, keys = _split_spec(text)
    if file.suffix.lower() not in (".npz", ".npy"):
        raise InputError(f"data '{text}' is not file.npz[:x_key[,y_key]] (or file.npy)")
    arrays = _read_arrays(file)
    xk, yk = _choose_keys(file, arrays, keys)
    # One array may feed several inputs (two towers, the same image): each use is an entry.
    x = {k if k not in xk[:i] else f"{k} ({i + 1})": arrays[k] for i, k in enumerate(xk)}
    y = None if yk is None else arrays[yk]
    n = {len(v) if v.ndim else 0 for v in x.values()}
    if len(n) != 1 or 0 in n:
        raise InputError(f"data '{text}' holds no samples along axis 0, or unequal numbers of them")
    if y is not None:
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or len(y) not in n:
            raise InputError(
                f"labels '{yk}' in {file.name} are {y.dtype}{list(y.shape)}; "
                f"accepted is one integer for each of the {n.pop()} samples"
            )
    label = printable(f"{file.name}:{'+'.join(xk)}" + (f",{yk}" if yk else ""))
    return Dataset(x, y, label)


def _split_spec(text: str) -> tuple[Path, str]:
    """File and keys; a colon inside the path (of a folder, of a drive) is no separator."""
    match = re.match(r"(?P<file>.*?\.np[zy])(:(?P<keys>.*))?$", text, re.IGNORECASE | re.DOTALL)
    if match is None:
        return Path(text), ""
    return Path(match["file"]), match["keys"] or ""


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise InputError(f"data file '{file}' does not exist")
    try:
        loaded = np.load(file, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return {k: loaded[k] for k in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError,
            zipfile.BadZipFile, zlib.error, SyntaxError, TypeError) as e:  # fmt: skip
        raise InputError(
            f"data file '{file.name}' is not a readable .npz without pickled objects ({_line(e)})"
        ) from None


def _line(e: BaseException) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:120]


def _choose_keys(
    file: Path, arrays: dict[str, np.ndarray], keys: str
) -> tuple[list[str], str | None]:
    if not arrays:
        raise InputError(f"data file '{file.name}' holds no arrays")
    have = ", ".join(sorted(arrays))
    if keys:
        xs, _, yk = keys.partition(",")
        names = [*xs.split("+"), *([yk] if yk else [])]
        for k in names:
            if k not in arrays:
                raise InputError(f"data file '{file.name}' has no array '{k}'; it has {have}")
        return xs.split("+"), yk or None
    for xk, yk in _KNOWN_KEYS:
        if xk in arrays:
            return [xk], yk if yk in arrays else None
    if len(arrays) == 1:
        return list(arrays), None
    raise InputError(
        f"data file '{file.name}' has arrays {have}; say which with {file.name}:x_key[,y_key]"
    )


def model_inputs(graph: Graph, data: Dataset) -> list[np.ndarray]:
    """The data as ``graph``'s input tensors want it: one array an input, samples along axis 0.

    Images of a model that was NCHW may come in either order of axes, as its reader made it NHWC.
    Floats are quantized with the input's scale and zero point when the input is an integer tensor.
    Raises InputError for a wrong number of inputs, shape, dtype, or non-finite values.
    """
    tensors = [graph.tensor(i) for i in graph.inputs]
    if len(data.x) != len(tensors):
        raise InputError(
            f"{data.source} gives {len(data.x)} arrays for a model with {len(tensors)} inputs "
            f"({', '.join(graph.inputs)}); name one key an input, joined with '+'"
        )
    if set(data.x) == set(graph.inputs):
        arrays = [data.x[t.name] for t in tensors]
    else:
        arrays = list(data.x.values())
    return [
        _one_input(t, a, data.source, was_nchw=f"input_layout:{t.name}" in graph.metadata)
        for t, a in zip(tensors, arrays, strict=True)
    ]


def _one_input(t: Tensor, a: np.ndarray, source: str, *, was_nchw: bool = False) -> np.ndarray:
    from edgekit.graph.numerics import quantize

    want = t.shape[1:]
    if was_nchw and a.shape[1:] != want and a.shape[1:] == (want[-1], *want[:-1]):
        a = np.moveaxis(a, 1, -1)
    got = a.shape[1:]
    if got != want:
        # A trailing or leading singleton (grey images without a channel axis) is no ambiguity.
        if [d for d in got if d != 1] == [d for d in want if d != 1]:
            a = a.reshape(len(a), *want)
        else:
            raise InputError(
                f"{source} holds samples of shape {list(got)}; "
                f"input '{t.name}' takes {list(want)} ({t.dtype})"
            )
    if str(a.dtype) == t.dtype:
        if t.is_float and not np.all(np.isfinite(a)):
            raise InputError(
                f"{source} holds NaN or infinite values; input '{t.name}' takes numbers"
            )
        return np.ascontiguousarray(a)
    if a.dtype.kind not in "fiub":
        raise InputError(f"{source} is of dtype {a.dtype}; accepted are numbers")
    real = a.astype(np.float32)
    if not np.all(np.isfinite(real)):
        raise InputError(f"{source} holds NaN or infinite values; input '{t.name}' takes numbers")
    if t.is_float:
        return real.astype(t.dtype)
    if t.quant is None:
        if a.dtype.kind in "iub":
            return a.astype(t.dtype)
        raise InputError(
            f"input '{t.name}' is {t.dtype} without a scale; give the data as {t.dtype}, not {a.dtype}"
        )
    return quantize(real, t.quant, t.dtype)


def predictions(output: np.ndarray) -> np.ndarray | None:
    """Class numbers from a model's first output, ``[N, classes]`` or ``[N]``/``[N, 1]`` (already
    class numbers when integer); None when the output is not a classification."""
    flat = output.reshape(len(output), -1)
    if flat.shape[1] > 1 and max(output.shape[1:]) == flat.shape[1]:  # one axis holds them all
        return np.argmax(flat, axis=1)
    if flat.shape[1] == 1 and output.dtype in (np.int32, np.int64):
        return flat[:, 0]
    return None


def accuracy(output: np.ndarray, labels: np.ndarray | None) -> float | None:
    """Top-1 accuracy in 0..1, or None where there are no labels or no classes."""
    if labels is None:
        return None
    p = predictions(output)
    if p is None:
        return None
    classes = int(np.prod(output.shape[1:]))
    if labels.min() < 0 or (classes > 1 and labels.max() >= classes):
        raise InputError(
            f"labels run from {int(labels.min())} to {int(labels.max())}; "
            f"the model has {classes} classes, numbered from 0"
        )
    return float(np.mean(p == labels))
