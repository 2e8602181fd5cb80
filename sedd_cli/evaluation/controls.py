"""What stands beside a generative perplexity: real text and controls without a network, judged like the samples.

A low perplexity alone means little: a phrase repeated over and over has one. `marks` finds samples that have lost
diversity against the real text, so that their perplexity does not count.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.own_text import text_of
from sedd_cli.data.manifest import FILE as MANIFEST
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import Dataset, open_dataset
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.baselines.controls import COUNTED, controls
from sedd_cli.evaluation.diversity import Diversity
from sedd_cli.evaluation.judge import JudgeResult, Samples, judge
from sedd_cli.evaluation.scorers.scorer import Scorer, TrainedScorer
from sedd_cli.system.events import Event, Note, Warn

#: Nats of unigram entropy below real text at which samples are marked: their effective number of different tokens,
#: e^entropy, is then less than 82 % of that of real text.
ENTROPY_MARGIN = 0.2
#: Self-BLEU above that of real text at which samples are marked as alike.
BLEU_MARGIN = 0.2
#: Standard errors that a difference of entropies has to exceed as well.
ERRORS = 2.0

LOW_ENTROPY, ALIKE = "low entropy", "alike"


def marks(found: Diversity, real: Diversity) -> tuple[str, ...]:
    """The marks of samples whose diversity is `found`, beside as many real texts of the same length.

    "low entropy": their unigram entropy is below that of real text by more than ENTROPY_MARGIN, and by more than twice
    the standard error of the difference. "alike": their self-BLEU is above that of real text by more than BLEU_MARGIN.
    """
    made = []
    if found.entropy is not None and real.entropy is not None:
        error = math.hypot(found.entropy_error or 0.0, real.entropy_error or 0.0)
        if real.entropy - found.entropy > max(ENTROPY_MARGIN, ERRORS * error):
            made.append(LOW_ENTROPY)
    if found.self_bleu is not None and real.self_bleu is not None and found.self_bleu - real.self_bleu > BLEU_MARGIN:
        made.append(ALIKE)
    return tuple(made)


@dataclass(frozen=True)
class Control:
    """Real text, or texts without a network, judged. marks: as `marks` gives them."""

    name: str
    judged: JudgeResult
    marks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "marks": list(self.marks), **self.judged.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Control:
        """The inverse; KeyError or TypeError for anything else."""
        judged = {key: value for key, value in data.items() if key not in ("name", "marks")}
        return cls(data["name"], JudgeResult.from_dict(judged), tuple(data["marks"]))


@dataclass(frozen=True)
class ControlSet:
    """Real text of a corpus and the controls from its training split, as many texts and as long as some samples.

    split: of the real text. key: what they depend on, by which a stored comparison is found again.
    """

    corpus: str
    split: str
    key: dict[str, Any]
    real: Control
    controls: tuple[Control, ...]

    def marks(self, judged: JudgeResult) -> tuple[str, ...]:
        """The marks of samples that were judged."""
        return marks(judged.diversity, self.real.judged.diversity)

    def better(self, judged: JudgeResult) -> tuple[Control, ...]:
        """The controls with a lower perplexity per sequence than samples that were judged."""
        own = judged.per_sequence.perplexity
        return tuple(c for c in self.controls if c.judged.per_sequence.perplexity < own)

    def of(self, dataset: Dataset) -> bool:
        """Whether the texts are of this corpus."""
        return self.key["corpus"] == dataset.manifest.fingerprint

    def of_other_lengths(self, key: dict[str, Any]) -> bool:
        """Whether only the lengths of the texts differ from those of a key, not their number."""
        numbers = (sum(count for _, count in each["lengths"]) for each in (self.key, key))
        return len(set(numbers)) == 1 and {**self.key, "lengths": key["lengths"]} == key

    def to_dict(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus,
            "split": self.split,
            "rule": {"entropy_margin": ENTROPY_MARGIN, "errors": ERRORS, "self_bleu_margin": BLEU_MARGIN},
            "key": self.key,
            "real": self.real.to_dict(),
            "controls": [control.to_dict() for control in self.controls],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ControlSet:
        """The inverse; KeyError or TypeError for anything else."""
        real, found = Control.from_dict(data["real"]), tuple(map(Control.from_dict, data["controls"]))
        return cls(data["corpus"], data["split"], data["key"], real, found)


def own_corpus(model: LoadedModel | Scorer) -> Dataset | None:
    """The corpus that a model or judge of ours was trained on, where it is prepared on this machine; else None."""
    trained = _trained_here(model)
    dataset = None if trained is None else text_of(trained)
    return dataset if dataset and "train" in dataset.splits and dataset.tokenizer else None


def named_corpus(name: str, tokenizer: str | None, *models: LoadedModel | Scorer) -> Generator[Event, None, Dataset]:
    """A corpus by name, file, folder or hub id, prepared where it is not yet; RequestError without a training split.

    tokenizer: of its ids; None: that of the first of the models that was trained here, else the corpus's own.
    """
    own = [found for model in models if (found := _trained_here(model)) is not None]
    if tokenizer is None and own and not (Path(name) / MANIFEST).is_file():
        used = own[0].text_tokenizer()
        tokenizer = used.spec if used.named else own[0].tokenizer_source
    dataset = open_dataset((yield from prepare(PrepareOptions(name, tokenizer=tokenizer))).folder)
    if "train" not in dataset.splits:
        raise RequestError(f"{name} has no training split, from which controls could be drawn")
    return dataset


def _trained_here(model: LoadedModel | Scorer) -> LoadedModel | None:
    found = model.model if isinstance(model, TrainedScorer) else model
    return found if isinstance(found, LoadedModel) else None


def comparable(samples: Samples, dataset: Dataset) -> Samples:
    """The samples as they compare with texts of a corpus: by ids of its tokenizer if they have these, else as texts."""
    if _has_ids_of(samples, dataset.tokenizer):
        return replace(samples, tokenizer=dataset.tokenizer)
    return samples if all(ids is None for ids in samples.tokens) else samples.as_texts()


def compare(
    scorer: Scorer, samples: Samples, dataset: Dataset, seed: int, stored: ControlSet | None = None
) -> Generator[Event, None, ControlSet | None]:
    """Judge real text and controls beside samples; None, with a Warn, where the judge cannot read them.

    `stored` is returned where it is the same comparison. Where texts are judged without ids, its texts may be of other
    lengths: in the corpus's tokens, the lengths differ between the points of a sweep. The real text is the test split,
    else validation, else train: windows at even distances. Where no split is long enough for as many windows apart from
    each other, those of the longest overlap, with a Note.

    Args:
        samples: What `comparable` gives; their number and lengths are those of the texts.
    """
    try:
        return (yield from _compared(scorer, samples, dataset, seed, stored))
    except RequestError as error:
        yield Warn(f"no controls beside the samples: {error}")
        return None


def _compared(
    scorer: Scorer, samples: Samples, dataset: Dataset, seed: int, stored: ControlSet | None
) -> Generator[Event, None, ControlSet]:
    tokenizer, by_ids = dataset.tokenizer, _has_ids_of(samples, dataset.tokenizer)
    lengths = _lengths(samples, tokenizer, by_ids)
    name = _real_split(dataset, sum(lengths))
    key = {
        "judge": scorer.fingerprint,
        "judge_precision": scorer.precision,
        "corpus": dataset.manifest.fingerprint,
        "lengths": [list(pair) for pair in sorted(Counter(lengths).items())],
        "seed": seed,
        "by_ids": by_ids,
    }
    if stored is not None and (stored.key == key or (not by_ids and stored.of_other_lengths(key))):
        return stored

    def judged(rows: list[list[int]]) -> Generator[Event, None, JudgeResult]:
        texts = Samples([None] * len(rows), rows, tokenizer)
        return (yield from judge(scorer, texts if by_ids else texts.as_texts()))

    split = dataset.split(name)
    if max(lengths) > split.tokens:
        raise RequestError(
            f"the longest split of {dataset.manifest.corpus} has {split.tokens:,} tokens, a sample {max(lengths):,}"
        )
    yield Note(f"judging real text of {dataset.manifest.corpus} ({name}) and controls without a network")
    if max(lengths) * len(lengths) > split.tokens:
        yield Note(f"the {name} split is shorter than the samples: its windows overlap, which raises its self-BLEU")
    starts = np.linspace(0, split.tokens - max(lengths), len(lengths)).astype(np.int64)
    real = [split.read(start, start + length).tolist() for start, length in zip(starts.tolist(), lengths, strict=True)]
    text = Control("real text", (yield from judged(real)))
    found, train = [], dataset.split("train")
    counted = train.read(0, min(train.tokens, COUNTED))
    for control, rows in controls(counted, tokenizer.vocab_size, lengths, seed):
        result = yield from judged(rows)
        found.append(Control(control, result, marks(result.diversity, text.judged.diversity)))
    return ControlSet(dataset.manifest.corpus, name, key, text, tuple(found))


def _has_ids_of(samples: Samples, tokenizer: Tokenizer) -> bool:
    """Whether every sample has ids, and they are those of the tokenizer."""
    ids = [row for row in samples.tokens if row is not None]
    if len(ids) < len(samples.tokens):
        return False
    if samples.tokenizer is not None:
        return samples.tokenizer.ids == tokenizer.ids
    if max((max(row, default=0) for row in ids), default=0) >= tokenizer.vocab_size:
        return False
    return all(text is not None and tokenizer.decode(row) == text for text, row in zip(samples.texts, ids, strict=True))


def _lengths(samples: Samples, tokenizer: Tokenizer, by_ids: bool) -> list[int]:
    """Tokens of each sample in the corpus's tokenizer, at least two."""
    if by_ids:
        return [max(2, len(row)) for row in samples.tokens if row is not None]
    return [max(2, len(row)) for row in tokenizer.encode_batch([text or "" for text in samples.as_texts().texts])]


def _real_split(dataset: Dataset, tokens: int) -> str:
    """The first of test, validation and train that has so many tokens, else the longest of them."""
    sizes = {name: dataset.split(name).tokens for name in ("test", "validation", "train") if name in dataset.splits}
    return next((name for name, size in sizes.items() if size >= tokens), max(sizes, key=lambda name: sizes[name]))
