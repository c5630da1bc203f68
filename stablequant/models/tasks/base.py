"""The protocol of a task: what a network's output means, and how two models are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple, Protocol, cast

from torch import Tensor

from ...foundation import registry

Part = tuple[float, float]  # numerator and denominator of a score on one recording; sums of parts are parts
Inputs = Mapping[str, Tensor]  # the arguments of a forward pass, of one recording
Batched = Callable[[Sequence[Tensor]], list[Tensor]]  # model inputs (samples,) -> logits (steps, symbols) of each


@dataclass(frozen=True)
class Decoding:
    """How a model that generates text decodes; a model that labels frames has no such choices."""

    language: str | None = None  # spoken, as "de" or "german"; None: the model detects it
    translate: bool = False  # to English
    beams: int = 1
    fallback: bool = False  # where a text repeats itself, decode again by sampling, at higher and higher temperatures


PLAIN = Decoding()
NOT_FINITE = (
    "the model's output is NaN or infinite; its weights or the samples of the recording are damaged or far out "
    "of range"
)


class Decoder(Protocol):
    """The decoder of a model on the encoder's states of some pieces, with what it keeps of the steps so far."""

    def step(self, ids: Tensor) -> Tensor:
        """Logits (rows, symbols) of what follows ids (rows, n), which follow those of the steps before."""

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows (int64): the same number for each remaining piece, grouped by piece."""


@dataclass(frozen=True)
class Network:
    """What a task needs to know about a model."""

    model: Any  # transformers.PreTrainedModel, in eval mode
    tokenizer: Any
    step_seconds: float  # from one step of its encoder to the next
    decoding: Decoding = PLAIN
    batched: Batched | None = None  # of an engine that answers several utterances in one call
    decoder: Callable[[Tensor], Decoder] | None = None  # of an engine, for encoder states (pieces, steps, channels)


@dataclass(frozen=True)
class Forced:
    """What the decoder of every changed model has to follow."""

    ids: Tensor  # (1, steps), the prompt and the tokens that the float model writes
    prompt: int  # how many of them are the prompt


@dataclass(frozen=True)
class Answer:
    """A model's answer to one recording, to which a changed model is compared."""

    logits: Tensor  # (steps, symbols)
    written: int  # symbols or tokens in it, 1 at least: what differences are counted over
    text: str


class Word(NamedTuple):
    """A word with its times in seconds; of a text without spaces, as of Chinese, one or a few characters."""

    word: str
    start: float
    end: float
    joined: bool = False  # to the one before, without a space


def text_of(words: Iterable[Word]) -> str:
    """The text that words are of; the first one follows nothing."""
    return "".join(each.word if each.joined else f" {each.word}" for each in words).removeprefix(" ")


class Spoken(Protocol):
    """What a model recognises in one piece of a recording."""

    @property
    def temperature(self) -> float:
        """At which its text was sampled, after one that repeated itself; 0: it was not."""

    @property
    def text(self) -> str:
        """Its text, with one space between words."""

    def words(self) -> Iterable[Word]:
        """Its words in order, with times from the start of the piece; `text_of` gives their text."""


class Task(Protocol):
    """The functions of a file in this folder."""

    AUTO_CLASS: str  # of transformers, which loads a model of this task
    HEAD: str  # how the names of its classes end
    UNIT: str  # of `divergence`, in points
    TAG: str  # of a model card
    TOKENIZER: str  # the class of transformers where no file of a model names one
    PROCESSOR: str  # the class of transformers that joins feature extractor and tokenizer

    def refuse(self, decoding: Decoding, config: Any, generation: Mapping[str, Any]) -> None:
        """InputError for choices that a model with this config.json and generation_config.json does not have.

        It is asked before the weights are read; what only the tokenizer shows is left to `check`.
        """

    def check(self, name: str, network: Network) -> Iterator[str]:
        """Remarks on a loaded model, which are corrected in it; InputError if its parts cannot belong together."""

    def forced(self, network: Network, inputs: Inputs) -> Forced | None:
        """What every changed model has to follow: the tokens that this one writes; None without a decoder."""

    def repeats(self, layer: str) -> bool:
        """Whether a layer runs once for every token when the model writes, and not once for a recording."""

    def logits(self, model: Any, inputs: Inputs, forced: Forced | None) -> Tensor:
        """Logits (steps, symbols) of a model; without `forced`, of a decoder's first step."""

    def answer(self, network: Network, logits: Tensor, forced: Forced | None) -> Answer:
        """The answer that the model's own logits are."""

    def divergence(self, answer: Answer, logits: Tensor) -> Part:
        """How far the logits of a changed model are from an answer; 0 for its own."""

    def learnable(self, network: Network, seconds: float, text: str) -> bool:
        """Whether `transcript_loss` can learn a text of so many seconds: it is neither empty nor too long."""

    def transcript_loss(
        self, network: Network, inputs: Inputs, forced: Forced | None, text: str
    ) -> tuple[Tensor, float]:
        """The loss () that the task is usually trained with, and the symbols of the transcript that it is summed over.

        It has gradients. The text follows the prompt in `forced`.
        """

    def recognise(self, network: Network, inputs: Sequence[Inputs]) -> list[Spoken]:
        """What is spoken in several pieces, in one call where the engine can; InputError if output is not finite."""

    def joined(self, left: Spoken, right: Spoken, seconds: float) -> Spoken:
        """Two pieces that overlap: `right` begins so many seconds after `left`. Only where pieces may overlap."""

    def unwritable(self, words: Iterable[str], tokenizer: Any) -> list[str]:
        """The words that the model has no symbols for."""

    def missing_head(self, parameter: str) -> bool:
        """Whether a parameter belongs to the part that only this task adds to a network."""


def tasks() -> tuple[Task, ...]:
    """All tasks."""
    modules: list[ModuleType] = [registry.get("tasks", name) for name in registry.names("tasks")]
    return tuple(cast(Task, module) for module in modules)


def task_of(architectures: list[str], usual: str) -> Task | None:
    """The task of the classes that config.json names, or the usual one if it names none; None for other classes."""
    if not architectures:
        return cast(Task, registry.get("tasks", usual))
    return next((each for each in tasks() if any(name.endswith(each.HEAD) for name in architectures)), None)


def total_variation(reference: Tensor, logits: Tensor) -> float:
    """Sum over steps of the total variation distance between the posteriors of two models, (steps, symbols) each."""
    distance = 0.5 * (reference.softmax(-1) - logits.softmax(-1)).abs().sum(-1).sum()  # short sums: the same anywhere
    return float(distance)
