"""The piece of text that each token of a partly denoised sequence stands for."""

from __future__ import annotations

from sedd_cli.checkpoints.loaded_model import LoadedModel

#: The most tokens that one character may be split into.
_LONGEST = 4


class Pieces:
    """Maps rows of tokens to pieces of text; MASK and ids outside the vocabulary become None."""

    def __init__(self, model: LoadedModel):
        self.tokenizer, self.tokens = model.tokenizer, model.graph.vocab_size
        self._loose = self.tokenizer is not None and not self.tokenizer.keeps_spaces
        self._known: dict[tuple[int, ...], str] = {}

    def __call__(self, row: list[int]) -> list[str | None]:
        """The pieces of row [L]. A character of several tokens stands at the first; the others are empty."""
        found: list[str | None] = [None if token >= self.tokens else self._read((token,)) for token in row]
        if self._loose:
            # the text of a token depends on the one before it: some are preceded by a space
            return [p if p is None or not i else self._after(row[i - 1], row[i]) for i, p in enumerate(found)]
        for i, piece in enumerate(found):
            if piece is None or "\ufffd" not in piece:
                continue
            for stop in range(i + 2, min(i + _LONGEST, len(row)) + 1):
                if found[stop - 1] is None:
                    break
                whole = self._read(tuple(row[i:stop]))
                if "\ufffd" not in whole:
                    found[i:stop] = [whole, *[""] * (stop - i - 1)]
                    break
        return found

    def _after(self, before: int, token: int) -> str:
        """The piece of a token that follows another one; after MASK, as if it followed itself."""
        first = self._read((token if before >= self.tokens else before,))
        whole = self._read((token if before >= self.tokens else before, token))
        return whole[len(first) :] if whole.startswith(first) else self._read((token,))

    def _read(self, ids: tuple[int, ...]) -> str:
        if ids not in self._known:
            self._known[ids] = self.tokenizer.decode(ids) if self.tokenizer else f"{ids[0]} "
        return self._known[ids]
