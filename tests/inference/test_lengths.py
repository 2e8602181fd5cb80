"""Lengths of gaps are chosen by the given text: by its exact probability, and right where the length is known."""

import dataclasses
import math

import pytest
import torch

from sedd_cli import load_model
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.inference.infill import infill_all
from sedd_cli.inference.lengths import FOLLOWING, length_nats
from sedd_cli.inference.plan import Job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import parse_template


class Cycle:
    """The exact conditional distributions of texts that go round the tokens 0 … V − 1, from any start, with slips.

    With probability `slip` a text is of independent tokens instead.
    """

    def __init__(self, V: int, slip: float):
        self.V, self.slip = V, slip
        self.device = torch.device("cpu")

    def hidden(self, x, sigma):
        V, L = self.V, x.shape[1]
        place = torch.arange(L)
        agree = torch.stack(
            [((x == (start + place) % V) | (x == V)).all(1) for start in range(V)], -1
        ).double()  # [B, V]: whether what is seen fits each start
        seen = (x != V).sum(1).double()
        noise = self.slip * V ** (-seen)
        weight = (1 - self.slip) / V * agree
        total = weight.sum(-1) + noise
        p = torch.full((len(x), L, V), 0.0, dtype=torch.float64) + (noise / total / V)[:, None, None]
        for start in range(V):
            at = ((start + place) % V).expand(len(x), L)[..., None]
            p = p.scatter_add(-1, at, (weight[:, start] / total)[:, None, None].expand(len(x), L, 1))
        z = torch.cat([p.clamp(min=1e-300).log(), torch.zeros(*x.shape, 1, dtype=torch.float64)], -1)
        return z

    def head(self, hidden):
        return hidden


@pytest.fixture
def cyclic(tiny_run):
    """The tiny run with a network that knows cyclic texts exactly."""
    made = load_model(tiny_run)
    return dataclasses.replace(made, net=Cycle(made.vocab_size, 0.01))


@pytest.mark.parametrize("true", [1, 2, 5])
def test_the_score_is_the_probability_of_the_given_text_by_bayes_rule(cyclic, true):
    V = cyclic.vocab_size
    text = [(3 + i) % V for i in range(6 + true + 4)]
    found = {}
    for n in range(1, 7):
        tokens = (*text[:6], *[None] * n, *text[6 + true :])
        found[n] = length_nats(cyclic, tokens)
        # the prefix fits one start; what follows fits it for the true length alone, modulo V
        fits = (n - true) % V == 0
        before = 0.99 / V + 0.01 * V**-6
        both = 0.99 / V * fits + 0.01 * V**-10
        assert found[n] == pytest.approx(math.log(before / both), rel=1e-6)
    assert min(found, key=found.get) == true


def test_of_candidates_of_different_lengths_the_one_that_fits_the_given_text_is_kept(tiny_run, monkeypatch):
    """And not the one with the lowest bound per token, which is another length where its tokens happen to be likely."""
    from sedd_cli.inference import infill

    monkeypatch.setattr(infill, "length_nats", lambda model, tokens: abs(tokens.count(None) - 3.0))
    monkeypatch.setattr(infill, "candidate_bound", lambda model, tokens: (float(len(tokens)), 0.1))
    template = parse_template("the [MASK:1-6] sat")
    (one,) = infill_all(load_model(tiny_run), Job(template, candidates=6), Sampling())
    assert one.lengths == [3]
    monkeypatch.setattr(infill, "length_nats", lambda model, tokens: None)
    (one,) = infill_all(load_model(tiny_run), Job(template, candidates=6), Sampling())
    assert one.lengths == [1]


def test_tokens_right_after_each_gap_are_scored(cyclic):
    V = cyclic.vocab_size
    text = [i % V for i in range(12)]
    assert length_nats(cyclic, (*text[:5], None)) is None
    assert length_nats(cyclic, tuple(text)) is None
    # beyond FOLLOWING nothing counts
    base = (None, None, *text[:FOLLOWING])
    assert length_nats(cyclic, (*base, 5)) == pytest.approx(length_nats(cyclic, (*base, 1)))
    assert length_nats(cyclic, (*base, None, 1)) > length_nats(cyclic, (*base, None))


def test_without_a_mask_the_model_cannot_tell(tiny_run):
    made = load_model(tiny_run)
    assert length_nats(made, (1, None, 2)) is not None
    assert length_nats(dataclasses.replace(made, graph=GRAPHS["uniform"](made.vocab_size)), (1, None, 2)) is None
