"""One Billion Words: shuffled sentences of news. The held-out files are the test split."""

from __future__ import annotations

from pathlib import Path

from sedd_cli.data.corpora.files import named_split
from sedd_cli.data.corpora.hub import HubCopy
from sedd_cli.data.corpora.rows import RowBenchmark


def _split_of(name: str) -> str | None:
    """The published archive names its test set heldout, in the names of the folder and of the files."""
    last = Path(name).name
    if not last.startswith("news.en"):
        return named_split(last)
    return "test" if "heldout" in last else "train"


LM1B = RowBenchmark(
    name="lm1b",
    copies=(HubCopy("dvruette/lm1b"),),
    accepts=lambda path: path.name.startswith("news.en"),
    row=str.strip,
    files="news.en-00001-of-00100 … and news.en.heldout-00000-of-00050 …",
    split_of=_split_of,
    many_files=True,
).corpus(
    about="30 million shuffled sentences of news",
    size="4.3 GB",
    licence="none stated",
    tokenizer="bert-base-uncased",
    detokenizer="lm1b",
)
