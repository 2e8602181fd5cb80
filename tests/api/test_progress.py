"""The bars that the public functions show in a terminal."""

from __future__ import annotations

import io
import re
import sys
import time

from sedd_cli.api.progress import followed
from sedd_cli.system.events import Note, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def job(pause: float = 0.0):
    for task in ("training", "scoring"):
        yield Progress(task, 0, 2, "steps")
        yield Progress(task, 2, 2, "steps")
        yield Note(f"{task} ended")
        time.sleep(pause if task == "training" else 0)
    return 7


def test_the_bar_of_a_task_shows_the_time_of_this_task_alone(monkeypatch):
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    assert followed(job(1.1)) == 7
    last = [re.findall(rf"{task}: 100%.*?\[(\d\d:\d\d)", screen.getvalue())[-1] for task in ("training", "scoring")]
    assert last == ["00:00", "00:00"]


def test_a_file_receives_no_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    assert followed(job()) == 7
    assert file.getvalue() == ""
