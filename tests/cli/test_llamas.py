"""Commands with models in the layouts of LLaDA, Dream and SMDM."""

from __future__ import annotations

import json

import pytest
from support.llamas import MASK, reference, save_hugging_face, save_llada, save_smdm

CHOSEN = (
    "--sampler", "confidence", "--steps", "6", "--block-length", "4", "--temperature", "0", "--order", "margin",
    "--quota", "linear", "--guidance", "0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def llada(tmp_path_factory):
    return save_llada(tmp_path_factory.mktemp("llada") / "m", reference(), shards=2, text=True)


@pytest.fixture(scope="module")
def dream(tmp_path_factory):
    model = reference("Qwen2", num_key_value_heads=2)
    folder = tmp_path_factory.mktemp("dream") / "m"
    return save_hugging_face(folder, model, "Dream", text=True, config={"mask_token_id": MASK})


@pytest.mark.parametrize("options", [(), CHOSEN])
@pytest.mark.parametrize("name", ["llada", "dream"])
def test_samples_begin_with_the_prompt(request, sedd, name, options):
    folder = request.getfixturevalue(name)
    done = sedd("sample", "--model", folder, "--length", 20, "--prompt", "the cat", "--json", *options)
    assert done.code == 0, done.err
    (sample,) = json.loads(done.out)["samples"]
    assert sample["text"].startswith("the cat")
    assert len(sample["tokens"]) == 20
    if options:
        assert (sample["sampler"], sample["nfe"]) == ("confidence", 12)  # six steps, guided
        assert sample["levers"] == {
            "temperature": 0.0, "order": "margin", "quota": "linear", "block_length": 4, "guidance": 0.5
        }  # fmt: skip


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_gaps_are_filled_and_given_text_stays(request, sedd, name):
    folder = request.getfixturevalue(name)
    done = sedd("infill", "--model", folder, "-t", "the [MASK:3] sat [MASK:2-3].", "--json")
    assert done.code == 0, done.err
    (filling,) = json.loads(done.out)["samples"]
    assert filling["text"].startswith("the ")
    assert " sat " in filling["text"]
    assert filling["text"].endswith(".")
    assert filling["bound"] > 0


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_a_text_is_bounded_and_the_model_inspected(request, sedd, name, tmp_path):
    folder = request.getfixturevalue(name)
    (tmp_path / "text.txt").write_text("\n\n".join(f"the cat sat on the mat {'a' * i}." for i in range(200)))
    done = sedd("eval", "--model", folder, "--dataset", tmp_path / "text.txt", "--max-nfe", 8, "--json")
    assert done.code == 0, done.err
    assert '"rigorous"' in done.out
    done = sedd("inspect", folder, "--json")
    assert done.code == 0, done.err + done.out


def test_dream_without_a_beginning_is_refused_before_the_work(sedd, dream):
    for command in (("sample",), ("infill", "-t", "[MASK:3] cat")):
        done = sedd(*command, "--model", dream)
        assert done.code == 2
        assert "never predicts the first token: begin with given text" in done.err
        assert "of 9 steps" not in done.err


def test_mask_is_named_where_nothing_else_names_it(sedd, tmp_path, tiny_run):
    folder = save_llada(tmp_path / "m", reference(), config={"mask_token_id": None})
    refused = sedd("sample", "--model", folder)
    assert refused.code == 2
    assert "give --mask-token" in refused.err
    assert sedd("sample", "--model", folder, "--mask-token", MASK, "--length", 8, "--steps", 2).code == 0
    ours = sedd("sample", "--model", tiny_run, "--mask-token", MASK)
    assert ours.code == 2
    assert "--mask-token is for models of other projects" in ours.err


def test_an_smdm_is_sampled_without_its_tokenizer(sedd, tmp_path):
    folder = save_smdm(tmp_path / "m", reference())
    done = sedd("sample", "--model", folder / "mdm-tiny.safetensors", "--length", 8, "--steps", 4, "--json")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["samples"][0]["tokens"]) == 8


@pytest.mark.parametrize("name", ["llada", "dream"])
def test_a_page_and_the_watched_steps(request, sedd, name, tmp_path):
    folder = request.getfixturevalue(name)
    words = ("--model", folder, "--steps", 6, "--seed", 3)
    page = tmp_path / "page.html"
    plain = sedd("sample", *words, "--length", 16, "--prompt", "the cat", "--json")
    done = sedd("sample", *words, "--length", 16, "--prompt", "the cat", "--watch", "--html", page, "--json")
    assert done.code == 0, done.err
    sample = json.loads(done.out)["samples"][0]
    assert sample["tokens"] == json.loads(plain.out)["samples"][0]["tokens"]  # being watched changes nothing
    text = page.read_text(encoding="utf-8")
    assert "the cat" in text.replace('","', "")
    filled = sedd("infill", *words, "-t", "the [MASK:3] sat.", "--watch", "--html", tmp_path / "gap.html", "--json")
    assert filled.code == 0, filled.err
    assert json.loads(filled.out)["samples"][0]["text"].startswith("the ")
    assert (tmp_path / "gap.html").stat().st_size > 1000
