"""What is decided for one site, and for one layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..numerics.activation_grid import Grid, signed_grid, unsigned_grid
from ..numerics.weight_grid import WeightFormat


@dataclass(frozen=True)
class Choice:
    """What is done at one site. A site with `reason` stays in float and has no other field but its layer and kind."""

    layer: str
    kind: str
    reason: str | None = None
    weight_bits: int | None = None
    weight_group: int | None = None  # weights that share a step, in bits of 4 and fewer; None: the whole row
    weight_asymmetric: bool | None = None  # groups have offsets of their own
    weight_count: int | None = None
    weight_bytes: int | None = None  # on disk, all scales counted
    weight_method: str | None = None  # range method of the weights, per output channel
    weight_sqnr_db: float | None = None
    rounding: str | None = None
    input_bits: int | None = None
    method: str | None = None  # range method of the input
    clip_percent: float | None = None  # share that the percentile search removed before, in %
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    mid_rise: bool | None = None  # zero lies half a step below the code `zero_point`, between two codes
    clipped_share: float | None = None  # share of the calibration values outside [low, high]
    input_sqnr_db: float | None = None
    probe_score: float | None = None  # of its layer, quantized alone

    @property
    def quantized(self) -> bool:
        return self.reason is None

    @property
    def weight_grid(self) -> Grid:
        return signed_grid(_known(self.weight_bits))

    @property
    def weight_format(self) -> WeightFormat:
        return WeightFormat(_known(self.weight_bits), self.weight_group, bool(self.weight_asymmetric))

    @property
    def stored_as(self) -> str:
        """The format of the codes on disk and the bits of the input, as config.json has them: w8a8, w4g64za8."""
        return f"{self.weight_format if self.weight_format.dense else WeightFormat(8)}a{self.input_bits}"

    @property
    def input_grid(self) -> Grid:
        return unsigned_grid(_known(self.input_bits))

    @property
    def input_scale(self) -> float:
        return _known(self.scale)

    @property
    def input_zero_point(self) -> float:
        return _known(self.zero_point) - (0.5 if self.mid_rise else 0.0)


@dataclass(frozen=True)
class LayerChoice:
    """What the probe found for one layer and what the search chose."""

    selected: bool
    why: str
    probe_score: float | None = None
    clip_percent: float | None = None
    candidates: tuple[tuple[float, float], ...] = ()  # (removed share in %, score) in the order tried


def to_entry(choice: Choice) -> dict[str, Any]:
    """A choice as JSON shows it."""
    return said(asdict(choice))


def said(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of an entry that say something."""
    return {key: value for key, value in entry.items() if value is not None and not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return isinstance(value, tuple) and not value


def _known(value: Any) -> Any:
    if value is None:
        raise ValueError("this site stays in float")
    return value
