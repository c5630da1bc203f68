"""Train the embedded default model: a small wav2vec 2.0 CTC recogniser of English digit strings, from scratch.

Material: fsdd-train and so762-train of ``--speech`` (never their dev and test parts), and digit strings spoken by
espeak-ng, flite and festival. Method:

* digit strings, spliced at random from single words of one speaker (fsdd-train; words cut out of the digit
  utterances of so762-train by forced alignment with the model in training itself), whole digit utterances of
  so762-train, and synthetic strings; curriculum: single digits, then pairs, then strings of 1-7;
* augmentation: speed, room, channel (telephone, low-pass, tilt), noise, babble, clipping, SpecAugment masks;
* in spliced strings the place of every word is known: a second head on the last hidden states, thrown away at the
  end, learns the word of each frame by cross-entropy, which teaches the encoder much faster than CTC alone;
* AdamW with warm-up and linear decay over a time budget, bf16 autocast; the exported weights are an exponential
  moving average over the steps. The last average is exported: nothing is selected on dev or test sets.

Commands::

    python scripts/train_default.py --minutes 90              # about 90 minutes of two cores
    python scripts/train_default.py --minutes 90 --resume     # go on after an interruption
    python scripts/train_default.py --init calibration/model --curriculum 0 0 --augment 0.55     # a second run
    python scripts/train_default.py --evaluate                # only measure calibration/model

Many short allocations of large tensors cost page faults; with glibc these settings save a sixth of the time::

    export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=16000000000 MALLOC_TOP_PAD_=268435456
    export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0           # when other work shares the cores

The time budget counts the steps' own seconds, each at most three, so a paused process loses nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch
from speech_mixing import Augmenter, Utterance, WordBank, align, cut_words, read_manifest, single_words, speed, splice
from speech_mixing import synthetic_utterances as synthetic
from speech_synthesis import DIGITS, RATE, installed, train_voices
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

ROOT = Path(__file__).resolve().parents[1]
# A symbol for each word: a recogniser of ten words that spells them letter by letter loses most words to misspelling.
# The leading space is what separates words when transformers joins symbols to text.
VOCABULARY = {c: i for i, c in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *(f" {word}" for word in DIGITS)])}
FRAME = 320  # samples a frame of the encoder


@dataclass
class Item:
    """One training example: normalised samples, text and, where known, the word (0 for none) in every frame."""

    samples: np.ndarray
    text: str
    frames: np.ndarray | None = None


@dataclass
class Material:
    """Everything the examples are drawn from."""

    fsdd: WordBank
    accented: WordBank
    accented_strings: list[Utterance]
    background: list[Utterance]
    synthetic: list[Utterance]
    voices: WordBank


def load_material(speech: Path, cache: Path, number: int, seed: int) -> Material:
    """Read the recordings and make (or reuse from `cache`) the synthetic speech."""
    fsdd = single_words(read_manifest(speech / "fsdd-train" / "manifest.jsonl"))
    strings = read_manifest(speech / "so762-train" / "digits.jsonl")
    sentences = read_manifest(speech / "so762-train" / "manifest.jsonl")[::6]
    made = load_synthetic(cache, number, seed)
    return Material(fsdd, WordBank(), strings, sentences, [u for u in made if len(u.words) > 1], single_words(made))


def load_synthetic(cache: Path, number: int, seed: int) -> list[Utterance]:
    """Synthetic digit strings, kept in one file at `cache` between runs."""
    if not cache.exists():
        made = synthetic(installed(train_voices()), number, np.random.default_rng(seed))
        cache.parent.mkdir(parents=True, exist_ok=True)
        ends = np.cumsum([len(u.samples) for u in made])
        texts = [json.dumps([u.words, u.speaker]) for u in made]
        np.savez(cache, samples=np.concatenate([u.samples for u in made]), ends=ends, texts=np.array(texts))
    stored = np.load(cache)
    pieces = np.split(stored["samples"], stored["ends"][:-1])
    rows = [json.loads(str(t)) for t in stored["texts"]]
    return [Utterance(x, tuple(words), speaker) for x, (words, speaker) in zip(pieces, rows, strict=True)]


class Sampler:
    """Draws augmented examples and packs them into batches of about `seconds` of audio."""

    def __init__(self, material: Material, seed: int, seconds: float, strength: float) -> None:
        """`strength`: of augmentation (1 is heavy)."""
        self.material, self.seconds = material, seconds
        self.rng = np.random.default_rng(seed)
        self.augment = Augmenter(self.rng, [u.samples for u in material.background], strength)
        self.stage = 0

    def batches(self) -> Iterator[list[Item]]:
        """Endless batches; examples of a pool are sorted by length so that little padding is needed."""
        while True:
            stage, pool = self.stage, sorted((self.draw() for _ in range(96)), key=lambda item: len(item.samples))
            groups: list[list[Item]] = [[]]
            for item in pool:
                if (len(groups[-1]) + 1) * len(item.samples) > self.seconds * RATE and groups[-1]:
                    groups.append([])
                groups[-1].append(item)
            for i in self.rng.permutation(len(groups)):
                if stage == self.stage:
                    yield groups[i]

    def draw(self) -> Item:
        """One example of the current stage (0 single words, 1 pairs, 2 everything)."""
        rng, material = self.rng, self.material
        count = (1, 2, int(rng.integers(1, 8)))[self.stage]
        kind = rng.random()
        if kind < 0.27:
            return self._spliced(material.fsdd, count, 0.85, 1.3)
        if kind < 0.52 and material.accented.speakers:
            return self._spliced(material.accented, count, 0.8, 1.2)
        if kind < 0.65 and self.stage == 2:
            return self._whole(material.accented_strings, 0.72, 1.25)
        if kind < 0.84 and self.stage == 2:
            return self._whole(material.synthetic, 0.8, 1.4)
        return self._spliced(material.voices, count, 0.8, 1.4)

    def _whole(self, pool: list[Utterance], low: float, high: float) -> Item:
        u = pool[self.rng.integers(len(pool))]
        samples = speed(u.samples.astype(np.float32) / 32768, float(self.rng.uniform(low, high)))
        return Item(self.augment(samples)[0], " ".join(u.words))

    def _spliced(self, bank: WordBank, count: int, low: float, high: float) -> Item:
        speakers = list(bank.speakers)
        string = splice(bank, speakers[self.rng.integers(len(speakers))], count, self.rng)
        string = string.respeed(float(self.rng.uniform(low, high)))
        samples, start = self.augment(string.samples)
        frames = np.zeros(len(samples) // FRAME, dtype=np.int64)
        for word, (first, last) in zip(string.words, string.spans, strict=True):
            frames[(start + first) // FRAME : (start + last) // FRAME] = 1 + DIGITS.index(word)
        return Item(samples, " ".join(string.words), frames)


def build_processor() -> Wav2Vec2Processor:
    """Feature extractor and word tokenizer (15 classes)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.json")
        path.write_text(json.dumps(VOCABULARY), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(
            str(path),
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            pad_token="<pad>",
            word_delimiter_token="|",
        )
    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=RATE, padding_value=0.0, do_normalize=True, return_attention_mask=False
    )
    return Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)


