"""Autoregressive references under the same evaluation: a causal language model of transformers with our tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from sedd_cli.data.tokenizers import Tokenizer, load_tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.pretrained import load_causal

#: Blocks of the published zero-shot protocol; models that read more are evaluated on these all the same.
LENGTH = 1024


@dataclass
class ExactModel:
    """What `evaluate` asks of a model, from one whose likelihood is exact. The first token of a block is predicted
    from begin-of-text alone."""

    exact: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    recipe: ClassVar[None] = None

    causal: CausalModel
    tokenizer: Tokenizer
    #: Where the tokenizer can be loaded from again.
    tokenizer_source: str
    facts: dict[str, Any] = field(default_factory=lambda: {"likelihood": "exact"})

    @property
    def source(self) -> str:
        """Where it was loaded from."""
        return self.causal.source

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.causal.device

    @property
    def length(self) -> int:
        """Tokens of a block; begin-of-text takes the place of the last one, which nothing is predicted from."""
        return min(self.causal.context, LENGTH)

    @property
    def vocab_size(self) -> int:
        """N, the number of tokens its texts are made of."""
        return self.tokenizer.vocab_size

    @property
    def kind(self) -> str:
        """The architecture's name, as transformers has it."""
        return self.causal.net.config.model_type

    @property
    def layers(self) -> int:
        """Blocks of the network."""
        return self.causal.net.config.get_text_config().num_hidden_layers

    @property
    def precision(self) -> str:
        """What the network computes in."""
        return self.causal.precision

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over weights and configuration."""
        return self.causal.fingerprint

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer its datasets are prepared with."""
        return self.tokenizer

    def nats(self, tokens: Tensor) -> Tensor:
        """−log p of each row [B, L] → [B]."""
        return self.causal.nats(tokens)

    def nats_given_first(self, tokens: Tensor) -> Tensor:
        """−log p(tokens[1:] | tokens[0]) of each row [B, L] → [B]."""
        return self.causal.nats_given_first(tokens)

    def describe(self) -> str:
        """One line: what was loaded."""
        return f"{self.causal.describe()}, {self.tokenizer.spec}"


def load_exact(source: str, device: str = "auto", precision: str = "fp32", tokenizer: str | None = None) -> ExactModel:
    """A causal language model and the tokenizer its datasets are prepared with (by name or file, else its own).

    Raises RequestError where either cannot be had or they do not fit.
    """
    causal = load_causal(source, device, precision)
    spec = tokenizer or ("gpt2" if causal.gpt2 else source)
    text = load_tokenizer(spec)
    if text.vocab_size > causal.vocab_size:
        raise RequestError(
            f"tokenizer {text.spec!r} has {text.vocab_size} tokens, {source} knows {causal.vocab_size}: "
            "name its own with --tokenizer"
        )
    return ExactModel(causal, text, spec)
