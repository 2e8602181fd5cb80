"""WikiText-2 and WikiText-103, raw: articles of Wikipedia, one paragraph or heading a row."""

from __future__ import annotations

from sedd_cli.data.corpora.base import Corpus
from sedd_cli.data.corpora.hub import HubCopy
from sedd_cli.data.corpora.rows import RowBenchmark


def _row(line: str) -> str:
    """The hub's copy keeps the line end of each line, and makes a blank line an empty row."""
    return line if line.strip() else ""


def _wikitext(name: str, config: str, size: str) -> Corpus:
    rows = RowBenchmark(
        name=name,
        copies=(HubCopy("Salesforce/wikitext", config=config),),
        accepts=lambda path: path.suffix == ".raw",
        row=_row,
        files="wiki.train.raw, wiki.valid.raw, wiki.test.raw",
    )
    return rows.corpus(
        about="Wikipedia's good and featured articles",
        size=size,
        licence="CC-BY-SA-3.0",
        tokenizer="gpt2",
        detokenizer="wikitext",
    )


WIKITEXT2 = _wikitext("wikitext2", "wikitext-2-raw-v1", "13 MB")
WIKITEXT103 = _wikitext("wikitext103", "wikitext-103-raw-v1", "550 MB")
