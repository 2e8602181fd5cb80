"""The corpora that `sedd prepare` has by name, and the user's own. To add one: one file, one line here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sedd_cli.data.corpora.base import HOLD_OUT, SPLITS, Corpus, Request, Source, StochasticProcess
from sedd_cli.data.corpora.hub import hub_corpus, is_hub_id
from sedd_cli.data.corpora.lambada import LAMBADA
from sedd_cli.data.corpora.lm1b import LM1B
from sedd_cli.data.corpora.local import local_corpus, prepared_corpus
from sedd_cli.data.corpora.markov import MARKOV
from sedd_cli.data.corpora.openwebtext import OPENWEBTEXT
from sedd_cli.data.corpora.ptb import PTB
from sedd_cli.data.corpora.pycode import PYCODE, PYCOMMENTS
from sedd_cli.data.corpora.pydocs import PYDOCS
from sedd_cli.data.corpora.text8 import TEXT8
from sedd_cli.data.corpora.wikitext import WIKITEXT2, WIKITEXT103
from sedd_cli.data.folders import is_prepared, prepared, prepared_as, prepared_texts
from sedd_cli.data.formats import format_of
from sedd_cli.data.manifest import FILE as MANIFEST
from sedd_cli.errors import RequestError, nearest_name
from sedd_cli.system.files import near as beside
from sedd_cli.system.files import require_regular

__all__ = [
    "CORPORA",
    "EMBEDDED",
    "HOLD_OUT",
    "SPLITS",
    "Corpus",
    "Request",
    "Source",
    "StochasticProcess",
    "find_corpus",
    "is_ambiguous",
    "is_own_text",
]

#: Corpora that need neither network nor files.
EMBEDDED = (PYDOCS, PYCOMMENTS, PYCODE, MARKOV)
CORPORA: dict[str, Corpus] = {
    corpus.name: corpus for corpus in (*EMBEDDED, OPENWEBTEXT, LM1B, TEXT8, WIKITEXT2, WIKITEXT103, PTB, LAMBADA)
}


def find_corpus(request: Request) -> Corpus:
    """The corpus that a request names: one of CORPORA, a file or folder, a prepared corpus, or a hub id, in this order.

    Raises RequestError for a name that is none of them.
    """
    name = request.corpus
    if name in CORPORA:
        corpus = CORPORA[name]
        if request.local is not None and not corpus.local:
            raise RequestError(f"{name} needs no files; there is nothing that --from could give")
        return _with_its_splits(corpus, request)
    if request.local is not None:
        raise RequestError(f"--from goes with a known corpus ({', '.join(CORPORA)}), not with {name!r}")
    if Path(name).exists():
        require_regular(Path(name), "the corpus")
        return prepared_corpus(request) if (Path(name) / MANIFEST).is_file() else local_corpus(request)
    if Path(name).is_symlink():
        raise RequestError(f"corpus {name!r}{beside(Path(name))}")
    divided = None if request.hold_out == "hash" else request.hold_out  # the default chooses nothing
    if folder := prepared_as(name, getattr(request, "tokenizer", None), divided):
        return prepared_corpus(replace(request, corpus=str(folder)))
    parent = Path(name).parent
    if "/" in name and parent.is_dir() and parent != Path("."):
        raise RequestError(f"corpus {name!r}: {parent} is a folder without {Path(name).name} in it{beside(Path(name))}")
    if is_hub_id(name) and not name.startswith(".") and format_of(name) is None:
        return _with_its_splits(hub_corpus(request), request)
    ready = [manifest.corpus for _, manifest in prepared()]
    meant = nearest_name(name, [*CORPORA, *ready, *_files_here()], 0.6)
    hint = f"; did you mean {meant}?" if meant else ""
    raise RequestError(f"corpus {name!r} is no file, no hub id (namespace/name) and none of {', '.join(CORPORA)}{hint}")


def _files_here() -> list[str]:
    """The names in the current folder."""
    try:
        return sorted(path.name for path in Path().iterdir())
    except OSError:
        return []


def is_own_text(name: str) -> bool:
    """Whether a name is that of a file, a folder or a prepared corpus, rather than of a known corpus or of the hub."""
    return name not in CORPORA and (Path(name).exists() or is_prepared(name))


def is_ambiguous(name: str) -> bool:
    """Whether a name is that of several prepared corpora, so that a tokenizer has to choose among them."""
    return name not in CORPORA and not Path(name).exists() and is_prepared(name) and len(prepared_texts(name)) > 1


def _with_its_splits(corpus: Corpus, request: Request) -> Corpus:
    """The corpus; RequestError where the request divides a text that has splits of its own."""
    if request.hold_out != "hash":
        raise RequestError(f"--hold-out has no effect on {corpus.name}: it is for files of your own")
    return corpus
