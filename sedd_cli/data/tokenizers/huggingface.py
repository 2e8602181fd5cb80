"""Any fast tokenizer of the Hugging Face hub, run by the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.data.tokenizers.base import FILE, Tokenizer
from sedd_cli.data.tokenizers.guard import check_size, checked, checked_file, loaded, named_end
from sedd_cli.errors import RequestError, WorkError, disk_full, displayed, first_line, listed
from sedd_cli.system.files import require_regular
from sedd_cli.system.from_pretrained import pretrained_qwen2_tokenizer, pretrained_tokenizer

_TIMEOUT = 20.0
#: Names of end-of-text tokens, for files that name none.
_ENDS = ("<|endoftext|>", "</s>", "<eos>", "[SEP]", "<|end_of_text|>")


class HuggingFaceTokenizer(Tokenizer):
    """A fast tokenizer by its hub name, its folder, a `tokenizer.json`, or a BERT `vocab.txt`.

    eos is the tokenizer's own end-of-text token, else its [SEP]. Decoding follows the tokenizer's own decoder;
    where it lower-cases or splits punctuation (BERT), the text does not come back unchanged.
    """

    kind = "huggingface"
    named = False
    restores_text = False

    def __init__(self, spec: str, engine_json: str, eos: int | None):
        from tokenizers import Tokenizer as Engine

        checked(engine_json, spec)
        self._engine = loaded(lambda: Engine.from_str(engine_json), spec)
        self._engine.no_truncation()
        self._engine.no_padding()
        # text that spells a special token is ordinary text
        self._engine.encode_special_tokens = True
        self._content = json.loads(engine_json)
        vocab = self._engine.get_vocab(with_added_tokens=True)
        if not vocab:
            raise RequestError(f"tokenizer {spec} has no tokens")
        size = max(vocab.values()) + 1
        if eos is not None and not (type(eos) is int and 0 <= eos < size):
            raise RequestError(
                f"tokenizer {spec}: its end-of-text token {displayed(eos)} is not among its {size:,} tokens"
            )
        super().__init__(spec, size, eos, unknown=_unknown(self._content["model"], vocab))

    @classmethod
    def load(cls, spec: str) -> HuggingFaceTokenizer:
        """Read a hub name, a folder or a file; RequestError where it cannot be loaded."""
        path = Path(spec)
        require_regular(path, "the tokenizer")
        if path.suffix == ".txt":
            return cls._from_bert_vocabulary(spec, path)
        if path.is_file():
            text = checked_file(path)
            end = named_end(path.parent) if path.name == FILE else None
            return cls.from_engine(spec, text, end)
        if (path / FILE).is_file():
            checked_file(path / FILE)
        found = loaded(lambda: _from_hub(spec), spec)
        if not found.is_fast:
            raise RequestError(f"tokenizer {spec!r} has no fast version (tokenizer.json); choose one that has")
        eos = found.eos_token_id if found.eos_token_id is not None else found.sep_token_id
        return cls(spec, loaded(found.backend_tokenizer.to_str, spec), eos)

    @classmethod
    def of_qwen2(cls, folder: Path) -> HuggingFaceTokenizer:
        """Read a folder with vocab.json and merges.txt of Qwen2; RequestError where it cannot be loaded."""
        spec = str(folder)
        found = loaded(lambda: pretrained_qwen2_tokenizer(spec), spec)
        return cls(spec, loaded(found.backend_tokenizer.to_str, spec), found.eos_token_id)

    @classmethod
    def _from_bert_vocabulary(cls, spec: str, path: Path) -> HuggingFaceTokenizer:
        from tokenizers import BertWordPieceTokenizer

        check_size(path)
        named = f"{spec}, read as a BERT vocabulary,"
        engine = loaded(lambda: BertWordPieceTokenizer(str(path), lowercase=True), named)
        return cls.from_engine(spec, engine.to_str(), None)

    @classmethod
    def from_bert_ids(cls, spec: str, ids: dict[str, int]) -> HuggingFaceTokenizer:
        """The lower-casing tokenizer of BERT with these ids by token; RequestError where they do not make one."""
        from tokenizers import BertWordPieceTokenizer

        engine = loaded(lambda: BertWordPieceTokenizer(ids, lowercase=True), spec)
        return cls.from_engine(spec, engine.to_str(), None)

    @classmethod
    def from_engine(cls, spec: str, text: str, end: str | None) -> HuggingFaceTokenizer:
        """The tokenizer of the content of a `tokenizer.json`; end: the token that ends a text, if it is known."""
        tokenizer = cls(spec, text, None)
        names = ([end] if end else []) + list(_ENDS)
        ends = (tokenizer._engine.token_to_id(token) for token in names)
        tokenizer.eos = next((i for i in ends if i is not None), None)
        return tokenizer

    def separated_by(self, token: str) -> HuggingFaceTokenizer:
        """This tokenizer with another token between documents; RequestError where it has no such token."""
        eos = self._engine.token_to_id(token)
        if eos is None:
            special = [t["content"] for t in self._content.get("added_tokens") or []]
            raise RequestError(
                f"tokenizer {self.spec} has no token {token!r}; special ones: {listed(special) or 'none'}"
            )
        return HuggingFaceTokenizer(self.spec, json.dumps(self._content, ensure_ascii=False), eos)

    def ids_by_token(self) -> dict[str, int]:
        """Ids by token."""
        return self._engine.get_vocab(with_added_tokens=True)

    def token(self, number: int) -> str:
        """The spelling of a token."""
        return self._engine.id_to_token(number) or ""

    @property
    def special(self) -> frozenset[int]:
        """The ids of special tokens, such as those between the turns of a chat."""
        return frozenset(t["id"] for t in self._content.get("added_tokens") or [] if t.get("special"))

    def encode_special(self, text: str) -> list[int]:
        """Ids of a text in which spelled special tokens are these tokens, as in a chat template."""
        self._engine.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self._engine.encode_special_tokens = True

    def unknown_parts(self, text: str) -> list[str]:
        found = self._engine.encode(text, add_special_tokens=False)
        return [text[a:b] for i, (a, b) in zip(found.ids, found.offsets, strict=True) if i == self.unknown]

    @property
    def bos(self) -> int | None:
        found = (self._engine.token_to_id(token) for token in ("<bos>", "<s>", "[CLS]"))
        return next((i for i in found if i is not None), self.eos)

    def encode_arrays(self, texts: Sequence[str]) -> list[np.ndarray]:
        return engine_ids(self._engine, texts)

    def decode_run(self, ids: np.ndarray) -> str:
        return self._engine.decode(ids.tolist(), skip_special_tokens=False)

    def state(self) -> dict[str, Any]:
        return {"engine": json.dumps(self._content, ensure_ascii=False), "eos": self.eos}

    def identity(self) -> dict[str, Any]:
        # The engine's file also holds padding, truncation and a post-processor, none of which is used here, and a
        # decoder, on which no id depends: two tokenizers that differ in it alone have one fingerprint.
        parts = ("normalizer", "pre_tokenizer", "model", "added_tokens")
        return {"eos": self.eos, **{part: self._content.get(part) for part in parts}}

    @classmethod
    def from_state(cls, spec: str, state: dict[str, Any]) -> HuggingFaceTokenizer:
        return cls(spec, state["engine"], state["eos"])


def _from_hub(spec: str) -> Any:
    """A tokenizer of the hub: the cached copy, else a download if the hub answers."""
    from huggingface_hub import HfApi

    try:
        return pretrained_tokenizer(spec, local_files_only=True)
    except RequestError:
        raise
    except (OSError, ValueError) as error:
        if Path(spec).exists():
            raise RequestError(f"tokenizer {spec!r} cannot be loaded: {first_line(error)}") from None
    try:
        # a quick request first: without network the download would retry for most of a minute
        HfApi().model_info(spec, timeout=_TIMEOUT)
        return pretrained_tokenizer(spec)
    except RequestError:
        raise
    except Exception as error:  # the hub's own, its HTTP client's, the system's: the remedy is the same
        if disk_full(error):
            raise WorkError(
                f"no space left for the tokenizer {spec}: set HF_HOME to a folder on a larger disk"
            ) from error
        raise RequestError(
            f"tokenizer {spec!r} could not be loaded: it is not cached, and https://huggingface.co/{spec} gave "
            f"{type(error).__name__}; give a local copy (a folder, a tokenizer.json, a BERT vocab.txt), or use one "
            "that needs no network: char, bpe:N, byte, text8"
        ) from error


def _unknown(model: dict[str, Any], vocab: dict[str, int]) -> int | None:
    """The id of what the vocabulary lacks: named by its token, or (Unigram) by its number."""
    name, number = model.get("unk_token"), model.get("unk_id")
    if isinstance(name, str):
        return vocab.get(name)
    return number if type(number) is int and 0 <= number < len(vocab) else None


def engine_ids(engine: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text from an engine of the `tokenizers` library, without offsets and without special tokens."""
    try:
        encodings = engine.encode_batch_fast(list(texts), add_special_tokens=False)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # errors and panics of the library
        raise WorkError(f"the tokenizer cannot encode a text: {first_line(error)}") from None
    return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
