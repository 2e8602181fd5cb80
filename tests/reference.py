"""Slow, obvious truths that the tests hold the package against.

Nothing here imports the package, and nothing here is clever: dense matrices, explicit sums, enumeration, loops.

Conventions: `Q[y, x]` is the rate from state x into state y, so columns sum to zero and `P[y, x0] = p(y | x0)`. States
are 0..N-1, and N is MASK on the absorbing graph. A distribution over sequences of length L is a tensor with L axes of
S states each. A score function takes (x [M, L], sigma) and returns the ratios s_y = p(y)/p(x) as [M, L, S] float64.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Score = Callable[[torch.Tensor, float], torch.Tensor]
Schedule = Callable[[float], tuple[float, float]]

# --------------------------------------------------------------------------------------------- forward process


def rate_matrix(graph: str, N: int) -> torch.Tensor:
    """Q^tok of equations 15 and 16, [S, S] float64; the uniform one is scaled by 1/N."""
    if graph == "absorbing":
        Q = torch.zeros(N + 1, N + 1, dtype=torch.float64)
        for token in range(N):
            Q[token, token], Q[N, token] = -1.0, 1.0
        return Q
    if graph == "uniform":
        return torch.ones(N, N, dtype=torch.float64) / N - torch.eye(N, dtype=torch.float64)
    if graph == "hybrid":
        Q = rate_matrix("absorbing", N)
        Q[:N, :N] += 0.2 * rate_matrix("uniform", N)
        return Q
    raise ValueError(f"no dense rate matrix is written for graph {graph!r}")


def base(graph: str, N: int) -> torch.Tensor:
    """p_base of one position, [S]."""
    if graph in ("absorbing", "hybrid"):
        return torch.tensor([0.0] * N + [1.0], dtype=torch.float64)
    return torch.full((N,), 1.0 / N, dtype=torch.float64)


def transition(Q: torch.Tensor, sigma: float) -> torch.Tensor:
    """exp(sigma Q): column x0 is p(. | x0)."""
    return torch.matrix_exp(sigma * Q)


def loglinear(t: float, eps: float = 1e-3) -> tuple[float, float]:
    """(sigma, dsigma) with lambda = (1 - eps) t."""
    moved = (1 - eps) * t
    return -math.log(1 - moved), (1 - eps) / (1 - moved)


def geometric(t: float, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """(sigma, dsigma) with sigma = sigma_min^(1-t) sigma_max^t."""
    sigma = sigma_min ** (1 - t) * sigma_max**t
    return sigma, sigma * (math.log(sigma_max) - math.log(sigma_min))


# ------------------------------------------------------------------------------------------------------- loss


def K(a: float) -> float:
    """K(a) = a (log a - 1), with K(0) = 0."""
    return a * (math.log(a) - 1) if a > 0 else 0.0


def score_entropy(Q: torch.Tensor, log_score: Sequence[float], sigma: float, x: int, x0: int) -> float:
    """Theorem 3.6 at one position: sum_{y != x} Q(x, y) (s_y - r_y log s_y + K(r_y)), explicit ratios, one by one."""
    return _score_entropy(Q, transition(Q, sigma), log_score, x, x0)


def _score_entropy(Q: torch.Tensor, P: torch.Tensor, log_score: Sequence[float], x: int, x0: int) -> float:
    total = 0.0
    for y in range(len(Q)):
        rate = float(Q[x, y])
        if y == x or rate == 0:
            continue
        r = float(P[y, x0]) / float(P[x, x0])
        total += rate * (math.exp(log_score[y]) - r * float(log_score[y]) + K(r))
    return total


def textbook_score_entropy(graph: str, N: int, log_score: torch.Tensor, sigma: float, x: int, x0: int) -> float:
    """Theorem 3.6 in one vectorised line per state, for vocabularies too large for a dense Q; dtype of log_score."""
    dtype, S = log_score.dtype, len(log_score)
    keep = torch.tensor(sigma, dtype=dtype).neg().exp()
    p, rate = torch.zeros(S, dtype=dtype), torch.zeros(S, dtype=dtype)
    if graph == "absorbing":
        p[x0], p[N] = keep, 1 - keep
        rate[:N] = 1.0 if x == N else 0.0
    elif graph == "uniform":
        p[:] = (1 - keep) / N
        p[x0] += keep
        rate[:] = 1.0 / N
    rate[x] = 0.0
    r = p / p[x]
    return float((rate * (log_score.exp() - r * log_score + torch.special.xlogy(r, r) - r)).sum())


# ------------------------------------------------------------------------- sequences: enumeration of everything


def sequences(S: int, L: int) -> torch.Tensor:
    """All S^L sequences in row-major order, [S^L, L]: row j is the multi-index of flat position j."""
    return torch.tensor(list(itertools.product(range(S), repeat=L)))


def source(N: int, L: int, S: int, seed: int = 0, sharpness: float = 1.5) -> torch.Tensor:
    """A correlated data distribution over N^L with full support, inside a tensor with L axes of S states."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.softmax(sharpness * torch.randn(N**L, dtype=torch.float64, generator=generator), dim=0)
    p0 = torch.zeros((S,) * L, dtype=torch.float64)
    p0[(slice(0, N),) * L] = tokens.reshape((N,) * L)
    return p0


