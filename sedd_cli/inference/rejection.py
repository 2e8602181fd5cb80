"""Layouts → filled templates, by rejection: draws are repeated until every gap begins with the space left to it.

What is kept follows the model's distribution, conditioned on gaps that begin with their spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sedd_cli.inference.denoise import BatchDenoiser, DenoisedRow, SequenceRequest, derived, expected_work
from sedd_cli.inference.layout import FilledTemplate, Layout
from sedd_cli.inference.memory import tokens_at_once
from sedd_cli.system.events import Event

#: Rejected draws after which the spaces in front of gaps become tokens of their own.
ATTEMPTS = 16


@dataclass(frozen=True)
class LayoutRequest:
    """A layout to fill. The result depends on the layouts, seed, number and candidate alone.

    layout: spaces in front of gaps are left to the gaps. own_spaces: they are given tokens. group: set by the caller,
    to recognize results that belong together. name: what the text is called while it is shown.
    """

    layout: Layout
    own_spaces: Layout
    seed: int
    number: int
    candidate: int = 0
    group: int = 0
    name: str = ""

    def layout_at(self, attempt: int) -> Layout:
        """The layout that draw number `attempt` fills."""
        return self.own_spaces if attempt == ATTEMPTS else self.layout

    def sequence(self, attempt: int) -> SequenceRequest:
        """Draw number `attempt`, with a seed of its own."""
        seed = self.seed
        if self.candidate or attempt:
            seed = derived(seed, "candidate", self.candidate, "attempt", attempt)
        return SequenceRequest(self.layout_at(attempt).tokens, seed, self.number, name=self.name)


@dataclass(frozen=True)
class DenoisedLayout(Event):
    """A filled layout; nfe and seconds are those of all its `drawn` draws.

    filled: None where the model has no tokenizer. plain_edges: every draw was rejected, and the last one filled
    `request.own_spaces`.
    """

    request: LayoutRequest
    tokens: list[int]
    filled: FilledTemplate | None
    nfe: int
    seconds: float
    drawn: int
    plain_edges: bool

    @property
    def layout(self) -> Layout:
        """The layout that was filled."""
        return self.request.own_spaces if self.plain_edges else self.request.layout


def denoise_layouts(denoiser: BatchDenoiser, groups: Iterable[list[LayoutRequest]]) -> Iterator[Event]:
    """Yield a DenoisedLayout for each request once accepted; a group stays in one portion. The workload stays open."""
    for portion in _portions(groups, tokens_at_once(denoiser.model.device)):
        yield from _denoise_portion(denoiser, portion)


def _portions(groups: Iterable[list[LayoutRequest]], tokens: int) -> Iterator[list[LayoutRequest]]:
    """Groups joined into portions that grow up to about `tokens` tokens, so that the first results come early."""
    portion: list[LayoutRequest] = []
    size, enough = 0, tokens // 64
    for group in groups:
        portion += group
        size += sum(len(one.layout.tokens) for one in group)
        if size >= enough:
            yield portion
            portion, size, enough = [], 0, min(2 * enough, tokens)
    if portion:
        yield portion


def _denoise_portion(denoiser: BatchDenoiser, requests: list[LayoutRequest]) -> Iterator[Event]:
    pending = [(request, 0, 0.0) for request in requests]
    for attempt in range(ATTEMPTS + 1):
        rejected = []
        sequences = [request.sequence(attempt) for request, _, _ in pending]
        if attempt:  # work that nobody expected
            again = (expected_work(denoiser.model, denoiser.resolved, one.tokens) for one in sequences)
            denoiser.workload.work += sum(again)
        for event in denoiser.denoise(sequences):
            if not isinstance(event, DenoisedRow):
                yield event
                continue
            request, nfe, seconds = pending[event.place]
            nfe, seconds = nfe + event.nfe, seconds + event.seconds
            layout = request.layout_at(attempt)
            filled = layout.read(event.tokens)
            if filled is None and layout.tokenizer is not None:
                rejected.append((request, nfe, seconds))
                continue
            plain = attempt == ATTEMPTS
            yield DenoisedLayout(request, event.tokens, filled, nfe, seconds, attempt + 1, plain)
        pending = rejected
        if not pending:
            return
