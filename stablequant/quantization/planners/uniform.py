"""One range method for every layer: what other tools do, and the baseline for the mix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..plan.plan import Plan

if TYPE_CHECKING:
    from ..search.session import Calibration


def plan(calibration: Calibration) -> Plan:
    """A plan that uses the calibration's `method` everywhere."""
    return calibration.plan({site.name: calibration.choose(site, calibration.method) for site in calibration.sites})
