r"""Range methods side by side: the word error rate that each leaves a model, beside the float model's.

    python scripts/methods.py --model calibration/model --calibrate calibration/clips/calibrate \
        --evaluate calibration/clips/evaluate --schemes w8a8 w6a6 --out build/methods --json build/methods.json

For each scheme and method the model is calibrated into a folder of its own, exactly as `sfm-quant calibrate` does it,
and every evaluation set is recognised once by it and once by the float model. Differences are paired: the same
utterances, and the same draws of the bootstrap (evaluation/error_rates.py). Words only: nothing is timed here, so a
busy machine does no harm; `sfm-quant eval` and scripts/bench.py measure speed.

An interrupted run goes on where it stopped: a calibration resumes from its journal, and with `--reuse` finished
folders and finished sets of answers are taken as they are. Answers are kept under a name made from the weights, the
plan and the references, so that none outlives the model it came from; folders are not checked for older code.

The tables are Markdown; the last line is all of it as JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from provenance import compact_json, provenance
from tqdm import tqdm

from stablequant.evaluation import error_rates
from stablequant.evaluation.error_rates import Comparison, Counts, Interval
from stablequant.foundation.options import CalibrateOptions
from stablequant.models.checkpoint import read
from stablequant.models.recognizer import Recognizer
from stablequant.quantization.plan.plan import Plan, read_plan
from stablequant.speech import audio
from stablequant.speech.audio import Utterance
from stablequant.workflows.calibrate import calibrate

METHODS = ("max", "percentile", "mse", "stable")


@dataclass(frozen=True)
class Measured:
    """A model on one evaluation set; `worse` is the difference from the float model."""

    wer_percent: float
    wer_ci95: Interval | None
    errors: int
    worse: Comparison | None = None


@dataclass(frozen=True)
class Row:
    """A model: the float one, or the one that a method made of it."""

    scheme: str
    method: str
    bytes_on_disk: int
    compression: float
    sites: dict[str, int]
    sets: dict[str, Measured]
    selected: dict[str, float] = field(default_factory=dict)  # layer -> removed share in %
    whole_model: float | None = None  # score of the whole plan on the probe recordings
    float_passes: float | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    sets = {name_of(data): audio.listing(data, require_text=True).utterances for data in options.evaluate}
    base, rows = read.load(options.model), []
    reference = {name: count(base, found, options) for name, found in sets.items()}
    rows.append(Row("float32", "", base.bytes_on_disk, 1.0, base.sites, measure(reference, {}, options.seed)))
    for scheme, method in wanted(options):
        rows.append(quantized(base, scheme, method, sets, reference, options))
    print("\n".join([*about_sets(sets, reference), "", *models_table(rows), "", *words_table(rows, list(sets))]))
    report(rows, sets, options)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="folder of the float model")
    made.add_argument("--calibrate", required=True, metavar="DATA")
    made.add_argument("--evaluate", required=True, nargs="+", metavar="DATA")
    made.add_argument(
        "--schemes", nargs="+", default=["w8a8"], help="with other options behind a colon: w2a8:group_size=32"
    )
    made.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    made.add_argument("--score", default="logits", choices=["logits", "wer"])
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--out", default="build/methods", help="where the quantized folders and answers go")
    made.add_argument("--reuse", action="store_true", help="take folders and answers that are there already")
    made.add_argument("--json", metavar="FILE")
    return made


def wanted(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    return ((scheme, method) for scheme in options.schemes for method in options.methods)


def name_of(data: str) -> str:
    """What a table calls an evaluation set: the last two parts of its path."""
    return "/".join(Path(data).with_suffix("").parts[-2:])


def quantized(
    base: Recognizer,
    scheme: str,
    method: str,
    sets: dict[str, list[Utterance]],
    reference: dict[str, Counts],
    options: argparse.Namespace,
) -> Row:
    """The row of one method: calibrate, recognise every set, compare."""
    plan = calibrated(scheme, method, options)
    recognizer = read.load(folder_of(scheme, method, options))
    counts = {name: count(recognizer, found, options) for name, found in sets.items()}
    return Row(
        scheme,
        method,
        recognizer.bytes_on_disk,
        base.bytes_on_disk / recognizer.bytes_on_disk,
        recognizer.sites,
        measure(counts, reference, options.seed),
        {name: layer.clip_percent or 0.0 for name, layer in plan.layers.items() if layer.selected},
        plan.score["whole_model"],
        plan.calibration["float_passes"],
    )


def folder_of(scheme: str, method: str, options: argparse.Namespace) -> str:
    variant = re.sub("[:=,]", "-", scheme)
    return str(Path(options.out) / f"{Path(options.model).name}-{variant}-{method}")


def calibrated(scheme: str, method: str, options: argparse.Namespace) -> Plan:
    """The plan of a method; its folder is written unless `--reuse` finds it there."""
    folder = folder_of(scheme, method, options)
    plan = Path(folder) / "plan.json"
    if not (options.reuse and plan.is_file()):
        print(f"calibrating {folder}", file=sys.stderr)
        bits, _, others = scheme.partition(":")
        wanted = CalibrateOptions(
            options.model, options.calibrate, folder, bits, method, options.score, seed=options.seed, resume=True
        )
        calibrate(replace(wanted, **more(others)))
    return read_plan(plan)


def more(text: str) -> dict[str, str | float | int | None]:
    """Options of a calibration as a scheme gives them: "group_size=32,rounding=nearest"."""
    given = dict(each.split("=") for each in text.split(",") if each)
    sizes: dict[str, int | None] = {"channel": None, **{str(n): n for n in (32, 64, 128)}}
    return {
        key: value if key == "rounding" else sizes[value] if key == "group_size" else float(value)
        for key, value in given.items()
    }


def count(recognizer: Recognizer, utterances: list[Utterance], options: argparse.Namespace) -> Counts:
    """Word errors of a model on a set, references and answers compared as they are."""
    answers = recognised(recognizer, utterances, options)
    plain = error_rates.normalizer("none")
    return error_rates.count_words([plain(each.text or "") for each in utterances], [plain(each) for each in answers])


def recognised(recognizer: Recognizer, utterances: list[Utterance], options: argparse.Namespace) -> list[str]:
    """The model's answers, from the file of an earlier run where `--reuse` allows it."""
    file = Path(options.out) / "answers" / f"{fingerprint(recognizer, utterances)}.json"
    if options.reuse and file.is_file():
        return list(json.loads(file.read_text(encoding="utf-8")))
    bar = tqdm(utterances, desc=f"recognise with {Path(recognizer.path).name}", unit="utt", mininterval=5)
    answers = [answer(recognizer, each) for each in bar]
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(answers), encoding="utf-8")
    partial.replace(file)
    return answers


