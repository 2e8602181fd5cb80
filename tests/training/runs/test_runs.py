"""Lists and comparisons of runs, and what they read from the folders of runs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from sedd_cli.cli.view.runs import age, size
from sedd_cli.cli.view.status import first_and_last, spelled
from sedd_cli.errors import RequestError
from sedd_cli.recipe import load_recipe
from sedd_cli.system.plotting import as_png, empty_figure
from sedd_cli.training.runs.compare import EXACT, PAIRED, WELCH, compare_runs, verdict
from sedd_cli.training.runs.curves import Curve, curve_of, named_levels, smoothed
from sedd_cli.training.runs.figure import LEGEND_LINE, draw_curves
from sedd_cli.training.runs.stored import StoredBound, own_bounds, stored_bounds
from sedd_cli.training.runs.summary import disk_of, find_runs, list_runs, parameters_of
from sedd_cli.training.status import status
from sedd_cli.training.train import TrainOptions, train


@pytest.fixture(scope="module")
def pair(workplace, tiny_run, tmp_path_factory) -> list[Path]:
    """The tiny run and one with another learning rate, in one folder. Read only."""
    folder = tmp_path_factory.mktemp("bench") / "runs"
    shutil.copytree(tiny_run, folder / "tiny")
    for other in (folder / "tiny" / "results").iterdir():  # other tests may have added some
        if other.is_file() and other.name != "test-step-12.json":
            other.unlink()
    os.utime(folder / "tiny" / "metrics.jsonl", (1e9, 1e9))
    os.utime(folder / "tiny" / "latest", (1e9, 1e9))
    os.utime(folder / "tiny" / "recipe.yaml", (1e9, 1e9))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        changes = ["train.lr=1e-2", "train.steps=24", "report.every=12", "report.rel_error=0.1"]
        list(train(load_recipe(workplace / "tiny.yaml", changes), TrainOptions(folder / "deep" / "faster", "cpu")))
    return [folder / "tiny", folder / "deep" / "faster"]


def bound(bits: float, error: float, replicates: int = 8, **more) -> StoredBound:
    values = {f.name: None for f in dataclasses.fields(StoredBound)}
    values |= {"bits": bits, "error": error, "replicates": replicates, "sign": "≤", "characters": 100, "length": 16}
    values |= {"path": Path("nowhere") / "results" / "a.json", "protocol": "rigorous", "fingerprint": "f"}
    return StoredBound(**values | more)


def kept(folder: Path, name: str, nats: list[float], tokens: list[int], **more) -> StoredBound:
    """A bound whose documents were kept."""
    (folder / "results" / "documents").mkdir(parents=True, exist_ok=True)
    found = {"rigorous": {"nats": nats, "tokens": tokens}}
    (folder / "results" / "documents" / f"{name}.json").write_text(json.dumps(found))
    bits = sum(nats) / math.log(2) / 100
    return bound(bits, 0.01, path=folder / "results" / f"{name}.json", **more)


def test_runs_are_found_below_a_folder_and_not_below_a_run(pair):
    folder = pair[0].parent
    assert find_runs(folder) == sorted(pair)
    assert find_runs(pair[0]) == [pair[0]]
    with pytest.raises(RequestError, match="no folder"):
        find_runs(folder / "nothing")


def test_the_list_tells_what_each_run_is(pair, workplace):
    last, first = list_runs(pair[0].parent)
    assert (first.name, last.name) == ("tiny", "deep/faster")
    assert (first.like, first.changes) == ("", [])
    assert last.like == "tiny"
    assert last.changes == ["train.steps=24", "train.lr=0.01"]
    model = load_recipe(workplace / "tiny.yaml").model
    assert first.parameters == last.parameters == parameters_of(pair[1])
    assert first.parameters > model.hidden_size**2 * 12
    assert first.disk == disk_of(pair[0]) > 4 * first.parameters
    assert first.age > 1e8 > last.age
    assert last.status.bound == own_bounds(stored_bounds(pair[1]), load_recipe(pair[1] / "recipe.yaml").data.corpus)[-1]


def test_a_shipped_recipe_is_what_a_run_of_its_name_is_compared_with(tmp_path):
    from sedd_cli.recipe import dump_recipe

    folder = tmp_path / "runs" / "a"
    folder.mkdir(parents=True)
    (folder / ".sedd-run").touch()
    (folder / "recipe.yaml").write_text(dump_recipe(load_recipe("quickstart", ["train.lr=1e-2", "report.samples=9"])))
    (one,) = list_runs(tmp_path)
    assert (one.like, one.changes, one.parameters) == ("quickstart", ["train.lr=0.01"], None)
    assert (one.status.state, one.status.bound) == ("stopped", None)


def test_a_run_that_cannot_be_read_is_listed_as_such(pair, tmp_path, sedd):
    shutil.copytree(pair[0], tmp_path / "runs" / "odd")
    (tmp_path / "runs" / "odd" / "recipe.yaml").write_text("graph: circles\n")
    (one,) = list_runs(tmp_path / "runs")
    assert one.status is None
    assert "circles" in one.error or "missing" in one.error
    done = sedd("runs", tmp_path / "runs")
    assert done.code == 0
    assert "unreadable" in done.out


@pytest.mark.parametrize(
    "change",
    [
        {"loss": math.nan},
        {"loss": 1e308},
        {"loss": "\x1b]0;x\x07"},
        {"loss": [1]},
        {"loss_by_t": 5},
        {"loss_by_t": [None, "x", 3, math.inf]},
        {"memory": None},
        {"seconds": "x", "seconds_left": math.nan},
        {"step": 10**30},
        {"step": True},
        {"kind": ["train"]},
        {"bits_per_char": None},
        {"nats_per_token": 0},
    ],
    ids=repr,
)
def test_odd_metrics_are_passed_over(pair, tmp_path, sedd, change):
    folder = tmp_path / "runs" / "tiny"
    shutil.copytree(pair[1], folder)
    shutil.rmtree(folder / "results")  # the bound is then that of the validation
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | change) + "\n" for line in lines))
    for words in (["runs", tmp_path], ["status", folder, "--plot"], ["compare", folder, pair[0]]):
        for form in ([], ["--json"]):
            ended = sedd(*words, *form)
            nothing = "has no metrics yet" in ended.err
            assert ended.code == (2 if nothing else 0), ended.err
            assert "\x1b" not in ended.out


@pytest.mark.parametrize("latest", [b"\xff\xfe", b"a\0b", b"../../../etc", b"x" * 10**6, b""])
def test_a_damaged_mark_of_the_latest_checkpoint_names_none(pair, tmp_path, sedd, latest):
    shutil.copytree(pair[0], tmp_path / "runs" / "tiny")
    (tmp_path / "runs" / "tiny" / "latest").write_bytes(latest)
    (tmp_path / "runs" / "tiny" / "ema.safetensors").unlink(missing_ok=True)
    found = status(tmp_path / "runs" / "tiny")
    assert (found.state, found.checkpoint, parameters_of(tmp_path / "runs" / "tiny")) == ("stopped", None, None)
    for words in (["runs", tmp_path], ["status", tmp_path / "runs" / "tiny"]):
        ended = sedd(*words)
        assert ended.code == 0
        assert ended.err.count("\n") == (2 if words[0] == "status" else 0)  # how to go on
        assert len(ended.out) < 10_000


def test_a_run_whose_recipe_cannot_be_read_is_named(pair, tmp_path, sedd):
    shutil.copytree(pair[0], tmp_path / "tiny")
    with (tmp_path / "tiny" / "recipe.yaml").open("a") as file:
        file.write("future: 1\n")
    ended = sedd("compare", pair[1], tmp_path / "tiny")
    assert (ended.code, f"{tmp_path / 'tiny' / 'recipe.yaml'}: future: unknown key" in ended.err) == (2, True)


@pytest.mark.parametrize("name", ["a\x1b]0;x\x07", "\udcff", "a\nb", "$x^{", "<b>", "n" * 200])
def test_runs_of_any_name_are_compared_as_figure_and_page(pair, tmp_path, sedd, name):
    shutil.copytree(pair[0], tmp_path / name)
    for out in ("a.png", "a.html"):
        ended = sedd("compare", tmp_path / name, pair[1], "--out", tmp_path / out)
        assert (ended.code, ended.err.count("\n")) == (0, 1), ended.err
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert not {"\x1b", "\x07"} & set(page)
    assert "<b>" not in page


def test_the_bound_of_a_run_is_of_its_last_step_its_own_text_and_the_whole_of_it(pair, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pair[0], run)
    recipe, report = load_recipe(run / "recipe.yaml"), run / "results" / "test-step-12.json"
    result = json.loads(report.read_text())
    others = {
        "earlier": {"step": 6},
        "foreign": {"corpus": "wikitext2"},
        "part": {"blocks_asked": 4},
        "validation": {"split": "validation"},
    }
    for name, changes in others.items():
        (run / "results" / f"eval-{name}.json").write_text(json.dumps(result | changes))
    (run / "results" / "broken.json").write_text("{")
    (run / "results" / "other.json").write_text('{"bounds": [1]}')
    found = own_bounds(stored_bounds(run), recipe.data.corpus)[-1]
    assert found.path == report
    assert (found.protocol, found.sign, found.bits) == ("rigorous", "≤", result["bounds"]["rigorous"]["bits_per_char"])


def at_length(run: Path, length: int, bits: float) -> None:
    """Store a result of the last step in blocks of another length, of a smaller error than the report's."""
    result = json.loads((run / "results" / "test-step-12.json").read_text()) | {"length": length}
    result["bounds"]["rigorous"] |= {"bits_per_char": bits, "bits_per_char_error": 1e-6}
    (run / "results" / f"eval-{length}.json").write_text(json.dumps(result))


