"""Planners: one file each, which chooses for the whole model; base.py has the protocol.

planner(options) -> Planner
"""

SHARED = ("base",)
