"""Sampling and infilling: the reverse process from a prompt to text."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from sedd_cli.core.conditioning import Given
from sedd_cli.core.samplers import SAMPLERS, Sampler
from sedd_cli.errors import RequestError
from sedd_cli.recipe.build import build, nearest
from sedd_cli.runs.events import Event, Progress, Sampled, Warn
from sedd_cli.runs.model import Model
from sedd_cli.text.tokenizers import Tokenizer

#: Tokens denoised together; the vocabulary pass is bounded separately.
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class GenerateOptions:
    """n sequences of `length` tokens (default: the trained length), beginning with `prefix`, ending with `suffix`.

    steps and sampler default to the recipe's, else 128 Tweedie steps. normalized: the law of the absorbing model with
    its normaliser set to 1, under which steps without an event cost nothing. thinning: false looks at every position
    in every step, whatever the recipe says. `first` numbers the first sequence: a
    sequence depends on (seed, its number) alone.
    """

    n: int = 1
    length: int | None = None
    prefix: str = ""
    suffix: str = ""
    steps: int | None = None
    sampler: str | None = None
    normalized: bool = False
    thinning: bool = True
    seed: int = 0
    first: int = 0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise RequestError(f"n must be at least 1, found {self.n}")
        if self.steps is not None and self.steps < 1:
            raise RequestError(f"steps must be at least 1, found {self.steps}")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")


def generate(model: Model, options: GenerateOptions) -> Iterator[Event]:
    """Yield Progress while denoising, Sampled for every finished sequence."""
    length = model.length if options.length is None else options.length
    if not 1 <= length <= model.length:
        raise RequestError(f"length must lie between 1 and the model's {model.length}, found {length}")
    prefix, suffix = (
        prompt_tokens(model.text_tokenizer(), text) if text else [] for text in (options.prefix, options.suffix)
    )
    if len(prefix) + len(suffix) >= length:
        raise RequestError(
            f"the prompts take {len(prefix) + len(suffix)} tokens of a length of {length}: nothing is left to fill; "
            f"raise --length (the model allows {model.length}) or shorten them"
        )
    for text, ids in ((options.prefix, prefix), (options.suffix, suffix)):
        if text and (read := model.text_tokenizer().decode(ids)) != text:
            yield Warn(f"the tokenizer cannot reproduce the prompt {text!r} exactly, it reads {read!r}")
    sampler = make_sampler(model, options)
    positions = [*range(len(prefix)), *range(length - len(suffix), length)]
    size = max(1, TOKENS_AT_ONCE // length)
    for start in range(0, options.n, size):
        index = torch.arange(start, min(start + size, options.n), device=model.device) + options.first
        given = Given.at(positions, prefix + suffix, len(index), length, model.device)
        yield from _denoise(model, sampler, given, options, index, start)


def _denoise(model: Model, sampler, given: Given, options: GenerateOptions, index: torch.Tensor, start: int):
    began, score = time.perf_counter(), dataclasses.replace(model.score, normalized=options.normalized)
    task = f"samples {start + 1} to {start + len(index)} of {options.n}" if options.n > 1 else "sample"
    with torch.no_grad():
        for now in sampler.run(score, given, options.seed, index):
            figures = {"evaluations": f"{int(now.evaluations.max()):,}"}
            yield Progress(task, now.step, now.steps, "steps", figures)
    x = now.x
    if now.fallbacks:
        yield Warn(
            f"{task}: scores far from normalised, so that in {now.fallbacks} steps every position was looked at; "
            "--no-thinning looks everywhere from the start"
        )
    if not bool((x == given(x)).all() and (x < model.graph.tokens).all()):
        raise AssertionError("a given token was lost or a mask survived")
    seconds = (time.perf_counter() - began) / len(index)
    for number, row, evaluations in zip(index.tolist(), x.tolist(), now.evaluations.tolist(), strict=True):
        text = model.tokenizer.decode(row) if model.tokenizer else None
        yield Sampled(number, text, row, evaluations, seconds, _spans(text, options))


def _spans(text: str | None, options: GenerateOptions) -> list[tuple[int, int]]:
    """Where the prompts stand in the text, in characters."""
    if text is None:
        return []
    spans = []
    if options.prefix and text.startswith(options.prefix):
        spans.append((0, len(options.prefix)))
    if options.suffix and text.endswith(options.suffix):
        spans.append((len(text) - len(options.suffix), len(text)))
    return spans


def prompt_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a prompt; RequestError names the characters that the vocabulary cannot express."""
    if not text:
        return []
    ids = list(map(int, tokenizer.encode(text)))
    if tokenizer.unknown is not None and tokenizer.unknown in ids:
        strange = sorted({c for c in text if tokenizer.unknown in tokenizer.encode(c)})
        raise RequestError(f"the tokenizer {tokenizer.spec} cannot represent {', '.join(map(repr, strange))}")
    return ids


def make_sampler(model: Model, options: GenerateOptions) -> Sampler:
    """The sampler that the options name, else the recipe's; RequestError where the model's graph has no use for it."""
    part = model.recipe.sampler if model.recipe else None
    name = options.sampler or (part.name if part else "tweedie")
    if name not in SAMPLERS:
        raise RequestError(f"unknown sampler {name!r}{nearest(name, SAMPLERS)}")
    kept = dict(part.options) if part and part.name == name else {}
    if not options.thinning:
        kept["thinning"] = False
    if options.steps is not None:
        if not SAMPLERS[name].stepped:
            raise RequestError(f"--steps means nothing with the sampler {name}: it takes one step a token")
        kept["steps"] = options.steps
    if model.graph.mask is None and (options.normalized or name == "first_hitting"):
        asked = "--normalized" if options.normalized else f"the sampler {name}"
        raise RequestError(f"{asked} means nothing with the graph {model.graph.name!r}, it needs one with MASK")
    return build(SAMPLERS[name], kept, "sampler")


def generate_all(model: Model, options: GenerateOptions) -> list[Sampled]:
    """All samples at once, for a notebook."""
    return [event for event in generate(model, options) if isinstance(event, Sampled)]


def as_json(sample: Sampled) -> dict:
    """A sample as `--json` and `samples/*.jsonl` hold it."""
    return dataclasses.asdict(sample)
