"""The options of `tune`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .calibrate import GROUP_SIZES, CalibrateOptions, parse_scheme, sparsity_field
from .fields import (
    Options,
    flag,
    language_field,
    limit_field,
    max_samples_field,
    model_field,
    option_field,
    path_field,
    skip_bad_field,
    target_lang_field,
)

LOSSES = ("distill", "task", "both")


@dataclass(frozen=True)
class TuneOptions(Options):
    """What `sfm-quant tune` takes."""

    model: str = model_field()
    data: str = path_field(
        "Recordings to train on: a manifest or folder. Transcripts are needed only with --loss task or both.",
        metavar="DATA",
    )
    out: str = path_field("Folder to write the quantized model to.", metavar="DIR")
    dev: str | None = path_field(
        "Held-out recordings that pick the best state.  [default: one in ten of DATA, 32 at most]",
        None,
        metavar="DATA",
    )
    scheme: str = option_field("Bits of weights and activations, such as w4a8, w3a8 or w2a8.", "w4a8")
    avg_bits: float | None = limit_field(
        "Mix 8, 4, 3 and 2 bits so that weights have this average.", "BITS", least=2, most=8
    )
    target_compression: float | None = limit_field(
        "Mix bits so that the model is this many times smaller than its parameters in float32.", "RATIO", above=1
    )
    group_size: int | Literal["auto"] | None = option_field(
        "Weights that share a step: 32, 64, 128, or channel for a whole row. auto: as `sfm-quant calibrate`.",
        "auto",
        one_of=GROUP_SIZES,
    )
    sparsity: str | None = sparsity_field()
    start: str | None = path_field(
        "Start from this quantized folder of MODEL.  [default: calibrate first]", None, metavar="DIR", flag="--from"
    )
    loss: str = option_field(
        "What is learned: the float model's output probabilities (distill), the transcripts (task), or both.",
        "distill",
        one_of=LOSSES,
    )
    steps: int | None = option_field(
        "Steps of four recordings, end to end.  [default: 300]", None, metavar="N", least=1
    )
    layer_steps: int | None = option_field(
        "Steps of two recordings for each layer alone, before that.  [default: 300]", None, metavar="N", least=0
    )
    width_steps: int | None = option_field(
        "Learn the bits of each weight matrix in so many steps, if they are mixed; 150 are enough.  "
        "[default: 0, those that calibration chose]",
        None,
        metavar="N",
        least=0,
    )
    minutes: float | None = limit_field(
        "Train for so long instead of a number of steps; the calibration before it is not counted.", "M", above=0
    )
    max_samples: int | None = max_samples_field()
    seed: int = option_field("Seed for the subset and the order of the recordings.", 0, least=0)
    resume: bool = option_field("Continue an interrupted run.", False)
    target_lang: str | None = target_lang_field()
    language: str | None = language_field()
    skip_bad: bool = skip_bad_field()

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = {"steps": self.steps, "layer_steps": self.layer_steps, "width_steps": self.width_steps}
        for name, value in lengths.items():
            if value and self.minutes is not None:
                raise InputError(f"use only one of {flag(name)}, --minutes")
        self.calibration(self.data, self.out)  # its checks

    def calibration(self, data: str, out: str) -> CalibrateOptions:
        """The options of the calibration that training starts from."""
        names = (
            "model",
            "avg_bits",
            "target_compression",
            "group_size",
            "sparsity",
            "max_samples",
            "seed",
            "target_lang",
        )
        return CalibrateOptions(
            data=data,
            out=out,
            scheme=f"w8a{parse_scheme(self.scheme)[1]}" if self.mixed() else self.scheme,
            method="mse",  # ranges are learned from there
            language=self.language,
            skip_bad=self.skip_bad,
            **{name: getattr(self, name) for name in names},
        )

    def mixed(self) -> bool:
        """Whether weights have different numbers of bits, under a limit."""
        return self.avg_bits is not None or self.target_compression is not None

    def learns_widths(self) -> bool:
        """Whether the bits of each weight are learned."""
        return self.mixed() and bool(self.width_steps)

    def refuse_ignored(self, given: Collection[str]) -> None:
        if "group_size" in given and not self.mixed() and parse_scheme(self.scheme)[0] > 4:
            raise InputError(f"--group-size is for weights of 4 bits and fewer, but --scheme is {self.scheme}")
        if "width_steps" in given and not self.mixed():
            raise InputError("--width-steps is for --avg-bits and --target-compression; leave it out")
        for name in ("scheme", "avg_bits", "target_compression", "group_size", "sparsity"):
            if self.start is not None and name in given:
                raise InputError(f"{flag(name)} is already set in the folder of --from; leave it out")
        for name in ("avg_bits", "target_compression"):
            if "scheme" in given and getattr(self, name) is not None and parse_scheme(self.scheme)[0] != 8:
                raise InputError(f"{flag(name)} chooses the bits of the weights; use 8-bit weights (w8) in --scheme")
