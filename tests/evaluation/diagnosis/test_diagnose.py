"""Diagnosis of a model: what is measured, and which findings follow."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import reference
import torch
from safetensors.torch import save_file
from support.jobs import returned
from support.published_models import save_published
from support.toys import score_model, world

from sedd_cli import load_model
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.diagnosis import health_checks
from sedd_cli.evaluation.diagnosis.job import DiagnoseOptions, diagnose, score_level
from sedd_cli.evaluation.diagnosis.results import NoiseLevel
from sedd_cli.inference.model import Model
from sedd_cli.models.dit import DiT
from sedd_cli.models.shape import DiTConfig


def checked(model, **options):
    result = returned(diagnose(model, DiagnoseOptions(**options)))
    return result.to_dict(), {f["check"]: f for f in result.findings}


def with_log_scores(model, change):
    """The model with the log-scores that `change` makes of its own at noise sigma."""
    genuine = model.graph.log_score
    changed = {"log_score": lambda self, z, sigma, x: change(genuine(z, sigma, x), sigma)}
    model.graph = type("Odd", (type(model.graph),), changed)(model.graph.vocab_size)
    return model


def knowing(name: str, L: int, score) -> Model:
    """A model around a network that knows `score`, and its data distribution."""
    graph, Q, p0 = world(name, L)
    found = score_model(graph, SCHEDULES["loglinear"](), score(p0, Q))

    class Known(Model):
        score = found
        device = torch.device("cpu")

    return Known(found.net, graph, found.schedule, None, "known"), p0


@pytest.mark.parametrize("graph", ["absorbing", "uniform"])
@pytest.mark.parametrize("lam", [0.1, 0.5, 0.9])
def test_the_true_score_has_a_normaliser_of_one_within_the_error(graph, lam):
    model, p0 = knowing(graph, 3, reference.exact_score)
    draws = torch.multinomial(p0.flatten(), 1500, replacement=True, generator=torch.Generator().manual_seed(1))
    x0 = reference.sequences(len(p0), 3)[draws]
    found = score_level(model, x0, lam).normaliser
    if graph == "absorbing":
        assert found.mean == pytest.approx(1, rel=1e-9)
        assert found.p5 == pytest.approx(1, rel=1e-9) == found.p95
    else:
        assert abs(found.mean - 1) < 4 * found.error
        assert 0 < found.error < 0.1
        assert found.p5 < 0.95


def test_the_mean_and_its_error_are_those_of_sequences(tiny_run):
    model = load_model(tiny_run)
    x0 = torch.randint(model.vocab_size, (64, 24), generator=torch.Generator().manual_seed(0))
    found = score_level(model, x0, 0.5)
    assert found.finite
    assert 600 < found.positions == found.moved < 940
    assert found.sigma == pytest.approx(math.log(2))
    # over halves of the sequences the mean scatters as the error says, within a factor that 8 of them allow
    parts = [score_level(model, x0[i::8], 0.5).normaliser.mean for i in range(8)]
    spread = torch.tensor(parts).std() / math.sqrt(8)
    assert 0.3 < float(spread) / found.normaliser.error < 3


def test_a_run_is_checked_on_its_held_out_text(tiny_run):
    result, found = checked(load_model(tiny_run))
    assert result["text"] == "test split of corpus.txt"
    assert [entry["lambda"] for entry in result["levels"]] == [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    assert found["weights"]["state"] == found["scores"]["state"] == "ok"
    assert result["samples"]["length"] == 24
    assert result["samples"]["text"] is not None
    assert result["samples"]["n"] * 24 >= 1024
    assert checked(load_model(tiny_run))[0] == result


@pytest.mark.parametrize("graph", ["absorb", "uniform"])
def test_a_published_model_is_checked_on_its_own_samples(tmp_path, graph):
    save_published(tmp_path / "m", graph)
    result, found = checked(load_model(tmp_path / "m"))
    assert result["text"] == "its own samples"
    assert result["samples"]["text"] is None
    # random weights: the samples are incoherent, and a finding reports it
    assert found["normaliser"]["state"] == "odd"
    assert found["guesses"]["state"] == "odd"
    assert "do not hang together" in found["guesses"]["advice"]


def test_a_text_of_the_users_own_is_looked_at(tiny_run, tmp_path):
    (tmp_path / "own.txt").write_text("the cat sat on the mat\n" * 200)
    result, _ = checked(load_model(tiny_run), text=tmp_path / "own.txt")
    assert result["text"] == str(tmp_path / "own.txt")
    (tmp_path / "short.txt").write_text("the cat")
    assert checked(load_model(tiny_run), text=tmp_path / "short.txt")[0]["levels"][3]["positions"] < 8
    (tmp_path / "empty.txt").write_text("")
    for text, message in ((tmp_path / "empty.txt", "holds 0 tokens"), (tmp_path / "none", "cannot read")):
        with pytest.raises(RequestError, match=message):
            checked(load_model(tiny_run), text=text)


def test_weights_that_are_not_finite_are_named_and_nothing_else_is_asked(sedd, tmp_path):
    state = save_published(tmp_path / "m")
    state["blocks.1.mlp.0.bias"][3] = float("nan")
    save_file(state, tmp_path / "m" / "model.safetensors")
    done = sedd("inspect", tmp_path / "m", "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert found["levels"] == []
    assert [(f["check"], f["state"]) for f in found["findings"]] == [("weights", "bad")]
    assert "is not in order: weights not finite: blocks.1.mlp.0.bias" in done.err


def test_scores_that_overflow_are_bad(sedd, tmp_path):
    state = save_published(tmp_path / "m")
    state["output_layer.linear.bias"][2] = 3e38
    state["output_layer.linear.weight"] *= 1e38
    save_file(state, tmp_path / "m" / "model.safetensors")
    model = load_model(tmp_path / "m")
    result, found = checked(model)
    assert found.keys() == {"weights", "scores"}
    assert found["scores"]["state"] == "bad"
    assert "not finite at a noise of" in found["scores"]["found"]
    assert result["samples"] is None
    done = sedd("inspect", tmp_path / "m", "--json")
    assert done.code == 1
    assert json.loads(done.out)["levels"] == result["levels"]


def test_a_distribution_that_cannot_be_sampled_is_bad(tiny_run):
    """Finite at the levels that are looked at, infinite where sampling begins."""
    model = with_log_scores(load_model(tiny_run), _spoilt)
    _, found = checked(model)
    assert found["samples"]["state"] == "bad"
    assert "cannot draw" in found["samples"]["found"]


def _spoilt(log_score, sigma):
    """Infinite where sigma is as large as sampling begins with."""
    return log_score + torch.where(sigma > 6, math.inf, 0.0).reshape(-1, *[1] * (log_score.dim() - 1))


def test_scores_beyond_those_of_any_distribution_are_odd(tiny_run):
    model = load_model(tiny_run)
    model.net.output_layer.linear.bias += 10
    _, found = checked(model)
    assert found["scores"]["state"] == "odd"
    assert "larger than any distribution's" in found["scores"]["found"]


def test_one_large_score_among_hundreds_is_not_odd(tiny_run):
    model = with_log_scores(load_model(tiny_run), _spiked)
    result, found = checked(model)
    large = [level for level in result["levels"] if level["positions"] > 200]
    assert large
    assert all(level["log_score"][1] > 20 for level in large)
    assert all(level["beyond"] < 1 for level in large)
    assert not any(f"{level['lambda']:.0%}" in found["scores"]["found"] for level in large)


def _spiked(log_score, sigma):
    """Much too large at the first position of those that are scored together."""
    log_score[0, 0] += 40
    return log_score


def test_a_schedule_without_the_usual_levels_is_looked_at_where_it_is(tmp_path):
    save_published(tmp_path / "m", "uniform")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    config["noise"] |= {"sigma_min": 5.0, "sigma_max": 20.0}
    path.write_text(json.dumps(config))
    result, _ = checked(load_model(tmp_path / "m"))
    assert [round(entry["sigma"], 3) for entry in result["levels"]] == [round(5 * 4**t, 3) for t in (0.1, 0.5, 0.9)]


def test_a_fresh_network_is_odd_not_well(tmp_path):
    shape = {"hidden_size": 16, "cond_dim": 8, "length": 12, "n_blocks": 2, "n_heads": 2}
    save_published(tmp_path / "m", **shape)
    save_file(DiT(DiTConfig(**shape), 12).state_dict(), tmp_path / "m" / "model.safetensors")
    _, found = checked(load_model(tmp_path / "m"))
    assert found["weights"]["state"] == "odd"
    assert "is zero" in found["weights"]["found"]
    assert found["normaliser"]["state"] == "ok"  # z = 0 is perfectly normalised
    assert found["guesses"]["state"] == "odd"


def test_a_biased_head_shows_in_the_normaliser(tiny_run, tmp_path):
    """Scores twice as large: e^m is 2 wherever it was 1."""
    model = load_model(tiny_run)
    x0 = torch.randint(model.vocab_size, (32, 24), generator=torch.Generator().manual_seed(0))
    before = score_level(model, x0, 0.5).normaliser.mean
    model.net.output_layer.linear.bias += math.log(2)
    after = score_level(model, x0, 0.5).normaliser.mean
    assert after == pytest.approx(2 * before, rel=1e-5)
    _, found = checked(dataclasses.replace(model))
    assert found["normaliser"]["state"] == "odd"


def test_samples_that_repeat_themselves_are_odd(tiny_run):
    model = load_model(tiny_run)
    model.net.output_layer.linear.bias[0] += 30
    model.net.output_layer.linear.bias[1:] -= 30
    result, found = checked(model)
    assert found["sample entropy"]["state"] == "odd"
    assert result["samples"]["entropy"] < 0.5 * result["samples"]["text"]


@pytest.mark.parametrize(
    ("right", "state"),
    [(100, "odd"), (118, "odd"), (130, "ok")],  # of 1,000, where the most frequent one is a tenth: 2 errors are 19
)
def test_guesses_must_beat_the_most_frequent_token(right, state):
    levels = [
        NoiseLevel(0.5, 0.7, 1000, 1000, right, 100, None, None, None, finite=True),
        NoiseLevel(0.9, 2.3, 9000, 9000, 0, 9000, None, None, None, finite=True),
    ]
    assert health_checks.guesses(levels, real=True)["state"] == state


def test_the_command_shows_levels_and_findings(sedd, tiny_run, tmp_path):
    done = sedd("inspect", tiny_run)
    assert done.code == 0, done.err
    assert "scores on test split of corpus.txt" in done.out
    assert "normaliser" in done.out
    assert "all finite" in done.out
    assert sedd("inspect", tmp_path / "nothing").code == 2
