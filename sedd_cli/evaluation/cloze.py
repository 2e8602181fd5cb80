"""Words masked in held-out text: how often a model restores them, beside what a 5-gram makes of the same gaps."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.shards import Dataset, TokenArray
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.baselines import MOST_TOKENS
from sedd_cli.evaluation.gaps import CONTEXT, LETTERS, Gap, Tokens, find_gaps
from sedd_cli.evaluation.guess import greedy, guess
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.texts import Text, check_tokenizer, prepared_for
from sedd_cli.evaluation.ngram import NGram
from sedd_cli.inference.bound import candidate_bound
from sedd_cli.inference.denoise import DenoisedRow, SequenceRequest, denoise, derived
from sedd_cli.inference.sampling import ResolvedSampler, Sampling
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Finished, Note, Progress, Warn
from sedd_cli.system.software import software

if TYPE_CHECKING:
    from sedd_cli.evaluation.scorers.exact import ExactModel

#: Of the n-gram.
ORDER = 5
#: So cold that the likeliest token falls.
COLD = 1e-3
#: Gaps that the result shows, and how many characters around them.
SHOWN, AROUND = 10, 80


@dataclass(frozen=True)
class ClozeOptions:
    """`gaps` words of a split (by default test where there is one, else validation), `candidates` fillings of each."""

    gaps: int
    split: str | None = None
    candidates: int = 8
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        for key in ("gaps", "candidates"):
            if getattr(self, key) < 1:
                raise RequestError(f"{key} must be at least 1, found {getattr(self, key)}")
        if not 0 <= self.seed < 2**64:
            raise RequestError(f"seed must lie in [0, 2^64), found {self.seed}")


def cloze(model: LoadedModel | ExactModel, text: Text, options: ClozeOptions) -> Iterator[Event]:
    """Mask words of a text and let the model and a 5-gram restore them; Finished says how often they did.

    A word is restored where all of its tokens are. How many they are is told to both. The model's word is that of the
    candidate with the lowest bound.
    """
    if model.exact:
        raise RequestError(f"a cloze needs a diffusion model: {model.source} goes from left to right and cannot fill")
    way = options.sampling.resolve(model)
    dataset = yield from prepared_for(model, text, Dist(0, 1, model.device))
    check_tokenizer(model, dataset)
    split = dataset.split(options.split or dataset.default_split)
    gaps = find_gaps(
        Blocks.cut(split, "rigorous", model.length, dataset.tokenizer), dataset.tokenizer, options.gaps, options.seed
    )
    if not gaps:
        raise RequestError(
            f"no word of {LETTERS} letters or more stands whole in the {split.name} split of "
            f"{dataset.manifest.corpus} with {CONTEXT} tokens of its block on both sides"
        )
    if len(gaps) < options.gaps:
        yield Warn(f"the {split.name} split has {len(gaps)} words to mask, {options.gaps} were asked for")
    yield Note(f"{len(gaps):,} words of the {split.name} split of {dataset.manifest.corpus} are masked")
    guesses = yield from _guesses(dataset, split, gaps)
    drawn, nfe = yield from _draw(model, way, gaps, options)
    cold = replace(options, candidates=1, sampling=replace(options.sampling, temperature=COLD))
    likeliest, _ = yield from _draw(model, cold.sampling.resolve(model), gaps, cold)
    best = yield from _best(model, gaps, drawn)
    yield Finished(
        _origin(model, dataset, split, options)
        | {"gaps": len(gaps), "tokens_per_gap": _histogram(gaps), "sampling": way.facts, "nfe": nfe}
        | _comparison(gaps, drawn, best, [words[0] for words in likeliest], guesses)
        | {"examples": _examples(dataset.tokenizer, gaps, best, guesses), "software": software("torch")}
    )


# --------------------------------------------------------------------------------------------------- the model


def _draw(
    model: LoadedModel, way: ResolvedSampler, gaps: list[Gap], options: ClozeOptions
) -> Generator[Event, None, tuple[list[list[Tokens]], float]]:
    """The candidates' words of each gap in the order of their numbers, and network evaluations a filling."""
    asked = [(gap, candidate) for gap in gaps for candidate in range(options.candidates)]
    rows = [
        SequenceRequest(gap.masked, derived(options.seed, "cloze", gap.block, gap.start, number))
        for gap, number in asked
    ]
    words: list[Tokens] = [()] * len(rows)
    nfe = 0
    for event in denoise(model, way, rows, "fillings"):
        if isinstance(event, DenoisedRow):
            gap = asked[event.place][0]
            words[event.place] = tuple(event.tokens[gap.start : gap.stop])
            nfe += event.nfe
        else:
            yield event
    count = options.candidates
    return [words[at : at + count] for at in range(0, len(words), count)], nfe / len(rows)


