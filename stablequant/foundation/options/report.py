"""The options of the report that `inspect --html` writes."""

from __future__ import annotations

from dataclasses import dataclass

from .fields import Options, option_field, path_field


@dataclass(frozen=True)
class ReportOptions(Options):
    """What `sfm-quant inspect` takes for its report."""

    folder: str = path_field("", argument=True, metavar="DIR")
    result: str | None = path_field("For the report: the file from `sfm-quant eval --json`.", None, metavar="FILE")
    predictions: str | None = path_field(
        "For the report: the file from `sfm-quant eval --predictions`.", None, metavar="FILE"
    )
    timing: bool = option_field("For the report: measure where the time goes.", True, flag="--time/--no-time")
