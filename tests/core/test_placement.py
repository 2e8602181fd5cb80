"""Where the draws of a bound lie: what one moved token can count."""

from __future__ import annotations

import math

import pytest
import torch

from sedd_cli.core import placement

LOW, HIGH = 1e-5, 6.9


def weights(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """sigma and weight at many even draws."""
    v = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    return placement.placed_sigma(v, LOW, HIGH, length)


@pytest.mark.parametrize("length", [1, 32, 1024])
def test_weights_are_the_inverse_density(length):
    sigma, weight = weights(length)
    assert float(weight.mean()) == pytest.approx(HIGH - LOW, rel=1e-4)
    assert float((weight * (-sigma).exp()).mean()) == pytest.approx(math.exp(-LOW) - math.exp(-HIGH), rel=1e-4)


@pytest.mark.parametrize("length", [1, 32, 1024])
def test_what_a_moved_token_counts_is_bounded_by_the_even_share(length, monkeypatch):
    sigma, weight = weights(length)
    cell = (HIGH / LOW) ** (1 / placement.CELLS)  # the density is constant within a cell
    assert float((weight / sigma).max()) <= cell * math.log(HIGH / LOW) / placement.LOG_SHARE
    monkeypatch.setattr(placement, "LOG_SHARE", 0.0)
    sigma, weight = weights(length)
    assert float((weight / sigma).max()) > 2 * math.log(HIGH / LOW) / 0.5
