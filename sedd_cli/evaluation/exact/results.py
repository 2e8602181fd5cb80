"""The result of a comparison, and the JSON document it becomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.errors import DamageError, RequestError
from sedd_cli.evaluation.exact.distances import Distance
from sedd_cli.system.documents import read_json

#: The file that a folder of results holds.
RESULT = "exact.json"
#: Differences of total variation that are rounding.
TIED = 1e-9
#: The direction of every KL, in words.
KL = "KL(samples ‖ model)"


@dataclass(frozen=True)
class ExactPoint:
    """One sampler at one number of evaluations. evaluations: their mean, at most `budget`. options: of the sampler."""

    graph: str
    label: str
    budget: int
    evaluations: float
    options: dict[str, Any]
    distance: Distance

    def to_dict(self) -> dict[str, Any]:
        own = {key: value for key, value in asdict(self).items() if key not in ("distance", "label")}
        return {"sampler": self.label, **own, **asdict(self.distance)}


@dataclass(frozen=True)
class ExactResult:
    """All points. reference: what the distance is from, and by how much (in total variation) that may be off.

    noise: the schedule in words. settings: what the points are recomputed from.
    """

    source: str
    length: int
    reference: str
    reference_error: float
    seconds: float
    points: tuple[ExactPoint, ...]
    noise: str = "loglinear"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The source with its schedule and the given letters."""
        given = self.settings.get("given")
        return f"{self.source}, noise {self.noise}" + (f", given {given}" if given else "")

    def to_dict(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "length": self.length,
            **self.settings,
            "kl": f"{KL}, nats",
            "reference": self.reference,
            "reference_error": self.reference_error,
            "seconds": round(self.seconds, 1),
            "points": [point.to_dict() for point in self.points],
            "nearest": {f"{graph} {budget}": of for (graph, budget), of in nearest_samplers(self.points).items()},
        }


def holds_exact_sweep(folder: Path) -> bool:
    """Whether this is the folder of such a sweep, by its result."""
    try:
        found = read_json(folder / RESULT)
    except (OSError, DamageError, RequestError):
        return False
    return isinstance(found, dict) and {"source", "length", "reference", "points"} <= found.keys()


def nearest_samplers(points: tuple[ExactPoint, ...]) -> dict[tuple[str, int], list[str]]:
    """The enumerated samplers nearest to the model's distribution, for each graph and number of evaluations.

    Several where total variations are equal up to rounding.
    """
    found: dict[tuple[str, int], list[ExactPoint]] = {}
    for point in points:
        if point.distance.draws is None:
            found.setdefault((point.graph, point.budget), []).append(point)
    least = {key: min(one.distance.tv for one in those) for key, those in found.items()}
    return {key: [one.label for one in those if one.distance.tv < least[key] + TIED] for key, those in found.items()}
