"""Random models of every family and form that are small enough to run in milliseconds, and plans for them.

Every bias and gain is drawn at random too, so that none of them can be forgotten without changing a result.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import (
    GenerationConfig,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Processor,
    WhisperFeatureExtractor,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from stablequant.engines import onednn, quantized_site
from stablequant.models.families.base import families
from stablequant.models.recognizer import Recognizer
from stablequant.models.tasks import ctc, seq2seq
from stablequant.models.tasks.base import PLAIN
from stablequant.quantization.observation import collect
from stablequant.quantization.plan.choice import Quantized, input_choice
from stablequant.quantization.plan.site import Site, canonical_weight
from stablequant.quantization.search import rounding_pass
from stablequant.quantization.search.choices import weight_choice
from stablequant.quantization.weight_formats.base import weight_format

RATE = 16000
VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "|", "A", "B", "C")
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,  # 16 channels a group, where oneDNN's own convolutions are wrong
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
}
CLASSES = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "unispeech": "UniSpeech",
    "unispeech-sat": "UniSpeechSat",
    "data2vec-audio": "Data2VecAudio",
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FORMS = {
    "base": {},
    "base-bias": {"conv_bias": True},
    "large": LARGE,
    "adapter": LARGE | {"add_adapter": True, "num_adapter_layers": 2, "output_hidden_size": 32},
    "attn-adapter": LARGE | {"adapter_attn_dim": 16},
}
# Data2Vec-audio has one form (layer norms, post-norm, five positional convolutions), with or without an adapter.
DATA2VEC = {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2}


# Whisper with a window of one second. Its vocabulary is that of OpenAI's in little: bytes, then special tokens.
WINDOW = 50  # steps
SPECIAL = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    *(f"<|{0.02 * step:.2f}|>" for step in range(WINDOW + 1)),
)
BYTES = tuple(bytes_to_unicode().values())
TOKENS = {token: place for place, token in enumerate((*BYTES, *SPECIAL))}
WRITTEN = {*"ABCDEFGH", "Ġ", "<|endoftext|>"}  # what a tiny Whisper mostly writes
WHISPER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "num_mel_bins": 8,
    "max_source_positions": WINDOW,
    "max_target_positions": 32,
    "vocab_size": len(TOKENS),
    "decoder_start_token_id": TOKENS["<|startoftranscript|>"],
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), TOKENS["<|endoftext|>"]),
}
SHARP = {"encoder_attn.q_proj": 8.0, "encoder_attn.out_proj": 4.0, "q_proj": 4.0, "embed_positions": 4.0}
WHISPERS = (("whisper", "english"), ("whisper", "multilingual"), ("whisper", "80 mels"))


def _forms(family):
    known = vars(config(family, "base"))
    forms = ["base", *(["base-bias", "large"] if family != "data2vec-audio" else [])]
    return forms + [f for f, key in (("adapter", "add_adapter"), ("attn-adapter", "adapter_attn_dim")) if key in known]


def config(family, form, **changes):
    settings = SMALL | FORMS[form] | changes
    if family == "data2vec-audio":
        settings = {k: v for k, v in settings.items() if k not in LARGE} | DATA2VEC
    return getattr(transformers, CLASSES[family] + "Config")(**settings)


MODELS = tuple((family, form) for family in CLASSES for form in _forms(family))
IDS = ["-".join(each) for each in MODELS]


def build(family="wav2vec2", form="base", **changes):
    """A random float model as transformers makes it, in eval mode."""
    if family == "whisper":
        return build_whisper(form, **changes)
    torch.manual_seed(0)
    model = getattr(transformers, CLASSES[family] + "ForCTC")(config(family, form, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.ndim == 1:
                parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
            elif "conv_layers" not in name and "pos_conv" not in name:
                parameter.mul_(4)  # so that inputs reach the logits
    return model


def build_whisper(form, *, sharp=True, **changes):
    """A random Whisper that writes letters and spaces, others for each recording.

    For that its attention is so sharp that a recording 0.1 % louder changes its logits by up to 10 %; without `sharp`
    it dampens as trained ones do.
    """
    torch.manual_seed(5)
    settings = WHISPER | ({"num_mel_bins": 80} if form == "80 mels" else {}) | changes
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**settings)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                more = next((factor for part, factor in SHARP.items() if sharp and part in name), 1.5)
                parameter.normal_(std=more / parameter[0].numel() ** 0.5)
        table = model.model.decoder.embed_tokens.weight
        table.mul_(0.1)  # or a token would most likely be followed by itself, as its row is also its logit's
        table[[number for token, number in TOKENS.items() if token not in WRITTEN]] *= 0.05
        table[TOKENS["<|endoftext|>"]] *= 0.5  # some texts end at once, others are the longest
        model.model.decoder.layer_norm.weight.mul_(20)
    model.generation_config = generation_config(form != "english")
    return model


def generation_config(multilingual):
    """As OpenAI's checkpoints have it."""
    number = TOKENS.__getitem__
    languages = {
        "is_multilingual": True,
        "lang_to_id": {token: number(token) for token in ("<|en|>", "<|de|>")},
        "task_to_id": {task: number(f"<|{task}|>") for task in ("translate", "transcribe")},
    }
    return GenerationConfig(
        decoder_start_token_id=number("<|startoftranscript|>"),
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), number("<|endoftext|>")),
        no_timestamps_token_id=number("<|notimestamps|>"),
        prev_sot_token_id=number("<|startofprev|>"),
        suppress_tokens=[*range(5), *(number(token) for token in SPECIAL[1:9])],
        begin_suppress_tokens=[number("Ġ"), number("<|endoftext|>")],
        max_length=WHISPER["max_target_positions"],
        max_initial_timestamp_index=1,
        alignment_heads=[[0, 1], [1, 0], [1, 3]],
        return_timestamps=False,
        **(languages if multilingual else {"is_multilingual": False}),
    )


