"""Rows with free places → rows without: batches of one length, as many at once as memory allows."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.core.conditioning import Conditioning
from sedd_cli.errors import WorkError, out_of_memory
from sedd_cli.inference.sampling import ResolvedSampler
from sedd_cli.system.events import Event, Frame, Progress, Seen, Warn
from sedd_cli.system.memory import free_memory


@dataclass(frozen=True)
class Row:
    """A sequence to be denoised: tokens [L], None where free. What it becomes depends on these, seed and number alone.

    offset: where it stands in the text it is a part of, for whoever watches.
    """

    tokens: tuple[int | None, ...]
    seed: int
    number: int = 0
    offset: int = 0


@dataclass(frozen=True)
class DenoisedRow(Event):
    """Row `place` of those asked for: its tokens [L], network evaluations, and its share of the batch's seconds."""

    place: int
    tokens: list[int]
    nfe: int
    seconds: float


def derived(seed: int, *words: object) -> int:
    """A seed for a part of the work that `seed` is for, in [0, 2^64)."""
    return int.from_bytes(hashlib.sha256(repr((seed, *words)).encode()).digest()[:8], "big")


def denoise(
    model: LoadedModel, way: ResolvedSampler, rows: Sequence[Row], noun: str = "samples", watch: bool = False
) -> Iterator[Event]:
    """Yield Progress (and Frames, to be watched) on the way, and Done for every row, the short ones first."""
    work = BatchDenoiser(model, way, len(rows), noun, watch, by_steps=True)
    for event in work.denoise(rows):
        work.done += isinstance(event, DenoisedRow)
        yield event
    yield from work.over()


@dataclass
class BatchDenoiser:
    """Rows that are denoised one portion after another: how far it is, and how many at once there is memory for."""

    model: LoadedModel
    way: ResolvedSampler
    total: int
    noun: str
    watch: bool = False
    done: int = 0
    limit: int | None = None
    by_steps: bool = False
    warned: bool = False

    def denoise(self, rows: Sequence[Row]) -> Iterator[Event]:
        """Done for every row of a portion, the short ones first, and what there is to be seen on the way."""
        order = sorted(range(len(rows)), key=lambda place: len(rows[place].tokens))
        while order:
            length = len(rows[order[0]].tokens)
            size = min(self.limit or len(order), self.way.batch or batch_for(self.model, length))
            places = [place for place in order[:size] if len(rows[place].tokens) == length]
            try:
                for event in _denoise(self.model, self.way, rows, places, self.watch):
                    if isinstance(event, Warn):
                        if self.warned:
                            continue  # once is enough
                        self.warned = True
                    yield self._of_all(event, len(places)) if isinstance(event, Progress) else event
            except ValueError as error:  # a law that cannot be drawn from
                raise WorkError(f"{error}; `sedd inspect {self.model.source}` shows more") from error
            except (RuntimeError, MemoryError) as error:
                if len(places) == 1 or not out_of_memory(error):
                    raise
                self.limit, self.by_steps = len(places) // 2, False
                yield Warn(f"not enough memory for {len(places)} sequences at once: going on with {self.limit}")
                continue
            order = order[len(places) :]

    def over(self) -> Iterator[Progress]:
        """The end of the bar, where it counted rows."""
        if self.total and not self.by_steps:
            yield Progress(self.noun, self.total, self.total, self.noun)

    def _of_all(self, now: Progress, batch: int) -> Progress:
        """Progress of a batch as that of all rows; where all are drawn in one, and for the first time, by its steps."""
        if self.by_steps and batch == self.total:
            return dataclasses.replace(now, task=self.noun)
        self.by_steps = False
        figures = {"step": f"{now.done:,} of {now.total:,}", **now.figures}
        return Progress(self.noun, min(self.done, self.total - 1), self.total, self.noun, figures)


def batch_for(model: LoadedModel, length: int) -> int:
    """How many sequences of a length fit into half of the memory that is free: an estimate, and at least one."""
    config, device = model.net.config, model.device
    # a block's widest moment: its input, queries, keys and values, the four-fold inner layer and its activation
    held = 4 * length * config.hidden_size * 16
    if model.net.kernel(length) == "plain":
        held += 8 * config.n_heads * length**2
    fits = int(free_memory(device) // 2 // held)
    return max(1, min(fits, tokens_at_once(device) // length))


def tokens_at_once(device: torch.device) -> int:
    """Tokens denoised together at most: beyond this a device gains nothing."""
    return 2**18 if device.type == "cuda" else 8192


def _denoise(
    model: LoadedModel, way: ResolvedSampler, rows: Sequence[Row], places: list[int], watch: bool
) -> Iterator[Event]:
    began, batch, device = time.perf_counter(), [rows[place] for place in places], model.device
    given, index = _given(batch, device), torch.tensor([row.number for row in batch], device=device)
    # the 64 bits of a seed, read as a signed number
    seeds = torch.tensor([row.seed - (row.seed >> 63 << 64) for row in batch], device=device)
    with torch.no_grad():
        for now in way.sampler.run(way.score, given, seeds, index):
            if watch:
                seconds, evaluations = time.perf_counter() - began, now.evaluations.tolist()
                seen = [
                    Seen(row.number, row.offset, row.tokens, x, spent)
                    for row, x, spent in zip(batch, now.x.tolist(), evaluations, strict=True)
                ]
                yield Frame(now.step, now.steps, seconds, seen)
            yield Progress("", now.step, now.steps, "steps", {"evaluations": f"{int(now.evaluations.max()):,}"})
    if now.fallbacks:
        yield Warn(
            f"scores far from normalised: every position was looked at in {now.fallbacks} of {now.steps} steps; "
            "--no-thinning looks everywhere from the start"
        )
    if not bool((now.x == given(now.x)).all() and (now.x < model.graph.vocab_size).all()):
        raise WorkError("a given token was lost or a mask survived: this is a defect, nothing was kept")
    seconds = (time.perf_counter() - began) / len(batch)
    for place, tokens, nfe in zip(places, now.x.tolist(), now.evaluations.tolist(), strict=True):
        yield DenoisedRow(place, tokens, nfe, seconds)


def _given(batch: list[Row], device: torch.device) -> Conditioning:
    where = torch.tensor([[token is not None for token in row.tokens] for row in batch], device=device)
    tokens: Tensor = torch.tensor([[token or 0 for token in row.tokens] for row in batch], device=device)
    return Conditioning(where, tokens)
