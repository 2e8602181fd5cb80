"""`load_model` and `Model`, the facade for use from Python: likelihood bounds, sampling, infilling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError, displayed, shortened
from sedd_cli.inference.batch.lines import Defaults, record_job
from sedd_cli.inference.bound import bound_of
from sedd_cli.inference.fitting import check_protocol
from sedd_cli.inference.generate import GenerateOptions, generate_all
from sedd_cli.inference.infill import infill_all
from sedd_cli.inference.layout import prompt_tokens, round_trip_warning
from sedd_cli.inference.plan import Job
from sedd_cli.inference.sampling import check_first, split_options
from sedd_cli.inference.template import gap_between, parse_template
from sedd_cli.recipe.options import hints_of
from sedd_cli.system.events import Filled, Sampled, warn_caller
from sedd_cli.system.software import called, made_by

S = TypeVar("S", bound=Sampled)


def load_model(
    source: str | Path,
    device: str = "auto",
    precision: str = "fp32",
    tokenizer: str | None = None,
    mask_token: str | None = None,
) -> Model:
    """Load a model.

    Args:
        source: a run directory, one of its checkpoints, a folder in the published layout, a training directory of the
            published code (or a checkpoint file in it), a model of another project in its own layout, or a hub id.
        device: cpu, cuda, … or auto.
        precision: fp32, tf32, bf16 or auto (bf16 where the device computes it natively); from the head's outputs on,
            everything is float32 or better.
        tokenizer: overrides or supplies the tokenizer, by name or file.
        mask_token: MASK by its id or token, for a model of another project whose files do not name it.

    Raises:
        RequestError: the source is no model.
        DamageError: the model is damaged.
    """
    loaded = open_model(source, device, precision, tokenizer, mask_token)
    return Model(**{f.name: getattr(loaded, f.name) for f in fields(LoadedModel)})


@dataclass(repr=False)
class Model(LoadedModel):
    """A loaded model with methods that bound likelihoods, sample and infill; made by `load_model`."""

    def bound(
        self,
        tokens: Tensor | str | Sequence[str],
        draws: int = 64,
        seed: int = 0,
        protocol: str = "rigorous",
        first: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """An upper bound on −log p of each sequence of tokens [B, L], nats [B], with its standard error [B].

        Sequences are numbered from `first`; the draws of each depend on the seed and on its number, so that the errors
        of several are independent, and one that is bounded alone needs its number to give the same value.

        A text, or several of them, which need not be equally long, may stand in the place of tokens. For an
        autoregressive model −log p itself, with an error of 0. An infinite bound has the error 0, too.
        """
        if not isinstance(tokens, Tensor):
            texts = list(tokens) if isinstance(tokens, Iterable) and not isinstance(tokens, str) else [tokens]
            if wrong := [text for text in texts if not isinstance(text, str)]:
                raise RequestError(f"bound takes a text, several of them, or tokens; found {shortened(repr(wrong[0]))}")
            each = [self.bound(self._encoded(text), draws, seed, protocol, n) for n, text in enumerate(texts, first)]
            if not each:
                raise RequestError("bound needs a text")
            return torch.cat([nats for nats, _ in each]), torch.cat([error for _, error in each])
        x0 = self._tokens(tokens, self.graph.vocab_size)
        check_protocol(protocol, self)
        if draws < 1:
            raise RequestError(f"draws must be at least 1, found {draws}")
        if not 0 <= seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {seed}")
        check_first(first, len(x0))
        if not x0.numel():
            raise RequestError(f"bound needs a sequence of at least one token, found {list(x0.shape)}")
        if x0.shape[1] > self.length:
            raise RequestError(f"sequences of {x0.shape[1]} tokens are longer than the model's {self.length}")
        if self.exact:
            nats = self.nats(x0)
            return nats, torch.zeros_like(nats)
        return bound_of(self.score, x0, draws, seed, protocol, first)

    @called("Model.sample")
    def sample(self, n: int = 1, length: int | None = None, **options: Any) -> list[Sampled]:
        """n samples.

        options: prompt (a text, or several), block, stride, chat, seed, first (`inference.generate.GenerateOptions`),
        and the fields of `sedd_cli.inference.sampling.Sampling` (steps, sampler, temperature, …). A sampler is a name
        or an object, such as Euler(steps=8).
        """
        if isinstance(options.get("prompts"), str):
            raise RequestError("prompts: expected a list of texts; a single text is prompt=…")
        given = {"n": n, "length": length, **options}
        sampling, others = split_options("sample", given, hints_of(GenerateOptions, "sampling"))
        for key in ("prompts", "chat"):
            if key in others and not others[key]:
                raise RequestError(f"{key} is an empty list: leave it out for samples without given text")
        return self._stamped(generate_all(self, GenerateOptions(**others, sampling=sampling)))

    @overload
    def infill(
        self,
        template: str | Mapping[str, Any] | None = None,
        n: int = 1,
        *,
        prefix: str = "",
        suffix: str = "",
        **options: Any,
    ) -> list[Filled]: ...

    @overload
    def infill(self, template: Sequence[str | Mapping[str, Any]], n: int = 1, **options: Any) -> list[list[Filled]]: ...

    @called("Model.infill")
    def infill(
        self,
        template: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None,
        n: int = 1,
        *,
        prefix: str = "",
        suffix: str = "",
        **options: Any,
    ) -> list[Filled] | list[list[Filled]]:
        """n fillings of a template such as "The [MASK:8] sat on [MASK:2-5].", or of the gap between two texts.

        Of a list of templates: a list of n fillings for each. A dictionary stands for a template as a line of
        `sedd infill --input` does: template, or prefix and suffix, with n, seed, length, candidates, id. Given text is
        kept unchanged. options: length, seed, candidates (of which the best is kept), first (the number of the first
        filling, which with the seed fixes its draws), and the fields of `sedd_cli.inference.sampling.Sampling`.
        RequestError where the template or the lengths are wrong.
        """
        given = {"n": n, "prefix": prefix, "suffix": suffix, **options}
        known = hints_of(Job, "template", "facts") | {"prefix": str, "suffix": str}
        sampling, others = split_options("infill", given, known, ("template",))
        prefix, suffix = others.pop("prefix"), others.pop("suffix")
        if (template is None) == (prefix + suffix == ""):
            raise RequestError("infill takes either a template, or prefix, suffix or both")
        if template is None:
            if others.get("length") is None:
                others["length"] = self.length
            return self._stamped(infill_all(self, Job(gap_between(prefix, suffix), **others), sampling))
        several = [template] if isinstance(template, str | Mapping) else template
        if not isinstance(several, Iterable):
            raise RequestError(f"infill takes a template, a dictionary or a list of them, found {displayed(several)}")
        jobs = [self._job(one, number, others) for number, one in enumerate(several, 1)]
        found = [self._stamped(infill_all(self, job, sampling)) for job in jobs]
        return found if several is template else found[0]

    def _job(self, one: object, number: int, options: dict[str, Any]) -> Job:
        """The job of a template, or of a dictionary as a line of JSON; options: `Job`'s fields that it does not set."""
        if isinstance(one, str):
            return Job(parse_template(one), **options)
        if not isinstance(one, Mapping):
            raise RequestError(f"infill takes templates and dictionaries, found {displayed(one)}")
        left = {key: value for key, value in options.items() if key != "first" and (key, value) != ("length", None)}
        try:
            line = record_job(dict(one), number, Defaults(**({"length": self.length} | left)))
        except RequestError as error:
            raise RequestError(f"job {number}: {error}") from None
        if line.warning:
            warn_caller(f"job {number}: {line.warning}")
        facts = {"id": line.id, "line": number, "extra": line.extra}
        assert line.job is not None
        length = left.get("length") if line.job.length is None else line.job.length
        return replace(line.job, length=length, first=options.get("first", 0), facts=facts)

    def _stamped(self, samples: list[S]) -> list[S]:
        """The samples with the model and what made them, for their `to_dict`."""
        provenance = {**self.identity, "made_by": made_by()}
        return [replace(one, provenance=provenance) for one in samples]

    def _encoded(self, text: str) -> Tensor:
        """The tokens [1, L] of a text."""
        tokenizer = self.text_tokenizer()
        tokens = prompt_tokens(tokenizer, text)
        if not tokens:
            raise RequestError("an empty text has no bound")
        if warning := round_trip_warning(tokenizer, text):
            warn_caller(warning)
        return torch.tensor([tokens])
