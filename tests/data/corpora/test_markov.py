"""The corpus drawn from a Markov chain: its stated properties, against sums over all strings, and against text."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from support.jobs import returned

from sedd_cli.data.corpora import CORPORA, Request, find_corpus
from sedd_cli.data.corpora.markov import LETTERS, ORDER, SIZES, Chain, chain
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError


def small(order: int, letters: str = "abc") -> Chain:
    """A random chain in which one letter is impossible after one context."""
    weights = np.random.default_rng(order).gamma(0.5, size=(len(letters) ** order, len(letters)))
    weights[0, 1] = 0.0
    return Chain(order, weights / weights.sum(axis=1, keepdims=True), letters)


def moves(source: Chain) -> np.ndarray:
    """P [contexts, contexts], from the contexts' spellings."""
    names = ["".join(letters) for letters in itertools.product(source.letters, repeat=source.order)]
    dense = np.zeros((len(names), len(names)))
    for row, name in enumerate(names):
        for column, letter in enumerate(source.letters):
            dense[row, names.index((name + letter)[1:])] += source.transition[row, column]
    return dense


def probability(source: Chain, text: str) -> float:
    """p(text) by a direct product, the first characters by a sum over what may stand around them."""
    names = ["".join(letters) for letters in itertools.product(source.letters, repeat=source.order)]
    if len(text) < source.order:
        return sum(pi for pi, name in zip(source.stationary(), names, strict=True) if name.startswith(text))
    found = source.stationary()[names.index(text[: source.order])]
    for place in range(source.order, len(text)):
        found *= source.transition[names.index(text[place - source.order : place]), source.letters.index(text[place])]
    return found


CHAINS = [small(0), small(1), small(2), small(3), chain()]
each_chain = pytest.mark.parametrize(
    "source", CHAINS, ids=lambda source: f"order{source.order}-{len(source.letters)}letters"
)


@each_chain
def test_the_stationary_distribution_stays(source):
    pi = source.stationary()
    assert pi.min() >= 0
    assert pi.sum() == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_allclose(pi @ moves(source), pi, rtol=0, atol=1e-15)


def test_the_stationary_distribution_of_a_cycle():
    # a, b, c, a, ...: powers of P never settle, yet there is one stationary distribution
    source = Chain(1, np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]), "abc")
    np.testing.assert_allclose(source.stationary(), 1 / 3, atol=1e-15)
    assert source.entropy_rate() == 0.0
    assert source.block_entropy(9) == pytest.approx(math.log(3))


@each_chain
def test_entropy_rate_is_the_sum_over_contexts_and_letters(source):
    rate = 0.0
    for pi, row in zip(source.stationary(), source.transition, strict=True):
        for p in row:
            rate -= pi * p * math.log(p) if p else 0.0
    assert source.entropy_rate() == pytest.approx(rate, rel=1e-13)


@each_chain
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_block_entropy_is_the_sum_over_all_strings(source, length):
    probabilities = [
        probability(source, "".join(letters)) for letters in itertools.product(source.letters, repeat=length)
    ]
    assert sum(probabilities) == pytest.approx(1.0, rel=1e-12)
    assert source.block_entropy(length) == pytest.approx(-sum(p * math.log(p) for p in probabilities if p), rel=1e-12)


@each_chain
def test_block_entropy_grows_by_the_rate_past_the_order_and_faster_before(source):
    gains = [source.block_entropy(length) - source.block_entropy(length - 1) for length in range(1, 12)]
    assert source.block_entropy(0) == pytest.approx(0.0, abs=1e-14)
    assert gains[source.order :] == pytest.approx([source.entropy_rate()] * (11 - source.order), rel=1e-12)
    assert all(before > after for before, after in itertools.pairwise(gains[: source.order + 1]))


@each_chain
def test_nats_add_up_to_the_text(source):
    text = source.draw(9, np.random.default_rng(3))
    for length in range(len(text) + 1):
        nats = source.nats(text[:length])
        assert nats.shape == (length,)
        assert nats.sum() == pytest.approx(-math.log(probability(source, text[:length])), rel=1e-12)
        np.testing.assert_allclose(nats, source.nats(text)[:length], rtol=0, atol=1e-12)


def test_nats_of_the_impossible():
    source = small(2)  # no b behind aa
    assert np.isinf(source.nats("caabcc")).tolist() == [False, False, False, True, False, False]
    assert np.isinf(source.nats("caxbccc")).tolist() == [False, False, True, True, True, False, False]
    assert np.isinf(source.nats("xa")).tolist() == [True, True]


def test_a_chain_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        Chain(1, np.full((4, 2), 0.5), "ab")


# The drawn text


def train_text() -> str:
    return "".join(find_corpus(Request("markov")).open(Request("markov")).splits["train"]())


def test_the_text_costs_the_entropy_rate():
    nats = chain().nats(train_text())
    blocks = nats.reshape(200, -1).mean(axis=1)  # 10,000 characters each: all but independent
    assert nats.mean() == pytest.approx(chain().entropy_rate(), abs=4 * blocks.std(ddof=1) / math.sqrt(len(blocks)))


def test_the_texts_bigrams_are_stationary():
    ids = np.array([LETTERS.index(letter) for letter in train_text()])
    found = np.bincount(ids[:-1] * len(LETTERS) + ids[1:], minlength=len(LETTERS) ** 2) / (len(ids) - 1)
    # a binomial's error is at most 3.6e-4; neighbours are alike, which widens it
    np.testing.assert_allclose(found, chain().stationary(), rtol=0, atol=2e-3)


def test_a_text_starts_stationary():
    source = small(2)
    generator = np.random.default_rng(0)
    starts = [source.draw(2, generator) for _ in range(20_000)]
    found = [starts.count("".join(letters)) / len(starts) for letters in itertools.product(source.letters, repeat=2)]
    np.testing.assert_allclose(found, source.stationary(), rtol=0, atol=4 * 0.5 / math.sqrt(len(starts)))


def test_one_seed_one_text_and_a_shorter_one_is_its_start():
    long, again = (chain().draw(70_000, np.random.default_rng(1)) for _ in range(2))
    assert long == again
    assert chain().draw(66_000, np.random.default_rng(1)) == long[:66_000]
    assert chain().draw(1, np.random.default_rng(1)) == long[:1]
    assert chain().draw(70_000, np.random.default_rng(2)) != long


def test_the_corpus_stays_what_it_is():
    corpus = CORPORA["markov"]
    source = corpus.open(Request("markov"))
    texts = {split: "".join(documents()) for split, documents in source.splits.items()}
    assert {split: len(text) for split, text in texts.items()} == SIZES
    assert texts["train"][:100_000] != texts["validation"] != texts["test"] != texts["train"][:100_000]
    assert corpus.process.entropy_rate() == pytest.approx(0.94477913734433, rel=1e-9)
    assert texts["test"][:32] == "gfbdbggf gagf ggf gdbcggf gaaaaa"
    assert f"order {ORDER} " in corpus.identity(Request("markov"))


def test_prepared_it_has_every_character_and_nothing_else():
    made = returned(prepare(PrepareOptions(corpus="markov")))
    sizes = {"train": 2_000_000, "validation": 100_000, "test": 100_000}
    dataset = open_dataset(made.folder)
    assert {split: dataset.manifest.splits[split].characters for split in dataset.splits} == sizes
    assert {split: dataset.manifest.splits[split].tokens for split in dataset.splits} == sizes


def test_there_is_nothing_to_give_it(tmp_path):
    with pytest.raises(RequestError, match="nothing that --from could give"):
        find_corpus(Request("markov", local=tmp_path))
