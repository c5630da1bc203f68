import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from stablequant.models.families.sites import find_sites
from stablequant.quantization.observation import gram
from stablequant.quantization.observation.gram import Gram
from stablequant.quantization.plan.site import Site


def conv(**changes):
    settings = {
        "out_channels": 8,
        "in_channels": 3,
        "kernel": 6,
        "stride": 2,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
    }
    return Site(
        "c", "c", "grouped conv" if changes.get("groups", 1) > 1 else "conv", **(settings | changes), reason=None
    )


def signal(channels, frames, seed=0):
    x = np.random.default_rng(seed).standard_normal((1, channels, frames))
    return torch.from_numpy(np.cumsum(x, 2).astype(np.float32) / 4)  # neighbours depend on each other


def windows(x, site):
    """(windows, channels * kernel) float64, as the canonical weight's rows lie."""
    padded = F.pad(x[0].double(), (site.padding, site.padding))
    return padded.unfold(1, site.kernel, site.stride).permute(1, 0, 2).flatten(1)


@pytest.mark.parametrize("padding", [0, 2])
def test_a_convolution_sees_its_windows(padding):
    site = conv(padding=padding)
    found, x = Gram(site), [signal(3, 200, seed) for seed in (0, 1)]
    for half in (0, 1):
        found.add(x[half], half)
    [(columns, matrices)] = found.blocks()
    assert columns == slice(None)
    for matrix, each in zip(matrices, x, strict=True):
        expected = windows(each, site)
        assert torch.allclose(matrix.double(), expected.T @ expected, rtol=1e-4, atol=1e-3)


def test_a_long_recording_gives_evenly_spread_windows():
    site = conv(stride=1)
    found = Gram(site)
    found.add(signal(3, 3 * gram.WINDOWS), 0)
    rows = windows(signal(3, 3 * gram.WINDOWS), site)[::3]
    assert len(rows) <= gram.WINDOWS
    assert torch.allclose(next(found.blocks())[1][0].double(), rows.T @ rows, rtol=1e-3, atol=1.0)


@pytest.mark.parametrize("longest", [1000, 12], ids=["in one block", "in blocks of channels"])
def test_a_grouped_convolution_sees_windows_that_slide_past_both_ends(longest, monkeypatch):
    monkeypatch.setattr(gram, "LONGEST", longest)
    site = conv(groups=2, stride=1, padding=3)
    found, x = Gram(site), signal(6, 40)
    found.add(x, 0)
    for group in (0, 1):
        every = F.pad(x[0, 3 * group : 3 * group + 3].double(), (5, 5)).unfold(1, 6, 1).permute(1, 0, 2).flatten(1)
        expected = every.T @ every
        blocks = list(found.blocks(group))
        assert [at.stop - at.start for at, _ in blocks] == ([18] if longest > 18 else [12, 6])
        for at, (first, second) in blocks:
            assert torch.allclose(first.double(), expected[at, at], rtol=1e-4, atol=1e-3)
            assert torch.equal(first, second)  # a half without a recording is as the other one
        assert torch.allclose(found.power(group).double(), 2 * expected.diagonal(), rtol=1e-4)


@pytest.mark.parametrize(("family", "form"), [("wav2vec2", "base"), ("wavlm", "large"), ("data2vec-audio", "adapter")])
def test_matrices_of_every_site_of_a_model(family, form):
    """q, k and v share what they read, and a pass ends behind the last site."""
    model = tiny.prepared(family, form)
    found = [site for site in find_sites(model) if site.reason is None]
    with torch.inference_mode():
        every = gram.collect(model, found, lambda w: model(torch.from_numpy(w)[None]), [tiny.wave(0), tiny.wave(1)])
    assert set(every) == {site.name for site in found}
    for site in found:
        columns = sum(first.shape[0] for _, (first, _) in every[site.name].blocks())
        assert columns == site.in_channels * site.kernel
        assert float(every[site.name].power().min()) >= 0
    q, k = (next(s.name for s in found if s.name.endswith(name)) for name in ("layers.0.attention.q_proj", "k_proj"))
    assert every[q] is every[k]


def test_a_pass_ends_when_every_site_has_been_seen():
    model = tiny.prepared()
    first = next(site for site in find_sites(model) if site.reason is None)
    ended = []
    model.lm_head.register_forward_hook(lambda *_: ended.append(1))
    with torch.inference_mode():
        gram.collect(model, [first], lambda w: model(torch.from_numpy(w)[None]), [tiny.wave(0)])
        assert not ended
        model(torch.from_numpy(tiny.wave(0))[None])  # the model is as it was
    assert ended == [1]
