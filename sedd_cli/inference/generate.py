"""Sampling: sequences from nothing or from a prompt, in one piece or, beyond the model's length, block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.inference.chat import chat_layout
from sedd_cli.inference.denoise import (
    BatchDenoiser,
    DenoisedRow,
    SequenceRequest,
    Workload,
    denoise,
    derived,
    expected_work,
)
from sedd_cli.inference.layout import lay_out, round_trip_warning
from sedd_cli.inference.memory import batch_for, check_fits
from sedd_cli.inference.names import sample_name
from sedd_cli.inference.rejection import DenoisedLayout, LayoutRequest, denoise_layouts
from sedd_cli.inference.sampling import ResolvedSampler, Sampling, check_draws
from sedd_cli.inference.template import gap_between
from sedd_cli.models.shape import MOST_LENGTH
from sedd_cli.system.events import Event, Note, Sampled, Warn, result_of, warned

S = TypeVar("S", bound=Sampled, covariant=True)


@dataclass(frozen=True)
class GenerateOptions:
    """n sequences of `length` tokens (default: the trained length), or n for each prompt.

    A length beyond `block` (default: the trained length) is drawn block by block: each block is given the last block −
    stride tokens and adds `stride` (default: half a block). chat: messages instead of prompts, which the model answers
    (`inference.chat`). `first` numbers the first sequence: a sequence depends on
    (seed, its number) and its prompt alone. Samples of one number share their initial noise, whatever the prompt.
    """

    n: int = 1
    length: int | None = None
    prompts: tuple[str, ...] = ()
    block: int | None = None
    stride: int | None = None
    seed: int = 0
    first: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    chat: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_draws(self.n, self.seed, self.first)
        if self.chat and self.prompts:
            raise RequestError("a chat message is a prompt of its own: give either chat or prompts")
        for key in ("length", "block", "stride"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RequestError(f"{key} must be at least 1, found {value}")
            if value is not None and value > MOST_LENGTH:
                raise RequestError(f"{key} must be at most {MOST_LENGTH:,} (the limit MOST_LENGTH), found {value:,}")


@dataclass(frozen=True)
class SamplingResult(Generic[S]):
    """The samples or fillings of a model, in the order of their numbers."""

    model: LoadedModel
    samples: Sequence[S]

    def to_dict(self) -> dict[str, Any]:
        samples = [as_json(sample) for sample in self.samples]
        return {**self.model.identity, "samples": samples}


@dataclass(frozen=True)
class _Blocks:
    """Sequences of `length` tokens in blocks of `block`, each of which adds `stride`."""

    length: int
    block: int
    stride: int

    @property
    def several(self) -> bool:
        return self.length > self.block

    @classmethod
    def of(cls, model: LoadedModel, options: GenerateOptions) -> _Blocks:
        """RequestError where length, block and stride do not fit each other or the model."""
        length = model.length if options.length is None else options.length
        block = model.length if options.block is None else options.block
        if block > model.length:
            raise RequestError(f"a block of {block} tokens is longer than the model's {model.length}")
        stride = max(1, block // 2) if options.stride is None else options.stride
        if length > block and not 1 <= stride < block:
            raise RequestError(
                f"stride must lie between 1 and {block - 1}, so that a block of {block} sees earlier tokens"
            )
        for option, value in (("block", options.block), ("stride", options.stride)):
            if length <= block and value is not None:
                raise RequestError(f"{option} {value} means nothing with a length of {length}: one block holds it")
        return cls(length, block, stride)


def generate(
    model: LoadedModel, options: GenerateOptions, watch: bool = False
) -> Generator[Event, None, SamplingResult[Sampled]]:
    """Yield Progress while denoising (and Frames if `watch`), and Sampled for every finished sequence."""
    blocks = _Blocks.of(model, options)
    check_fits(model, min(blocks.length, blocks.block), whole=False)
    resolved = options.sampling.resolve(model)
    prompts: tuple[str | None, ...] = options.prompts or options.chat or (None,)
    if options.chat and blocks.several:
        raise RequestError(f"a chat is answered in one block, of at most {blocks.block} tokens: lower --length")
    if prompts == (None,) and not blocks.several and getattr(resolved.sampler, "guidance", 0):
        raise RequestError("guidance means nothing without given text: give a prompt")
    try:
        requests = [
            _request(model, prompt, min(blocks.length, blocks.block), options.seed, group, bool(options.chat))
            for group, prompt in enumerate(prompts)
        ]
    except RequestError as error:
        if not blocks.several:
            raise
        raise RequestError(f"the first block, of {blocks.block} tokens: {error}") from None
    for warning in dict.fromkeys(round_trip_warning(model.tokenizer, prompt) for prompt in options.prompts if prompt):
        if warning:
            yield Warn(warning)
    found: list[Sampled] = []
    for event in (_long if blocks.several else _short)(model, resolved, requests, options, blocks, watch):
        if isinstance(event, DenoisedLayout):
            event = _sampled(event, prompts[event.request.group], resolved)
            found.append(event)
        yield event
    return SamplingResult(model, in_order(found))


def _request(
    model: LoadedModel, prompt: str | None, length: int, seed: int, group: int, chat: bool = False
) -> LayoutRequest:
    """A sequence of `length` tokens that begins with the prompt; RequestError where the prompt does not fit."""
    if chat:
        answer = chat_layout(model, prompt or "", length)
        return LayoutRequest(answer, answer, seed, 0, group=group)
    template = gap_between(prompt or "", "")
    tokenizer = model.text_tokenizer() if prompt else model.tokenizer
    layout, plain = (lay_out(template, [], tokenizer, spaced, length) for spaced in (True, False))
    model.check_beginning(layout.tokens)
    return LayoutRequest(layout, plain, seed, 0, group=group)


def _short(
    model: LoadedModel, resolved: ResolvedSampler, requests: list[LayoutRequest], options: GenerateOptions,
    blocks: _Blocks, watch: bool,
) -> Iterator[Event]:  # fmt: skip
    """Sequences of one block, of all prompts together."""
    numbers = range(options.first, options.first + options.n)
    groups = ([_numbered(request, number, options)] for request in requests for number in numbers)
    workload = _workload(model, resolved, requests, options.n)
    for event in denoise_layouts(BatchDenoiser(model, resolved, workload, watch), groups):
        workload.done += isinstance(event, DenoisedLayout)
        yield event
    yield from workload.end()


def _numbered(request: LayoutRequest, number: int, options: GenerateOptions) -> LayoutRequest:
    """The request for sample `number`."""
    prompts = options.prompts or options.chat
    name = sample_name(number, prompts[request.group] if prompts else None)
    return dataclasses.replace(request, number=number, name=name)


def _workload(model: LoadedModel, resolved: ResolvedSampler, requests: Sequence[LayoutRequest], n: int) -> Workload:
    """The workload of n samples for each request."""
    work = sum(expected_work(model, resolved, request.layout.tokens) for request in requests)
    return Workload("samples", n * len(requests), n * work)


def _long(
    model: LoadedModel, resolved: ResolvedSampler, requests: list[LayoutRequest], options: GenerateOptions,
    blocks: _Blocks, watch: bool,
) -> Iterator[Event]:  # fmt: skip
    """Sequences of several blocks, a batch at a time."""
    length, block, stride = blocks.length, blocks.block, blocks.stride
    yield Note(f"{length} tokens in blocks of {block}, each of which sees {block - stride} before it and adds {stride}")
    size, stop = options.sampling.batch or batch_for(model, block), options.first + options.n
    for request in requests:
        for first in range(options.first, stop, size):
            numbers = range(first, min(first + size, stop))
            batch = [_numbered(request, number, options) for number in numbers]
            yield from _block_by_block(model, resolved, batch, blocks, watch)


def _block_by_block(
    model: LoadedModel, resolved: ResolvedSampler, requests: list[LayoutRequest], blocks: _Blocks, watch: bool
) -> Iterator[Event]:
    """The first block from the prompt, then block after block, each given the tokens at the end of the last."""
    begun: list[DenoisedLayout] = []
    workload = _workload(model, resolved, requests, 1)
    for event in denoise_layouts(BatchDenoiser(model, resolved, workload, watch), [[one] for one in requests]):
        if isinstance(event, DenoisedLayout):
            begun.append(event)
            workload.done += 1
        else:
            yield event
    yield from workload.end()
    number = 0
    while (there := len(begun[0].tokens)) < blocks.length:
        number += 1
        new = min(blocks.stride, blocks.length - there)
        start = there - (blocks.block - new)
        sequences = [
            SequenceRequest(
                (*one.tokens[start:], *[None] * new),
                derived(one.request.seed, "block", number),
                one.request.number,
                start,
                one.request.name,
            )
            for one in begun
        ]
        for event in denoise(model, resolved, sequences, "samples", watch):
            if isinstance(event, DenoisedRow):
                one = begun[event.place]
                begun[event.place] = dataclasses.replace(
                    one,
                    tokens=one.tokens + event.tokens[there - start :],
                    nfe=one.nfe + event.nfe,
                    seconds=one.seconds + event.seconds,
                )
            else:
                yield event
        yield Note(f"{there + new:,} of {blocks.length:,} tokens")
    for one in begun:
        whole = lay_out(one.layout.template, [], model.tokenizer, not one.plain_edges, blocks.length)
        yield dataclasses.replace(one, filled=whole.read(one.tokens))


def _sampled(one: DenoisedLayout, prompt: str | None, resolved: ResolvedSampler) -> Sampled:
    return Sampled(
        index=one.request.number,
        text=one.filled.text if one.filled else None,
        tokens=one.tokens,
        nfe=one.nfe,
        seconds=one.seconds,
        given=one.filled.given if one.filled else [],
        seed=one.request.seed,
        prompt=prompt,
        prompt_number=None if prompt is None else one.request.group,
        **resolved.facts,
    )


def generate_all(model: LoadedModel, options: GenerateOptions) -> list[Sampled]:
    """All samples at once, prompt by prompt in the order of their numbers, for a notebook; with warnings of Python."""
    return list(result_of(warned(generate(model, options))).samples)


def in_order(samples: Iterable[Sampled]) -> list[Sampled]:
    """Samples, which come as they finish, prompt by prompt in the order of their numbers."""
    return sorted(samples, key=lambda one: (one.prompt_number or 0, one.index))


def as_json(sample: Sampled) -> dict[str, Any]:
    """A sample as `--json` and `samples/*.jsonl` hold it."""
    return sample.to_dict()
