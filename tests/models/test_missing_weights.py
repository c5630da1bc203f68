"""What a checkpoint may lack: all that no operator of a forward pass reads, and nothing else."""

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from stablequant.foundation.errors import InputError
from stablequant.models import missing_weights
from stablequant.models.checkpoint import read

every_model = pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)


@every_model
def test_what_is_read_is_what_has_a_gradient(family, form):
    """Held against another way to know."""
    model, x = tiny.build(family, form, mask_time_prob=0.05), torch.from_numpy(tiny.wave(0))[None]
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(model(x).logits.sum(), parameters, allow_unused=True)
    expected = {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
    assert missing_weights.read_by_inference(model, names, lambda: model(x)) == expected
    assert [name for name in names if name not in expected and "masked_spec_embed" in name]


@every_model
def test_a_checkpoint_without_what_is_not_read_is_whole(family, form, tmp_path):
    """As facebook/wav2vec2-base-960h, which has no mask embedding; and two loads give one model."""
    folder = tiny.save(tmp_path, family, form, mask_time_prob=0.05)
    expected = tiny.logits(read.load(str(folder)), tiny.wave(0))
    weights = load_file(folder / "model.safetensors")
    dropped = [name for name in weights if name.endswith("masked_spec_embed")]
    assert len(dropped) == 1
    save_file({k: v for k, v in weights.items() if k not in dropped}, folder / "model.safetensors", {"format": "pt"})
    first, second = read.load(str(folder)), read.load(str(folder))
    assert torch.equal(tiny.logits(first, tiny.wave(0)), expected)
    assert not first.model.state_dict()[dropped[0]].any()
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


OLD = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}


def old_name(name):
    for new, old in OLD.items():
        name = name.replace(new, old)
    return name.replace("masked_spec_embed", "mask_time_emb_vector")


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat"])
def test_names_of_2021(family, tmp_path):
    """weight_g and weight_v of the positional convolution, and another mask embedding."""
    folder = tiny.save(tmp_path, family)
    expected = tiny.logits(read.load(str(folder)), tiny.wave(0))
    weights = {old_name(name): each for name, each in load_file(folder / "model.safetensors").items()}
    assert any(name.endswith("weight_g") for name in weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(tiny.logits(read.load(str(folder)), tiny.wave(0)), expected)


@pytest.mark.parametrize("part", ["weight_g", "weight_v"])
def test_half_of_a_weight_norm_is_not_enough(tmp_path, part):
    folder = tiny.save(tmp_path)
    weights = {old_name(name): each for name, each in load_file(folder / "model.safetensors").items()}
    kept = {name: each for name, each in weights.items() if not name.endswith(part)}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="missing from the file"):
        read.load(str(folder))


def test_names_behind_a_prefix(tmp_path):
    folder = tiny.save(tmp_path)
    weights = {f"module.{name}": each for name, each in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="begin with 'module'"):
        read.load(str(folder))
