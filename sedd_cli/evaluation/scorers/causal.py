"""A causal language model of `transformers`: exact likelihoods and features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.scorers.network import CausalNetwork
from sedd_cli.models.precision import precision_name
from sedd_cli.system.digests import digest

#: Block length of the published zero-shot protocol, also for models with a longer context.
LENGTH = 1024
#: Names under which configurations hold the context length.
CONTEXT_KEYS = ("n_positions", "max_position_embeddings", "seq_length", "max_seq_len")
#: GPT-2's vocabulary: model type, vocabulary size, and one encoded text. Models of other languages share the first two.
GPT2 = ("gpt2", 50257)
FOX = "The quick brown fox jumps over the lazy dog", [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290]
#: Configuration keys that change no number.
INCIDENTAL = ("_name_or_path", "transformers_version", "architectures")


@dataclass
class CausalModel:
    """A left-to-right language model of `transformers` (a `Scorer`, and a model that `evaluate` takes).

    pretrained_tokenizer: the one that comes with the model, None where its folder has none (token ids work without).
    tokenizer: ours for the same ids, with which datasets are prepared; tokenizer_source is where it was loaded from.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers",)
    exact: ClassVar[bool] = True
    recipe: ClassVar[None] = None

    net: Any
    pretrained_tokenizer: Any
    source: str
    tokenizer: Tokenizer | None = None
    tokenizer_source: str | None = None
    facts: dict[str, Any] = field(default_factory=lambda: {"likelihood": "exact"})

    @cached_property
    def network(self) -> CausalNetwork:
        """The forward passes of `net`."""
        return CausalNetwork(self.net, self.vocab_size, self.context)

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    @property
    def precision(self) -> str:
        """What the network computes in: fp32, tf32 or bf16."""
        return precision_name(next(self.net.parameters()).dtype == torch.bfloat16, self.device)

    @property
    def context(self) -> int:
        """The longest input in tokens."""
        for key in CONTEXT_KEYS:
            if isinstance(found := getattr(self._config, key, None), int):
                return found
        raise RequestError(f"{self.source}: its configuration has no context length ({', '.join(CONTEXT_KEYS)})")

    @property
    def feature_context(self) -> int:
        """The longest text that `features` takes, in tokens."""
        return self.context

    @property
    def length(self) -> int:
        """Tokens of an evaluated block; begin-of-text takes the place of the last token, which is only predicted."""
        return min(self.context, LENGTH)

    @property
    def vocab_size(self) -> int:
        """The number of logits, which may exceed the number of ids of the tokenizer."""
        return self._config.vocab_size

    @property
    def kind(self) -> str:
        """The architecture's name in transformers."""
        return self.net.config.model_type

    @property
    def layers(self) -> int:
        """Blocks of the network."""
        return self._config.num_hidden_layers

    @property
    def fingerprint(self) -> str:
        """sha256 over the weights (in the precision in use) and the configuration."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        config = {k: v for k, v in self.net.config.to_dict().items() if k not in INCIDENTAL}
        return digest([weights_fingerprint(self.net), json.loads(json.dumps(config, default=str))])

    @property
    def gpt2(self) -> bool:
        """Whether its ids are those of our tokenizer gpt2."""
        if (self._config.model_type, self.vocab_size) != GPT2:
            return False
        return self.pretrained_tokenizer is None or self.encode([FOX[0]])[0] == FOX[1]

    @property
    def ids(self) -> str | None:
        """The identity of its token ids, comparable with `Tokenizer.ids`; None where none of ours has the same ids."""
        return "gpt2" if self.gpt2 else None

    @property
    def start(self) -> int:
        """The id in front of every sequence: begin-of-text, else end-of-text; RequestError where there is neither."""
        for name in ("bos_token_id", "eos_token_id"):
            if found := self._special(name):
                return found[0]
        raise RequestError(f"{self.source} has neither a begin-of-text nor an end-of-text token to start from")

    @property
    def ends(self) -> list[int]:
        """The ids that end a text, possibly none."""
        return self._special("eos_token_id")

    def describe(self) -> str:
        """The model in one line."""
        parameters, dtype = sum(p.numel() for p in self.net.parameters()), next(self.net.parameters()).dtype
        return (
            f"{self.source}: causal, {self._config.model_type}, {parameters:,} parameters, context {self.context}, "
            f"{str(dtype).removeprefix('torch.')}" + (f", {self.tokenizer.spec}" if self.tokenizer else "")
        )

    def text_tokenizer(self) -> Tokenizer:
        """The tokenizer that datasets are prepared with; RequestError without one."""
        if self.tokenizer is None:
            raise RequestError(f"{self.source} was loaded without a tokenizer for datasets: name one with --tokenizer")
        return self.tokenizer

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text without special tokens; RequestError without a tokenizer."""
        if not texts:
            return []
        return self._own_tokenizer()(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """The text of ids; RequestError without a tokenizer."""
        return self._own_tokenizer().decode(ids, clean_up_tokenization_spaces=False)

    def nats(self, tokens: Tensor) -> Tensor:
        """−log p(tokens | start) of each row [B, L] → [B] float64; the first token is predicted from `start`.

        RequestError for rows longer than the context and for ids outside the vocabulary.
        """
        tokens = self.check_tokens(tokens)
        first = torch.full_like(tokens[:, :1], self.start)
        return self.network.nats(torch.cat([first, tokens[:, :-1]], 1), tokens)

    def nats_given_first(self, tokens: Tensor) -> Tensor:
        """−log p(tokens[1:] | tokens[0]) of each row [B, L] → [B] float64; errors as `nats`.

        L − 1 predictions, the usual convention of generative perplexity.
        """
        tokens = self.check_tokens(tokens)
        return self.network.nats(tokens[:, :-1], tokens[:, 1:])

    @torch.no_grad()
    def features(self, rows: list[list[int]], at_once: int) -> np.ndarray:
        """The last hidden state at the last token of each row, [n, D] float32, `at_once` rows a forward pass.

        As `mauve.utils.featurize_tokens_from_model` of mauve-text computes it (padded with masked zeros on the right).
        RequestError for an empty row.
        """
        check_rows(rows)
        found = []
        for ids, lengths in padded(rows, at_once, self.device):
            mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
            hidden = self.network.last_hidden(self.check_tokens(ids), mask.long())
            found.append(hidden[torch.arange(len(ids), device=self.device), lengths - 1].float().cpu().numpy())
        return np.concatenate(found) if found else np.empty((0, self._config.hidden_size), np.float32)

    def check_tokens(self, tokens: Tensor) -> Tensor:
        """tokens [B, L] on the model's device; RequestError for a wrong type, shape, length or id."""
        tokens = torch.as_tensor(tokens, device=self.device)
        if tokens.dim() != 2 or tokens.dtype != torch.int64:
            raise RequestError(f"tokens must be int64 [B, L], found {tokens.dtype} {list(tokens.shape)}")
        if tokens.shape[1] > self.context:
            raise RequestError(
                f"sequences of {tokens.shape[1]} tokens are longer than {self.source}'s context of {self.context}"
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise RequestError(
                f"token ids must lie in [0, {self.vocab_size}), found {int(tokens.min())} to {int(tokens.max())}"
            )
        return tokens

    @property
    def _config(self) -> Any:
        return self.net.config.get_text_config()

    def _special(self, name: str) -> list[int]:
        """The ids of a special token from the tokenizer, else from the configuration, if they lie in the vocabulary."""
        for holder in (self.pretrained_tokenizer, self._config):
            found = getattr(holder, name, None)
            ids = found if isinstance(found, list) else [found]
            if ids := [i for i in ids if i is not None and 0 <= i < self.vocab_size]:
                return ids
        return []

    def _own_tokenizer(self) -> Any:
        if self.pretrained_tokenizer is None:
            raise RequestError(f"{self.source} has no tokenizer: put its tokenizer.json into the folder")
        return self.pretrained_tokenizer


def check_rows(rows: list[list[int]]) -> None:
    """RequestError where a row has no token to take a feature of."""
    if not all(rows):
        raise RequestError(f"{sum(not row for row in rows)} of {len(rows)} texts have no token to take a feature of")


def padded(rows: list[list[int]], at_once: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of `at_once` rows, padded on the right with zeros [B, L], and their lengths [B]."""
    for group in (rows[i : i + at_once] for i in range(0, len(rows), at_once)):
        ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in group], batch_first=True)
        yield ids.to(device), torch.tensor([len(row) for row in group], device=device)


def weights_fingerprint(net: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of a network's weights, in the order of its state_dict."""
    found = hashlib.sha256()
    for name, value in net.state_dict().items():
        found.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
