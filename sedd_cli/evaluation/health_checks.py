"""What is said of a checkpoint's weights, scores and samples: in order, odd (worth a look), or bad."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from sedd_cli.checkpoints.tensors import not_finite

Finding = dict[str, str]

#: How far from 1 the mean normaliser may be, beyond ERRORS standard errors (of few sequences), before it is called odd.
TOLERANCE, ERRORS = 0.1, 3
#: How far a log-score may exceed the largest that any distribution has, e^m being not quite 1.
EXCESS = math.log(2)
#: A sample's entropy below this share of the text's, or of what its length and vocabulary allow, is called odd.
LEAST_OF_TEXT, LEAST_OF_ALL = 0.75, 0.3
#: Above this share of moved tokens hardly anything is left to guess from.
MOST_NOISE = 0.5


def finding(check: str, state: str, found: str, advice: str = "") -> Finding:
    """One line of a report; state: ok, odd or bad."""
    return {"check": check, "state": state, "found": found, "advice": advice}


def weights(net: nn.Module) -> Finding:
    """Whether all parameters are finite, and the head is not the zero that it begins with."""
    if wrong := not_finite(net):
        return finding("weights", "bad", f"not finite: {wrong}", "take an earlier checkpoint")
    if not any(p.any() for p in net.output_layer.linear.parameters()):
        return finding("weights", "odd", "the output layer is zero", "a network that was never trained")
    return finding("weights", "ok", f"{sum(p.numel() for p in net.parameters()):,}, all finite")


def scores(levels: Sequence[dict[str, Any]]) -> Finding:
    """Whether scores are finite at every noise level, and between what they lie."""
    if wrong := [f"{found['lambda']:.0%}" for found in levels if not found["finite"]]:
        return finding("scores", "bad", f"not finite at a noise of {', '.join(wrong)}", "take an earlier checkpoint")
    seen = [found for found in levels if found["log_score"]]
    if not seen:
        return finding("scores", "odd", "none was asked for", "give a longer --text")
    low, high = min(found["log_score"][0] for found in seen), max(found["log_score"][1] for found in seen)
    told = f"finite at {len(seen)} noise levels, log-scores {low:.1f} to {high:.1f}"
    if wrong := [f"{found['lambda']:.0%}" for found in seen if found["beyond"] > EXCESS]:
        told += f", larger than any distribution's at a noise of {', '.join(wrong)}"
        return finding("scores", "odd", told, "another graph, or another scale of the scores?")
    return finding("scores", "ok", told)


def normaliser(levels: Sequence[dict[str, Any]]) -> Finding:
    """Whether the mean normaliser is near 1 at every noise level."""
    means = {found["lambda"]: found["normaliser"] for found in levels if found["normaliser"]}
    if not means:
        return finding("normaliser", "odd", "there is nothing to take it of")
    values = [found["mean"] for found in means.values()]
    told = f"{min(values):.3f} to {max(values):.3f} in the mean"
    off = [
        f"{lam:.0%}" for lam, found in means.items()
        if found["error"] is not None and abs(found["mean"] - 1) > TOLERANCE + ERRORS * found["error"]
    ]  # fmt: skip
    if off:
        advice = "scores there are not those of a distribution: bounds hold, samples may suffer"
        return finding("normaliser", "odd", f"{told}, off at a noise of {', '.join(off)}", advice)
    return finding("normaliser", "ok", told)


def guesses(levels: Sequence[dict[str, Any]], rows: Sequence[Sequence[int]], real: bool) -> Finding:
    """Whether moved tokens of `rows`, real text or samples of the model, are guessed better than by the commonest."""
    seen = [found for found in levels if found["lambda"] <= MOST_NOISE]
    moved, right = (sum(found[key] for found in seen) for key in ("moved", "guessed"))
    counts = Counter(token for row in rows for token in row)
    blind = counts.most_common(1)[0][1] / counts.total()
    if not moved:
        return finding("guesses", "odd", "no token was hidden", "give a longer --text")
    told = f"{right / moved:.1%} of {moved:,} tokens hidden by at most {MOST_NOISE:.0%} of noise"
    told += f"; always the most frequent one: {blind:.1%}"
    if right / moved <= blind + 2 * math.sqrt(blind * (1 - blind) / moved):
        learnt = "it has not learnt this text: another tokenizer, or too few steps?"
        return finding("guesses", "odd", told, learnt if real else "its samples do not hang together: too few steps?")
    return finding("guesses", "ok", told)


def entropy(found: dict[str, Any]) -> Finding:
    """Whether samples vary as much as text does, from their entropy, that of as long pieces of text, and the most."""
    told = f"{found['entropy']:.2f} ± {found['error']:.2f} nats per token in {found['length']} tokens"
    if found["text"] is not None:
        told += f", real text {found['text']:.2f}"
    least = LEAST_OF_ALL * found["most"] if found["text"] is None else LEAST_OF_TEXT * found["text"]
    told += f", at most {found['most']:.2f}"
    if found["entropy"] < least:
        return finding("sample entropy", "odd", told, "its samples repeat themselves")
    return finding("sample entropy", "ok", told)
