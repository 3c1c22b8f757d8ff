"""Imports every generator module that is there, so that ``opgen.CASES`` is complete."""

from __future__ import annotations

import importlib
import importlib.util

for _name in ("opgen_movement",):
    if importlib.util.find_spec(_name) is not None:
        importlib.import_module(_name)
