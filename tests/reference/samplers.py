"""The reverse process and the samplers as dense steps, and the exact distribution of what a sampler draws."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from reference.process import Schedule
from sedd_cli.testing.reference import Score, diffuse, sequences, transition


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
    """The distribution [S^L] of the continuous-time reverse process at sigma_low, from `start` [S^L] at sigma_high.

    The rates Q(x, y) s_y of equation 4 are constant within each of `cells` equal intervals of log sigma.
    """
    S = len(Q)
    xs = sequences(S, L)
    place = torch.tensor([S ** (L - 1 - i) for i in range(L)])
    flat = (xs * place).sum(-1)
    edges = np.linspace(math.log(sigma_high), math.log(sigma_low), cells + 1)
    middles = [math.exp(0.5 * (high + low)) for high, low in itertools.pairwise(edges.tolist())]
    s = torch.stack([score(xs, sigma) for sigma in middles])
    rates = torch.zeros(cells, S**L, S**L, dtype=torch.float64)
    for i in range(L):
        for y in range(S):
            off = xs[:, i] != y
            target = flat + (y - xs[:, i]) * place[i]
            rates[:, flat[off], target[off]] = Q[xs[off, i], y] * s[:, off, i, y]
    rates -= torch.diag_embed(rates.sum(-1))
    p = start
    for step in torch.matrix_exp(rates * torch.tensor(middles)[:, None, None] * (edges[0] - edges[1])):
        p = p @ step
    return p


def normalise(mass: torch.Tensor) -> torch.Tensor:
    """Set negative values to 0 and renormalise."""
    mass = mass.clamp(min=0)
    return mass / mass.sum(-1, keepdim=True)


def with_stays(moves: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Probabilities of moving to each state [M, L, S], at the state x [M, L] itself what is left of 1."""
    moves = moves.scatter(-1, x[..., None], 0.0)
    return moves.scatter(-1, x[..., None], 1 - moves.sum(-1, keepdim=True))


def euler_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, dt_dsigma: float) -> torch.Tensor:
    """Equation 17: delta_x(y) + dt sigma' Q(x, y) s_y; the token stays with the remaining probability. [M, L, S]."""
    return normalise(with_stays(dt_dsigma * Q[x] * s, x))


def tweedie_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, delta_sigma: float, banned: int | None = None):
    """Theorem 4.1: (exp(-dsigma Q) s)_y exp(dsigma Q)(x, y). `banned` is a state with probability zero."""
    back, forth = transition(Q, -delta_sigma), transition(Q, delta_sigma)
    out = (s @ back.T) * forth[x]
    if banned is not None:
        out[..., banned] = 0.0
    return normalise(out)


def bayes_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, sigma: float, banned: int | None = None):
    """Bayes' rule with p_sigma for p_0: s_y exp(sigma Q)(x, y). `banned` is a state with probability zero."""
    forth = transition(Q, sigma)
    out = s * forth[x]
    if banned is not None:
        out[..., banned] = 0.0
    return normalise(out)


def remdm_step(x: torch.Tensor, s: torch.Tensor, sigma_s: float, sigma_t: float, eta: float) -> torch.Tensor:
    """Remasking with a cap (ReMDM, Wang et al. 2025); MASK is the last state. [M, L, S].

    A token is remasked with probability rho = min(eta, (1 - alpha_s)/alpha_t). A mask is replaced with probability
    (alpha_s - (1 - rho) alpha_t)/(1 - alpha_t), by y in proportion to s_y; the exact s_y sum to alpha_t/(1 - alpha_t).
    """
    alpha_t, mask = math.exp(-sigma_t), s.shape[-1] - 1
    moved_s, moved_t = -math.expm1(-sigma_s), -math.expm1(-sigma_t)  # 1 - alpha: differences of alphas lose digits
    rho = min(eta, moved_s / alpha_t)
    out = torch.zeros_like(s)
    for index in itertools.product(range(x.shape[0]), range(x.shape[1])):
        here = int(x[index])
        if here == mask:
            replaced = (moved_t - moved_s + rho * alpha_t) / moved_t
            out[index][:mask] = replaced * s[index][:mask] * moved_t / alpha_t
            out[index][mask] = 1 - out[index].sum()
        else:
            out[index][here], out[index][mask] = 1 - rho, rho
    return normalise(out)


