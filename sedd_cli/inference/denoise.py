"""Partly given sequences → complete sequences: batches of one length, as large as memory allows."""

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
from sedd_cli.core.samplers import Denoised
from sedd_cli.errors import WorkError, out_of_memory
from sedd_cli.inference.memory import batch_for, check_fits
from sedd_cli.inference.sampling import ResolvedSampler
from sedd_cli.system.events import Event, Frame, Note, Progress, Seen, Warn


@dataclass(frozen=True)
class SequenceRequest:
    """A sequence to denoise: tokens [L], None where free. The result depends on tokens, seed and number alone.

    offset: position of the sequence in the text it is a part of. name: what the text is called. Both are for display.
    """

    tokens: tuple[int | None, ...]
    seed: int
    number: int = 0
    offset: int = 0
    name: str = ""


@dataclass(frozen=True)
class DenoisedRow(Event):
    """Result of request number `place`: tokens [L], network evaluations, and its share of the batch's seconds."""

    place: int
    tokens: list[int]
    nfe: int
    seconds: float


def derived(seed: int, *words: object) -> int:
    """A seed in [0, 2^64): a hash of `seed` and `words`, which name what it is used for."""
    return int.from_bytes(hashlib.sha256(repr((seed, *words)).encode()).digest()[:8], "big")


@dataclass
class Workload:
    """How far the work on a number of texts is.

    Attributes:
        noun: What they are called.
        total: Their number, 0 where it is not known.
        work: The work expected for all of them, in tokens that pass through the network (`expected_work`).
        done: How many are finished.
        spent: The work done so far.
    """

    noun: str
    total: int
    work: float
    done: int = 0
    spent: float = 0.0

    def progress(self, metrics: dict[str, str] | None = None, begun: float = 0.0) -> Progress:
        """The state for a bar, which is full at the `end` alone; begun: work on texts that are not finished."""
        if not self.total:
            return Progress(self.noun, self.done, None, self.noun, metrics or {})
        share = min((self.spent + begun) / self.work, 1.0) if self.work else None
        return Progress(self.noun, min(self.done, self.total - 1), self.total, self.noun, metrics or {}, share)

    def end(self) -> Iterator[Progress]:
        """A full bar, where there is one."""
        if self.total:
            yield Progress(self.noun, self.total, self.total, self.noun, {}, 1.0)


def expected_work(model: LoadedModel, resolved: ResolvedSampler, tokens: Sequence[int | None]) -> float:
    """Tokens that pass through the network for a sequence [L], None where free: its length times the evaluations."""
    size, work = model.block_size or max(len(tokens), 1), 0.0
    for start in range(0, len(tokens), size):
        if free := tokens[start : start + size].count(None):
            work += min(start + size, len(tokens)) * resolved.sampler.evaluations_for(free)
    return work


def denoise(
    model: LoadedModel,
    resolved: ResolvedSampler,
    requests: Sequence[SequenceRequest],
    noun: str = "samples",
    watch: bool = False,
) -> Iterator[Event]:
    """Yield a DenoisedRow for every request, short sequences first, with Progress (and Frames if `watch`) between."""
    work = sum(expected_work(model, resolved, request.tokens) for request in requests)
    workload = Workload(noun, len(requests), work)
    for event in BatchDenoiser(model, resolved, workload, watch).denoise(requests):
        workload.done += isinstance(event, DenoisedRow)
        yield event
    yield from workload.end()


