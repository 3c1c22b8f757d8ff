"""What people look at: one self-contained HTML page about an artifact and its results."""

from __future__ import annotations

from edgekit.report.page import render, write_report

__all__ = ["render", "write_report"]
