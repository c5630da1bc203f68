"""What every family of networks has to do, whichever file it is: models/families/base.py."""

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from stablequant.foundation import registry
from stablequant.models.families.base import families

EXAMPLES = {
    "wav2vec2": tiny.MODELS,
    "whisper": tiny.WHISPERS,
}  # of each file, the tiny models (model type, form) that tiny.py builds
CASES = [(name, *example) for name, examples in EXAMPLES.items() for example in examples]
every_example = pytest.mark.parametrize(("name", "kind", "form"), CASES, ids=["-".join(case[1:]) for case in CASES])


def logits(family, model, samples=4000):
    """(1, steps, symbols) of a recording."""
    return model(**family.inputs(tiny.extractor(model), tiny.wave(0, samples), tiny.RATE), **tiny.prompt(model)).logits


def test_every_file_and_every_model_type_has_an_example():
    assert set(EXAMPLES) == set(registry.names("families"))
    assert {kind for _, kind, _ in CASES} == set(families())


@every_example
def test_preparing_changes_no_logits_and_leaves_every_weight_at_its_module(name, kind, form):
    family, model = registry.get("families", name), tiny.build(kind, form)
    with torch.inference_mode():
        before = logits(family, model)
        after = logits(family, family.prepare(model))
    assert tiny.relative(after, before) <= 1e-5
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


@every_example
def test_sites_are_all_modules_with_a_matrix_in_the_order_in_which_they_run(name, kind, form):
    family = registry.get("families", name)
    model, order = family.prepare(tiny.build(kind, form)), []
    sites = family.sites(model)
    matrices = {
        each
        for each, module in model.named_modules()
        if isinstance(w := getattr(module, "weight", None), Tensor) and w.ndim > 1
    }
    assert {site.name for site in sites} == matrices
    handles = [
        model.get_submodule(site.name).register_forward_pre_hook(lambda *_, layer=site.layer: order.append(layer))
        for site in sites
    ]
    with torch.inference_mode():
        logits(family, model)
    for handle in handles:
        handle.remove()
    ran = list(dict.fromkeys(order))
    assert ran == [layer for layer in dict.fromkeys(site.layer for site in sites) if layer in ran]
    assert all(site.reason is None or len(site.reason) > 10 for site in sites)
    assert any(site.reason is None for site in sites)


@every_example
def test_sites_that_read_one_tensor_read_the_same_one(name, kind, form):
    family = registry.get("families", name)
    model, seen = family.prepare(tiny.build(kind, form)), {}
    for site in family.sites(model):
        keep = lambda _m, args, key=site.input_key: seen.setdefault(key, []).append(args[0])  # noqa: E731
        model.get_submodule(site.name).register_forward_pre_hook(keep)
    with torch.inference_mode():
        logits(family, model)
    shared = [tensors for tensors in seen.values() if len(tensors) > 1]
    assert shared
    assert all(torch.equal(each, tensors[0]) for tensors in shared for each in tensors)


@every_example
def test_inputs_are_what_the_feature_extractor_returns(name, kind, form):
    family, extractor = registry.get("families", name), tiny.extractor(tiny.build(kind, form))
    [(key, found)] = family.inputs(extractor, tiny.wave(0), tiny.RATE).items()
    assert key == family.INPUT == extractor.model_input_names[0]
    assert (found.dtype, len(found)) == (torch.float32, 1)


@every_example
def test_geometry_is_that_of_the_steps(name, kind, form):
    family, model = registry.get("families", name), tiny.build(kind, form)
    geometry = family.geometry(model.config)
    if geometry.window is not None:
        for samples in (geometry.fewest, 4000, geometry.window):
            inputs = family.inputs(tiny.extractor(model), tiny.wave(0, samples), tiny.RATE)
            with torch.inference_mode():
                states = model.get_encoder()(**inputs).last_hidden_state
            assert states.shape[1] * geometry.stride == geometry.window
        return
    with torch.inference_mode():
        steps = [logits(family, model, 4000 + more * geometry.stride).shape[1] for more in (0, 1, 5)]
        fewest = logits(family, model, geometry.fewest).shape[1]
        with pytest.raises(RuntimeError):
            logits(family, model, geometry.fewest - 1)
    assert [steps[1] - steps[0], steps[2] - steps[0]] == [1, 5]
    assert fewest == 1
