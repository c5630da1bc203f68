"""`sfm-quant transcribe`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ..foundation import interrupts
from ..foundation.errors import InputError
from ..foundation.options import TranscribeOptions
from .click_options import takes
from .outputs import example, quiet

if TYPE_CHECKING:
    from ..workflows.transcribe import Transcript


@click.command(
    epilog=example(
        "sfm-quant transcribe w8a8/ hello.wav goodbye.flac",
        "sfm-quant transcribe w8a8/ recordings/ --json --words > recognised.jsonl",
        "sfm-quant transcribe whisper-w8a8/ talk.mp3 --format srt --language en > talk.srt",
        "curl -s https://example.org/talk.flac | sfm-quant transcribe w8a8/ -",
    )
)
@takes(TranscribeOptions)
def transcribe(options: TranscribeOptions) -> None:
    """Transcribe recordings with MODEL.

    MODEL is a folder or a hub id, float or quantized. AUDIO is files of any length, folders (all recordings in them,
    sorted) or - for a recording on standard input. Prints one line per recording: its path, a tab and the text. One
    that cannot be read is reported on stderr and skipped, and the exit code is 3. One that is too short for the model
    has an empty text, and a warning says so.
    """
    quiet()
    from ..models.checkpoint import read
    from ..models.tasks.base import Decoding
    from ..workflows.transcribe import find, transcribe_files

    paths, unreadable, subtitled = find(options.recordings), 0, options.format in ("srt", "vtt")
    if subtitled and len(paths) > 1:
        raise InputError(
            f"--format {options.format} writes subtitles of one recording, not of {len(paths)}; run it once for each"
        )
    decoding = Decoding(options.language, options.task == "translate", options.beam_size, not options.no_fallback)
    recognizer = read.load(options.model, options.target_lang, decoding)
    for remark in recognizer.remarks:
        click.echo(f"Warning: {remark}", err=True)
    answers = transcribe_files(recognizer, paths, words=options.words or subtitled)
    for number, (path, found) in enumerate(answers, 1):
        if number == len(paths):
            interrupts.settle()
        if isinstance(found, InputError):
            unreadable += 1
            click.echo(f"Error: {found}", err=True)
        else:
            if found.warning:
                click.echo(f"Warning: {path}: {found.warning}", err=True)
            line = _shown(path, found, options.format)
            click.echo(line.encode(errors="backslashreplace"), nl=not subtitled)  # a file name may be no UTF-8
    if unreadable:
        raise InputError(f"{unreadable} of {len(paths)} recordings could not be read")


def _shown(path: str, found: Transcript, format: str) -> str:
    """What is printed for a recording."""
    if format == "json":
        return json.dumps(found.to_json(), ensure_ascii=False)
    if format == "txt":
        name = path.translate({9: "\\t", 10: "\\n", 13: "\\r"})  # one line for each recording
        return f"{name}\t{found.text}"
    from ..speech.subtitles import subtitles

    return subtitles(found.words or (), format)
