"""What is decided for one site, and for one layer."""

from __future__ import annotations

from dataclasses import dataclass

from ..numerics.integer_grid import Grid, affine, unsigned_grid
from ..numerics.weight_grid import WeightFormat


@dataclass(frozen=True)
class InFloat:
    """A site that is left as it is."""

    layer: str
    kind: str
    reason: str


@dataclass(frozen=True)
class WeightChoice:
    """How the weight of a site is quantized."""

    format: WeightFormat
    method: str  # range method, per output channel
    rounding: str
    count: int  # of its weights
    bytes: int  # on disk, all scales counted


@dataclass(frozen=True)
class InputChoice:
    """The grid of what a site reads."""

    bits: int
    method: str | None  # range method; None: the range was set by hand
    clip_percent: float | None  # share that the percentile search removed before, in %; None: there was none
    low: float
    high: float
    scale: float
    zero_point: int
    mid_rise: bool = False  # zero lies half a step below the code `zero_point`, between two codes

    @property
    def grid(self) -> Grid:
        return unsigned_grid(self.bits)

    @property
    def exact_zero(self) -> float:
        """Where zero lies among the codes."""
        return self.zero_point - (0.5 if self.mid_rise else 0.0)


@dataclass(frozen=True)
class Measured:
    """The evidence; None: not measured, or a ratio without a value (nothing but zeros)."""

    weight_sqnr_db: float | None = None
    clipped_share: float | None = None  # share of the calibration values outside [low, high]
    input_sqnr_db: float | None = None
    probe_score: float | None = None  # of its layer, quantized alone


@dataclass(frozen=True)
class Quantized:
    """A site on integer grids."""

    layer: str
    kind: str
    weight: WeightChoice
    input: InputChoice | None  # None: the weight only, its inputs stay in float
    measured: Measured = Measured()

    @property
    def stored_as(self) -> str:
        """The format of the codes on disk and the bits of the input, as config.json has them: w8a8, w4g64za8."""
        return f"{self.weight.format.stored}" + ("" if self.input is None else f"a{self.input.bits}")


Choice = InFloat | Quantized
TRAINED = "trained"  # the rounding of weights that `sfm-quant tune` has changed


@dataclass(frozen=True)
class LayerChoice:
    """What the probe found for one layer, and what the search chose."""

    selected: bool
    why: str
    probe_score: float | None = None
    clip_percent: float | None = None
    candidates: tuple[tuple[float, float], ...] = ()  # (removed share in %, score) in the order tried


def input_choice(
    low: float,
    high: float,
    bits: int,
    method: str | None,
    clip_percent: float | None = None,
    *,
    mid_rise: bool = False,
) -> InputChoice:
    """The grid that covers a range and 0."""
    low, high = min(0.0, low), max(0.0, high)
    return InputChoice(bits, method, clip_percent, low, high, *affine(low, high, unsigned_grid(bits)), mid_rise)
