"""`export`: what is written loads back to the same scores, here, through the hub's client, and by the plain network."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import reference
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.jobs import completed, returned
from support.published_models import save_published

from sedd_cli import load_model
from sedd_cli.checkpoints import export as module
from sedd_cli.checkpoints import hub
from sedd_cli.checkpoints.export import ExportOptions, export
from sedd_cli.checkpoints.model_card import ModelCard, results_of
from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.system.events import Note, Warn


@pytest.fixture
def reported(tiny_run, tmp_path) -> Path:
    """The run with the one result that its training reported; others may have been added to it since."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    for other in (run / "results").iterdir():
        if other.is_file() and other.name != "test-step-12.json":
            other.unlink()
    return run


def exported(model, folder, **options):
    """The document of the result."""
    return returned(export(model, ExportOptions(folder, **options))).to_dict()


def inputs(model):
    x = torch.randint(model.graph.states, (3, 7), generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([0.01, 0.7, 6.0])


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_an_export_scores_as_what_was_exported(tmp_path, graph):
    save_published(tmp_path / "m", graph)
    given = load_model(tmp_path / "m")
    exported(given, tmp_path / "out")
    found = load_model(tmp_path / "out")
    assert torch.equal(found.log_score(*inputs(given)), given.log_score(*inputs(given)))
    assert found.fingerprint == given.fingerprint


def test_an_exported_run_is_the_run(sedd, tiny_run, tmp_path):
    run = load_model(tiny_run)
    result = exported(run, tmp_path / "out")
    found = load_model(tmp_path / "out")
    assert torch.equal(found.log_score(*inputs(run)), run.log_score(*inputs(run)))
    assert found.tokenizer.fingerprint == run.tokenizer.fingerprint
    assert found.recipe == run.recipe
    assert {key: found.facts[key] for key in ("step", "weights")} == {"step": 12, "weights": "EMA"}
    assert result["log_score_moved"] == {"rms": 0.0, "max": 0.0}
    assert sorted(result["files"]) == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert [s.text for s in found.sample(2, seed=5)] == [s.text for s in run.sample(2, seed=5)]
    done = sedd("eval", "--model", tmp_path / "out", "--blocks", 2, "--no-baselines", "--json")
    assert done.code == 0, done.err  # on its own corpus, which the recipe names


def test_the_weights_are_those_of_the_published_layout(tiny_run, tmp_path):
    """The plain network, which shares no code with ours, reads the file by the published names."""
    run = load_model(tiny_run)
    exported(run, tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    x, sigma = inputs(run)
    z = reference.network(state, x, sigma, config["model"]["n_heads"])
    assert config["model"]["scale_by_sigma"] is True
    log_score = z - (sigma.expm1().log() + torch.tensor(float(config["tokens"])).log())[:, None, None]
    expected = log_score.scatter(-1, x[..., None], 0.0)
    torch.testing.assert_close(run.log_score(x, sigma), expected, atol=1e-5, rtol=1e-5)
    assert "rotary_emb.inv_freq" in state
    assert config["graph"] == {"type": "absorb"}
    assert config["noise"]["type"] == "loglinear"
    assert "model_type" not in config  # or it would be taken for a model of transformers


def test_the_hubs_own_loader_gives_the_original_class_its_configuration(tiny_run, tmp_path):
    """As the published code does: a module made of one argument, config, loaded with from_pretrained."""
    from huggingface_hub import PyTorchModelHubMixin
    from support.published_models import DiT, DiTConfig

    class Original(torch.nn.Module, PyTorchModelHubMixin):
        def __init__(self, config):
            super().__init__()
            shape = {k: config["model"][k] for k in ("hidden_size", "cond_dim", "length", "n_blocks", "n_heads")}
            net = DiT(DiTConfig(**shape), config["tokens"] + (config["graph"]["type"] == "absorb"))
            for name, child in net.named_children():
                self.add_module(name, child)

    run = load_model(tiny_run)
    exported(run, tmp_path / "out")
    found = Original.from_pretrained(str(tmp_path / "out"), strict=True)
    theirs = dict(run.net.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in found.named_parameters())


def test_half_weights_are_half_the_size_and_how_scores_move_is_said(tiny_run, tmp_path):
    run = load_model(tiny_run)
    whole, half = exported(run, tmp_path / "whole"), exported(run, tmp_path / "half", half=True)
    assert half["files"]["model.safetensors"] < 0.75 * whole["files"]["model.safetensors"]  # names weigh as well
    state = load_file(tmp_path / "half" / "model.safetensors")
    assert {v.dtype for n, v in state.items() if n != "rotary_emb.inv_freq"} == {torch.bfloat16}
    found = load_model(tmp_path / "half")
    assert {p.dtype for p in found.net.parameters()} == {torch.float32}
    assert all(
        torch.equal(p, q.bfloat16().float()) for p, q in zip(found.net.parameters(), run.net.parameters(), strict=True)
    )
    x, sigma = torch.full((1, run.length), run.graph.mask), torch.tensor([run.schedule.sigma(1.0)], dtype=torch.float32)
    apart = (found.log_score(x, sigma) - run.log_score(x, sigma)).abs().max()
    assert half["log_score_moved"]["max"] == pytest.approx(float(apart), rel=1e-6)
    assert apart > 0
    assert "rounded to bfloat16" in (tmp_path / "half" / "README.md").read_text()


def test_the_card_tells_recipe_metrics_with_errors_and_use(reported, tmp_path):
    run = load_model(reported)
    (stored,) = results_of(run)
    exported(run, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    front, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    metrics = yaml.safe_load(front)["model-index"][0]["results"][0]["metrics"]
    bound = stored["bounds"]["rigorous"]
    assert round(bound["perplexity"], 4) in [m["value"] for m in metrics]
    assert f"| ≤ {bound['bits_per_char']:.3f} ± {bound['bits_per_char_error']:.3f}" in body
    assert bound["upper_bound"]
    paper = stored["bounds"]["sedd-paper"]
    assert f"| ≈ {paper['bits_per_char']:.3f} ± {paper['bits_per_char_error']:.3f}" in body
    assert not paper["upper_bound"]
    names = {m["name"] for m in metrics}
    assert names == {"perplexity per token, upper bound (rigorous)", "perplexity per token, estimate (sedd-paper)"}
    assert "steps: 12" in body
    assert f"sedd sample --model {tmp_path / 'out'} -n 3" in body
    assert f'load_model("{tmp_path / "out"}")' in body


def test_results_of_other_weights_do_not_stand_in_the_card(tiny_run, tmp_path):
    run = load_model(tiny_run)
    run.net.output_layer.linear.bias += 1
    assert list(results_of(run)) == []
    assert "## Likelihood" not in ModelCard(run, "x").text()


def test_a_checkpoint_of_a_run_finds_the_runs_results(tiny_run):
    assert list(results_of(load_model(tiny_run / "checkpoints" / "step-12"))) == list(results_of(load_model(tiny_run)))


def test_a_dry_run_lists_the_files_and_the_destination_and_uploads_nothing(tiny_run, monkeypatch):
    monkeypatch.setattr(hub, "push", lambda *_: pytest.fail("uploaded"))
    options = ExportOptions(push="me/mine", private=True, dry_run=True)
    events, result = completed(export(load_model(tiny_run), options))
    notes = "\n".join(e.text for e in events if isinstance(e, Note))
    assert "dry run, nothing is uploaded" in notes
    assert "me/mine (private)" in notes
    assert "model.safetensors" in notes
    assert result.to_dict()["push"] == {"to": "me/mine", "private": True, "dry_run": True, "commit": None}
    assert "folder" not in result.to_dict()


def test_an_upload_that_fails_keeps_the_folder(tiny_run, tmp_path, monkeypatch):
    def refused(*_):
        raise WorkError("the hub is gone")

    monkeypatch.setattr(hub, "push", refused)
    with pytest.raises(WorkError, match="the hub is gone"):
        list(export(load_model(tiny_run), ExportOptions(tmp_path / "out", push="me/mine")))
    assert load_model(tmp_path / "out").fingerprint == load_model(tiny_run).fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--to FOLDER, --push OWNER/NAME, or both"),
        ({"to": "out", "private": True}, "--private needs --push"),
        ({"to": "out", "dry_run": True}, "--dry-run needs --push"),
        ({"push": "mine"}, "not a hub id"),
        ({"to": "full"}, "holds files"),
        ({"to": "file"}, "not a folder"),
    ],
)
def test_a_wrong_request_is_refused(tmp_path, options, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "file").touch()
    if "to" in options:
        options = {**options, "to": tmp_path / options["to"]}
    with pytest.raises(RequestError, match=message):
        ExportOptions(**options)


def test_what_cannot_be_written_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    run = load_model(tiny_run)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot write"):
        list(export(run, ExportOptions(tmp_path / "file" / "out")))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(WorkError, match="No space left on device"):
        list(export(run, ExportOptions(tmp_path / "out")))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_disk_too_small_is_said_before_anything_is_written(tiny_run, tmp_path, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(WorkError, match=rf"the weights take 0\.0 MB, 0\.0 MB are free in {re.escape(str(tmp_path))}"):
        list(export(load_model(tiny_run), ExportOptions(tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_loads_back_as_something_else_is_not_kept(tiny_run, tmp_path, monkeypatch):
    genuine = module.save_file

    def altered(tensors, *words, **options):
        name = "output_layer.linear.bias"
        genuine({**tensors, name: tensors[name] + 1e-3}, *words, **options)

    monkeypatch.setattr(module, "save_file", altered)
    with pytest.raises(WorkError, match=r"loads back as a different model: log-scores differ by up to 0\.001"):
        list(export(load_model(tiny_run), ExportOptions(tmp_path / "out")))
    assert list(tmp_path.iterdir()) == []


def test_what_the_published_code_would_compute_otherwise_is_said(tmp_path):
    save_published(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["noise"]["eps"] = 0.01
    path.write_text(json.dumps(config))
    events = list(export(load_model(tmp_path / "m"), ExportOptions(tmp_path / "out")))
    warned = [e.text for e in events if isinstance(e, Warn)]
    assert any("noise.eps is 0.01: the published code always uses 0.001" in text for text in warned)
    assert "no tokenizer is exported: none is named" in warned
    assert load_model(tmp_path / "out").schedule.eps == 0.01


def test_a_recipe_of_another_version_does_not_keep_the_weights_from_being_read(tiny_run, tmp_path):
    exported(load_model(tiny_run), tmp_path / "out")
    with (tmp_path / "out" / "recipe.yaml").open("a") as file:
        file.write("novelty: 1\n")
    model = load_model(tmp_path / "out")
    assert model.recipe is None
    assert "recipe not read (novelty: unknown key" in model.describe()


def test_an_export_of_an_export_keeps_the_metrics(tiny_run, tmp_path):
    exported(load_model(tiny_run), tmp_path / "out")
    exported(load_model(tmp_path / "out"), tmp_path / "again")
    one, two = ((tmp_path / name / "README.md").read_text() for name in ("out", "again"))
    assert "## Likelihood" in one
    assert two == one.replace(str(tmp_path / "out"), str(tmp_path / "again")).replace("# out", "# again").replace(
        "name: out", "name: again"
    )


def test_of_two_results_the_newer_stands_in_the_card(reported):
    run, stored = reported, reported / "results" / "test-step-12.json"
    found = json.loads(stored.read_text())
    found["bounds"]["rigorous"]["bits_per_char"] = 9.876
    (run / "results" / "a-newer-one.json").write_text(json.dumps(found))
    os.utime(stored, (1, 1))
    (run / "results" / "no-result.json").write_text(json.dumps({**found, "bounds": {"rigorous": {}}}))
    (run / "results" / "damaged.json").write_text("{")
    assert "9.876" in ModelCard(load_model(run), "x").text()


def test_weights_that_are_not_finite_are_not_exported(tmp_path):
    state = save_published(tmp_path / "m")
    state["blocks.0.norm1.weight"][0] = float("nan")
    save_file(state, tmp_path / "m" / "model.safetensors")
    with pytest.raises(DamageError, match=r"are not finite: blocks.0.norm1.weight"):
        list(export(load_model(tmp_path / "m"), ExportOptions(tmp_path / "out")))


def test_what_a_killed_export_left_is_removed(tiny_run, tmp_path):
    (tmp_path / ".out.0123abcd.partial" / "model").mkdir(parents=True)
    (tmp_path / ".out.of-others.partial").mkdir()
    list(export(load_model(tiny_run), ExportOptions(tmp_path / "out")))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.of-others.partial", "out"]


def test_an_empty_folder_here_is_filled(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    exported(load_model(tiny_run), Path("."))
    assert load_model(tmp_path / "here").fingerprint == load_model(tiny_run).fingerprint


def test_paths_of_this_machine_are_pointed_out_before_they_are_pushed(tiny_run):
    events = list(export(load_model(tiny_run), ExportOptions(push="me/mine", dry_run=True)))
    corpus = load_model(tiny_run).recipe.data.corpus
    assert any(f"data.corpus {corpus}" in e.text for e in events if isinstance(e, Warn))


def test_paths_in_every_document_of_an_export_are_pointed_out(tiny_run, tmp_path):
    run = load_model(tiny_run)
    run.recipe = replace(run.recipe, data=replace(run.recipe.data, local="/mine/original.zip", tokenizer="/mine/vocab"))
    run.tokenizer.spec = "/mine/tokenizer.json"
    (tmp_path / "results").mkdir()
    for file in (tiny_run / "results").glob("*.json"):
        stored = {**json.loads(file.read_text()), "model": "/mine/run"}
        (tmp_path / "results" / file.name).write_text(json.dumps(stored))
    run.source = str(tmp_path)
    events = list(export(run, ExportOptions(push="me/mine", dry_run=True)))
    said = [e.text for e in events if isinstance(e, Warn)]
    places = ("recipe.yaml: data.local /mine/original.zip", "recipe.yaml: data.tokenizer /mine/vocab")
    for place in (*places, "results.json: 0.model /mine/run", "tokenizer.json: spec /mine/tokenizer.json"):
        assert [line for line in said if line.startswith(f"{place} names a path")], said


def test_bf16_models_are_not_what_is_exported(tiny_run, tmp_path):
    with pytest.raises(RequestError, match="loaded in fp32"):
        list(export(load_model(tiny_run, precision="bf16"), ExportOptions(tmp_path / "out")))


def test_a_tokenizer_out_of_reach_is_named_all_the_same(tmp_path, monkeypatch):
    from sedd_cli.data.tokenizers.tiktoken import TiktokenTokenizer

    def refused(spec):
        raise RequestError("out of reach")

    monkeypatch.setattr(TiktokenTokenizer, "load", refused)
    save_published(tmp_path / "m", tokens=50257, hidden_size=4, cond_dim=2, n_blocks=1, n_heads=1)
    events = list(export(load_model(tmp_path / "m"), ExportOptions(tmp_path / "out")))
    assert "no tokenizer is exported: gpt2's files are not available" in [e.text for e in events if isinstance(e, Warn)]
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| tokenizer | gpt2 |" in text
    assert "--tokenizer" not in text


def test_the_command_exports_once_and_reports_how_scores_move(sedd, tiny_run, tmp_path):
    done = sedd("export", tiny_run, "--to", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["folder"] == str(tmp_path / "out")
    assert "weights and log-scores are identical" in done.err
    assert sedd("export", tiny_run, "--to", tmp_path / "out").code == 2
    assert sedd("export", tiny_run).code == 2
    done = sedd("export", tmp_path / "out", "--to", tmp_path / "again", "--half")
    assert done.code == 0
    assert "rounded to bf16: log-scores move by" in done.err