def diffuse(p0: torch.Tensor, Q: torch.Tensor, sigma: float) -> torch.Tensor:
    """p_sigma: every axis of p0 carried through the transition."""
    P, p = transition(Q, sigma), p0
    for axis in range(p0.dim()):
        p = torch.movedim(torch.tensordot(P, p, dims=([1], [axis])), 0, axis)
    return p


def exact_score(p0: torch.Tensor, Q: torch.Tensor) -> Score:
    """The true ratios p_sigma(y)/p_sigma(x) of sequences that differ in one position, read off the dense p_sigma."""
    S, L = len(Q), p0.dim()
    place = torch.tensor([S ** (L - 1 - i) for i in range(L)])

    def score(x: torch.Tensor, sigma: float) -> torch.Tensor:
        p = diffuse(p0, Q, sigma).flatten()
        flat = (x * place).sum(-1)
        y = torch.arange(S)
        neighbour = flat[:, None, None] + (y - x[..., None]) * place[:, None]
        return p[neighbour] / p[flat][:, None, None]

    return score


def wrong_score(p0: torch.Tensor, Q: torch.Tensor, spread: float = 0.7, seed: int = 7) -> Score:
    """Nobody's score: the exact one, every ratio off by its own factor, which changes smoothly with the noise."""
    S, L, right = len(Q), p0.dim(), exact_score(p0, Q)
    generator = torch.Generator().manual_seed(seed)
    table, slope = torch.randn(2, S**L, L, S, dtype=torch.float64, generator=generator)
    place = torch.tensor([S ** (L - 1 - i) for i in range(L)])

    def score(x: torch.Tensor, sigma: float) -> torch.Tensor:
        flat = (x * place).sum(-1)
        off = spread * (table[flat] - math.expm1(-sigma) * slope[flat])
        return right(x, sigma) * off.scatter(-1, x[..., None], 0.0).exp()

    return score


def told(score: Score, low: float, high: float, scaled: bool) -> Score:
    """The score of a network that is told sigma clamped to [low, high]; `scaled` ones know 1/expm1(sigma) apart."""

    def clamped(x: torch.Tensor, sigma: float) -> torch.Tensor:
        level = min(max(sigma, low), high)
        factor = math.expm1(level) / math.expm1(sigma) if scaled else 1.0
        return (factor * score(x, level)).scatter(-1, x[..., None], 1.0)

    return clamped


