"""How varied samples are: values by hand, and self-BLEU against a slow and obvious one."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from sedd_cli.evaluation.diversity import distinct, self_bleu, unigram_entropy


def grams(row, n):
    return [tuple(row[start : start + n]) for start in range(len(row) - n + 1)]


def slow_bleu(row, references, order):
    logs = []
    for n in range(1, order + 1):
        own = Counter(grams(row, n))
        if not own:
            continue
        matches = sum(
            min(count, max(grams(other, n).count(gram) for other in references)) for gram, count in own.items()
        )
        logs.append(math.log((matches or 0.1) / sum(own.values())))
    closest = sorted((abs(len(other) - len(row)), len(other)) for other in references)[0][1]
    brevity = 1.0 if len(row) > closest else math.exp(1 - closest / len(row))
    return brevity * math.exp(sum(logs) / len(logs))


def slow_self_bleu(rows, order):
    return np.mean([slow_bleu(row, rows[:i] + rows[i + 1 :], order) for i, row in enumerate(rows)])


# Entropy within a sequence


def test_unigram_entropy_by_hand():
    # ln 2, 0, and 3/4 ln 4/3 + 1/4 ln 4
    third = 0.75 * math.log(4 / 3) + 0.25 * math.log(4)
    mean, error = unigram_entropy([[0, 1, 0, 1], [5, 5, 5], [2, 2, 7, 2]])
    assert mean == pytest.approx((math.log(2) + third) / 3)
    assert error == pytest.approx(np.std([math.log(2), 0, third], ddof=1) / math.sqrt(3))


def test_unigram_entropy_looks_at_each_sequence_alone():
    assert unigram_entropy([[1, 1], [2, 2], [3, 3]]) == (0.0, 0.0)


def test_unigram_entropy_of_one_and_of_none():
    assert unigram_entropy([[3, 4]]) == (pytest.approx(math.log(2)), None)
    assert unigram_entropy([[3, 4], []]) == (pytest.approx(math.log(2)), None)
    assert unigram_entropy([[], []]) == unigram_entropy([]) == (None, None)


# Distinct n-grams


def test_distinct_n_is_the_share_of_different_n_grams():
    rows = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct(rows, 1) == pytest.approx(3 / 7)
    assert distinct(rows, 2) == pytest.approx(3 / 5)  # 12 21 12 | 12 23
    assert distinct(rows, 3) == pytest.approx(3 / 3)
    assert distinct(rows, 4) == 1.0
    assert distinct(rows, 5) is None


def test_no_ngram_crosses_the_end_of_a_sequence():
    assert distinct([[1], [2], [3]], 2) is None
    assert distinct([[1, 1], [1, 1]], 2) == 0.5


def test_copies_are_not_distinct():
    assert distinct([[1, 2, 3, 4]] * 50, 2) == pytest.approx(1 / 50)
    assert distinct([], 1) is None
    assert distinct([[], []], 1) is None


# Self-BLEU


def test_self_bleu_by_hand():
    # 1 1 2 against 1 2 2 2: unigrams 2 of 3 (one 1 is clipped), bigrams 1 of 2, brevity exp(1 - 4/3)
    first = math.exp(1 - 4 / 3) * math.sqrt(2 / 3 * 1 / 2)
    # 1 2 2 2 against 1 1 2: unigrams 2 of 4, bigrams 1 of 3 (22 is nowhere), no penalty
    second = math.sqrt(2 / 4 * 1 / 3)
    assert self_bleu([[1, 1, 2], [1, 2, 2, 2]], order=2) == pytest.approx((first + second) / 2)


def test_no_match_counts_a_tenth():
    assert self_bleu([[1, 2], [3, 4]], order=2) == pytest.approx(math.sqrt(0.1 / 2 * 0.1 / 1))


@pytest.mark.parametrize("length", [1, 3, 40])
def test_identical_sequences_have_self_bleu_one(length):
    assert self_bleu([list(range(length))] * 5) == pytest.approx(1.0)


def test_self_bleu_of_too_few():
    assert self_bleu([]) is None
    assert self_bleu([[1, 2, 3]]) is None
    assert self_bleu([[1, 2, 3], []]) is None
    assert self_bleu([[1, 2, 3], [], [1, 2, 3]]) == pytest.approx(1.0)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("letters", [2, 5, 40])
def test_self_bleu_is_the_slow_one(order, letters):
    generator = np.random.default_rng(letters)
    for rows in (2, 3, 12):
        drawn = [generator.integers(letters, size=generator.integers(1, 20)).tolist() for _ in range(rows)]
        assert self_bleu(drawn, order) == pytest.approx(slow_self_bleu(drawn, order), rel=1e-12)


def test_arrays_measure_as_lists_do():
    rows = np.array([[1, 2, 3, 1], [1, 2, 1, 2], [3, 2, 1, 1]])
    assert self_bleu(rows) == self_bleu(rows.tolist())
    assert unigram_entropy(rows) == unigram_entropy(rows.tolist())
    assert distinct(rows, 2) == distinct(rows.tolist(), 2)
