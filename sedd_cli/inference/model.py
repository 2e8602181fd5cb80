"""`load_model` and `Model`, the facade for use from Python: likelihood bounds, sampling, infilling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.inference.bound import bound_of
from sedd_cli.inference.fitting import check_protocol
from sedd_cli.inference.generate import GenerateOptions, generate_all
from sedd_cli.inference.infill import infill_all
from sedd_cli.inference.plan import Job
from sedd_cli.inference.sampling import split_options
from sedd_cli.inference.template import gap_between, parse_template
from sedd_cli.system.events import Filled, Sampled


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
        precision: fp32, bf16 or auto (bf16 where the device computes it natively); from the head's outputs on,
            everything is float32 or better.
        tokenizer: overrides or supplies the tokenizer, by name or file.
        mask_token: MASK by its id or token, for a model of another project that does not tell.

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
        self, tokens: Tensor | str | Sequence[str], draws: int = 64, seed: int = 0, protocol: str = "rigorous"
    ) -> tuple[Tensor, Tensor]:
        """An upper bound on −log p of each sequence of tokens [B, L], nats [B], with its standard error [B].

        A text, or several of them, which need not be equally long, may stand in the place of tokens. For an
        autoregressive model −log p itself, with an error of 0. An infinite bound has the error 0, too.
        """
        if not isinstance(tokens, Tensor):
            texts = [tokens] if isinstance(tokens, str) else list(tokens)
            each = [self.bound(self._encoded(text), draws, seed, protocol) for text in texts]
            if not each:
                raise RequestError("bound needs a text")
            return torch.cat([nats for nats, _ in each]), torch.cat([error for _, error in each])
        x0 = self._tokens(tokens, self.graph.vocab_size)
        check_protocol(protocol, self)
        if x0.shape[1] > self.length:
            raise RequestError(f"sequences of {x0.shape[1]} tokens are longer than the model's {self.length}")
        if self.exact:
            nats = self.nats(x0)
            return nats, torch.zeros_like(nats)
        return bound_of(self.score, x0, draws, seed, protocol)

    def sample(self, n: int = 1, length: int | None = None, **options: Any) -> list[Sampled]:
        """n samples.

        options: the other fields of `sedd_cli.inference.generate.GenerateOptions` (prompts, block, stride, seed) and
        those of `sedd_cli.inference.sampling.Sampling` (steps, sampler, temperature, …).
        """
        others = [f.name for f in fields(GenerateOptions) if f.name not in ("n", "length", "sampling")]
        sampling, others = split_options("sample", options, others)
        return generate_all(self, GenerateOptions(n, length, **others, sampling=sampling))

    @overload
    def infill(
        self, template: str | None = None, n: int = 1, *, prefix: str = "", suffix: str = "", **options: Any
    ) -> list[Filled]: ...

    @overload
    def infill(self, template: Sequence[str], n: int = 1, **options: Any) -> list[list[Filled]]: ...

    def infill(
        self,
        template: str | Sequence[str] | None = None,
        n: int = 1,
        *,
        prefix: str = "",
        suffix: str = "",
        **options: Any,
    ) -> list[Filled] | list[list[Filled]]:
        """n fillings of a template such as "The [MASK:8] sat on [MASK:2-5].", or of the gap between two texts.

        Of a list of templates: a list of n fillings for each. Given text is kept unchanged. options: length, seed,
        candidates (of which the best is kept), first (the number of the first filling, which with the seed fixes its
        draws), and the fields of `sedd_cli.inference.sampling.Sampling`. RequestError where the template or the lengths
        are wrong.
        """
        sampling, others = split_options("infill", options, ("length", "seed", "candidates", "first"))
        if (template is None) == (prefix + suffix == ""):
            raise RequestError("infill takes either a template, or prefix, suffix or both")
        if template is not None and not isinstance(template, str):
            jobs = [Job(parse_template(one), n, **others) for one in template]
            return [infill_all(self, job, sampling) for job in jobs]
        if template is None:
            others.setdefault("length", self.length)
        parsed = gap_between(prefix, suffix) if template is None else parse_template(template)
        return infill_all(self, Job(parsed, n, **others), sampling)

    def _encoded(self, text: str) -> Tensor:
        """The tokens [1, L] of a text."""
        tokens = self.text_tokenizer().encode(text)
        if not tokens:
            raise RequestError("an empty text has no bound")
        return torch.tensor([[int(token) for token in tokens]])
