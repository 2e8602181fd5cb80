"""Protocols of other projects: what they measure, beside ours, and which models they are for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from support.jobs import completed, returned
from support.sedd_networks import LENGTH, save_gidd_hub, save_hub

from sedd_cli.checkpoints.load import open_model
from sedd_cli.data.prepare import PrepareOptions, prepare
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate
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
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_line(tmp_path, protocol, kind, message):
    name, _, told = kind.partition(", ")
    save_hub(tmp_path / "m", name, **({"time_conditioning": True} if told else {}))
    with pytest.raises(RequestError, match=message) as caught:
        check_protocol(protocol, open_model(tmp_path / "m", "cpu"))
    assert "\n" not in str(caught.value)


def test_gidds_evaluation_is_refused_with_the_reason(sedd, tmp_path, corpus):
    save_gidd_hub(tmp_path / "m")
    done = sedd("eval", "--model", tmp_path / "m", "--dataset", corpus, "--protocol", "gidd")
    assert done.code == 2
    assert "not reproduced" in done.err


def test_udlm_on_lm1b_is_refused(tmp_path, corpus):
    save_hub(tmp_path / "m", "udlm", 257)
    model = open_model(tmp_path / "m", "cpu", tokenizer="byte")
    dataset = open_dataset(returned(prepare(PrepareOptions(str(corpus), None, tokenizer="byte"))).folder)
    dataset.manifest = replace(dataset.manifest, corpus="lm1b")
    with pytest.raises(RequestError, match="not reproduced on lm1b"):
        completed(evaluate(model, dataset, EvaluateOptions(protocols=("udlm",), baselines=False)))
