"""One range method for every layer: what other tools do, and the baseline for the mix."""

from __future__ import annotations

from ..plan.plan import Plan
from ..search.session import SearchSession


def plan(session: SearchSession) -> Plan:
    """A plan that uses the calibration's `method` everywhere."""
    return session.plan({site.name: session.choices.choose(site, session.options.method) for site in session.sites})
