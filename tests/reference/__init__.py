"""Slow, obvious truths that the tests compare the package with.

Nothing here imports the package but `sedd_cli.testing.reference`, which holds the part of it that users' own parts are
checked with, and imports nothing itself: dense matrices, explicit sums, enumeration, loops.

Conventions: `Q[y, x]` is the rate from state x into state y, so columns sum to zero and `P[y, x0] = p(y | x0)`. States
are 0..N-1; N is MASK on the absorbing graph. A distribution over sequences of length L is a tensor with L axes of S
states each. A score function maps (x [M, L], sigma) to the ratios s_y = p(y)/p(x), [M, L, S] float64.
"""

# ruff: noqa: F401

from reference.discrete import discrete_terms, kl, mean_score, mean_step, step_posterior
from reference.loss import (
    K,
    expected_loss,
    information,
    loss_integral,
    score_entropy,
    sequence_loss,
    textbook_score_entropy,
)
from reference.network import network
from reference.ngram import kneser_ney
from reference.process import (
    RATES,
    Schedule,
    base,
    clamped_score,
    corruption,
    geometric,
    loglinear,
    nll,
    rate_matrix,
)
from reference.samplers import (
    STEPS,
    Interval,
    bayes_step,
    chain,
    clamp,
    corrector_step,
    divergences,
    euler_step,
    guided_bound,
    guided_moves,
    joint,
    normalise,
    published_float32_race,
    remdm_step,
    reverse_posterior,
    reverse_process,
    sampler_grid,
    sampler_step,
    shaped,
    time_grid,
    tweedie_step,
)
from sedd_cli.testing.reference import (
    Oracle,
    Score,
    clean_posterior,
    diffuse,
    exact_score,
    limit,
    sequences,
    source,
    transition,
    wrong_score,
)
