"""Real text and controls without a network beside a generative perplexity, and the marks of lost diversity."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from support.causal_models import save_tiny_causal
from support.jobs import completed, returned

from sedd_cli import load_model
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.baselines.controls import controls, ngram_draws, repeated_phrase, unigram_draws
from sedd_cli.evaluation.baselines.ngram import NGram
from sedd_cli.evaluation.controls import (
    ALIKE,
    BLEU_MARGIN,
    ENTROPY_MARGIN,
    LOW_ENTROPY,
    ControlSet,
    comparable,
    compare,
    marks,
    own_corpus,
)
from sedd_cli.evaluation.diversity import Diversity
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.scorers.pretrained import load_causal
from sedd_cli.evaluation.sweep import SweepOptions, parse_temperatures, sweep
from sedd_cli.evaluation.sweep_plot import plot_frontier
from sedd_cli.system.events import Note, Warn

TEXT = np.array([0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6, 7, 3, 9, 9])


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return load_causal(save_tiny_causal(tmp_path_factory.mktemp("judge") / "tiny", n_positions=32), "cpu")


@pytest.fixture
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


@pytest.fixture
def corpus(model):
    return own_corpus(model)


# The controls


def test_the_phrase_is_the_most_frequent_run_of_the_text():
    assert repeated_phrase(TEXT, [10, 3]) == [[0, 1, 2, 3, 4, 5, 6, 7, 0, 1], [0, 1, 2]]
    assert repeated_phrase(np.array([4, 4]), [3]) == [[4, 4, 4]]


def test_unigram_draws_have_the_frequencies_of_the_text():
    (row,) = unigram_draws(TEXT, [40_000], seed=1)
    found, truth = Counter(row), Counter(TEXT.tolist())
    for token, count in truth.items():
        p = count / len(TEXT)
        assert found[token] / len(row) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / len(row)))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_ngram_draws_follow_the_tempered_distribution_of_the_model(temperature):
    model = NGram(TEXT, 10, order=3)
    rows = np.array(ngram_draws(model, [3] * 20_000, temperature, seed=0))
    for context in ([], [0], [0, 1]):
        at = len(context)
        found = rows[(rows[:, :at] == context).all(1)][:, at]
        p = np.exp(-model.nats_after(np.array([context], dtype=np.int64).reshape(1, at))[0] / temperature)
        p /= p.sum()
        share = np.bincount(found, minlength=10) / len(found)
        assert np.abs(share - p).max() < 5 * math.sqrt(0.25 / len(found))


def test_every_control_has_as_many_texts_and_as_long_as_asked_and_only_known_tokens():
    lengths = [5, 2, 9]
    found = dict(controls(TEXT, 10, lengths, seed=3))
    assert list(found)[:3] == ["repeated phrase", "unigram draws", "5-gram draws"]
    for rows in found.values():
        assert [len(row) for row in rows] == lengths
        assert all(0 <= token < 10 for row in rows for token in row)
    assert found == dict(controls(TEXT, 10, lengths, seed=3))
    assert found["5-gram draws"] != dict(controls(TEXT, 10, lengths, seed=4))["5-gram draws"]


# The rule


def diversity(entropy=3.0, error=0.01, bleu=0.2):
    return Diversity(entropy, error, {}, bleu)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (diversity(), ()),
        (diversity(entropy=3.0 - ENTROPY_MARGIN + 0.01), ()),
        (diversity(entropy=3.0 - ENTROPY_MARGIN - 0.01), (LOW_ENTROPY,)),
        (diversity(entropy=2.7, error=0.2), ()),  # within two standard errors
        (diversity(entropy=3.9), ()),  # more than real text: that is no loss
        (diversity(entropy=None, error=None, bleu=None), ()),
        (diversity(bleu=0.2 + BLEU_MARGIN + 0.01), (ALIKE,)),
        (diversity(entropy=1.0, bleu=1.0), (LOW_ENTROPY, ALIKE)),
    ],
)
def test_marks_are_a_stated_rule(found, expected):
    assert marks(found, diversity()) == expected


# Beside samples


def texts_of(corpus, n, length):
    split = corpus.split("train")
    return Samples([None] * n, [split.read(i * length, (i + 1) * length).tolist() for i in range(n)], corpus.tokenizer)


def test_a_repeated_phrase_and_cold_draws_are_caught_and_real_text_is_not(causal, corpus):
    samples = texts_of(corpus, 16, 24)
    found = returned(compare(causal, samples, corpus, seed=0))
    by_name = {control.name: control for control in found.controls}
    assert by_name["repeated phrase"].judged.self_bleu == pytest.approx(1)
    assert LOW_ENTROPY in by_name["repeated phrase"].marks
    assert LOW_ENTROPY in by_name["5-gram, T 0.4"].marks or LOW_ENTROPY not in by_name["5-gram draws"].marks
    assert found.real.marks == ()
    assert found.marks(returned(judge(causal, samples))) == ()
    assert all(control.judged.samples == 16 for control in (found.real, *found.controls))
    assert all(control.judged.with_self_bleu for control in found.controls)
    beaten = found.better(found.real.judged)
    assert {c.name for c in beaten} == {
        c.name for c in found.controls if c.judged.per_sequence.perplexity < found.real.judged.per_sequence.perplexity
    }
    assert ControlSet.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_stored_comparison_is_used_for_the_same_texts_only(causal, corpus):
    samples = texts_of(corpus, 4, 12)
    first = returned(compare(causal, samples, corpus, seed=0))
    assert returned(compare(causal, samples, corpus, 0, first)) is first
    assert returned(compare(causal, samples, corpus, 1, first)).key != first.key
    assert returned(compare(causal, texts_of(corpus, 4, 10), corpus, 0, first)).key != first.key


def test_the_points_of_a_sweep_that_is_judged_as_text_share_one_comparison(causal, corpus):
    """Their lengths in the corpus's tokens differ a little."""
    first = returned(compare(causal, texts_of(corpus, 4, 12).as_texts(), corpus, seed=0))
    assert returned(compare(causal, texts_of(corpus, 4, 10).as_texts(), corpus, 0, first)) is first
    assert returned(compare(causal, texts_of(corpus, 3, 12).as_texts(), corpus, 0, first)) is not first
    assert returned(compare(causal, texts_of(corpus, 4, 12), corpus, 0, first)) is not first


