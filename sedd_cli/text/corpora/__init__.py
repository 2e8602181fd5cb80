"""The corpora that `sedd prepare` knows by name, and the user's own."""

from __future__ import annotations

from sedd_cli.text.corpora.base import Corpus, Request, Source
from sedd_cli.text.corpora.local import local_corpus
from sedd_cli.text.corpora.pydocs import PYDOCS

__all__ = ["CORPORA", "Corpus", "Request", "Source", "find_corpus"]

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in (PYDOCS,)}


def find_corpus(request: Request) -> Corpus:
    """The corpus that a request names: one of CORPORA, or a file of the user's."""
    return CORPORA.get(request.corpus) or local_corpus(request)
