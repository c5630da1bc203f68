"""Mixed precision: 8, 4, 3 or 2 bits for each weight, under a limit on the bytes of all.

1. Ranges of the inputs by the method (stable.py, uniform.py), with 8-bit weights.
2. Sensitivity: the score of each weight alone at each width, rounded as in the final plan, with every input in float.
3. Allocation: the widths with the least sum of scores whose bytes, scales counted, stay under the limit. This is a
   multiple-choice knapsack, small enough for an exact integer program (HiGHS through scipy).
4. Check: scores of single weights do not add up exactly: many small losses weigh more or less than one large one. So
   the program is also solved for other powers of the scores, and with a minimum width for all (at the bytes of a
   uniform plan, this is the uniform plan); the plan with the best score as a whole is used.

With a limit on the word error rate, the limit on bytes is searched, on recordings that nothing else has used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from ...foundation.errors import InputError
from ...foundation.files import c_output_on_stderr
from ...foundation.options import CalibrateOptions
from ..numerics.weight_grid import QTensor, StoredWeight
from ..plan.choice import Quantized
from ..plan.plan import Plan
from ..plan.site import Site
from ..search.scores import Trial
from ..search.session import SearchSession
from .base import Planner, make_planner

WIDTHS = (8, 4, 3, 2)
POWERS = (1.0, 2.0, 0.5)
PASSES = 12.0  # float passes over the probe recordings for the sensitivities
FEWEST_ERRORS = 5  # that a bound on the word error rate should allow in the words it is checked on
STEPS = 5  # halvings of the limit, for a bound on the word error rate

Loss = dict[str, dict[int, float]]  # site -> bits -> score


@dataclass(frozen=True)
class Mixed(Planner):
    """The plan with the best score under the limit that the options set, on the ranges of another planner."""

    ranges: Planner

    def plan(self, session: SearchSession) -> Plan:
        _refuse_out_of_reach(session)
        wide = self.ranges.plan(session)
        bound = session.options.max_wer_increase
        limit = _limit(session, wide) if bound is None else 0.0  # raises at once if it is out of reach
        rounded = Rounded(session, wide)
        lost = sensitivity(session, rounded)
        if bound is not None:
            return _smallest(session, wide, rounded, lost, bound)
        return allocate(session, wide, rounded, lost, limit)


def planner(options: CalibrateOptions) -> Planner:
    return Mixed(make_planner(options.range_planner(), options))


class Rounded:
    """The weights of every site at every width, for trials; those that lose words are rounded as in the plan."""

    def __init__(self, session: SearchSession, base: Plan) -> None:
        choices = base.quantized()
        sites = [site for site in session.sites if site.name in choices]
        widths = {site.name: [b for b in WIDTHS if session.choices.format(site, b).coarse] for site in sites}
        self.choices = {
            (site.name, bits): replace(choices[site.name], weight=session.choices.weight(site, bits, "mse"))
            for site in sites
            for bits in widths[site.name]
        }
        found = session.rounder.round_alone({name: [self.choices[name, b] for b in of] for name, of in widths.items()})
        self._stored = {
            (name, bits): weight
            for name, weights in found.items()
            for bits, weight in zip(widths[name], weights, strict=True)
        }
        self._session = session

    def weights(self, choices: Mapping[str, Quantized]) -> Mapping[str, QTensor]:
        """The weights of these choices, each expanded when it is asked for."""
        wide = {name: choice for name, choice in choices.items() if not choice.weight.format.coarse}
        rest = {name: choice.weight.format.bits for name, choice in choices.items() if name not in wide}
        narrow = {name: self._stored[name, bits] for name, bits in rest.items()}
        return _Expanding({**self._session.trials.weights(wide), **narrow})


class _Expanding(Mapping[str, QTensor]):
    def __init__(self, weights: Mapping[str, QTensor | StoredWeight]) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> QTensor:
        weight = self._weights[name]
        return weight.expand() if isinstance(weight, StoredWeight) else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def sensitivity(session: SearchSession, rounded: Rounded) -> Loss:
    """Step 2, on as many of the probe recordings as PASSES allows; 8 bits without zeros count as free."""
    trials = {key: _trial(rounded, *key) for key in rounded.choices}
    cost = sum(session.passes.suffix(trial.first) for trial in trials.values())
    scores = session.trials.run("sensitivity", list(trials.values()), min(1.0, PASSES / cost))
    lost: Loss = {name: {} if (name, WIDTHS[0]) in trials else {WIDTHS[0]: 0.0} for name, _ in trials}
    for (name, bits), trial in trials.items():
        lost[name][bits] = max([scores[trial.key], *lost[name].values()])  # fewer bits are not better, but for noise
    return lost


def allocate(session: SearchSession, base: Plan, rounded: Rounded, lost: Loss, limit: float) -> Plan:
    """Steps 3 and 4: the plan whose weights take at most `limit` bytes; InputError when none does."""
    sizes = {site.name: _bytes(session, site) for site in session.sites if site.name in lost}
    least = [bits for bits in WIDTHS if sum(of_site[bits] for of_site in sizes.values()) <= limit]
    programs = [(power, WIDTHS[-1]) for power in POWERS] + [(1.0, bits) for bits in least]
    found = {str(bits): bits for power, floor in programs for bits in [knapsack(lost, sizes, limit, power, floor)]}
    plans = [_with_bits(session, base, bits) for bits in found.values()]
    trials = [
        Trial(f"mixed {n}", session.layers[0], each.quantized(), rounded.weights(each.quantized()))
        for n, each in enumerate(plans)
    ]
    scores = session.trials.run(f"mixed {limit:.0f}", trials) if len(plans) > 1 else {trials[0].key: 0.0}
    return plans[min(range(len(plans)), key=lambda n: scores[trials[n].key])]


def knapsack(
    lost: Loss, sizes: Mapping[str, Mapping[int, int]], limit: float, power: float, floor: int = WIDTHS[-1]
) -> dict[str, int]:
    """Bits of each site, `floor` or more, with the least sum of `lost` ** power, in at most `limit` bytes: exact."""
    _check(limit, sum(min(size for bits, size in of_site.items() if bits >= floor) for of_site in sizes.values()))
    choices = [(name, bits) for name in sizes for bits in WIDTHS if bits >= floor]
    cost = np.array([lost[name][bits] ** power for name, bits in choices])
    size = np.array([sizes[name][bits] for name, bits in choices], float)
    one_each = np.array([[float(name == of) for name, _ in choices] for of in sizes])
    with c_output_on_stderr():
        solved = milp(
            cost / max(1e-30, cost.max()),
            integrality=np.ones(len(choices)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(one_each, 1, 1), LinearConstraint(size[None] / limit, -np.inf, 1.0)],
        )
    if not solved.success:
        raise RuntimeError(f"the integer program was not solved: {solved.message}")
    return {name: bits for (name, bits), taken in zip(choices, solved.x, strict=True) if taken > 0.5}


def _limit(session: SearchSession, base: Plan) -> float:
    """Bytes that the weights of all quantized sites may take; InputError if that is less than they need."""
    options = session.options
    narrow = _with_bits(session, base, dict.fromkeys(base.quantized(), WIDTHS[-1]))
    if options.avg_bits is not None:
        limit = options.avg_bits / 8 * sum(choice.weight.count for choice in base.quantized().values())
    else:
        assert options.target_compression is not None
        rest = session.bytes_written(narrow) - _weight_bytes(narrow)
        limit = session.recognizer.float32_bytes / options.target_compression - rest
    _check(limit, _weight_bytes(narrow))
    return limit


def _refuse_out_of_reach(session: SearchSession) -> None:
    """InputError, before the search for ranges, when the fewest bits everywhere do not keep the limit."""
    options, sites = session.options, [site for site in session.sites if site.reason is None]
    found = [session.choices.weight(site, WIDTHS[-1], "mse") for site in sites]
    least, count = sum(each.bytes for each in found), sum(each.count for each in found)
    bits = 8 * least / max(1, count)
    if options.avg_bits is not None and bits > options.avg_bits:
        raise InputError(
            f"--avg-bits {options.avg_bits:g} is out of reach: {WIDTHS[-1]} bits everywhere are {bits:.2f} with "
            "scales; use a larger value"
        )
    rest = session.recognizer.float32_bytes - 4 * count
    most = session.recognizer.float32_bytes / (max(0, rest) + least)
    if options.target_compression is not None and most < options.target_compression:
        raise InputError(
            f"--target-compression {options.target_compression:g} is out of reach: with {WIDTHS[-1]} bits everywhere "
            f"this model is about {most:.2f} times smaller; use a smaller value"
        )


def _check(limit: float, needed: int) -> None:
    if needed > limit:
        left = f"{limit:,.0f}" if limit > 0 else "none"
        raise InputError(
            f"the weights need {needed:,} bytes at the fewest bits, but the limit leaves {left} after the parts in "
            "float; allow more"
        )


def _smallest(session: SearchSession, base: Plan, rounded: Rounded, lost: Loss, bound: float) -> Plan:
    """The smallest plan found whose word error rate on held-out recordings rises by no more than `bound` points."""
    narrow, wide = (_with_bits(session, base, dict.fromkeys(lost, bits)) for bits in (WIDTHS[-1], WIDTHS[0]))
    low, high = _weight_bytes(narrow), _weight_bytes(wide)
    best, increase = base, _increase(session, base)
    for _ in range(STEPS):
        middle = int((low * high) ** 0.5)
        tried = allocate(session, base, rounded, lost, middle)
        points = _increase(session, tried)
        if points <= bound:
            best, increase, high = tried, points, middle
        else:
            low = middle
    return _promised(session, best, bound, increase)


def _trial(rounded: Rounded, name: str, bits: int) -> Trial:
    choice = replace(rounded.choices[name, bits], input=None)
    return Trial(f"{name} w{bits}", choice.layer, {name: choice}, rounded.weights({name: choice}))


def _with_bits(session: SearchSession, base: Plan, bits: Mapping[str, int]) -> Plan:
    sites, choices = {site.name: site for site in session.sites}, base.quantized()
    changed = {
        name: replace(choice, weight=session.choices.weight(sites[name], bits[name], choice.weight.method))
        for name, choice in choices.items()
    }
    made = replace(base, sites={**base.sites, **changed})
    return replace(made, scheme=f"w{made.average_bits():.2f}a{session.choices.input_bits}")


def _bytes(session: SearchSession, site: Site) -> dict[int, int]:
    """Bytes of the weight of a site at each width."""
    return {bits: session.choices.weight(site, bits, "mse").bytes for bits in WIDTHS}


def _weight_bytes(plan: Plan) -> int:
    return sum(choice.weight.bytes for choice in plan.quantized().values())


def _increase(session: SearchSession, plan: Plan) -> float:
    """Points of word error rate that a plan loses on the held-out recordings."""
    _, weights = session.rounder.round(plan)
    return session.trials.held_out_increase(plan, weights)


def _promised(session: SearchSession, plan: Plan, bound: float, increase: float) -> Plan:
    """The plan with the loss on held-out words; a warning if they are too few to check the limit."""
    words = sum(len((each.text or "").split()) for each in session.trials.held_out)
    if increase > bound:
        warnings.warn(
            f"no model loses {bound:g} points or less on the held-out recordings; this one, at 8 bits, loses "
            f"{increase:.2f}",
            stacklevel=1,
        )
    if words * bound < 100 * FEWEST_ERRORS:
        warnings.warn(
            f"the held-out set is too small to check a {bound:g}-point limit ({words} words in "
            f"{len(session.trials.held_out)} recordings, so one word is {100 / max(1, words):.2g} points); add more",
            stacklevel=1,
        )
    held_out = {"recordings": len(session.trials.held_out), "words": words, "wer_increase": round(increase, 4)}
    return replace(plan, calibration={**plan.calibration, "held_out": held_out})
