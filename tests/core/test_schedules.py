"""Schedules: value, rate, inverse and ends."""

import itertools
import math
from dataclasses import dataclass

import pytest
import reference
import torch

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.samplers.grids import T_END
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.testing.graphs import derived
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


@pytest.mark.parametrize("w", [0.5, 1.0, 2.0, 5.0])
def test_polynomial_and_cosine_are_those_of_md4(w):
    """Shi et al. 2024, table 1: α = 1 − t^w, and 1 − cos(π/2·(1 − t)), here with λ = 1 − α times 1 − eps."""
    lam = -torch.expm1(-SCHEDULES["polynomial"](power=w, eps=1e-3)(T)[0])
    torch.testing.assert_close(lam, (1 - 1e-3) * T**w, rtol=1e-12, atol=1e-16)
    lam = -torch.expm1(-SCHEDULES["cosine"](eps=1e-3)(T)[0])
    torch.testing.assert_close(lam, (1 - 1e-3) * torch.cos(math.pi / 2 * (1 - T)), rtol=1e-12, atol=1e-16)


FREQUENCIES = [(0.5, 0.5), (0.9, 0.06, 0.04), (0.4, 0.3, 0.2, 0.1, 0.0), tuple([1 / 30] * 30)]
DENSE = ("uniform", "gaussian", "nearest_neighbour", "hybrid")
T_LINEAR = (1e-5, 1e-3, 0.1, 0.5, 0.9, 1.0)


@dataclass(frozen=True)
class Text:
    p: tuple[float, ...]

    def counts(self):
        return torch.tensor(self.p, dtype=torch.float64)


def mutual_information(graph, p, **options):
    return SCHEDULES["mutual_information"](**options).measure(Text(p), graph)


def information(graph, p: tuple[float, ...], sigma: float) -> float:
    """I(x_t; x_0) from the joint distribution."""
    p0 = torch.tensor(p, dtype=torch.float64)
    joint = torch.matrix_exp(sigma * graph.rate_matrix)[:, : len(p)] * p0
    ratio = joint / (joint.sum(1, keepdim=True) * p0)
    return float(torch.where(joint > 0, joint * ratio.log(), 0.0).sum())


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("p", FREQUENCIES, ids=len)
def test_the_information_about_the_clean_token_falls_linearly(name, p):
    """Austin et al. 2021: I(x_t; x_0) = (1 − t)·H(x_0), here down to eps of it."""
    graph, entropy = GRAPHS[name](vocab_size=len(p)), -sum(q * math.log(q) for q in p if q)
    noise = mutual_information(graph, p)
    for t in T_LINEAR:
        assert information(graph, p, noise.sigma(t)) == pytest.approx((1 - 0.999 * t) * entropy, abs=1e-7 * entropy)


@pytest.mark.parametrize("p", FREQUENCIES, ids=len)
def test_the_closed_form_of_the_conditional_entropy_is_the_dense_one(p):
    graph, p0 = GRAPHS["uniform"](vocab_size=len(p)), torch.tensor(p, dtype=torch.float64)
    found, dense = (one.conditional_entropies(p0, 1e-6, 2) for one in (graph, derived(graph)))
    entropy = float(-torch.xlogy(p0, p0).sum())
    for k, (one, other) in enumerate(itertools.islice(zip(found, dense, strict=True), 50)):
        assert one == pytest.approx(other, rel=1e-9)
        assert entropy - one == pytest.approx(information(graph, p, 1e-6 * 2 ** (k / 2)), abs=1e-9)


def test_interpolated_the_absorbing_graph_has_its_closed_form():
    """`measure` leaves it as it is; the same process without its closed forms is interpolated."""
    graph = GRAPHS["absorbing"](vocab_size=3)
    assert mutual_information(graph, (0.5, 0.3, 0.2)) == SCHEDULES["mutual_information"]()
    plain = type("Plain", (type(derived(graph)),), {"masking": False})(3)
    found, closed = mutual_information(plain, (0.5, 0.3, 0.2))(T), SCHEDULES["loglinear"]()(T)
    inner = T > 0
    torch.testing.assert_close(found[0][inner], closed[0][inner], rtol=2e-5, atol=0)
    torch.testing.assert_close(found[1][inner], closed[1][inner], rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize("eps", [1e-3, 1e-6, 0.4])
def test_what_holds_for_every_schedule_holds_for_a_measured_one(name, eps):
    noise = mutual_information(GRAPHS[name](vocab_size=4), (0.4, 0.3, 0.29, 0.01), eps=eps)
    check_schedule(lambda: noise)
    inner, step = T[3:-1], 1e-6
    numeric = (noise(inner + step)[0] - noise(inner - step)[0]) / (2 * step)
    torch.testing.assert_close(noise(inner)[1], numeric, rtol=1e-5, atol=0)
    assert noise.sigma(0.0) == 0.0


def test_unmeasured_the_mutual_information_is_that_of_the_absorbing_graph():
    """I = (1 − λ)·H there, so λ is linear: `loglinear`. Step t of D3PM masks 1/(T − t + 1) of what is left."""
    noise, steps = SCHEDULES["mutual_information"](), 50
    torch.testing.assert_close(noise(T)[0], SCHEDULES["loglinear"]()(T)[0], rtol=0, atol=0)
    exact = SCHEDULES["mutual_information"](eps=1e-12)
    left = torch.exp(-exact(torch.arange(steps + 1).double() / steps)[0])
    masked = 1 - left[1:] / left[:-1]
    torch.testing.assert_close(masked, 1 / torch.arange(steps, 0, -1).double(), rtol=1e-9, atol=0)


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
        ("cosine", {"eps": 0.0}),
        ("polynomial", {"power": 0.0}),
        ("polynomial", {"eps": 2.0}),
        ("polynomial", {"power": 65.0}),
        *((name, {"eps": 1e-17}) for name in ("loglinear", "cosine", "polynomial", "mutual_information")),
        ("mutual_information", {"eps": 1.0}),
        ("mutual_information", {"curve": ((0.1, 0.1),)}),
        ("mutual_information", {"curve": tuple((k / 8, 0.5) for k in range(1, 9))}),
        ("mutual_information", {"curve": tuple((k / 8, k / 10) for k in range(1, 9))}),
    ],
)
def test_impossible_options_are_refused_by_name(name, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*found"):
        SCHEDULES[name](**options)


def test_noise_is_positive_and_finite_at_the_limits_of_the_options():
    for schedule in (SCHEDULES["loglinear"](eps=6e-17), SCHEDULES["polynomial"](power=64.0, eps=6e-17)):
        assert 0 < schedule.sigma(T_END) < schedule.sigma(1.0) < float("inf")
