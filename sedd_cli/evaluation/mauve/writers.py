"""Complete prompts: by a model of ours, or by a causal model of `transformers`."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.continuation import continue_prompts
from sedd_cli.inference.denoise import DenoisedRow, SequenceRequest, denoise
from sedd_cli.inference.sampling import Sampling
from sedd_cli.recipe.outside import code_of
from sedd_cli.system.events import Event, Progress

#: The default nucleus of a left-to-right model, as in the paper.
TOP_P = 0.95


class Denoiser:
    """Completes prompts by a model of ours: by the reverse process, or left to right if it is autoregressive."""

    def __init__(self, model: LoadedModel, options: MauveOptions):
        if model.exact and options.mode == "infill":
            raise RequestError(f"a left-to-right model cannot infill: {model.source} takes --mode standard alone")
        if options.length > model.length:
            raise RequestError(
                f"{options.prompt} + {options.new} tokens are longer than the model's {model.length}: "
                "lower --prompt or --new"
            )
        self.model, self.options, self.tokenizer = model, options, model.text_tokenizer()
        top_p = TOP_P if model.exact and options.top_p is None else options.top_p
        self.resolved = Sampling(
            options.steps, options.sampler, options.normalized, temperature=options.temperature, top_p=top_p
        ).resolve(model)
        self.encode, self.decode = self.tokenizer.encode_batch, self.tokenizer.decode
        self.unknown = self.tokenizer.unknown
        self.tokenizer_fingerprint, self.vocab_size = self.tokenizer.fingerprint, model.graph.vocab_size
        self.ids = self.tokenizer.ids
        self.precision = model.precision
        self.draws = self.resolved.facts["draws"]
        self.sampler_facts = {
            "name": self.resolved.sampler.name,
            **dataclasses.asdict(self.resolved.sampler),
            "normalized": options.normalized,
            **code_of(type(self.resolved.sampler)),
        }

    def identity(self) -> list[Any]:
        """What identifies the model in the cache of generations."""
        return [self.model.fingerprint]

    def write(self, rows: Tensor, numbers: Tensor) -> Generator[Event, None, tuple[Tensor, Tensor]]:
        """Generate what is not given of rows [B, L]; returns texts [B, L] and network evaluations [B]."""
        known = self.options.where.tolist()
        asked = [
            SequenceRequest(
                tuple(t if given else None for t, given in zip(row, known, strict=True)), self.options.seed, number
            )
            for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)
        ]
        texts, evaluations = rows.clone(), torch.zeros_like(numbers)
        for event in denoise(self.model, self.resolved, asked, "generating"):
            if isinstance(event, DenoisedRow):
                texts[event.place], evaluations[event.place] = torch.tensor(event.tokens), event.nfe
            elif isinstance(event, Progress):
                step = {"step": event.metrics.get("step", f"{event.done} of {event.total}")}
                yield Progress("generating", int(numbers[0]), self.options.total, "texts", step)
            else:
                yield event
        return texts, evaluations


class Continuer:
    """Continues prompts by a causal model of `transformers`."""

    def __init__(self, model: CausalModel, options: MauveOptions):
        if options.mode == "infill":
            raise RequestError(f"a left-to-right model cannot infill: {model.source} takes --mode standard alone")
        if options.steps is not None or options.sampler is not None or options.normalized:
            raise RequestError(
                f"--steps, --sampler and --normalized mean nothing with the causal model {model.source}: "
                "it draws one token after another (--top-p, --temperature)"
            )
        if options.length > model.context:
            raise RequestError(
                f"{options.prompt} + {options.new} tokens are longer than the model's {model.context}: "
                "lower --prompt or --new"
            )
        self.model, self.options = model, options
        self.top_p = TOP_P if options.top_p is None else options.top_p
        self.temperature = 1.0 if options.temperature is None else options.temperature
        self.encode, self.decode, self.unknown = model.encode, model.decode, None
        self.tokenizer_fingerprint, self.vocab_size, self.ids = None, model.vocab_size, model.ids
        self.precision = model.precision
        self.draws = "float64"
        self.sampler_facts = {"name": "nucleus", "top_p": self.top_p, "temperature": self.temperature}

    def identity(self) -> list[Any]:
        """What identifies the model in the cache of generations."""
        return [self.model.fingerprint, self.model.ends]

    def write(self, rows: Tensor, numbers: Tensor) -> Generator[Event, None, tuple[Tensor, Tensor]]:
        """Continue the first tokens of rows [B, L]; returns texts [B, L] and network evaluations [B]."""
        yield Progress("generating", int(numbers[0]), self.options.total, "texts")
        prompts, new = rows[:, : self.options.prompt], self.options.new
        made = continue_prompts(self.model, prompts, new, self.top_p, self.temperature, self.options.seed, numbers)
        return torch.cat([prompts, made.cpu()], 1), torch.full_like(numbers, new)


Writer = Denoiser | Continuer


def writer_for(model: LoadedModel | CausalModel, options: MauveOptions) -> Writer:
    """RequestError if the model cannot do what the options ask for."""
    return Continuer(model, options) if isinstance(model, CausalModel) else Denoiser(model, options)
