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
    from sedd_cli.cli.option_groups import Watching
    from sedd_cli.cli.view.denoising.replay import Replay


def show_samples(
    view: View, model: LoadedModel, job: Generator[Event, None, Result], title: str, out: Path | None,
    watching: Watching, interrupted: str | Callable[[], str] = "",

) -> Result:  # fmt: skip
    """Draw the events of a job and return its result.

    Args:
        title: The title of a page or picture.
        out: Write each sample to this file as it comes.
        watching: Also draw frames, in a terminal, and write pages and pictures of the denoising.
        interrupted: Shown after Ctrl-C.
    """
    from sedd_cli.cli.view.denoising.recorder import Recorder
    from sedd_cli.cli.view.denoising.watch import Watcher
    from sedd_cli.inference.generate import SamplingResult
    from sedd_cli.inference.resumable import stored, writing

    if out is not None:
        output.stored = True
        job = stored(job, out)
    recorder = Recorder(model) if any(watching.files.values()) else None
    if recorder is not None:
        job = observe(job, recorder.see)
    if watching.watch:
        if not view.console.is_terminal:
            view.say("--watch shows the texts in a terminal, which this output is not", "dim")
        job = Watcher(view, model).watch(job)
    older = out is not None and out.is_file() and out.stat().st_size > 0
    with writing(out):
        result = view.run(job, interrupted or _kept(view, out))
    output.result = result.to_dict() if view.json and isinstance(result, SamplingResult) else {}
    if out is not None and out.exists():
        view.say(f"wrote {out}{', replacing the file' if older else ''}", "dim")
    failed: list[WorkError] = []
    for option, path in watching.files.items():
        if recorder is not None and path is not None:
            try:
                replay = recorder.replay(title)
                if not replay.strands:
                    view.say(f"nothing was drawn: {path} is not written", "dim")
                    continue
                _write(_writer(option), path, replay)
                view.say(f"wrote {path}", "dim")
            except WorkError as error:  # the others are written
                failed.append(error)
    if failed:
        raise failed[0]
    return result


def _writer(option: str) -> Callable[[Path, Replay], None]:
    """What writes the file of an option."""
    if option == "--html":
        from sedd_cli.cli.view.denoising.replay import write_page

        return write_page
    if option == "--svg":
        from sedd_cli.cli.view.denoising.picture import write_picture

        return write_picture
    from sedd_cli.cli.view.denoising.gif import write_gif

    return write_gif


def _kept(view: View, out: Path | None) -> str | Callable[[], str]:
    """What to say after Ctrl-C while samples are drawn."""
    from sedd_cli.system.files import is_stream, last_written

    if out is not None:
        before = last_written(out)

        def said() -> str:
            if is_stream(out) or last_written(out) != before:
                return f"interrupted: finished samples are in {out}"
            return f"interrupted before the first sample was finished: nothing was written to {out}"

        return said
    return NOTHING_KEPT if view.json else "interrupted: finished samples were shown, --out FILE also keeps them"


def _write(write: Callable[[Path, Replay], None], path: Path, replay: Replay) -> None:
    """Write a page or a picture; WorkError where it cannot be written."""
    try:
        write(path, replay)
    except OSError as error:
        raise WorkError(f"cannot write {path}: {error.strerror}") from None
