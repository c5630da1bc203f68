"""The options of the commands that use models: `eval`, `transcribe` and the report of `inspect`."""

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

FORMATS = ("txt", "json", "srt", "vtt")
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


@dataclass(frozen=True)
class TranscribeOptions(Options):
    """What `sfm-quant transcribe` takes."""

    model: str = model_field()
    recordings: tuple[str, ...] = path_field("", argument=True, metavar="AUDIO...")
    as_json: bool = option_field("The same as --format json.", False, flag="--json")
    format: str = option_field(
        "txt: path, tab, text; json: a line of JSON (audio_filepath, duration, text); srt, vtt: subtitles of one "
        "recording.",
        "txt",
        one_of=FORMATS,
    )
    words: bool = option_field("Add the start and end of each word, in seconds, to the JSON.", False)
    target_lang: str | None = target_lang_field()
    language: str | None = language_field()
    task: str = task_field()
    beam_size: int = beam_size_field()
    no_fallback: bool = no_fallback_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.as_json and self.format not in ("txt", "json"):
            raise InputError(f"--json and --format {self.format} contradict each other; use one of them")
        if self.as_json:
            object.__setattr__(self, "format", "json")
        if self.words and self.format != "json":
            raise InputError("--words only affects the JSON; leave it out, or use --format json")


@dataclass(frozen=True)
class ReportOptions(Options):
    """What `sfm-quant inspect` takes for its report."""

    folder: str = path_field("", argument=True, metavar="DIR")
    result: str | None = path_field("For the report: the file from `sfm-quant eval --json`.", None, metavar="FILE")
    predictions: str | None = path_field(
        "For the report: the file from `sfm-quant eval --predictions`.", None, metavar="FILE"
    )
    timing: bool = option_field("For the report: measure where the time goes.", True, flag="--time/--no-time")
