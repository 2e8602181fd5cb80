"""Checkpoints of others on SEDD's network: loaded to the outputs of their network, sampled, infilled and bounded."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support import sedd_networks as made
from support.sedd_networks import FORMATS, LENGTH, N

from sedd_cli import load_model
from sedd_cli.core.samplers.denoise import decode_masses

every_format = pytest.mark.parametrize("kind", FORMATS)
T = torch.tensor([0.15, 0.5, 0.8])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Each format's model and the network that was saved, loaded once."""
    found = {}

    def load(kind):
        if kind not in found:
            path = tmp_path_factory.mktemp("formats") / "model"
            net = FORMATS[kind][0](path)
            found[kind] = load_model(path if path.is_dir() else path.with_suffix(".ckpt"), device="cpu"), net
        return found[kind]

    return load


@every_format
def test_a_format_is_recognised_and_its_network_gets_the_noise_as_in_training(loaded, kind):
    model, net = loaded(kind)
    assert model.graph.name == FORMATS[kind][1]
    assert model.length == LENGTH
    x = torch.randint(net.states, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    told = {"none": torch.zeros(3), "sigma": model.schedule(T)[0], "time": T}[FORMATS[kind][2]]
    with torch.no_grad():
        z = net(x, told)
    own = model.vocabulary
    found = model.log_p_x0(x, T)
    assert found.shape == (3, LENGTH, net.states)
    excluded = own.mask is not None and not own.counts_mask
    if excluded:
        z[..., own.mask] = -torch.inf
    expected = z.log_softmax(-1)
    if own.carries_over:
        stays = torch.full_like(z, -torch.inf).scatter(-1, x[..., None], 0.0)
        expected = torch.where((x == own.mask)[..., None], expected, stays)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@every_format
def test_samples_and_fillings_hold_tokens_alone_and_keep_what_is_given(loaded, kind):
    model, _ = loaded(kind)
    for sample in model.sample(3, steps=4, seed=1):
        assert len(sample.tokens) == LENGTH
        assert all(0 <= token < model.vocab_size for token in sample.tokens)


@torch.no_grad()
def log_p(model, steps: int) -> dict[tuple[int, ...], float]:
    """log p of every sequence of two tokens under the process that samplers approach, by its master equation.

    The reverse process is integrated over a fine grid with its full matrix of rates over all pairs of states.
    """
    score = model.score
    graph, S = score.graph, score.graph.states
    states = torch.tensor(list(itertools.product(range(S), repeat=2)))
    where = {tuple(x): i for i, x in enumerate(states.tolist())}
    low, high = model.schedule.sigma(1e-5), model.schedule.sigma(1.0)
    grid = torch.logspace(math.log10(high), math.log10(low), steps + 1, dtype=torch.float64)
    base = graph.base()
    p = (base[:, None] * base).flatten()
    neighbours = [[where[tuple(x[:i] + [y] + x[i + 1 :])] for i in range(2) for y in range(S)] for x in states.tolist()]
    to = torch.tensor(neighbours)
    for t, s in itertools.pairwise(grid):
        middle = ((t.log() + s.log()) / 2).exp()
        level = middle.expand(len(states))
        log_score = score.log_score(states, level.float()).double()
        rates = graph.between(middle, middle).reverse_rates(log_score, states).flatten(1)  # from each state
        Q = torch.zeros(len(states), len(states), dtype=torch.float64).scatter_add_(1, to, rates)
        Q -= Q.sum(1).diag()
        p = p @ torch.linalg.matrix_exp(Q * (t - s))
    found = {}
    log_score = score.log_score(states, torch.full((len(states),), low))
    masses = decode_masses(graph, log_score, states, torch.full((len(states),), low, dtype=torch.float64))
    last = masses.log_softmax(-1)
    if graph.masking:  # tokens stay
        stays = torch.full_like(last, -torch.inf).scatter(-1, states[..., None], 0.0)
        last = torch.where((states == graph.mask)[..., None], last, stays)
    for x0 in itertools.product(range(graph.vocab_size), repeat=2):
        decoded = last[:, 0, x0[0]] + last[:, 1, x0[1]]
        found[x0] = float((p.clamp(min=1e-300).log() + decoded).logsumexp(0))
    return found


#: One of each parametrization.
MEANINGS = ("mdlm, with time", "udlm", "gidd", "gidd, masks alone", "lightning d3pm", "lightning sedd")


@pytest.mark.parametrize("kind", MEANINGS)
def test_the_bound_lies_above_minus_log_p(loaded, kind):
    model, _ = loaded(kind)
    exact = log_p(model, 200)
    # more than 0 is lost where scores are not those of a distribution
    assert math.isclose(sum(math.exp(value) for value in exact.values()), 1.0, abs_tol=2e-3)
    ordered = sorted(exact, key=exact.__getitem__)
    for x0 in (ordered[0], ordered[-1]):
        found, _ = model.bound(torch.tensor([x0]).expand(256, 2), draws=16, seed=2)
        bound, error = float(found.mean()), float(found.std()) / 16
        assert bound > -exact[x0] - 4 * error - 0.02
        if model.objective.parametrization != "score":  # where scores are normalised it is not far above
            assert bound < -exact[x0] + 4 * error + 6


def test_the_other_weights_do_not_count(tmp_path):
    net = made.save_lightning(tmp_path / "a.ckpt", **made.SUBS)
    live = made.save_lightning(tmp_path / "b.ckpt", averaged=False, **made.SUBS)
    for file, expected, told in (("a", net, "EMA"), ("b", live, "not averaged")):
        model = load_model(tmp_path / f"{file}.ckpt", device="cpu")
        for name, value in expected.named_parameters():
            assert torch.equal(dict(model.net.net.named_parameters())[name], value)
        assert model.facts["weights"] == told
        assert model.facts["step"] == 7


def test_scores_of_the_code_of_mdlm_are_scaled_by_sigma(tmp_path):
    net = made.save_lightning(tmp_path / "m.ckpt", parameterization="sedd", time_conditioning=True)
    x, sigma = torch.randint(N + 1, (2, LENGTH), generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 2.0])
    with torch.no_grad():
        expected = net(x, sigma) - torch.expm1(sigma).log()[:, None, None] - math.log(N)
    expected = expected.scatter(-1, x[..., None], 0.0)
    torch.testing.assert_close(load_model(tmp_path / "m.ckpt", device="cpu").log_score(x, sigma), expected)


def test_mask_in_the_middle_is_known_from_the_pickled_tokenizer(tmp_path):
    tokenizer = made.bert_tokenizer({"a": 0, "[MASK]": 1, "b": 2, "c": 3})
    made.save_lightning(tmp_path / "m.ckpt", tokenizer=tokenizer, **made.SUBS)
    model = load_model(tmp_path / "m.ckpt", device="cpu")
    assert model.vocabulary.mask == 1
    log_p = model.log_p_x0(torch.tensor([[0, 1, 2, 3, 1, 1]]), torch.tensor([0.5]))
    assert log_p[0, :, 1].isneginf().all()
    assert log_p[0, 3, 3] == 0
    assert N == model.vocab_size
