"""What holds for every format of weights: each file in weight_formats/."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.foundation import registry
from stablequant.foundation.errors import InputError
from stablequant.foundation.options import SPARSITIES
from stablequant.quantization.ranges import max as largest
from stablequant.quantization.weight_formats.base import format_files, parse, weight_format

SETTINGS = tuple(itertools.product(range(2, 9), (None, 8, 32), (False, True), (None, *SPARSITIES)))


def of(file, settings):
    """The format of a file with these settings, None where it has none."""
    try:
        return file.of(*settings)
    except ValueError:
        return None


OF_FILE = {
    name: [found for each in SETTINGS if (found := of(registry.get("weight_formats", name), each)) is not None]
    for name in registry.names("weight_formats")
}
FORMATS = tuple(itertools.chain(*OF_FILE.values()))
every_format = pytest.mark.parametrize("format", FORMATS, ids=str)


def weight(seed, rows=5, columns=56):
    rng = np.random.default_rng(seed)
    w = rng.standard_t(3, (rows, columns)) * 10.0 ** rng.integers(-6, 6, (rows, 1)) + rng.standard_normal() / 3
    return torch.from_numpy(w.astype(np.float32))


def fit(w, format):
    return format.fit(w, largest.weights)


def test_every_file_has_formats():
    assert len(format_files()) == len(OF_FILE)
    assert all(OF_FILE.values())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_are_those_of_one_file_at_most(settings):
    found = [format for file in format_files() if (format := of(file, settings)) is not None]
    assert len(found) <= 1
    if found:
        assert weight_format(*settings) == found[0]
        sparsity = None if found[0].sparsity is None else str(found[0].sparsity)
        assert (found[0].bits, found[0].group, found[0].asymmetric, sparsity) == settings
    else:
        with pytest.raises(ValueError, match=r"weight_group and weight_asymmetric are for 4 bits and fewer; delete"):
            weight_format(*settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ((1, None, False), "weight_bits is 1; it must be 2 to 8"),
        ((9, 64, False), "weight_bits is 9; it must be 2 to 8"),
        ((4, 0, False), "weight_group is 0; write 32, 64 or 128, or delete it for one group per row"),
        ((8, 0, False), "weight_group and weight_asymmetric are for 4 bits and fewer; delete them"),
        ((1, None, False, "2:4"), "weight_bits is 1; it must be 2 to 8"),
        ((4, 64, False, "3:4"), "weight_sparsity is '3:4'; it must be one of 2:4, 1:4, 4:8, 2:8"),
        (
            (4, 12, False, "2:8"),
            "weight_group is 12, and weight_sparsity 2:8 needs a multiple of 8; write 32 or 64",
        ),
    ],
)
def test_other_settings_are_one_sentence(settings, sentence):
    with pytest.raises(ValueError) as error:
        weight_format(*settings)
    assert str(error.value) == sentence


SPARSE = ("-", "-2:4", "w4-", "w4-3:4", "w4g6-2:4", "w4-2:4-2:4", "w9-2:4", "w4-2:4z", "w4g64z 2:4")


@every_format
def test_a_format_is_written_and_read(format):
    assert parse(str(format)) == format


@pytest.mark.parametrize(
    "text", ["", "w", "w9", "w1g4", "w8g64", "w6z", "w4g0", "w4gz", "4g64", "w4g64zz", "w4 g64", *SPARSE]
)
def test_what_is_no_format_is_refused(text):
    with pytest.raises(InputError, match="not of a form like"):
        parse(text)


@given(seed=st.integers(0, 99), format=st.sampled_from(FORMATS), kernel=st.sampled_from([None, 1, 7]))
def test_what_is_stored_is_loaded_again_bit_for_bit(seed, format, kernel):
    w = weight(seed)
    shape = w.shape if kernel is None else torch.Size((len(w), w.shape[1] // kernel, kernel))
    on = fit(w, format)
    written = on.hold(on.nearest(w))
    stored = format.store(written, shape)
    read = format.stored.load(stored, shape)
    assert torch.equal(read.codes, written.codes)
    assert torch.equal(read.dequantize(), written.dequantize())
    assert format.problem(stored, shape) is None
    assert sum(each.nbytes for each in stored.values()) == format.bytes(*w.shape)
    again = format.stored.store(read, shape)
    assert {name: each.tolist() for name, each in again.items()} == {
        name: each.tolist() for name, each in stored.items()
    }


@every_format
def test_an_empty_weight_has_the_names_types_and_shapes_of_a_stored_one(format):
    w = weight(0)
    on = fit(w, format)
    stored, empty = format.store(on.hold(on.nearest(w)), w.shape), format.stored.empty(w.shape)
    assert list(stored) == list(empty)
    assert all((stored[name].dtype, stored[name].shape) == (each.dtype, each.shape) for name, each in empty.items())
