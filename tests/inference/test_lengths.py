"""Lengths of gaps are chosen by the given text: by its exact probability, and right where the length is known."""

import dataclasses
import math

import pytest
import torch

from sedd_cli import load_model
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.inference import lengths
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


def test_many_places_are_scored_in_portions(tiny_run, monkeypatch):
    model = load_model(tiny_run, device="cpu")
    tokens = (3, None, None, 4, 5, 6, None, 2, 1)
    whole = length_nats(model, tokens)
    seen = []
    head = type(model.score.net).head
    monkeypatch.setattr(lengths, "tokens_at_once", lambda device: 20)
    monkeypatch.setattr(type(model.score.net), "head", lambda net, h: seen.append(len(h)) or head(net, h))
    assert length_nats(model, tokens) == pytest.approx(whole, rel=1e-5)
    assert seen == [2, 2, 1]


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


@pytest.mark.parametrize("slipped", [False, True])
def test_the_bound_of_a_gap_is_its_exact_probability_where_scores_are_exact(cyclic, slipped):
    from support.lengths import SIDE, gap_bound

    V, n = cyclic.vocab_size, 3
    tokens = torch.arange(2 * SIDE + n) % V
    tokens[SIDE + 1] = (tokens[SIDE + 1] + slipped) % V
    rest = 0.99 / V + 0.01 * V ** -(2.0 * SIDE)
    both = 0.99 / V * (not slipped) + 0.01 * V ** -(2.0 * SIDE + n)
    assert gap_bound(cyclic, tokens, n, seed=5) == pytest.approx(math.log(rest / both), rel=1e-6)


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


class Chain:
    """The exact conditional distributions of a stationary Markov chain with uniform marginals and transitions P."""

    def __init__(self, P: torch.Tensor):
        self.P, self.V, self.device = P, len(P), torch.device("cpu")

    def hidden(self, x, sigma):
        seen = torch.nn.functional.one_hot(x, self.V + 1)[..., : self.V].double()
        seen = torch.where((x == self.V)[..., None], 1.0, seen)  # [B, L, V]: 1 for the tokens that may stand there
        left, right = [seen[:, 0] / self.V], [torch.ones_like(seen[:, 0])]
        for i in range(1, x.shape[1]):
            left.append((left[-1] @ self.P) * seen[:, i])
            right.append((seen[:, -i] * right[-1]) @ self.P.T)
        p = torch.stack(left, 1) * torch.stack(right[::-1], 1)
        return torch.cat([p.clamp(min=1e-300).log(), torch.zeros(*x.shape, 1, dtype=torch.float64)], -1)

    def head(self, hidden):
        return hidden


class Hidden:
    """The exact conditional distributions of texts of three letters that repeat a hidden word from a random phase.

    Each letter is another one with probability `slip`. Words and phases can be enumerated, and every letter of a text
    tells about them, however far away it stands.
    """

    def __init__(self, V: int, words: list[tuple[int, ...]], slip: float):
        self.V, self.slip, self.device = V, slip, torch.device("cpu")
        self.texts = [(word, start) for word in words for start in range(len(word))]
        shares = [1 / len(words) / len(word) for word, _ in self.texts]
        self.log_prior = torch.tensor(shares, dtype=torch.float64).log()

    def letters(self, L: int) -> torch.Tensor:
        """log p of each token at each place of each hidden text, [C, L, V]."""
        text = torch.tensor([[word[(start + i) % len(word)] for i in range(L)] for word, start in self.texts])
        p = torch.full((*text.shape, self.V), 1e-300, dtype=torch.float64)
        p[..., :3] = self.slip / 2
        return p.scatter(-1, text[..., None], 1 - self.slip).log()

    def log_joint(self, tokens) -> torch.Tensor:
        """log p(hidden text, the tokens that are not None), [C]."""
        log_p = self.letters(len(tokens))
        return self.log_prior + sum(log_p[:, i, token] for i, token in enumerate(tokens) if token is not None)

    def hidden(self, x, sigma):
        log_p = self.letters(x.shape[1])
        seen = [[None if token == self.V else token for token in row] for row in x.tolist()]
        weights = torch.stack([self.log_joint(row).softmax(0) for row in seen])
        p = torch.einsum("bc,clv->blv", weights, log_p.exp())
        return torch.cat([p.log(), torch.zeros(*x.shape, 1, dtype=torch.float64)], -1)

    def head(self, hidden):
        return hidden