def prepared(family="wav2vec2", form="base", **changes):
    model = build(family, form, **changes)
    return families()[model.config.model_type].prepare(model)


def wave(seed, samples=4000):
    """Noise whose loudness moves, (samples,) float32."""
    rng = np.random.default_rng(seed)
    loudness = 0.3 + 0.2 * np.sin(np.arange(samples) / 900 + seed)
    return (loudness * rng.standard_normal(samples)).astype(np.float32)


def processor(folder):
    """The processor of a model with VOCABULARY; its vocabulary file lies in `folder`."""
    (folder / "vocab.json").write_text(json.dumps({symbol: place for place, symbol in enumerate(VOCABULARY)}))
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), Wav2Vec2CTCTokenizer(str(folder / "vocab.json")))


def whisper_processor(mels=8):
    """The processor of a tiny Whisper."""
    tokenizer = WhisperTokenizer(
        vocab=dict(TOKENS),
        merges=[],
        **dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "<|endoftext|>"),
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:10])})
    return WhisperProcessor(WhisperFeatureExtractor(mels, chunk_length=1), tokenizer)


def save(folder, family="wav2vec2", form="base", **changes):
    """A folder as transformers writes it: a random model with its processor."""
    model = build(family, form, **changes)
    model.save_pretrained(folder)
    made = whisper_processor(model.config.num_mel_bins) if family == "whisper" else processor(folder)
    made.save_pretrained(folder)
    return folder


def recognizer(family="wav2vec2", form="base", *, tmp_path, decoding=PLAIN, **changes):
    model = prepared(family, form, **changes)
    known, whisper = families()[model.config.model_type], family == "whisper"
    return Recognizer(
        model=model,
        processor=whisper_processor(model.config.num_mel_bins) if whisper else processor(tmp_path),
        path=str(tmp_path),
        scheme="float32",
        sampling_rate=RATE,
        sites={},
        geometry=known.geometry(model.config),
        family=known,
        task=seq2seq if whisper else ctc,
        decoding=decoding,
    )


