"""Files <-> Graph, one module a format, found through the table in :mod:`edgekit.formats.base`."""

from edgekit.formats.base import InputShapes, load, save

__all__ = ["InputShapes", "load", "save"]
