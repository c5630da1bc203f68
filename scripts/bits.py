r"""Fewer bits: word error rate against bytes, for uniform and mixed widths, rounded to nearest and compensated.

    python scripts/bits.py --model calibration/model --calibrate calibration/clips/calibrate \
        --evaluate calibration/clips/evaluate --out build/bits --plot build/bits.svg

Every model is calibrated and measured as scripts/methods.py does it. Mixed plans get the bytes of a uniform one each,
so that pairs can be compared; `avg_bits` are those on disk, all scales counted. The plot needs matplotlib (extra
`report`). The tables are Markdown; the last line is all of it as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import methods

from stablequant.quantization.plan.plan import read_plan

# What uniform widths there are near 4, 3.5, 3 and 2.5 bits a weight.
UNIFORM = ("w4a8", "w3a8:group_size=32", "w3a8", "w3a8:group_size=channel", "w2a8:group_size=32")
MIXED = {
    "w3a8:group_size=32": ",group_size=32"
}  # options beside the bytes; at W2 small groups leave nothing to choose
KINDS = ("nearest", "compensated", "mixed")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    shared = ["--model", options.model, "--calibrate", options.calibrate, "--evaluate", *options.evaluate]
    shared += ["--out", options.out, "--methods", "stable", "--reuse"]
    uniform = [each + separator(each) + f"rounding={kind}" for each in UNIFORM for kind in KINDS[:2]]
    methods.main([*shared, "--schemes", "w8a8", *uniform, "--json", f"{options.out}/uniform.json"])
    mixed = [f"w8a8:avg_bits={average_bits(options, each):.3f}" for each in UNIFORM]
    schemes = ["w8a8", *uniform, *mixed, "w8a8:target_compression=8"]
    methods.main([*shared, "--schemes", *schemes, "--json", f"{options.out}/bits.json"])
    if options.plot:
        plot(json.loads(Path(options.out, "bits.json").read_text(encoding="utf-8")), options.plot)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="folder of the float model")
    made.add_argument("--calibrate", required=True, metavar="DATA")
    made.add_argument("--evaluate", required=True, nargs="+", metavar="DATA")
    made.add_argument("--out", default="build/bits")
    made.add_argument("--plot", metavar="FILE", help="an .svg or .png")
    return made


def separator(variant: str) -> str:
    return "," if ":" in variant else ":"


def average_bits(options: argparse.Namespace, variant: str) -> float:
    """Bits of a weight on disk, scales counted, in the folder of a uniform variant."""
    folder = methods.folder_of(f"{variant}{separator(variant)}rounding=nearest", "stable", options)
    return read_plan(Path(folder) / "plan.json").average_bits()


def plot(result: dict, file: str) -> None:
    """Mean word error rate over the sets, and the score, against megabytes; a line for each kind."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        sys.exit("the plot needs matplotlib: pip install 'stablequant[report]'")
    figure, (words, frames) = plt.subplots(1, 2, figsize=(10, 4))
    for kind in KINDS:
        rows = sorted(
            (row for row in result["rows"] if kind_of(row["scheme"]) == kind), key=lambda row: row["bytes_on_disk"]
        )
        size, label = [row["bytes_on_disk"] / 1e6 for row in rows], kind if kind == "mixed" else f"uniform, {kind}"
        words.plot(size, [mean_wer(row) for row in rows], marker="o", label=label)
        frames.plot(size, [row["whole_model"] for row in rows], marker="o", label=label)
    for row in result["rows"]:
        if row["scheme"] in ("float32", "w8a8"):
            words.axhline(mean_wer(row), linestyle="--", color="grey")
            words.annotate(row["scheme"], (0.99, mean_wer(row)), xycoords=("axes fraction", "data"), ha="right")
    words.set(xlabel="MB on disk", ylabel="WER %, mean of the sets")
    frames.set(xlabel="MB on disk", ylabel="frames that change for 100 symbols", ylim=(0, None))
    frames.legend()
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None} if file.endswith(".svg") else None)


def kind_of(scheme: str) -> str:
    if "avg_bits" in scheme or "target" in scheme:
        return "mixed"
    return scheme.rpartition("rounding=")[2]


def mean_wer(row: dict) -> float:
    return sum(each["wer_percent"] for each in row["sets"].values()) / len(row["sets"])


if __name__ == "__main__":
    main()
