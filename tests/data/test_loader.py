"""A batch is a pure function of (seed, step, row); an epoch visits each block once."""

from __future__ import annotations

import itertools
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from sedd_cli.data.loader import Loader, key_of, permute
from sedd_cli.errors import RequestError


class Numbers:
    """A split whose token at position i is i, of any length, without a file."""

    name = "train"

    def __init__(self, tokens):
        self.tokens = tokens

    def rows(self, starts, length):
        assert starts.min() >= 0
        assert starts.max() + length <= self.tokens
        return starts[:, None] + np.arange(length)


@pytest.mark.parametrize("size", [*range(1, 40), 64, 65, 1000, 4097])
def test_permute_is_a_permutation(size):
    for key in (key_of(0, 0), key_of(3, 1)):
        image = permute(np.arange(size), size, key)
        assert image.dtype == np.int64
        np.testing.assert_array_equal(np.sort(image), np.arange(size))


def test_permute_of_one_is_permute_of_many():
    key = key_of(7)
    image = permute(np.arange(1000), 1000, key)
    assert [int(permute(np.array([i]), 1000, key)[0]) for i in range(0, 1000, 37)] == image[::37].tolist()


@pytest.mark.parametrize("size", [2, 3, 5, 7, 10, 17, 33])
def test_permutations_are_spread_evenly(size):
    """Where a random key sends index 0, and the pair (0, 1), is uniform: chi-square at the 1e-4 level."""
    from scipy.stats import chi2

    draws = 4000
    images = np.stack([permute(np.arange(size), size, key_of(seed, 0)) for seed in range(draws)])
    pairs = np.zeros((size, size))
    np.add.at(pairs, (images[:, 0], images[:, 1]), 1)
    cells = ~np.eye(size, dtype=bool)
    expected = draws / cells.sum()
    statistic = ((pairs[cells] - expected) ** 2 / expected).sum()
    assert statistic < chi2.ppf(1 - 1e-4, cells.sum() - 1)


def test_key_depends_on_every_part_and_their_order():
    keys = {int(key_of(*parts)) for parts in itertools.product(range(-2, 3), repeat=3)}
    assert len(keys) == 125


def test_packed_epoch_sees_every_token_once_and_reshuffles():
    loader = Loader(Numbers(4 * 103 + 3), length=4, batch=7, seed=1)
    assert loader.blocks == 103
    steps = -(-2 * 103 // 7)
    rows = np.concatenate([loader.batch(step) for step in range(steps)])
    first, second = rows[:103], rows[103:206]
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch.ravel()), np.arange(4 * 103))
    assert (first != second).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(first[:, 1:] - first[:, :-1], 1)


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_a_batch_without_overlap(windows, processes):
    whole = Loader(Numbers(1000), length=8, batch=8, seed=5, windows=windows)
    share = 8 // processes
    for step in (0, 3, 100):
        parts = [
            Loader(Numbers(1000), 8, 8, 5, windows).batch(step, rank * share, (rank + 1) * share)
            for rank in range(processes)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole.batch(step))


@pytest.mark.parametrize("windows", [False, True])
def test_a_later_step_needs_no_earlier_one(windows):
    loader = Loader(Numbers(1000), 8, 4, 0, windows)
    seen = [loader.batch(step) for step in range(50)]
    np.testing.assert_array_equal(Loader(Numbers(1000), 8, 4, 0, windows).batch(49), seen[49])
    assert (loader.batch(49) != Loader(Numbers(1000), 8, 4, 1, windows).batch(49)).any()


def test_batches_larger_than_an_epoch():
    loader = Loader(Numbers(30), length=10, batch=7, seed=0)
    starts = loader.batch(0)[:, 0]
    assert sorted(starts[:3]) == sorted(starts[3:6]) == [0, 10, 20]


def test_windows_are_uniform_over_all_starts():
    from scipy.stats import chisquare

    loader = Loader(Numbers(20), length=5, batch=1000, seed=2, windows=True)
    starts = np.concatenate([loader.batch(step)[:, 0] for step in range(16)])
    counts = np.bincount(starts, minlength=16)
    assert counts.size == 16
    assert chisquare(counts).pvalue > 1e-4


def test_ten_million_blocks_cost_no_memory():
    loader = Loader(Numbers(10**10), length=1000, batch=512, seed=0)
    assert loader.blocks == 10**7
    tracemalloc.start()
    loader.starts(np.arange(512) + 10**9)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_lengths_batches_and_rows_that_do_not_exist_are_refused():
    with pytest.raises(RequestError, match="length 11 is longer than the train split, which has 10 tokens"):
        Loader(Numbers(10), length=11, batch=1, seed=0)
    for length, batch in ((0, 1), (1, 0)):
        with pytest.raises(RequestError, match="at least 1"):
            Loader(Numbers(10), length, batch, 0)
    loader = Loader(Numbers(10), 5, 4, 0)
    for start, stop in ((-1, 2), (0, 5), (3, 2)):
        with pytest.raises(IndexError):
            loader.batch(0, start, stop)


def test_prefetch_gives_the_same_batches_and_passes_errors_on():
    pytest.importorskip("torch")
    from sedd_cli.data.loader import prefetch

    loader = Loader(Numbers(1000), 8, 4, 0)
    ahead = prefetch(loader, step=3, start=1, stop=3)
    for step in range(3, 9):
        np.testing.assert_array_equal(next(ahead).numpy(), loader.batch(step, 1, 3))
    ahead.close()

    def fail(step, start, stop):
        if step == 2:
            raise OSError("gone")
        return loader.batch(step, start, stop)

    broken = prefetch(SimpleNamespace(batch=fail), step=0)
    assert next(broken).shape == (4, 8)
    next(broken)
    with pytest.raises(OSError, match="gone"):
        next(broken)
