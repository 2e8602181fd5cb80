"""The metrics of metrics.jsonl, written to TensorBoard or wandb too."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.errors import RequestError
from sedd_cli.recipe import Recipe, dump_recipe
from sedd_cli.system.events import Event, Sampled, TrainStep, Validated, bin_names
from sedd_cli.system.files import write_whole

#: Fields of an event that are not metrics.
NOT_PLOTTED = {"sign", "step", "steps", "split", "blocks", "loss_by_t"}


@dataclass
class Tracker(ABC):
    """Base: receives every event of a run."""

    run: Path
    recipe: Recipe
    #: The step at which the run starts or resumes; later entries of an earlier attempt are dropped.
    step: int

    def see(self, event: Event) -> None:
        """Log the metrics of a TrainStep or Validated event, or the text of a sample."""
        if isinstance(event, TrainStep | Validated):
            self.step = event.step
            self.numbers(event.step, plotted(event))
        elif isinstance(event, Sampled) and event.text is not None:
            self.text(self.step, event.text)

    @abstractmethod
    def numbers(self, step: int, values: dict[str, float]) -> None:
        """Log numbers by name at a step."""

    @abstractmethod
    def text(self, step: int, text: str) -> None:
        """Log a sample at a step."""

    @abstractmethod
    def close(self) -> None:
        """Finish logging."""


class TensorBoard(Tracker):
    """Event files under RUN/tensorboard."""

    def __init__(self, run: Path, recipe: Recipe, step: int):
        super().__init__(run, recipe, step)
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def numbers(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, text: str) -> None:
        # four spaces make it a code block in markdown
        self._writer.add_text("sample", "    " + text.replace("\n", "\n    "), step)

    def close(self) -> None:
        self._writer.close()


class Wandb(Tracker):
    """A wandb run of the same name; resumed under the same id.

    wandb drops what is logged below its last step. So a training that goes back and continues with another recipe is a
    new run there. With the same recipe, what is dropped is there already.
    """

    def __init__(self, run: Path, recipe: Recipe, step: int):
        super().__init__(run, recipe, step)
        import wandb  # pyright: ignore[reportMissingImports]  (an optional package)

        self._wandb = wandb
        self._mark, self._text = run / "wandb-id", dump_recipe(recipe)
        # the id, the last step that was logged, and the recipe
        stored = self._mark.read_text(encoding="utf-8") if self._mark.is_file() else ""
        name, last, text = [*stored.split("\n", 2), "", ""][:3]
        self._last = int(last or 0)
        if not name or (step < self._last and text != self._text):
            name, self._last = wandb.util.generate_id(), step
        self._id = name
        self._run = wandb.init(
            project="sedd", name=run.name, id=name, resume="allow", dir=str(run), config=recipe.to_data()
        )
        self._remember(self._last)

    def _remember(self, step: int) -> None:
        self._last = max(self._last, step)
        write_whole(self._mark, f"{self._id}\n{self._last}\n{self._text}")

    def numbers(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)
        self._remember(step)

    def text(self, step: int, text: str) -> None:
        self._run.log({"sample": self._wandb.Html(f"<pre>{_escaped(text)}</pre>")}, step=step)

    def close(self) -> None:
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": Wandb}


def check_trackers(names: Iterable[str]) -> None:
    """Raise RequestError naming the missing package of a tracker."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise RequestError(f"--{name} needs a package: pip install 'sedd[{name}]'")


def open_trackers(names: Iterable[str], run: Path, recipe: Recipe, step: int) -> list[Tracker]:
    """The trackers by name, for a run that starts or resumes at `step`. Where one fails, the others are closed."""
    opened: list[Tracker] = []
    try:
        for name in names:
            opened.append(TRACKERS[name](run, recipe, step))
    except BaseException:
        for tracker in opened:
            with suppress(Exception):  # the first error counts
                tracker.close()
        raise
    return opened


def plotted(event: TrainStep | Validated) -> dict[str, float]:
    """The metrics of an event by their plotted names; unknown values are left out."""
    kind = "train" if isinstance(event, TrainStep) else "validation"
    found: dict[str, Any] = {k: v for k, v in vars(event).items() if k not in NOT_PLOTTED}
    if isinstance(event, TrainStep):
        names = [f"loss at t {name}" for name in bin_names(event.loss_by_t)]
        found |= dict(zip(names, event.loss_by_t, strict=True))
    return {f"{kind}/{name}": float(value) for name, value in found.items() if value is not None}


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
