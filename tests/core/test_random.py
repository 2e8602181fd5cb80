"""Counter-based randomness: the published vectors, uniform, independent, and a function of its names alone."""

import pytest
import torch
from scipy.stats import chisquare, kstest

from sedd_cli.core import random
from sedd_cli.core.random import BASE, BOUND, NOISE, SAMPLER, TIME, Stream, philox

# Random123 1.14, kat_vectors, philox4x32 10: counter, key, answer
KNOWN = {
    "zeros": ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
}
PURPOSES = [TIME, NOISE, BASE, SAMPLER, BOUND]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize("name", KNOWN)
def test_philox_gives_the_known_answers(name):
    counter, key, answer = map(words, KNOWN[name])
    got = philox(tuple(torch.tensor([word]) for word in counter), tuple(key))
    assert [int(word) for word in got] == answer


def stream(seed: int = 0, purpose: int = NOISE, count: int = 100) -> Stream:
    return Stream(seed, purpose, torch.arange(count))


def test_numbers_are_uniform():
    for u in stream(count=200).uniforms(4, 200):
        assert u.dtype == torch.float64
        assert 0 < float(u.min()) < 1e-4 < 1 - 1e-4 < float(u.max()) < 1
        # fixed seed: under 1e-4 with one seed in ten thousand
        assert kstest(u.flatten().numpy(), "uniform").pvalue > 1e-4
        # the bits below float32's resolution are random too
        low = ((u.flatten() * 2**24) % 1 * 64).long()
        assert chisquare(torch.bincount(low, minlength=64)).pvalue > 1e-4


def independent(a: torch.Tensor, b: torch.Tensor) -> bool:
    cells = (a.flatten() * 12).long() * 12 + (b.flatten() * 12).long()
    return chisquare(torch.bincount(cells, minlength=144)).pvalue > 1e-4


def test_the_two_tensors_of_a_step_are_independent():
    assert independent(*stream(count=100).uniforms(0, 100))


@pytest.mark.parametrize("other", PURPOSES[1:])
def test_purposes_are_independent(other):
    assert independent(stream(0, TIME, 100).uniforms(5, 100)[0], stream(0, other, 100).uniforms(5, 100)[0])


@pytest.mark.parametrize("other", [1, 2, 2**31, 2**32 - 1])
def test_steps_are_independent(other):
    s = stream(count=100)
    assert independent(s.uniforms(0, 100)[0], s.uniforms(other, 100)[0])


@pytest.mark.parametrize("other", [1, 2**32, 2**33 + 1, -1])
def test_seeds_are_independent_in_all_64_bits(other):
    assert independent(stream(0, count=100).uniforms(0, 100)[0], stream(other, count=100).uniforms(0, 100)[0])


def test_neighbouring_sequences_and_positions_are_independent():
    u = stream(count=101).uniforms(0, 101)[0]
    assert independent(u[1:, :100], u[:-1, :100])
    assert independent(u[:100, 1:], u[:100, :-1])


def test_a_number_depends_on_its_names_alone():
    """Not on the batch it comes in, nor on the length asked for, nor on the call before."""
    whole, second = stream(seed=9, count=8).uniforms(3, 10)
    some = Stream(9, NOISE, torch.tensor([6, 1])).uniforms(3, 4)
    assert some[0].tolist() == whole[[6, 1], :4].tolist()
    assert some[1].tolist() == second[[6, 1], :4].tolist()


def test_no_two_names_share_a_number():
    everything = torch.cat(
        [
            u.flatten()
            for seed in (0, 1, 2**32)
            for purpose in PURPOSES
            for step in (0, 1, 7)
            for u in stream(seed, purpose, 20).uniforms(step, 20)
        ]
    )
    assert len(everything.unique()) == len(everything)  # 36,000 of 2^52 values: a chance meeting is a 1e-7 event


def test_uniform_is_one_number_a_sequence():
    assert stream(count=6).uniform(2).tolist() == stream(count=6).uniforms(2, 3)[0][:, 0].tolist()


@pytest.mark.parametrize("elements", [1, 3 * 6 * 5, 10**6])
@pytest.mark.parametrize("seed", [3, torch.arange(6) - 2])
def test_numbers_drawn_ahead_are_those_of_each_step(elements, seed, monkeypatch):
    monkeypatch.setitem(random.AHEAD, "cpu", elements)
    noise = Stream(seed, SAMPLER, torch.arange(6) + 10)
    ahead = list(noise.ahead(5, 7))
    assert len(ahead) == 7
    for step, (first, second) in enumerate(ahead):
        assert torch.equal(first, noise.uniforms(step, 5)[0])
        assert torch.equal(second, noise.uniforms(step, 5)[1])


def test_extreme_words_stay_inside_the_open_interval():
    """The largest 52 random bits must not round to 1, nor the smallest to 0."""
    from sedd_cli.core.random import _unit

    ends = torch.tensor([0, 0xFFFFFFFF])
    low, high = _unit(ends, ends).tolist()
    assert 0 < low < 2.0**-52
    assert 1 - 2.0**-52 < high < 1
