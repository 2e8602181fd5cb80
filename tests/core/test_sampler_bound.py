"""The bound of a sampler as it runs, against the exact distribution of its samples."""

import itertools
import math
from typing import ClassVar

import pytest
import reference
import torch
from support.toys import ALL, PAIRS, N, base, every_noise, every_setting, fits, schedule, score_model, world

from sedd_cli.core.bounds import rigorous_bound
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.random import BOUND, Stream
from sedd_cli.core.sampler_bound import sampler_bound
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.core.score import ScoreModel

DRAWS = 3000


def estimates(model, stepper, x0, draws: int = DRAWS, seed: int = 1) -> torch.Tensor:
    return sampler_bound(model, stepper, x0.expand(draws, -1), Stream(seed, BOUND, torch.arange(draws)), 0)


@every_setting
@pytest.mark.parametrize("steps", [1, 4])
def test_the_bound_is_the_enumerated_one_and_lies_above_the_truth(name, noise, sampler, steps):
    """For every x0: the mean of the draws, by dense chains, and -log of the exact probability of being sampled."""
    graph, Q, p0 = world(name, L=2)
    score = reference.wrong_score(p0, Q, 0.4)
    model, stepper, mask = score_model(graph, noise, score), SAMPLERS[sampler](steps=steps), graph.mask
    start = base(name, N)
    distribution = reference.chain(sampler, score, Q, start, schedule(noise), steps, 2, mask).view(graph.states, -1)
    bounds = []
    for x0 in reference.sequences(N, 2):
        exact = reference.guided_bound(
            sampler, score, Q, x0, start, schedule(noise), steps, mask, unmasks=graph.masking
        )
        found = estimates(model, stepper, x0)
        # fixed seed: a correct implementation leaves five standard errors with one x0 in a million; paths of a
        # probability below 1e-4 are hardly drawn
        rare = 1e-4 * max(1.0, exact / 10)  # they differ by the more the larger the bound is
        assert float(found.mean()) == pytest.approx(exact, abs=5 * float(found.std()) / math.sqrt(DRAWS) + rare)
        assert exact > -math.log(distribution[tuple(x0)]) - 1e-9
        bounds.append(exact)
    assert sum(math.exp(-bound) for bound in bounds) < 1 + 1e-9


@every_noise
@pytest.mark.parametrize("name", ["absorbing", "uniform"])
@pytest.mark.parametrize("steps", [2, 8])
def test_for_a_single_token_and_the_exact_score_the_bound_is_tight(name, noise, steps):
    """Then Tweedie is exact, and so is its likelihood."""
    graph, Q, p0 = world(name, L=1)
    model = score_model(graph, noise, reference.exact_score(p0, Q))
    if name == "uniform" and noise.name == "loglinear":
        pytest.skip("starts from a distribution that is not the uniform one")
    for token in range(N):
        found = estimates(model, SAMPLERS["tweedie"](steps=steps), torch.tensor([token]), 2000)
        error = float(found.std()) / math.sqrt(len(found))
        assert float(found.mean()) == pytest.approx(-math.log(p0[token]), abs=5 * error + 1e-4)


#: Options that change the distribution of samples. Under the geometric schedule of the test below the three grids
#: differ, and much noise is left for the last step.
OPTIONS = [
    {"correctors": 1},
    {"correctors": 2, "grid": "cosine"},
    {"grid": "even"},
    {"temperature": 0.7, "top_p": 0.95},
    {"temperature": 1.4, "correctors": 1},
    {"last_step": "tweedie", "grid": "cosine"},
]


def replayed(graph, moves, x, noise: Stream) -> torch.Tensor:
    """The divergences along paths of q from x [B, L], [B]; the numbers of move k are those of step k + 1."""
    total = torch.zeros(len(x), dtype=torch.float64)
    place = graph.states ** torch.arange(x.shape[1] - 1, -1, -1)
    for number, (p, q) in enumerate(moves, 1):
        row = (x * place).sum(-1)
        total += reference.divergences(p, q)[row]
        u_move, u_token = noise.uniforms(number, x.shape[1])
        q = q[row]  # [B, L, S]
        if graph.masking:  # first whether it moves, and then there is one token to move to
            here = q.gather(-1, x[..., None])
            other = q.scatter(-1, x[..., None], 0.0).argmax(-1)
            x = torch.where(u_move < 1 - here[..., 0], other, x)
        else:
            x = (q.cumsum(-1) <= u_token[..., None]).sum(-1).clamp(max=graph.states - 1)
    return total


