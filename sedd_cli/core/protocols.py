"""The protocols by which likelihoods are measured, and what each number is a bound on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """How a likelihood bound is defined.

    rigorous: a true upper bound; otherwise the published integral, without its prior and reconstruction terms.
    process: what the number bounds, or estimates, −log p of. rest: an incomplete last block counts. wrapped: every
    block begins and ends with the tokenizer's special tokens, which count as tokens (MDLM's evaluation). discrete: the
    variational bound of a model in discrete time. stepwise: the bound of a sampler with finitely many steps.
    """

    rigorous: bool
    rest: bool
    process: str
    wrapped: bool = False
    discrete: bool = False
    stepwise: bool = False


_CONTINUOUS = "the reverse process in continuous time"

PROTOCOLS = {
    "rigorous": Protocol(rigorous=True, rest=True, process=f"{_CONTINUOUS}, which samplers approach with many steps"),
    "sedd-paper": Protocol(rigorous=False, rest=False, process=f"{_CONTINUOUS}, without its two ends"),
    "mdlm": Protocol(rigorous=False, rest=False, process=f"{_CONTINUOUS}, without its two ends", wrapped=True),
    "discrete": Protocol(rigorous=True, rest=True, process="the steps that the model was trained with", discrete=True),
    "sampler": Protocol(rigorous=True, rest=True, process="the sampler's steps, each with all scores", stepwise=True),
}


def sign(protocol: str, exact: bool = False) -> str:
    """What stands before a number: = for an exact likelihood, ≤ for an upper bound, ≈ for anything else."""
    if exact:
        return "="
    return "≤" if protocol in PROTOCOLS and PROTOCOLS[protocol].rigorous else "≈"
