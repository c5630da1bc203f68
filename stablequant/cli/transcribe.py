"""`sfm-quant transcribe`."""

from __future__ import annotations

import json

import click

from ..foundation import signals
from ..foundation.errors import InputError
from ..foundation.options import TranscribeOptions
from .options import takes
from .outputs import example, quiet


@click.command(
    epilog=example(
        "sfm-quant transcribe w8a8/ hello.wav goodbye.flac",
        "sfm-quant transcribe w8a8/ recordings/ --json --words > recognised.jsonl",
        "curl -s https://example.org/talk.flac | sfm-quant transcribe w8a8/ -",
    )
)
@takes(TranscribeOptions)
def transcribe(options: TranscribeOptions) -> None:
    """Transcribe recordings with MODEL.

    MODEL is a folder or a hub id, float or quantized. AUDIO is files of any length, folders (all recordings in them,
    sorted) or - for a recording on standard input. Prints one line per recording: its path, a tab and the text. One
    that cannot be read is reported on stderr and skipped, and the exit code is 3.
    """
    quiet()
    from ..models.checkpoint import read
    from ..workflows.transcribe import find, transcribe_files

    recognizer = read.load(options.model, options.target_lang)
    for remark in recognizer.remarks:
        click.echo(f"Warning: {remark}", err=True)
    paths, unreadable = find(options.recordings), 0
    for number, (path, found) in enumerate(transcribe_files(recognizer, paths, words=options.words), 1):
        if number == len(paths):
            signals.settle()
        if isinstance(found, InputError):
            unreadable += 1
            click.echo(f"Error: {found}", err=True)
        else:
            name = path.translate({9: "\\t", 10: "\\n", 13: "\\r"})  # one line for each recording
            line = json.dumps(found.to_json(), ensure_ascii=False) if options.as_json else f"{name}\t{found.text}"
            click.echo(line.encode(errors="backslashreplace"))  # a file name may be no UTF-8
    if unreadable:
        raise InputError(f"{unreadable} of {len(paths)} recordings could not be read")
