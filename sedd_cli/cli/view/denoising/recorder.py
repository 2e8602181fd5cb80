"""Records the frames of a job for a page or a picture that replays it."""

from __future__ import annotations

from dataclasses import dataclass, field

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.cli.view.denoising.pieces import Pieces
from sedd_cli.cli.view.denoising.replay import Replay, Strand
from sedd_cli.cli.view.denoising.sample import as_option, body_of
from sedd_cli.inference.names import name_of
from sedd_cli.system.events import Event, Filled, Frame, Sampled, Seen

#: The most sequences on one page.
MOST = 50


@dataclass
class _Track:
    """The changes of one sequence in one batch."""

    seen: Seen
    start: list[str | None]
    now: list[str | None]
    changes: list[tuple[int, int, str | None]] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


class Recorder:
    """Records the sequences that a job yields, from its events."""

    def __init__(self, model: LoadedModel):
        self._model, self._pieces = model, Pieces(model)
        self._running: list[_Track] = []
        self._ended: list[_Track] = []
        self._found: list[tuple[Sampled, Strand]] = []
        self._sampled = 0

    def see(self, event: Event) -> None:
        """Record a frame, or the sequence of a finished sample."""
        if isinstance(event, Frame) and self._sampled < MOST:
            self._frame(event)
        elif isinstance(event, Sampled):
            self._sampled += 1
            if self._sampled <= MOST:
                self._found.append((event, self._strand(event)))

    def replay(self, title: str) -> Replay:
        """The content of the page."""
        facts = {"model": self._model.source}
        if self._found:
            first = self._found[0][0]
            facts |= {"sampler": as_option(first.sampler)} | ({"steps": str(first.steps)} if first.steps else {})
            facts |= {"seed": str(first.seed), "draws": first.draws}
            facts |= {as_option(name): str(value) for name, value in first.levers.items() if name != "draws"}
        if self._sampled > MOST:
            facts["shown"] = f"the first {MOST} of {self._sampled}"
        return Replay(title, facts, [strand for _, strand in self._found])

    def _frame(self, frame: Frame) -> None:
        if frame.step <= 1:
            self._running = [self._begun(seen) for seen in frame.sequences]
            self._ended += self._running
        ended = frame.step > frame.requested  # what noise was left is removed: a part of the last step
        for track, seen in zip(self._running, frame.sequences, strict=True):
            pieces = track.now if track.evaluations and seen.x == track.seen.x else self._pieces(seen.x)
            step = max(len(track.evaluations) + (not ended), 1)
            track.changes += [
                (step, i, new) for i, (old, new) in enumerate(zip(track.now, pieces, strict=True)) if old != new
            ]
            track.now, track.seen = pieces, seen
            track.evaluations[step - 1 :] = [seen.evaluations]
            track.seconds[step - 1 :] = [frame.seconds]

    def _begun(self, seen: Seen) -> _Track:
        absent = self._model.graph.states
        start = self._pieces([absent if token is None else token for token in seen.given])
        return _Track(seen, start, list(start))

    def _strand(self, sample: Sampled) -> Strand:
        """The tracks of the blocks of a sample, joined."""
        tracks: dict[int, _Track] = {}
        name = label = name_of(sample)
        for track in self._ended:
            at = track.seen.offset
            same = track.seen.name == name or track.seen.name.startswith(f"{name}, candidate")
            if (
                same
                and track.seen.number == sample.index
                and sample.tokens[at : at + len(track.seen.x)] == track.seen.x
            ):
                tracks[at] = track
        start: list[str | None] = [None] * len(sample.tokens)
        changes: list[tuple[int, int, str | None]] = []
        evaluations: list[int] = []
        seconds: list[float] = []
        for at, track in sorted(tracks.items()):
            steps, spent = len(evaluations), evaluations[-1] if evaluations else 0
            before = seconds[-1] if seconds else 0.0
            if at == 0:
                start[: len(track.start)] = track.start
            changes += [(steps + step, at + i, piece) for step, i, piece in track.changes]
            evaluations += [spent + number for number in track.evaluations]
            seconds += [before + second for second in track.seconds]
        given = [i for i, piece in enumerate(start) if piece is not None]
        if isinstance(sample, Filled) and sample.candidates > 1:
            label += f", candidate {sample.candidate + 1} of {sample.candidates}, ≤ {sample.bound:.2f} nats/token"
        return Strand(label, start, given, changes, evaluations, seconds, body_of(sample))