def test_a_likelihood_of_blocks_of_another_length_does_not_speak_for_a_run_and_names_its_length(pair, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(pair[0], run)
    at_length(run, 4, 9.0)
    assert status(run).bound.path.name == "test-step-12.json"
    assert [len(status(run).series[part]) for part in ("test", "test (blocks of 4 tokens)")] == [1, 1]
    (run / "results" / "test-step-12.json").unlink()
    assert "9.000 ± <0.0005 bits/char on" in (said := spelled(status(run).bound))
    assert "test, blocks of 4 tokens at step 12" in said


def test_likelihoods_are_compared_at_one_length_of_block(pair, tmp_path):
    for name in "ab":
        shutil.copytree(pair[0], tmp_path / name)
    at_length(tmp_path / "a", 4, 9.0)
    own, other = compare_runs([tmp_path / "a", tmp_path / "b"]).bounds.items()
    assert other[0] == f"{own[0]}, blocks of 4 tokens"
    assert [b and b.length == 4 for b in (*own[1], *other[1])] == [False, False, True, None]
    recipe = yaml.safe_load((tmp_path / "b" / "recipe.yaml").read_text())
    recipe["model"]["length"] = 4  # of this run it is the model's own
    (tmp_path / "b" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "b" / "results" / "test-step-12.json").unlink()
    shutil.copy(tmp_path / "a" / "results" / "eval-4.json", tmp_path / "b" / "results")
    verdicts = compare_runs([tmp_path / "a", tmp_path / "b"]).verdicts
    remarked = {one.text: "not the same length of block" in one.remark for one in verdicts}
    assert remarked == {own[0]: True, other[0]: False}


def test_a_verdict_on_different_protocols_says_so():
    assert "rigorous and mdlm" in verdict("text", "A", "B", bound(2.0, 0.1), bound(2.1, 0.1, protocol="mdlm")).remark
    assert verdict("text", "A", "B", bound(2.0, 0.1), bound(2.1, 0.1)).remark == ""


def test_a_verdict_on_different_samplers_says_so():
    short, long = (bound(2.0, 0.1, protocol="sampler", process=f"tweedie in {steps} steps") for steps in (4, 16))
    remark = "not the same protocol: sampler: tweedie in 4 steps and sampler: tweedie in 16 steps"
    assert verdict("text", "A", "B", short, long).remark == remark
    assert verdict("text", "A", "B", short, short).remark == ""


def test_the_documents_of_a_result_add_up_to_it(pair):
    found = own_bounds(stored_bounds(pair[0]), load_recipe(pair[0] / "recipe.yaml").data.corpus)[-1]
    nats, tokens = found.documents()
    assert sum(tokens) == found.tokens
    assert sum(nats) == pytest.approx(found.nats_per_token * found.tokens)
    assert "documents" not in json.loads(found.path.read_text())["bounds"]["rigorous"]


def test_welch_is_students_t_of_two_means():
    a, b = bound(2.0, 0.01, 5), bound(2.03, 0.002, 9)
    found = verdict("text", "A", "B", a, b)
    spread = [one.error * math.sqrt(one.replicates) for one in (a, b)]
    expected = stats.ttest_ind_from_stats(2.0, spread[0], 5, 2.03, spread[1], 9, equal_var=False)
    assert found.test == WELCH
    assert found.difference == pytest.approx(0.03)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.differ == (expected.pvalue < 0.05)


def test_exact_likelihoods_need_no_test():
    found = verdict("text", "A", "B", bound(2.0, 0.0, 1, sign="="), bound(2.1, 0.0, 1, sign="="))
    assert (found.test, found.p, found.differ) == (EXACT, None, True)
    assert "a bound may be loose" in verdict("text", "A", "B", bound(2.0, 0.1), bound(2.1, 0.0, sign="=")).remark


def test_pairs_of_documents_show_what_the_spread_of_documents_hides(tmp_path):
    rng = np.random.default_rng(0)
    nats = rng.gamma(3, 30, 40)  # documents differ much, models little
    tokens = [10] * 40
    a, b = kept(tmp_path, "a", nats.tolist(), tokens), kept(tmp_path, "b", (nats * 1.01).tolist(), tokens)
    found = verdict("text", "A", "B", a, b)
    expected = stats.ttest_rel(nats * 1.01, nats)  # of equal lengths, the ratio of sums is the mean
    assert (found.test, found.degrees) == (PAIRED, 39)
    assert found.difference == pytest.approx(0.01 * nats.sum() / math.log(2) / 100)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.differ


def test_equal_models_are_rarely_told_apart(tmp_path):
    rng = np.random.default_rng(1)
    told = 0
    for number in range(200):
        tokens = rng.integers(5, 60, 30).tolist()
        rate = rng.normal(5, 1, 30)
        a, b = (
            kept(tmp_path, f"{name}{number}", (np.array(tokens) * (rate + rng.normal(0, 0.3, 30))).tolist(), tokens)
            for name in "ab"
        )
        told += verdict("text", "A", "B", a, b).differ
    assert told <= 20  # 10 expected at the level 0.05


@pytest.mark.parametrize("change", [{"fingerprint": "another"}, {"protocol": "mdlm"}])
def test_other_documents_are_not_paired(tmp_path, change):
    a = kept(tmp_path, "a", [1.0, 2.0, 3.0], [1, 1, 1])
    assert verdict("text", "A", "B", a, kept(tmp_path, "b", [1.0, 2.0, 4.0], [1, 1, 1], **change)).test == WELCH
    assert verdict("text", "A", "B", a, kept(tmp_path, "c", [1.0, 2.0, 4.0], [1, 2, 1])).test == WELCH


def test_a_comparison_holds_what_differs(pair):
    found = compare_runs(pair)
    assert found.letters == ["A", "B"]
    assert found.recipes == {"train.steps": ["12", "24"], "train.lr": ["0.003", "0.01"]}
    (row,) = found.bounds.values()
    assert [one.protocol for one in row] == ["rigorous", "rigorous"]
    (one,) = found.verdicts
    assert one.test == PAIRED
    assert one.difference == pytest.approx(row[1].bits - row[0].bits)
    assert all(found.tokens_per_second)
    for wrong in (pair[:1], [pair[0], pair[0]]):
        with pytest.raises(RequestError):
            compare_runs(wrong)


@pytest.mark.parametrize("width", [80, 120])
def test_the_views_fit_the_screen(sedd, pair, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for words in (["runs", pair[0].parent], ["compare", *pair]):
        done = sedd(*words)
        assert done.code == 0, done.err
        assert max(len(line.rstrip()) for line in done.out.splitlines()) <= width
    assert "deep/faster" in sedd("runs", pair[0].parent).out
    assert "paired by document" in done.out
    assert "B - A" in done.out


def test_no_word_of_a_status_and_of_a_comparison_is_broken_at_80_columns(sedd, pair, monkeypatch):
    def words(*command, width: int) -> set[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        lines = [line for line in sedd(*command).out.splitlines() if not re.search("[┤└]|steps$", line)]
        return {word for line in lines for word in line.split()}

    for command in (["status", pair[1]], ["compare", *pair]):
        whole = words(*command, width=400)
        paths = {word for word in whole if "/" in word and len(word) > 40}  # longer than a column
        assert whole - paths <= words(*command, width=80)
    monkeypatch.setenv("COLUMNS", "80")
    listed = sedd("runs", pair[0].parent).out.splitlines()
    assert len(listed) == 1 + 2 * 2 + 1  # the head, two lines a run, and what the likelihoods are of


def test_a_likelihood_of_an_earlier_step_than_the_runs_last_one_names_its_step(sedd, pair, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    longer = tmp_path / "runs" / "longer"
    shutil.copytree(pair[0], longer)
    (report,) = longer.glob("results/*.json")
    report.write_text(json.dumps(json.loads(report.read_text()) | {"step": 5}))  # no report since then
    assert "at step 5" in sedd("compare", longer, pair[1]).out.split("parameters")[0]
    assert "at step" not in sedd("compare", *pair).out.split("parameters")[0]
    assert "at step 5" in sedd("runs", longer.parent).out
    assert "at step" not in sedd("runs", pair[0].parent).out


@pytest.mark.parametrize("width", [80, 120])
def test_six_runs_are_compared_with_whole_names_and_likelihoods_in_two_lines_a_row(
    sedd, pair, tmp_path, monkeypatch, width
):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.chdir(tmp_path)
    names = [f"runs/poems-{number}" for number in range(6)]
    for name in names:
        shutil.copytree(pair[0], name)
    shown = sedd("compare", *names).out.split("B - A")[0].splitlines()
    assert max(len(line.rstrip()) for line in shown) <= width
    assert [word for line in shown for word in line.split() if word.startswith("runs/")] == names
    assert sum(len(re.findall(r"≤ \d\.\d{3} ± \d\.\d{3}", line)) for line in shown) == 6
    assert "…" not in "".join(shown)


def other_text(run: Path, name: str, **changes) -> None:
    """Make a run one of another text and of another length of training."""
    for path in run.glob("results/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"corpus": name, "fingerprint": name}))
    for path in run.glob("checkpoints/*/state.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": name}))
    stored = yaml.safe_load((run / "recipe.yaml").read_text())
    stored["data"] |= {"corpus": f"{name}.txt", "tokenizer": None}
    for section, values in changes.items():
        stored[section] |= values
    (run / "recipe.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_of_runs_shows_texts_sizes_and_how_many_differences_it_leaves_out(
    sedd, pair, tmp_path, monkeypatch, width
):
    monkeypatch.setenv("COLUMNS", str(width))
    folder, name = tmp_path / "runs", "the-verses-of-a-poet-1"
    shutil.copytree(pair[0], folder / "tiny")
    shutil.copytree(pair[1], folder / name)
    changed = {"lr": 0.007, "batch": 99, "warmup": 3, "clip": 0.123, "ema": 0.87, "weight_decay": 0.321}
    other_text(folder / name, "verses", train={**changed, "extended": [12]})
    lines = [line.rstrip() for line in sedd("runs", folder).out.splitlines()]
    assert len(lines) == 1 + 2 * 2
    assert max(map(len, lines)) <= width
    head, first, below = lines[:3]
    assert head.split() == ["run", "steps", "bits/char", "size", "state", "age"]
    assert first.startswith(name)
    assert size(parameters_of(folder / name)) in first.split()
    assert below.startswith("  on verses test; ")
    assert "corpus=verses.txt" in below
    assert "extended=[12]" in below
    assert "tokenizer" not in below
    said = re.search(r"… (\d+) more$", below)
    (one,) = [one for one in list_runs(folder) if one.name == name]
    assert below.count("=") + (int(said[1]) if said else 0) == len(one.changes)
    assert said or width > 80


def test_a_comparison_of_one_prepared_text_has_no_difference_of_names(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "a")
    recipe = tmp_path / "a" / "recipe.yaml"
    stored = yaml.safe_load(recipe.read_text())
    stored["data"]["corpus"] = "another-name-of-it"
    recipe.write_text(yaml.safe_dump(stored))
    assert set(compare_runs([tmp_path / "a", pair[1]]).recipes) == {"train.steps", "train.lr"}
    other_text(tmp_path / "a", "verses")
    assert "data.corpus" in compare_runs([tmp_path / "a", pair[1]]).recipes


def test_a_chart_of_several_texts_says_whose_baselines_it_shows(sedd, pair, tmp_path):
    assert set(named_levels(compare_runs(pair).curves)) == {"unigram", "5-gram"}
    shutil.copytree(pair[0], tmp_path / "a")
    other_text(tmp_path / "a", "verses")
    found = compare_runs([tmp_path / "a", pair[1]])
    assert set(named_levels(found.curves)) == {"unigram, A", "5-gram, A", "unigram, B", "5-gram, B"}
    assert sedd("compare", tmp_path / "a", pair[1], "--out", tmp_path / "a.png").code == 0


def test_marks_differ_by_split_and_earlier_ones_stay(sedd, pair, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(pair[1], run)
    report = json.loads((run / "results" / "test-step-24.json").read_text())
    report["bounds"]["rigorous"]["bits_per_char"] += 0.5
    (run / "results" / "test-step-12.json").write_text(json.dumps(report | {"step": 12}))
    series = status(run).series
    assert [mark.step for mark in series["test"]] == [12, 24]
    assert first_and_last(series["test"]).count("≤") == 2
    assert first_and_last(series["test"][:1]).count("at step") == 1
    monkeypatch.setenv("COLUMNS", "80")
    text = sedd("status", run).out
    (validation,) = [name for name in series if name != "test"]
    assert f"o: bound on {validation}" in text
    assert "x: bound on test" in text
    chart = [line[11:] for line in text.splitlines() if "┤" in line]
    assert sum(line.count("x") for line in chart) == 2
    assert "x: bound on test" in sedd("compare", run, pair[0]).out


def test_the_status_shows_the_last_bound_of_each_part_of_the_text(sedd, pair, tmp_path, monkeypatch):
    run = shutil.copytree(pair[1], tmp_path / "run")
    monkeypatch.setenv("COLUMNS", "120")
    assert "other bounds" not in sedd("status", run).out
    report = json.loads((run / "results" / "test-step-24.json").read_text()) | {"split": "validation"}
    for step, bits in ((12, 2.5), (24, 2.25)):
        report["bounds"]["rigorous"] |= {"bits_per_char": bits, "bits_per_char_error": 0.01}
        (run / "results" / f"validation-step-{step}.json").write_text(json.dumps(report | {"step": step}))
    lines = sedd("status", run).out.splitlines()
    (line,) = [line for line in lines if line.startswith("other bounds")]
    assert line.split(maxsplit=2)[2].strip() == "≤ 2.250 ± 0.010 bits/char on validation at step 24"


def test_the_status_of_a_stopped_run_ends_with_the_command_that_goes_on(sedd, pair, tmp_path, monkeypatch):
    run = tmp_path / "a run"
    shutil.copytree(pair[1], run)
    (run / "latest").write_text("step-12")
    assert status(run).state == "stopped"
    done = sedd("status", run)
    assert (done.out + done.err).rstrip().endswith(f"sedd train {shlex.quote(str(run))}")
    assert json.loads(sedd("status", run, "--json").out)["resume"] == f"sedd train {shlex.quote(str(run))}"
    assert "sedd train" not in sedd("status", pair[1]).err


def test_a_curve_of_a_single_step_is_a_mark_in_a_figure(pair):
    curve = dataclasses.replace(curve_of(status(pair[0])), raw=[(5, 2.0)], smooth=[(5, 2.0)], marks={})
    draw_curves(axis := empty_figure(4, 3).subplots(), [curve], "")
    assert any(line.get_marker() not in ("None", "", None) for line in axis.lines if len(line.get_xdata()) == 1)


def test_the_commands_print_one_document(sedd, pair):
    listed = json.loads(sedd("runs", pair[0].parent, "--json").out)
    assert [one["name"] for one in listed["runs"]] == ["deep/faster", "tiny"]
    assert listed["runs"][0]["validation"]["step"] == 12
    compared = json.loads(sedd("compare", *pair, "--json").out)
    assert [one["letter"] for one in compared["runs"]] == ["A", "B"]
    assert compared["verdicts"][0]["test"] == PAIRED


def test_a_comparison_is_written_as_a_figure_and_as_a_page(sedd, pair, tmp_path):
    assert sedd("compare", *pair, "--out", tmp_path / "a.png").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert sedd("compare", *pair, "--out", tmp_path / "a.html").code == 0
    both = sedd("compare", *pair, "--out", tmp_path / "b.png", "--html", tmp_path / "b.html", "--json")
    assert json.loads(both.out)["html"] == str(tmp_path / "b.html")
    assert (tmp_path / "b.png").is_file()
    page = (tmp_path / "b.html").read_text()
    assert page == (tmp_path / "a.html").read_text()
    assert "train.lr" in page
    assert "paired by document" in page
    assert "data:image/png;base64,iVBOR" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "{a}"], "two to 6 runs"),
        (["compare", "{a}", "{a}"], "named twice"),
        (["compare", "{a}", "{a}/samples"], "is not a run"),
        (["compare", "{a}", "{b}", "--out", "{a}/curves.pdf"], ".png or .html"),
        (["compare", "{a}", "{b}", "--html", "{a}/curves.png"], "--html: a name that ends in .html"),
        (["runs", "{a}/nothing"], "no folder"),
    ],
)
def test_a_wrong_request_names_what_is_accepted(sedd, pair, words, message):
    done = sedd(*(word.format(a=pair[0], b=pair[1]) for word in words))
    assert done.code == 2
    assert message in done.err


