"""The cloze: which words are masked, how a 5-gram restores them, and how restored words are counted."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re

import numpy as np
import pytest
import reference
from support.jobs import completed, returned

from sedd_cli import load_model
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.baselines.ngram import NGram
from sedd_cli.evaluation.cloze import job
from sedd_cli.evaluation.cloze.job import ClozeOptions, cloze
from sedd_cli.evaluation.cloze.masked_words import CONTEXT, choose_words
from sedd_cli.evaluation.cloze.ngram_guesses import greedy, guess
from sedd_cli.evaluation.likelihood.protocols import Blocks
from sedd_cli.evaluation.likelihood.texts import Text
from sedd_cli.inference.denoise import DenoisedRow
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.events import Note, Progress, Warn


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


@pytest.fixture
def own(model):
    return Text(model.recipe.data.corpus)


def prepared(path, tokenizer):
    return open_dataset(returned(prepare(PrepareOptions(str(path), tokenizer=tokenizer))).folder)


@pytest.fixture(params=["char", "byte", "bpe:300", "bpe:600"])
def dataset(request, workplace, tmp_path):
    """The corpus of the tiny run, or one whose words meet digits, underscores, letters of two bytes and long runs."""
    if request.param == "char":
        return prepared(workplace / "corpus.txt", "char")
    lines = [
        f"snake_case{i} naïve café—über x{i}y 'the' (cat)  twice,  {'ab' * (i % 9)}\tDé jà 數字 don't stop"
        for i in range(400)
    ]
    (tmp_path / "odd.txt").write_text("\n".join(lines), encoding="utf-8")
    return prepared(tmp_path / "odd.txt", request.param)


def cut(dataset, length=24):
    return Blocks.cut(dataset.split("test"), "rigorous", length, dataset.tokenizer)


def every_word(blocks, tokenizer):
    """(block, start, stop) of all spans of tokens that are a word with room on both sides, tried one by one."""
    found = set()
    for number, (first, last) in enumerate(blocks.spans.tolist()):
        ids = blocks.split.read(first, last).tolist()
        whole = tokenizer.decode(ids)
        for start in range(CONTEXT, len(ids) - CONTEXT):
            for stop in range(start + 1, len(ids) - CONTEXT + 1):
                left, middle = tokenizer.decode(ids[:start]), tokenizer.decode(ids[:stop])
                if not (whole.startswith(middle) and middle.startswith(left)):
                    continue
                word, right = middle[len(left) :], whole[len(middle) :]
                # a space in front belongs to a gap only where one token holds both
                spaced = word != word.removeprefix(" ") and tokenizer.decode(ids[: start + 1]) != left + " "
                letters = word[spaced:]
                alone = (spaced or not left[-1:].isalpha()) and not right[:1].isalpha()
                if len(letters) >= 3 and letters.isalpha() and alone:
                    found.add((number, start, stop))
    return found


def test_all_words_and_nothing_else_may_be_masked(dataset):
    blocks = cut(dataset, 40)
    gaps = choose_words(blocks, dataset.tokenizer, 10**6, seed=0)
    found = [(gap.block, gap.start, gap.stop) for gap in gaps]
    assert len(set(found)) == len(found)
    assert set(found) == every_word(blocks, dataset.tokenizer)
    assert len(found) > len({block for block, _, _ in found})  # some blocks have several
    for gap in gaps:
        first, last = blocks.spans[gap.block]
        assert list(gap.tokens) == blocks.split.read(int(first), int(last)).tolist()
        assert gap.filled(gap.truth) == list(gap.tokens)
        assert [i for i, token in enumerate(gap.masked) if token is None] == list(range(gap.start, gap.stop))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_block_gives_a_second_word_before_every_other_gave_its_first(dataset, seed):
    blocks = cut(dataset, 40)
    gaps = choose_words(blocks, dataset.tokenizer, 10**6, seed)
    with_words = len({gap.block for gap in gaps})
    assert len({gap.block for gap in gaps[:with_words]}) == with_words
    # fewer are the first of more
    for n in (1, with_words // 2, with_words + 1):
        assert choose_words(blocks, dataset.tokenizer, n, seed) == gaps[:n]
    assert choose_words(blocks, dataset.tokenizer, 10, seed + 7) != gaps[:10]


def test_a_word_with_an_unknown_character_is_left_alone(workplace):
    dataset = prepared(workplace / "corpus.txt", "char")

    class Spelled(type(dataset.tokenizer)):
        """As those tokenizers that spell an unknown symbol in letters."""

        def decode_run(self, ids):
            return super().decode_run(ids).replace("\ufffd", "U")

    @dataclasses.dataclass
    class Split:
        ids: list[int]

        def read(self, start, stop):
            return np.array(self.ids[start:stop])

    tokenizer = Spelled("char", dataset.tokenizer.alphabet)
    for word, words in (("sat", ["sat"]), ("s§t", [])):
        ids = tokenizer.encode(f"on the mat {word} on the mat")
        gaps = choose_words(Blocks(Split(ids), np.array([[0, len(ids)]])), tokenizer, 9, 0)
        assert [tokenizer.decode(gap.truth) for gap in gaps] == words


def test_a_boundary_that_the_text_does_not_have_begins_no_word():
    class Tidy:
        """As decoders that take the space in front of a comma away: alone it stands at the end of a text."""

        unknown, parts = None, ["1", " ", ",sat", "sat"]

        def decode(self, ids):
            return "".join(self.parts[i] for i in ids).replace(" ,", ",")

    for middle, found in (([1, 2], []), ([1, 3], [(9, 10)])):
        tokens = np.array([0] * 8 + middle + [0] * 8)

        class Split:
            def read(self, start, stop, tokens=tokens):
                return tokens[start:stop]

        gaps = choose_words(Blocks(Split(), np.array([[0, 18]])), Tidy(), 9, 0)
        assert [(gap.start, gap.stop) for gap in gaps] == found


# ------------------------------------------------------------------------------------------------------- 5-gram


def corpus(length=600, vocab=7, seed=0):
    rng = np.random.default_rng(seed)
    steps = np.minimum(rng.geometric(0.45, size=length) - 1, vocab - 1)
    return np.cumsum(steps * rng.integers(0, 2, size=length)) % vocab


def brute(train, vocab, left, right, k):
    """Nats of every gap [V^k] with what follows it, by dictionaries."""
    p = reference.kneser_ney(train, vocab, 5)
    found = {}
    for word in itertools.product(range(vocab), repeat=k):
        row = [*left, *word, *right]
        found[word] = -sum(math.log(p(tuple(row[i - 4 : i]), row[i])) for i in range(len(left), len(row)))
    return found


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_most_probable_gap(k, seed):
    vocab = 5
    train, text = corpus(vocab=vocab), corpus(60, vocab + 1, seed + 1) % vocab
    left, right = text[10:14].tolist(), text[20:24].tolist()
    every = brute(train, vocab, left, right, k)
    found = guess(NGram(train, vocab), left, right, k, width=vocab**k)
    assert every[found] == pytest.approx(min(every.values()), rel=1e-12)


def test_what_follows_has_a_say():
    phrase = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 6, 7]  # after 0 1 2 3 come 4 5 or 6 7
    ngram = NGram(np.array(phrase * 20 + phrase[:6]), 8)
    assert guess(ngram, [0, 1, 2, 3], [7, 0, 1, 2], 1) == (6,)
    assert guess(ngram, [0, 1, 2, 3], [5, 0, 1, 2], 1) == (4,)
    assert greedy(ngram, [0, 1, 2, 3], 2) == (4, 5)


def test_one_token_is_exact_whatever_the_width():
    train = corpus()
    for seed in range(20):
        text = corpus(20, 9, seed + 1)
        every = brute(train, 9, text[:4].tolist(), text[5:9].tolist(), 1)
        found = guess(NGram(train, 9), text[:4].tolist(), text[5:9].tolist(), 1, width=1)
        assert every[found] == pytest.approx(min(every.values()), rel=1e-12)


def test_the_greedy_word_takes_the_likeliest_token_each_time():
    train, left = corpus(), [3, 1, 1, 2]
    p, word = reference.kneser_ney(train, 9, 5), []
    for _ in range(4):
        context = tuple([*left, *word][-4:])
        word.append(max(range(9), key=lambda token, context=context: p(context, token)))
    assert greedy(NGram(train, 9), left, 4) == tuple(word)


# ------------------------------------------------------------------------------------------------------ the job


def restored(model, text, options):
    events, result = completed(cloze(model, text, options))
    return result.to_dict(), events


def test_a_sampler_with_a_temperature_of_its_own_is_cold_in_its_turn(model, own):
    """Typed with its options, or as an object from Python."""
    typed, made = "{name: tweedie, steps: 4, temperature: 0.9}", SAMPLERS["tweedie"](steps=4, temperature=0.9)
    found = [
        restored(model, own, ClozeOptions(4, candidates=1, seed=1, sampling=Sampling(sampler=sampler)))[0]
        for sampler in (typed, made)
    ]
    assert found[0]["restored"] == found[1]["restored"]


def test_the_counts_of_restored_words_add_up(model, own):
    found, events = restored(model, own, ClozeOptions(40, candidates=3, seed=1))
    n = found["gaps"]
    assert n == 40
    assert sum(found["tokens_per_gap"].values()) == n
    assert min(map(int, found["tokens_per_gap"])) >= 3  # letters are tokens here
    paired, right = found["paired"], {name: each["restored"] for name, each in found["restored"].items()}
    assert sum(paired.values()) == n
    assert right["model"] == paired["both"] + paired["only model"]
    assert right["5-gram"] == paired["both"] + paired["only 5-gram"]
    assert right["5-gram"] > 0  # five sentences: letters follow from their neighbours
    assert max(right["model"], right["first draw"]) <= right["among candidates"]
    for each in found["restored"].values():
        assert each["share"] == each["restored"] / n
        p = (each["restored"] + 2) / (n + 4)
        assert each["error"] == pytest.approx(math.sqrt(p * (1 - p) / (n + 4)))
    assert len(found["examples"]) == 10
    assert {e.task for e in events if isinstance(e, Progress)} >= {"fillings", "bounds", "5-gram"}


def test_a_result_depends_on_the_seed_and_on_no_batch(model, own):
    # rounding differs with the batch, by less than a draw or a bound can tell here
    first, _ = restored(model, own, ClozeOptions(12, candidates=3, sampling=Sampling(batch=1)))
    for batch in (5, None):
        assert restored(model, own, ClozeOptions(12, candidates=3, sampling=Sampling(batch=batch)))[0] == first
    other, _ = restored(model, own, ClozeOptions(12, candidates=3, seed=4))
    assert other["examples"] != first["examples"]


def test_the_5_gram_is_that_of_the_training_split_and_sees_the_gaps_own_neighbours(model, own):
    dataset = prepared(own.corpus, "char")
    train, decode = dataset.split("train"), dataset.tokenizer.decode
    ngram = NGram(train.read(0, train.tokens), dataset.tokenizer.vocab_size)
    found, _ = restored(model, own, ClozeOptions(10, candidates=1, sampling=Sampling(steps=1)))
    gaps = choose_words(cut(dataset), dataset.tokenizer, 10, 0)
    for gap, example in zip(gaps, found["examples"], strict=True):
        left, right = gap.tokens[gap.start - 4 : gap.start], gap.tokens[gap.stop : gap.stop + 4]
        assert example["5-gram"] == decode(guess(ngram, left, right, len(gap.truth)))
        assert (example["before"], example["truth"]) == (decode(gap.tokens[: gap.start]), decode(gap.truth))
    alone = [greedy(ngram, gap.tokens[gap.start - 4 : gap.start], len(gap.truth)) == gap.truth for gap in gaps]
    assert found["restored"]["5-gram, left only"]["restored"] == sum(alone)


class Oracle:
    """In the place of `denoise`: it finds each row's masked word among the gaps and gives what `words` makes of it."""

    def __init__(self, model, words):
        dataset = prepared(model.recipe.data.corpus, "char")
        self.gaps = {gap.masked: gap for gap in choose_words(cut(dataset), dataset.tokenizer, 10**6, 0)}
        self.words, self.rows = words, []

    def __call__(self, model, way, rows, noun="", watch=False):
        self.rows = [*self.rows, *rows]
        for place, row in reversed(list(enumerate(rows))):  # in any order
            gap = self.gaps[row.tokens]
            yield DenoisedRow(place, gap.filled(self.words(gap.truth, place)), 2, 0.0)


