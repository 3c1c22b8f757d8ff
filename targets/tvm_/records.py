"""The database of tuning: what every candidate that was tried took, or why it failed.

SQLite, so that a killed process leaves what was committed and several may write. A record is one
candidate (a register tile) of one *task* (:func:`edgekit_targets.tvm_.linear.task_key`: operator,
types, geometry, CPU target) on one device with one version of the tools.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.devices.base import Kind
from edgekit.errors import InputError
from edgekit_targets.tvm_ import check
from edgekit_targets.tvm_.linear import Tile

SCHEMA = 2
_TABLE = """CREATE TABLE IF NOT EXISTS trials (
  task TEXT NOT NULL, tools TEXT NOT NULL, device TEXT NOT NULL, tile TEXT NOT NULL,
  kind TEXT NOT NULL, cost REAL, error TEXT, PRIMARY KEY (task, tools, device, tile))"""


def default_path() -> Path:
    """$EDGEKIT_CACHE, $XDG_CACHE_HOME/edgekit or ~/.cache/edgekit, as edgekit's other caches."""
    override = os.environ.get("EDGEKIT_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(override) if override else base / "edgekit") / "tuning" / "tvm.sqlite3"


@dataclass(frozen=True)
class Best:
    """The best candidate on record. cost: milliseconds (kind ``measured``) or instructions
    (``simulated``) of the kernel."""

    tile: Tile
    cost: float
    device: str
    kind: Kind


class Records:
    """The database file (made when first written); InputError when it is something else."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    @contextmanager
    def _open(self, write: bool = False) -> Iterator[sqlite3.Connection | None]:
        if not write and not self.path.exists():
            yield None
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=30)
            try:
                (version,) = connection.execute("PRAGMA user_version").fetchone()
                if version not in (0, SCHEMA):
                    raise sqlite3.DatabaseError(f"schema {version}")
                if write:
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
                yield connection if write or version else None
                connection.commit()
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as e:
            raise InputError(
                f"'{self.path}' is no usable database of tuning records ({e}); delete it, or set "
                "EDGEKIT_CACHE to another folder"
            ) from None

    def put(
        self, device: str, kind: Kind, trials: Iterable[tuple[str, Tile, float | None, str | None]]
    ) -> None:
        """Add (task, tile, cost, error) rows in one transaction; the lesser cost is kept."""
        tools = _tools()
        rows = [(t, tools, device, _text(tile), kind, cost, e) for t, tile, cost, e in trials]
        with self._open(write=True) as db:
            assert db is not None
            db.executemany(
                "INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET kind = excluded.kind, "
                "cost = min(coalesce(cost, excluded.cost), coalesce(excluded.cost, cost)), "
                "error = CASE WHEN excluded.cost IS NULL AND cost IS NULL "
                "THEN excluded.error ELSE NULL END",
                rows,
            )

    def tried(self, task: str, device: str) -> dict[Tile, float | None]:
        """Candidates on record for one device, with their costs (None: it failed)."""
        with self._open() as db:
            if db is None:
                return {}
            found = db.execute(
                "SELECT tile, cost FROM trials WHERE task = ? AND tools = ? AND device = ?",
                (task, _tools(), device),
            ).fetchall()
        return {Tile.from_json(json.loads(t)): c for t, c in found}

    def failures(self, task: str, device: str) -> dict[Tile, str]:
        """Candidates that failed, with the reason."""
        with self._open() as db:
            if db is None:
                return {}
            found = db.execute(
                "SELECT tile, error FROM trials "
                "WHERE task = ? AND tools = ? AND device = ? AND cost IS NULL",
                (task, _tools(), device),
            ).fetchall()
        return {Tile.from_json(json.loads(t)): e for t, e in found}

    def best(self, tasks: Iterable[str], device: str | None = None) -> dict[str, Best]:
        """The fastest candidate of each task; tasks without a record are left out.

        Records of ``device`` come first, then measured ones of others, then simulated ones.
        """
        out: dict[str, Best] = {}
        with self._open() as db:
            if db is None:
                return out
            for task in tasks:
                row = db.execute(
                    "SELECT tile, cost, device, kind FROM trials "
                    "WHERE task = ? AND tools = ? AND cost IS NOT NULL "
                    "ORDER BY device != ?, kind != 'measured', device, cost, tile LIMIT 1",
                    (task, _tools(), device or ""),
                ).fetchone()
                if row:
                    out[task] = Best(Tile.from_json(json.loads(row[0])), *row[1:])
        return out


def _tools() -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(check.tools().items()))


def _text(tile: Tile) -> str:
    return json.dumps(tile.to_json())