def test_a_folder_without_runs_says_so(sedd, tmp_path):
    done = sedd("runs", tmp_path)
    assert done.code == 0
    assert "no runs in" in done.out + done.err


def test_status_has_the_bound_the_baselines_and_the_time(sedd, pair):
    found = status(pair[1])
    shown = curve_of(found)
    assert shown.unit == "bits/char"
    assert shown.marks["test"] == [(24.0, pytest.approx(found.bound.bits))]
    (seen,) = found.validation
    assert shown.marks[f"validation (first {seen['blocks']} blocks)"] == [(12.0, seen["bits_per_char"])]
    assert shown.levels["unigram"] == pytest.approx(found.baselines["unigram"])
    seconds = sum(r["seconds"] for r in (*found.train, *found.validation))
    assert found.seconds == pytest.approx(seconds)
    assert seconds > 0
    text = sedd("status", pair[1]).out
    for words in (f"{found.bound.bits:.3f} ±", "unigram", "5-gram", "time so far", "in bits/char"):
        assert words in text
    assert json.loads(sedd("status", pair[1], "--json").out)["bound"]["split"] == "test"


def test_without_any_evaluation_the_prepared_text_gives_the_unit_and_runs_beside_it_the_baselines(pair, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(pair[0], whole)
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "results")
    found, evaluated = status(tmp_path / "run"), status(whole)
    shown = curve_of(found)
    assert (shown.unit, found.bound, found.data) == ("bits/char", None, evaluated.data)
    assert found.bits_of_a_nat == pytest.approx(evaluated.bits_of_a_nat)
    assert shown.levels == curve_of(evaluated).levels != {}


