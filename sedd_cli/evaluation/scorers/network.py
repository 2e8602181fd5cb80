"""Forward passes of a causal network of `transformers`, with the logits in blocks that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sedd_cli.core.score import ROW_BLOCK

#: Tokens of one forward pass of the trunk; the logits are computed in smaller blocks.
TOKENS_AT_ONCE = 8192


class CausalNetwork:
    """A causal network and its output embedding. context: the longest input in tokens."""

    def __init__(self, net: Any, vocab_size: int, context: int):
        self.net, self.vocab_size, self.context = net, vocab_size, context

    @torch.no_grad()
    def nats(self, ids: Tensor, targets: Tensor) -> Tensor:
        """−Σ log p(targets[i] | ids[..i]) of each row, both [B, L]: log-softmax in float32, its sum in float64."""
        total = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
        if not ids.numel():
            return total
        at_once = max(1, (TOKENS_AT_ONCE if self.headed else self._block) // ids.shape[1])
        for start in range(0, len(ids), at_once):
            rows, wanted = ids[start : start + at_once], targets[start : start + at_once]
            blocks = zip(self.logits(rows), wanted.reshape(-1).split(self._block), strict=True)
            nats = [F.cross_entropy(logits.float(), target, reduction="none").double() for logits, target in blocks]
            total[start : start + at_once] = torch.cat(nats).view(rows.shape).sum(1)
        return total

    def logits(self, ids: Tensor) -> Iterator[Tensor]:
        """Logits [R, V] of consecutive positions of ids [B, L], block by block."""
        if self.headed:
            head, hidden = self.net.get_output_embeddings(), self.last_hidden(ids)
            return (head(block) for block in hidden.flatten(0, 1).split(self._block))
        return iter(self.net(input_ids=ids, use_cache=False).logits.flatten(0, 1).split(self._block))

    def next_logits(self, ids: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] of the token after those in the key-value cache and ids [B, L]; and the extended cache."""
        if self.headed:
            found = self.net.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            return self.net.get_output_embeddings()(found.last_hidden_state[:, -1]), found.past_key_values
        found = self.net(input_ids=ids, past_key_values=cache, use_cache=True)
        return found.logits[:, -1], found.past_key_values

    def last_hidden(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last hidden states of ids [B, L], [B, L, D]. mask: 0 at padding, [B, L]."""
        found = self.net.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        if hasattr(found, "last_hidden_state"):
            return found.last_hidden_state
        found = self.net(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
        return found.hidden_states[-1]

    @cached_property
    def headed(self) -> bool:
        """Whether the logits are the output embedding of the base model's last hidden state, and nothing else.

        Some models cap or scale their logits afterwards. The comparison is bit for bit, since a cap hardly moves a
        small logit.
        """
        base, head = self.net.base_model, self.net.get_output_embeddings()
        if base is self.net or head is None:
            return False
        with torch.no_grad():
            ids = torch.arange(min(4, self.context), device=next(self.net.parameters()).device)[None] % self.vocab_size
            found = base(input_ids=ids, use_cache=False)
            return hasattr(found, "last_hidden_state") and torch.equal(
                head(found.last_hidden_state), self.net(input_ids=ids, use_cache=False).logits
            )

    @property
    def _block(self) -> int:
        """Rows of logits held at once."""
        return max(1, ROW_BLOCK // self.vocab_size)