def answer(recognizer: Recognizer, utterance: Utterance) -> str:
    """What the model hears; nothing in an utterance too short to give a frame."""
    waveform = audio.load(utterance, recognizer.sampling_rate)
    return recognizer.transcribe(waveform) if len(waveform) >= recognizer.min_samples else ""


def fingerprint(recognizer: Recognizer, utterances: list[Utterance]) -> str:
    """A name for the answers of these weights to these utterances."""
    digest = hashlib.sha256()
    for file in sorted((*Path(recognizer.path).glob("*.safetensors"), *Path(recognizer.path).glob("plan.json"))):
        digest.update(file.read_bytes())
    for each in utterances:
        digest.update(f"{each.path.resolve()} {each.offset} {each.duration} {each.text}\n".encode())
    return digest.hexdigest()[:24]


def measure(counts: dict[str, Counts], reference: dict[str, Counts], seed: int) -> dict[str, Measured]:
    return {
        name: Measured(
            found.percent(),
            error_rates.interval(found, seed),
            int(found.errors.sum()),
            error_rates.compare(found, reference[name], seed) if reference else None,
        )
        for name, found in counts.items()
    }


def about_sets(sets: dict[str, list[Utterance]], reference: dict[str, Counts]) -> Iterator[str]:
    for name, utterances in sets.items():
        yield f"- {name}: {len(utterances)} utterances, {int(reference[name].units.sum())} words"


def models_table(rows: list[Row]) -> Iterator[str]:
    yield "| scheme | method | MB on disk | times smaller | integer sites | layers clipped first (removed %) |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        clips = ", ".join(f"{layer.removeprefix('wav2vec2.')} {cut:.2f}" for layer, cut in row.selected.items())
        size = f"{row.bytes_on_disk / 1e6:.2f} | {row.compression:.2f}"
        yield f"| {row.scheme} | {row.method} | {size} | {row.sites['integer']} | {clips} |"


def words_table(rows: list[Row], names: list[str]) -> Iterator[str]:
    yield "| scheme | method |" + "".join(f" {name}: WER % | against float |" for name in names)
    yield "|---|---|" + "---|---|" * len(names)
    for row in rows:
        yield f"| {row.scheme} | {row.method} |" + "".join(f" {cell(row.sets[name])} |" for name in names)


def cell(found: Measured) -> str:
    wer = f"{found.wer_percent:.2f}{spread(found.wer_ci95, '.2f')}"
    if found.worse is None:
        return f"{wer} | "
    p = "" if found.worse.p_value is None else f", p {found.worse.p_value:.2g}"
    return f"{wer} | {found.worse.points:+.2f}{spread(found.worse.ci95, '+.2f')}{p}"


def spread(interval: Interval | None, form: str) -> str:
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def report(rows: list[Row], sets: dict[str, list[Utterance]], options: argparse.Namespace) -> None:
    """The JSON, as the last line and to the file asked for."""
    asked = {key: getattr(options, key) for key in ("model", "calibrate", "evaluate", "score", "seed")}
    utterances = {name: len(found) for name, found in sets.items()}
    result = {**provenance(options.seed), **asked, "utterances": utterances, "rows": rows}
    if options.json:
        Path(options.json).write_text(compact_json(result) + "\n", encoding="utf-8")
    print(compact_json(result))


if __name__ == "__main__":
    main()