def clean_token(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, sigma: float) -> torch.Tensor:
    """p(x0|x_t) as the Tweedie step to no noise; no token is MASK, the last state where it is never left. [M, L, S]."""
    return tweedie_step(Q, x, s, sigma, banned=None if Q[:, -1].any() else len(Q) - 1)


def psi_step(
    Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, sigma_s: float, sigma_t: float, kappa: float = 0.98
) -> torch.Tensor:
    """kappa times the Tweedie step, and 1 - kappa times p(x0|x_t) noised to sigma_s anew. [M, L, S].

    Deschenaux et al. 2026, the Psi-posterior.
    """
    clean = clean_token(Q, x, s, sigma_t)
    return kappa * tweedie_step(Q, x, s, sigma_t - sigma_s) + (1 - kappa) * clean @ transition(Q, sigma_s).T


def ddim_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, sigma_s: float, sigma_t: float) -> torch.Tensor:
    """Stay with probability (1 - alpha_s)/(1 - alpha_t), else draw from p(x0|x_t). [M, L, S]."""
    stays = math.expm1(-sigma_s) / math.expm1(-sigma_t)
    here = torch.nn.functional.one_hot(x, len(Q)).double()
    return stays * here + (1 - stays) * clean_token(Q, x, s, sigma_t)


def flow_matching_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, dt_dsigma: float, beta: float = 0.5):
    """A step along 1 + beta times the reverse rates plus beta times the forward rates (Gat et al. 2024). [M, L, S]."""
    return normalise(with_stays(dt_dsigma * ((1 + beta) * Q[x] * s + beta * Q.T[x]), x))


def corrector_step(Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, h: float) -> torch.Tensor:
    """A step of length h of forward plus reverse rates (Campbell et al. 2022, section 4.4). [M, L, S]."""
    return normalise(with_stays(h * (Q.T[x] + Q[x] * s), x))


def joint(rows: torch.Tensor) -> torch.Tensor:
    """Independent positions [M, L, S] to probabilities of sequences [M, S^L], in the order of `sequences`."""
    out = rows[:, 0]
    for i in range(1, rows.shape[1]):
        out = (out[:, :, None] * rows[:, i][:, None, :]).flatten(1)
    return out


def clamp(p: torch.Tensor, S: int, given: dict[int, int] | None) -> torch.Tensor:
    """The distribution of x after the given positions are overwritten. p: [S^L]."""
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
    """steps + 1 equally spaced times from 1 down to t_end."""
    return [1 + (t_end - 1) * k / steps for k in range(steps + 1)]