def build_model(seed: int) -> Wav2Vec2ForCTC:
    """The wav2vec 2.0 base form in small, with random weights."""
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        conv_dim=(128,) * 7,
        num_conv_pos_embeddings=64,
        num_conv_pos_embedding_groups=16,
        hidden_dropout=0.1,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.05,
        final_dropout=0.1,
        layerdrop=0.0,
        mask_time_prob=0.06,
        mask_time_length=5,
        mask_feature_prob=0.0,
        pad_token_id=0,
        ctc_loss_reduction="sum",
        ctc_zero_infinity=False,
    )
    return Wav2Vec2ForCTC(config)


def encode(text: str) -> list[int]:
    """Digit words as label numbers."""
    return [VOCABULARY[f" {word}"] for word in text.split()]


class ThreadChooser:
    """Keeps the number of threads that is faster just now: on a busy machine one thread can outrun two that wait."""

    def __init__(self, most: int, every: int = 120, probe: int = 6) -> None:
        """Every `every` steps, `probe` steps are timed with each number of threads from 1 to `most`."""
        self.most, self.every, self.probe, self.step = most, every, probe, 0
        self.costs: dict[int, float] = {}

    def before(self) -> None:
        """Set the number of threads of the coming step."""
        phase = self.step % self.every
        if self.most > 1 and phase < self.probe * self.most:
            self.costs = {} if phase == 0 else self.costs
            torch.set_num_threads(1 + phase // self.probe)
        elif self.costs:
            torch.set_num_threads(min(self.costs, key=lambda n: self.costs[n]))

    def after(self, seconds: float, samples: int) -> None:
        """Note what the step cost."""
        phase = self.step % self.every
        if phase < self.probe * self.most and phase % self.probe:
            threads = 1 + phase // self.probe
            self.costs[threads] = self.costs.get(threads, 0.0) + seconds / samples
        self.step += 1


def frame_targets(batch: list[Item], frames: int) -> torch.Tensor:
    """The word of every frame of a batch, -100 where it is not known."""
    targets = torch.full((len(batch), frames), -100)
    for row, item in zip(targets, batch, strict=True):
        if item.frames is not None:
            row[: len(item.frames)] = torch.from_numpy(item.frames[:frames])
    return targets


class Trainer:
    """Model, auxiliary head, optimiser and moving average; `step` is one update."""

    def __init__(self, seed: int, rate: float) -> None:
        """`rate`: the highest learning rate."""
        self.model = build_model(seed).train()
        self.model.set_attn_implementation("eager")  # on short strings the fused kernel's backward pass is slower
        self.head = torch.nn.Linear(self.model.config.hidden_size, 1 + len(DIGITS))
        self.modules = torch.nn.ModuleList([self.model, self.head])
        decayed = [p for p in self.modules.parameters() if p.ndim > 1]
        others = [p for p in self.modules.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-8)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.rate, self.steps, self.seconds = rate, 0, 0.0

    def step(self, batch: list[Item], progress: float) -> tuple[float, float]:
        """One update; the CTC loss per word and the framewise loss."""
        factor = min(1.0, (self.steps + 1) / 300) * max(0.01, min(1.0, 1.6 * (1 - progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        losses = self.losses(batch)
        (losses[0] + losses[1]).backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 2.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        self._update_average()
        return float(losses[0].detach()), float(losses[1].detach())

    def losses(self, batch: list[Item]) -> tuple[torch.Tensor, torch.Tensor]:
        """The CTC loss per word, and the cross-entropy of the words frame by frame where their places are known."""
        longest = max(len(item.samples) for item in batch)
        audio = torch.from_numpy(np.stack([np.pad(i.samples, (0, longest - len(i.samples))) for i in batch]))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.dropout(self.model.wav2vec2(audio)[0])
            logits, words = self.model.lm_head(hidden), self.head(hidden)
        labels = [torch.tensor(encode(item.text)) for item in batch]
        lengths = torch.tensor([len(x) for x in labels])
        log_probs = logits.float().log_softmax(-1).transpose(0, 1)
        frames = torch.full((len(batch),), log_probs.shape[0])
        ctc = torch.nn.functional.ctc_loss(
            log_probs, torch.cat(labels), frames, lengths, reduction="none", zero_infinity=True
        )
        targets = frame_targets(batch, words.shape[1])
        known = (targets >= 0).sum().clamp_min(1)
        framewise = torch.nn.functional.cross_entropy(words.float().transpose(1, 2), targets, reduction="sum") / known
        return (ctc / lengths).mean(), framewise

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.999, self.steps / (self.steps + 20))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def averaged_model(self) -> Wav2Vec2ForCTC:
        """A copy of the model with the averaged weights, ready to measure."""
        model = Wav2Vec2ForCTC(self.model.config)
        model.load_state_dict(self.average)
        return model.eval()

    def start_from(self, folder: Path) -> None:
        """Take the weights of an earlier run, as far as they have the same shape; nothing else of it is kept."""
        own, earlier = self.model.state_dict(), Wav2Vec2ForCTC.from_pretrained(folder).state_dict()
        self.model.load_state_dict(own | {k: v for k, v in earlier.items() if v.shape == own[k].shape})
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Everything needed to resume."""
        state: dict[str, object] = {"steps": self.steps, "seconds": self.seconds, "average": self.average}
        state |= {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Continue from `save`."""
        state = torch.load(path)
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.steps, self.seconds = state["average"], state["steps"], state["seconds"]


@torch.no_grad()
def log_probabilities(model: Wav2Vec2ForCTC, samples: np.ndarray) -> np.ndarray:
    """Frame-wise log-probabilities of one recording (int16)."""
    x = torch.from_numpy(samples.astype(np.float32))
    x = (x - x.mean()) / (x.std() + 1e-7)
    return model(x[None]).logits[0].float().log_softmax(-1).numpy()


def cut_accented(model: Wav2Vec2ForCTC, utterances: list[Utterance]) -> WordBank:
    """Cut digit utterances into words where `model` hears them."""
    bank = WordBank()
    for u in utterances:
        log_probs = log_probabilities(model, u.samples)
        spans = align(log_probs, encode(" ".join(u.words)))
        words = [(first * FRAME, last * FRAME + FRAME) for first, last in spans]
        for word, samples in cut_words(u, words):
            bank.add(u.speaker, word, samples)
    return bank


def transcribe(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, samples: np.ndarray) -> str:
    """Greedy CTC transcript of one recording (int16)."""
    return str(processor.decode(log_probabilities(model, samples).argmax(-1)))


def measure(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, manifest: Path) -> str:
    """The word error rate on a manifest, in words."""
    utterances = read_manifest(manifest)
    reference = [" ".join(u.words) for u in utterances]
    result = jiwer.process_words(reference, [transcribe(model, processor, u.samples) for u in utterances])
    words = sum(len(u.words) for u in utterances)
    return (
        f"{manifest.parent.name}/{manifest.name}: WER {100 * result.wer:.2f} % of {words} words "
        f"({result.substitutions} sub, {result.deletions} del, {result.insertions} ins)"
    )


def export(trainer: Trainer, processor: Wav2Vec2Processor, folder: Path) -> Wav2Vec2ForCTC:
    """Write the averaged model and the processor to `folder`."""
    model = trainer.averaged_model()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def report(model: Wav2Vec2ForCTC, processor: Wav2Vec2Processor, speech: Path) -> None:
    """Print the word error rates on the sets that are not trained on."""
    clips = ROOT / "calibration" / "clips" / "evaluate" / "manifest.jsonl"
    sets = [speech / "digits-test" / "manifest.jsonl", speech / "so762-dev" / "digits.jsonl", clips]
    for manifest in sets:
        if manifest.exists():
            print("   ", measure(model, processor, manifest), flush=True)


def train(options: argparse.Namespace) -> None:
    """The whole training run."""
    options.work.mkdir(parents=True, exist_ok=True)
    material = load_material(options.speech, options.work / "synthetic.npz", options.synthetic, options.seed)
    trainer, processor = Trainer(options.seed, options.rate), build_processor()
    if options.resume and (options.work / "checkpoint.pt").exists():
        trainer.load(options.work / "checkpoint.pt")
    elif options.init:
        trainer.start_from(options.init)
    sampler = Sampler(material, options.seed + trainer.steps, options.batch_seconds, options.augment)
    print(f"{len(material.synthetic)} synthetic strings, {len(material.voices.speakers)} voices", flush=True)
    loop(options, trainer, sampler, processor)
    model = export(trainer, processor, options.output)
    print(f"done: {trainer.steps} steps, {trainer.seconds / 60:.1f} minutes")
    report(model, processor, options.speech)


def loop(options: argparse.Namespace, trainer: Trainer, sampler: Sampler, processor: Wav2Vec2Processor) -> None:
    """Train until the time budget is used up."""
    batches, budget = sampler.batches(), 60 * options.minutes
    seen, saved, reported = np.zeros(3), trainer.seconds, trainer.seconds
    threads = ThreadChooser(options.threads)
    while trainer.seconds < budget:
        start = time.perf_counter()
        threads.before()
        set_stage(trainer, sampler, options)
        batch = next(batches)
        seen += (*trainer.step(batch, trainer.seconds / budget), 1)
        spent = time.perf_counter() - start
        threads.after(spent, sum(len(item.samples) for item in batch))
        trainer.seconds += min(3.0, spent)
        if trainer.steps % 50 == 0:
            mean = seen[:2] / seen[2]
            losses = f"CTC {mean[0]:.3f}, framewise {mean[1]:.3f}"
            print(f"{trainer.steps} steps, {trainer.seconds:.0f} s, {losses}, {torch.get_num_threads()} threads")
            seen[:] = 0
        if trainer.seconds - saved > 150:
            saved = trainer.seconds
            trainer.save(options.work / "checkpoint.pt")
        if trainer.seconds - reported > 60 * options.report_minutes:
            reported = trainer.seconds
            report(export(trainer, processor, options.output), processor, options.speech)


def set_stage(trainer: Trainer, sampler: Sampler, options: argparse.Namespace) -> None:
    """Advance the curriculum, and cut the accented words anew from time to time as the model improves."""
    singles, pairs = options.curriculum
    sampler.stage = 0 if trainer.steps < singles else 1 if trainer.steps < pairs else 2
    first = pairs + (0 if options.init else 200)
    due = trainer.steps >= first and (trainer.steps - first) % 600 == 0
    if due or (trainer.steps > first and not sampler.material.accented.speakers):
        strings = sampler.material.accented_strings
        sampler.material.accented = cut_accented(trainer.averaged_model(), strings)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line options."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--speech", type=Path, default=ROOT.parent / "shared" / "speech")
    parser.add_argument("--output", type=Path, default=ROOT / "calibration" / "model")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "stablequant-train")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--report-minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--batch-seconds", type=float, default=28)
    parser.add_argument("--augment", type=float, default=0.4)
    parser.add_argument("--synthetic", type=int, default=8000)
    parser.add_argument("--curriculum", type=int, nargs=2, default=(300, 600), metavar=("SINGLES", "PAIRS"))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--init", type=Path, help="start from the weights of an earlier run (use --curriculum 0 0)")
    parser.add_argument("--evaluate", action="store_true")
    return parser.parse_args(arguments)


def main() -> None:
    """Command line entry."""
    options = parse()
    torch.set_num_threads(options.threads)
    if options.evaluate:
        model = Wav2Vec2ForCTC.from_pretrained(options.output).eval()
        report(model, Wav2Vec2Processor.from_pretrained(options.output), options.speech)
        return
    train(options)


if __name__ == "__main__":
    main()
