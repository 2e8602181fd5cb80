"""The status of a run, read from its directory; the run may be in progress."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.run_directory import near
from sedd_cli.errors import RequestError
from sedd_cli.recipe.stored import read_stored
from sedd_cli.system.json_lines import read_json_lines
from sedd_cli.system.locks import is_locked
from sedd_cli.training.runs.stored import StoredBound, baselines_of, last_bound, stored_bounds


@dataclass(frozen=True)
class Status:
    """Progress of a run.

    Attributes:
        state: running, stopped, finished or failed.
        train, validation: The records of metrics.jsonl, in order of steps.
        reason: Why it failed.
        seconds: Time spent on the steps and on validation, without the report at the end.
        bound: The last likelihood that the run holds of its own text.
        baselines: Bits per character of n-gram models on the text of `bound`.
    """

    run: Path
    recipe: str
    state: str
    step: int
    steps: int
    checkpoint: str | None
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    reason: str | None = None
    seconds: float = 0.0
    bound: StoredBound | None = None
    baselines: dict[str, float] = field(default_factory=dict)

    @property
    def bits_of_a_nat(self) -> float | None:
        """Bits per character that one nat per token makes: in the text of the bound, else in validated text."""
        if self.bound:
            return self.bound.bits_of_a_nat
        last = self.validation[-1] if self.validation else None
        return last["bits_per_char"] / last["nats_per_token"] if last else None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def status(run: Path) -> Status:
    """Read the status of a run; RequestError if `run` is not a run directory."""
    if (run / "manifest.json").is_file():
        raise RequestError(f"{run} is a checkpoint; its run is {run.parent.parent}")
    if not (run / "recipe.yaml").is_file():
        raise RequestError(f"{run} is not a run: it has no recipe.yaml{'' if run.exists() else near(run)}")
    recipe = read_stored(run / "recipe.yaml")
    found = [line.record for line in read_json_lines(run / "metrics.jsonl") if line.record]
    records = [record for record in found if isinstance(record.get("step"), int)]
    train, validation = ([r for r in records if r.get("kind") == kind] for kind in ("train", "validation"))
    mark = run / "latest"
    latest = mark.read_text(encoding="utf-8").strip() if mark.is_file() else None
    step = train[-1]["step"] if train else 0
    done = latest == f"step-{recipe.steps}"
    failed = records[-1] if records and records[-1].get("kind") == "failed" else None
    state = "running" if is_locked(run / ".lock") else "finished" if done else "failed" if failed else "stopped"
    reason = None
    if failed and state == "failed":
        reason, step = failed["reason"], failed["step"]
    bounds = stored_bounds(run)
    bound = last_bound(bounds, recipe.corpus)
    return Status(
        run,
        recipe.name,
        state,
        step,
        recipe.steps,
        latest,
        train,
        validation,
        reason,
        seconds=sum(r.get("seconds") or 0.0 for r in (*train, *validation)),
        bound=bound,
        baselines=baselines_of(bound, bounds) if bound else {},
    )
