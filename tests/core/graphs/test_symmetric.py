"""Graphs with symmetric rates: their matrices, the forms of the exponential, what neighbours are measured by."""

from __future__ import annotations

import dataclasses

import mpmath
import pytest
import torch

from sedd_cli.core.graphs import GRAPHS, Graph, symmetric
from sedd_cli.core.graphs.nearest_neighbour import contexts, nearest

F64 = {"dtype": torch.float64}
PATH = ";".join(",".join(str(b) for b in (a - 1, a + 1) if 0 <= b < 12) for a in range(12))
GRAPHS_OF_TWELVE = [
    GRAPHS["gaussian"](vocab_size=12),
    GRAPHS["gaussian"](vocab_size=12, width=0.08),
    GRAPHS["nearest_neighbour"](vocab_size=12, edges=PATH),
]
every_one = pytest.mark.parametrize("graph", GRAPHS_OF_TWELVE, ids=["wide", "narrow", "path"])


def plain(graph: Graph) -> Graph:
    """A graph with the same generator, and nothing else of it."""

    class Plain(Graph):
        name = "plain"
        rate = staticmethod(graph.rate)

    return Plain(graph.vocab_size)


@every_one
def test_rates_are_symmetric_and_the_fastest_is_1(graph):
    Q = graph.rate_matrix
    torch.testing.assert_close(Q, Q.T, rtol=0, atol=0)
    assert float(Q.sum(0).abs().max()) < 1e-12
    assert float(Q.diagonal().min()) == pytest.approx(-1.0, abs=1e-14)


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_gaussian_rates_have_the_form_of_d3pms_matrix(beta):
    """Austin et al. 2021, appendix A.2.2: off the diagonal, exp(−4|i − j|²/((K − 1)²·β)) up to a factor."""
    K = 9
    Q = GRAPHS["gaussian"](vocab_size=K, width=(beta / 8) ** 0.5).rate_matrix
    for i, j in ((0, 1), (0, 2), (3, 8), (8, 0)):
        wanted = torch.tensor(-4 * ((i - j) ** 2 - 1) / ((K - 1) ** 2 * beta), **F64).exp()
        assert float(Q[i, j] / Q[4, 5]) == pytest.approx(float(wanted), rel=1e-12)


@every_one
@pytest.mark.parametrize("sigma", [1e-7, 1e-3, 0.03, 0.4, 1.1, 3.0, 9.0, 60.0])
def test_every_form_of_the_exponential_is_right_relative_to_each_entry(graph, sigma):
    found = graph.transition_matrix(torch.tensor(sigma, **F64))
    torch.testing.assert_close(found, torch.linalg.matrix_exp(sigma * graph.rate_matrix), rtol=0, atol=1e-10)
    with mpmath.workdps(60):
        exact = mpmath.expm(mpmath.matrix(graph.rate_matrix.tolist()) * mpmath.mpf(sigma))
        truth = torch.tensor([[float(exact[i, j]) for j in range(12)] for i in range(12)], **F64)
    assert float((found / truth - 1).abs().max()) < 2e-11


@every_one
def test_the_inverse_undoes_noise_and_never_overflows(graph):
    values = torch.rand(5, 12, **F64, generator=torch.Generator().manual_seed(0))
    sigma = torch.full((5,), 0.05, **F64)
    back = graph.propagate(-sigma, graph.propagate(sigma, values))
    torch.testing.assert_close(back, values, rtol=0, atol=1e-9)
    assert bool(graph.propagate(torch.full((5,), -500.0, **F64), values).isfinite().all())


@every_one
@pytest.mark.parametrize("block", [1, 300, 2**24])
def test_blocks_and_mixed_noise_levels_change_nothing(graph, block, monkeypatch):
    monkeypatch.setattr(symmetric, "BLOCK", block)
    graph = dataclasses.replace(graph)
    other, generator = plain(graph), torch.Generator().manual_seed(1)
    x, x0 = torch.randint(12, (2, 6, 5), generator=generator)
    sigma = torch.tensor([0.0, 1e-3, 0.2, 12.0, 4.0, 0.2], **F64)
    u = torch.rand(6, 5, generator=generator, **F64)
    z, level = torch.randn(6, 5, 12, generator=generator, **F64), sigma[:, None].expand(6, 5)
    for found, truth in (
        (graph.transition(level, x0), other.transition(level, x0)),
        (graph.transition_into(sigma, x), other.transition_into(sigma, x)),
        (graph.propagate(level, z), other.propagate(level, z)),
        (graph.posterior_kl(z, sigma, 2 * sigma + 0.1, x, x0), other.posterior_kl(z, sigma, 2 * sigma + 0.1, x, x0)),
    ):
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-11)
    assert graph.perturb(x0, sigma, u).tolist() == other.perturb(x0, sigma, u).tolist()


