"""Unmasking where the model is surest: a plain transcription, and the properties of its options."""

from __future__ import annotations

import pytest
import torch

from sedd_cli.core.conditioning import Conditioning
from sedd_cli.core.graphs.absorbing import Absorbing
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.samplers.confidence import FIRST, LAST, ORDERS, QUOTAS, even, linear
from sedd_cli.core.schedules import LogLinear
from sedd_cli.core.score import ScoreModel

TOKENS, LENGTH, MASK = 5, 12, 5


class Context:
    """Outputs that depend on all tokens: a random linear function of their one-hot vectors. Counts its calls."""

    def __init__(self, seed=0, shift=0.0):
        generator = torch.Generator().manual_seed(seed)
        size = LENGTH * (TOKENS + 1)
        self.weight = torch.randn(size, size, generator=generator)
        self.calls, self.shift = 0, shift

    def hidden(self, x, sigma):
        self.calls += len(x)
        seen = torch.nn.functional.one_hot(x, TOKENS + 1).float().flatten(1)
        return (seen @ self.weight).view(len(x), LENGTH, TOKENS + 1)

    def head(self, hidden):
        return hidden + self.shift * torch.nn.functional.one_hot(torch.tensor(MASK), TOKENS + 1)


def model(**options):
    return ScoreModel(Context(**options), Absorbing(TOKENS, scale_by_sigma=False), LogLinear(), parametrization="mean")


def prompt(batch=3, given=4):
    tokens = torch.arange(batch * LENGTH).view(batch, LENGTH) % TOKENS
    return Conditioning((torch.arange(LENGTH) < given).expand(batch, -1), tokens)


def run(net, given, seed=0, **options):
    return list(SAMPLERS["confidence"](**options).run(net, given, seed, torch.arange(len(given.where))))


def plainly(net, given, steps, block, quota, order, guidance, all_rows):
    """The greedy algorithm as LLaDA and Dream describe it, sequence by sequence and block by block."""
    out = []
    for where, tokens in zip(given.where, given.tokens, strict=True):
        x, free = torch.where(where, tokens, MASK), (~where).nonzero()[:, 0].tolist()
        blocks = [free[i : i + block] for i in range(0, len(free), block)]
        for number, one in enumerate(blocks):
            inside = steps // len(blocks) + (number < steps % len(blocks))
            times = torch.linspace(1, 1e-3, inside + 1)
            for i in range(inside):
                masked = [p for p in free[: free.index(one[-1]) + 1] if x[p] == MASK]
                if quota == "even":
                    wanted = len(one) // inside + (i < len(one) % inside)
                else:
                    wanted = len(masked) if i == inside - 1 else int(len(masked) * (1 - times[i + 1] / times[i]))
                z = net.net.head(net.net.hidden(x[None], None))[0]
                if guidance:
                    without = net.net.head(net.net.hidden(torch.where(where, MASK, x)[None], None))[0]
                    z = without + (1 + guidance) * (z - without)
                p = (z if all_rows else z[:, :TOKENS]).softmax(-1)
                top = p.sort(-1, descending=True).values
                sure = {
                    "probability": top[:, 0],
                    "margin": top[:, 0] - top[:, 1],
                    "entropy": (p * (p + 1e-10).log()).sum(-1),
                }[order]
                chosen = sorted(masked, key=lambda at: -float(sure[at]))[:wanted]
                for at in chosen:
                    x[at] = p[at].argmax()
        out.append(x)
    return torch.stack(out)


@pytest.mark.parametrize("order", ["probability", "margin", "entropy"])
@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize(("block", "guidance", "all_rows"), [(0, 0.0, False), (3, 0.7, False), (5, 0.0, True)])
def test_greedy_outputs_are_those_of_the_plain_algorithm(order, quota, block, guidance, all_rows):
    given = prompt()
    given.where[1, 7] = True  # also a given token in the middle
    options = {"order": order, "quota": quota, "guidance": guidance, "all_rows": all_rows}
    for steps in (5, 9):
        last = run(model(), given, steps=steps, block_length=block, temperature=0.0, **options)[-1]
        assert torch.equal(last.x, plainly(model(), given, steps, block or LENGTH, **options))


