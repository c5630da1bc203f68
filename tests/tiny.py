"""Random models of every family and form that are small enough to run in milliseconds, and plans for them.

Every bias and gain is drawn at random too, so that none of them can be forgotten without changing a result.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2Processor

from stablequant.engines import onednn, state
from stablequant.models.families import discovery, wav2vec2
from stablequant.models.recognizer import Recognizer
from stablequant.quantization.numerics.activation_grid import affine, unsigned_grid
from stablequant.quantization.observation import collect
from stablequant.quantization.plan.choice import Choice
from stablequant.quantization.plan.site import canonical_weight
from stablequant.quantization.search import rounding_pass

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


def prepared(family="wav2vec2", form="base", **changes):
    return wav2vec2.prepare(build(family, form, **changes))


def wave(seed, samples=4000):
    """Noise whose loudness moves, (samples,) float32."""
    rng = np.random.default_rng(seed)
    loudness = 0.3 + 0.2 * np.sin(np.arange(samples) / 900 + seed)
    return (loudness * rng.standard_normal(samples)).astype(np.float32)


def processor(folder):
    """The processor of a model with VOCABULARY; its vocabulary file lies in `folder`."""
    (folder / "vocab.json").write_text(json.dumps({symbol: place for place, symbol in enumerate(VOCABULARY)}))
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), Wav2Vec2CTCTokenizer(str(folder / "vocab.json")))


def save(folder, family="wav2vec2", form="base", **changes):
    """A folder as transformers writes it: a random model with its processor."""
    build(family, form, **changes).save_pretrained(folder)
    processor(folder).save_pretrained(folder)
    return folder


def recognizer(family="wav2vec2", form="base", *, tmp_path, **changes):
    model = prepared(family, form, **changes)
    return Recognizer(model, processor(tmp_path), str(tmp_path), "float32", RATE, {}, 400)


def max_plan(model, bits=(8, 8), waves=None):
    """(choices, weights) of every site of a prepared model, with max ranges over `waves`."""
    found = tuple(site for site in discovery.discover(model) if site.reason is None)
    waves = [wave(0), wave(1)] if waves is None else waves
    with torch.inference_mode():
        *_, gathered = collect.histograms(model, found, lambda w: model(torch.from_numpy(w)[None]), waves)
    choices, weights = {}, {}
    for site in found:
        seen = gathered[site.name]
        scale, zero_point = affine(seen.minimum, seen.maximum, unsigned_grid(bits[1]))
        choices[site.name] = Choice(
            site.layer,
            site.kind,
            weight_bits=bits[0],
            weight_group=16 if bits[0] <= 4 else None,
            weight_asymmetric=bits[0] == 4 or None,  # 3 and 2 bits lie around 0
            weight_method="max",
            rounding="nearest",
            input_bits=bits[1],
            low=seen.minimum,
            high=seen.maximum,
            scale=scale,
            zero_point=zero_point,
        )
        weight = canonical_weight(model.get_submodule(site.name))
        [weights[site.name]] = rounding_pass.round_site(weight, [choices[site.name]])
    return choices, weights


def integer(model, choices, weights):
    """The model, converted in place, on integer kernels module by module."""
    state.convert(model, choices, weights)
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
        model(torch.from_numpy(waveform)[None])
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