@dataclass
class BatchDenoiser:
    """Denoises portions of the texts of a workload, and keeps the size of the largest batch that fits into memory.

    The caller counts finished texts in the workload.
    """

    model: LoadedModel
    resolved: ResolvedSampler
    workload: Workload
    watch: bool = False
    _limit: int | None = None
    _noted: bool = False

    def denoise(self, requests: Sequence[SequenceRequest]) -> Iterator[Event]:
        """Yield a DenoisedRow for every request of a portion; a model in blocks fills one block after another.

        RequestError, before any is denoised, where one of them cannot fit.
        """
        check_fits(self.model, max((len(request.tokens) for request in requests), default=1), whole=False)
        if self.model.block_size is None:
            yield from self._denoise(requests)
            return
        rows = [DenoisedRow(place, list(one.tokens), 0, 0.0) for place, one in enumerate(requests)]  # pyright: ignore
        size, longest = self.model.block_size, max((len(one.tokens) for one in requests), default=0)
        for start in range(0, longest, size):
            open_ = [row for row in rows if None in row.tokens[start : start + size]]
            parts = [
                dataclasses.replace(
                    requests[row.place],
                    tokens=tuple(row.tokens[: start + size]),
                    seed=derived(requests[row.place].seed, "block", start // size),
                )
                for row in open_
            ]
            for event in self._denoise(parts):
                if isinstance(event, DenoisedRow):
                    row = open_[event.place]
                    tokens = event.tokens + row.tokens[len(event.tokens) :]
                    rows[row.place] = DenoisedRow(row.place, tokens, row.nfe + event.nfe, row.seconds + event.seconds)
                else:
                    yield event
        yield from rows

    def _denoise(self, requests: Sequence[SequenceRequest]) -> Iterator[Event]:
        """Yield a DenoisedRow for every request, short sequences first; halve batches out of memory."""
        order = sorted(range(len(requests)), key=lambda place: len(requests[place].tokens))
        while order:
            length = len(requests[order[0]].tokens)
            size = min(self._limit or len(order), self.resolved.batch or batch_for(self.model, length))
            places = [place for place in order[:size] if len(requests[place].tokens) == length]
            try:
                for event in self._denoise_batch([requests[place] for place in places], places):
                    if isinstance(event, Note):  # on steps that scored everything, once for all batches
                        if self._noted:
                            continue
                        self._noted = True
                    yield event
            except ValueError as error:  # a distribution that cannot be drawn from
                raise WorkError(f"{error}; `sedd inspect {self.model.source}` shows more") from error
            except (RuntimeError, MemoryError) as error:
                if len(places) == 1 or not out_of_memory(error):
                    raise
                self._limit = len(places) // 2
                yield Warn(f"not enough memory for {len(places)} sequences at once: continuing with {self._limit}")
                continue
            order = order[len(places) :]

    def _asked(self, now: Denoised) -> int:
        """The steps that were asked for: what removes the noise that is left after the last of them is none."""
        asked = getattr(self.resolved.sampler, "steps", None)
        return asked if asked is not None and now.steps == asked + 1 else now.steps

    def _denoise_batch(self, batch: list[SequenceRequest], places: list[int]) -> Iterator[Event]:
        """Run the sampler on sequences of one length."""
        began, device = time.perf_counter(), self.model.device
        given, index = _conditioning(batch, device), torch.tensor([one.number for one in batch], device=device)
        # the 64 bits of a seed, read as a signed number
        seeds = torch.tensor([one.seed - (one.seed >> 63 << 64) for one in batch], device=device)
        now, asked = None, 0
        work = sum(expected_work(self.model, self.resolved, one.tokens) for one in batch)
        with torch.no_grad():
            for now in self.resolved.sampler.run(self.resolved.score, given, seeds, index):
                asked = self._asked(now)
                if self.watch:
                    yield _frame(now, batch, time.perf_counter() - began, asked)
                metrics = {
                    "step": f"{min(now.step, asked):,} of {asked:,}",
                    "evaluations": f"{int(now.evaluations.max()):,}",
                }
                yield self.workload.progress(metrics, work * now.step / max(now.steps, 1))
        assert now is not None
        self.workload.spent += work
        if now.fallbacks:
            yield Note(
                f"{min(now.fallbacks, asked):,} of {asked:,} steps scored all open positions of a text, not only those "
                "that could change, because its scores, read as probabilities, had added up to more than 2 at some "
                "position; such steps take longer, and scoring more changes no sample (sedd guide exactness)"
            )
        left = int((now.x == self.model.graph.mask_state).sum()) if self.model.graph.masking else 0
        if left and getattr(self.resolved.sampler, "all_rows", False):
            raise WorkError(
                f"{left} tokens are MASK at the end: --all-rows lets MASK compete, and the model prefers it there"
            )
        if not bool((now.x == given(now.x)).all() and (now.x < self.model.graph.vocab_size).all()):
            raise WorkError("a given token changed or a mask is left: this is a defect of sedd, nothing was kept")
        seconds = (time.perf_counter() - began) / len(batch)
        for place, tokens, nfe in zip(places, now.x.tolist(), now.evaluations.tolist(), strict=True):
            yield DenoisedRow(place, tokens, nfe, seconds)


def _frame(now: Denoised, batch: list[SequenceRequest], seconds: float, asked: int) -> Frame:
    seen = [
        Seen(one.number, one.offset, one.tokens, x, nfe, one.name)
        for one, x, nfe in zip(batch, now.x.tolist(), now.evaluations.tolist(), strict=True)
    ]
    return Frame(now.step, now.steps, seconds, seen, asked)


def _conditioning(batch: list[SequenceRequest], device: torch.device) -> Conditioning:
    where = torch.tensor([[token is not None for token in one.tokens] for one in batch], device=device)
    tokens: Tensor = torch.tensor([[token or 0 for token in one.tokens] for one in batch], device=device)
    return Conditioning(where, tokens)
