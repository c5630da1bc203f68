"""A plan edited by hand, applied without a search: `sfm-quant calibrate --plan plan.json`.

The fields of a site that can be edited, and the effect:

- `low`, `high`: the range, which must contain 0, is used. `scale` and `zero_point` follow from it, so delete them with
  the edit; if they are kept, they must fit.
- all four deleted: `method` finds the range on the recordings, after removing `clip_percent` of the values.
- `weight_bits`, `input_bits` (2 to 8), `weight_method`; `mid_rise` at a convolution without padding.
- `rounding` deleted: the default of a search is used. At 4 bits and fewer `weight_group` and `weight_asymmetric`
  say how weights share a step; without them there is one per row, and a warning.
- `weight_sparsity`, as 2:4, where the site reads whole blocks; without compensated rounding with a warning.
- `reason`: the site stays in float, whatever else its entry says.

Shares and signal-to-noise ratios are measured again. What an earlier search found about the layers is kept.
Warnings report what an edit costs: a range that loses the signal, a worse score, products that run separately.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...foundation import registry
from ...foundation.errors import InputError
from ...foundation.options import CalibrateOptions, methods, parse_scheme
from ...models.checkpoint.transformers_hook import ENGINE
from ..numerics.integer_grid import unsigned_grid
from ..plan.checking import entry_problem
from ..plan.choice import TRAINED, Choice, InFloat, Quantized, input_choice
from ..plan.plan import Plan
from ..plan.plan_file import Draft, read_draft
from ..plan.site import Site
from ..plan.site_entry import Entry, needed
from ..search.choices import weight_choice
from ..search.session import SearchSession
from ..weight_formats.base import weight_format
from .base import Planner

NOISY = 6.0  # dB: below it a quarter of an input's power is lost, which no search does
WORSE = 1.0  # points by which an edit may change the score of the whole plan without a warning


@dataclass(frozen=True)
class EditedPlan(Planner):
    """A planner that decides nothing: everything is in the plan `wanted`, which was read from `source`."""

    wanted: Draft
    source: str

    def check(self, sites: tuple[Site, ...]) -> None:
        """InputError for the first thing that contradicts itself or the model with these sites."""
        for name, problem in _problems(self.wanted, {site.name: site for site in sites}):
            raise InputError(f"{self.source}: {name}: {problem}")
        bits = {(each.weight_bits, each.input_bits) for each in self.wanted.sites.values() if each.reason is None}
        if not self._mixed and parse_scheme(self.wanted.scheme) not in bits:
            raise InputError(f"{self.source}: no site has the bits of the scheme {self.wanted.scheme}; correct it")

    def plan(self, session: SearchSession) -> Plan:
        """The edited plan, with the measurements on these recordings."""
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
        made = replace(session.plan(choices, self.wanted.layers), scheme=self.wanted.scheme)
        for sentence in (*_unused(wanted, edited), *_remarks(made.quantized(), session.sites)):
            warnings.warn(f"{self.source}: {sentence}", stacklevel=1)
        return made

    def remarks(self, plan: Plan) -> Iterator[str]:
        """A sentence if the plan scores worse than before the edit, on the same recordings."""
        before, after = self.wanted.score.get("whole_model"), plan.score["whole_model"]
        if before is not None and after > before + WORSE and not self._of_other_recordings(plan.calibration):
            yield (
                f"{self.source}: the score of the whole plan is {after:.2f}; before the edit it was {before:.2f} "
                f"({plan.score['unit']})"
            )

    def _of_other_recordings(self, about: Mapping[str, object]) -> bool:
        """Whether the plan was made with other recordings than these, so that the measurements may differ."""
        return self.wanted.calibration.get("audio_sha256") != about["audio_sha256"]

    @property
    def _mixed(self) -> bool:
        """Whether the scheme names an average, as w3.50a8 does."""
        return "." in self.wanted.scheme

    def made_with(self, options: CalibrateOptions) -> CalibrateOptions:
        """The options with those that the plan was made with."""
        scheme = f"w8a{self.wanted.scheme.rpartition('a')[2]}" if self._mixed else self.wanted.scheme
        threshold = self.wanted.score.get("threshold", options.threshold)
        return replace(options, scheme=scheme, method=self.wanted.method, threshold=threshold)


def planner(options: CalibrateOptions) -> Planner:
    return read(needed("plan", options.plan))


def read(path: str) -> EditedPlan:
    """The plan in a file, or in a quantized folder."""
    wanted = read_draft(Path(path))
    if wanted.method not in methods():
        raise InputError(f"{path}: method is {wanted.method!r}; write {_one(methods())}")
    return EditedPlan(wanted, path)


def _problems(plan: Draft, sites: dict[str, Site]) -> Iterator[tuple[str, str]]:
    """(site, what is wrong with it in this plan)"""
    for name in sorted(plan.sites.keys() - sites.keys()):
        yield name, "the model has no such site; correct the name"
    for name, site in sites.items():
        entry = plan.sites.get(name)
        if entry is None:
            yield name, "is not in the plan; add it, with a reason if it should stay in float"
        elif entry.reason is None:
            if problem := _problem(site, entry):
                yield name, problem
        elif not entry.reason.strip():
            yield name, "its reason to stay in float is empty; write one, or delete the field"


def _problem(site: Site, entry: Entry) -> str | None:
    """What is wrong with an entry that quantizes its site."""
    problem = _site_problem(site, entry) or entry_problem(entry) or _sparsity_problem(site, entry)
    problem = problem or _method_problem(entry)
    return problem or ENGINE.refuses(site, _chosen(site, entry, (0.0, 0.0), "nearest"))


def _site_problem(site: Site, entry: Entry) -> str | None:
    if site.reason is not None:
        return f"cannot be quantized ({site.reason}); add a reason"
    if (entry.layer, entry.kind) != (site.layer, site.kind):
        return f"is a {site.kind} of layer {site.layer} in the model, not a {entry.kind} of {entry.layer}"
    return None


def _sparsity_problem(site: Site, entry: Entry) -> str | None:
    sparsity = entry.format.sparsity
    if sparsity is not None and not site.takes(sparsity):
        return f"is grouped, or its {site.in_channels} inputs are no multiple of {sparsity.of}; delete weight_sparsity"
    return None


def _method_problem(entry: Entry) -> str | None:
    ranges, roundings = registry.names("ranges"), registry.names("rounding")
    if entry.low is None and entry.method not in ranges:
        return f"has no range, and {entry.method!r} is not a method; write low and high, or {_one(ranges)}"
    if entry.method not in (None, *ranges):
        return f"method is {entry.method!r}; write {_one(ranges)}, or delete it where low and high are set by hand"
    if entry.weight_method not in ranges:
        return f"weight_method is {entry.weight_method!r}; write {_one(ranges)}"
    if entry.rounding not in (None, TRAINED, *roundings):
        return f"rounding is {entry.rounding!r}; write {_one(roundings)}"
    return None


def _one(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"


def _by_hand(session: SearchSession, site: Site, entry: Entry) -> bool:
    """Whether a range differs from the one that its method finds."""
    if entry.reason is not None or entry.low is None or entry.high is None or entry.method is None:
        return False
    low, high = _found(session, site, entry, entry.method)
    near = 1e-3 * (high - low)  # on another machine the last digits differ
    return abs(min(low, 0.0) - entry.low) > near or abs(max(high, 0.0) - entry.high) > near


def _found(session: SearchSession, site: Site, entry: Entry, method: str) -> tuple[float, float]:
    """The range that a method finds for an entry."""
    grid = unsigned_grid(needed("input_bits", entry.input_bits))
    return session.choices.range(site, method, entry.clip_percent, grid)


def _applied(session: SearchSession, site: Site, entry: Entry, *, by_hand: bool) -> Choice:
    if entry.reason is not None:
        return InFloat(site.layer, site.kind, entry.reason)
    if by_hand:
        entry = replace(entry, method=None, clip_percent=None)
    if entry.low is None or entry.high is None:
        ends = _found(session, site, entry, needed("method", entry.method))
    else:
        ends = entry.low, entry.high
    kept = None if entry.rounding == TRAINED else entry.rounding
    rounding = kept or session.choices.rounding(entry.format)
    return session.choices.measured(_chosen(site, entry, ends, rounding), site.name)


def _chosen(site: Site, entry: Entry, ends: tuple[float, float], rounding: str) -> Quantized:
    """What an entry chooses, with this range and rounding."""
    bits, mid_rise = needed("input_bits", entry.input_bits), bool(entry.mid_rise)
    read = input_choice(*ends, bits, entry.method, entry.clip_percent, mid_rise=mid_rise)
    weight = weight_choice(site, entry.format, needed("weight_method", entry.weight_method), rounding)
    return Quantized(site.layer, site.kind, weight, read)


def _unused(wanted: Mapping[str, Entry], by_hand: list[str]) -> Iterator[str]:
    trained = [name for name, entry in wanted.items() if entry.rounding == TRAINED]
    if trained:
        yield (
            f"its weights were trained ({_some(trained)}), and are now rounded again from the float model; to keep "
            "what they learned, use `sfm-quant tune --from`"
        )
    if by_hand:
        yield (
            f"these ranges were edited, so their method is ignored ({_some(by_hand)}: {wanted[by_hand[0]].method}); "
            "to let the method choose again, delete low, high, scale and zero_point"
        )


def _remarks(choices: Mapping[str, Quantized], sites: tuple[Site, ...]) -> Iterator[str]:
    """What the choices cost, a sentence each."""
    yield from _coarse(choices)
    yield from _pruned(choices)
    yield from _noisy(choices)
    yield from _apart(choices, sites)


def _coarse(choices: Mapping[str, Quantized]) -> Iterator[str]:
    """Warn of 8-bit entries edited to fewer bits that keep the rounding and groups that only suit 8 bits."""
    weights = {name: choice.weight for name, choice in choices.items() if choice.weight.format.coarse}
    coarse = [
        name
        for name, weight in weights.items()
        if weight.rounding == "nearest" and weight.format == weight_format(weight.format.bits)
    ]
    if coarse:
        yield (
            f"low-bit weights ({_some(coarse)}) are rounded to nearest, with one step for a row, which loses words; "
            'a search would set "weight_group": 64, "weight_asymmetric": true and "rounding": "compensated"'
        )


def _pruned(choices: Mapping[str, Quantized]) -> Iterator[str]:
    """Warn of weights that become zero by their magnitude alone."""
    weights = {name: choice.weight for name, choice in choices.items() if choice.weight.format.sparsity is not None}
    alone = [name for name, weight in weights.items() if weight.rounding == "nearest"]
    if alone:
        yield (
            f"weights with weight_sparsity ({_some(alone)}) are rounded to nearest, so that nothing makes up for "
            'those that become zero, which loses words; a search would set "rounding": "compensated"'
        )


def _noisy(choices: Mapping[str, Quantized]) -> Iterator[str]:
    measured = {name: choice.measured for name, choice in choices.items()}
    noisy = [name for name, m in measured.items() if m.input_sqnr_db is not None and m.input_sqnr_db < NOISY]
    if noisy:
        first = measured[noisy[0]]
        yield (
            f"some ranges do not fit the inputs ({_some(noisy)}: {100 * (first.clipped_share or 0):.0f} % of the "
            f"values are outside, the signal is {first.input_sqnr_db:.1f} dB above the noise), which loses words; "
            "delete low, high, scale and zero_point to let the method find the range"
        )


def _apart(choices: Mapping[str, Quantized], sites: tuple[Site, ...]) -> Iterator[str]:
    """Sites with one input and several scales for it."""
    inputs: dict[str, set[tuple[float, ...]]] = {}
    names: dict[str, list[str]] = {}
    for site in sites:
        read = choices[site.name].input if site.name in choices else None
        if site.reads and read is not None:
            inputs.setdefault(site.reads, set()).add((read.bits, read.scale, read.exact_zero))
            names.setdefault(site.reads, []).append(site.name.rpartition(".")[2])
    apart = [key for key, scales in inputs.items() if len(scales) > 1]
    if apart:
        yield (
            f"{', '.join(sorted(names[apart[0]]))} share an input but have different ranges for it ({_some(apart)}), "
            "so their products run separately, which takes longer; use the same range"
        )


def _some(names: list[str]) -> str:
    return f"{len(names)}: {names[0]}" + (", ..." if len(names) > 1 else "")
