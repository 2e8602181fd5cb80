"""Any fast tokenizer of the Hugging Face hub, run by the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.data.tokenizers.base import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.system.from_pretrained import pretrained_tokenizer

_TIMEOUT = 20.0


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

        self._engine = Engine.from_str(engine_json)
        self._engine.no_truncation()
        self._engine.no_padding()
        # text that spells a special token is ordinary text
        self._engine.encode_special_tokens = True
        self._content = json.loads(engine_json)
        unknown = self._content["model"].get("unk_token")
        vocab = self._engine.get_vocab(with_added_tokens=True)
        super().__init__(spec, max(vocab.values()) + 1, eos, unknown=vocab.get(unknown) if unknown else None)

    @classmethod
    def load(cls, spec: str) -> HuggingFaceTokenizer:
        """Read a hub name, a folder or a file; RequestError where it cannot be loaded."""
        path = Path(spec)
        if path.suffix == ".txt":
            return cls._from_bert_vocabulary(spec, path)
        if path.is_file():
            from tokenizers import Tokenizer as Engine

            return cls._from_engine(spec, Engine.from_file(str(path)))
        loaded = _from_hub(spec)
        if not loaded.is_fast:
            raise RequestError(f"tokenizer {spec!r} has no fast version (tokenizer.json); choose one that has")
        eos = loaded.eos_token_id if loaded.eos_token_id is not None else loaded.sep_token_id
        return cls(spec, loaded.backend_tokenizer.to_str(), eos)

    @classmethod
    def _from_bert_vocabulary(cls, spec: str, path: Path) -> HuggingFaceTokenizer:
        from tokenizers import BertWordPieceTokenizer

        return cls._from_engine(spec, BertWordPieceTokenizer(str(path), lowercase=True))

    @classmethod
    def _from_engine(cls, spec: str, engine: Any) -> HuggingFaceTokenizer:
        ends = (engine.token_to_id(token) for token in ("<|endoftext|>", "</s>", "<eos>", "[SEP]"))
        return cls(spec, engine.to_str(), next((i for i in ends if i is not None), None))

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
        # The engine's file also holds padding, truncation and a post-processor, none of which is used here.
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
    except (OSError, ValueError):
        pass  # not cached
    try:
        # a quick request first: without network the download would retry for most of a minute
        HfApi().model_info(spec, timeout=_TIMEOUT)
        return pretrained_tokenizer(spec)
    except RequestError:
        raise
    except Exception as error:  # the hub's own, its HTTP client's, the system's: the remedy is the same
        raise RequestError(
            f"tokenizer {spec!r} could not be loaded: it is not cached, and https://huggingface.co/{spec} gave "
            f"{type(error).__name__}; give a local copy (a folder, a tokenizer.json, a BERT vocab.txt), or use one "
            "that needs no network: char, bpe:N, byte, text8"
        ) from error


def engine_ids(engine: Any, texts: Sequence[str]) -> list[np.ndarray]:
    """Ids of each text from an engine of the `tokenizers` library, without offsets and without special tokens."""
    encodings = engine.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
