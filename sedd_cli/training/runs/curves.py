"""The learning curves of runs, smoothed, in the unit of their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sedd_cli.training.status import Status

#: A smoothed value is the mean over this share of the curve.
WINDOW = 1 / 25
#: The unit of a loss that is no bound on the likelihood.
OWN = "units of its own, no likelihood"


@dataclass(frozen=True)
class Curve:
    """The training loss of a run and its validation, as (step, value), and the baselines of its text.

    unit: "bits/char", "nats/token" where no characters are known, or OWN where the loss is no bound: then nothing that
    measures likelihood stands beside it. Training loss and validation are turned into bits
    per character by the tokens per character of one text, that of the bound, so that they can be compared with it.
    """

    name: str
    unit: str
    raw: list[tuple[float, float]]
    smooth: list[tuple[float, float]]
    marks: list[tuple[float, float]]
    levels: dict[str, float]


def curve_of(found: Status, name: str = "", unit: str = "bits/char") -> Curve:
    """The curve of a run; in nats per token if asked, or if nothing was evaluated yet."""
    if unit == OWN or not found.loss_is_bound:
        points = [(float(r["step"]), r["loss"]) for r in found.train if r["loss"] is not None]
        return Curve(name, OWN, points, smoothed(points), [], {})
    factor = found.bits_of_a_nat if unit == "bits/char" else None
    scale = 1.0 if factor is None else factor
    points = [(float(r["step"]), scale * r["loss"]) for r in found.train if r["loss"] is not None]
    marks = [(float(r["step"]), scale * r["nats_per_token"]) for r in found.validation]
    if found.bound:
        marks.append((float(found.bound.step), scale * found.bound.nats_per_token))
    levels = {}
    if found.bound:
        names = ("unigram", "5-gram", "the source itself")
        to_unit = scale / found.bound.bits_of_a_nat
        levels = {name: to_unit * found.baselines[name] for name in names if name in found.baselines}
    return Curve(name, "nats/token" if factor is None else "bits/char", points, smoothed(points), marks, levels)


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