def turned(truth):
    """Another word of as many tokens."""
    return (*truth[:-1], truth[-1] - 1)


def test_who_knows_the_word_restores_all_and_needs_no_bound(model, own, monkeypatch):
    oracle = Oracle(model, lambda truth, place: truth)
    monkeypatch.setattr(job, "denoise", oracle)
    monkeypatch.setattr(job, "candidate_bound", lambda model, tokens: pytest.fail("nothing is to be chosen"))
    found, _ = restored(model, own, ClozeOptions(9, candidates=2))
    for name in ("model", "first draw", "among candidates", "likeliest tokens"):
        error = found["restored"][name].pop("error")
        assert found["restored"][name] == {"restored": 9, "share": 1.0}
        assert 0.05 < error < 0.15, "nine words do not show that all are restored"
    assert found["paired"]["only 5-gram"] == found["paired"]["neither"] == 0
    assert all(e["model"] == e["truth"] for e in found["examples"])
    assert found["nfe"] == 2
    assert len({row.seed for row in oracle.rows}) == 18  # the likeliest tokens are those of the first draw


def test_of_the_candidates_that_with_the_lowest_bound_is_taken_and_equals_are_scored_once(model, own, monkeypatch):
    # of four candidates the first two are wrong, and the same
    oracle, scored = Oracle(model, lambda truth, place: truth if place % 4 > 1 else turned(truth)), []
    truths = {gap.tokens for gap in oracle.gaps.values()}
    monkeypatch.setattr(job, "denoise", oracle)

    def bound(model, tokens):
        scored.append(tuple(tokens))
        return (1.0 if tuple(tokens) in truths else 2.0) * sign, 0.1

    monkeypatch.setattr(job, "candidate_bound", bound)
    for sign in (1, -1):
        scored.clear()
        found, _ = restored(model, own, ClozeOptions(7, candidates=4))
        assert found["restored"]["model"]["restored"] == (7 if sign == 1 else 0)
        assert found["restored"]["first draw"]["restored"] == 0
        assert found["restored"]["among candidates"]["restored"] == 7
        assert len(scored) == len(set(scored)) == 14


