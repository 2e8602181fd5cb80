"""Words of a held-out text around a gap: a prompt that is of the text and was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sedd_cli.data.shards import Dataset

#: Documents that are looked through, and tokens of each that are decoded.
TRIED, READ = 200, 400


@dataclass(frozen=True)
class Cut:
    """Two texts that stand in one line with a gap between them, without the spaces at the gap."""

    prefix: str
    suffix: str


def cut(dataset: Dataset, length: int, split: str | None = None) -> Cut | None:
    """The words around a gap in a held-out split, for an infill of `length` tokens, about a quarter on each side.

    They are of the first line with so many tokens, or else of the longest, a third of it on each side. The same data
    give the same words.

    Args:
        dataset: The prepared corpus.
        length: Tokens of the whole.
        split: Default: test, else validation, else train.

    Returns:
        None where no line has three words.
    """

    def count(text: str) -> int:
        return len(dataset.tokenizer.encode(text))

    longest = ""
    for line in _lines(dataset, split or dataset.default_split):
        longest = max(longest, line, key=len)
        if count(line) >= length:
            longest = line
            break
    # a text without spaces is cut between characters
    words, glue = (longest.split(" "), " ") if " " in longest else (list(longest), "")
    whole = _fitting(words, length, glue, count)
    held = count(glue.join(words))
    side = max(1, length // 4 if held >= length else held // 3)
    prefix, suffix = _fitting(whole, side, glue, count), _fitting(whole, side, glue, count, last=True)
    prefix, suffix = prefix or whole[:1], suffix or whole[-1:]
    if len(prefix) + len(suffix) >= len(whole):
        return None
    return Cut(glue.join(prefix), glue.join(suffix))


def _lines(dataset: Dataset, split: str) -> Iterator[str]:
    """The lines of the first documents of a split, with single spaces."""
    array, start = dataset.split(split), 0
    for end in array.document_ends()[:TRIED].tolist():
        ids = array.read(start, min(end, start + READ))
        start = end
        text = dataset.tokenizer.decode(ids if dataset.tokenizer.eos is None else ids[ids != dataset.tokenizer.eos])
        yield from (" ".join(line.split()) for line in text.replace("\ufffd", "").splitlines())


def _fitting(words: list[str], most: int, glue: str, count: Callable[[str], int], last: bool = False) -> list[str]:
    """The first words, or the last, that have at most `most` tokens together."""
    for n in range(min(len(words), most), 0, -1):
        part = words[-n:] if last else words[:n]
        if count(glue.join(part)) <= most:
            return part
    return []
