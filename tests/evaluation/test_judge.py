"""Generative perplexity in both conventions, sweeps, and the commands that run them."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
import torch
from support.causal_models import save_tiny_causal
from support.jobs import completed, returned, without_origin

from sedd_cli import load_model
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.controls import own_corpus
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.scorers.pretrained import load_causal
from sedd_cli.evaluation.sweep import SweepOptions, parse_sweep, sweep
from sedd_cli.evaluation.sweep_plot import plot
from sedd_cli.recipe.part import SamplerPart
from sedd_cli.system.events import Note, Sampled, Warn


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return load_causal(save_tiny_causal(tmp_path_factory.mktemp("judge") / "tiny", n_positions=16), "cpu")


def judged(causal, samples, self_bleu=False):
    events, result = completed(judge(causal, samples, self_bleu))
    return result.to_dict(), events


def texts(*found):
    return Samples(list(found), [None] * len(found))


def by_hand(causal, text):
    """(nats of all tokens but the first, how many), token after token from the network's own logits."""
    ids = torch.tensor(causal.encode([text]))
    log_p = causal.net(ids[:, : causal.context]).logits.double().log_softmax(-1)
    return float(-log_p[0, :-1].gather(-1, ids[0, 1:, None]).sum()), ids.shape[1] - 1


def test_both_conventions_by_hand(causal):
    found, _ = judged(causal, texts("the cat sat", "a dog", "return"))
    parts = [by_hand(causal, text) for text in ("the cat sat", "a dog", "return")]
    each = [math.exp(nats / count) for nats, count in parts]
    assert found["per_sequence"]["perplexity"] == pytest.approx(sum(each) / 3, rel=1e-5)
    total = sum(nats for nats, _ in parts) / sum(count for _, count in parts)
    assert found["pooled"]["perplexity"] == pytest.approx(math.exp(total), rel=1e-5)
    spread = torch.tensor(each).std() / math.sqrt(3)
    assert found["per_sequence"]["error"] == pytest.approx(float(spread), rel=1e-4)
    assert (found["samples"], found["tokens"], found["judged"]) == (3, 10 + 4 + 5, "text")


def test_the_pooled_error_is_the_scatter_of_pooled_values(causal):
    generator = torch.Generator().manual_seed(0)

    def drawn():
        lengths = torch.randint(2, 16, (40,), generator=generator).tolist()
        return ["".join(chr(97 + int(torch.randint(26, (1,), generator=generator))) for _ in range(n)) for n in lengths]

    found = [judged(causal, texts(*drawn()))[0]["pooled"] for _ in range(60)]
    values, errors = (torch.tensor([f[key] for f in found]) for key in ("perplexity", "error"))
    # sixty values: their deviation is known to a tenth
    assert float(values.std() / errors.pow(2).mean().sqrt()) == pytest.approx(1, abs=0.3)


def test_a_sample_longer_than_the_judge_reads_is_judged_in_stretches(causal):
    text = "the quick brown fox jumps over it"  # 33 bytes, a context of 16: stretches overlap by one token
    found, _ = judged(causal, texts(text))
    stretches = [text[start : start + 16] for start in (0, 15, 30)]
    nats = sum(by_hand(causal, s)[0] for s in stretches)
    assert found["tokens"] == 32
    assert math.log(found["pooled"]["perplexity"]) * 32 == pytest.approx(nats, rel=1e-5)
    assert found["pooled"]["error"] is None


def test_samples_of_one_token_are_left_out_with_a_warning(causal):
    found, events = judged(causal, texts("a", "the cat"))
    assert found["samples"] == 1
    assert any("1 samples have fewer than two tokens" in e.text for e in events if isinstance(e, Warn))
    with pytest.raises(RequestError, match="nothing to predict"):
        judged(causal, texts("a", "b"))