@pytest.mark.parametrize(("gaps", "distance"), [(1, 0.217), (2, 0.525)])
def test_the_score_is_the_length_given_all_text_where_no_more_of_it_follows_than_is_scored(tiny_run, gaps, distance):
    """Of a source with a long memory: exact up to FOLLOWING tokens after a gap, far off with more."""
    made = load_model(tiny_run)
    net = Hidden(made.vocab_size, [(0, 1, 2, 2, 1), (0, 0, 1, 0, 2, 1, 1), (2, 1, 0, 2, 2, 0, 1, 1, 0, 1, 2)], 0.4)
    model = dataclasses.replace(made, net=net)
    generator = torch.Generator().manual_seed(gaps)
    far = []
    for after in (FOLLOWING, FOLLOWING + 12):
        text = torch.randint(0, 3, (8 + after * gaps,), generator=generator).tolist()
        nats, truth = [], []
        for n in range(1, 7):
            parts = [text[:8], *(text[8 + after * k : 8 + after * (k + 1)] for k in range(gaps))]
            tokens = tuple(token for part in parts for token in (*part, *[None] * n))[:-n]
            nats.append(length_nats(model, tokens))
            truth.append(float(net.log_joint(tokens).logsumexp(0)))
        found, exact = (torch.tensor(each, dtype=torch.float64).softmax(0) for each in ([-n for n in nats], truth))
        far.append(float((found - exact).abs().sum() / 2))
    assert far[0] < 1e-6
    assert far[1] == pytest.approx(distance, abs=1e-3)


#: Gaps of one to six tokens, between texts of eight.
LENGTHS, SIDE = range(1, 7), 8


@pytest.fixture
def chain(tiny_run):
    """The tiny run with a network that knows a chain exactly: each token is 0, 1 or 2 places after the one before."""
    made = load_model(tiny_run)
    here = torch.eye(made.vocab_size, dtype=torch.float64)
    return dataclasses.replace(made, net=Chain(0.3 * here + 0.4 * here.roll(1, 1) + 0.3 * here.roll(2, 1)))


def passages(P: torch.Tensor, n: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    found = [torch.randint(0, len(P), (n,), generator=generator)]
    for _ in range(2 * SIDE + length - 1):
        found.append(torch.multinomial(P[found[-1]], 1, generator=generator)[:, 0])
    return torch.stack(found, 1)


def test_of_a_markov_chain_the_score_is_its_own_probability_of_the_length(chain):
    """p(n | text) ∝ (P^(n + 1))(last token before the gap, first token after it), by matrix powers."""
    P = chain.net.P
    for true in LENGTHS:
        (text,) = passages(P, 1, true).tolist()
        left, right = text[:SIDE], text[SIDE + true :]
        nats = torch.tensor([length_nats(chain, (*left, *[None] * n, *right)) for n in LENGTHS], dtype=torch.float64)
        weights = [torch.linalg.matrix_power(P, n + 1)[left[-1], right[0]] for n in LENGTHS]
        truth = torch.stack(weights) / sum(weights)
        torch.testing.assert_close(nats.neg().softmax(0), truth, rtol=1e-6, atol=1e-12)


def test_of_a_markov_chain_no_rule_finds_the_length_more_often(chain):
    """The default finds as many as the best possible rule; exact probabilities of filled texts find fewer."""
    P, each = chain.net.P, 25
    powers = torch.stack([torch.linalg.matrix_power(P, n + 1) for n in LENGTHS])
    optimum = float(powers.max(0).values.mean() * len(P) / len(LENGTHS))
    right = {"given text": 0, "per token": 0, "in total": 0}
    generator = torch.Generator().manual_seed(0)
    for true in LENGTHS:
        for text in passages(P, each, true).tolist():
            left, after = text[:SIDE], text[SIDE + true :]
            scores = {name: [] for name in right}
            for n in LENGTHS:
                scores["given text"].append(length_nats(chain, (*left, *[None] * n, *after)))
                nats = nats_of_a_filling(P, left, n, after, generator)
                scores["per token"].append(nats / (2 * SIDE + n))
                scores["in total"].append(nats)
            for name, found in scores.items():
                right[name] += LENGTHS[found.index(min(found))] == true
    share = {name: count / (each * len(LENGTHS)) for name, count in right.items()}
    error = math.sqrt(optimum * (1 - optimum) / (each * len(LENGTHS)))
    assert 0.3 < optimum < 0.7  # neither hopeless nor sure
    assert share["given text"] == pytest.approx(optimum, abs=3 * error)
    assert share["per token"] < optimum - 2 * error
    assert share["in total"] < optimum - 2 * error, (share, optimum)


def nats_of_a_filling(P, left, n, right, generator) -> float:
    """−log p of a text whose gap is filled by a draw from the exact conditional distribution; inf if there is none."""
    text = list(left)
    for at in range(n):
        weights = P[text[-1]] * torch.linalg.matrix_power(P, n - at)[:, right[0]]
        if not weights.sum():
            return math.inf
        text.append(int(torch.multinomial(weights, 1, generator=generator)))
    text += right
    return float(math.log(len(P)) - P[text[:-1], text[1:]].log().sum())