def test_gradients_of_the_divergence_are_those_of_the_derived_form():
    graph = GRAPHS_OF_TWELVE[0]
    x, x0 = torch.randint(12, (2, 8), generator=torch.Generator().manual_seed(2))
    sigma_s = torch.tensor([0.0, 0.0, 0.1, 0.1, 0.5, 0.5, 2.0, 2.0], **F64)
    grads = []
    for one in (graph, plain(graph)):
        z = torch.randn(8, 12, generator=torch.Generator().manual_seed(3), **F64).requires_grad_()
        one.posterior_kl(z, sigma_s, sigma_s + 0.3, x, x0).sum().backward()
        grads.append(z.grad)
    torch.testing.assert_close(*grads, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", ["gaussian", "nearest_neighbour"])
def test_too_many_states_are_refused_with_their_number_and_the_memory(name):
    with pytest.raises(ValueError, match=r"50,257 states .* dense matrix of 18\.8 GiB .* at most 4,096 states"):
        GRAPHS[name](vocab_size=50257).active(torch.tensor([0]))


def test_the_narrowest_kernel_moves_to_the_next_tokens_alone():
    found = GRAPHS["gaussian"](vocab_size=6, width=1e-200).rate_matrix
    assert (found - found.diagonal().diag() > 0).nonzero().diff(dim=1).abs().tolist() == [[1]] * 10


@pytest.mark.parametrize("width", [0.0, -1.0, float("inf")])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(ValueError, match="width must be positive and finite"):
        GRAPHS["gaussian"](vocab_size=5, width=width)


# -- nearest neighbours ----------------------------------------------------------------------------


class Statistics:
    """Two groups of three tokens: those of a group stand before and after the same others."""

    def __init__(self, rows: int = 6):
        self.rows = rows

    def counts(self):
        return torch.ones(6, dtype=torch.int64)

    def pairs(self):
        found = torch.zeros(6, 6, **F64)
        found[:3, 3:] = torch.tensor([9.0, 5.0, 1.0])
        found[3:, :3] = torch.tensor([1.0, 5.0, 9.0])
        return found

    def embedding(self, file):
        return torch.arange(self.rows, **F64)[:, None] ** 2


def test_weights_are_those_of_d3pm():
    """(G + Gᵀ)/2 with G(a, b) = 1 for the nearest b of a: 1 where both are, 1/2 where one is."""
    graph = GRAPHS["nearest_neighbour"](vocab_size=4, edges="1;0;1;2")
    wanted = torch.tensor([[0, 1, 0, 0], [1, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 0.5, 0]], **F64)
    torch.testing.assert_close(graph.weights(), wanted, rtol=0, atol=0)
    rates = graph.rate_matrix - graph.rate_matrix.diagonal().diag()
    torch.testing.assert_close(rates / rates[0, 1], wanted, rtol=1e-14, atol=0)


def test_neighbours_are_the_nearest_and_separate_parts_are_connected_where_they_are_nearest():
    vectors = torch.tensor([0.0, 1.0, 2.1, 10.0, 11.0, 12.1], **F64)[:, None]
    assert nearest(vectors, 1) == [[1], [0], [1, 3], [4], [3], [4]]


def test_tokens_with_the_same_neighbours_in_the_text_are_near():
    vectors = contexts(Statistics().pairs())
    apart = torch.cdist(vectors, vectors)
    assert float(apart[:3, :3].max()) < 0.3 < 1.0 < float(apart[:3, 3:].min())
    graph = GRAPHS["nearest_neighbour"](vocab_size=6, neighbours=2).measure(Statistics())
    rows = [{int(b) for b in row.split(",")} for row in graph.edges.split(";")]
    assert all({0, 1, 2} - {a} <= rows[a] for a in range(3))
    assert all({3, 4, 5} - {a} <= rows[a] for a in range(3, 6))
    assert graph.rate_matrix.shape == (6, 6)


def test_an_embedding_of_another_size_is_refused():
    graph = GRAPHS["nearest_neighbour"](vocab_size=6, neighbours=1, embedding="e.npy")
    assert graph.measure(Statistics()).edges == "1;0;1;2;3;4"
    with pytest.raises(ValueError, match=r"the embedding e\.npy has 7 rows, the vocabulary 6 tokens"):
        graph.measure(Statistics(7))


def test_more_neighbours_than_other_tokens_are_all_of_them():
    found = GRAPHS["nearest_neighbour"](vocab_size=6, neighbours=9).measure(Statistics())
    assert found.edges == ";".join(",".join(str(b) for b in range(6) if b != a) for a in range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbours": 0}, "neighbours must be at least 1, found 0"),
        ({"edges": "1;x"}, "edges must be ids like"),
        ({"edges": "1," * 200_000}, "edges have 400,000 characters, the most is 262,144"),
    ],
)
def test_impossible_neighbourhoods_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GRAPHS["nearest_neighbour"](vocab_size=6, **options)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ("1;0;1", "edges are those of 3 tokens, the vocabulary has 4"),
        ("1;0;1;7", "edges are those of 4 tokens, the vocabulary has 4"),
        ("1;0;3;2", "falls into parts"),
    ],
)
def test_edges_that_do_not_fit_the_vocabulary_are_refused(edges, message):
    with pytest.raises(ValueError, match=message):
        GRAPHS["nearest_neighbour"](vocab_size=4, edges=edges).active(torch.tensor([0]))
