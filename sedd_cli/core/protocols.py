"""The protocols by which likelihoods are measured, and what each number is a bound on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """How a likelihood bound is defined.

    rigorous: a true upper bound; otherwise the published integral, without its prior and reconstruction terms.
    process: what the number bounds, or estimates, −log p of. rest: an incomplete last block counts. wrapped: every
    block begins and ends with the tokenizer's special tokens, which count as tokens (MDLM's evaluation). discrete: the
    variational bound of a model in discrete time. stepwise: the bound of a sampler with finitely many steps. loss: the
    entry of `peer_losses` that is averaged, where another project has a loss of its own. models: the kind of model that
    a project evaluates in this way, "" for any. refused: corpora whose texts the project pads one by one, each with the
    tokenizers for which it does not. windows: a random window of every document in the place of blocks. training: what
    the second number of `loss` is, which is no likelihood. normalized: of the model whose scores are divided by their
    normaliser, which first-hitting draws from: tokens are unmasked one by one to the end.
    """

    rigorous: bool
    rest: bool
    process: str
    wrapped: bool = False
    discrete: bool = False
    stepwise: bool = False
    loss: str = ""
    models: str = ""
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    windows: bool = False
    training: str = ""
    normalized: bool = False


_CONTINUOUS = "the reverse process in continuous time"

PROTOCOLS = {
    "rigorous": Protocol(rigorous=True, rest=True, process=f"{_CONTINUOUS}, which samplers approach with many steps"),
    "sedd-paper": Protocol(rigorous=False, rest=False, process=f"{_CONTINUOUS}, without its two ends"),
    "mdlm": Protocol(
        rigorous=False, rest=False, process=f"{_CONTINUOUS}, without its two ends", wrapped=True,
        refused={"lm1b": ("gpt2",)},
    ),
    "duo": Protocol(
        rigorous=False, rest=False, process=f"{_CONTINUOUS}, without its two ends", wrapped=True, models="uniform"
    ),
    "udlm": Protocol(
        rigorous=False, rest=False, process="no process: noise and weights are of two schedules", wrapped=True,
        loss="udlm", models="uniform", refused={"lm1b": ()},
    ),
    "radd": Protocol(
        rigorous=True, rest=False, process="texts whose tokens are revealed one by one in random order", loss="radd",
        models="timeless",
    ),
    "gidd": Protocol(
        rigorous=False, rest=False, process=f"{_CONTINUOUS}, without its two ends", loss="gidd", models="gidd",
        windows=True, training="GIDD's training loss, with clipped weights",
    ),
    "discrete": Protocol(rigorous=True, rest=True, process="the steps that the model was trained with", discrete=True),
    "normalized": Protocol(
        rigorous=True, rest=True, process=f"{_CONTINUOUS} with normalised scores, which first-hitting draws from",
        models="scores", normalized=True,
    ),
    "sampler": Protocol(rigorous=True, rest=True, process="the sampler's steps, each with all scores", stepwise=True),
}  # fmt: skip
#: Evaluations of other projects that are not about blocks of a text, and what to do instead.
NOT_REPRODUCED = {
    "llada": "LLaDA evaluates answers given prompts: sedd eval --protocol llada, and --from a file of both",
}


def protocol_name(protocol: str, process: Any) -> str:
    """A protocol, and behind it what its number bounds, where the name does not say it: the sampler and its options."""
    stepwise = protocol in PROTOCOLS and PROTOCOLS[protocol].stepwise
    return f"{protocol}: {process}" if stepwise and isinstance(process, str) and process else protocol


def sign(protocol: str, exact: bool = False) -> str:
    """What stands before a number: = for an exact likelihood, ≤ for an upper bound, ≈ for anything else."""
    if exact:
        return "="
    return "≤" if protocol in PROTOCOLS and PROTOCOLS[protocol].rigorous else "≈"
