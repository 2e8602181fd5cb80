"""The result of a sweep, and the JSON document it becomes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sedd_cli.evaluation.controls import ControlSet
from sedd_cli.evaluation.judge import JudgeResult


@dataclass(frozen=True)
class SweepSettings:
    """What all samples of a sweep have in common.

    recipe_sampler: the sampler section of the run's recipe, which changes how samples are drawn.
    """

    model: str
    model_fingerprint: str
    length: int
    seed: int
    precision: str
    recipe_sampler: dict[str, Any] | None
    software: dict[str, str]


@dataclass(frozen=True)
class SweepPoint:
    """Samples of one sampler, number of steps and temperature, judged.

    requested: number of samples in the options. temperature: None, as the model's own sampler has it.
    """

    sampler: str
    steps: int
    requested: int
    judged: JudgeResult
    temperature: float | None = None

    @property
    def place(self) -> tuple[str, int, float | None]:
        """What distinguishes it from the other points."""
        return self.sampler, self.steps, self.temperature

    def to_dict(self) -> dict[str, Any]:
        return {
            "sampler": self.sampler,
            "steps": self.steps,
            "asked": self.requested,
            **({} if self.temperature is None else {"temperature": self.temperature}),
            **self.judged.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SweepPoint:
        """The inverse; KeyError or TypeError for anything else."""
        own = ("sampler", "steps", "asked", "temperature", "marks")
        judged = {key: value for key, value in data.items() if key not in own}
        point = data["sampler"], data["steps"], data["asked"], JudgeResult.from_dict(judged)
        return cls(*point, data.get("temperature"))


@dataclass(frozen=True)
class SweepResult:
    """All points of a sweep's folder, in the order of samplers, steps and temperatures.

    comparison: real text and controls as many as the samples of a point, and as long as those of the first point that
    was judged (all are equally long where they are judged by their ids); None without a corpus.
    others: what the folder holds by other judges, of other numbers of samples or without self-BLEU: documents of
    points and their comparison.
    """

    folder: Path
    judge: str
    settings: SweepSettings
    points: tuple[SweepPoint, ...]
    comparison: ControlSet | None = None
    others: tuple[dict[str, Any], ...] = ()

    def marks(self, point: SweepPoint) -> tuple[str, ...]:
        """The marks of the samples of a point (`controls.marks`)."""
        return () if self.comparison is None else self.comparison.marks(point.judged)

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "judge": self.judge, **self.stored()}

    def stored(self) -> dict[str, Any]:
        """The document that `sweep.json` holds."""
        found = {**asdict(self.settings), "points": [point.to_dict() for point in self.points]}
        if self.comparison is not None:
            for point, document in zip(self.points, found["points"], strict=True):
                document["marks"] = list(self.marks(point))
            found["comparison"] = self.comparison.to_dict()
        return found | ({"others": list(self.others)} if self.others else {})
