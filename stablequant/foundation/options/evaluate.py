"""The options of `eval`; files for its results are options of the command line alone (cli/outputs.py)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .fields import (
    Options,
    beam_size_field,
    data_field,
    flag,
    language_field,
    limit_field,
    max_samples_field,
    model_field,
    no_fallback_field,
    option_field,
    path_field,
    seed_field,
    skip_bad_field,
    target_lang_field,
    task_field,
)

NORMALIZERS = ("none", "basic", "english")


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What `sfm-quant eval` takes."""

    model: str = model_field()
    data: str = data_field()
    baseline: str | None = path_field("Model to compare with, usually the float model.", None, metavar="MODEL")
    max_wer_increase: float | None = limit_field("Fail if WER rises by more.", "POINTS")
    min_speedup: float | None = limit_field("Fail if the speed-up is lower.", "RATIO")
    min_compression: float | None = limit_field(
        "Fail if the model's files are not this many times smaller than the baseline's.", "RATIO"
    )
    max_looping: int | None = option_field(
        "Fail if more than N outputs loop (repeat themselves) beyond those of the baseline.",
        None,
        metavar="N",
        least=0,
    )
    threads: int | None = option_field(
        "Threads for every model.  [default: torch's choice]", None, metavar="N", least=1
    )
    max_samples: int | None = max_samples_field()
    normalize: str = option_field(
        "How transcripts are normalized before comparing; basic and english are Whisper's normalizers.",
        "none",
        one_of=NORMALIZERS,
    )
    seed: int = seed_field()
    others: tuple[str, ...] = path_field("", (), argument=True, metavar="[MODEL]...")  # held to the same limits
    skip_bad: bool = skip_bad_field()
    target_lang: str | None = target_lang_field()
    language: str | None = language_field()
    task: str = task_field()
    beam_size: int = beam_size_field()
    no_fallback: bool = no_fallback_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_wer_increase", "min_speedup", "min_compression", "max_looping"):
            if getattr(self, name) is not None and self.baseline is None:
                raise InputError(f"{flag(name)} needs a model to compare with; add --baseline MODEL")
