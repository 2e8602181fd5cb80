"""Several runs side by side: how their recipes differ, what they reach, and whether that differs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.errors import RequestError
from sedd_cli.recipe.differences import differences
from sedd_cli.training.runs.curves import Curve, curves_of
from sedd_cli.training.runs.stored import StoredBound, TextName, best_by_text, blocks_name, stored_bounds
from sedd_cli.training.runs.summary import ASIDE, parameters_of
from sedd_cli.training.status import Status, recipe_of, status

#: Two likelihoods differ if such a difference or a larger one has less than this probability where they are equal.
LEVEL = 0.05
#: The most runs that a chart can show.
MOST = 6
PAIRED, WELCH, EXACT = "paired by document", "Welch's t-test on the Monte-Carlo errors", "both exact"


@dataclass(frozen=True)
class Verdict:
    """Whether two likelihoods of one text differ.

    Attributes:
        text: The corpus and split.
        first, second: Letters of the runs.
        difference: Bits per character of the second minus those of the first.
        error: Its standard error.
        test: One of PAIRED (differences of documents, so that the choice of text counts), WELCH (on this very text) and
            EXACT (no error).
        degrees, p: Degrees of freedom and two-sided p-value of Student's t; None where both are exact.
        differ: Whether p is below LEVEL.
        remark: What else must be known, such as that a bound is compared with an exact value, or that the likelihoods
            are of different protocols or lengths of block, and differ for that alone.
    """

    text: str
    first: str
    second: str
    difference: float
    error: float
    test: str
    degrees: float | None
    p: float | None
    differ: bool
    remark: str = ""


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; rows of `recipes` and `bounds` hold a value for each run, None where it has none."""

    letters: list[str]
    runs: list[Status]
    parameters: list[int | None]
    tokens_per_second: list[float | None]
    recipes: dict[str, list[str | None]]
    bounds: dict[str, list[StoredBound | None]]
    verdicts: list[Verdict]
    curves: list[Curve]

    def to_dict(self) -> dict[str, Any]:
        """The JSON document; the curves are left to `sedd status`."""
        runs = [
            {"letter": letter, "run": str(one.run), "recipe": one.recipe, "state": one.state, "step": one.step}
            | {"steps": one.steps, "parameters": size, "tokens_per_second": rate, "seconds": one.seconds}
            for letter, one, size, rate in zip(
                self.letters, self.runs, self.parameters, self.tokens_per_second, strict=True
            )
        ]
        bounds = {text: [b and asdict(b) for b in row] for text, row in self.bounds.items()}
        return {"runs": runs, "recipes": self.recipes, "bounds": bounds, "verdicts": [asdict(v) for v in self.verdicts]}


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Read and compare runs; RequestError for fewer than two, for one named twice, and for what is no run."""
    if not 2 <= len(paths) <= MOST:
        raise RequestError(f"name two to {MOST} runs to compare, found {len(paths)}")
    if len({path.resolve() for path in paths}) < len(paths):
        raise RequestError("a run is named twice")
    runs = [status(path) for path in paths]
    letters = [chr(ord("A") + number) for number in range(len(runs))]
    bounds = _bounds_by_text([stored_bounds(path) for path in paths])
    verdicts = [
        verdict(text, first, second, a, b)
        for text, row in bounds.items()
        for first, a in list(zip(letters, row, strict=True))[:1]
        for second, b in list(zip(letters, row, strict=True))[1:]
        if a and b
    ]
    sizes = [parameters_of(path) for path in paths]
    return Comparison(
        letters, runs, sizes, [_rate(one) for one in runs], _recipes(runs), bounds, verdicts, curves_of(runs, letters)
    )


def verdict(text: str, first: str, second: str, a: StoredBound, b: StoredBound) -> Verdict:
    """Whether two likelihoods of one text differ: paired by document if both kept them, else by Welch's t-test."""
    remarks = [f"{first} is {a.sign}, {second} is {b.sign}: a bound may be loose"] if a.sign != b.sign else []
    if a.way != b.way:
        remarks.append(f"not the same protocol: {a.way} and {b.way}")
    if a.length != b.length:
        remarks.append(f"not the same length of block: {a.length:,} and {b.length:,} tokens")
    if a.characters != b.characters:
        remarks.append(f"not the same text: {a.characters:,} and {b.characters:,} characters")
    remark = "; ".join(remarks)
    if (paired := _paired(a, b)) is not None:
        difference, error, degrees = paired
        test = PAIRED
    else:
        difference, error, test = b.bits - a.bits, math.hypot(a.error, b.error), WELCH
        parts = [(one.error**2, max(one.replicates - 1, 1)) for one in (a, b)]
        degrees = sum(v for v, _ in parts) ** 2 / sum(v**2 / n for v, n in parts) if error else 0.0
    if not error:
        return Verdict(text, first, second, difference, 0.0, EXACT, None, None, difference != 0, remark)
    from scipy.special import stdtr

    p = float(2 * stdtr(degrees, -abs(difference) / error))
    return Verdict(text, first, second, difference, error, test, degrees, p, p < LEVEL, remark)