def test_samples_of_a_model_and_of_its_file_are_judged_alike(causal, tiny_run, sedd, tmp_path):
    folder = causal.source
    words = ["sample", "--model", tiny_run, "-n", 3, "--out", tmp_path / "s.jsonl", "--judge", folder, "--json"]
    done = sedd(*words, "--self-bleu")
    assert done.code == 0, done.err
    at_once = json.loads(done.out)["judged"]
    assert at_once["nfe"] >= 1
    assert at_once["draws"] == "float64"
    assert 0 < at_once["self_bleu"] <= 1
    words = ["judge", tmp_path / "s.jsonl", "--judge", folder, "--json"]
    done = sedd(*words)  # neither of the model's corpus nor of another
    assert done.code == 0, done.err
    alone = {key: value for key, value in at_once.items() if key not in ("marks", "comparison")}
    assert without_origin(json.loads(done.out)) == {"file": str(tmp_path / "s.jsonl"), **alone}
    assert "name a corpus with --reference" in done.err
    done = sedd(*words, "--reference", own_corpus(load_model(tiny_run, device="cpu")).folder)
    assert done.code == 0, done.err
    assert without_origin(json.loads(done.out)) == {"file": str(tmp_path / "s.jsonl"), **at_once}


def test_samples_are_judged_beside_a_named_corpus_as_they_are_drawn(causal, tiny_run, sedd, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("a dog ran over the hill\n" * 400)
    words = ["sample", "--model", tiny_run, "-n", 2, "--reference", other, "--json"]
    refused = sedd(*words)
    assert (refused.code, "--reference goes with --judge" in refused.err) == (2, True)
    done = sedd(*words, "--judge", causal.source)
    assert done.code == 0, done.err
    assert json.loads(done.out)["judged"]["comparison"]["corpus"] == "other"


def test_ids_need_a_tokenizer(causal, tiny_run, tmp_path):
    model = load_model(tiny_run, device="cpu")
    ids = model.tokenizer.encode("the cat sat")
    (tmp_path / "ids.jsonl").write_text(json.dumps({"tokens": ids}) + "\n")
    with pytest.raises(RequestError, match="--tokenizer"):
        judged(causal, Samples.read(tmp_path / "ids.jsonl"))
    found, _ = judged(causal, Samples.read(tmp_path / "ids.jsonl", model.tokenizer))
    assert found["pooled"] == judged(causal, texts("the cat sat"))[0]["pooled"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "\n", "holds no samples"),
        ("torn.jsonl", '{"text": "a b"}\n{"text"', "line 2 of .* is not JSON"),
        ("odd.jsonl", '{"words": 3}', "line 1 of .* has neither"),
        ("list.jsonl", "[1]", "line 1"),
        ("odd.jsonl", '{"tokens": ["a"]}', "neither"),
    ],
)
def test_a_file_that_holds_no_samples_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match=message):
        Samples.read(tmp_path / name)


