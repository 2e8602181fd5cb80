"""A left-to-right model of ours as judge, as features, and as what continues prompts."""

from __future__ import annotations

import dataclasses
import math
import shutil

import numpy as np
import pytest
import torch
from support import llamas, sedd_networks
from support.jobs import returned

from sedd_cli import load_model
from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.data.prepared import prepared
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.mauve.job import mauve
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.scorers.scorer import load_scorer
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Sampled
from sedd_cli.system.home import home
from sedd_cli.training.train import TrainOptions, train


@pytest.fixture(autouse=True)
def _empty_caches():
    """Generations and features of these tests are not found by others'."""
    yield
    for name in ("mauve", "features"):
        shutil.rmtree(home() / name, ignore_errors=True)


@pytest.fixture(scope="module")
def causal_run(workplace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader") / "run"
    asked = ["objective=autoregressive", "train.steps=30", "train.save_every=30"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        list(train(load_recipe(workplace / "tiny.yaml", asked), TrainOptions(folder, "cpu", report=False)))
    return folder


@pytest.fixture(scope="module")
def reader(causal_run):
    return load_scorer(causal_run, "cpu")


def judged(reader, samples):
    return returned(judge(reader, samples, False)).to_dict()


def test_a_run_of_ours_judges_texts_as_its_own_likelihood_says(reader):
    found = judged(reader, Samples(["the cat sat", "a dog"], [None, None]))
    each = []
    for text in ("the cat sat", "a dog"):
        ids = torch.tensor([reader.model.text_tokenizer().encode(text)])
        z = reader.model.net(torch.cat([torch.tensor([[reader.model.graph.mask]]), ids[:, :-1]], 1), torch.zeros(1))
        log_p = z[..., : reader.model.graph.vocab_size].double().log_softmax(-1)
        each.append(float((-log_p[0, 1:].gather(-1, ids[0, 1:, None])).mean().exp()))
    assert found["per_sequence"]["perplexity"] == pytest.approx(sum(each) / 2, rel=1e-5)
    assert found["judged"] == "text"
    assert "transformers" not in found["software"]


def test_ids_of_its_own_tokenizer_are_judged_as_they_are(reader, tiny_run):
    own = reader.model.text_tokenizer()
    ids = own.encode("the cat sat on a mat")
    sampled = [Sampled(i, None, ids, 3, 0.1) for i in range(2)]
    assert judged(reader, Samples.of(sampled, own))["judged"] == "ids"
    assert own.ids == load_model(tiny_run, "cpu").text_tokenizer().ids


def test_longer_texts_are_judged_in_stretches(reader):
    text = "the cat sat on a mat and the dog did not"
    (ids,) = reader.encode([text])
    assert len(ids) > reader.context == 24
    stretches = [ids[start : start + 24] for start in range(0, len(ids) - 1, 23)]  # they overlap by one token
    nats = sum(float(reader.nats_given_first(torch.tensor([part]))) for part in stretches)
    found = judged(reader, Samples([text], [None]))
    assert found["per_sequence"]["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)))


def test_features_are_what_the_head_reads_behind_the_last_token(reader):
    rows = reader.encode(["the cat", "a dog sat here", "so"])
    found = reader.features(rows, at_once=2)
    for row, feature in zip(rows, found, strict=True):
        x = torch.tensor([[reader.model.graph.mask, *row]])
        assert np.allclose(feature, reader.model.net.hidden(x, torch.zeros(1))[0, -1], atol=1e-5)
    assert np.allclose(found, reader.features(rows, at_once=1), atol=1e-5)  # what is padded changes nothing
    assert reader.features([], 2).shape == (0, found.shape[1])
    with pytest.raises(RequestError, match="1 of 2 texts have no token"):
        reader.features([rows[0], []], 2)
    with pytest.raises(RequestError, match="longer than the 23"):
        reader.features([[0] * 24], 2)


def test_what_has_no_likelihood_or_lacks_a_character_is_refused(reader, tiny_run):
    with pytest.raises(RequestError, match=r"no exact likelihoods: a judge, .* must be autoregressive"):
        load_scorer(tiny_run, "cpu")
    with pytest.raises(RequestError, match="neither a folder nor a hub id"):
        load_scorer("/no/where/at/all", "cpu")
    with pytest.raises(RequestError, match="lacks characters of 1 texts"):
        reader.encode(["the cat", "語"])


def save_dream(folder):
    return llamas.save_hugging_face(folder, llamas.reference("Qwen2"), "Dream", config={"mask_token_id": llamas.MASK})


DIFFUSION = {name: save for name, (save, *_) in sedd_networks.FORMATS.items()} | {
    "llada": lambda folder: llamas.save_llada(folder, llamas.reference()),
    "smdm": lambda folder: llamas.save_smdm(folder, llamas.reference()),
    "dream": save_dream,
}


@pytest.mark.parametrize("name", DIFFUSION)
def test_a_diffusion_model_of_another_project_is_said_to_be_one(tmp_path, name):
    DIFFUSION[name](tmp_path / "m")
    path = tmp_path / "m" if (tmp_path / "m").exists() else tmp_path / "m.ckpt"
    with pytest.raises(RequestError, match=r"is a diffusion model \(.*\), which has a bound and no exact likelihood: a "
                       "judge, or a model of features, must be autoregressive"):  # fmt: skip
        load_scorer(path, "cpu")


def test_commands_that_name_a_judge_or_features_say_so(sedd, tmp_path, tiny_run):
    save_dream(tmp_path / "m")
    (tmp_path / "texts.txt").write_text("the cat sat on it\n\na dog ran to me\n")
    wanted = ("--mode", "infill", "--prompt", 4, "--new", 4, "-n", 2)
    for command in (
        ("judge", tmp_path / "texts.txt", "--judge", tmp_path / "m"),
        ("sweep", "--model", tiny_run, "--judge", tmp_path / "m", "--steps", 2, "-n", 2, "--out", tmp_path / "sweep"),
        ("mauve", "--model", tiny_run, "--references", tmp_path / "texts.txt", "--features", tmp_path / "m", *wanted),
    ):
        done = sedd(*command)
        assert done.code == 2
        assert "is a diffusion model (dream)" in done.err


def test_exports_of_ours_are_read_as_what_they_are(causal_run, tiny_run, reader, tmp_path):
    for run, name in ((causal_run, "causal"), (tiny_run, "diffusion")):
        list(export(load_model(run, device="cpu"), ExportOptions(tmp_path / name, transformers=True)))
        (tmp_path / name / "recipe.yaml").unlink()
    again, x = load_scorer(tmp_path / "causal", "cpu"), torch.tensor([reader.encode(["the cat"])[0]])
    assert torch.equal(again.nats(x), reader.nats(x))
    with pytest.raises(RequestError, match="must be autoregressive"):
        load_scorer(tmp_path / "diffusion", "cpu")
    list(export(load_model(tiny_run, device="cpu"), ExportOptions(tmp_path / "published")))
    (tmp_path / "published" / "recipe.yaml").unlink()
    with pytest.raises(RequestError, match=r"diffusion model \(published layout of SEDD\).*must be autoregressive"):
        load_scorer(tmp_path / "published", "cpu")


def test_mauve_with_a_run_of_ours_on_every_side(causal_run, tiny_run):
    own = load_model(tiny_run, "cpu").text_tokenizer().fingerprint
    folder, name = next((at, m.corpus) for at, m in prepared() if m.tokenizer_fingerprint == own)
    small = {"count": 40, "generations": 1, "prompt": 8, "new": 8, "seeds": 1}
    options = MauveOptions(name, features=str(causal_run), windows=True, **small)

    def compare(source, **changed):
        return returned(mauve(load_model(source, "cpu"), dataclasses.replace(options, **changed), "cpu")).to_dict()

    nucleus, plain = compare(causal_run), compare(causal_run, top_p=1.0)
    assert nucleus["sampler"] | {"name": "left_to_right", "top_p": 0.95, "nfe_mean": 8.0} == nucleus["sampler"]
    assert plain["sampler"]["top_p"] == 1.0
    filled = compare(tiny_run, mode="infill", temperature=0.8)
    assert filled["sampler"]["temperature"] == 0.8
    assert filled["references"] == nucleus["references"] == plain["references"]
    assert filled["references"]["short"] == 0
    split = open_dataset(folder).split("test")
    with pytest.raises(RequestError, match=f"has {split.tokens // 16} usable references"):
        compare(tiny_run, count=10**6)  # windows end to end, and not one that is shorter
    with pytest.raises(RequestError, match="cannot infill"):
        compare(causal_run, mode="infill")
    with pytest.raises(RequestError, match="--windows belongs to a prepared corpus"):
        compare(tiny_run, references=__file__)