def _paired(a: StoredBound, b: StoredBound) -> tuple[float, float, float] | None:
    """Difference in bits per character, its standard error over documents, and degrees of freedom.

    The error is that of a ratio of sums over documents, Σ differences / Σ tokens. It holds the Monte-Carlo error of
    both. None where the documents were not kept, or are not the same.
    """
    x, y = a.documents(), b.documents()
    if a.fingerprint != b.fingerprint or x is None or y is None or x[1] != y[1] or len(x[1]) < 3:
        return None
    differences, sizes = np.subtract(y[0], x[0]), np.array(x[1], dtype=float)
    residuals = differences - differences.sum() / sizes.sum() * sizes
    n, to_bits = len(sizes), 1 / math.log(2) / a.characters
    error = math.sqrt(n / (n - 1) * float((residuals**2).sum()))
    return float(differences.sum()) * to_bits, error * to_bits, n - 1


def _bounds_by_text(found: list[list[StoredBound]]) -> dict[str, list[StoredBound | None]]:
    """The bounds of each text, in a row with a place for each run; texts of several runs first."""
    best = [best_by_text(bounds) for bounds in found]
    texts = dict.fromkeys(text for one in best for text in one)
    rows = {text: [_of_text(one, text) for one in best] for text in texts}
    ordered = sorted(rows, key=lambda text: -sum(b is not None for b in rows[text]))
    named: dict[str, list[StoredBound | None]] = {}
    for text in ordered:
        corpus, split, blocks, length = text
        part = blocks_name(blocks, length)
        named[f"{corpus} {split}" + (f", {part}" if part else "")] = rows[text]
    return named


def _of_text(best: dict[TextName, StoredBound], text: TextName) -> StoredBound | None:
    """A run's likelihood of a text: at a given length of block also that of a run whose model has this length."""
    corpus, split, blocks, length = text
    own = best.get((corpus, split, blocks, None))
    return best.get(text) or (own if own and own.length == length else None)


def _recipes(runs: Sequence[Status]) -> dict[str, list[str | None]]:
    """The keys in which recipes differ, with each run's value; not names of the same prepared text."""
    data = [recipe_of(one.run).to_data() for one in runs]
    if runs[0].data is not None and len({one.data for one in runs}) == 1:
        data = [one | {"data": {"windows": one["data"].get("windows")}} for one in data]
    changed: dict[str, list[str | None]] = {}
    for number, other in enumerate(data[1:], 1):
        for change in differences(data[0], other):
            if not change.within(ASIDE):
                changed.setdefault(change.key, [change.old] * len(data))[number] = change.new
    return changed


def _rate(found: Status) -> float | None:
    """The median of tokens per second over the training."""
    rates = sorted(r["tokens_per_second"] for r in found.train if r.get("tokens_per_second"))
    return rates[len(rates) // 2] if rates else None