@dataclass(frozen=True)
class Oracle:
    """A network that looks its answer up. `tokens`: N where the graph adds the factor 1/(N expm1 sigma), else None."""

    score: Score
    tokens: int | None = None

    def hidden(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        z = None
        for level in sigma.unique().tolist():
            rows = sigma == level
            part = self.score(x[rows], level).log()
            if self.tokens is not None:
                part = part + math.log(math.expm1(level)) + math.log(self.tokens)
            z = part.new_empty(*x.shape, part.shape[-1]) if z is None else z
            z[rows] = part
        return z

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def nll(p0: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """-log p0(x0) in nats per sequence, [M], read from the table."""
    return torch.stack([-p0[tuple(row)].log() for row in x0])


def expected_loss(score: Score, Q: torch.Tensor, sigma: float, x0: torch.Tensor) -> float:
    """E_{x ~ p(. | x0)} of the score entropy summed over positions, at one noise level: enumerate x. x0: [L]."""
    P, S, L = transition(Q, sigma), len(Q), len(x0)
    total = 0.0
    xs = sequences(S, L)
    log_s = score(xs, sigma).log()
    for row, x in enumerate(xs):
        weight = math.prod(float(P[x[i], x0[i]]) for i in range(L))
        if weight == 0:
            continue
        total += weight * sum(_score_entropy(Q, P, log_s[row, i].tolist(), int(x[i]), int(x0[i])) for i in range(L))
    return total


def sequence_loss(score: Score, Q: torch.Tensor, sigma: float, x: torch.Tensor, x0: torch.Tensor) -> float:
    """The score entropy of one noisy sequence, summed over its positions. x, x0: [L]."""
    log_s = score(x[None], sigma)[0].log()
    return sum(score_entropy(Q, log_s[i].tolist(), sigma, int(x[i]), int(x0[i])) for i in range(len(x)))


def loss_integral(
    score: Score, Q: torch.Tensor, x0: torch.Tensor, sigma_low: float, sigma_high: float, nodes: int = 48
) -> float:
    """The DWDSE loss: integral of `expected_loss` over sigma, by Gauss-Legendre in log sigma. dsigma = sigma dlog."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    low, high = math.log(sigma_low), math.log(sigma_high)
    total = 0.0
    for point, weight in zip(points, weights, strict=True):
        sigma = math.exp(0.5 * (high - low) * point + 0.5 * (high + low))
        total += 0.5 * (high - low) * weight * sigma * expected_loss(score, Q, sigma, x0)
    return total


# ------------------------------------------------------------------------------------ the clean token, discrete time


def clean_posterior(p0: torch.Tensor, Q: torch.Tensor, N: int) -> Score:
    """p(x0_i = y | x_sigma = x) of the data distribution: x [M, L], sigma → [M, L, N], by enumeration of x0."""
    L = p0.dim()
    clean = sequences(N, L)
    weight = torch.stack([p0[tuple(row)] for row in clean])

    def posterior(x: torch.Tensor, sigma: float) -> torch.Tensor:
        P = transition(Q, sigma)
        likelihood = torch.stack(
            [weight * torch.stack([P[row[i], clean[:, i]] for i in range(L)]).prod(0) for row in x]
        )
        joint = likelihood / likelihood.sum(1, keepdim=True)
        found = [[joint[:, clean[:, i] == y].sum(1) for y in range(N)] for i in range(L)]
        return torch.stack([torch.stack(each, -1) for each in found], 1)

    return posterior


def mean_score(Q: torch.Tensor, sigma: float, x: int, p: torch.Tensor) -> torch.Tensor:
    """Σ_{x0} p(x0)·p(y|x0)/p(x|x0) for every state y, [S]: the score where p [N] is the law of the clean token."""
    P = transition(Q, sigma)
    return sum(p[x0] * P[:, x0] / P[x, x0] for x0 in range(len(p)) if P[x, x0] > 0)


def step_posterior(Q: torch.Tensor, sigma_s: float, sigma_t: float, x: int, x0: int) -> torch.Tensor:
    """p(x_s = y | x_t = x, x0) for every state y, [S]: products of dense transitions (D3PM, eq. 3)."""
    mass = transition(Q, sigma_t - sigma_s)[x] * transition(Q, sigma_s)[:, x0]
    return mass / mass.sum()


def mean_step(Q: torch.Tensor, sigma_s: float, sigma_t: float, x: int, p: torch.Tensor) -> torch.Tensor:
    """p(x_s = y | x_t = x) of D3PM's mean parametrisation, [S]; p [N] is the law of the clean token (eq. 4).

    Clean tokens that cannot have become x are out of the question, whatever p says.
    """
    possible = [x0 for x0 in range(len(p)) if transition(Q, sigma_t)[x, x0] > 0]
    return sum(p[x0] * step_posterior(Q, sigma_s, sigma_t, x, x0) for x0 in possible) / p[possible].sum()


def kl(p: torch.Tensor, q: torch.Tensor) -> float:
    """D_KL(p ‖ q) of two finite laws, nats."""
    return float(sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True) if a > 0))


def discrete_terms(law: Score, Q: torch.Tensor, levels: Sequence[float], x0: torch.Tensor) -> list[float]:
    """L_1 … L_T of D3PM's variational bound for one x0 [L], all x_t enumerated; levels[t] is sigma after step t.

    law(x, sigma) → [M, L, N], the network's law of the clean tokens.
    """
    S, L = len(Q), len(x0)
    xs, terms = sequences(S, L), []
    for sigma_s, sigma_t in itertools.pairwise(levels):
        P, total = transition(Q, sigma_t), 0.0
        weights = [math.prod(float(P[x[i], x0[i]]) for i in range(L)) for x in xs]
        p = law(xs, sigma_t)
        for row, (x, weight) in enumerate(zip(xs.tolist(), weights, strict=True)):
            if weight:
                total += weight * sum(
                    kl(
                        step_posterior(Q, sigma_s, sigma_t, x[i], int(x0[i])),
                        mean_step(Q, sigma_s, sigma_t, x[i], p[row, i]),
                    )
                    for i in range(L)
                )
        terms.append(total)
    return terms


# --------------------------------------------------------------------------------------------- reverse process


def information(p0: torch.Tensor, Q: torch.Tensor, x0: torch.Tensor, sigma: float) -> float:
    """D_KL(p_sigma(. | x0) || p_sigma) in nats. It is -log p0(x0) at sigma = 0, and with the exact score it falls by

    `expected_loss` per unit of sigma: the score entropy between two noise levels is the difference of this number.
    """
    L = len(x0)
    clean = torch.zeros_like(p0)
    clean[tuple(x0)] = 1.0
    noisy, p = diffuse(clean, Q, sigma), diffuse(p0, Q, sigma)
    assert noisy.dim() == L
    return float(sum(a * (a.log() - b.log()) for a, b in zip(noisy.flatten(), p.flatten(), strict=True) if a > 0))


def reverse_posterior(p0: torch.Tensor, Q: torch.Tensor, sigma_s: float, sigma_t: float, x: torch.Tensor):
    """p(x_s | x_t = x) for the whole sequence by Bayes' rule, a tensor with L axes of S. x: [L]."""
    p_s, P = diffuse(p0, Q, sigma_s), transition(Q, sigma_t - sigma_s)
    joint = p_s.clone()
    for y in itertools.product(range(len(Q)), repeat=p0.dim()):
        joint[y] *= math.prod(float(P[int(x[i]), y[i]]) for i in range(p0.dim()))
    return joint / joint.sum()


def reverse_process(
    score: Score, Q: torch.Tensor, start: torch.Tensor, sigma_high: float, sigma_low: float, L: int, cells: int = 400
) -> torch.Tensor:
    """The law [S^L] of the continuous-time reverse process at sigma_low, started from `start` [S^L] at sigma_high.

    Rates Q(x, y) s_y of equation 4, frozen at the middle of `cells` equal pieces of log sigma.
    """
    S = len(Q)
    xs = sequences(S, L)
    place = torch.tensor([S ** (L - 1 - i) for i in range(L)])
    flat = (xs * place).sum(-1)
    edges = np.linspace(math.log(sigma_high), math.log(sigma_low), cells + 1)
    p = start
    for high, low in itertools.pairwise(edges.tolist()):
        sigma = math.exp(0.5 * (high + low))
        s = score(xs, sigma)
        rates = torch.zeros(S**L, S**L, dtype=torch.float64)
        for i in range(L):
            for y in range(S):
                off = xs[:, i] != y
                target = flat + (y - xs[:, i]) * place[i]
                rates[flat[off], target[off]] = Q[xs[off, i], y] * s[off, i, y]
        rates -= torch.diag(rates.sum(-1))
        p = p @ torch.matrix_exp(rates * sigma * (high - low))
    return p


def normalise(mass: torch.Tensor) -> torch.Tensor:
    """Negative masses become 0, then the rest is renormalised."""
    mass = mass.clamp(min=0)
    return mass / mass.sum(-1, keepdim=True)


def euler_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, dt_dsigma: float) -> torch.Tensor:
    """Equation 17: delta_x(y) + dt sigma' Q(x, y) s_y off the diagonal, what is left stays. [M, L, S] probabilities."""
    out = torch.zeros_like(s)
    for index in itertools.product(range(x.shape[0]), range(x.shape[1])):
        here = int(x[index])
        for y in range(len(Q)):
            if y != here:
                out[index][y] = dt_dsigma * Q[here, y] * s[index][y]
        out[index][here] = 1 - out[index].sum()
    return normalise(out)


def tweedie_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, delta_sigma: float, banned: int | None = None):
    """Theorem 4.1: (exp(-dsigma Q) s)_y exp(dsigma Q)(x, y). `banned` is a state that may not come out."""
    back, forth = transition(Q, -delta_sigma), transition(Q, delta_sigma)
    out = torch.zeros_like(s)
    for index in itertools.product(range(x.shape[0]), range(x.shape[1])):
        out[index] = (back @ s[index]) * forth[int(x[index])]
    if banned is not None:
        out[..., banned] = 0.0
    return normalise(out)


