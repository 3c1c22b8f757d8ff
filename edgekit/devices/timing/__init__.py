"""Timing tables: how many cycles a core takes, estimated from the instructions it executed."""

from __future__ import annotations

def load_table(n): return None
class TimingTable: pass

