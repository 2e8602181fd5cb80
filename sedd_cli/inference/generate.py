"""Sampling: sequences from nothing or from a prompt, in one piece or, beyond the model's length, block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.inference.denoise import DenoisedRow, Row, batch_for, denoise, derived
from sedd_cli.inference.infill import Job, infill, plan_job
from sedd_cli.inference.layout import lay_out
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import between
from sedd_cli.system.events import Event, Filled, Note, Sampled


@dataclass(frozen=True)
class GenerateOptions:
    """n sequences of `length` tokens (default: the trained length), or n for each of the prompts they begin with.

    A length beyond `block` (default: the trained length) is drawn block by block: each sees the last block − stride
    tokens and adds `stride` (default: half a block). `first` numbers the first sequence: a sequence depends on (seed,
    its number) and its prompt alone. Samples of one number begin with the same noise, whatever the prompt.
    """

    n: int = 1
    length: int | None = None
    prompts: tuple[str, ...] = ()
    block: int | None = None
    stride: int | None = None
    seed: int = 0
    first: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        Job(between("", ""), self.n, self.seed)  # which says what is wrong with them
        if self.length is not None and self.length < 1:
            raise RequestError(f"length must be at least 1, found {self.length}")
        if self.block is not None and self.block < 1:
            raise RequestError(f"block must be at least 1, found {self.block}")


def generate(model: LoadedModel, options: GenerateOptions, watch: bool = False) -> Iterator[Event]:
    """Yield Progress while denoising, Sampled for every finished sequence."""
    length = model.length if options.length is None else options.length
    block = model.length if options.block is None else options.block
    if block > model.length:
        raise RequestError(f"a block of {block} tokens is longer than the model's {model.length}")
    stride = max(1, block // 2) if options.stride is None else options.stride
    if length > block and not 1 <= stride < block:
        raise RequestError(f"stride must lie between 1 and {block - 1}, so that a block of {block} sees what is there")
    for option, value in (("block", options.block), ("stride", options.stride)):
        if length <= block and value is not None:
            raise RequestError(f"{option} {value} means nothing with a length of {length}: one block holds it")
    prompts: tuple[str | None, ...] = options.prompts or (None,)
    jobs = [
        Job(between(p or "", ""), options.n, options.seed, min(length, block), None, options.first, {"prompt": p})
        for p in prompts
    ]
    if length <= block:
        for event in infill(model, jobs, options.sampling, watch=watch, noun="samples"):
            yield _sampled(event) if isinstance(event, Filled) else event
        return
    for job in jobs:  # all of them before anything is drawn
        try:
            plan_job(model, job)
        except RequestError as error:
            raise RequestError(f"the first block, of {block} tokens: {error}") from None
    yield Note(f"{length} tokens in blocks of {block}, each of which sees {block - stride} before it and adds {stride}")
    size = options.sampling.batch or batch_for(model, block)
    for job in jobs:
        for start in range(0, job.n, size):
            portion = dataclasses.replace(job, n=min(size, job.n - start), first=job.first + start)
            yield from _long(model, portion, options.sampling, _Blocks(length, block, stride), watch)


@dataclass(frozen=True)
class _Blocks:
    length: int
    block: int
    stride: int


def _long(model: LoadedModel, job: Job, sampling: Sampling, blocks: _Blocks, watch: bool) -> Iterator[Event]:
    """Sequences beyond a block: the first as the job asks, then block after block, each of which sees the tail."""
    way, number, begun = sampling.resolve(model), 0, []
    for event in infill(model, [job], sampling, watch=watch, noun="samples"):
        if isinstance(event, Filled):
            begun.append(event)
        else:
            yield event
    while (there := len(begun[0].tokens)) < blocks.length:
        number += 1
        new = min(blocks.stride, blocks.length - there)
        seen = blocks.block - new
        rows = [
            Row(
                (*one.tokens[there - seen :], *[None] * new),
                derived(one.seed, "block", number),
                one.index,
                there - seen,
            )
            for one in begun
        ]
        for event in denoise(model, way, rows, "samples", watch):
            if isinstance(event, DenoisedRow):
                one = begun[event.place]
                begun[event.place] = dataclasses.replace(
                    one,
                    tokens=one.tokens + event.tokens[seen:],
                    nfe=one.nfe + event.nfe,
                    seconds=one.seconds + event.seconds,
                )
            else:
                yield event
        yield Note(f"{there + new:,} of {blocks.length:,} tokens")
    for one in begun:
        reading = lay_out(job.template, [], model.tokenizer, not one.plain_edges, blocks.length).read(one.tokens)
        text, given = (reading.text, reading.given) if reading else (None, [])
        yield _sampled(dataclasses.replace(one, text=text, given=given))


def _sampled(filled: Filled) -> Sampled:
    """What a sample says of itself: without what only templates have."""
    own = {f.name: getattr(filled, f.name) for f in dataclasses.fields(Sampled)}
    return Sampled(**own | {"prompt": filled.job["prompt"]})


def generate_all(model: LoadedModel, options: GenerateOptions) -> list[Sampled]:
    """All samples at once, prompt after prompt in the order of their numbers, for a notebook."""
    return in_order(options, (event for event in generate(model, options) if isinstance(event, Sampled)))


def in_order(options: GenerateOptions, samples: Iterable[Sampled]) -> list[Sampled]:
    """Samples, which come as they finish, prompt after prompt in the order of their numbers."""
    prompts = options.prompts or (None,)
    return sorted(samples, key=lambda one: (prompts.index(one.prompt), one.index))


def as_json(sample: Sampled) -> dict[str, Any]:
    """A sample as `--json` and `samples/*.jsonl` hold it."""
    return dataclasses.asdict(sample)
