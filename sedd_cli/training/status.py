"""The status of a run, read from its directory; the run may be in progress."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import bin_names
from sedd_cli.system.json_lines import read_json_lines
from sedd_cli.system.locks import is_locked
from sedd_cli.system.plotting import empty_figure, save


@dataclass(frozen=True)
class Status:
    """Progress of a run. train and validation are the records of metrics.jsonl, in order of steps."""

    run: Path
    recipe: str
    state: str  # running | stopped | finished | failed
    step: int
    steps: int
    checkpoint: str | None
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    reason: str | None = None  # why it failed

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def status(run: Path) -> Status:
    """Read the status of a run; RequestError if `run` is not a run directory."""
    if (run / "manifest.json").is_file():
        raise RequestError(f"{run} is a checkpoint; its run is {run.parent.parent}")
    if not (run / "recipe.yaml").is_file():
        raise RequestError(f"{run} is not a run: it has no recipe.yaml")
    recipe = load_recipe(run / "recipe.yaml")
    found = [line.record for line in read_json_lines(run / "metrics.jsonl") if line.record]
    records = [record for record in found if isinstance(record.get("step"), int)]
    train, validation = ([r for r in records if r.get("kind") == kind] for kind in ("train", "validation"))
    mark = run / "latest"
    latest = mark.read_text(encoding="utf-8").strip() if mark.is_file() else None
    step = train[-1]["step"] if train else 0
    done = latest == f"step-{recipe.train.steps}"
    failed = records[-1] if records and records[-1].get("kind") == "failed" else None
    state = "running" if is_locked(run / ".lock") else "finished" if done else "failed" if failed else "stopped"
    reason = None
    if failed and state == "failed":
        reason, step = failed["reason"], failed["step"]
    return Status(run, recipe.name, state, step, recipe.train.steps, latest, train, validation, reason)


def plot(found: Status, path: Path) -> None:
    """Write the loss curves as a PNG; RequestError without matplotlib or without metrics."""
    if not found.train:
        raise RequestError(f"{found.run} has no metrics yet, there is nothing to plot")
    bins = bin_names(found.train[0]["loss_by_t"])
    figure = empty_figure(10 if bins else 6, 4)
    whole, *others = figure.subplots(1, 2 if bins else 1, sharex=True, squeeze=False)[0]
    steps = [r["step"] for r in found.train]
    whole.plot(steps, [_or_nan(r["loss"]) for r in found.train], lw=1, label="training loss")
    if found.validation:
        values, errors = zip(*((r["nats_per_token"], r["nats_per_token_error"]) for r in found.validation), strict=True)
        at = [r["step"] for r in found.validation]
        whole.errorbar(at, values, errors, fmt="o", ms=4, capsize=2, label=f"bound, {found.validation[0]['split']}")
    for by_t in others:
        for i, name in enumerate(bins):
            by_t.plot(steps, [_or_nan(r["loss_by_t"][i]) for r in found.train], lw=1, label=f"t {name}")
    for axis, title in zip((whole, *others), (found.recipe, "training loss by noise level"), strict=False):
        axis.set(xlabel="step", ylabel="nats per token", title=title)
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    save(figure, path)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