def joint(rows: torch.Tensor) -> torch.Tensor:
    """[M, L, S] independent positions -> [M, S^L] probabilities of whole sequences, in the order of `sequences`."""
    out = rows[:, 0]
    for i in range(1, rows.shape[1]):
        out = (out[:, :, None] * rows[:, i][:, None, :]).flatten(1)
    return out


def clamp(p: torch.Tensor, S: int, given: dict[int, int] | None) -> torch.Tensor:
    """The law of x after the given positions are overwritten. p: [S^L]."""
    if not given:
        return p
    L = round(math.log(len(p), S))
    out = torch.zeros_like(p)
    for row, x in enumerate(sequences(S, L).tolist()):
        for position, token in given.items():
            x[position] = token
        out[sum(token * S ** (L - 1 - i) for i, token in enumerate(x))] += p[row]
    return out


def time_grid(steps: int, t_end: float = 1e-5) -> list[float]:
    return [1 + (t_end - 1) * k / steps for k in range(steps + 1)]


def remdm_step(x: torch.Tensor, s: torch.Tensor, sigma_s: float, sigma_t: float, eta: float) -> torch.Tensor:
    """Remasking with a cap (Wang et al. 2025), MASK the last state: a token is taken back with chance
    rho = min(eta, (1 - alpha_s)/alpha_t); a mask falls with (alpha_s - (1 - rho) alpha_t)/(1 - alpha_t), to y in
    proportion to s_y, whose sum over y is alpha_t/(1 - alpha_t) times the normaliser."""
    alpha_s, alpha_t, mask = math.exp(-sigma_s), math.exp(-sigma_t), s.shape[-1] - 1
    rho = min(eta, (1 - alpha_s) / alpha_t)
    out = torch.zeros_like(s)
    for index in itertools.product(range(x.shape[0]), range(x.shape[1])):
        here = int(x[index])
        if here == mask:
            falls = (alpha_s - (1 - rho) * alpha_t) / (1 - alpha_t)
            out[index][:mask] = falls * s[index][:mask] * (1 - alpha_t) / alpha_t
            out[index][mask] = 1 - out[index].sum()
        else:
            out[index][here], out[index][mask] = 1 - rho, rho
    return normalise(out)


