"""Which id is MASK: named by the user, by the tokenizer files beside a model, or by the size of the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.formats.base import CONFIG, ModelFiles
from sedd_cli.data.corpora.local import as_path
from sedd_cli.errors import RequestError, displayed
from sedd_cli.system.documents import TOKENIZER_BYTES, read_json, read_text

TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
#: The vocabulary of BERT, a token a line, and the files of a byte-level BPE.
BERT_VOCABULARY, BPE_FILES = "vocab.txt", ("vocab.json", "merges.txt")
#: Numbers of so many digits are no ids.
MOST_DIGITS = 12
#: Vocabulary sizes of known tokenizers whose MASK is not the last id.
KNOWN_MASKS = {30522: 103}
#: Tokens that are MASK where no file names one: LLaDA's, whose Base has no mask_token, and dLLM's.
MASK_TOKENS = ("<|mdm_mask|>", "<|mask|>")
#: Vocabulary sizes by which a tokenizer is known: GPT-2's with one token more, and BERT's.
KNOWN_TOKENIZERS = {50257: "gpt2", 50258: "gpt2", 30522: "bert-base-uncased"}


def chosen_mask(mask: str | None, rows: int, ids: Mapping[str, int], source: str) -> int | None:
    """The id that the user names by number or, with the tokenizer's `ids` at hand, by token; None if none is named.

    Raises:
        RequestError: There is no such token, or the network has no such row.
    """
    if mask is None:
        return None
    number = mask.isascii() and mask.removeprefix("-").isdecimal()
    found = int(mask) if number and mask.isdecimal() and len(mask) < MOST_DIGITS else ids.get(mask)
    if found is None and not number:
        raise RequestError(f"--mask-token {displayed(mask)}: no such token in the tokenizer of {source}; give its id")
    if found is None or not 0 <= found < rows:
        raise RequestError(f"--mask-token {displayed(mask)}: {source} has the ids 0 to {rows - 1}")
    return found


def mask_id(source: ModelFiles, rows: int, named: str | None = None) -> int:
    """The id of MASK: the one that the user names, else that of config.json, else that of the tokenizer's files.

    Raises:
        RequestError: There is none, or it is not among the network's rows.
    """
    ids = token_ids(source.folder)
    if (chosen := chosen_mask(named, rows, ids, source.name)) is not None:
        return chosen
    found, token = source.config.get("mask_token_id"), named_token(source.folder, "mask_token")
    if found is None:
        found = next((ids[name] for name in (token, *MASK_TOKENS) if name in ids), None)
    if type(found) is not int or not 0 <= found < rows:
        declared = displayed(source.config.get("mask_token_id"))
        raise RequestError(
            f"{source.name}: no MASK among its {rows:,} ids: mask_token_id of {CONFIG} is {declared}, mask_token of "
            f"the tokenizer's files is {displayed(token)}; give --mask-token"
        )
    return found


def stated_mask(
    source: ModelFiles, config: Mapping[str, Any], rows: int, named: str | None, spare_row: bool = False
) -> int | None:
    """The id of MASK: the user's, else that of the configuration, else that of the tokenizer's files; None if none is.

    spare_row: whether MASK is a row behind the tokens, so that the tokenizer's counts only where there is no such row.

    Raises:
        RequestError: The user names one that is not there.
    """
    ids = token_ids(source.folder)
    by_tokenizer = ids.get(named_token(source.folder, "mask_token") or "")
    if spare_row and rows - 1 not in ids.values():
        by_tokenizer = None
    stated = (chosen_mask(named, rows, ids, source.name), config.get("mask_token_id"), by_tokenizer)
    return next((found for found in stated if type(found) is int and 0 <= found < rows), None)


def tokenizer_of(folder: Path) -> str | None:
    """What the tokenizer in a folder is loaded from; None where there is none, or none whose kind is known."""
    if (file := folder / TOKENIZER).is_file():
        return str(file)
    has_bert = (folder / BERT_VOCABULARY).is_file()
    if has_bert or all((folder / name).is_file() for name in BPE_FILES):
        if _read(folder / TOKENIZER_CONFIG).get("tokenizer_class"):
            return as_path(folder)
        return str(folder / BERT_VOCABULARY) if has_bert else None
    return None


def token_ids(folder: Path) -> dict[str, int]:
    """Ids by token of the tokenizer files in a folder; empty where there are none."""
    ids = _ids_by_line(folder / BERT_VOCABULARY)
    ids |= {k: v for k, v in _read(folder / "vocab.json").items() if type(v) is int}
    content = _read(folder / TOKENIZER)
    vocab = _mapping(content.get("model")).get("vocab")
    ids |= {k: v for k, v in _mapping(vocab).items() if type(v) is int}
    added = content.get("added_tokens")
    for token in added if isinstance(added, list) else []:
        if type(number := _mapping(token).get("id")) is int:
            ids[str(token.get("content"))] = number
    ids |= {k: v for k, v in _read(folder / "added_tokens.json").items() if type(v) is int}
    for number, token in _mapping(_read(folder / TOKENIZER_CONFIG).get("added_tokens_decoder")).items():
        if str(number).isdecimal() and len(str(number)) < MOST_DIGITS:
            ids[str(_mapping(token).get("content"))] = int(number)
    return ids


def named_token(folder: Path, name: str) -> str | None:
    """The token that the tokenizer files in a folder name as `mask_token` or another special one."""
    for found in (_read(folder / file).get(name) for file in (TOKENIZER_CONFIG, SPECIAL_TOKENS)):
        token = found.get("content") if isinstance(found, Mapping) else found
        if isinstance(token, str):
            return token
    return None


def _ids_by_line(file: Path) -> dict[str, int]:
    """The numbers of the lines of a file by their tokens; empty where there is none."""
    lines = read_text(file).split("\n") if file.is_file() else []
    return {token: number for number, line in enumerate(lines) if (token := line.rstrip())}


def _read(file: Path) -> Mapping[str, Any]:
    """A file of keys and values; empty where there is none."""
    return _mapping(read_json(file, TOKENIZER_BYTES)) if file.is_file() else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