def test_without_a_split_to_fit_it_on_the_5_gram_is_left_out(model, own):
    found, events = restored(model, own, ClozeOptions(2, "train", candidates=1))
    assert set(found["restored"]) == {"model", "first draw", "among candidates", "likeliest tokens"}
    assert found["paired"] is None
    assert any("no 5-gram" in e.text for e in events if isinstance(e, Note))


def test_fewer_words_than_requested_are_used_with_a_warning(model, own):
    found, events = restored(model, own, ClozeOptions(10**5, candidates=1, sampling=Sampling(steps=1)))
    dataset = prepared(own.corpus, "char")
    assert found["gaps"] == len(every_word(cut(dataset), dataset.tokenizer)) < 10**5
    assert any("100000 were requested" in e.text for e in events if isinstance(e, Warn))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"gaps": 0}, "gaps must be at least 1"), ({"gaps": 1, "candidates": 0}, "candidates must be at least 1"),
     ({"gaps": 1, "seed": -1}, "seed must lie")],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        ClozeOptions(**options)


def test_what_cannot_fill_is_refused(model, own, tmp_path):
    with pytest.raises(RequestError, match="no tokenizer"):
        list(cloze(dataclasses.replace(model, tokenizer=None, tokenizer_source=None), own, ClozeOptions(1)))

    class Exact:
        exact, source = True, "gpt2"

    with pytest.raises(RequestError, match="gpt2 goes from left to right"):
        list(cloze(Exact(), own, ClozeOptions(1)))
    with pytest.raises(RequestError, match="no split 'dev'"):
        list(cloze(model, own, ClozeOptions(1, "dev")))
    (tmp_path / "digits.txt").write_text("\n".join(f"on {i} or {i * i} of an {i}" for i in range(900)))
    with pytest.raises(RequestError, match="no word of 3 letters or more"):
        list(cloze(model, Text(str(tmp_path / "digits.txt")), ClozeOptions(1)))