def test_samples_longer_than_the_corpus_have_no_controls(causal, corpus):
    size = max(corpus.split(name).tokens for name in corpus.splits)
    long = Samples([None], [[0] * (size + 1)], corpus.tokenizer)
    events, found = completed(compare(causal, long, corpus, seed=0))
    assert found is None
    assert any(f"has {size:,} tokens" in event.text for event in events if isinstance(event, Warn))


def test_ids_of_another_tokenizer_are_compared_as_texts(causal, corpus):
    ids = corpus.tokenizer.encode("the cat sat on")
    same = comparable(Samples(["the cat sat on"], [ids]), corpus)
    assert same.tokens == [ids]
    assert same.tokenizer is corpus.tokenizer  # so that a judge with this tokenizer scores them as they are
    other = comparable(Samples(["the cat sat on"], [[0, 1, 1, 0]]), corpus)
    assert (other.texts, other.tokens) == (["the cat sat on"], [None])
    found = returned(compare(causal, other, corpus, seed=0))
    assert found.real.judged.diversity_in_tokens_of == "judge"
    with pytest.raises(RequestError, match="--tokenizer"):
        comparable(Samples([None], [[0, 1, 1, 0]]), corpus)


def test_more_text_than_there_is_overlaps_and_says_so(causal, corpus):
    events, _ = completed(compare(causal, texts_of(corpus, 2, 8), corpus, seed=0))
    assert not any("overlap" in event.text for event in events if isinstance(event, Note))
    size = corpus.split("train").tokens
    text = "the cat sat on the mat"
    n = size // len(text) + 9
    many = Samples([text] * n, [None] * n)
    said = (event.text for event in compare(causal, many, corpus, seed=0) if isinstance(event, Note))
    assert any("overlap" in text for text in said), "before anything is judged"


def test_a_judge_that_cannot_read_the_controls_costs_a_warning(corpus):
    class Unable:
        fingerprint, precision, ids, source = "x", "fp32", "other", "unable"

        def encode(self, texts):
            raise RequestError("unable lacks characters of 1 texts")

    events, found = completed(compare(Unable(), texts_of(corpus, 2, 8).as_texts(), corpus, seed=0))
    assert found is None
    assert any("lacks characters" in event.text for event in events if isinstance(event, Warn))


# Sweeps


def test_a_sweep_over_temperatures_stands_beside_the_controls(model, causal, corpus, tmp_path):
    options = SweepOptions(tmp_path, (2,), n=4, temperatures=(1.0, 0.5))
    found = returned(sweep(model, causal, options, corpus))
    assert [point.temperature for point in found.points] == [1.0, 0.5]
    names = sorted(path.name for path in (tmp_path / "samples").glob("*.jsonl"))
    assert names == ["tweedie-2@0.5.jsonl", "tweedie-2@1.jsonl"]
    document = found.to_dict()
    assert {"marks", "self_bleu", "distinct", "unigram_entropy"} <= document["points"][0].keys()
    assert document["comparison"]["controls"][0]["name"] == "repeated phrase"
    again = returned(sweep(model, causal, options, corpus))
    assert again == found
    plain = returned(sweep(model, causal, SweepOptions(tmp_path, (2,), n=4), corpus))
    assert [point.temperature for point in plain.points] == [None, 1.0, 0.5]
    plot_frontier(plain, tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    fresh = returned(sweep(model, causal, SweepOptions(tmp_path, (2,), n=4, seed=5, resume=False)))
    assert fresh.comparison is None
    assert sorted(path.name for path in (tmp_path / "samples").glob("*.jsonl")) == ["tweedie-2.jsonl"]


def test_a_folder_of_an_earlier_version_gains_the_controls(model, causal, corpus, tmp_path):
    options = SweepOptions(tmp_path, (2,), n=4)
    assert returned(sweep(model, causal, options)).comparison is None
    events, found = completed(sweep(model, causal, options, corpus))
    assert found.comparison is not None
    assert any("judged before" in event.text for event in events if isinstance(event, Note))


@pytest.mark.parametrize(
    ("text", "message"),
    [("1,hot", "temperatures are written"), ("1,1", "twice"), ("0", "positive"), ("inf", "positive"), ("", "written")],
)
def test_temperatures_that_make_no_sense_are_refused(text, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        SweepOptions(tmp_path, (2,), temperatures=parse_temperatures(text))


def test_the_command_marks_and_names_what_beats_a_sample_without_a_network(sedd, tiny_run, causal, tmp_path):
    words = ["sweep", "--model", tiny_run, "--judge", causal.source, "-n", 4, "--steps", "2"]
    done = sedd(*words, "--out", tmp_path / "fig", "--temperature", "1,0.5")
    assert done.code == 0, done.err
    assert "repeated phrase" in done.out
    assert "alike" in done.out or "low entropy" in done.out
    assert (tmp_path / "fig" / "frontier.png").is_file()
    assert sedd(*words, "--out", tmp_path / "fig", "--temperature", "1,x").code == 2
