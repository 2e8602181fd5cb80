"""The status of a run, read from its directory; the run may be in progress."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.checkpoint import latest_name
from sedd_cli.checkpoints.run_directory import near_run
from sedd_cli.errors import MESSAGE, RequestError, shortened
from sedd_cli.recipe.stored import StoredRecipe, read_stored
from sedd_cli.system.json_lines import is_number, read_json_lines
from sedd_cli.system.locks import is_locked
from sedd_cli.training.runs.series import SeriesPoint, series_of
from sedd_cli.training.runs.stored import StoredBound, baselines_of, own_bounds, stored_bounds
from sedd_cli.training.runs.text import baselines_beside, bits_of_a_nat, data_of


@dataclass(frozen=True)
class Status:
    """Progress of a run.

    Attributes:
        recipe, corpus: Names of the recipe and, as the recipe has it, of the text.
        state: running, stopped, finished or failed.
        train, validation: The records of metrics.jsonl, in order of steps.
        reason: Why it failed.
        seconds: Time spent on the steps and on validation, without the report at the end.
        bound: The last likelihood that the run holds of its own text.
        bounds: All that the run holds of its own text, in order of steps; `bound` is the last one.
        baselines: Bits per character of n-gram models on the text of `bound`; without one, what runs beside this one
            know of the same text.
        data: The fingerprint of the prepared text; None where it is not known.
        text_ratio: Bits per character that a nat per token makes in the prepared text, where it is on this machine.
        loss_is_bound: Whether the training loss is a bound on the likelihood, so that it stands beside `bound`.
    """

    run: Path
    recipe: str
    corpus: str
    state: str
    step: int
    steps: int
    checkpoint: str | None
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    reason: str | None = None
    seconds: float = 0.0
    bound: StoredBound | None = None
    bounds: list[StoredBound] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)
    loss_is_bound: bool = True
    data: str | None = None
    text_ratio: float | None = None

    @property
    def series(self) -> dict[str, list[SeriesPoint]]:
        """The likelihoods of each part of the run's text, in order of steps."""
        return series_of(self.validation, self.bounds)

    @property
    def bits_of_a_nat(self) -> float | None:
        """Bits per character that one nat per token makes: in the text of the bound, of validation, or prepared."""
        if self.bound:
            return self.bound.bits_of_a_nat
        last = self.validation[-1] if self.validation else None
        return last["bits_per_char"] / last["nats_per_token"] if last else self.text_ratio

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


#: Kinds of records → the numbers without which one is passed over.
NEEDED = {
    "train": ("lr", "tokens_per_second", "seconds", "seconds_left", "memory"),
    "validation": ("bits_per_char", "bits_per_char_error", "nats_per_token", "blocks"),
}
#: Keys of records whose value may be missing.
OPTIONAL = ("loss", "grad_norm", "mfu", "skipped", "seconds")


def readable(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The records of a kind, with None for what is no finite number; without those that lack what is needed."""
    found = []
    for record in records:
        if record.get("kind") == kind:
            one: dict[str, Any] = {k: v if isinstance(v, str) else _number(v) for k, v in record.items()}
            by_t = record.get("loss_by_t")
            one |= {key: None if isinstance(one.get(key), str) else one.get(key) for key in OPTIONAL}
            one["loss_by_t"] = [_number(value) for value in by_t] if isinstance(by_t, list) else []
            if all(isinstance(one.get(key), int | float) for key in NEEDED[kind]) and one.get("nats_per_token") != 0:
                found.append(one)
    return found


def _number(value: Any) -> int | float | None:
    return value if is_number(value) else None


def recipe_of(run: Path) -> StoredRecipe:
    """The recipe that a run holds; a RequestError names the file."""
    file = run / "recipe.yaml"
    try:
        return read_stored(file)
    except RequestError as error:
        raise RequestError(str(error) if str(file) in str(error) else f"{file}: {error}") from None


def status(run: Path) -> Status:
    """Read the status of a run; RequestError if `run` is not a run directory."""
    if (run / "manifest.json").is_file():
        raise RequestError(f"{run} is a checkpoint; its run is {run.parent.parent}")
    if not (run / "recipe.yaml").is_file():
        why = "it has no recipe.yaml" if run.exists() else f"there is no such folder{near_run(run)}"
        raise RequestError(f"{run} is not a run: {why}")
    recipe = recipe_of(run)
    found = [line.record for line in read_json_lines(run / "metrics.jsonl") if line.record]
    records = [record for record in found if type(step := record.get("step")) is int and 0 <= step < 2**63]
    train, validation = (readable(records, kind) for kind in NEEDED)
    latest = latest_name(run)
    step = train[-1]["step"] if train else 0
    done = latest == f"step-{recipe.steps}"
    failed = records[-1] if records and records[-1].get("kind") == "failed" else None
    state = "running" if is_locked(run / ".lock") else "finished" if done else "failed" if failed else "stopped"
    reason = None
    if failed and state == "failed":
        reason, step = shortened(str(failed.get("reason")), MESSAGE), failed["step"]
    bounds = stored_bounds(run)
    own = own_bounds(bounds, recipe.corpus, data_of(run, train=train))
    bound, data = own[-1] if own else None, data_of(run, own, train)
    beside = baselines_beside(run, data) if data and not bound else {}
    return Status(
        run,
        recipe.name,
        recipe.corpus,
        state,
        step,
        recipe.steps,
        latest,
        train,
        validation,
        reason,
        seconds=sum(r.get("seconds") or 0.0 for r in (*train, *validation)),
        bound=bound,
        bounds=own,
        baselines=baselines_of(bound, bounds) if bound else beside,
        data=data,
        text_ratio=bits_of_a_nat(data) if data and not (bound or validation) else None,
        loss_is_bound=recipe.logs_bound,
    )
