"""Schedules: value, rate, inverse and ends."""

import pytest
import reference
import torch

from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.testing.schedules import check_schedule

every_noise = pytest.mark.parametrize("name", SCHEDULES)
T = torch.cat([torch.tensor([0.0, 1e-5, 1e-3]), torch.linspace(0.05, 1, 20)]).double()


@pytest.mark.parametrize("eps", [1e-3, 0.05])
def test_loglinear_is_its_formula(eps):
    sigma, dsigma = SCHEDULES["loglinear"](eps=eps)(T)
    truth = torch.tensor([reference.loglinear(float(t), eps) for t in T], dtype=torch.float64)
    # the plain log(1 - x) of the reference loses digits near 0: 1e-16 absolute
    torch.testing.assert_close(sigma, truth[:, 0], rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(dsigma, truth[:, 1], rtol=1e-13, atol=0)


@pytest.mark.parametrize(("low", "high"), [(1e-5, 20.0), (1e-4, 20.0), (0.1, 3.0)])
def test_geometric_is_its_formula(low, high):
    sigma, dsigma = SCHEDULES["geometric"](sigma_min=low, sigma_max=high)(T)
    truth = torch.tensor([reference.geometric(float(t), low, high) for t in T], dtype=torch.float64)
    torch.testing.assert_close(sigma, truth[:, 0], rtol=1e-13, atol=0)
    torch.testing.assert_close(dsigma, truth[:, 1], rtol=1e-13, atol=0)


def test_loglinear_moves_a_share_of_tokens_linear_in_time():
    noise = SCHEDULES["loglinear"](eps=1e-3)
    torch.testing.assert_close(-torch.expm1(-noise(T)[0]), (1 - 1e-3) * T, rtol=1e-13, atol=0)


def test_the_ends_are_those_of_the_paper():
    loglinear, geometric = SCHEDULES["loglinear"](), SCHEDULES["geometric"]()
    assert (loglinear.sigma(0.0), geometric.sigma(0.0)) == (0.0, 1e-4)
    assert loglinear.sigma(1.0) == pytest.approx(6.907755278982137, rel=1e-12)  # -log 1e-3
    assert geometric.sigma(1.0) == pytest.approx(20.0, rel=1e-14)


@every_noise
def test_what_holds_for_every_schedule(name):
    """Growth, derivative, inverse, shapes and dtypes."""
    check_schedule(SCHEDULES[name])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("loglinear", {"eps": 0.0}),
        ("loglinear", {"eps": 1.0}),
        ("geometric", {"sigma_min": 0.0}),
        ("geometric", {"sigma_min": 3.0, "sigma_max": 2.0}),
    ],
)
def test_impossible_options_are_refused_by_name(name, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*found"):
        SCHEDULES[name](**options)
