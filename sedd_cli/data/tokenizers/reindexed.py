"""A tokenizer whose ids are the states of a model: MASK is taken out of them, spare rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sedd_cli.data.tokenizers.base import Tokenizer
from sedd_cli.errors import RequestError


class ReindexedTokenizer(Tokenizer):
    """A tokenizer for a model with `rows` token ids, of which `mask` is MASK.

    Ids beyond `mask` move down by one. Ids that the tokenizer does not have (spare rows of the model's matrices)
    decode to nothing.
    """

    kind = "reindexed"
    named = False

    def __init__(self, base: Tokenizer, rows: int, mask: int | None):
        self.base, self.rows, self.mask = base, rows, mask
        super().__init__(base.spec, rows - (mask is not None), self._state(base.eos), self._state(base.unknown))
        self.restores_text = base.restores_text
        self.separator = base.separator

    @property
    def bos(self) -> int | None:
        return self._state(self.base.bos)

    @property
    def without_text(self) -> int:
        """How many of the model's tokens are spare rows, which decode to nothing."""
        named = self.base.vocab_size - (self.mask is not None and self.mask < self.base.vocab_size)
        return self.vocab_size - named

    def separated_by(self, token: str) -> ReindexedTokenizer:
        changed = self.base.separated_by(token)
        if changed.eos == self.mask:
            raise RequestError(f"--eos {token!r} is the token that the model uses as MASK (id {self.mask})")
        return ReindexedTokenizer(changed, self.rows, self.mask)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._states(ids) for ids in self.base.encode_arrays(texts)]

    def decode_run(self, ids: np.ndarray) -> str:
        known = ids if self.mask is None else ids + (ids >= self.mask)
        return self.base.decode_run(known[known < self.base.vocab_size])

    def state(self) -> dict[str, Any]:
        base = {"kind": self.base.kind, "spec": self.base.spec, "state": self.base.state()}
        return {"base": base, "rows": self.rows, "mask": self.mask}

    def identity(self) -> dict[str, Any]:
        return {"base": self.base.fingerprint, "rows": self.rows, "mask": self.mask}

    @classmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> ReindexedTokenizer:
        """The tokenizer of a `state` whose `base` has been restored before."""
        return cls(state["base"], state["rows"], state["mask"])

    def states(self, ids: Sequence[int]) -> list[int]:
        """The model's states of ids of the tokenizer; RequestError for MASK."""
        return self._states(np.array(ids, dtype=np.int64)).tolist()

    def _states(self, ids: np.ndarray) -> np.ndarray:
        ids = ids.astype(np.uint32)
        if ids.size and int(ids.max()) >= self.rows:
            raise RequestError(f"{self.base.spec} gives token id {int(ids.max())}, the model has {self.rows:,} rows")
        if self.mask is None:
            return ids
        if (ids == self.mask).any():
            raise RequestError(f"this text holds the token that the model uses as MASK (id {self.mask})")
        return ids - (ids > self.mask).astype(np.uint32)

    def _state(self, id: int | None) -> int | None:
        if id is None or id == self.mask:
            return None
        return id - (self.mask is not None and id > self.mask)
