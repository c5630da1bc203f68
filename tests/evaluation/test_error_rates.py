import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablequant.evaluation import beyond_wer, error_rates
from stablequant.evaluation.error_rates import Counts
from stablequant.foundation.options import NORMALIZERS

sentences = st.lists(st.sampled_from(["a", "b", "é", "ça"]), max_size=6).map(" ".join)
pairs = st.lists(st.tuples(sentences, sentences), min_size=1, max_size=5)


def levenshtein(reference, hypothesis):
    """The textbook recurrence, one row at a time."""
    row = list(range(len(hypothesis) + 1))
    for i, left in enumerate(reference, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(hypothesis, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def counts(errors, units):
    """Substitutions only, for the tests of the intervals."""
    errors, units = np.array(errors), np.array(units)
    return Counts(units - errors, errors, 0 * errors, 0 * errors)


@given(pairs)
def test_word_counts_are_fewest_edits_of_each_utterance(texts):
    references, hypotheses = zip(*texts, strict=True)
    found = error_rates.count_words(references, hypotheses)
    split = [(reference.split(), hypothesis.split()) for reference, hypothesis in texts]
    assert found.errors.tolist() == [levenshtein(*pair) for pair in split]
    assert found.units.tolist() == [len(reference) for reference, _ in split]
    assert (found.hits + found.substitutions + found.insertions).tolist() == [
        len(hypothesis) for _, hypothesis in split
    ]


@given(pairs)
def test_character_counts_are_fewest_edits_of_each_utterance(texts):
    references, hypotheses = zip(*texts, strict=True)
    found = error_rates.count_characters(references, hypotheses)
    assert found.errors.tolist() == [levenshtein(*pair) for pair in texts]
    assert found.units.tolist() == [len(reference) for reference, _ in texts]


def test_counts_of_known_edits():
    found = error_rates.count_words(["one two three", "", "four"], ["one too three", "five six", ""])
    assert found.hits.tolist() == [2, 0, 0]
    assert found.substitutions.tolist() == [1, 0, 0]
    assert found.insertions.tolist() == [0, 2, 0]
    assert found.deletions.tolist() == [0, 0, 1]
    assert found.percent() == 100.0


def test_rate_without_reference_words_is_nan():
    assert np.isnan(error_rates.count_words([""], ["five"]).percent())


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none", " Don't  STOP,\tcafe\u0301 ", "Don't STOP, caf\u00e9"),
        ("basic", "Don't  STOP, [noise] ÉTÉ", "don t stop été"),
        ("english", "Mr. Smith WON'T pay twenty one", "mister smith will not pay 21"),
    ],
)
def test_normalizers(name, text, expected):
    assert error_rates.normalizer(name)(text) == expected


def test_normalizers_are_all_listed():
    assert [error_rates.normalizer(name)("") for name in NORMALIZERS] == ["", "", ""]


def exact_draws(columns):
    """Sums of every one of the n**n equally likely draws, (rows, n**n)."""
    n = columns.shape[1]
    return np.stack([columns[:, list(draw)].sum(axis=1) for draw in itertools.product(range(n), repeat=n)], axis=1)


def test_resampled_sums_have_the_distribution_of_all_draws():
    columns = np.array([[0, 3, 1, 7], [2, 5, 4, 9]])
    exact, drawn = exact_draws(columns), error_rates._resampled(columns, seed=0)
    assert drawn.shape == (2, error_rates.RESAMPLES)
    for total in np.unique(exact[0]):
        share = (exact[0] == total).mean()
        # 10,000 draws: a share is known to 0.5 %, its standard error at worst
        assert (
            abs((drawn[0] == total).mean() - share) < 4 * np.sqrt(share * (1 - share) / error_rates.RESAMPLES) + 1e-9
        )


def test_chunks_do_not_change_the_number_of_draws(monkeypatch):
    monkeypatch.setattr(error_rates, "CHUNK", 4 * 999)
    assert error_rates._resampled(np.ones((1, 4)), seed=0).tolist() == [[4.0] * error_rates.RESAMPLES]


def test_interval_matches_all_draws():
    errors, units = np.array([0, 3, 1, 4, 2]), np.array([4, 5, 4, 5, 9])
    sums = exact_draws(np.stack([errors, units]))
    expected = np.percentile(100 * sums[0] / sums[1], [2.5, 97.5])
    assert error_rates.interval(counts(errors, units)) == pytest.approx(expected, abs=1.5)


def test_comparison_matches_all_draws():
    ours, theirs, units = np.array([2, 1, 3, 0, 2]), np.array([1, 1, 1, 0, 1]), np.array([4, 5, 4, 5, 9])
    sums = exact_draws(np.stack([ours - theirs, units]))
    found = error_rates.compare(counts(ours, units), counts(theirs, units))
    assert found.points == 100 * 4 / 27
    assert found.ci95 == pytest.approx(np.percentile(100 * sums[0] / sums[1], [2.5, 97.5]), abs=1.0)
    assert found.p_value == pytest.approx(2 * (sums[0] <= 0).mean(), abs=0.01)


