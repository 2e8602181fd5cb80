"""Mask words of held-out text: how often a model restores them, compared with a 5-gram on the same words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field, replace

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.shards import Dataset, TokenArray
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.baselines.baselines import MOST_TOKENS
from sedd_cli.evaluation.baselines.ngram import NGram
from sedd_cli.evaluation.cloze.masked_words import CONTEXT, LETTERS, MaskedWord, Tokens, choose_words
from sedd_cli.evaluation.cloze.ngram_guesses import greedy, guess
from sedd_cli.evaluation.cloze.results import ClozeExample, ClozeResult, RestoredShare
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.results import ModelIdentity
from sedd_cli.evaluation.likelihood.texts import Text, check_tokenizer, prepared_for
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.inference.bound import candidate_bound
from sedd_cli.inference.denoise import DenoisedRow, SequenceRequest, denoise, derived
from sedd_cli.inference.sampling import ResolvedSampler, Sampling
from sedd_cli.system.distributed import Dist
from sedd_cli.system.events import Event, Note, Progress, Warn
from sedd_cli.system.software import software

NEEDS = "a cloze needs a diffusion model: {} goes from left to right and cannot fill"
#: Order of the n-gram.
ORDER = 5
#: A temperature so low that the most probable token is drawn.
COLD = 1e-3
#: Number of examples in the result, and characters around the word.
SHOWN, AROUND = 10, 80


@dataclass(frozen=True)
class ClozeOptions:
    """`gaps` words of a split (by default test if the dataset has it, else validation), `candidates` fillings each."""

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


def cloze(model: LoadedModel | CausalModel, text: Text, options: ClozeOptions) -> Generator[Event, None, ClozeResult]:
    """Mask words of a text and let the model and a 5-gram restore them.

    A word is restored if all of its tokens are. Their number is known to both. The model's word is the candidate with
    the lowest bound.
    """
    if isinstance(model, CausalModel) or model.exact:
        raise RequestError(NEEDS.format(model.source))
    options.sampling.resolve(model)  # what is wrong with the options comes before any work
    dataset = yield from prepared_for(model, text, Dist(0, 1, model.device))
    check_tokenizer(model, dataset)
    split = dataset.split(options.split or dataset.default_split)
    blocks = Blocks.cut(split, "rigorous", model.length, dataset.tokenizer)
    words = choose_words(blocks, dataset.tokenizer, options.gaps, options.seed)
    if not words:
        raise RequestError(
            f"the {split.name} split of {dataset.manifest.corpus} has no word of {LETTERS} letters or more with "
            f"{CONTEXT} tokens of its block on both sides"
        )
    if len(words) < options.gaps:
        yield Warn(f"the {split.name} split has {len(words)} words to mask, {options.gaps} were requested")
    yield Note(f"{len(words):,} words of the {split.name} split of {dataset.manifest.corpus} are masked")
    longest = max(len(word.truth) for word in words)
    sampler = options.sampling.for_gaps(model, longest)
    cold = replace(sampler, sampler=replace(sampler.sampler, temperature=COLD))
    guesses = yield from _guesses(dataset, split, words)
    drawn, nfe = yield from _draw(model, sampler, words, options)
    likeliest, _ = yield from _draw(model, cold, words, replace(options, candidates=1))
    best = yield from _best(model, words, drawn)
    restored, paired = _comparison(words, drawn, best, [candidates[0] for candidates in likeliest], guesses)
    counts = Counter(len(word.truth) for word in words)
    return ClozeResult(
        model=ModelIdentity.of(model),
        corpus=dataset.manifest.corpus,
        revision=dataset.manifest.revision,
        fingerprint=dataset.manifest.fingerprint,
        tokenizer=dataset.manifest.tokenizer,
        split=split.name,
        length=model.length,
        gaps_asked=options.gaps,
        candidates=options.candidates,
        seed=options.seed,
        precision=model.precision,
        gaps=len(words),
        tokens_per_gap={str(k): counts[k] for k in sorted(counts)},
        sampling=sampler.facts,
        nfe=nfe,
        restored=restored,
        paired=paired,
        examples=_examples(dataset.tokenizer, words, best, guesses),
        software=software("torch"),
    )


# --------------------------------------------------------------------------------------------------- the model


def _draw(
    model: LoadedModel, sampler: ResolvedSampler, words: list[MaskedWord], options: ClozeOptions
) -> Generator[Event, None, tuple[list[list[Tokens]], float]]:
    """The candidates for each word in the order of their numbers, and mean network evaluations of a filling."""
    count = options.candidates
    asked = [(word, candidate) for word in words for candidate in range(count)]
    rows = [
        SequenceRequest(word.masked, derived(options.seed, "cloze", word.block, word.start, number))
        for word, number in asked
    ]
    found: list[Tokens] = [()] * len(rows)
    nfe = 0
    for event in denoise(model, sampler, rows, "fillings"):
        if isinstance(event, DenoisedRow):
            word = asked[event.place][0]
            found[event.place] = tuple(event.tokens[word.start : word.stop])
            nfe += event.nfe
        else:
            yield event
    return [found[at : at + count] for at in range(0, len(found), count)], nfe / len(rows)


def _best(
    model: LoadedModel, words: list[MaskedWord], drawn: list[list[Tokens]]
) -> Generator[Event, None, list[Tokens]]:
    """The candidate for each word with the lowest bound; the first of equals."""
    best: list[Tokens] = []
    for word, candidates in zip(words, drawn, strict=True):
        different = list(dict.fromkeys(candidates))
        if len(different) > 1:
            different.sort(key=lambda candidate, word=word: candidate_bound(model, word.filled(candidate))[0])
        best.append(different[0])
        yield Progress("bounds", len(best), len(words), "gaps")
    return best


# -------------------------------------------------------------------------------------------------- the 5-gram


def _guesses(
    dataset: Dataset, split: TokenArray, words: list[MaskedWord]
) -> Generator[Event, None, list[tuple[Tokens, Tokens]] | None]:
    """What a 5-gram estimated on the training split guesses from both sides, and from the left side alone."""
    if split.name == "train" or "train" not in dataset.splits:
        yield Note("no 5-gram for comparison: there is no other split to estimate it on")
        return None
    train = dataset.split("train")
    if train.tokens > MOST_TOKENS:
        yield Note(f"no 5-gram for comparison: the training split has over {MOST_TOKENS:,} tokens")
        return None
    yield Note("estimating the 5-gram on the training split")
    ngram, reach = NGram(train.read(0, train.tokens), dataset.tokenizer.vocab_size, ORDER), ORDER - 1
    found: list[tuple[Tokens, Tokens]] = []
    for word in words:
        left, right = word.tokens[word.start - reach : word.start], word.tokens[word.stop : word.stop + reach]
        found.append((guess(ngram, left, right, len(word.truth)), greedy(ngram, left, len(word.truth))))
        yield Progress("5-gram", len(found), len(words), "gaps")
    return found


# -------------------------------------------------------------------------------------------------- the result


def _comparison(
    words: list[MaskedWord],
    drawn: list[list[Tokens]],
    best: list[Tokens],
    likeliest: list[Tokens],
    guesses: list[tuple[Tokens, Tokens]] | None,
) -> tuple[dict[str, RestoredShare], dict[str, int] | None]:
    """How often each method was right, and the model and the 5-gram on the same words."""
    truths = [word.truth for word in words]
    right = {
        "model": [word == truth for word, truth in zip(best, truths, strict=True)],
        "first draw": [candidates[0] == truth for candidates, truth in zip(drawn, truths, strict=True)],
        "among candidates": [truth in candidates for candidates, truth in zip(drawn, truths, strict=True)],
        "likeliest tokens": [word == truth for word, truth in zip(likeliest, truths, strict=True)],
    }
    paired = None
    if guesses is not None:
        right["5-gram"] = [both == truth for (both, _), truth in zip(guesses, truths, strict=True)]
        right["5-gram, left only"] = [left == truth for (_, left), truth in zip(guesses, truths, strict=True)]
        pairs = Counter(zip(right["model"], right["5-gram"], strict=True))
        paired = {
            "both": pairs[True, True],
            "only model": pairs[True, False],
            "only 5-gram": pairs[False, True],
            "neither": pairs[False, False],
        }
    return {name: RestoredShare.of(each) for name, each in right.items()}, paired


def _examples(
    tokenizer: Tokenizer, words: list[MaskedWord], best: list[Tokens], guesses: list[tuple[Tokens, Tokens]] | None
) -> tuple[ClozeExample, ...]:
    """The first words as text."""
    return tuple(
        ClozeExample(
            before=tokenizer.decode(word.tokens[: word.start])[-AROUND:],
            truth=tokenizer.decode(word.truth),
            after=tokenizer.decode(word.tokens[word.stop :])[:AROUND],
            model=tokenizer.decode(best[number]),
            ngram=tokenizer.decode(guesses[number][0]) if guesses else None,
        )
        for number, word in enumerate(words[:SHOWN])
    )