def test_without_any_evaluation_and_without_the_text_the_curve_is_in_nats(pair, tmp_path, monkeypatch):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))
    shutil.copytree(pair[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "results")
    found = status(tmp_path / "run")
    shown = curve_of(found)
    assert (shown.unit, found.bound, shown.levels) == ("nats/token", None, {})
    assert shown.raw == [(r["step"], r["loss"]) for r in found.train]
    assert {one.unit for one in compare_runs([tmp_path / "run", pair[1]]).curves} == {"nats/token"}


def test_smoothing_keeps_lines_and_lowers_noise():
    line = [(float(x), 3.0 - 0.01 * x) for x in range(200)]
    assert [y for _, y in smoothed(line)] == pytest.approx([y for _, y in line])
    rng = np.random.default_rng(0)
    noisy = [(float(x), float(y)) for x, y in enumerate(rng.normal(0, 1, 400))]
    assert np.std([y for _, y in smoothed(noisy)]) < 0.4
    assert smoothed([]) == []


def test_ages_and_sizes_are_short():
    assert [age(s) for s in (-1, 5, 70, 7200, 90000, 4e7)] == ["0 s", "5 s", "1 min", "2 h", "1 d", "1 y"]
    assert [size(n) for n in (None, 12, 1234, 5176577, 1.3e9)] == ["", "12", "1.23k", "5.18M", "1.3G"]


def test_results_that_are_not_finite_or_of_others_are_passed_over(pair, tmp_path, sedd):
    """JSON has null for what is not finite."""
    run = shutil.copytree(pair[0], tmp_path / "runs" / "one")
    (file,) = (run / "results").glob("*.json")
    good = json.loads(file.read_text())
    for key in ("bits_per_char", "perplexity", "nats_per_token", "tokens"):
        for value in (None, "x", [], float("inf")):
            bounds = {name: {**one, key: value} for name, one in good["bounds"].items()}
            file.write_text(json.dumps({**good, "bounds": bounds}))
            assert stored_bounds(run) == []
    for change in ({"step": "x"}, {"corpus": None}, {"length": float("nan")}):
        file.write_text(json.dumps(good | change))
        assert stored_bounds(run) == []
    file.unlink()
    os.mkfifo(file)
    assert stored_bounds(run) == []
    (run / "ema.safetensors").write_bytes((1000).to_bytes(8, "little") + b"[" * 1000)
    assert parameters_of(run) is None
    for words in (("runs", run.parent), ("status", run)):
        assert sedd(*words).code == 0


@pytest.mark.parametrize("runs", [1, 3])
def test_no_legend_covers_the_name_of_a_baseline(runs):
    levels = {"unigram": 4.4, "5-gram": 1.9}
    points = [(10.0 * i, 1.6 + 4 * 0.9**i) for i in range(1, 100)]
    marks = {"validation": points[20::20], "test": points[-1:]}
    curves = [Curve(f"run number {i}", "bits/char", points, points, marks, levels, "t") for i in range(runs)]
    figure = empty_figure(8, 5 + LEGEND_LINE * 3 * runs)
    axis = figure.subplots()
    draw_curves(axis, curves, "")
    as_png(figure)  # places everything
    legend = axis.get_legend().get_window_extent()
    assert len(axis.texts) == 2
    assert not [text.get_text() for text in axis.texts if legend.overlaps(text.get_window_extent())]
