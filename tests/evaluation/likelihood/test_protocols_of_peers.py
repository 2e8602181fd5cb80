"""Protocols of other projects: what they measure, beside ours, and which models they are for."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from support.jobs import completed, returned
from support.sedd_networks import LENGTH, save_gidd_hub, save_hub

from sedd_cli.checkpoints.load import open_model
from sedd_cli.core.peer_losses import gidd
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate
from sedd_cli.evaluation.likelihood.summary import Estimates, summary
from sedd_cli.evaluation.likelihood.texts import check_corpus
from sedd_cli.evaluation.likelihood.windows import Windows
from sedd_cli.inference.fitting import check_protocol


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 40)
    return tmp_path / "text.txt"


def evaluated(sedd, folder, corpus, *words, draws=16):
    done = sedd("eval", "--model", folder, "--tokenizer", "byte", "--dataset", corpus, "--no-baselines", "--json",
                "--max-nfe", draws, "--rel-error", 1, *words)  # fmt: skip
    assert done.code == 0, done.err
    return json.loads(done.out)["bounds"]


def test_duos_evaluation_is_mdlms_of_its_own_loss(sedd, tmp_path, corpus):
    save_hub(tmp_path / "m", "duo", 257)
    found = evaluated(sedd, tmp_path / "m", corpus, "--protocol", "duo", "--protocol", "mdlm", "--protocol", "rigorous")
    assert found["duo"]["nats_per_token"] == found["mdlm"]["nats_per_token"]
    assert found["duo"]["tokens"] % LENGTH == 0
    assert found["rigorous"]["nats_per_token"] > 0  # ours stands beside it


def test_udlms_evaluation_lies_near_duos_from_which_its_weights_differ(sedd, tmp_path, corpus):
    save_hub(tmp_path / "m", "udlm", 257)
    found = evaluated(sedd, tmp_path / "m", corpus, "--protocol", "udlm", "--protocol", "duo")
    assert found["udlm"]["nats_per_token"] == pytest.approx(found["duo"]["nats_per_token"], rel=0.3)
    assert found["udlm"]["nats_per_token"] != found["duo"]["nats_per_token"]


def test_radds_evaluation_is_near_the_rigorous_bound_of_a_network_without_time(sedd, tmp_path, corpus):
    save_hub(tmp_path / "m", "mdlm", 258)
    found = evaluated(sedd, tmp_path / "m", corpus, "--protocol", "radd", "--protocol", "rigorous", draws=256)
    radd, rigorous = found["radd"], found["rigorous"]
    apart = abs(radd["nats_per_token"] - rigorous["nats_per_token"])
    assert apart < 4 * (radd["nats_per_token_error"] + rigorous["nats_per_token_error"]) + 0.02
    assert radd["tokens"] == radd["blocks"] * LENGTH
    assert "random order" in radd["process"]


def test_radds_loss_can_be_asked_for_from_python(tmp_path):
    from sedd_cli import load_model

    save_hub(tmp_path / "m", "mdlm")
    model = load_model(tmp_path / "m", device="cpu")
    bound, error = model.bound(torch.tensor([[0, 1, 2, 0, 1, 2]]), protocol="radd")
    assert float(bound) > 0
    assert float(error) > 0


@pytest.mark.parametrize(
    ("protocol", "kind", "message"),
    [
        ("duo", "mdlm", "is for models of uniform noise"),
        ("udlm", "mdlm", "is for models of uniform noise"),
        ("radd", "duo", "is for masked models"),
        ("radd", "mdlm, with time", "is for masked models"),
        ("gidd", "mdlm", "is for models of GIDD's process"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_line(tmp_path, protocol, kind, message):
    name, _, told = kind.partition(", ")
    save_hub(tmp_path / "m", name, **({"time_conditioning": True} if told else {}))
    with pytest.raises(RequestError, match=message) as caught:
        check_protocol(protocol, open_model(tmp_path / "m", "cpu"))
    assert "\n" not in str(caught.value)


#: Words of GIDD's tiny tokenizer: a, which also begins, ends and fills documents, b (1) and c (3, behind MASK).
DOCUMENTS = ["b", "c b", "b c b", "c", "b b c c"]


def gidd_texts(tmp_path, documents=DOCUMENTS):
    (tmp_path / "texts.test.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    return tmp_path / "texts.test.jsonl"


@pytest.mark.parametrize("p_uniform", [0.0, 0.2])
def test_gidds_evaluation_is_its_elbo_of_padded_documents(sedd, tmp_path, p_uniform):
    save_gidd_hub(tmp_path / "m", p_uniform)
    done = sedd("eval", "--model", tmp_path / "m", "--dataset", gidd_texts(tmp_path), "--protocol", "gidd", "--json",
                "--protocol", "rigorous", "--no-baselines", "--max-nfe", 160, "--rel-error",
                0.01)  # fmt: skip
    assert done.code == 0, done.err
    bounds = json.loads(done.out)["bounds"]
    found, training = bounds["gidd"], bounds["gidd"]["training_loss"]
    assert found["upper_bound"] is False
    assert found["sign"] == "≈"
    assert bounds["rigorous"]["upper_bound"] is True
    assert "training_loss" not in bounds["rigorous"]
    assert "clipped weights" in training["name"]
    model = open_model(tmp_path / "m", "cpu")
    states = {"b": 1, "c": 2}
    rows = [[0, *(states[word] for word in one.split()), 0] for one in DOCUMENTS]
    x0 = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])
    counted = torch.arange(LENGTH) < torch.tensor([[len(row)] for row in rows])
    assert found["tokens"] == counted.sum()
    draws, generator = 2000, torch.Generator().manual_seed(0)
    v = (torch.arange(draws) + 0.5) / draws
    totals = torch.zeros(2, dtype=torch.float64)
    for row, own in zip(x0, counted, strict=True):
        u = torch.rand(draws, LENGTH, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            totals += torch.stack(gidd(model.score, row.expand(draws, -1), v, u, own.expand(draws, -1))).mean(1)
    error = found["nats_per_token_error"]
    assert abs(found["nats_per_token"] - float(totals[0]) / found["tokens"]) < 5 * error + 0.02
    assert abs(training["nats_per_token"] - float(totals[1]) / x0.numel()) < 5 * training["error"] + 0.02


def test_windows_have_no_baselines_which_need_a_text_in_one_piece(sedd, tmp_path):
    save_gidd_hub(tmp_path / "m")
    texts = gidd_texts(tmp_path, ["c b c b b c b c c b"] * 5)
    words = ("eval", "--model", tmp_path / "m", "--dataset", texts, "--max-nfe", 8, "--json", "--protocol", "gidd")
    alone, beside = (json.loads(sedd(*words, *more).out) for more in ((), ("--protocol", "rigorous")))
    assert "baselines" not in alone
    assert "baselines" in beside
    assert alone["bounds"]["gidd"]["tokens"] == 5 * LENGTH


def test_the_training_loss_of_gidd_is_named_as_such(sedd, tmp_path):
    save_gidd_hub(tmp_path / "m")
    words = ("eval", "--model", tmp_path / "m", "--dataset", gidd_texts(tmp_path), "--protocol", "gidd")
    done = sedd(*words, "--no-baselines", "--max-nfe", 16)
    assert done.code == 0, done.err
    assert re.search(r"GIDD's training loss, with clipped weights: \S+ ± \S+ nats per token, which is no likelihood",
                     " ".join(done.err.split()))  # fmt: skip


@pytest.fixture
def long_documents(tmp_path):
    """The split of a prepared corpus of documents of 30 bytes, and a short one."""
    file = gidd_texts(tmp_path, [f"{i:02}" + "abcdefghijklmnopqrstuvwxyz01" for i in range(40)] + ["xyz"])
    return open_dataset(returned(prepare(PrepareOptions(str(file), None, tokenizer="byte"))).folder)


def test_windows_lie_anywhere_in_long_documents_and_are_padded_in_short_ones(long_documents):
    split, byte = long_documents.split("test"), long_documents.tokenizer
    ends, seen = split.document_ends(), set()
    for seed in range(20):
        windows = Windows.of_documents(split, 12, byte, 7, None, seed)
        rows = windows.read(torch.arange(len(windows)))
        assert rows.shape == (len(ends), 12)
        for row, counted, start, end in zip(
            rows, windows.counted(torch.arange(len(windows))), [0, *ends], ends, strict=False
        ):
            whole = [byte.bos, *split.read(start, end).tolist()]
            own = row[counted].tolist()
            if len(whole) <= 12:
                assert own == whole
                assert (row[~counted] == 7).all()
            else:
                at = next(i for i in range(len(whole)) if whole[i : i + 12] == own)
                seen.add(at)
                # their code never draws the last place
                assert at < len(whole) - 12
    assert seen == set(range(32 - 12))


def test_the_mean_is_that_of_batches(long_documents):
    windows = Windows.of_documents(long_documents.split("test"), 12, long_documents.tokenizer, 7, None, 0)
    share, lengths = windows.shares(torch.arange(len(windows))), torch.from_numpy(windows.lengths)
    nats = torch.rand(len(windows), dtype=torch.float64)
    parts = [(nats[i : i + 32].sum() / lengths[i : i + 32].sum(), len(nats[i : i + 32])) for i in (0, 32)]
    expected = sum(mean * size for mean, size in parts) / len(nats)
    assert float((share * nats).sum() / lengths.sum()) == pytest.approx(float(expected))


def test_where_all_tokens_cost_the_same_the_choice_of_documents_adds_no_error(long_documents):
    windows = Windows.of_documents(long_documents.split("test"), 12, long_documents.tokenizer, 7, None, 0)
    nats = 2.0 * windows.lengths * windows.shares(torch.arange(len(windows))).numpy()
    found = summary(windows, Estimates(nats[None], 1), "gidd")
    assert found.nats_per_token == pytest.approx(2.0)
    assert found.nats_per_token_between_documents == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("protocol", ["mdlm", "udlm"])
def test_lm1b_is_refused_where_its_sentences_are_padded(tmp_path, corpus, protocol):
    save_hub(tmp_path / "m", protocol, 258 if protocol == "mdlm" else 257)
    model = open_model(tmp_path / "m", "cpu", tokenizer="byte")
    dataset = open_dataset(returned(prepare(PrepareOptions(str(corpus), None, tokenizer="byte"))).folder)
    dataset.manifest = replace(dataset.manifest, corpus="lm1b")
    with pytest.raises(RequestError, match=f"{protocol}' is not reproduced on lm1b, .*: take rigorous or sedd-paper"):
        completed(evaluate(model, dataset, EvaluateOptions(protocols=(protocol,), baselines=False)))


@pytest.mark.parametrize(("protocol", "refused"), [("mdlm", False), ("udlm", True), ("duo", False)])
def test_mdlm_packs_lm1b_for_models_with_the_tokenizer_of_gpt2(corpus, protocol, refused):
    dataset = open_dataset(returned(prepare(PrepareOptions(str(corpus), None, tokenizer="byte"))).folder)
    dataset.manifest = replace(dataset.manifest, corpus="lm1b", tokenizer="gpt2")
    with pytest.raises(RequestError, match="not reproduced") if refused else nullcontext():
        check_corpus(protocol, dataset)
