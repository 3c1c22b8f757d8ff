"""Closing the loop: candidates are proposed, predicted, repaired, compiled and measured on the device, and
what was measured decides what is proposed next.

``space`` (points and recipes), ``metrics`` (budgets, objectives), ``costs`` (prices before measuring),
``strategies/`` (what to try next), ``halving`` (what is trained), ``evaluate`` and ``worker`` (what a
trial is), ``executors`` and ``ray_`` (where it runs), ``ledger`` and ``folder`` (what is kept), ``loop``,
``study`` and ``winner``.
"""
