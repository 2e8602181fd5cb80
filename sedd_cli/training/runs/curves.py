"""The learning curves of runs, smoothed, in the unit of their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sedd_cli.training.status import Status

#: A smoothed value is the mean over this share of the curve.
WINDOW = 1 / 25
#: The unit of a loss that is no bound on the likelihood.
OWN = "units of its own, no likelihood"
#: Characters of likelihoods in a chart; matplotlib has them too.
MARKS = "ox+*"


@dataclass(frozen=True)
class Curve:
    """The training loss of a run and its likelihoods, as (step, value), and the baselines of its text.

    unit: "bits/char", "nats/token" where no characters are known, or OWN where the loss is no bound: then nothing that
    measures likelihood stands beside it. The training loss is turned into bits per character by the tokens per
    character of one text, that of the bound, so that it can be compared with it.
    marks: likelihoods of each part of the text, by its name. text: identifies the text.
    """

    name: str
    unit: str
    raw: list[tuple[float, float]]
    smooth: list[tuple[float, float]]
    marks: dict[str, list[tuple[float, float]]]
    levels: dict[str, float]
    text: str


def curve_of(found: Status, name: str = "", unit: str = "bits/char") -> Curve:
    """The curve of a run; in nats per token if asked, or if nothing was evaluated yet."""
    if unit == OWN or not found.loss_is_bound:
        points = [(float(r["step"]), r["loss"]) for r in found.train if r["loss"] is not None]
        return Curve(name, OWN, points, smoothed(points), {}, {}, found.data or found.corpus)
    factor = found.bits_of_a_nat if unit == "bits/char" else None
    scale = 1.0 if factor is None else factor
    points = [(float(r["step"]), scale * r["loss"]) for r in found.train if r["loss"] is not None]
    in_bits = factor is not None
    marks = {
        part: [(float(m.step), m.bits if in_bits else m.nats_per_token) for m in series]
        for part, series in found.series.items()
    }
    levels, ratio = {}, found.bits_of_a_nat
    if ratio is not None:
        names = ("unigram", "5-gram", "the source itself")
        levels = {name: scale / ratio * found.baselines[name] for name in names if name in found.baselines}
    text, shown_unit = found.data or found.corpus, "bits/char" if in_bits else "nats/token"
    return Curve(name, shown_unit, points, smoothed(points), marks, levels, text)


def part_signs(curves: Sequence[Curve]) -> dict[str, str]:
    """The names of the parts that likelihoods are of → a character for each, the same in all curves."""
    names = dict.fromkeys(part for curve in curves for part in curve.marks)
    return {name: MARKS[min(number, len(MARKS) - 1)] for number, name in enumerate(names)}


def named_levels(curves: Sequence[Curve]) -> dict[str, float]:
    """The baselines of all curves; where the curves are of different texts, the names say whose they are."""
    if len({curve.text for curve in curves}) < 2:
        return {name: value for curve in curves[::-1] for name, value in curve.levels.items()}
    owners: dict[str, list[Curve]] = {}
    for curve in curves:
        owners.setdefault(curve.text, []).append(curve)
    return {
        f"{name}, {' and '.join(one.name for one in alike)}": value
        for alike in owners.values()
        for name, value in next((one.levels for one in alike if one.levels), {}).items()
    }


def curves_of(found: Sequence[Status], names: Sequence[str]) -> list[Curve]:
    """The curves of several runs in one unit."""
    if not all(one.loss_is_bound for one in found):
        return [curve_of(one, name, OWN) for one, name in zip(found, names, strict=True)]
    unit = "bits/char" if all(one.bits_of_a_nat is not None for one in found) else "nats/token"
    return [curve_of(one, name, unit) for one, name in zip(found, names, strict=True)]


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of a window around each point; the window shrinks towards both ends and stays centred."""
    totals = [0.0]
    for _, y in points:
        totals.append(totals[-1] + y)
    reach, last = int(len(points) * WINDOW / 2), len(points) - 1
    found = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, last - i)
        found.append((x, (totals[i + near + 1] - totals[i - near]) / (2 * near + 1)))
    return found
