"""Categorical draws are exact, down to the rarest entry."""

import math

import pytest
import reference
import torch
from scipy.stats import chisquare

from sedd_cli.core import categorical
from sedd_cli.core.categorical import inverse_cdf


def uniforms(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frequencies_pass_a_chi_square(dtype):
    weights = torch.tensor([0.5, 0.0, 3.0, 0.01, 1.0, 0.0, 7.0, 0.0], dtype=dtype)
    draws = 30_000
    seen = torch.bincount(inverse_cdf(weights.expand(draws, -1), uniforms(draws)), minlength=8)
    kept = weights > 0
    expected = weights[kept].double() / weights.double().sum() * draws
    assert seen[~kept].sum() == 0
    # the seed is fixed; a right implementation falls under 1e-4 with one seed in ten thousand
    assert chisquare(seen[kept], expected).pvalue > 1e-4


def test_every_entry_owns_exactly_its_share_of_the_unit_interval():
    weights = torch.tensor([0.5, 0.0, 2.0, 0.25, 0.25])
    edges = torch.tensor([0.0, 0.5, 0.5, 2.5, 2.75, 3.0], dtype=torch.float64) / 3
    for entry in (0, 2, 3, 4):
        u = torch.stack([edges[entry] + 1e-15, edges[entry + 1] - 1e-15])
        assert inverse_cdf(weights.expand(2, -1), u).tolist() == [entry, entry]


@pytest.mark.parametrize("u", [0.0, 2.0**-1074, 2.0**-53, 1 - 2.0**-53, 1.0])
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 3.0, 1e30])
def test_the_ends_of_the_interval_never_draw_an_entry_of_weight_zero(u, scale):
    weights = scale * torch.tensor([0.0, 0.0, 0.1, 0.0, 0.7, 0.0, 0.0], dtype=torch.float64)
    assert inverse_cdf(weights[None], torch.tensor([u], dtype=torch.float64)).item() == (2 if u < 0.5 else 4)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_mass_of_1e_minus_9_is_hit_at_its_rate(place):
    """Uniforms laid evenly over a window sixty times the rare mass, where it lies: one in sixty hits it."""
    weights = torch.full((5,), 0.25, dtype=torch.float64)
    weights[place] = 1e-9 * (1 + 1e-9)  # 1e-9 of the total
    weights /= weights.sum()
    start = float(weights[:place].sum())
    low = min(max(start - 3e-8, 0.0), 1 - 6e-8)
    u = low + 6e-8 * (torch.arange(6000, dtype=torch.float64) + 0.5) / 6000
    hits = int((inverse_cdf(weights.expand(len(u), -1), u) == place).sum())
    # the window holds 100 grid points of the rare mass; its two ends may each cut one
    assert abs(hits - 100) <= 2


def test_the_float32_race_of_the_published_code_cannot_draw_a_mass_of_1e_minus_9():
    """Negative control: even with the best numbers float32 can give the rare entry and the worst for the other."""
    largest, smallest = 1 - 2.0**-24, 0.0
    best = torch.tensor([[smallest, largest]])
    assert reference.published_float32_race(torch.tensor([[1.0, 1e-9]]), best).item() == 0
    assert reference.published_float32_race(torch.tensor([[1.0, 1e-2]]), best).item() == 1  # the race does run
    assert inverse_cdf(torch.tensor([[1.0, 1e-9]]), torch.tensor([1 - 5e-10], dtype=torch.float64)).item() == 1


@pytest.mark.parametrize("q_over_d", [0.25, 1.0, 4.0])
def test_the_float32_race_gives_a_rare_mass_another_rate_and_the_inverse_cdf_does_not(q_over_d):
    """A mass q races with effective mass d/(e^(d/q) - 1), d = 2^-24: 7 % of q at d/4, still 88 % at 4d."""
    d = 2.0**-24
    q = q_over_d * d
    others = (torch.arange(10_000) + 0.5) / 10_000  # the common entry's uniform, laid out evenly
    raced = 0.0
    for j in range(1, 50):  # the rare entry's uniform is one of 1 - j·d, each of probability d
        u = torch.stack([others, torch.full_like(others, 1 - j * d)], dim=-1)
        raced += d * float(reference.published_float32_race(torch.tensor([1.0, q]), u).double().mean())
    # the grid over the common entry's uniform has cells of 1e-4, against e^(-d/q) = 0.018 or more
    assert raced == pytest.approx(d / math.expm1(d / q), rel=1e-2)
    assert raced < 0.9 * q
    u = 1 - 2 * q * (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert int(inverse_cdf(torch.tensor([1.0, q], dtype=torch.float64).expand(1000, -1), u).sum()) == 500


@pytest.mark.parametrize("row", [[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0]], ids=["zero", "nan", "inf"])
def test_a_row_without_a_distribution_is_refused(row):
    weights = torch.tensor([[1.0, 1.0], row])
    with pytest.raises(ValueError, match="zero, infinite or not a number"):
        inverse_cdf(weights, torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_no_rows_give_no_draws():
    drawn = inverse_cdf(torch.empty(0, 7), torch.empty(0, dtype=torch.float64))
    assert (drawn.shape, drawn.dtype) == ((0,), torch.int64)


def test_blocks_of_rows_draw_what_one_block_draws(monkeypatch):
    weights = torch.rand(23, 11, generator=torch.Generator().manual_seed(1))
    whole = inverse_cdf(weights, uniforms(23))
    monkeypatch.setattr(categorical, "BLOCK", 40)  # three rows at a time, and a remainder
    assert inverse_cdf(weights, uniforms(23)).tolist() == whole.tolist()


def test_float32_weights_are_summed_in_float64():
    """50257 float32 additions would lose 1e-4 of the total; the last entry would then start elsewhere."""
    weights = torch.full((50257,), 0.1)
    weights[-1] = 1.0
    edge = 1 - 1.0 / float(weights.double().sum())
    u = torch.tensor([edge - 1e-12, edge + 1e-12], dtype=torch.float64)
    assert inverse_cdf(weights.expand(2, -1), u).tolist() == [50255, 50256]
