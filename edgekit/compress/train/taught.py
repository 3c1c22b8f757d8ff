"""What teachers say about the batches of a run, kept: they are asked about each batch once.

With ``TrainOptions.variants`` the batches of a run repeat. Teachers are often larger than what they
teach, and several students can follow the same teacher over the same batches: in a work folder the
values are kept between runs.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: Values of a run that are kept at most.
_MOST = 200_000_000


class Taught:
    """Values by batch number, each a list of tensors."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[int, list[torch.Tensor]] = {}
        self._count = self._saved = 0
        if path is not None and path.is_file():
            self._read(path)

    def get(self, number: int | None) -> list[torch.Tensor] | None:
        return None if number is None else self._known.get(number)

    def put(self, number: int | None, values: list[torch.Tensor]) -> None:
        size = sum(v.numel() for v in values)
        if number is not None and self._count + size <= _MOST:
            self._known[number] = [v.detach() for v in values]
            self._count += size

    def save(self) -> None:
        """Write what is new since it was read; not being able to costs time only."""
        if self.path is None or self._count == self._saved:
            return
        arrays: dict[str, Any] = {
            f"{n}_{k}": v.cpu().numpy()
            for n, values in self._known.items()
            for k, v in enumerate(values)
        }
        temp = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            with open(temp, "wb") as f:
                np.savez(f, **arrays)
            os.replace(temp, self.path)
            self._saved = self._count
        except OSError:
            pass
        finally:
            temp.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        found: dict[int, dict[int, torch.Tensor]] = {}
        # a damaged file is no loss: the teacher is asked again
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as z:
            for name in z.files:
                n, k = name.split("_")
                found.setdefault(int(n), {})[int(k)] = torch.from_numpy(z[name])
            for n, values in found.items():
                self.put(n, [values[k] for k in sorted(values)])
            self._saved = self._count