def test_comparison_of_a_system_with_itself_shows_nothing():
    same = counts([1, 0, 2], [4, 4, 4])
    assert error_rates.compare(same, same) == error_rates.Comparison(0.0, (0.0, 0.0), 1.0)


def test_comparison_turned_around_changes_sign_only():
    ours, theirs = counts([2, 1, 3, 0], [4, 5, 4, 5]), counts([1, 1, 1, 1], [4, 5, 4, 5])
    there, back = error_rates.compare(ours, theirs), error_rates.compare(theirs, ours)
    assert back.points == -there.points
    assert back.ci95 == pytest.approx((-there.ci95[1], -there.ci95[0]))
    assert back.p_value == there.p_value


def test_a_limit_is_met_exactly():
    """0.3 points must not become 0.30000000000000004, or a gate of 0.3 fails on what it allows."""
    ours, theirs = counts([75, 1], [500, 500]), counts([73, 0], [500, 500])
    assert error_rates.compare(ours, theirs).points == 0.3


def test_ratio_of_constant_seconds_has_no_spread():
    found = error_rates.ratio([0.2, 0.4, 0.6], [0.1, 0.2, 0.3])
    assert found.value == pytest.approx(2.0)
    assert found.ci95 == pytest.approx((2.0, 2.0))


def test_ratio_spread_matches_all_draws():
    above, below = np.array([1.0, 3.0, 2.0, 5.0]), np.array([1.0, 1.0, 1.0, 1.5])
    sums = exact_draws(np.stack([above, below]))
    found = error_rates.ratio(above, below)
    assert found.value == pytest.approx(11 / 4.5)
    assert found.ci95 == pytest.approx(np.percentile(sums[0] / sums[1], [2.5, 97.5]), abs=0.15)


def test_draws_of_empty_references_only_are_left_out():
    assert error_rates.interval(counts([0, 1, 1], [0, 2, 2])) == (50.0, 50.0)


@pytest.mark.parametrize("empty", [0, 1, 3], ids=lambda n: f"{n} that are empty and heard so")
def test_one_utterance_has_no_interval(empty):
    """All its draws are the same: [x, x] would look certain."""
    one, other = counts([1, *[0] * empty], [4, *[0] * empty]), counts([2, *[0] * empty], [4, *[0] * empty])
    assert error_rates.interval(one) is None
    assert error_rates.compare(other, one) == error_rates.Comparison(25.0, None, None)
    assert error_rates.ratio([0.4], [0.1]) == error_rates.Ratio(pytest.approx(4.0), None)


def test_rare_words_of_one_utterance_have_no_interval():
    one, other = counts([1, 0, 0], [4, 0, 0]), counts([2, 0, 0], [4, 0, 0])
    assert beyond_wer.recall(one) == (75.0, None)
    assert beyond_wer.gain(one, other) == (25.0, None)


def test_two_utterances_that_agree_have_an_interval_of_no_width():
    assert error_rates.interval(counts([1, 1], [4, 4])) == (25.0, 25.0)


@settings(max_examples=10)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(5, 9)), min_size=2, max_size=30), st.integers(0, 2**32))
def test_interval_lies_within_the_rates_of_single_utterances_and_repeats(pairs, seed):
    errors, units = zip(*pairs, strict=True)
    low, high = error_rates.interval(counts(errors, units), seed)
    rates = 100 * np.array(errors) / np.array(units)
    assert rates.min() - 1e-9 <= low <= high <= rates.max() + 1e-9
    assert error_rates.interval(counts(errors, units), seed) == (low, high)


words = st.lists(st.sampled_from(["a", "A", "b", "B", "ab", "Ab", "Ä", "ä"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_errors_of_case_are_those_that_lower_case_takes_away(pairs):
    references, hypotheses = zip(*pairs, strict=True)
    counts = error_rates.count_words(references, hypotheses)
    lower = error_rates.count_words([each.lower() for each in references], [each.lower() for each in hypotheses])
    found = error_rates.errors_of_case(references, hypotheses, counts)
    assert found == counts.errors.sum() - lower.errors.sum()


def test_nothing_is_aligned_again_where_no_word_has_two_cases(monkeypatch):
    references, hypotheses = ["ONE two", "A b c"], ["ONE too", "A b c"]
    counts = error_rates.count_words(references, hypotheses)
    monkeypatch.setattr(error_rates, "count_words", None)
    assert error_rates.errors_of_case(references, hypotheses, counts) == 0
