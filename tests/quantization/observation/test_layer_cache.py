import pytest
import tiny
import torch

from stablequant.models.families.sites import find_sites
from stablequant.quantization.observation import layer_cache
from stablequant.quantization.observation.layer_cache import LayerCache
from stablequant.quantization.plan.site import layers_of


def layers_in(model):
    return layers_of(find_sites(model))


class Reached(Exception):  # noqa: N818 (as the one that ends a forward pass, no error)
    pass


def run(relay, model, wave, layer):
    """What `layer` is given, in a pass that ends there."""
    given = []

    def stop(_module, inputs):
        given.append(inputs[0])
        raise Reached

    handle = model.get_submodule(layer).register_forward_pre_hook(stop)
    try:
        with pytest.raises(Reached), torch.inference_mode():
            relay.run(0, len(wave), layer, lambda: model(torch.from_numpy(wave)[None]))
    finally:
        handle.remove()
    return given[0]


@pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)
def test_a_pass_from_where_the_last_one_stopped_gives_the_same(family, form, tmp_path):
    model, wave = tiny.prepared(family, form), tiny.wave(0)
    layers = layers_in(model)
    relay = LayerCache(model, layers, tmp_path)
    for layer in layers[1:]:
        again = LayerCache(model, layers, tmp_path / "again")
        again.folder.mkdir(exist_ok=True)
        assert torch.equal(run(relay, model, wave, layer), run(again, model, wave, layer))
    assert max(relay.ran[layer] for layer in layers if "conv_layers" not in layer) == 1
    assert not any(hasattr(module, "forward") and "forward" in vars(module) for module in model.modules())


def test_what_takes_too_much_room_is_not_kept(tmp_path, monkeypatch):
    model, wave = tiny.prepared("wavlm", "base"), tiny.wave(0)
    layers = layers_in(model)
    monkeypatch.setattr(layer_cache, "MOST_KEPT", 0)
    relay = LayerCache(model, layers, tmp_path)
    for layer in layers[1:]:
        run(relay, model, wave, layer)
    assert not any(tmp_path.iterdir())
    assert [relay.ran[layer] for layer in layers] == list(range(len(layers) - 1, -1, -1))


def test_a_full_disk_is_an_error(tmp_path):
    model, wave = tiny.prepared("wav2vec2", "base"), tiny.wave(0)
    layers = layers_in(model)
    relay = LayerCache(model, layers, tmp_path / "gone")
    with pytest.raises(OSError, match="No such file"):
        run(relay, model, wave, layers[-1])
