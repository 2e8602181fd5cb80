"""A causal network: nothing behind a position reaches it, its likelihoods are exact, what it has read is kept."""

from __future__ import annotations

import pytest
import reference
import torch
from support.toys import follows

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.losses.autoregressive import next_token_nats
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel
from sedd_cli.models.attention import ATTENTION
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig

N, L = 3, 4


def causal_model(attention: str = "auto", autocast=None) -> ScoreModel:
    net = DiT(
        DiTConfig(n_blocks=2, hidden_size=16, n_heads=2, cond_dim=4, dropout=0.0, length=8, attention=attention),
        N + 1,
        autocast,
        causal=True,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.copy_((1.0 if "norm" in name else 0.0) + 0.4 * torch.randn(p.shape, generator=generator))
    return ScoreModel(net.eval(), GRAPHS["absorbing"](vocab_size=N), SCHEDULES["loglinear"]())


@pytest.mark.parametrize("kernel", sorted(ATTENTION.keys() - {"flash"}))
def test_a_position_sees_what_is_before_it_and_nothing_else(kernel):
    net = causal_model(kernel).net
    x, sigma = torch.tensor([[0, 1, 2, 1, 0]]), torch.zeros(1)
    with torch.no_grad():
        before = net(x, sigma)
        for changed in range(5):
            y = x.clone()
            y[0, changed] = (y[0, changed] + 1) % N
            apart = (net(y, sigma) - before)[0].abs().amax(-1)
            assert (apart[:changed] == 0).all()
            assert (apart[changed:] > 1e-4).all()
        torch.testing.assert_close(before, causal_model("sdpa").net(x, sigma), rtol=1e-5, atol=1e-5)


def test_likelihoods_of_all_sequences_sum_to_one():
    model, every = causal_model(), reference.sequences(N, L)
    with torch.no_grad():
        nats = next_token_nats(model, every)
        assert float(nats.neg().double().exp().sum()) == pytest.approx(1, abs=1e-5)
        given = next_token_nats(model, every, given=1)
        first = next_token_nats(model, every[:, :1])
    torch.testing.assert_close(nats - given, first)


def test_the_loss_is_the_likelihood():
    model, x0 = causal_model(), reference.sequences(N, L)[::7]
    v, u = torch.rand(len(x0), dtype=torch.float64), torch.rand(len(x0), L, dtype=torch.float64)
    loss = OBJECTIVES["autoregressive"]().loss(model, x0, v, u)
    torch.testing.assert_close(loss.sequences, next_token_nats(model, x0).detach())
    loss.total.backward()
    assert all(p.grad is not None for p in model.net.parameters())


@pytest.mark.parametrize("parts", [[1] * 6, [3, 1, 2], [6]])
def test_what_was_read_is_kept(parts):
    net = causal_model().net
    x, sigma = torch.tensor([[0, 1, 2, 1, 0, 2], [2, 2, 0, 1, 3, 0]]), torch.zeros(2)
    past = net.kv_cache()
    with torch.no_grad():
        found = torch.cat([net.hidden(part, sigma, past) for part in x.split(parts, 1)], 1)
        torch.testing.assert_close(found, net.hidden(x, sigma), rtol=1e-5, atol=1e-5)
    assert past.length == 6


def test_only_a_causal_network_has_a_cache():
    net = DiT(DiTConfig(n_blocks=1, hidden_size=8, n_heads=2, cond_dim=4, length=4), 4)
    with pytest.raises(ValueError, match="only a causal network has a cache"):
        net.kv_cache()


@pytest.mark.parametrize("prompt", [[], [2], [1, 0]])
def test_samples_follow_the_likelihood_given_what_stands_in_front(prompt):
    model, every = causal_model(), reference.sequences(N, L)
    with torch.no_grad():
        p = next_token_nats(model, every).neg().double().exp()
    fits = (every[:, : len(prompt)] == torch.tensor(prompt, dtype=torch.int64)).all(1)
    truth = torch.where(fits, p, 0.0)
    draws = 6000
    given = Conditioning.at(list(range(len(prompt))), prompt, draws, L)
    with torch.no_grad():
        *_, last = SAMPLERS["left_to_right"]().run(model, given, 3, torch.arange(draws))
    follows(last.x, truth / truth.sum(), N)
    assert int(last.evaluations[0]) == L - len(prompt)


def test_a_sample_does_not_depend_on_its_batch_nor_on_the_prompts_of_others():
    model, sampler = causal_model(), SAMPLERS["left_to_right"]()
    given = Conditioning.nothing(3, L)
    given.where[1, :2], given.tokens[1, :2] = True, torch.tensor([2, 1])
    given.where[2] = True
    with torch.no_grad():
        *_, together = sampler.run(model, given, 5, torch.tensor([4, 7, 9]))
        for row, number in ((0, 4), (1, 7), (2, 9)):
            one = Conditioning(given.where[row : row + 1], given.tokens[row : row + 1])
            *_, alone = sampler.run(model, one, 5, torch.tensor([number]))
            assert alone.x.tolist() == together.x[row : row + 1].tolist()
    assert together.evaluations.tolist() == [L, L - 2, 0]


def test_text_behind_a_gap_is_refused():
    with pytest.raises(ValueError, match="goes from left to right"):
        list(
            SAMPLERS["left_to_right"]().run(causal_model(), Conditioning.at([0, 2], [1, 1], 1, L), 0, torch.tensor([0]))
        )
