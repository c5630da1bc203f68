"""A speech recogniser: a network with its feature extractor and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .families.base import Family, Geometry
from .tasks.base import PLAIN, Answer, Batched, Decoder, Decoding, Forced, Inputs, Network, Part, Spoken, Task

BATCH_SECONDS = 30.0  # of audio in one call: longer gains little speed and takes more memory
BATCH_WINDOWS = 8  # pieces in one call of a model that takes windows of one length


@dataclass(frozen=True)
class Recognizer:
    """A model with its family, which knows how it is built, and its task, which knows what it is for."""

    model: Any  # transformers.PreTrainedModel, in eval mode
    processor: Any  # of transformers, with a feature extractor and a tokenizer
    path: str  # as the user wrote it
    scheme: str  # "float32", "w8a8", ...
    sampling_rate: int  # Hz
    sites: dict[str, int]  # how many sites run "integer", "simulated", "float"
    geometry: Geometry
    family: Family
    task: Task
    notices: tuple[str, ...] = ()  # what runs slower or less exactly on this machine than it should
    remarks: tuple[str, ...] = ()  # what its folder holds that is not applied, or says twice
    bytes_on_disk: int = 0  # of the files that loading read
    float32_bytes: int = 0  # of its parameters, were each stored in four bytes
    folder: str = ""  # where its files are, also for a model of the hub
    revision: str | None = None  # the commit, for a model of the hub
    target_lang: str | None = None  # of a model with language adapters
    calibrated_on: frozenset[str] = frozenset()  # hashes of the recordings, for a quantized model
    decoding: Decoding = PLAIN
    batched: Batched | None = None  # of an engine that answers several utterances in one call
    decoder: Callable[[Tensor], Decoder] | None = None  # of an engine that runs decoders in its own way

    @cached_property
    def network(self) -> Network:
        """What its task needs to know."""
        step = self.geometry.stride / self.sampling_rate
        return Network(self.model, self.processor.tokenizer, step, self.decoding, self.batched, self.decoder)

    @property
    def min_samples(self) -> int:
        """The shortest waveform that gives one step."""
        return self.geometry.fewest

    def inputs(self, waveform: np.ndarray) -> dict[str, Tensor]:
        """The arguments of a forward pass for a mono float32 waveform (samples,) at `sampling_rate`."""
        return self.family.inputs(self.processor.feature_extractor, waveform, self.sampling_rate)

    @torch.inference_mode()
    def forced(self, inputs: Inputs) -> Forced | None:
        """What every changed model has to follow on a recording."""
        return self.task.forced(self.network, inputs)

    @torch.inference_mode()
    def logits(self, inputs: Inputs, forced: Forced | None = None) -> Tensor:
        """Logits (steps, symbols) of one recording."""
        return self.task.logits(self.model, inputs, forced)

    @torch.inference_mode()
    def answer(self, inputs: Inputs, forced: Forced | None = None) -> Answer:
        """The model's own answer, to which a changed model is compared."""
        return self.task.answer(self.network, self.logits(inputs, forced), forced)

    @torch.inference_mode()
    def divergence(self, inputs: Inputs, answer: Answer, forced: Forced | None = None) -> Part:
        """How far the model, after a change, is from its earlier answer."""
        return self.task.divergence(answer, self.logits(inputs, forced))

    @torch.inference_mode()
    def recognise(self, waveforms: Sequence[np.ndarray]) -> list[Spoken]:
        """What is spoken in each of several waveforms that fit one call; InputError if output is not finite."""
        return self.task.recognise(self.network, [self.inputs(each) for each in waveforms])

    @torch.inference_mode()
    def text(self, inputs: Inputs) -> str:
        """The model's text; InputError if its output is not finite."""
        [spoken] = self.task.recognise(self.network, [inputs])
        return spoken.text

    def transcribe(self, waveform: np.ndarray) -> str:
        """The text of one waveform that the model takes whole."""
        return self.text(self.inputs(waveform))

    @property
    def batches(self) -> bool:
        """Whether several utterances in one call are more than a loop."""
        return self.batched is not None or self.geometry.window is not None

    @property
    def longest(self) -> float:
        """Seconds of a recording that is recognised whole; a longer one is cut at its pauses."""
        window = self.geometry.window
        return BATCH_SECONDS if window is None else window / self.sampling_rate

    def fits(self, samples: Sequence[int]) -> bool:
        """Whether waveforms of these lengths can be recognised in one call, in little memory."""
        if self.geometry.window is not None:
            return len(samples) <= BATCH_WINDOWS
        return sum(samples) <= BATCH_SECONDS * self.sampling_rate
