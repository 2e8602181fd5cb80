"""Output that `sample` and `infill` share: on the screen, in a file, live, as a page."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.cli.outcome import NOTHING_KEPT, output
from sedd_cli.cli.view.view import View
from sedd_cli.errors import WorkError
from sedd_cli.system.events import Event, Result, observe

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel
    from sedd_cli.cli.view.replay import Replay


def show_samples(
    view: View, model: LoadedModel, job: Generator[Event, None, Result], title: str, out: Path | None, watch: bool,
    html: Path | None, interrupted: str = "", svg: Path | None = None,
) -> Result:  # fmt: skip
    """Draw the events of a job and return its result.

    Args:
        out: Write each sample to this file as it comes.
        watch: Also draw frames, in a terminal.
        html: Write a page that replays the frames to this file.
        interrupted: Shown after Ctrl-C.
        svg: Write an animated picture of the denoising to this file.
    """
    from sedd_cli.cli.view.recorder import Recorder
    from sedd_cli.cli.view.watch import Watcher
    from sedd_cli.inference.jobs import stored, writing

    if out is not None:
        output.stored = True
        job = stored(job, out)
    recorder = Recorder(model) if html is not None or svg is not None else None
    if recorder is not None:
        job = observe(job, recorder.see)
    if watch:
        job = Watcher(view, model).watch(job)
    older = out is not None and out.is_file() and out.stat().st_size > 0
    with writing(out):
        result = view.run(job, interrupted or _kept(view, out))
    if out is not None and out.exists():
        view.say(f"wrote {out}{', replacing the file' if older else ''}", "dim")
    if recorder is not None and html is not None:
        from sedd_cli.cli.view.replay import write_page

        _write(write_page, html, recorder.replay(title))
        view.say(f"wrote {html}", "dim")
    if recorder is not None and svg is not None:
        from sedd_cli.cli.view.picture import write_picture

        _write(write_picture, svg, recorder.replay(title))
        view.say(f"wrote {svg}", "dim")
    return result


def _kept(view: View, out: Path | None) -> str:
    """What to say after Ctrl-C while samples are drawn."""
    if out is not None:
        return f"interrupted: finished samples are in {out}"
    return NOTHING_KEPT if view.json else "interrupted: finished samples were shown, --out FILE also keeps them"


def _write(write: Callable[[Path, Replay], None], path: Path, replay: Replay) -> None:
    """Write a page or a picture; WorkError where it cannot be written."""
    try:
        write(path, replay)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None
