"""Sampling: sequences from nothing or from a prompt, in one piece or, beyond the model's length, block by block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sedd_cli.errors import RequestError
from sedd_cli.runs.denoise import Done, Row, denoise, derived
from sedd_cli.runs.events import Event, Filled, Note, Sampled
from sedd_cli.runs.infill import Job, infill
from sedd_cli.runs.layout import lay_out
from sedd_cli.runs.model import Model
from sedd_cli.runs.sampling import Sampling
from sedd_cli.text.template import between


@dataclass(frozen=True)
class GenerateOptions:
    """n sequences of `length` tokens (default: the trained length), or n for each of the prompts they begin with.

    A length beyond `block` (default: the trained length) is drawn block by block: each sees the last block − stride
    tokens and adds `stride` (default: half a block). `first` numbers the first sequence: a sequence depends on (seed,
    its number) and its prompt alone.
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


def generate(model: Model, options: GenerateOptions, watch: bool = False) -> Iterator[Event]:
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
    prompts = options.prompts or ("",)
    jobs = [
        Job(between(prompt, ""), options.n, options.seed, min(length, block), first=options.first, facts={"prompt": i})
        for i, prompt in enumerate(prompts)
    ]
    begun = infill(model, jobs, options.sampling, watch=watch, noun="samples")
    if length <= block:
        for event in begun:
            yield _sampled(event) if isinstance(event, Filled) else event
        return
    yield Note(f"{length} tokens in blocks of {block}, each of which sees {block - stride} before it and adds {stride}")
    first = []
    for event in begun:
        if isinstance(event, Filled):
            first.append(event)
        else:
            yield event
    yield from _extend(model, options, jobs, first, length, block, stride, watch)


def _extend(
    model: Model, options: GenerateOptions, jobs: list[Job], begun: list[Filled], length: int, block: int, stride: int,
    watch: bool,
) -> Iterator[Event]:  # fmt: skip
    """Add block after block to sequences that have their first; each sees the tail of what is there."""
    way, number = options.sampling.way(model), 0
    while len(begun[0].tokens) < length:
        number += 1
        new = min(stride, length - len(begun[0].tokens))
        rows = [
            Row(
                (*one.tokens[new - block :], *[None] * new),
                derived(one.seed, "block", number),
                one.index,
                len(one.tokens) + new - block,
            )
            for one in begun
        ]
        for event in denoise(model, way, rows, "samples", watch):
            if isinstance(event, Done):
                one = begun[event.place]
                begun[event.place] = dataclasses.replace(
                    one,
                    tokens=one.tokens + event.tokens[block - new :],
                    nfe=one.nfe + event.nfe,
                    seconds=one.seconds + event.seconds,
                )
            else:
                yield event
        yield Note(f"{len(begun[0].tokens):,} of {length:,} tokens")
    for one in begun:
        template = jobs[one.job["prompt"]].template
        reading = lay_out(template, [], model.tokenizer, not one.plain_edges, length).read(one.tokens)
        text, given = (reading.text, reading.given) if reading else (None, [])
        yield _sampled(dataclasses.replace(one, text=text, given=given))


def _sampled(filled: Filled) -> Sampled:
    """What a sample says of itself: without what only templates have."""
    return Sampled(**{f.name: getattr(filled, f.name) for f in dataclasses.fields(Sampled)})


def generate_all(model: Model, options: GenerateOptions) -> list[Sampled]:
    """All samples at once, for a notebook."""
    return [event for event in generate(model, options) if isinstance(event, Sampled)]


def as_json(sample: Sampled) -> dict[str, Any]:
    """A sample as `--json` and `samples/*.jsonl` hold it."""
    return dataclasses.asdict(sample)