def shaped(rows: torch.Tensor, x: torch.Tensor, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """Transition probabilities [M, L, S] with temperature and nucleus (top-p) applied to the destination.

    The probability of moving does not change.
    """
    if temperature == top_p == 1:
        return rows
    out = torch.zeros_like(rows)
    for index in itertools.product(range(x.shape[0]), range(x.shape[1])):
        here, p = int(x[index]), rows[index].clone()
        out[index][here] = p[here]
        p[here] = 0.0
        move_probability = float(p.sum())
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


@dataclass(frozen=True)
class Interval:
    """The step from time t to time s."""

    t: float
    s: float
    sigma: float
    sigma_next: float
    dsigma: float
    eta: float = 0.02

    @classmethod
    def between(cls, schedule: Schedule, t: float, s: float, eta: float = 0.02) -> Interval:
        (sigma, dsigma), (sigma_next, _) = schedule(t), schedule(s)
        return cls(t, s, sigma, sigma_next, dsigma, eta)


#: The dense step of each sampler on a grid: (Q, x [M, L], s [M, L, S], interval) -> probabilities [M, L, S].
#: A new sampler needs a line here.
STEPS = {
    "euler": lambda Q, x, s, step: euler_step(Q, x, s, (step.t - step.s) * step.dsigma),
    "tweedie": lambda Q, x, s, step: tweedie_step(Q, x, s, step.sigma - step.sigma_next),
    "remdm": lambda Q, x, s, step: remdm_step(x, s, step.sigma_next, step.sigma, step.eta),
    "remdm_rescale": lambda Q, x, s, step: remdm_step(
        x, s, step.sigma_next, step.sigma, step.eta * min(1, -math.expm1(-step.sigma_next) * math.exp(step.sigma))
    ),
    "remdm_loop": lambda Q, x, s, step: remdm_step(
        x, s, step.sigma_next, step.sigma, step.eta if step.t == step.s else 0.0
    ),
    "psi": lambda Q, x, s, step: psi_step(Q, x, s, step.sigma_next, step.sigma),
    "ddim": lambda Q, x, s, step: ddim_step(Q, x, s, step.sigma_next, step.sigma),
    "flow_matching": lambda Q, x, s, step: flow_matching_step(Q, x, s, (step.t - step.s) * step.dsigma),
}


def sampler_grid(sampler: str, steps: int) -> list[float]:
    """`time_grid`; for remdm_loop half of the steps stay at the time where nine tenths of the others are done."""
    if sampler != "remdm_loop":
        return time_grid(steps)
    moving = steps - steps // 2
    times = time_grid(moving)
    at = min(round(0.9 * moving), moving - 1)
    return times[: at + 1] + [times[at]] * (steps // 2) + times[at + 1 :]


def sampler_step(sampler: str, Q: torch.Tensor, x: torch.Tensor, s: torch.Tensor, step: Interval) -> torch.Tensor:
    """The dense step of a sampler, [M, L, S]."""
    if sampler not in STEPS:
        raise ValueError(
            f"no dense step is written for sampler {sampler!r}: add it to STEPS, tests/reference/samplers.py"
        )
    return STEPS[sampler](Q, x, s, step)


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
    last_step: str = "bayes",
) -> torch.Tensor:
    """The exact output distribution [S^L] of algorithm 2 (3 with `given`): a dense step per interval, then denoise."""
    S = len(Q)
    xs, grid = sequences(S, L), grid or sampler_grid(sampler, steps)
    p = clamp(joint(start.expand(1, L, S))[0], S, given)

    def after(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return clamp(p @ joint(shaped(rows, xs, temperature, top_p)), S, given)

    for t, s_time in itertools.pairwise(grid):
        step, (sigma_next, dsigma_next) = Interval.between(schedule, t, s_time, eta), schedule(s_time)
        rows = sampler_step(sampler, Q, xs, score(xs, step.sigma), step)
        p = after(p, rows)
        for _ in range(correctors):
            half = (1 - math.exp(-sigma_next)) / 2
            h = half * (1 - math.exp(-(t - s_time) * dsigma_next / half))
            p = after(p, corrector_step(Q, xs, score(xs, sigma_next), h))
    sigma, _ = schedule(grid[-1])
    last = {"bayes": bayes_step, "tweedie": tweedie_step}[last_step]
    return after(p, last(Q, xs, score(xs, sigma), sigma, banned=mask))


def published_float32_race(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The categorical draw of the published code, in float32, which cannot draw rare entries. A negative control."""
    gumbel_norm = 1e-10 - (u.float() + 1e-10).log()
    return (weights.float() / gumbel_norm).argmax(-1)


def guided_moves(
    sampler: str,
    score: Score,
    Q: torch.Tensor,
    x0: torch.Tensor,
    schedule: Schedule,
    steps: int,
    mask: int | None = None,
    unmasks: bool = False,
    eta: float = 0.02,
    grid: list[float] | None = None,
    correctors: int = 0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    last_step: str = "bayes",
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All moves of a sampler's chain, and of a chain q that ends in x0 [L]: probabilities [S^L, L, S] of each.

    unmasks: q is the sampler's own chain with x0 in place of drawn tokens; otherwise it is p(x_s|x_t, x0), where the
    sampler can go, and corrector steps are the sampler's own. The last move of q is to x0.
    """
    S, L = len(Q), len(x0)
    xs, grid, moves = sequences(S, L), grid or sampler_grid(sampler, steps), []

    def rows_of(p: torch.Tensor) -> torch.Tensor:
        return shaped(p, xs, temperature, top_p)

    for t, s_time in itertools.pairwise(grid):
        step, (sigma_s, dsigma_s) = Interval.between(schedule, t, s_time, eta), schedule(s_time)
        p = rows_of(sampler_step(sampler, Q, xs, score(xs, step.sigma), step))
        moves.append((p, _unmasked(p, xs, x0, mask) if unmasks else _towards(Q, p, xs, x0, sigma_s, step.sigma)))
        for _ in range(correctors):
            half = (1 - math.exp(-sigma_s)) / 2
            h = half * (1 - math.exp(-(t - s_time) * dsigma_s / half))
            p = rows_of(corrector_step(Q, xs, score(xs, sigma_s), h))
            moves.append((p, _unmasked(p, xs, x0, mask) if unmasks else p))
    sigma, _ = schedule(grid[-1])
    last = {"bayes": bayes_step, "tweedie": tweedie_step}[last_step]
    p = rows_of(last(Q, xs, score(xs, sigma), sigma, banned=mask))
    return [*moves, (p, torch.eye(S, dtype=p.dtype)[x0].expand_as(p))]


def divergences(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """D_KL(q ‖ p) of moves p, q [M, L, S], summed over positions, [M]; infinite where p lacks a move of q."""
    return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum((-1, -2))


def guided_bound(
    sampler: str,
    score: Score,
    Q: torch.Tensor,
    x0: torch.Tensor,
    start: torch.Tensor,
    schedule: Schedule,
    steps: int,
    mask: int | None = None,
    unmasks: bool = False,
    **options: object,
) -> float:
    """E_q[log q(path)/p(path)] of a sampler's chain by enumeration of all states, with q of `guided_moves`.

    start: the distribution [S] of a position at time 1. q starts from p(x_1|x0), or, where there is a MASK, from MASK.
    """
    first = transition(Q, schedule(1.0)[0])[:, x0].T if mask is None else start.expand(len(x0), len(Q))  # [L, S]
    total = float(torch.special.xlogy(first, first / start.clamp(min=1e-300)).sum())
    at = joint(first[None])[0]
    for p, q in guided_moves(sampler, score, Q, x0, schedule, steps, mask, unmasks, **options):
        total += float((at * divergences(p, q))[at > 0].sum())
        at = at @ joint(q)
    return total


def _unmasked(p: torch.Tensor, xs: torch.Tensor, x0: torch.Tensor, mask: int | None) -> torch.Tensor:
    """The sampler's probabilities p [M, L, S], where a MASK that is unmasked becomes the token of x0."""
    q = p.clone()
    for row, i in itertools.product(range(len(xs)), range(len(x0))):
        if int(xs[row, i]) == mask:
            q[row, i] = 0.0
            q[row, i, mask] = p[row, i, mask]
            q[row, i, int(x0[i])] = 1 - p[row, i, mask]
    return q


def _towards(
    Q: torch.Tensor, p: torch.Tensor, xs: torch.Tensor, x0: torch.Tensor, sigma_s: float, sigma_t: float
) -> torch.Tensor:
    """p(x_s|x_t, x0) [M, L, S] where the sampler's p [M, L, S] is positive."""
    q = torch.zeros_like(p)
    for row, i in itertools.product(range(len(xs)), range(len(x0))):
        q[row, i] = transition(Q, sigma_s)[:, x0[i]] * transition(Q, sigma_t - sigma_s)[xs[row, i]]
    q[p <= 0] = 0.0
    return q / q.sum(-1, keepdim=True).clamp(min=1e-300)