@pytest.mark.parametrize("sigmas", [(1e-4, 20.0), (0.05, 2.0)][: None if ALL else 1], ids=str)
@pytest.mark.parametrize(
    ("name", "sampler", "options"), [(g, s, o) for g, s in PAIRS for o in OPTIONS if fits(s, g, **o)], ids=str
)
def test_whatever_the_options_each_path_costs_what_dense_chains_say(name, sigmas, sampler, options):
    """Path by path, from the same uniforms; and the mean of all paths lies above the truth."""
    graph, Q, p0 = world(name, L=2)
    noise, score, start = SCHEDULES["geometric"](*sigmas), reference.wrong_score(p0, Q, 0.4), base(name, N)
    model, stepper = score_model(graph, noise, score), SAMPLERS[sampler](steps=3, **options)
    dense = options | {"grid": stepper.times(model).tolist()}
    x0 = torch.tensor(divmod(int(p0[:N, :N].argmax()), N))  # a text that top_p does not exclude
    stream = Stream(1, BOUND, torch.arange(400))
    found = sampler_bound(model, stepper, x0.expand(400, -1), stream, 0)

    sigma, x = torch.full((400,), sigmas[1], dtype=torch.float64), x0.expand(400, -1)
    x = graph.perturb(x, sigma, stream.uniforms(0, 2)[0]) if graph.mask is None else torch.full_like(x, graph.mask)
    moves = reference.guided_moves(
        sampler, score, Q, x0, schedule(noise), 3, graph.mask, unmasks=graph.masking, **dense
    )
    assert len(moves) == stepper.evaluations
    first = reference.transition(Q, sigmas[1])[:, x0]
    prior = float(torch.special.xlogy(first, first * N).sum()) if graph.mask is None else 0.0
    torch.testing.assert_close(found, prior + replayed(graph, moves, x, stream), rtol=1e-8, atol=1e-9)

    exact = reference.guided_bound(
        sampler, score, Q, x0, start, schedule(noise), 3, graph.mask, unmasks=graph.masking, **dense
    )
    distribution = reference.chain(sampler, score, Q, start, schedule(noise), 3, 2, graph.mask, **dense)
    # of the gaussian graph, some moves to a distant token are among those that top_p excludes
    assert math.isfinite(exact) or (name == "gaussian" and "top_p" in options)
    assert exact > -math.log(distribution.view(graph.states, -1)[tuple(x0)]) - 1e-9


def test_a_path_uses_numbers_of_its_own_for_each_move():
    """Uniforms of all moves of all paths are different ones of the stream."""

    class Recording(Stream):
        numbers: ClassVar[list[int]] = []

        def uniforms(self, step, length):
            self.numbers.append(step)
            return super().uniforms(step, length)

    graph, Q, p0 = world("uniform", L=2)
    model = score_model(graph, SCHEDULES["geometric"](), reference.exact_score(p0, Q))
    stepper = SAMPLERS["tweedie"](steps=3, correctors=2)
    for draw in range(3):
        sampler_bound(model, stepper, torch.zeros(1, 2, dtype=torch.int64), Recording(1, BOUND, torch.arange(1)), draw)
    assert Recording.numbers == list(range(3 * (stepper.evaluations + 1)))


class AllEqual:
    """The exact score of texts that repeat one of two tokens; MASK is 2."""

    def hidden(self, x, sigma):
        seen = torch.stack([(x == token).any(1) for token in range(2)], -1).double()  # [B, 2]
        p = torch.where(seen.sum(-1, keepdim=True) == 0, 0.5, seen / seen.sum(-1, keepdim=True).clamp(min=1))
        z = torch.cat([(2 * p).clamp(min=1e-30).log(), torch.zeros(len(x), 1, dtype=torch.float64)], -1)
        return z[:, None].expand(*x.shape, 3)

    def head(self, hidden):
        return hidden


@pytest.mark.parametrize("steps", [16, *[128] * ALL])
def test_few_steps_have_another_likelihood_than_many_and_their_own_bound_says_so(steps):
    """All-equal texts of 64 tokens: those of a step are drawn as if they were independent, at 1/2 each."""
    L, model = 64, ScoreModel(AllEqual(), GRAPHS["absorbing"](vocab_size=2), SCHEDULES["loglinear"]())
    stepper, x0 = SAMPLERS["tweedie"](steps=steps), torch.zeros(64, dtype=torch.int64)
    # the first step in which anything is unmasked: 2^-K for K tokens there
    p, none, cost = 0.0, 1.0, 0.0
    times = [*reference.time_grid(steps), 0.0]
    for t, s in itertools.pairwise(times):
        u = (t - s) / t
        p += none * ((1 - u / 2) ** L - (1 - u) ** L)
        cost += none * L * u * math.log(2)
        none *= (1 - u) ** L
    found = estimates(model, stepper, x0, 2000)
    error = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(cost, abs=5 * error)
    assert -math.log(p) < cost
    generator = torch.Generator().manual_seed(0)
    v, u = (
        torch.rand(4000, generator=generator, dtype=torch.float64),
        torch.rand(4000, L, generator=generator, dtype=torch.float64),
    )
    continuous = float(rigorous_bound(model, x0.expand(4000, -1), v, u, u, count=True).mean())
    assert continuous == pytest.approx(math.log(2), abs=0.05)
    assert continuous < -math.log(p) - 0.1  # no bound on the sampler
    draws = 4000
    *_, last = stepper.run(model, Conditioning.nothing(draws, L), 3, torch.arange(draws))
    share = float((last.x == 0).all(1).double().mean())
    assert share == pytest.approx(p, abs=5 * math.sqrt(p / draws))


def test_evaluations_count_every_move():
    assert SAMPLERS["tweedie"](steps=5).evaluations == 6
    assert SAMPLERS["tweedie"](steps=5, correctors=2).evaluations == 16


def test_what_the_sampler_cannot_draw_has_no_finite_bound():
    graph, Q, p0 = world("absorbing", L=2)
    model = score_model(graph, SCHEDULES["loglinear"](), reference.exact_score(p0, Q))
    rare = torch.tensor([int(p0.sum(1)[:N].argmin()), int(p0.sum(0)[:N].argmin())])
    assert math.isinf(float(estimates(model, SAMPLERS["tweedie"](steps=3, top_p=0.2), rare, 10).max()))