def _best(model: LoadedModel, gaps: list[Gap], drawn: list[list[Tokens]]) -> Generator[Event, None, list[Tokens]]:
    """The candidate of each gap with the lowest bound; the first of equals."""
    best = []
    for gap, words in zip(gaps, drawn, strict=True):
        different = list(dict.fromkeys(words))
        if len(different) > 1:
            different.sort(key=lambda word, gap=gap: candidate_bound(model, gap.filled(word))[0])
        best.append(different[0])
        yield Progress("bounds", len(best), len(gaps), "gaps")
    return best


# -------------------------------------------------------------------------------------------------- the 5-gram


def _guesses(
    dataset: Dataset, split: TokenArray, gaps: list[Gap]
) -> Generator[Event, None, list[tuple[Tokens, Tokens]] | None]:
    """What a 5-gram fitted on the training split reads between both sides, and after the left one alone."""
    if split.name == "train" or "train" not in dataset.splits:
        yield Note("no 5-gram beside it: there is no other split to fit it on")
        return None
    train = dataset.split("train")
    if train.tokens > MOST_TOKENS:
        yield Note(f"no 5-gram beside it: the training split has over {MOST_TOKENS:,} tokens")
        return None
    yield Note("fitting the 5-gram on the training split")
    ngram, reach = NGram(train.read(0, train.tokens), dataset.tokenizer.vocab_size, ORDER), ORDER - 1
    found = []
    for gap in gaps:
        left, right = gap.tokens[gap.start - reach : gap.start], gap.tokens[gap.stop : gap.stop + reach]
        found.append((guess(ngram, left, right, len(gap.truth)), greedy(ngram, left, len(gap.truth))))
        yield Progress("5-gram", len(found), len(gaps), "gaps")
    return found


# -------------------------------------------------------------------------------------------------- the result


def _origin(model: LoadedModel, dataset: Dataset, split: TokenArray, options: ClozeOptions) -> dict[str, Any]:
    """Everything to repeat it."""
    return {
        "model": model.source,
        **model.facts,
        "kind": model.kind,
        "model_fingerprint": model.fingerprint,
        "corpus": dataset.manifest.corpus,
        "revision": dataset.manifest.revision,
        "fingerprint": dataset.manifest.fingerprint,
        "tokenizer": dataset.manifest.tokenizer,
        "split": split.name,
        "length": model.length,
        "gaps_asked": options.gaps,
        "told": "the number of tokens of each gap",
        "candidates": options.candidates,
        "seed": options.seed,
        "precision": model.precision,
    }


def _histogram(gaps: list[Gap]) -> dict[str, int]:
    """Gaps of each number of tokens."""
    counts = Counter(len(gap.truth) for gap in gaps)
    return {str(k): counts[k] for k in sorted(counts)}


def _comparison(
    gaps: list[Gap],
    drawn: list[list[Tokens]],
    best: list[Tokens],
    likeliest: list[Tokens],
    guesses: list[tuple[Tokens, Tokens]] | None,
) -> dict[str, Any]:
    """How often each contestant was right, and the model and the 5-gram on the same gaps."""
    truths = [gap.truth for gap in gaps]
    right = {
        "model": [word == truth for word, truth in zip(best, truths, strict=True)],
        "first draw": [words[0] == truth for words, truth in zip(drawn, truths, strict=True)],
        "among candidates": [truth in words for words, truth in zip(drawn, truths, strict=True)],
        "likeliest tokens": [word == truth for word, truth in zip(likeliest, truths, strict=True)],
    }
    if guesses is None:
        return {"restored": {name: _share(each) for name, each in right.items()}, "paired": None}
    right["5-gram"] = [both == truth for (both, _), truth in zip(guesses, truths, strict=True)]
    right["5-gram, left only"] = [left == truth for (_, left), truth in zip(guesses, truths, strict=True)]
    pairs = Counter(zip(right["model"], right["5-gram"], strict=True))
    paired = {
        "both": pairs[True, True],
        "only model": pairs[True, False],
        "only 5-gram": pairs[False, True],
        "neither": pairs[False, False],
    }
    return {"restored": {name: _share(each) for name, each in right.items()}, "paired": paired}


def _share(right: list[bool]) -> dict[str, Any]:
    """A count, its share, and the binomial standard error of that."""
    share = sum(right) / len(right)
    return {"restored": sum(right), "share": share, "error": math.sqrt(share * (1 - share) / len(right))}


def _examples(
    tokenizer: Tokenizer, gaps: list[Gap], best: list[Tokens], guesses: list[tuple[Tokens, Tokens]] | None
) -> list[dict[str, Any]]:
    """The first gaps as text."""
    return [
        {
            "before": tokenizer.decode(gap.tokens[: gap.start])[-AROUND:],
            "truth": tokenizer.decode(gap.truth),
            "after": tokenizer.decode(gap.tokens[gap.stop :])[:AROUND],
            "model": tokenizer.decode(best[number]),
            "5-gram": tokenizer.decode(guesses[number][0]) if guesses else None,
        }
        for number, gap in enumerate(gaps[:SHOWN])
    ]