def corrector_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, h: float) -> torch.Tensor:
    """A leap of length h by forward and reverse rates at once (Campbell et al. 2022, section 4.4). [M, L, S]."""
    out = torch.zeros_like(s)
    for index in itertools.product(range(x.shape[0]), range(x.shape[1])):
        here = int(x[index])
        for y in range(len(Q)):
            if y != here:
                out[index][y] = h * (Q[y, here] + Q[here, y] * s[index][y])
        out[index][here] = 1 - out[index].sum()
    return normalise(out)


def shaped(rows: torch.Tensor, x: torch.Tensor, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """Transition laws [M, L, S] with the law of the destination tempered and cut to a nucleus; who moves is kept."""
    out = torch.zeros_like(rows)
    for index in itertools.product(range(x.shape[0]), range(x.shape[1])):
        here, p = int(x[index]), rows[index].clone()
        p[here] = 0.0
        move_probability = float(p.sum())
        out[index][here] = 1 - move_probability
        if move_probability == 0:
            continue
        weights = [float(value / move_probability) ** (1 / temperature) for value in p]
        total, held = sum(weights), 0.0
        for y in sorted(range(len(p)), key=lambda y: -weights[y]):
            if held >= top_p * total - 1e-15 * total:
                weights[y] = 0.0
            held += weights[y]
        for y, weight in enumerate(weights):
            out[index][y] += move_probability * weight / sum(weights)
    return out


def chain(
    sampler: str,
    score: Score,
    Q: torch.Tensor,
    start: torch.Tensor,
    schedule: Schedule,
    steps: int,
    L: int,
    mask: int | None = None,
    given: dict[int, int] | None = None,
    grid: list[float] | None = None,
    eta: float = 0.02,
    correctors: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> torch.Tensor:
    """The exact law [S^L] of algorithm 2 (3 with `given`): a dense step per grid interval, then the final denoise."""
    S = len(Q)
    xs, grid = sequences(S, L), grid or time_grid(steps)
    p = clamp(joint(start.expand(1, L, S))[0], S, given)

    def after(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return clamp(p @ joint(shaped(rows, xs, temperature, top_p)), S, given)

    for t, s_time in itertools.pairwise(grid):
        (sigma, dsigma), (sigma_next, dsigma_next) = schedule(t), schedule(s_time)
        s = score(xs, sigma)
        if sampler == "euler":
            rows = euler_step(Q, xs, s, (t - s_time) * dsigma)
        elif sampler == "tweedie":
            rows = tweedie_step(Q, xs, s, sigma - sigma_next)
        elif sampler == "remdm":
            rows = remdm_step(xs, s, sigma_next, sigma, eta)
        else:
            raise ValueError(f"no dense step is written for sampler {sampler!r}")
        p = after(p, rows)
        for _ in range(correctors):
            half = (1 - math.exp(-sigma_next)) / 2
            h = half * (1 - math.exp(-(t - s_time) * dsigma_next / half))
            p = after(p, corrector_step(Q, xs, score(xs, sigma_next), h))
    sigma, _ = schedule(grid[-1])
    return after(p, tweedie_step(Q, xs, score(xs, sigma), sigma, banned=mask))


def published_float32_race(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The categorical draw of the published code, in float32: a race that rare entries cannot win. Negative control."""
    gumbel_norm = 1e-10 - (u.float() + 1e-10).log()
    return (weights.float() / gumbel_norm).argmax(-1)


# ----------------------------------------------------------------------------------------------------- network


def network(state: dict[str, torch.Tensor], x: torch.Tensor, sigma: torch.Tensor, n_heads: int) -> torch.Tensor:
    """The published architecture (appendix C.2), one sequence and one head at a time. Returns z [B, L, S]."""
    return torch.stack([_one_sequence(state, row, float(level), n_heads) for row, level in zip(x, sigma, strict=True)])


def _layer_norm(h: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    mean = h.mean(-1, keepdim=True)
    variance = ((h - mean) ** 2).mean(-1, keepdim=True)
    return (h - mean) / torch.sqrt(variance + 1e-5) * weight


def _silu(v: torch.Tensor) -> torch.Tensor:
    return v / (1 + torch.exp(-v))


def _gelu_tanh(v: torch.Tensor) -> torch.Tensor:
    return 0.5 * v * (1 + torch.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


def _rotate(v: torch.Tensor) -> torch.Tensor:
    """Rotary position of one head, [L, d]: entries j and j + d/2 turn together by position * 10000^(-2j/d)."""
    L, d = v.shape
    out = torch.empty_like(v)
    for position in range(L):
        for j in range(d // 2):
            angle = position * 10000.0 ** (-2 * j / d)
            c, s = math.cos(angle), math.sin(angle)
            a, b = v[position, j], v[position, j + d // 2]
            out[position, j], out[position, j + d // 2] = a * c - b * s, b * c + a * s
    return out


def _one_sequence(state: dict[str, torch.Tensor], x: torch.Tensor, sigma: float, n_heads: int) -> torch.Tensor:
    h = state["vocab_embed.embedding"][x]
    D = h.shape[1]
    d = D // n_heads

    angles = [sigma * math.exp(-math.log(10000) * j / 128) for j in range(128)]
    features = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=h.dtype)
    cond = state["sigma_map.mlp.0.weight"] @ features + state["sigma_map.mlp.0.bias"]
    cond = state["sigma_map.mlp.2.weight"] @ _silu(cond) + state["sigma_map.mlp.2.bias"]
    cond = _silu(cond)

    n_blocks = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    for i in range(n_blocks):
        block = {name.removeprefix(f"blocks.{i}."): v for name, v in state.items() if name.startswith(f"blocks.{i}.")}
        adaLN = block["adaLN_modulation.weight"] @ cond + block["adaLN_modulation.bias"]
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = adaLN.chunk(6)

        v = _layer_norm(h, block["norm1.weight"]) * (1 + scale_msa) + shift_msa
        q, k, v = (v @ block["attn_qkv.weight"][j * D : (j + 1) * D].T for j in range(3))
        heads = []
        for head in range(n_heads):
            part = slice(head * d, (head + 1) * d)
            weights = torch.softmax(_rotate(q[:, part]) @ _rotate(k[:, part]).T / math.sqrt(d), dim=-1)
            heads.append(weights @ v[:, part])
        h = h + gate_msa * (torch.cat(heads, dim=-1) @ block["attn_out.weight"].T)

        v = _layer_norm(h, block["norm2.weight"]) * (1 + scale_mlp) + shift_mlp
        v = _gelu_tanh(v @ block["mlp.0.weight"].T + block["mlp.0.bias"])
        h = h + gate_mlp * (v @ block["mlp.2.weight"].T + block["mlp.2.bias"])

    shift, scale = (
        state["output_layer.adaLN_modulation.weight"] @ cond + state["output_layer.adaLN_modulation.bias"]
    ).chunk(2)
    v = _layer_norm(h, state["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return v @ state["output_layer.linear.weight"].T + state["output_layer.linear.bias"]


# ------------------------------------------------------------------------------------------------------ n-gram


def kneser_ney(train: Sequence[int], vocab_size: int, order: int) -> Callable[[tuple[int, ...], int], float]:
    """Modified interpolated Kneser-Ney (Chen and Goodman 1999, equations 15-17) with dictionaries: p(context, token).

    Raw counts at the highest order, numbers of distinct left neighbours below it, 1/V under the unigrams. A count of
    counts that is zero reads as one, and a discount stays within [0.1, count].
    """
    train = [int(token) for token in train]
    raw = {k: Counter(tuple(train[i : i + k]) for i in range(len(train) - k + 1)) for k in range(1, order + 2)}
    counts: dict[int, dict[tuple[int, ...], int]] = {order: dict(raw[order])}
    for k in range(1, order):
        left = defaultdict(set)
        for gram in raw[k + 1]:
            left[gram[1:]].add(gram[0])
        counts[k] = {gram: len(left[gram]) for gram in raw[k]}

    discounts = {}
    for k in range(1, order + 1):
        n = {c: max(1, sum(value == c for value in counts[k].values())) for c in (1, 2, 3, 4)}
        Y = n[1] / (n[1] + 2 * n[2])
        plain = {c: c - (c + 1) * Y * n[c + 1] / n[c] for c in (1, 2, 3)}
        discounts[k] = {0: 0.0} | {c: min(max(d, 0.1), float(c)) for c, d in plain.items()}

    def p(context: tuple[int, ...], token: int) -> float:
        k = len(context) + 1
        lower = p(context[1:], token) if context else 1.0 / vocab_size
        after = {gram: c for gram, c in counts[k].items() if gram[:-1] == context}
        total = sum(after.values())
        if total == 0:
            return lower
        count = counts[k].get((*context, token), 0)
        freed = sum(discounts[k][min(c, 3)] for c in after.values())
        return (count - discounts[k][min(count, 3)]) / total + freed / total * lower

    return p
