"""What holds for every engine, which is every module of the folder that can lower a model."""

import copy
import importlib
import pkgutil

import pytest
import tiny
import torch
from torch import nn

from stablequant import engines
from stablequant.engines import quantized_site
from stablequant.engines.simulation import simulate
from stablequant.models.families.base import families
from stablequant.models.families.sites import find_sites
from stablequant.quantization.plan.site import canonical_weight
from stablequant.quantization.search import rounding_pass

# Relative error of the logits, Euclidean, in whatever number format an engine has on this machine, of models with
# random weights that dampen nothing; engines/onednn/test_engine.py has closer bounds. A site alone errs by roundings.
BOUND = 6e-2
SITE_BOUND = 1e-5
NAMES = [info.name for info in pkgutil.iter_modules(engines.__path__)]
MODULES = [importlib.import_module(f"{engines.__name__}.{name}") for name in NAMES]
ENGINES = {module.__name__.rpartition(".")[2]: module for module in MODULES if hasattr(module, "lower")}

every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))


def test_the_engines_are_found():
    assert {"onednn", "simulation"} <= set(ENGINES)
    assert all(callable(engine.refuses) for engine in ENGINES.values())


@every_engine
@pytest.mark.parametrize("bits", [(8, 8), (4, 8)], ids=["w8a8", "w4a8, mid-rise"])
@pytest.mark.parametrize(("family", "form"), tiny.MODELS, ids=tiny.IDS)
def test_a_lowered_model_computes_as_the_simulation(engine, family, form, bits):
    model = tiny.prepared(family, form)
    sites = {site.name: site for site in find_sites(model)}
    choices, weights = tiny.max_plan(model, bits, waves=[tiny.wave(0)])
    if bits == (4, 8):
        choices |= {name: tiny.on_input(c, mid_rise=True) for name, c in choices.items() if sites[name].unpadded_conv}
    assert [engine.refuses(sites[name], choice) for name, choice in choices.items()] == [None] * len(choices)
    lowered = engine.lower(quantized_site.convert(copy.deepcopy(model), choices, weights))
    assert lowered.reasons == {}
    for samples in (400, 719, 4000):
        waveform = torch.from_numpy(tiny.wave(3, samples))[None]
        with torch.inference_mode():
            with simulate(model, choices, weights):
                expected = model(waveform).logits
            found = lowered.model(waveform).logits
        assert found.shape == expected.shape
        assert tiny.relative(found, expected) <= BOUND, samples


@every_engine
@pytest.mark.parametrize("bits", [(8, 8), (4, 8), (2, 8)], ids=["w8a8", "w4g16a8", "w2g16a8"])
@pytest.mark.parametrize("form", [form for _, form in tiny.WHISPERS])
def test_a_lowered_whisper_computes_as_the_simulation(engine, form, bits):
    """The whole of it, the table of tokens among it; and every site alone, on what the float model gives it."""
    model = tiny.prepared("whisper", form, sharp=False)
    choices, weights = tiny.max_plan(model, bits)
    inputs = tiny.site_inputs(model, list(choices), tiny.wave(3))
    sites = {site.name: site for site in families()["whisper"].sites(model)}
    assert [engine.refuses(sites[name], choice) for name, choice in choices.items()] == [None] * len(choices)
    lowered = engine.lower(quantized_site.convert(copy.deepcopy(model), choices, weights))
    assert lowered.reasons == {}
    with torch.inference_mode():
        with simulate(model, choices, weights):
            expected = [tiny.forward(model, tiny.wave(seed)) for seed in range(4)]
            alone = {name: model.get_submodule(name)(x) for name, x in inputs.items()}
        for seed, logits in enumerate(expected):
            assert tiny.relative(tiny.forward(lowered.model, tiny.wave(seed)), logits) <= BOUND, seed
        for name, x in inputs.items():
            module = lowered.model.get_submodule(name)
            if isinstance(module, quantized_site.QuantizedSite):
                assert tiny.relative(module(x), alone[name]) <= SITE_BOUND, name


@every_engine
@pytest.mark.parametrize("bits", [(8, 8), (3, 8)], ids=["w8a8", "w3a8"])
def test_lowering_and_running_leave_the_state_as_it_is_stored(engine, bits):
    model = tiny.prepared(num_hidden_layers=1)
    quantized_site.convert(model, *tiny.max_plan(model, bits, waves=[tiny.wave(0)]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lowered = engine.lower(model).model
    with torch.inference_mode():
        lowered(torch.from_numpy(tiny.wave(3))[None])
    after = lowered.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


MODULES_ALONE = {
    "linear": lambda: nn.Linear(8, 12),
    "plain": lambda: nn.Conv1d(8, 12, 3),
    "padded": lambda: nn.Conv1d(8, 12, 3, padding=2),
    "dilated": lambda: nn.Conv1d(8, 12, 3, dilation=2),
    "grouped": lambda: nn.Conv1d(8, 12, 3, groups=2, padding=2),
    "depthwise": lambda: nn.Conv1d(80, 80, 3, groups=80),
}


@every_engine
@pytest.mark.parametrize("mid_rise", [False, True], ids=["mid-tread", "mid-rise"])
@pytest.mark.parametrize("kind", MODULES_ALONE)
def test_a_site_that_is_refused_runs_as_it_is_and_has_that_reason(engine, kind, mid_rise):
    torch.manual_seed(0)
    module = MODULES_ALONE[kind]()
    model = nn.ModuleDict({"layers": module})
    [site] = find_sites(model)
    choice = tiny.quantized(site, mid_rise=mid_rise)
    [weight] = rounding_pass.round_site(canonical_weight(module), [choice])
    x = torch.randn(2, 5, 8) if kind == "linear" else torch.randn(2, module.in_channels, 30)
    with torch.inference_mode(), simulate(model, {"layers": choice}, {"layers": weight}):
        expected = module(x)
    lowered = engine.lower(quantized_site.convert(model, {"layers": choice}, {"layers": weight}))
    assert lowered.reasons.get("layers") == engine.refuses(site, choice)
    assert engine.refuses(site) in (None, engine.refuses(site, choice))
    with torch.inference_mode():
        assert tiny.relative(lowered.model["layers"](x), expected) <= SITE_BOUND