def logits(recognizer, waveform):
    """Logits (steps, symbols) of a waveform (samples,), after the tokens that the model writes if it writes any."""
    inputs = recognizer.inputs(waveform)
    return recognizer.logits(inputs, recognizer.forced(inputs))


def extractor(model):
    """Its feature extractor."""
    if model.config.model_type != "whisper":
        return Wav2Vec2FeatureExtractor()
    return WhisperFeatureExtractor(model.config.num_mel_bins, chunk_length=1)


def prompt(model):
    """What a forward pass takes besides the recording: some tokens, if the model has a decoder."""
    if model.config.model_type != "whisper":
        return {}
    tokens = "<|startoftranscript|>", "<|notimestamps|>", *"ABEFGH"
    return {"decoder_input_ids": torch.tensor([[TOKENS[token] for token in tokens]]), "use_cache": False}


def forward(model, waveform):
    """Logits (1, steps, symbols) of a waveform (samples,), which is not normalised."""
    if model.config.model_type != "whisper":
        return model(torch.from_numpy(waveform)[None]).logits
    features = extractor(model)(waveform, sampling_rate=RATE, return_tensors="pt").input_features
    return model(features, **prompt(model)).logits


def max_plan(model, bits=(8, 8), waves=None):
    """(choices, weights) of every site of a prepared model, with max ranges over `waves`."""
    known = families()[model.config.model_type]
    found = tuple(site for site in known.sites(model) if site.reason is None)
    waves = [wave(0), wave(1)] if waves is None else waves
    with torch.inference_mode():
        *_, gathered = collect.histograms(model, found, lambda w: forward(model, w), waves)
    choices, weights = {}, {}
    for site in found:
        seen = gathered[site.name]
        choices[site.name] = quantized(site, bits, seen.minimum, seen.maximum)
        weight = canonical_weight(model.get_submodule(site.name))
        [weights[site.name]] = rounding_pass.round_site(weight, [choices[site.name]])
    return choices, weights


def quantized(site, bits=(8, 8), low=-2.0, high=2.5, mid_rise=False):
    """The choice for a site with this range; weights of 4 bits have offsets, and those of 3 and 2 lie around 0."""
    format = weight_format(bits[0], 16, bits[0] == 4) if bits[0] <= 4 else weight_format(bits[0])
    weight = weight_choice(site, format, "max", "nearest")
    return Quantized(site.layer, site.kind, weight, input_choice(low, high, bits[1], "max", mid_rise=mid_rise))


def site_of(module):
    """A site for a module that stands alone."""
    kind = "linear" if isinstance(module, torch.nn.Linear) else "conv"
    rows, columns = canonical_weight(module).shape
    return Site("m", "m", kind, rows, columns, *(1, 1, 0, 1, 1), reason=None)


def on_input(choice, **changes):
    """The choice with another input."""
    return replace(choice, input=replace(choice.input, **changes))


def integer(model, choices, weights):
    """The model, converted in place, on integer kernels module by module."""
    quantized_site.convert(model, choices, weights)
    assert onednn.use_kernels(model) == {}
    return model.requires_grad_(False).eval()


def integer_sites(model):
    """Names of the sites that run on integer kernels."""
    return tuple(name for name, module in model.named_modules() if isinstance(module, onednn.IntegerModule))


def site_inputs(model, names, waveform):
    """{site: the input that the float model gives it}."""
    inputs, handles = {}, []
    for name in names:
        keep = lambda _m, args, name=name: inputs.__setitem__(name, args[0].clone())  # noqa: E731
        handles.append(model.get_submodule(name).register_forward_pre_hook(keep))
    with torch.inference_mode():
        forward(model, waveform)
    for handle in handles:
        handle.remove()
    return inputs


def relative(found, expected):
    """Relative error of a tensor in the Euclidean norm."""
    return float((found - expected).double().norm() / expected.double().norm())


def sfm_quant(*arguments, **options):
    """The real command in a process of its own."""
    command = [Path(sys.executable).with_name("sfm-quant"), *map(str, arguments)]
    return subprocess.run(command, **{"capture_output": True, "text": True, "check": False, "timeout": 120} | options)
