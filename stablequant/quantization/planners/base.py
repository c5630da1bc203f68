"""The protocol of a planner: it chooses for a whole model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ...foundation import registry
from ...foundation.options import CalibrateOptions
from ..plan.plan import Plan
from ..plan.site import Site
from ..search.session import SearchSession


class Planner(Protocol):
    """What `planner(options)` of a file in this folder returns; a subclass needs `plan` only."""

    def check(self, sites: tuple[Site, ...]) -> None:
        """InputError, before any recording is read, if there can be no plan for a model with these sites."""
        return

    def plan(self, session: SearchSession) -> Plan:
        """The plan for a model whose inputs have been observed."""

    def remarks(self, plan: Plan) -> Iterable[str]:
        """What should be known about the plan with its score, a sentence each."""
        return ()


def make_planner(name: str, options: CalibrateOptions) -> Planner:
    """The planner of a file in this folder."""
    made: Planner = registry.get("planners", name).planner(options)
    return made
