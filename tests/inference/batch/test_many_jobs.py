"""Many jobs, and jobs of others: results flow at once, memory does not grow, a bad line spoils nothing."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import pytest
from support.jobs import completed

from sedd_cli import load_model
from sedd_cli.errors import RequestError
from sedd_cli.inference import infill
from sedd_cli.inference.batch.jobs import fill_jobs
from sedd_cli.inference.batch.lines import job_lines
from sedd_cli.inference.generate import GenerateOptions, generate_all
from sedd_cli.inference.sampling import MOST_DRAWS, Sampling
from sedd_cli.system.events import Filled, Warn

#: Templates that are filled together; fewer than usual.
WINDOW = 64


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


def filling(model, lines, out, **options):
    read = job_lines(lines, "jobs.jsonl", model.length)
    return fill_jobs(model, read, Sampling(steps=2), False, out, True, watch=False, **options)


def test_results_flow_from_a_file_without_end(model, tmp_path, monkeypatch):
    monkeypatch.setattr(infill, "WINDOW", WINDOW)
    endless = (b'{"template": "the [MASK:2] sat", "seed": %d}\n' % number for number in itertools.count())
    found = (event for event in filling(model, endless, tmp_path / "f.jsonl", keep=False) if isinstance(event, Filled))
    first = [next(found) for _ in range(2 * WINDOW)]  # the plans of two windows are held at times
    tracemalloc.start()

    def least() -> int:
        """The least memory during a window: plans of one or of two windows are held by turns."""
        return min((next(found), tracemalloc.get_traced_memory()[0])[1] for _ in range(WINDOW))

    grown = -least() + least()
    tracemalloc.stop()
    assert len({event.job["line"] for event in first}) == 2 * WINDOW
    assert grown < 1000 * WINDOW, f"{grown / WINDOW:.0f} bytes a filling"


def test_a_bad_line_spoils_nothing(model, tmp_path):
    lines = [
        b'{"template": "a[MASK:2]a", "id": 1}',
        b'{"template": "t[MASK:2]d", "id": "\\ud800"}',
        b'{"template": "t[MASK:2]d", "id": NaN}',
        b'{"template": "\\ud800[MASK:2]d"}',
        b'{"template": "a[MASK:2]", "id": ' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"template": "a[MASK:2]", "n": 1000000000000}',
        b'{"template": "a[MASK:2]", "seed": 1e400}',
        b"[" * 100_000,
        b'{"template": "a[MASK:2]", "id": "' + b"x" * 100_000 + b'"}',
        b'{"template": "e[MASK:2]d", "id": 3}',
    ]
    for again in (False, True):
        events, result = completed(filling(model, lines, tmp_path / "f.jsonl"))
        stored = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "f.jsonl").open()]
        assert [record["job"]["id"] for record in stored][:3] == [1, "\ud800", None]
        assert stored[-1]["job"]["id"] == 3
        assert result.from_before == (result.fillings if again else 0)
        assert all(len(event.text) < 5000 for event in events if isinstance(event, Warn))


def test_so_many_draws_are_refused(model):
    with pytest.raises(RequestError, match="MOST_DRAWS"):
        GenerateOptions(MOST_DRAWS + 1)


def test_equal_prompts_stay_in_their_places(model):
    found = generate_all(model, GenerateOptions(1, 8, ("a", "t", "a"), sampling=Sampling(steps=2)))
    assert [(one.prompt, one.prompt_number) for one in found] == [("a", 0), ("t", 1), ("a", 2)]


@pytest.mark.parametrize("graph", ["absorbing", "uniform"])
def test_candidates_of_a_model_in_discrete_time_have_its_own_finite_bound(graph, workplace, tmp_path, sedd):
    run = tmp_path / "run"
    changes = [f"graph={graph}", "objective={name: d3pm, T: 8}", "train.steps=4"]
    assert sedd("train", workplace / "tiny.yaml", *changes, "--run-dir", run, "--no-report", "-q").code == 0
    words = ["--model", run, "-t", "the [MASK:2-3] sat", "--candidates", 3, "--steps", 2, "--json"]
    outcome = sedd("infill", *words)
    assert outcome.code == 0, outcome.err
    (sample,) = json.loads(outcome.out, parse_constant=pytest.fail)["samples"]
    assert sample["bound"] > 0
