"""Timing tables: how many cycles a core takes, estimated from the instructions it executed."""

from __future__ import annotations

from edgekit.devices.timing.model import BlockCost, TimingTable, load_table, table_names

__all__ = ["BlockCost", "TimingTable", "load_table", "table_names"]
