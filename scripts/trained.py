r"""Sizes and ways to get there: bits as `calibrate` chose them, learned in one stage, learned in two; trained or not.

    python scripts/trained.py --model calibration/model --train TRAIN --test DIGITS-TEST SO762-DEV --targets 8 10 12 \
        --ways calibrated measured one-stage two-stage --out build/trained --json build/trained.json
    python scripts/trained.py --model MODEL --train TRAIN --test TEST --schemes w4a8 w3a8 w2a8 --sparsity 2:4

| way | what it is |
|---|---|
| calibrated | `calibrate --target-compression` (or `--scheme`): no training |
| measured | `tune`: the bits that `calibrate` chose, trained (with `--schemes`: one width for all) |
| one-stage | `tune --width-steps 150`: bits and weights learned together, then trained on (arXiv 2501.03643) |
| two-stage | the bits that one-stage learned, and everything else from the start: `calibrate --plan`, `tune --from` |

For every model: its size, average bits, the seconds that making it took, and on each test set the changed frames (or
tokens) per 100 output symbols and the word error rate with its paired difference from the float model's. A model that
is there already is not made again, but measured. Seconds are wall time: say what else ran. The table is Markdown; the
last line is all of it as JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from provenance import provenance

import stablequant
from stablequant.evaluation import error_rates
from stablequant.evaluation.error_rates import Counts
from stablequant.models.checkpoint import read
from stablequant.models.recognizer import Recognizer
from stablequant.models.source import folder_bytes
from stablequant.models.tasks.base import Decoding
from stablequant.quantization.plan.plan import read_plan
from stablequant.quantization.search.scores import total
from stablequant.speech import audio

WAYS = ("calibrated", "measured", "one-stage", "two-stage")


@dataclass(frozen=True)
class OnSet:
    """A model on one test set."""

    data: str
    wer_percent: float
    points: float
    ci95: tuple[float, float] | None
    changed: float


@dataclass(frozen=True)
class Row:
    """A model that was made."""

    wanted: str
    way: str
    megabytes: float
    compression: float
    average_bits: float
    seconds: float | None
    sets: list[OnSet]


def make(args: argparse.Namespace, limit: dict[str, object], way: str, out: Path) -> float | None:
    """Make a model, if it is not there; returns the seconds that it took."""
    if out.exists():
        return None
    began = time.monotonic()
    data, sparsity = str(args.train), {"sparsity": args.sparsity} if args.sparsity else {}
    common = {"model": str(args.model), "data": data, "out": str(out), **limit, **sparsity}
    lengths = {name: getattr(args, name) for name in ("steps", "layer_steps") if getattr(args, name) is not None}
    if way == "calibrated":
        stablequant.calibrate(method="mse", **common)
    elif way == "measured":
        stablequant.tune(
            **common,
            **lengths,
        )
    elif way == "one-stage":
        stablequant.tune(**common, **lengths, width_steps=args.width_steps)
    else:
        learned, start = out.parent / "one-stage", out.with_name(out.name + " start")
        make(args, limit, "one-stage", learned)
        stablequant.calibrate(model=str(args.model), data=data, out=str(start), plan=str(learned), max_samples=128)
        stablequant.tune(model=str(args.model), data=data, out=str(out), start=str(start), **lengths)
    return time.monotonic() - began


def answers(recognizer: Recognizer, float_model: Recognizer, data: str) -> tuple[Counts, float]:
    """Word errors, and how far the model is from the float one."""
    normalize, parts, texts, references = error_rates.normalizer("basic"), [], [], []
    for utterance in audio.listing(data, require_text=True).utterances:
        waveform = audio.load(utterance, recognizer.sampling_rate)
        inputs = float_model.inputs(waveform)
        forced = float_model.forced(inputs)
        parts.append(recognizer.divergence(inputs, float_model.answer(inputs, forced), forced))
        texts.append(normalize(recognizer.transcribe(waveform)))
        references.append(normalize(utterance.text or ""))
    return error_rates.count_words(references, texts), total(parts)


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each limit and way; the first is the float model."""
    decoding = Decoding(fallback=True)
    float_model = read.load(str(args.model), decoding=decoding)
    plain = {str(data): answers(float_model, float_model, str(data))[0] for data in args.test}
    yield Row(
        "",
        "float",
        float_model.bytes_on_disk / 1e6,
        float_model.float32_bytes / float_model.bytes_on_disk,
        32.0,
        None,
        [OnSet(data, counts.percent(), 0.0, None, 0.0) for data, counts in plain.items()],
    )
    limits = [(f"{target:g} times", {"target_compression": target, "scheme": "w8a8"}) for target in args.targets or ()]
    limits += [(scheme, {"scheme": scheme}) for scheme in args.schemes or ()]
    for name, limit in limits:
        for way in args.ways if "target_compression" in limit else [w for w in args.ways if w in WAYS[:2]]:
            out = args.out / (name + (f" {args.sparsity}" if args.sparsity else "")) / way
            seconds = make(args, limit, way, out)
            model, sets = read.load(str(out), decoding=decoding), []
            for data, reference in plain.items():
                counts, changed = answers(model, float_model, data)
                worse = error_rates.compare(counts, reference)
                sets.append(OnSet(data, counts.percent(), worse.points, worse.ci95, changed))
            size = folder_bytes(out)
            compression, bits = float_model.float32_bytes / size, read_plan(out).average_bits()
            yield Row(name, way, size / 1e6, compression, bits, seconds, sets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("calibration/model"))
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--targets", type=float, nargs="*", help="times smaller than the parameters in float32")
    parser.add_argument("--schemes", nargs="*", help="one width for all")
    parser.add_argument("--sparsity")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--layer-steps", type=int)
    parser.add_argument("--width-steps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path("build/trained"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = []
    print(
        "| wanted | way | MB | times smaller | bits | seconds | changed, WER % and difference in points on each set |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows(args):
        found.append(row)
        on_sets = "; ".join(
            f"{each.changed:.1f}, {each.wer_percent:.2f}"
            + (f" ({each.points:+.2f} [{each.ci95[0]:+.2f}, {each.ci95[1]:+.2f}])" if each.ci95 else "")
            for each in row.sets
        )
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        print(
            f"| {row.wanted} | {row.way} | {row.megabytes:.2f} | {row.compression:.2f} | {row.average_bits:.2f} | "
            f"{seconds} | {on_sets} |",
            flush=True,
        )
    text = json.dumps({"rows": [asdict(row) for row in found], **provenance(0)})
    if args.json:
        args.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