def test_the_command_shows_a_table_and_writes_the_document(sedd, tiny_run, tmp_path):
    words = ["cloze", "--model", tiny_run, "-n", 6, "--candidates", 2, "--seed", 3]
    done = sedd(*words, "--out", tmp_path / "c.json", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert json.loads((tmp_path / "c.json").read_text()) == found
    assert (found["gaps"], found["candidates"], found["seed"]) == (6, 2, 3)
    assert found["model_fingerprint"] == load_model(tiny_run, device="cpu").fingerprint
    done = sedd(*words, "--quiet")
    assert done.code == 0, done.err
    for label in ("6 words masked", "best of 2", "any of 2", "5-gram (of train)", "from the left alone", "neither"):
        assert label in done.out
    done = sedd(*words[:5], "--candidates", 1, "--split", "train")
    assert "any of" not in done.out
    assert "5-gram (of train)" not in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0"], "gaps must be at least 1, found 0"),
        (["-n", "2", "--candidates", "0"], "candidates must be at least 1"),
        (["-n", "2", "--dataset", "ptb", "--dataset", "lm1b"], "one text, found 2"),
        (["-n", "2", "--out", "{none}/f"], "does not exist"),
        (["-n", "2", "--split", "dev"], "no split 'dev'"),
    ],
)
def test_a_wrong_request_gets_one_clear_line(sedd, tiny_run, tmp_path, words, message):
    done = sedd("cloze", "--model", tiny_run, *(w.format(none=tmp_path / "none") for w in words))
    assert done.code == 2, done.err
    assert re.search(message, done.err), done.err
    assert done.err.strip().splitlines()[-1].startswith("error:")


def test_it_wants_no_torchrun(sedd, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = sedd("cloze", "-n", 2)
    assert done.code == 2
    assert "without torchrun" in done.err