@pytest.mark.parametrize("order", ORDERS)
def test_every_mask_is_filled_and_given_tokens_stay(order):
    given = prompt()
    for top_p, temperature in ((1.0, 1.0), (0.6, 0.5)):
        trace = run(model(), given, order=order, steps=7, block_length=3, temperature=temperature, top_p=top_p)
        assert bool((trace[-1].x < TOKENS).all())
        assert torch.equal(given(trace[-1].x), trace[-1].x)
        left = [int((now.x[0] == MASK).sum()) for now in trace]
        assert left == sorted(left, reverse=True)


def test_blocks_are_filled_one_after_another():
    for now in run(model(), prompt(), steps=8, block_length=2, temperature=0.0):
        masked = now.x == MASK
        first = torch.where(masked.any(1), masked.int().argmax(1), LENGTH)
        block = (first - 4) // 2
        later = torch.arange(LENGTH) >= 4 + 2 * (block[:, None] + 1)
        assert bool((masked | ~later).all())


def test_steps_without_a_token_cost_nothing():
    net = model()
    trace = run(net, prompt(2), steps=30, temperature=0.0)
    assert trace[-1].evaluations.tolist() == [8, 8]
    assert net.net.calls == 16
    guided = run(model(), prompt(2), steps=4, guidance=1.0)
    assert guided[-1].evaluations.tolist() == [8, 8]


def test_without_a_free_position_nothing_is_evaluated():
    net = model()
    (only,) = run(net, prompt(given=LENGTH))
    assert torch.equal(only.x, prompt().tokens)
    assert net.net.calls == 0


def test_mask_competes_only_where_it_is_asked_to():
    loud = model(shift=100.0)
    assert bool((run(loud, prompt(), steps=3)[-1].x < TOKENS).all())
    assert bool((run(loud, prompt(), steps=3, all_rows=True)[-1].x[:, 4:] == MASK).all())


def test_a_sequence_depends_on_seed_and_number_alone():
    given = Conditioning.nothing(6, LENGTH)
    whole = run(model(), given, steps=4)[-1].x
    part = Conditioning.nothing(2, LENGTH)
    *_, last = SAMPLERS["confidence"](steps=4).run(model(), part, 0, torch.tensor([4, 1]))
    assert torch.equal(last.x, whole[[4, 1]])
    assert len(whole.unique(dim=0)) > 1
    assert not torch.equal(run(model(), given, seed=1, steps=4)[-1].x, whole)


def test_tokens_are_drawn_from_the_models_distribution():
    given = Conditioning.at(list(range(1, LENGTH)), [0] * (LENGTH - 1), 4000, LENGTH)
    net = model()
    x = run(net, given, steps=1)[-1].x
    p = net.net.head(net.net.hidden(given(torch.full((1, LENGTH), MASK)), None))[0, 0, :TOKENS].softmax(-1)
    found = torch.bincount(x[:, 0], minlength=TOKENS) / len(x)
    assert (found - p).abs().max() < 0.03


def test_quotas_add_up():
    for size, steps in ((12, 12), (12, 5), (3, 8), (7, 1)):
        assert sum(even(0, i, steps, size) for i in range(steps)) == size
        left = size
        for i in range(steps):
            left -= linear(left, i, steps, size)
        assert left == 0
    assert (FIRST, LAST) == (1.0, 1e-3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"order": "likely"}, "order must be one of probability, margin, entropy, random"),
        ({"quota": "some"}, "quota must be one of even, linear"),
        ({"block_length": -1}, "block_length must be at least 1"),
        ({"guidance": -0.5}, "guidance must be finite and at least 0"),
        ({"guidance": float("inf")}, "guidance must be finite"),
        ({"steps": 0}, "steps must lie between 1 and"),
        ({"temperature": -1.0}, "temperature must be positive"),
    ],
)
def test_options_out_of_range_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        SAMPLERS["confidence"](**options)
