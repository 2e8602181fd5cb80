"""The corpora that a model is evaluated on, prepared with its tokenizer."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.own_text import own_dataset, text_of
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions, find_prepared
from sedd_cli.data.shards import Dataset, open_dataset
from sedd_cli.data.tokenizers import Tokenizer, holds_tokenizer
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.inference.bound import find_protocol
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event
from sedd_cli.system.home import home


@dataclass(frozen=True)
class Text:
    """A corpus to evaluate on: a name, file, folder or hub id.

    local: where the files of a named one are. reading: options of `sedd prepare` that say how to read it. own: it is
    meant as the text that the model was trained on.
    """

    corpus: str
    local: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False


def prepared_for(model: LoadedModel | CausalModel, text: Text, dist: Dist) -> Generator[Event, None, Dataset]:
    """A corpus prepared with the model's tokenizer; the main process prepares it where it is missing.

    The text that a run was trained on is taken wherever it is prepared. RequestError where it is not, and another text
    has its name now.
    """
    own = model if text.own and isinstance(model, LoadedModel) and model.trained_on is not None else None
    if own is None:
        return (yield from _prepared(model, text, dist))

    def kept() -> Path | None:
        found = None if text.reading else text_of(own)
        return found and found.folder

    folder = dist.from_main(kept)  # on one process: another may see what is prepared meanwhile
    if folder is not None:
        return (yield from prepared_by_main(PrepareOptions(str(folder)), dist))
    dataset = yield from _prepared(model, text, dist)
    if dataset.manifest.fingerprint != own.trained_on:
        raise RequestError(
            f"{text.corpus} is not the text that {own.source} was trained on: to measure it all the same, name it "
            "with --dataset"
        )
    return dataset


def _prepared(model: LoadedModel | CausalModel, text: Text, dist: Dist) -> Generator[Event, None, Dataset]:
    tokenizer = model.text_tokenizer()
    # a trained tokenizer is loaded from its file: by its name it would be trained again, on this corpus
    name = tokenizer.spec if tokenizer.named else model.tokenizer_source
    if isinstance(model, LoadedModel) and model.vocabulary is not None and not tokenizer.named:
        name = _stored(tokenizer)  # with the model's own numbers of tokens, or from inside its checkpoint
    wanted = PrepareOptions(text.corpus, text.local, tokenizer=name, **text.reading)
    if model.recipe and model.recipe.data.corpus == text.corpus and text.local is None and not text.reading:
        own = model.recipe.data.prepared()
        if (kept := _kept(model, own)) is not None:
            return kept
        wanted = replace(own, tokenizer=name)
        if own.tokenizer is not None or find_corpus(own).prepared is not None or not find_prepared(wanted):
            dataset = yield from prepared_by_main(own, dist)
            if dataset.tokenizer.fingerprint == tokenizer.fingerprint:
                return dataset
    return (yield from prepared_by_main(wanted, dist))


def _kept(model: LoadedModel | CausalModel, own: PrepareOptions) -> Dataset | None:
    """What was prepared of the text that a model was trained on, where the text itself is not found any more.

    Its file may have moved, or be named as seen from another folder; or several copies of it are prepared.
    """
    try:
        find_prepared(own)
    except RequestError:
        if model.recipe is not None and model.tokenizer_source is not None:
            return own_dataset(Path(model.tokenizer_source), model.recipe)
    return None


def _stored(tokenizer: Tokenizer) -> str:
    """The folder of the data home that holds a tokenizer; it is written where it is missing."""
    folder = home() / "tokenizers" / tokenizer.fingerprint[:16]
    if not holds_tokenizer(folder):
        tokenizer.save(folder)
    return str(folder)


def prepared_by_main(options: PrepareOptions, dist: Dist) -> Generator[Event, None, Dataset]:
    """A corpus prepared by the main process where it is missing, whose errors are raised in every process."""
    found: Path | Exception | None = None
    try:
        if dist.main:
            found = (yield from prepare(options)).folder
    except (RequestError, WorkError) as error:
        found = error

    def folder() -> Path:
        if isinstance(found, Exception):
            raise found
        assert found is not None
        return found

    return open_dataset(dist.from_main(folder))


def check_tokenizer(model: LoadedModel | CausalModel, dataset: Dataset) -> None:
    """RequestError unless the dataset has the model's tokenizer, with the separator it was prepared with (--eos)."""
    ours, theirs = model.tokenizer, dataset.tokenizer
    if ours is None and theirs.vocab_size == model.vocab_size:
        return
    if ours is not None and (eos := dataset.manifest.options.get("eos")) is not None:
        ours = ours.separated_by(eos)
    if ours is None or ours.fingerprint != theirs.fingerprint:
        name = ours.spec if ours else f"none ({model.vocab_size} tokens)"
        raise RequestError(
            f"the dataset {dataset.folder} has another tokenizer ({theirs.spec}) than the model ({name}): "
            f"prepare the corpus with the model's tokenizer"
        )


def check_corpus(name: str, dataset: Dataset) -> None:
    """RequestError where a project evaluates a corpus otherwise than by the protocol that bears its name."""
    refused, corpus = find_protocol(name).refused, Path(dataset.manifest.corpus).name
    if corpus in refused and dataset.manifest.tokenizer not in refused[corpus]:
        others = f", except for models with the tokenizer {' or '.join(refused[corpus])}" if refused[corpus] else ""
        raise RequestError(
            f"protocol {name!r} is not reproduced on {corpus}, whose texts that project pads one by one{others}: "
            "take rigorous or sedd-paper"
        )
