"""`--protocol llada`: answers given their prompts, by LLaDA's estimate and over the tokens alone."""

from __future__ import annotations

import json
import math
from itertools import combinations

import pytest
import torch
from support import llamas
from support.sedd_networks import save_hub

from sedd_cli.checkpoints.load import open_model
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood import answers
from sedd_cli.evaluation.likelihood.answers import Pair, read_pairs
from sedd_cli.evaluation.likelihood.llada import answer_likelihoods
from sedd_cli.system.digests import digest

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture
def folder(tmp_path):
    return llamas.save_llada(tmp_path / "m", llamas.reference(), text=True)


@pytest.fixture
def pairs(tmp_path):
    lines = [{"prompt": "the cat ", "answer": "sat"}, {"prompt": "a", "answer": "b"}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return tmp_path / "pairs.jsonl"


def test_the_command_prints_writes_and_returns_both_estimates_of_each_answer(sedd, folder, pairs, tmp_path):
    words = ("eval", "--model", folder, "--protocol", "llada", "--from", pairs, "--device", "cpu")
    done = sedd(*words, "--json", "--out", tmp_path / "o.json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert json.loads((tmp_path / "o.json").read_text()) == found
    assert (found["precision"], found["device"], found["file"]) == ("fp32", "cpu", str(pairs))
    texts = [["the cat ", "sat"], ["a", "b"]]
    assert found["fingerprint"] == digest(texts)
    first, second = found["answers"]
    assert (first["llada"]["tokens"], second["llada"]["tokens"]) == (4, 1)  # a space goes with the answer
    model = open_model(folder, "cpu")
    prompt, answer = Pair("the cat ", "sat").tokens(model.text_tokenizer())
    assert first["llada"]["log_p"] == answer_likelihoods(model, prompt, answer)[0].log_p
    assert first["llada"]["log_p"] < first["tokens"]["log_p"]  # MASK and only MASK is left out
    assert first["llada"]["draws"] == 128
    shown = sedd(*words)
    assert "tokens alone" in shown.out


def test_both_estimates_have_the_mean_over_all_that_can_be_masked(folder):
    """And none lies above log p of the answer in random order."""
    model = open_model(folder, "cpu")
    prompt, answer = [3, 7], [5, 1, 9]
    x0 = torch.tensor([prompt + answer])
    exact = torch.zeros(2, dtype=torch.float64)
    for k in range(1, 4):
        for masked in combinations(range(2, 5), k):
            x = x0.clone()
            x[0, list(masked)] = llamas.MASK
            log_p = model.log_p_x0(x, torch.tensor([0.5])).double()[0]
            alone = log_p.clone()
            alone[:, llamas.MASK] = -math.inf
            for number, each in enumerate((log_p, alone.log_softmax(-1))):
                nats = sum(float(each[i, x0[0, i]]) for i in masked)
                exact[number] += nats / k / math.comb(3, k)
    found = answer_likelihoods(model, prompt, answer, draws=4096)
    for estimate, truth in zip(found, exact.tolist(), strict=True):
        assert abs(estimate.log_p - truth) < 4 * estimate.error
        assert estimate.error < 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pairs"),
        ("{", "line 1 of .* is not JSON"),
        ("[1]", "needs the texts prompt and answer"),
        ('{"prompt": "a"}', "needs the texts prompt and answer"),
        ('{"prompt": "a", "answer": ""}', "needs the texts prompt and answer"),
        ('{"prompt": "a", "answer": 3}', "needs the texts prompt and answer"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused(tmp_path, text, message):
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_pairs(tmp_path / "pairs.jsonl")


def test_a_pair_is_a_line_as_in_every_file_of_records(tmp_path):
    # U+2028 and a form feed end no line; the mark of UTF-8 is none of the text
    pairs = [{"prompt": "a\u2028b", "answer": "c\x85d"}, {"prompt": "e", "answer": "f"}]
    text = "".join(json.dumps(one, ensure_ascii=False) + "\r\n" for one in pairs)
    (tmp_path / "pairs.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [(one.prompt, one.answer) for one in read_pairs(tmp_path / "pairs.jsonl")] == [
        ("a\u2028b", "c\x85d"),
        ("e", "f"),
    ]
    (tmp_path / "twice.jsonl").write_text('{"prompt": "a", "answer": "b", "answer": "c"}')
    with pytest.raises(RequestError, match="'answer' stands twice"):
        read_pairs(tmp_path / "twice.jsonl")


def test_a_pair_without_tokens_to_score_is_named_before_any_is_scored(folder, monkeypatch):
    monkeypatch.setattr(answers, "answer_likelihoods", lambda *a, **k: pytest.fail("a pair was scored"))
    with pytest.raises(RequestError, match="pair 2: the answer has no tokens"):
        list(answers.score_answers(open_model(folder, "cpu"), [Pair("a", "b"), Pair("a", "")], 0))


def test_wrong_requests_are_refused_in_one_line(sedd, folder, pairs, tmp_path):
    def refused(*words, model=folder):
        done = sedd("eval", "--model", model, *words)
        assert done.code == 2, done.err
        return done.err

    assert "answers given prompts" in refused("--protocol", "llada")
    assert "stands alone" in refused("--protocol", "llada", "--protocol", "rigorous", "--from", pairs)
    assert "cannot read" in refused("--protocol", "llada", "--from", tmp_path / "none.jsonl")
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "a" * 40, "answer": "b" * 20}))
    assert "more than the model's 48" in refused("--protocol", "llada", "--from", tmp_path / "long.jsonl")
    save_hub(tmp_path / "duo", "duo", 257)
    (tmp_path / "short.jsonl").write_text(json.dumps({"prompt": "a", "answer": "b"}))
    words = ("--protocol", "llada", "--from", tmp_path / "short.jsonl", "--tokenizer", "byte")
    assert "fills all positions at once" in refused(*words, model=tmp_path / "duo")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--split", "test"], "--split"),
        (["--rel-error", 0.5], "--rel-error"),
        (["--max-nfe", 2], "--max-nfe"),
        (["--length", 8], "--length"),
        (["--no-baselines"], "--no-baselines"),
        (["--steps", 4], "--steps"),
        (["--field", "text"], "--field"),
    ],
)
def test_options_that_answers_do_not_take_are_refused(sedd, pairs, words, named):
    done = sedd("eval", "--model", "none", "--protocol", "llada", "--from", pairs, *words)
    assert (done.code, f"{named} has no effect with --protocol llada" in done.err) == (2, True), done.err


def test_answers_are_evaluated_in_one_process(sedd, pairs, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = sedd("eval", "--model", "none", "--protocol", "llada", "--from", pairs)
    assert (done.code, "without torchrun" in done.err) == (2, True)


def test_dream_needs_a_prompt(sedd, tmp_path):
    config = {"config": {"mask_token_id": llamas.MASK}}
    folder = llamas.save_hugging_face(tmp_path / "m", llamas.reference("Qwen2"), "Dream", text=True, **config)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "", "answer": "ab"}))
    done = sedd("eval", "--model", folder, "--protocol", "llada", "--from", tmp_path / "pairs.jsonl")
    assert done.code == 2
    assert "never predicts the first token" in done.err