def test_a_text_file_has_a_sample_a_line(tmp_path):
    (tmp_path / "s.txt").write_text("one two\n\nthree\n")
    assert Samples.read(tmp_path / "s.txt").texts == ["one two", "three"]
    with pytest.raises(RequestError, match="cannot read"):
        Samples.read(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("steps=32,64,128", (32, 64, 128)),
        ("steps=32,64,...,2048", (32, 64, 128, 256, 512, 1024, 2048)),
        ("steps=1,3,…,27,100", (1, 3, 9, 27, 100)),
        ("steps= 7 ", (7,)),
    ],
)
def test_a_sweep_is_read(text, steps):
    assert parse_sweep(text) == steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps=32,many", "'many' is not a whole number"),
        ("steps=0,4", "'0' is not a whole number"),
        ("steps=1.5", "'1.5'"),
        ("steps=", "''"),
        ("length=4", "a sweep is written"),
        ("32,64", "a sweep is written"),
        ("steps=4,4", "twice"),
        ("steps=...,64", "the dots"),
        ("steps=32,64,...", "the dots"),
        ("steps=64,32,...,2", "the dots"),
        ("steps=4,8,...,7", "7 does not follow from 4,8"),
        ("steps=4,8,...,48", "48 does not follow"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(text, message):
    with pytest.raises(RequestError, match=message):
        parse_sweep(text)


@pytest.fixture
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


def swept(model, causal, options):
    events, result = completed(sweep(model, causal, options))
    return result.to_dict(), events


def test_a_sweep_judges_every_point_and_resumes(model, causal, tmp_path):
    options = SweepOptions(tmp_path / "whole", (2, 4), ("tweedie", "euler"), n=5, seed=3)
    whole, _ = swept(model, causal, options)
    assert [(p["sampler"], p["steps"]) for p in whole["points"]] == [
        ("tweedie", 2), ("tweedie", 4), ("euler", 2), ("euler", 4),
    ]  # fmt: skip
    # loglinear noise on the absorbing graph: both samplers make the same update
    assert whole["points"][1]["pooled"] == whole["points"][3]["pooled"]
    path = tmp_path / "whole" / "samples" / "tweedie-4.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:20])  # as a kill leaves it
    (tmp_path / "whole" / "samples" / "euler-4.jsonl").unlink()
    stored = json.loads((tmp_path / "whole" / "sweep.json").read_text())
    stored["points"] = [p for p in stored["points"] if p["steps"] == 2]
    (tmp_path / "whole" / "sweep.json").write_text(json.dumps(stored))
    again, events = swept(model, causal, options)
    assert again == whole
    assert path.read_text().splitlines()[:2] == [line.strip() for line in lines[:2]]
    notes = [e.text for e in events if isinstance(e, Note)]
    assert "tweedie, 4 steps: 2 samples are stored already" in notes
    assert "euler, 2 steps: judged before" in notes
    direct = model.sample(5, steps=4, seed=3)
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == [s.text for s in direct]


def test_more_samples_are_added_to_those_there_are(model, causal, tmp_path):
    few, _ = swept(model, causal, SweepOptions(tmp_path, (2,), n=2))
    more, events = swept(model, causal, SweepOptions(tmp_path, (2,), n=4))
    assert few["points"][0]["samples"] == 2
    assert more["points"][0]["samples"] == 4
    assert sum(isinstance(e, Sampled) for e in events) == 0  # they are kept, not shown


def test_points_of_other_settings_stay_in_the_file_and_count_again(model, causal, tmp_path):
    first, _ = swept(model, causal, SweepOptions(tmp_path, (2, 4), n=4, self_bleu=False))
    for other in (SweepOptions(tmp_path, (2,), n=4), SweepOptions(tmp_path, (4,), n=2)):
        swept(model, causal, other)
    stored = json.loads((tmp_path / "sweep.json").read_text())
    others = [(p["steps"], p["asked"], "self_bleu" in p) for group in stored["others"] for p in group["points"]]
    assert others == [(2, 4, True), (2, 4, False), (4, 4, False)]
    again, events = swept(model, causal, SweepOptions(tmp_path, (2, 4), n=4, self_bleu=False))
    assert [e.text for e in events if isinstance(e, Note) and "judged before" in e.text] == [
        "tweedie, 2 steps: judged before", "tweedie, 4 steps: judged before",
    ]  # fmt: skip
    assert again["points"][1] == first["points"][1]
    assert [p["asked"] for group in again["others"] for p in group["points"]] == [2]


def test_a_points_file_grows_and_other_files_are_left_alone(model, causal, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "mine.jsonl").write_text("{}\n")
    with pytest.raises(RequestError, match="files of something else"):
        swept(model, causal, SweepOptions(tmp_path, (2,), n=2, resume=False))
    assert (tmp_path / "samples" / "mine.jsonl").read_text() == "{}\n"
    folder = tmp_path / "sweep"
    swept(model, causal, SweepOptions(folder, (2,), n=2))
    for name in ("mine", "tweedie-notes"):
        (folder / "samples" / f"{name}.jsonl").write_text("{}\n")
    both, _ = swept(model, causal, SweepOptions(folder, (4,), n=2))
    assert [p["steps"] for p in both["points"]] == [2, 4]
    fresh, _ = swept(model, causal, SweepOptions(folder, (4,), n=2, seed=9, resume=False))
    assert [p["steps"] for p in fresh["points"]] == [4]
    assert sorted(p.name for p in (folder / "samples").iterdir()) == [
        "mine.jsonl",
        "tweedie-4.jsonl",
        "tweedie-notes.jsonl",
    ]


def test_samplers_with_options_are_points_of_their_own(sedd, tiny_run, causal, tmp_path):
    words = ["sweep", "--model", tiny_run, "--judge", causal.source, "-n", 2, "--steps", "2", "--no-self-bleu"]
    words += ["--out", tmp_path / "f", "--json"]
    named = "{name: confidence, order: entropy},confidence,{name: tweedie, top_p: 0.5}"
    done = sedd(*words, "--sampler", named)
    assert done.code == 0, done.err
    labels = ["confidence, order entropy", "confidence", "tweedie, top-p 0.5"]
    assert [point["sampler"] for point in json.loads(done.out)["points"]] == labels
    samples = {path.name: path.read_text() for path in (tmp_path / "f" / "samples").iterdir()}
    assert sorted(samples) == ["confidence+order=entropy-2.jsonl", "confidence-2.jsonl", "tweedie+top_p=0.5-2.jsonl"]
    assert len(set(samples.values())) == 3
    again = sedd(*words, "--sampler", "tweedie")  # other points stay, and --no-resume clears their samples
    assert [point["sampler"] for point in json.loads(again.out)["points"]] == ["tweedie", "confidence", *labels[::2]]
    assert sedd(*words, "--sampler", "tweedie", "--no-resume").code == 0
    assert [path.name for path in (tmp_path / "f" / "samples").iterdir()] == ["tweedie-2.jsonl"]


def test_a_sweep_whose_figure_fails_leaves_its_document(sedd, tiny_run, causal, tmp_path, monkeypatch):
    def fail(*_):
        raise WorkError("no room for the figure")

    monkeypatch.setattr("sedd_cli.evaluation.sweep_plot.plot", fail)
    words = ["sweep", "--model", tiny_run, "--judge", causal.source, "-n", 2, "--steps", "2", "--no-self-bleu"]
    done = sedd(*words, "--out", tmp_path / "f", "--json")
    found = json.loads(done.out)
    assert (done.code, found["error"], len(found["points"])) == (1, "no room for the figure", 1)


def test_two_sweeps_do_not_share_a_folder(model, causal, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(RequestError, match="another process is at work"):
        swept(model, causal, SweepOptions(tmp_path, (2,), n=2))


def test_a_folder_with_another_sweep_is_refused_unless_begun_anew(model, causal, tmp_path):
    swept(model, causal, SweepOptions(tmp_path, (2,), n=2))
    with pytest.raises(RequestError, match="another seed"):
        swept(model, causal, SweepOptions(tmp_path, (2,), n=2, seed=1))
    fresh, _ = swept(model, causal, SweepOptions(tmp_path, (2,), n=2, seed=1, resume=False))
    assert fresh["seed"] == 1


def test_a_folder_of_samples_by_another_version_of_the_samplers_is_refused(model, causal, tmp_path, monkeypatch):
    swept(model, causal, SweepOptions(tmp_path, (2,), n=2, self_bleu=False))
    monkeypatch.setattr("sedd_cli.evaluation.sweep.SAMPLES_VERSION", 1000)
    with pytest.raises(RequestError, match="another samples_version"):
        swept(model, causal, SweepOptions(tmp_path, (2,), n=2, self_bleu=False))


def test_a_folder_of_samples_from_another_distribution_is_refused(model, causal, tmp_path):
    swept(model, causal, SweepOptions(tmp_path, (2,), n=2))
    part = SamplerPart.from_data({"name": "tweedie", "temperature": 0.5}, "sampler")
    colder = dataclasses.replace(model, recipe=dataclasses.replace(model.recipe, sampler=part))
    with pytest.raises(RequestError, match="another recipe_sampler"):
        swept(colder, causal, SweepOptions(tmp_path, (2,), n=2))


def test_samples_out_of_order_are_drawn_anew(model, causal, tmp_path):
    whole, _ = swept(model, causal, SweepOptions(tmp_path, (2,), n=4))
    path = tmp_path / "samples" / "tweedie-2.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[2] + lines[1] + lines[3])
    (tmp_path / "sweep.json").unlink()
    again, _ = swept(model, causal, SweepOptions(tmp_path, (2,), n=4))
    assert again == whole
    assert [json.loads(line)["index"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]


def test_the_figure_is_a_png_with_both_axes_logarithmic(model, causal, tmp_path):
    options = SweepOptions(tmp_path, (2, 4), ("tweedie", "euler"), n=2, length=8)
    plot(returned(sweep(model, causal, options)), tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_json_table_and_figure(sedd, tiny_run, causal, tmp_path):
    words = ["sweep", "--model", tiny_run, "--judge", causal.source, "-n", 3, "--out", tmp_path / "fig"]
    done = sedd(*words, "--steps", "2,4", "--sampler", "tweedie,euler", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert len(found["points"]) == 4
    stored = json.loads((tmp_path / "fig" / "sweep.json").read_text())
    assert stored["points"] == found["points"]
    assert (tmp_path / "fig" / "sweep.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--steps", "2,x", "--judge", "{judge}"], "'x' is not a whole number"),
        (["sweep", "--steps", "2", "--judge", "{judge}", "--sampler", "twedie"], "did you mean 'tweedie'"),
        (["sweep", "--steps", "2", "--judge", "{judge}", "--sampler", "first-hitting"], "which has no number of steps"),
        (["sweep", "--steps", "2", "--judge", "{judge}", "--sampler", "{{name: psi, kapa: 1}}"], "mean 'kappa'"),
        (
            ["sweep", "--steps", "2", "--judge", "{judge}", "--sampler", "{{name: psi, steps: 4}}"],
            "follows from --steps",
        ),
        (["judge", "{none}", "--judge", "{judge}"], "cannot read"),
        (["judge", "{none}", "--judge", "nobody/nothing"], "pass their folder|cannot read"),
        (["eval", "--from", "{none}"], "--from goes with --dataset"),
        (["eval", "--dataset", "pydocs", "--blocks", "0"], "blocks must be at least 1"),
        (["eval", "--estimator", "best"], "iid, stratified, count"),
        (["eval", "--max-nfe", "2"], "max-nfe must be at least 4"),
        (["eval", "--length", "100"], "model's 24"),
    ],
)
def test_a_wrong_request_gets_one_clear_line(sedd, tiny_run, causal, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    places = {"judge": causal.source, "none": tmp_path / "none.jsonl"}
    model = [] if words[0] == "judge" else ["--model", tiny_run]
    done = sedd(*(w.format(**places) for w in words), *model)
    assert done.code == 2, done.err
    assert re.search(message, done.err), done.err
    assert done.err.strip().splitlines()[-1].startswith("error:")


def test_a_judge_out_of_reach_costs_no_sampling(sedd, tiny_run, tmp_path):
    done = sedd("sample", "--model", tiny_run, "--judge", "nobody/nothing", "--out", tmp_path / "s.jsonl")
    assert done.code == 2
    assert "pass their folder" in done.err
    assert not (tmp_path / "s.jsonl").exists()
    assert sedd("sample", "--model", tiny_run, "--self-bleu").code == 2


def test_a_sweep_or_a_judge_wants_no_torchrun(sedd, causal, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (["sweep", "--steps", "2"], ["judge", "s.txt"]):
        done = sedd(*words, "--judge", causal.source)
        assert done.code == 2
        assert "without torchrun" in done.err


def test_a_judge_out_of_reach_says_how_to_give_a_folder(sedd, tiny_run, tmp_path):
    (tmp_path / "s.txt").write_text("one two\n")
    done = sedd("judge", tmp_path / "s.txt", "--judge", "gpt2-large")
    assert done.code == 2
    assert "pass their folder" in done.err
