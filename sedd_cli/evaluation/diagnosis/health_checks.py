"""Check a model's weights, scores and samples: each is ok, odd (worth a look), or bad."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from sedd_cli.checkpoints.tensors import not_finite
from sedd_cli.errors import plus_minus
from sedd_cli.evaluation.diagnosis.results import Finding, NoiseLevel, SampleEntropy, finding
from sedd_cli.models.dit import DiT

#: The mean normaliser is odd if it differs from 1 by more than TOLERANCE plus ERRORS standard errors.
TOLERANCE, ERRORS = 0.1, 3
#: How far a log-score may exceed the largest of any distribution, at all but one position in a hundred. Learnt scores
#: are not quite normalised: with two sound models, the largest at thousands of positions was 2.5 and 13 times as large.
#: Another scale moves all positions; it is off by more, or else shows in the normaliser.
EXCESS = math.log(10)
#: Samples are odd if their entropy is below this share of the text's, or else of the largest possible entropy.
LEAST_OF_TEXT, LEAST_OF_ALL = 0.75, 0.3
#: At larger shares of moved tokens there is little context left to guess from.
MOST_NOISE = 0.5


def weights(net: nn.Module) -> Finding:
    """Whether all parameters are finite, and a DiT's head is no longer the zero it is initialised to."""
    if wrong := not_finite(net):
        return finding("weights", "bad", f"not finite: {wrong}", "take an earlier checkpoint")
    if isinstance(net, DiT) and not any(p.any() for p in net.output_layer.linear.parameters()):
        return finding("weights", "odd", "the output layer is zero", "the network was never trained")
    return finding("weights", "ok", f"{sum(p.numel() for p in net.parameters()):,}, all finite")


def scores(levels: Sequence[NoiseLevel]) -> Finding:
    """Whether scores are finite at every noise level, and their range."""
    if wrong := [f"{level.lam:.0%}" for level in levels if not level.finite]:
        return finding("scores", "bad", f"not finite at a noise of {', '.join(wrong)}", "take an earlier checkpoint")
    ranges = [level.log_score for level in levels if level.log_score]
    if not ranges:
        return finding("scores", "odd", "no token was moved by noise", "give a longer --text")
    low, high = min(least for least, _ in ranges), max(most for _, most in ranges)
    found = f"finite, log-scores {low:.1f} to {high:.1f}"
    if wrong := [f"{level.lam:.0%}" for level in levels if level.beyond is not None and level.beyond > EXCESS]:
        found += f", larger than any distribution's at a noise of {', '.join(wrong)}"
        return finding("scores", "odd", found, "another graph, or another scale of the scores?")
    return finding("scores", "ok", found)


def normaliser(levels: Sequence[NoiseLevel]) -> Finding:
    """Whether the mean normaliser is near 1 at every noise level."""
    summaries = {level.lam: level.normaliser for level in levels if level.normaliser}
    if not summaries:
        return finding("normaliser", "odd", "no token was moved by noise")
    means = [summary.mean for summary in summaries.values()]
    found = f"{min(means):.3f} to {max(means):.3f} in the mean"
    off = [
        f"{lam:.0%}" for lam, summary in summaries.items()
        if summary.error is not None and abs(summary.mean - 1) > TOLERANCE + ERRORS * summary.error
    ]  # fmt: skip
    if off:
        advice = "scores there are not those of a distribution: bounds hold, samples may suffer"
        return finding("normaliser", "odd", f"{found}, off at a noise of {', '.join(off)}", advice)
    return finding("normaliser", "ok", found)


def guesses(levels: Sequence[NoiseLevel], real: bool) -> Finding:
    """Whether moved tokens of real text, or else of samples, are guessed better than by the most frequent token."""
    seen = [level for level in levels if level.lam <= MOST_NOISE]
    moved, right = sum(level.moved for level in seen), sum(level.guessed for level in seen)
    if not moved:
        return finding("guesses", "odd", "no token was changed by noise", "give a longer --text")
    blind = sum(level.blind for level in seen) / moved
    found = f"{right / moved:.1%} of {moved:,} tokens changed by at most {MOST_NOISE:.0%} of noise"
    found += f"; always the most frequent one: {blind:.1%}"
    if right / moved <= blind + 2 * math.sqrt(blind * (1 - blind) / moved):
        unlearnt = "it has not learnt this text: another tokenizer, or too few steps?"
        advice = unlearnt if real else "its samples do not hang together: too few steps?"
        return finding("guesses", "odd", found, advice)
    return finding("guesses", "ok", found)


def entropy(samples: SampleEntropy) -> Finding:
    """Whether samples are as varied as text, or where no text is known, not far from the most varied possible."""
    if samples.entropy is None or samples.error is None:
        return finding("sample entropy", "odd", "there are too few samples to measure it")
    found = f"{plus_minus(samples.entropy, samples.error, 2)} nats per token in {samples.length} tokens"
    if samples.text is not None:
        found += f", real text {samples.text:.2f}"
    least = LEAST_OF_ALL * samples.most if samples.text is None else LEAST_OF_TEXT * samples.text
    found += f", at most {samples.most:.2f}"
    if samples.entropy < least:
        return finding("sample entropy", "odd", found, "its samples repeat themselves")
    return finding("sample entropy", "ok", found)
