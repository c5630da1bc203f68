"""The options of `transcribe`."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from .fields import (
    Options,
    beam_size_field,
    language_field,
    model_field,
    no_fallback_field,
    option_field,
    path_field,
    target_lang_field,
    task_field,
)

FORMATS = ("txt", "json", "srt", "vtt")


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
