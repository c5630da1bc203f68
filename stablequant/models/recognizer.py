"""A speech recogniser: a network with its feature extractor and tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .families import wav2vec2
from .families.base import Family
from .tasks import ctc
from .tasks.base import Answer, Part, Task

BATCH_SECONDS = 30.0  # of audio in one call: longer gains little speed and takes more memory

Batched = Callable[[Sequence[Tensor]], list[Tensor]]  # model inputs (samples,) -> logits (steps, symbols) of each


@dataclass(frozen=True)
class Recognizer:
    """A model with its family, which knows how it is built, and its task, which knows what it is for."""

    model: Any  # transformers.PreTrainedModel, in eval mode
    processor: Any  # transformers.Wav2Vec2Processor
    path: str  # as the user wrote it
    scheme: str  # "float32", "w8a8", ...
    sampling_rate: int  # Hz
    sites: dict[str, int]  # how many sites run "integer", "simulated", "float"
    min_samples: int  # the shortest waveform that gives one frame
    notices: tuple[str, ...] = ()  # what runs slower or less exactly on this machine than it should
    remarks: tuple[str, ...] = ()  # what its folder holds that is not applied, or says twice
    bytes_on_disk: int = 0  # of the files that loading read
    float32_bytes: int = 0  # of its parameters, were each stored in four bytes
    folder: str = ""  # where its files are, also for a model of the hub
    revision: str | None = None  # the commit, for a model of the hub
    target_lang: str | None = None  # of a model with language adapters
    calibrated_on: frozenset[str] = frozenset()  # hashes of the recordings, for a quantized model
    family: Family = wav2vec2
    task: Task = ctc
    batched: Batched | None = None  # of an engine that answers several utterances in one call

    def inputs(self, waveform: np.ndarray) -> dict[str, Tensor]:
        """The arguments of a forward pass for a mono float32 waveform (samples,) at `sampling_rate`."""
        return self.family.inputs(self.processor.feature_extractor, waveform, self.sampling_rate)

    @torch.inference_mode()
    def answer(self, inputs: Mapping[str, Tensor]) -> Answer:
        """The model's own answer, to which a changed model is compared."""
        return self.task.answer(self.model, self.processor.tokenizer, inputs)

    @torch.inference_mode()
    def divergence(self, inputs: Mapping[str, Tensor], answer: Answer) -> Part:
        """How far the model, after a change, is from its earlier answer."""
        return self.task.divergence(answer, self.task.logits(self.model, inputs, answer))

    @torch.inference_mode()
    def text(self, inputs: Mapping[str, Tensor]) -> str:
        """The model's text; InputError if its output is not finite."""
        return self.task.text(self.model, self.processor.tokenizer, inputs)

    @torch.inference_mode()
    def logits(self, waveform: np.ndarray) -> Tensor:
        """Logits (frames, vocabulary) of one utterance; never padded, since padding changes group-norm models."""
        found: Tensor = self.model(**self.inputs(waveform)).logits[0]
        return found

    def transcribe(self, waveform: np.ndarray) -> str:
        """The text of one utterance."""
        return self.text(self.inputs(waveform))

    @property
    def blank(self) -> int:
        """The number of the blank of CTC, which is the tokenizer's padding."""
        return int(self.processor.tokenizer.pad_token_id)

    @property
    def stride(self) -> int:
        """Samples from one frame to the next, 320 for most of the family."""
        return self.family.geometry(self.model.config).stride

    def transcribe_all(self, waveforms: Sequence[np.ndarray]) -> list[str]:
        """The text of each of several utterances, which together should last no more than BATCH_SECONDS."""
        return [ctc.decode(ctc.best(logits), self.processor.tokenizer) for logits in self.logits_all(waveforms)]

    def logits_all(self, waveforms: Sequence[np.ndarray]) -> list[Tensor]:
        """Logits (frames, vocabulary) of each of several utterances, in one call where the engine can."""
        if self.batched is None or not waveforms:
            return [self.logits(waveform) for waveform in waveforms]
        return self.batched([each[0] for waveform in waveforms for each in self.inputs(waveform).values()])
