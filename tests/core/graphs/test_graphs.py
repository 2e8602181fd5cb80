"""The forward process: perturb draws from the matrix exponential, p_base is its limit, options are checked."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import reference
import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from support.toys import base, rate_matrix

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.graphs.with_mask import WithMask

N = 4
SIGMAS = [0.01, 0.1, 0.7, 3.0, 12.0]
every_graph = pytest.mark.parametrize("name", GRAPHS)


def distribution_of_perturb(graph, sigma: float, cells: int = 30_000) -> torch.Tensor:
    """P [S, N], p(x | x0) found by running u through the midpoints of a fine grid: exact to 1/cells a boundary."""
    u = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    columns = []
    for x0 in range(graph.vocab_size):
        x = graph.perturb(torch.full((1, cells), x0), torch.tensor([sigma], dtype=torch.float64), u[None])
        columns.append(torch.bincount(x[0], minlength=graph.states).double() / cells)
    return torch.stack(columns, dim=1)


@every_graph
@pytest.mark.parametrize("sigma", SIGMAS)
def test_perturb_follows_the_matrix_exponential(name, sigma):
    graph = GRAPHS[name](vocab_size=N)
    P = reference.transition(rate_matrix(name, N), sigma)
    # a boundary of a cell is off by at most one midpoint, and a state has at most four boundaries
    torch.testing.assert_close(distribution_of_perturb(graph, sigma), P[:, :N], rtol=0, atol=4 / 30_000)


@every_graph
@pytest.mark.parametrize("sigma", SIGMAS)
def test_perturb_of_random_uniforms_passes_a_chi_square(name, sigma):
    graph, draws = GRAPHS[name](vocab_size=N), 30_000
    u = torch.rand(1, draws, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    P = reference.transition(rate_matrix(name, N), sigma)
    for x0 in range(N):
        x = graph.perturb(torch.full((1, draws), x0), torch.tensor([sigma], dtype=torch.float64), u)
        seen, expected = torch.bincount(x[0], minlength=graph.states).double(), P[:, x0] * draws
        assert seen[expected == 0].sum() == 0
        kept = expected > 0
        # the seed is fixed; a right implementation falls under 1e-4 with one seed in ten thousand
        assert chisquare(seen[kept], expected[kept]).pvalue > 1e-4


@every_graph
def test_two_perturbations_are_one_of_the_summed_noise(name):
    """Semigroup: P(a) then P(b) is P(a + b), here of the distributions that perturb itself realises."""
    graph = GRAPHS[name](vocab_size=N)
    a, b = 0.3, 0.9
    first = distribution_of_perturb(graph, a)
    second = torch.eye(graph.states, dtype=torch.float64)
    second[:, :N] = distribution_of_perturb(graph, b)  # a state that is no token (MASK) stays what it is
    torch.testing.assert_close(second @ first, distribution_of_perturb(graph, a + b), rtol=0, atol=12 / 30_000)


@every_graph
def test_perturb_takes_one_sigma_a_sequence(name):
    graph = GRAPHS[name](vocab_size=N)
    u = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = torch.arange(15).reshape(3, 5) % N
    sigma = torch.tensor([0.05, 0.8, 6.0], dtype=torch.float64)
    together = graph.perturb(x0, sigma, u)
    alone = torch.cat([graph.perturb(x0[i : i + 1], sigma[i : i + 1], u[i : i + 1]) for i in range(3)])
    assert together.tolist() == alone.tolist()
    assert together.dtype == torch.int64


@pytest.mark.parametrize("name", ["absorbing", "uniform"])
def test_a_chance_of_1e_minus_12_to_move_is_kept_apart_from_never(name):
    """1 - exp(-sigma) in place of expm1 would be off by 1e-4 here; float32 uniforms would never move."""
    graph, sigma = GRAPHS[name](vocab_size=N), torch.tensor([1e-12], dtype=torch.float64)
    lam = 1e-12 - 0.5e-24
    # token 0 stays unless u < lam; the fresh token of the uniform graph for u just under lam is the last one
    edges = lam * torch.tensor([[1 - 1e-9, 1 + 1e-9]], dtype=torch.float64)
    moved = graph.perturb(torch.zeros(1, 2, dtype=torch.int64), sigma, edges)
    assert moved.tolist() == [[graph.states - 1, 0]]


@every_graph
def test_base_is_the_limit_of_infinite_noise(name):
    graph, cells = GRAPHS[name](vocab_size=N), 30_000
    u = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    distribution = torch.bincount(graph.sample_base(u[None])[0], minlength=graph.states).double() / cells
    torch.testing.assert_close(distribution, base(name, N), rtol=0, atol=2 / cells)
    limit = reference.transition(rate_matrix(name, N), 60.0)
    torch.testing.assert_close(distribution, limit[:, 0], rtol=0, atol=2 / cells)


@every_graph
def test_every_uniform_in_the_open_interval_gives_a_state(name):
    graph = GRAPHS[name](vocab_size=N)
    ends = torch.tensor([[2.0**-53, 1 - 2.0**-53]], dtype=torch.float64)
    for sigma in (1e-5, 20.0):
        x = graph.perturb(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([sigma], dtype=torch.float64), ends)
        assert ((x >= 0) & (x < graph.states)).all()
    base = graph.sample_base(ends)
    assert ((base >= 0) & (base < graph.states)).all()


@every_graph
def test_active_positions_are_those_with_an_outgoing_reverse_rate(name):
    graph, Q = GRAPHS[name](vocab_size=N), rate_matrix(name, N)
    leaves = (Q - torch.diag(Q.diag())).sum(1) > 0  # row x: rates Q(x, y) that can carry x back to some y
    assert graph.active(torch.arange(graph.states)).tolist() == leaves.tolist()


@every_graph
def test_log_score_is_zero_at_the_current_token(name):
    graph = GRAPHS[name](vocab_size=N)
    z = torch.randn(graph.states, graph.states, generator=torch.Generator().manual_seed(0)).requires_grad_()
    x = torch.arange(graph.states)
    log_score = graph.log_score(z, torch.full((graph.states,), 0.3), x)
    assert log_score.diagonal().tolist() == [0.0] * graph.states
    log_score.sum().backward()
    assert z.grad.diagonal().tolist() == [0.0] * graph.states


def test_scale_by_sigma_adds_the_known_factor():
    """Appendix C.1: log_score = z - log expm1(sigma) - log N; without it, z itself."""
    z = torch.randn(3, N + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x, sigma = torch.full((3,), N), torch.tensor([1e-9, 0.4, 20.0], dtype=torch.float64)
    scaled = GRAPHS["absorbing"](vocab_size=N).log_score(z, sigma, x)
    plain = GRAPHS["absorbing"](vocab_size=N, scale_by_sigma=False).log_score(z, sigma, x)
    torch.testing.assert_close(plain[:, :N], z[:, :N], rtol=0, atol=0)
    factor = sigma.expm1().log() + torch.tensor(N, dtype=torch.float64).log()
    torch.testing.assert_close(scaled[:, :N], z[:, :N] - factor[:, None], rtol=1e-14, atol=0)


@every_graph
def test_fewer_than_two_tokens_are_refused(name):
    with pytest.raises(ValueError, match="vocab_size must be at least 2, found 1"):
        GRAPHS[name](vocab_size=1)


@pytest.mark.parametrize(("rates", "masking"), [((1, 1, 1), True), ((2, 2, 2), False), ((1, 0.5, 2), False)])
def test_only_a_graph_that_masks_every_token_at_rate_1_has_the_forms_of_masked_diffusion(rates, masking):
    graph = _Masks(vocab_size=3, rates=rates)
    assert graph.only_masks
    assert graph.masking is masking
    if not masking:
        with pytest.raises(ValueError, match="at rate 1"):
            graph.check_masking("this")


def test_whether_a_large_graph_masks_needs_no_dense_form():
    graph = GRAPHS["absorbing"](vocab_size=100_000)
    assert graph.masking
    assert not GRAPHS["state_dependent"](vocab_size=100_000).masking


@dataclass(frozen=True)
class _Masks(WithMask):
    """Token v turns into MASK at rate rates[v], written as a user would."""

    name: ClassVar[str] = "masks"
    rates: tuple[float, ...] = ()

    def rate(self, x):
        leaves = torch.tensor([*self.rates, 0], dtype=torch.float64)[x][..., None]
        return leaves * (F.one_hot(torch.tensor(self.mask), self.states) - F.one_hot(x, self.states))
