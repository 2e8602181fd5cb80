"""Progress of a job in a notebook or a plain Python program, by tqdm."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from tqdm.auto import tqdm

from sedd_cli.system.events import Event, Note, Progress, Result, TrainStep, Validated, Warn, observe, result_of


def followed(job: Generator[Event, None, Result], progress: bool = True) -> Result:
    """Run a job to its end with a bar for each of its tasks, in a terminal or a notebook, and lines for its notes.

    Without `progress`, warnings alone are shown.
    """
    shown = _Bars(progress)
    try:
        return result_of(observe(job, shown.show))
    finally:
        shown.close()


class _Bars:
    def __init__(self, progress: bool):
        self.progress = progress
        self.bars: dict[str, Any] = {}

    def show(self, event: Event) -> None:
        if isinstance(event, Warn):
            tqdm.write(f"warning: {event.text}")
        elif not self.progress:
            return
        elif isinstance(event, Note):
            tqdm.write(event.text)
        elif isinstance(event, Validated):
            tqdm.write(f"step {event.step:,}: {event.sign} {event.bits_per_char:.3f} bits/char ({event.split})")
        elif isinstance(event, TrainStep):
            loss = {} if event.loss is None else {"loss": f"{event.loss:.3f}"}
            self._move("training", event.step, event.steps, "step", loss)
        elif isinstance(event, Progress):
            self._move(event.task, event.done, event.total, event.unit or "it", event.metrics)

    def _move(self, task: str, done: int, total: int | None, unit: str, metrics: dict[str, str]) -> None:
        if task not in self.bars:  # disable=None: a bar is for terminals and notebooks
            self.bars[task] = tqdm(desc=task, total=total, unit=f" {unit}", disable=None)
        bar = self.bars[task]
        bar.total = total
        bar.set_postfix(metrics, refresh=False)
        bar.update(max(0, done - bar.n))
        if total is not None and done >= total:  # its time is not that of later tasks
            self.bars.pop(task).close()

    def close(self) -> None:
        for bar in self.bars.values():
            bar.close()
