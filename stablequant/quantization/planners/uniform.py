"""One range method for every layer: what other tools do, and the baseline for the mix."""

from __future__ import annotations

from ...foundation.options import CalibrateOptions
from ..plan.plan import Plan
from ..search.session import SearchSession
from .base import Planner


class Uniform(Planner):
    """The calibration's `method` everywhere."""

    def plan(self, session: SearchSession) -> Plan:
        method = session.options.method
        return session.plan({site.name: session.choices.choose(site, method) for site in session.sites})


def planner(options: CalibrateOptions) -> Planner:
    return Uniform()
