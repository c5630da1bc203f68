"""A plan edited by hand, applied without a search: `sfm-quant calibrate --plan plan.json`.

What may be edited at a site, and what follows from it:

- `low`, `high`: the range, which holds 0, decides. `scale` and `zero_point` follow from it, so delete them with the
  edit; what is left of them has to fit.
- all four deleted: `method` finds the range on the recordings, on what is left after removing `clip_percent`.
- `weight_bits`, `input_bits` (2 to 8), `weight_method`; `mid_rise` at a convolution without padding.
- `rounding` deleted: the one that the bits get in a search. At 4 bits and fewer `weight_group` and `weight_asymmetric`
  say how weights share a step; without them it is one for a row, which is told.
- `reason`: the site stays in float, whatever else its entry says.

Shares and signal-to-noise ratios are measured again. What an earlier search found about the layers is kept as it is.
What an edit costs (a range that loses the signal, a score that got worse, products that run apart) is told.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...engines import onednn
from ...foundation import registry
from ...foundation.errors import InputError
from ...foundation.options import methods, parse_scheme
from ..numerics.weight_grid import DENSE_BITS
from ..plan.checking import choice_problem
from ..plan.choice import Choice
from ..plan.plan import Plan, read_plan
from ..plan.site import Site
from ..search.session import SearchSession

NOISY = 6.0  # dB: below it a quarter of an input's power is lost, which no search does
WORSE = 1.0  # points by which an edit may change the score of the whole plan without being told


@dataclass(frozen=True)
class EditedPlan:
    """A planner that decides nothing: everything is in `wanted`, which was read from `source`."""

    wanted: Plan
    source: str

    def check(self, sites: tuple[Site, ...]) -> None:
        """InputError for the first thing that contradicts itself or the model with these sites."""
        for name, problem in _problems(self.wanted, {site.name: site for site in sites}):
            raise InputError(f"{self.source}: {name}: {problem}")
        bits = {(choice.weight_bits, choice.input_bits) for choice in self.wanted.quantized().values()}
        if not self._mixed and parse_scheme(self.wanted.scheme) not in bits:
            raise InputError(f"{self.source}: no site has the bits of the scheme {self.wanted.scheme}; correct it")

    def plan(self, session: SearchSession) -> Plan:
        """The given plan for a calibrated model, with what was measured on its recordings."""
        self.check(session.sites)
        wanted = self.wanted.sites
        if self._of_other_recordings(session.about):
            edited: list[str] = []
        else:
            edited = [site.name for site in session.sites if _by_hand(session, site, wanted[site.name])]
        choices = {
            site.name: _applied(session, site, wanted[site.name], by_hand=site.name in edited)
            for site in session.sites
        }
        for sentence in (
            *_unused(wanted, edited),
            *_coarse(choices),
            *_noisy(choices),
            *_apart(choices, session.sites),
        ):
            warnings.warn(f"{self.source}: {sentence}", stacklevel=1)
        return replace(session.plan(choices, self.wanted.layers), scheme=self.wanted.scheme)

    def remarks(self, plan: Plan) -> Iterator[str]:
        """A sentence where the plan as applied scores worse than it did before the edit, on the same recordings."""
        before, after = self.wanted.score.get("whole_model"), plan.score["whole_model"]
        if before is not None and after > before + WORSE and not self._of_other_recordings(plan.calibration):
            yield (
                f"{self.source}: the whole plan has a score of {after:.2f}, and had {before:.2f} before it was edited "
                f"({plan.score['unit']})"
            )

    def _of_other_recordings(self, about: Mapping[str, Any]) -> bool:
        """Whether the plan was found on other recordings than it is applied on: then what both found may differ."""
        return self.wanted.calibration.get("audio_sha256") != about["audio_sha256"]

    @property
    def _mixed(self) -> bool:
        """Whether the scheme names an average, as w3.50a8 does."""
        return "." in self.wanted.scheme

    @property
    def scheme(self) -> str:
        """The scheme that a calibration starts from."""
        return f"w8a{self.wanted.scheme.rpartition('a')[2]}" if self._mixed else self.wanted.scheme


def read(path: str) -> EditedPlan:
    """The plan in a file, or in a quantized folder."""
    wanted = read_plan(Path(path))
    if wanted.method not in methods():
        raise InputError(f"{path}: method is {wanted.method!r}; give {_one(methods())}")
    return EditedPlan(wanted, path)


def _problems(plan: Plan, sites: dict[str, Site]) -> Iterator[tuple[str, str]]:
    """(site, what is wrong with it in this plan)"""
    for name in sorted(plan.sites.keys() - sites.keys()):
        yield name, "the model has no such site; correct the name"
    for name, site in sites.items():
        choice = plan.sites.get(name)
        if choice is None:
            yield name, "is not in the plan; add it, with a reason when it shall stay in float"
        elif not choice.quantized and not str(choice.reason).strip():
            yield name, "its reason to stay in float is empty; give one, or delete it"
        elif choice.quantized:
            problem = _site_problem(site, choice) or choice_problem(choice) or _method_problem(choice)
            if problem:
                yield name, problem


def _site_problem(site: Site, choice: Choice) -> str | None:
    if site.reason is not None:
        return f"cannot be quantized ({site.reason}); give it a reason"
    if (choice.layer, choice.kind) != (site.layer, site.kind):
        return f"is a {site.kind} of layer {site.layer} in the model, not a {choice.kind} of {choice.layer}"
    return onednn.refuses(site, choice)


def _method_problem(choice: Choice) -> str | None:
    ranges, roundings = registry.names("ranges"), registry.names("rounding")
    if choice.low is None and choice.method not in ranges:
        return f"no range, and no method {choice.method!r} that would find one; give low and high, or {_one(ranges)}"
    if choice.method not in (None, *ranges):
        return f"method is {choice.method!r}; give {_one(ranges)}, or delete it beside a range by hand"
    if choice.weight_method not in ranges:
        return f"weight_method is {choice.weight_method!r}; give {_one(ranges)}"
    if choice.rounding not in (None, *roundings):
        return f"rounding is {choice.rounding!r}; give {_one(roundings)}"
    return None


def _one(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"


def _by_hand(session: SearchSession, site: Site, choice: Choice) -> bool:
    """Whether a range is another than the method beside it finds."""
    if not choice.quantized or choice.low is None or choice.high is None or choice.method is None:
        return False
    low, high = session.choices.range(site, choice.method, choice.clip_percent, choice.input_grid)
    near = 1e-3 * (high - low)  # of another machine the last digits differ
    return abs(min(low, 0.0) - choice.low) > near or abs(max(high, 0.0) - choice.high) > near


def _applied(session: SearchSession, site: Site, choice: Choice, *, by_hand: bool) -> Choice:
    if not choice.quantized:
        return Choice(site.layer, site.kind, choice.reason)
    if by_hand:
        choice = replace(choice, method=None, clip_percent=None)
    if choice.low is None:
        low, high = session.choices.range(site, str(choice.method), choice.clip_percent, choice.input_grid)
        choice = replace(choice, low=low, high=high)
    if choice.rounding is None:
        choice = replace(choice, rounding=session.choices.rounding(int(choice.weight_bits or 0)))
    return session.choices.measured(choice, site.name)


def _unused(wanted: Mapping[str, Choice], by_hand: list[str]) -> Iterator[str]:
    if by_hand:
        yield (
            f"ranges that the method beside them does not find ({_some(by_hand)}: {wanted[by_hand[0]].method}) are "
            "taken as they are, and the method is left out; delete low, high, scale and zero_point to have it applied"
        )


def _coarse(choices: Mapping[str, Choice]) -> Iterator[str]:
    """An 8-bit entry edited to fewer bits keeps the rounding and the one step a row that do for 8 bits only."""
    coarse = [
        name
        for name, choice in choices.items()
        if choice.quantized
        and choice.weight_format.dense
        and (choice.rounding, choice.weight_group, choice.weight_asymmetric) == ("nearest", None, None)
    ]
    if coarse:
        yield (
            f"sites of {DENSE_BITS} bits and fewer ({_some(coarse)}) are rounded to nearest, with one step for a "
            'row, which loses words; a search would give them "weight_group": 64, "weight_asymmetric": true and '
            '"rounding": "compensated"'
        )


def _noisy(choices: Mapping[str, Choice]) -> Iterator[str]:
    noisy = [name for name, c in choices.items() if c.input_sqnr_db is not None and c.input_sqnr_db < NOISY]
    if noisy:
        first = choices[noisy[0]]
        yield (
            f"ranges that do not fit what the sites read ({_some(noisy)}: {100 * (first.clipped_share or 0):.0f} % of "
            f"the values are outside, the signal is {first.input_sqnr_db:.1f} dB above the noise) lose words; "
            "delete low, high, scale and zero_point to have the range found"
        )


def _apart(choices: Mapping[str, Choice], sites: tuple[Site, ...]) -> Iterator[str]:
    """Sites with one input and several scales for it."""
    inputs: dict[str, set[tuple[float | None, ...]]] = {}
    names: dict[str, list[str]] = {}
    for site in sites:
        choice = choices[site.name]
        if site.reads and choice.quantized:
            inputs.setdefault(site.reads, set()).add((choice.input_bits, choice.scale, choice.input_zero_point))
            names.setdefault(site.reads, []).append(site.name.rpartition(".")[2])
    apart = [key for key, scales in inputs.items() if len(scales) > 1]
    if apart:
        yield (
            f"{', '.join(sorted(names[apart[0]]))} have one input and different ranges for it ({_some(apart)}), so "
            "their products run apart, which takes longer; give them the same"
        )


def _some(names: list[str]) -> str:
    return f"{len(names)}: {names[0]}" + (", ..." if len(names) > 1 else "")
