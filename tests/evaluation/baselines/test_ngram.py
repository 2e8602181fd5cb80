"""The n-gram model is interpolated modified Kneser-Ney, as dictionaries compute it."""

import numpy as np
import pytest
import reference

from sedd_cli.evaluation.baselines.ngram import NGram

ORDERS = [1, 2, 3, 4, 5]


def stream(length: int, vocab_size: int, seed: int = 0) -> np.ndarray:
    """A stream with structure: each token tends to follow the last, with a Zipf-like tail."""
    rng = np.random.default_rng(seed)
    steps = np.minimum(rng.geometric(0.45, size=length) - 1, vocab_size - 1)
    return np.cumsum(steps * rng.integers(0, 2, size=length)) % vocab_size


def slow_nats(train, test, vocab_size: int, order: int) -> list[float]:
    p = reference.kneser_ney(train, vocab_size, order)
    test = [int(token) for token in test]
    return [-np.log(p(tuple(test[max(0, i - order + 1) : i]), token)) for i, token in enumerate(test)]


@pytest.mark.parametrize("order", ORDERS)
def test_scores_equal_the_dictionary_form(order):
    train, test = stream(400, 7), stream(120, 9, seed=1)  # tokens 7 and 8 and many contexts were never seen
    fast = NGram(train, vocab_size=9, order=order).nats(test)
    # both are float64 sums of a dozen terms: anything above rounding is a different model
    np.testing.assert_allclose(fast, slow_nats(train, test, 9, order), rtol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("context", [[], [2], [0, 1, 1, 2], [8, 8, 8, 8], [3, 8, 0, 1]], ids=str)
def test_probabilities_sum_to_one_after_any_context(order, context):
    model = NGram(stream(300, 7), vocab_size=9, order=order)
    p = [np.exp(-model.nats(np.array([*context, token]))[-1]) for token in range(9)]
    assert min(p) > 0
    assert sum(p) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_training_stream_shorter_than_the_order_still_scores(order, length):
    train, test = stream(length, 5), stream(30, 6, seed=2)
    fast = NGram(train, vocab_size=6, order=order).nats(test)
    np.testing.assert_allclose(fast, slow_nats(train, test, 6, order), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_wild_counts_of_counts_still_leave_mass_for_the_unseen(order):
    """Eight singles and three tokens of count four: the estimate of the third discount is 3 - 4·0.8·3 < 0."""
    train = np.array([*range(8), *([8] * 4), *([9] * 4), *([10] * 4)])
    test = np.array([8, 8, 19, 9, 10, 10, 10, 10, 15, 0, 1])
    np.testing.assert_allclose(NGram(train, 20, order).nats(test), slow_nats(train, test, 20, order), rtol=1e-12)


def test_an_empty_training_stream_gives_the_uniform_distribution():
    np.testing.assert_allclose(NGram(np.array([], dtype=np.int64), 8).nats(np.array([0, 7, 3])), np.log(8))


def test_a_stream_of_a_single_symbol_is_learnt():
    model = NGram(np.zeros(50, dtype=np.int64), vocab_size=4, order=3)
    nats = model.nats(np.array([0, 0, 0, 0, 3]))
    assert nats[3] < 0.1 < 2 < nats[4]


def test_an_empty_stream_scores_to_nothing():
    assert NGram(stream(100, 5), 5).nats(np.array([], dtype=np.int64)).shape == (0,)


def test_longer_contexts_help_on_text_with_long_contexts():
    phrase = np.array([0, 1, 2, 0, 3, 2, 0, 1, 4])
    train = np.tile(phrase, 40)
    mean = [NGram(train, 5, order).nats(np.tile(phrase, 4)).mean() for order in (1, 2, 3)]
    assert mean[0] > mean[1] > mean[2]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("context", [[], [2], [4, 1], [0, 1, 1, 2], [8, 8, 8, 8], [3, 8, 0, 1], [7, 7, 0, 1, 1, 2]])
def test_all_that_may_follow_equals_the_dictionary_form(order, context):
    train = stream(400, 7)  # tokens 7 and 8 were never seen
    p = reference.kneser_ney(train, 9, order)
    seen = tuple(context[max(0, len(context) - order + 1) :])
    expected = [-np.log(p(seen, token)) for token in range(9)]
    found = NGram(train, 9, order).nats_after(np.array([context], dtype=np.int64))
    # float64 sums of a dozen terms, as above
    np.testing.assert_allclose(found, [expected], rtol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_many_contexts_at_once_are_scored_as_a_stream_is(order):
    model, test = NGram(stream(2000, 30), 40, order), stream(300, 40, seed=1)
    contexts = np.lib.stride_tricks.sliding_window_view(test, 4)[:-1]
    found = model.nats_after(contexts)
    assert found.shape == (296, 40)
    np.testing.assert_allclose(found[np.arange(296), test[4:]], model.nats(test)[4:], rtol=1e-12)
    np.testing.assert_allclose(np.exp(-found).sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("length", [0, 1, 2, 4])
def test_what_follows_is_known_after_a_training_stream_shorter_than_the_order(length):
    train = stream(length, 5)
    found = NGram(train, 6).nats_after(np.array([[0, 1, 1, 2], [5, 5, 5, 5]]))
    expected = [[slow_nats(train, [*row, token], 6, 5)[-1] for token in range(6)] for row in ([0, 1, 1, 2], [5] * 4)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_no_context_at_all_scores_to_nothing():
    assert NGram(stream(100, 5), 5).nats_after(np.zeros((0, 4), dtype=np.int64)).shape == (0, 5)
