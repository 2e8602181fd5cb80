"""Any causal language model of `transformers`: likelihoods, features, and continuations with exact draws."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sedd_cli.core.categorical import inverse_cdf, nucleus
from sedd_cli.core.random import SAMPLER, Stream
from sedd_cli.core.score import ROW_BLOCK
from sedd_cli.errors import RequestError
from sedd_cli.system.digests import digest

#: Tokens that go through the trunk together; the vocabulary pass is bounded separately.
TOKENS_AT_ONCE = 8192
#: What configurations call the longest input.
CONTEXT_KEYS = ("n_positions", "max_position_embeddings", "seq_length", "max_seq_len")
#: GPT-2's vocabulary, which all its sizes share: model type and size, and a text in it. Other languages' models have
#: the same type and size with words of their own.
GPT2 = ("gpt2", 50257)
FOX = "The quick brown fox jumps over the lazy dog", [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290]
#: What a configuration says that does not change a number.
INCIDENTAL = ("_name_or_path", "transformers_version", "architectures")


@dataclass
class CausalModel:
    """A left-to-right language model. `tokenizer` is None where the folder has none: token ids work without."""

    #: Beside torch, what has a part in its numbers.
    libraries: ClassVar[tuple[str, ...]] = ("transformers",)

    net: Any
    tokenizer: Any
    source: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    @property
    def context(self) -> int:
        """The longest input in tokens."""
        for key in CONTEXT_KEYS:
            if isinstance(found := getattr(self._config, key, None), int):
                return found
        raise RequestError(f"{self.source}: its configuration names no longest input ({', '.join(CONTEXT_KEYS)})")

    @property
    def feature_context(self) -> int:
        """The longest text that is read to its end."""
        return self.context

    @property
    def ids(self) -> str | None:
        """What its token ids mean, where our tokenizers have a name for it."""
        return "gpt2" if self.gpt2 else None

    @property
    def vocab_size(self) -> int:
        """The number of logits, which may exceed the ids that the tokenizer knows."""
        return self._config.vocab_size

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the weights (of the precision in use) and the configuration."""
        told = {k: v for k, v in self.net.config.to_dict().items() if k not in INCIDENTAL}
        return digest([weights_fingerprint(self.net), json.loads(json.dumps(told, default=str))])

    @property
    def gpt2(self) -> bool:
        """Whether its ids are those of our tokenizer gpt2."""
        if (self._config.model_type, self.vocab_size) != GPT2:
            return False
        return self.tokenizer is None or self.encode([FOX[0]])[0] == FOX[1]

    @property
    def precision(self) -> str:
        """What the network computes in."""
        return "bf16" if next(self.net.parameters()).dtype == torch.bfloat16 else "fp32"

    @property
    def start(self) -> int:
        """The id a sequence is preceded by: begin-of-text, else end-of-text; RequestError if the model has neither."""
        for name in ("bos_token_id", "eos_token_id"):
            if found := self._special(name):
                return found[0]
        raise RequestError(f"{self.source} has neither a begin-of-text nor an end-of-text token to start from")

    @property
    def ends(self) -> list[int]:
        """The ids that end a text, maybe none."""
        return self._special("eos_token_id")

    def describe(self) -> str:
        """One line: what was loaded."""
        parameters, dtype = sum(p.numel() for p in self.net.parameters()), next(self.net.parameters()).dtype
        return (
            f"{self.source}: causal, {self._config.model_type}, {parameters:,} parameters, context {self.context}, "
            f"{str(dtype).removeprefix('torch.')}"
        )

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, no special ones added; RequestError without a tokenizer."""
        if not texts:
            return []
        return self._text_tokenizer()(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        """The text of ids; RequestError without a tokenizer."""
        return self._text_tokenizer().decode(ids, clean_up_tokenization_spaces=False)

    def nats(self, tokens: Tensor) -> Tensor:
        """−log p(tokens | start) of each row [B, L] → [B] float64: every token is predicted, the first from `start`.

        RequestError for rows longer than the context, and for ids outside the vocabulary.
        """
        tokens = self._checked(tokens)
        first = torch.full_like(tokens[:, :1], self.start)
        return self._nats(torch.cat([first, tokens[:, :-1]], 1), tokens)

    def nats_given_first(self, tokens: Tensor) -> Tensor:
        """−log p(tokens[1:] | tokens[0]) of each row [B, L] → [B] float64: L − 1 predictions.

        The usual convention of generative perplexity. Errors as `nats`.
        """
        tokens = self._checked(tokens)
        return self._nats(tokens[:, :-1], tokens[:, 1:])

    @torch.no_grad()
    def features(self, rows: list[list[int]], at_once: int) -> np.ndarray:
        """The last hidden state at the last token of each row, [n, D] float32, `at_once` rows a forward pass.

        As mauve-text takes it (`mauve.utils.featurize_tokens_from_model`: zeros on the right, masked; of
        `hidden_states[-1]`, which is the base model's output, position length − 1). RequestError for an empty row.
        """
        if not all(rows):
            raise RequestError(
                f"{sum(not row for row in rows)} of {len(rows)} texts have no token to take a feature of"
            )
        found = []
        for group in (rows[i : i + at_once] for i in range(0, len(rows), at_once)):
            lengths = torch.tensor([len(row) for row in group], device=self.device)
            ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in group], batch_first=True)
            ids = self._checked(ids.to(self.device))
            there = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
            hidden = self._last_hidden(ids, there.long())
            found.append(hidden[torch.arange(len(group), device=self.device), lengths - 1].float().cpu().numpy())
        return np.concatenate(found) if found else np.empty((0, self._config.hidden_size), np.float32)

    @torch.no_grad()
    def continue_(
        self, prompts: Tensor, new: int, top_p: float, temperature: float, seed: int, numbers: Tensor,
        ends: bool = False,
    ) -> Tensor:  # fmt: skip
        """`new` tokens behind each of prompts [B, P], int64 [B, new], left to right.

        Every token is drawn exactly (float64) from the nucleus top_p (Holtzman et al. 2020) of softmax(logits /
        temperature). End-of-text is never drawn, its mass is removed beforehand, unless with `ends` it is a token like
        any other, behind which the text goes on. Every continuation has `new` tokens.
        `numbers` [B] number the continuations: one depends on (seed, its number) and its prompt alone, the rounding of
        the logits aside. Without a prompt (P = 0) the text begins behind `start`.
        """
        if not 0 < top_p <= 1:
            raise RequestError(f"top-p must lie in (0, 1], found {top_p}")
        if not temperature > 0:
            raise RequestError(f"temperature must be positive, found {temperature}")
        x = self._checked(prompts)
        if x.shape[1] == 0:
            x = torch.full((len(x), 1), self.start, device=self.device)
        if x.shape[1] + new - 1 > self.context:
            raise RequestError(
                f"{x.shape[1]} given and {new} new tokens are more than {self.source}'s context of {self.context}"
            )
        stream, cache, made = Stream(seed, SAMPLER, numbers.to(self.device)), None, []
        for k in range(new):
            logits, cache = self._next_logits(x, cache)
            logits = logits.double() / temperature
            if not ends:
                logits[:, self.ends] = -torch.inf
            x = inverse_cdf(nucleus(logits.softmax(-1), top_p), stream.uniform(k))[:, None]
            made.append(x)
        return torch.cat(made, 1) if made else x.new_empty(len(x), 0)

    @property
    def _config(self) -> Any:
        return self.net.config.get_text_config()

    def _special(self, name: str) -> list[int]:
        """The ids of a special token by the tokenizer, else by the configuration, as far as they are ids at all."""
        for holder in (self.tokenizer, self._config):
            found = getattr(holder, name, None)
            ids = found if isinstance(found, list) else [found]
            if ids := [i for i in ids if i is not None and 0 <= i < self.vocab_size]:
                return ids
        return []

    def _text_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise RequestError(f"{self.source} has no tokenizer: put its tokenizer.json into the folder")
        return self.tokenizer

    def _checked(self, tokens: Tensor) -> Tensor:
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

    @torch.no_grad()
    def _nats(self, ids: Tensor, targets: Tensor) -> Tensor:
        """−Σ log p(targets[i] | ids[..i]) of each row, both [B, L]: log-softmax float32, its sum float64."""
        total = torch.zeros(len(ids), dtype=torch.float64, device=self.device)
        if not ids.numel():
            return total
        at_once = max(1, (TOKENS_AT_ONCE if self._headed else self._block) // ids.shape[1])
        for start in range(0, len(ids), at_once):
            rows, wanted = ids[start : start + at_once], targets[start : start + at_once]
            blocks = zip(self._logits(rows), wanted.reshape(-1).split(self._block), strict=True)
            nats = [F.cross_entropy(logits.float(), target, reduction="none").double() for logits, target in blocks]
            total[start : start + at_once] = torch.cat(nats).view(rows.shape).sum(1)
        return total

    def _logits(self, ids: Tensor) -> Iterator[Tensor]:
        """Logits [R, V] of ids [B, L] position after position, in blocks small enough to hold."""
        if self._headed:
            head, hidden = self.net.get_output_embeddings(), self._last_hidden(ids)
            return (head(block) for block in hidden.flatten(0, 1).split(self._block))
        return iter(self.net(input_ids=ids, use_cache=False).logits.flatten(0, 1).split(self._block))

    def _next_logits(self, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] behind ids [B, L], which stand behind those in the cache; and the cache that holds both."""
        if self._headed:
            found = self.net.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            return self.net.get_output_embeddings()(found.last_hidden_state[:, -1]), found.past_key_values
        found = self.net(input_ids=ids, past_key_values=cache, use_cache=True)
        return found.logits[:, -1], found.past_key_values

    def _last_hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, D]."""
        found = self.net.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        if hasattr(found, "last_hidden_state"):
            return found.last_hidden_state
        found = self.net(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        return found.hidden_states[-1]

    @property
    def _block(self) -> int:
        """Rows of logits held at once."""
        return max(1, ROW_BLOCK // self.vocab_size)

    @cached_property
    def _headed(self) -> bool:
        """Whether the logits are the output embedding of the base model's last hidden state, and nothing else.

        Some models cap or scale their logits behind it. Asked bit for bit, since a cap hardly moves a small logit.
        """
        base, head = self.net.base_model, self.net.get_output_embeddings()
        if base is self.net or head is None:
            return False
        with torch.no_grad():
            ids = torch.arange(min(4, self.context), device=self.device)[None] % self.vocab_size
            found = base(input_ids=ids, use_cache=False)
            return hasattr(found, "last_hidden_state") and torch.equal(
                head(found.last_hidden_state), self.net(input_ids=ids, use_cache=False).logits
            )


def weights_fingerprint(net: nn.Module) -> str:
    """sha256 over names, dtypes, shapes and bytes of a network's weights, in the order of its state_dict."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
