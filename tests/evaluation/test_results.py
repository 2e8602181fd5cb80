"""Typed results: every job returns one, and its closing event holds the same document."""

from __future__ import annotations

import json

import pytest
import torch
from support.causal_models import save_tiny_causal
from support.jobs import returned

from sedd_cli import load_model
from sedd_cli.evaluation.cloze.job import ClozeOptions, cloze
from sedd_cli.evaluation.diagnosis.job import DiagnoseOptions, diagnose
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate_all
from sedd_cli.evaluation.likelihood.texts import Text
from sedd_cli.evaluation.mauve.job import mauve
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.scorers.pretrained import load_causal
from sedd_cli.evaluation.sweep import SweepOptions, SweepPoint, sweep
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.system.distributed import Dist


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return load_causal(save_tiny_causal(tmp_path_factory.mktemp("causal") / "tiny"), "cpu")


def evaluated(model, causal, folder):
    monte_carlo = MonteCarloOptions(rel_error=0.5, max_nfe=8)
    options = EvaluateOptions(monte_carlo=monte_carlo, blocks=8, try_bf16=True)
    return evaluate_all(model, [Text(model.recipe.data.corpus)], options, Dist(0, 1, torch.device("cpu")))


def swept(model, causal, folder):
    return sweep(model, causal, SweepOptions(folder / "sweep", (2,), n=3))


def restored(model, causal, folder):
    return cloze(model, Text(model.recipe.data.corpus), ClozeOptions(4, candidates=2))


def compared(model, causal, folder):
    (folder / "references.txt").write_text("\n".join(f"the cat sat on mat {i}" for i in range(20)))
    options = MauveOptions(str(folder / "references.txt"), count=20, generations=1, prompt=4, new=4, seeds=1)
    return mauve(model, options, reader=causal)


def diagnosed(model, causal, folder):
    return diagnose(model, DiagnoseOptions())


@pytest.mark.parametrize("job", [evaluated, swept, restored, compared, diagnosed])
def test_a_job_returns_a_frozen_result_that_becomes_json(job, tiny_run, causal, tmp_path):
    result = returned(job(load_model(tiny_run, device="cpu"), causal, tmp_path))
    assert type(result).__dataclass_params__.frozen
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert list(document) == list(result.to_dict())


@pytest.mark.parametrize("self_bleu", [False, True])
def test_a_judged_point_is_read_back_from_its_document(causal, self_bleu):
    found = returned(judge(causal, Samples(["the cat sat", "a dog"], [None, None]), self_bleu))
    point = SweepPoint("tweedie", 4, 2, found)
    stored = json.loads(json.dumps(point.to_dict()))
    assert SweepPoint.from_dict(stored) == point
    assert ("self_bleu" in stored) == self_bleu
