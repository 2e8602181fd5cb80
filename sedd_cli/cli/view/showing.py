"""What `sample` and `infill` share: results on the screen, in a file, as it happens, and as a page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.cli.view.view import View
from sedd_cli.system.events import Event

if TYPE_CHECKING:
    from sedd_cli.checkpoints.loaded_model import LoadedModel


def shown(
    view: View, model: LoadedModel, events: Iterable[Event], title: str, out: Path | None, watch: bool,
    html: Path | None, interrupted: str = "", svg: Path | None = None,
) -> list[Event]:  # fmt: skip
    """Draw the events of a job, and return its results.

    out: each result is written there as it comes. watch: frames are drawn too, in a terminal. html, svg: a page
    that replays them, and an animated picture of them, are written there.
    """
    from sedd_cli.cli.view.recorder import Recorder
    from sedd_cli.cli.view.watch import Watcher
    from sedd_cli.inference.jobs import stored, writing

    if out is not None:
        events = stored(events, out)
    recorder = Recorder(model) if html is not None or svg is not None else None
    if recorder is not None:
        events = recorder.record(events)
    if watch:
        events = Watcher(view, model).watch(events)
    older = out is not None and out.is_file() and out.stat().st_size > 0
    with writing(out):
        kept = view.follow(events, interrupted or "interrupted" + (f": what is finished is in {out}" if out else ""))
    if out is not None and out.exists():
        view.say(f"wrote {out}{', in the place of what was there' if older else ''}", "dim")
    if recorder is not None and html is not None:
        from sedd_cli.cli.view.replay import write_page

        write_page(html, recorder.replay(title))
        view.say(f"wrote {html}", "dim")
    if recorder is not None and svg is not None:
        from sedd_cli.cli.view.picture import write_picture

        write_picture(svg, recorder.replay(title))
        view.say(f"wrote {svg}", "dim")
    return kept
