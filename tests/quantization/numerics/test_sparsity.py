import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stablequant.foundation.options import SPARSITIES
from stablequant.quantization.numerics.sparsity import Sparsity

ALL = tuple(map(Sparsity.parse, SPARSITIES))
every = st.sampled_from(ALL)


def scores(seed, rows=5, columns=48):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 9, (rows, columns)).astype(np.float32))


@given(every, st.integers(0, 99))
def test_the_largest_of_each_block_are_kept_and_no_more(sparsity, seed):
    found = scores(seed)
    kept = sparsity.largest(found)
    for row, mask in zip(found.numpy(), kept.numpy(), strict=True):
        for start in range(0, len(row), sparsity.of):
            block = row[start : start + sparsity.of]
            first = sorted(range(sparsity.of), key=lambda at, block=block: (-block[at], at))[: sparsity.kept]
            assert sorted(first) == np.flatnonzero(mask[start : start + sparsity.of]).tolist()


@given(every, st.integers(0, 99), st.integers(1, 4))
def test_positions_say_which_are_kept(sparsity, seed, rows):
    mask = sparsity.largest(scores(seed, rows))
    positions = sparsity.positions(mask)
    assert positions.dtype == torch.uint8
    assert positions.shape == (rows, sparsity.count(48))
    assert int(positions.max()) < sparsity.of <= 1 << sparsity.position_bits
    assert torch.equal(sparsity.mask(positions), mask)
    assert sparsity.problem(positions) is None


@pytest.mark.parametrize("sparsity", [each for each in ALL if each.kept > 1], ids=str)
def test_positions_that_do_not_ascend_are_a_problem(sparsity):
    positions = sparsity.positions(sparsity.largest(scores(0)))
    for wrong in (positions.flip(1), torch.zeros_like(positions)):
        assert "do not ascend" in sparsity.problem(wrong)


@pytest.mark.parametrize("text", ["", "2", "2:", "4:2", "0:4", "4:4", "2:4 ", "2:3", "two:four", None])
def test_what_there_is_not_is_refused(text):
    with pytest.raises(ValueError, match=r"weight_sparsity is .* must be one of 2:4, 1:4, 4:8, 2:8"):
        Sparsity.parse(text)


@pytest.mark.parametrize("text", SPARSITIES)
def test_it_is_written_as_it_is_read(text):
    assert str(Sparsity.parse(text)) == text
