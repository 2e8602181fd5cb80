"""Tables of generated text: generative perplexity, MAUVE, templates; shared runs and trained judges."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from support.causal_models import save_tiny_causal
from support.jobs import returned

from sedd_cli import load_model
from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.evaluation.judge import Samples, judge
from sedd_cli.evaluation.scorers.continuation import continue_prompts
from sedd_cli.evaluation.scorers.pretrained import load_causal
from sedd_cli.evaluation.scorers.scorer import load_scorer
from sedd_cli.inference.generate import GenerateOptions, generate_all
from sedd_cli.inference.sampling import Sampling
from sedd_cli.system.home import home
from sedd_cli.tables import definition as tables
from sedd_cli.tables.column import RowSampling
from sedd_cli.tables.definition import build_table
from sedd_cli.tables.document import TextCell
from sedd_cli.tables.durations import measuring_seconds
from sedd_cli.tables.frontier import QualityCurve, frontier
from sedd_cli.tables.markdown import markdown
from sedd_cli.tables.measures import likelihood
from sedd_cli.tables.plot import plot
from sedd_cli.tables.row_run import row_runs_of
from sedd_cli.tables.row_status import read_record, row_status, write_result
from sedd_cli.tables.run import RunOptions, RunResult, make
from sedd_cli.tables.summary import summary

FEW = ["train.steps=4", "train.save_every=4", "report.every=4", "report.blocks=4"]


@pytest.fixture(autouse=True)
def _empty_caches():
    """Remove the cached generations and features of each test."""
    yield
    for name in ("mauve", "features"):
        shutil.rmtree(home() / name, ignore_errors=True)


@pytest.fixture
def known(workplace, monkeypatch):
    """name → table: one with trained rows, and three that measure its runs."""
    trained = {"recipe": str(workplace / "tiny.yaml")}
    corpus = str(workplace / "corpus.txt")
    left_to_right = {
        "name": "causal",
        "label": "Causal",
        "mini_run": "base/causal",
        "how": {"sampler": "left_to_right"},
    }
    one = {"name": "one", "label": "One", "mini_run": "base/one"}
    judge_ = {"run": "base/causal", "seed": 1000}
    point = {"length": 12, "n": 5, "judge": judge_}
    mauve = {"references": "corpus", "windows": True, "count": 40, "generations": 1, "prompt": 8, "new": 8}
    data = {
        "base": {
            "unit": "bits_per_char",
            "columns": [{"name": "tiny", "dataset": corpus}],
            "mini": {"columns": [{"name": "tiny", "dataset": corpus}], "minutes": 2.0, **trained},
            "rows": [
                {"name": "one", "label": "One", "mini": FEW},
                {"name": "causal", "label": "Causal", "mini": ["objective=autoregressive", *FEW]},
            ],
        },
        "quality": {
            "unit": "generative_perplexity",
            "columns": [{"name": "12", "steps": 12, "length": 12, "judge": "gpt2-large"}],
            "mini": {"columns": [{"name": str(n), "steps": n, **point} for n in (2, 4, 12)]},
            "rows": [
                left_to_right,
                {**one, "how": {"sampler": "euler"}},
                {"name": "far", "label": "Far", "run": "base/one"},
            ],
        },
        "mauve": {
            "unit": "mauve",
            "columns": [{"name": "WebText", "references": "webtext.jsonl", "features": "gpt2-large", "steps": 4}],
            "mini": {"columns": [{"name": "tiny", "features": judge_, "seeds": 2, "steps": 4, **mauve}]},
            "rows": [
                left_to_right,
                {**one, "how": {"mode": "infill"}},
                {"name": "old", "label": "Old", "paper": {"WebText": 0.5}},
            ],
            "order": [["causal", "one"]],
        },
        "texts": {
            "unit": "text",
            "columns": [{"name": "behind", "template": "the cat[MASK:6]", "steps": 4}],
            "mini": {
                "columns": [
                    {"name": n, "template": t, "steps": 4} for n, t in (("in", "the[MASK:4]sat"), ("at", "a[MASK:3]"))
                ]
            },
            "rows": [one],
        },
    }
    found = {name: build_table({"name": name, "title": name, **of}, name) for name, of in data.items()}
    monkeypatch.setattr(tables, "load_table", lambda name: found[name])
    return found


def made(table, runs, seeds=1, **options):
    """Train and measure every row of the small form: the row runs, and what was not completed."""
    every = row_runs_of(table, True, seeds, runs)
    result = returned(make([p for of in every.values() for p in of], RunOptions("cpu", rel_error=0.5, **options)))
    return every, [*result.left, *result.failed]


def test_runs_of_another_table_are_trained_there_and_once(known, tmp_path):
    every, left = made(known["quality"], tmp_path)
    assert left == []
    trained = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.glob("mini/*/*/*/recipe.yaml")}
    assert trained == {"mini/base/one/seed-0", "mini/base/causal/seed-0", "mini/base/causal/seed-1000"}
    assert every["one"][0].result_file(known["quality"].mini.columns[0]).is_file()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert made(known["quality"], tmp_path)[1] == []
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    base = row_runs_of(known["base"], True, 1, tmp_path)
    assert [row_status(of[0]).state for of in base.values()] == ["trained", "trained"]


def test_a_point_is_the_perplexity_of_the_samples(known, tmp_path):
    every, _ = made(known["quality"], tmp_path, seeds=2)
    reader = load_scorer(every["one"][0].scorers[0].folder, "cpu")
    ours = {row.name: row.ours for row in summary(known["quality"], every, True).rows}
    assert list(ours["causal"]) == ["12"]  # an autoregressive model takes one step for each token
    assert list(ours["one"]) == ["2", "4", "12"]
    for name, sampling, column in (("one", Sampling(4, "euler"), "4"), ("causal", Sampling(), "12")):
        for seed in range(2):
            model = load_model(every[name][seed].source, "cpu")
            sampled = generate_all(model, GenerateOptions(5, 12, seed=seed, sampling=sampling))
            expected = returned(judge(reader, Samples.of(sampled, model.tokenizer), False)).to_dict()["per_sequence"]
            found = ours[name][column].seeds[seed]
            assert found.value == pytest.approx(expected["perplexity"])
            assert found.error == pytest.approx(expected["error"])
    cell = ours["one"]["4"]
    low, high = sorted(seed.entropy for seed in cell.seeds)
    assert (cell.entropy, cell.entropy_error) == pytest.approx(((low + high) / 2, (high - low) / 2))
    assert f"entropy {cell.entropy:.2f} ± {cell.entropy_error:.2f}" in markdown(summary(known["quality"], every, True))
    assert [seed["entropy"] for seed in cell.to_dict()["seeds"]] == [seed.entropy for seed in cell.seeds]


def test_no_perplexity_of_a_figure_stands_without_its_entropy_and_the_controls(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    found = summary(known["quality"], every, True)
    for row in found.rows:
        for cell in row.ours.values():
            assert cell.entropy > 0
            assert f"entropy {cell.entropy:.2f}" in markdown(found)
            assert cell.to_dict()["entropy"] == cell.entropy
    names = [control.name for control in found.controls]
    assert names[:2] == ["real text", "repeated phrase"]
    (phrase,) = (control for control in found.controls if control.name == "repeated phrase")
    assert "low entropy" in phrase.marks
    assert f"repeated phrase: perplexity {phrase.perplexity:.1f}, entropy {phrase.entropy:.2f}" in markdown(found)
    # results of earlier versions, without controls
    for of in every.values():
        for column in of[0].columns:
            result = read_record(of[0], column)["result"]
            old = {key: value for key, value in result.items() if key not in ("marks", "comparison")}
            write_result(of[0], column, old)
    assert summary(known["quality"], every, True).controls == ()


def test_a_figure_has_costs_a_frontier_and_a_plot(known, tmp_path):
    table = known["quality"]
    empty = summary(table, row_runs_of(table, True, 1, tmp_path), True)
    commands = [entry.command for row in empty.rows for entry in row.commands]
    assert sum(command.startswith("sedd train") for command in commands) == 4  # two runs, and the judge of each
    # no row is trained, so each run costs the 2 minutes that the table expects
    costs = {e.cost for row in empty.rows for e in row.commands if e.command.startswith("sedd train")}
    assert costs == {"about 2 minutes here"}
    # two trainings, and a minute for each column: causal has one, since its samples take no number of steps
    costs = {e.cost for row in empty.rows for e in row.commands if e.command.startswith("sedd table")}
    assert costs == {f"about {4 + n} minutes here, with the training" for n in (1, len(table.mini.columns))}
    with pytest.raises(RequestError, match="nothing to plot"):
        plot(empty, [], tmp_path / "x.png")
    every, _ = made(table, tmp_path)
    found = summary(table, every, True)
    (line,) = found.frontier
    assert line.row == "one"
    assert set(line.matches) == {"Causal"}
    plot(found, [], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_each_seed_of_a_row_is_measured_with_draws_of_its_own(monkeypatch):
    """Where all seeds share their draws, the spread over seeds lacks the error of the draws."""
    seen = []

    def evaluate(model, dataset, options, dist):
        seen.append(options.monte_carlo.seed)
        return SimpleNamespace(to_dict=dict)
        yield

    monkeypatch.setattr(likelihood, "evaluate", evaluate)
    monkeypatch.setattr(likelihood, "prepared_for", lambda *given: iter(()))
    model = SimpleNamespace(device=torch.device("cpu"))
    models = SimpleNamespace(model=lambda run: model, rel_error=0.1, max_nfe=8)
    for seed in (0, 3):
        column = SimpleNamespace(dataset="any", split="test", protocol="rigorous")
        returned(likelihood.LikelihoodMeasure().run(SimpleNamespace(seed=seed), column, models))
    assert seen == [0, 3]


@pytest.mark.parametrize(("level", "steps"), [(0.9, None), (3.0, 16), (100.0, 4)])
def test_the_frontier_is_the_line_through_the_logarithms(level, steps):
    points = {n: 40.0 / n for n in (4, 8, 16)}
    curves = [
        QualityCurve("one", "One", False, points),
        QualityCurve("causal", "Causal", True, {16: level}),
        QualityCurve("no", "No", False, {}),
        QualityCurve("half", "Half", False, {4: 1.0}),  # a single point gives neither a line nor a level
    ]
    (found,) = frontier(curves)
    assert found.slope == pytest.approx(-1.0)
    assert found.explained == pytest.approx(1.0)
    assert found.matches == {"Causal": steps}
    points[8] *= 2
    (bent,) = frontier(curves)
    x, y = ([math.log(v) for v in values] for values in ((4, 8, 16), (10.0, 10.0, 2.5)))
    assert bent.slope == pytest.approx((y[2] - y[0]) / (x[2] - x[0]))  # the outer two of three equidistant points
    assert 0 < bent.explained < 1


def test_mauve_of_continued_and_filled_prompts(known, tmp_path):
    every, left = made(known["mauve"], tmp_path)
    assert left == []
    found = summary(known["mauve"], every, True)
    for row in found.rows:
        result = read_record(every[row.name][0], known["mauve"].mini.columns[0])["result"]
        value = row.ours["tiny"]
        assert value.mean == pytest.approx(result["mauve"])
        assert value.error == pytest.approx(result["mauve_std"])
        assert result["mode"] == ("infill" if row.name == "one" else "standard")
        assert result["features"]["model"].endswith("base/causal/seed-1000")
    assert len(found.order) == 1
    assert [row.name for row in found.rows] == ["causal", "one"]  # quoted rows are not in the small form


def test_a_row_shows_texts_with_their_given_parts(known, tmp_path, sedd):
    every, _ = made(known["texts"], tmp_path)
    found = summary(known["texts"], every, True)
    (row,) = found.rows
    for name, begin, end in (("in", "the", "sat"), ("at", "a", "")):
        ((text,)) = row.ours[name].texts
        assert text["text"].startswith(begin)
        assert text["text"].endswith(end)
        assert [text["text"][a:b] for a, b in text["given"]] == [part for part in (begin, end) if part]
    assert found.order == found.frontier == ()
    assert "| One |" in markdown(found)
    shown = sedd("table", "texts", "--mini", "--runs", tmp_path)
    assert shown.code == 0, shown.err
    assert row.ours["at"].texts[0]["text"].split("\n")[0] in shown.out


def test_a_result_of_other_judge_weights_is_not_counted(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    one, column = every["one"][0], known["quality"].mini.columns[0]
    (manifest,) = (one.scorers[0].folder / "checkpoints").glob("step-4/manifest.json")
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(DamageError, match="of other weights, or of another measurement"):
        read_record(one, column)
    assert row_status(one).state == "trained"


def test_other_sampling_options_are_another_measurement(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    one, column = every["one"][0], known["quality"].mini.columns[0]
    assert read_record(one, column)
    other = dataclasses.replace(one, row=dataclasses.replace(one.row, how=RowSampling("tweedie")))
    with pytest.raises(DamageError, match="of other weights, or of another measurement"):
        read_record(other, column)
    for changed in ({"steps": 3}, {"n": 6}, {"length": 11}):
        with pytest.raises(DamageError, match="of other weights, or of another measurement"):
            read_record(one, dataclasses.replace(column, **changed))


def test_samples_by_another_sampler_of_the_recipe_are_not_counted(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    one = every["one"][0]
    path = one.trained.folder / "recipe.yaml"
    path.write_text(path.read_text().replace("temperature: 1.0", "temperature: 0.5"))
    found = row_status(one)
    assert found.state == "other"
    assert "made with another recipe (sampler.temperature: 0.5 → 1.0)" in found.problems[0]
    likelihoods = row_runs_of(known["base"], True, 1, tmp_path)["one"][0]  # do not depend on the sampler
    assert row_status(likelihoods).state == "trained"


def test_results_of_a_judge_of_another_recipe_are_not_counted(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    one = every["one"][0]
    path = one.scorers[0].folder / "recipe.yaml"
    path.write_text(path.read_text().replace("lr: 0.003", "lr: 0.1"))
    assert row_status(one).state == "other"
    assert "its judge" in row_status(one).problems[0]
    found = summary(known["quality"], every, True)
    assert all(row.commands == () for row in found.rows)
    assert "One, seed 0: its judge" in found.warnings[1]
    assert "remove that folder" in made(known["quality"], tmp_path)[1][0].why


def test_a_damaged_result_gives_a_warning_and_the_others_count(known, tmp_path, sedd):
    every, _ = made(known["quality"], tmp_path)
    path = every["one"][0].result_file(known["quality"].mini.columns[1])
    path.write_text(path.read_text().replace('"samples": 5', '"samples": 4'))
    found = summary(known["quality"], every, True)
    assert sorted(found.rows[1].ours) == ["12", "2"]
    assert "4.json was changed or damaged: not counted" in found.warnings[0]
    assert "was changed or damaged" in sedd("table", "quality", "--mini", "--runs", tmp_path).err


BITS = {"bounds": {"rigorous": {"perplexity": 2.0, "perplexity_error": 0.1}}, "estimator": "iid"}
MAUVE = {"mauve": 0.5, "mauve_std": 0.1}
MAUVE_COLUMN = {"name": "c", "references": "texts.jsonl", "features": "scorer", "steps": 4}


@pytest.mark.parametrize(
    ("unit", "column", "result", "changed", "named"),
    [
        ("perplexity", {"name": "c", "dataset": "texts.jsonl"}, BITS, "texts.jsonl", "dataset"),
        ("perplexity", {"name": "c", "dataset": "text8"}, BITS, "model/model.safetensors", "model"),
        ("mauve", MAUVE_COLUMN, MAUVE, "texts.jsonl", "references"),
        ("mauve", MAUVE_COLUMN, MAUVE, "scorer/model.safetensors", "judge"),
    ],
)
def test_a_result_of_other_files_of_the_same_name_is_not_counted(
    unit, column, result, changed, named, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("texts.jsonl", "model/model.safetensors", "scorer/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("one\n")
    rows = [{"name": "one", "label": "One", "model": "model"}]
    table = build_table({"name": "t", "title": "T", "unit": unit, "columns": [column], "rows": rows}, "t")
    one = row_runs_of(table, False, 1, tmp_path / "runs")["one"][0]
    write_result(one, table.columns[0], result)
    (tmp_path / "model" / "README.md").write_text("a card, which is no part of the model\n")
    assert read_record(one, table.columns[0])
    (tmp_path / changed).write_text("two\n")
    with pytest.raises(DamageError, match=f"another {named} of the same name: not counted; measure again"):
        read_record(one, table.columns[0])
    (tmp_path / changed).unlink()  # of files that are gone nothing is known
    assert read_record(one, table.columns[0])


def test_different_judges_give_a_warning(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    one, column = every["one"][0], known["quality"].mini.columns[2]
    write_result(one, column, read_record(one, column)["result"] | {"judge_fingerprint": "another"})
    assert summary(known["quality"], every, True).warnings == (
        "12: 2 different copies of the text, or judges, which do not compare",
    )


def test_samples_are_stored_continued_and_shared(known, tmp_path, monkeypatch):
    from sedd_cli.tables.measures import quality

    def fail(*args):
        raise WorkError("no judge")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(quality, "judge", fail)
        _, left = made(known["quality"], tmp_path)
    assert "no judge" in left[0].why
    (path,) = (tmp_path / "samples").glob("*/samples/left_to_right.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    path.write_text("".join(lines[:3]) + lines[3][:10])
    made(known["quality"], tmp_path)

    def drawn(lines):
        return [json.loads(line)["tokens"] for line in lines]

    assert drawn(path.read_text().splitlines()) == drawn(lines)
    assert len(list((tmp_path / "samples").iterdir())) == 2  # a folder for each model


def test_a_loaded_causal_model_is_sampled_and_judged(known, tmp_path):
    folder = save_tiny_causal(tmp_path / "gpt")
    column = {"name": "8", "steps": 8, "length": 8, "n": 20, "judge": str(folder)}
    loaded = {"name": "gpt", "label": "GPT", "model": str(folder)}
    data = {"name": "loaded", "title": "Loaded", "unit": "generative_perplexity", "columns": [column]}
    wrong = build_table(data | {"rows": [loaded]}, "t")
    right = build_table(data | {"rows": [loaded | {"how": {"sampler": "left_to_right"}}]}, "t")
    refused, run = (row_runs_of(table, False, 2, tmp_path)["gpt"] for table in (wrong, right))
    assert len(run) == 2  # its samples depend on the seed, its weights do not
    result = returned(make(refused, RunOptions("cpu")))
    assert "is autoregressive, which needs how.sampler: left_to_right" in result.failed[0].why
    result = returned(make(run, RunOptions("cpu")))
    assert result == RunResult((), ())
    found = summary(right, {"gpt": run}, False).rows[0].ours["8"]
    assert len({seed.value for seed in found.seeds}) == 2
    (path,) = (tmp_path / "samples").glob("*-8-0-v*/samples/left_to_right.jsonl")
    tokens = torch.tensor([json.loads(line)["tokens"] for line in path.read_text().splitlines()])
    causal = load_causal(folder, "cpu")
    again = continue_prompts(causal, torch.empty(20, 0, dtype=torch.int64), 8, 1.0, 1.0, 0, torch.arange(20), ends=True)
    assert torch.equal(tokens, again)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"rows": [{"name": "a", "label": "A", "paper": {}, "how": {"top_p": 0.9}}]},
            "row a: top_p has no effect in p",
        ),
        ({"rows": [{"name": "a", "label": "A", "mini": []}]}, "the small form has no recipe"),
        ({"columns": [{"name": "p", "steps": 4, "length": 8, "judge": {"seed": 3}}]}, "expected a model, or {run"),
        (
            {"columns": 2 * [{"name": "p", "steps": 4, "length": 8, "judge": "j"}]},
            "columns must have different names",
        ),
    ],
)
def test_inconsistent_columns_and_rows_are_refused(changed, message):
    column = {"name": "p", "steps": 4, "length": 8, "judge": "gpt2"}
    data = {"name": "t", "title": "T", "unit": "generative_perplexity", "columns": [column], "rows": []}
    with pytest.raises(RequestError, match=message):
        build_table(data | changed, "t.yaml")


def test_the_expected_time_of_measuring_counts_in_the_budget(known, tmp_path):
    table = known["texts"]
    every, _ = made(table, tmp_path, seeds=2)
    first, second = every["one"]
    for column in table.mini.columns:
        write_result(first, column, read_record(first, column)["result"], 60.0)
        second.result_file(column).unlink()
    column = table.mini.columns[0]
    assert measuring_seconds(column, True, [row_status(first), row_status(second)]) == pytest.approx(60.0)
    assert measuring_seconds(column, True, [row_status(second)]) == pytest.approx(60.0)
    assert measuring_seconds(column, False, [row_status(second)]) is None
    result = returned(make([first, second], RunOptions("cpu", budget=30)))
    assert "measuring in takes about 60 seconds; left of the budget: 30 seconds" in result.left[0].why
    (command,) = summary(table, every, True).rows[0].commands
    assert command.cost == "about 2 minutes here"


def test_a_failed_row_sets_the_exit_code_and_labels_name_rows(known, tmp_path, sedd):
    every, _ = made(known["quality"], tmp_path)
    path = every["one"][0].scorers[0].folder / "recipe.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("lr: 0.003", "lr: 0.1"))
    words = ["table", "quality", "--mini", "--runs", tmp_path, "--device", "cpu"]
    done = sedd(*words, "--run", "One", "--quiet")
    assert done.code == 2
    assert re.search("error: 1 of 1 failed: one, seed 0: .* another recipe", done.err), done.err
    path.write_text(whole)
    assert sedd(*words, "--run", "one").code == 0


def test_further_seeds_with_results_are_announced(known, tmp_path, sedd):
    made(known["texts"], tmp_path, seeds=3)
    assert summary(known["texts"], row_runs_of(known["texts"], True, 1, tmp_path), True).more_seeds == 2
    assert "--seeds 3 shows them" in sedd("table", "texts", "--mini", "--runs", tmp_path).err
    assert "shows them" not in sedd("table", "texts", "--mini", "--runs", tmp_path, "--seeds", 3).err


def test_bounds_and_given_text_are_marked(known, tmp_path, sedd):
    every, _ = made(known["base"], tmp_path)
    found = summary(known["base"], every, True)
    assert [row.ours["tiny"].sign for row in found.rows] == ["≈", ""]  # the published protocol is no bound
    assert [row.ours["tiny"].to_dict()["bound"] for row in found.rows] == [False, False]
    one, causal = markdown(found).splitlines()[2:]
    assert "| ≈ " in one
    assert "≤" not in one + causal
    assert "≈" not in causal
    assert "± " not in causal  # exact
    assert "≈ " in sedd("table", "base", "--mini", "--runs", tmp_path).out
    every, _ = made(known["texts"], tmp_path)
    assert "| **the**" in markdown(summary(known["texts"], every, True))
    assert "the[MASK:4]sat" in sedd("table", "texts", "--mini", "--runs", tmp_path).out


def test_control_characters_of_a_text_are_spelled_in_markdown(known, tmp_path):
    found = summary(known["texts"], row_runs_of(known["texts"], True, 1, tmp_path), True)
    cell = TextCell([{"text": "a\x1b[2Jb", "given": []}])
    row = dataclasses.replace(found.rows[0], ours={found.columns[0].name: cell})
    assert "\x1b" not in (shown := markdown(dataclasses.replace(found, rows=(row,))))
    assert "[2Jb" in shown


def test_rows_are_found_by_name_and_by_label():
    rows = [
        {"name": "a_1", "label": "First One", "paper": {}},
        {"name": "b_2", "label": "Second", "mini_label": "Small"},
    ]
    column = {"name": "p", "dataset": "pydocs"}
    table = build_table({"name": "t", "title": "T", "unit": "perplexity", "columns": [column], "rows": rows}, "t")
    assert [table.row(name).name for name in ("a_1", "first one", "SECOND", "small")] == ["a_1", "a_1", "b_2", "b_2"]
    for name in ("third", ""):
        with pytest.raises(RequestError, match=f"t has no row '{name}'"):
            table.row(name)


def test_other_references_or_features_give_a_warning(known, tmp_path):
    every, _ = made(known["mauve"], tmp_path)
    one, column = every["one"][0], known["mauve"].mini.columns[0]
    result = read_record(one, column)["result"]
    for side in ("references", "features"):
        write_result(one, column, result | {side: result[side] | {"fingerprint": "another"}})
        assert "which do not compare" in summary(known["mauve"], every, True).warnings[0]


def test_durations_are_stored_and_finished_training_costs_nothing(known, tmp_path):
    table = known["texts"]
    every, _ = made(table, tmp_path)
    one, column = every["one"][0], table.mini.columns[0]
    write_result(one, column, read_record(one, column)["result"], 600.0)
    assert row_status(one).seconds[column.name] == 600.0
    one.result_file(table.mini.columns[1]).unlink()
    result = returned(make([one], RunOptions("cpu", budget=1e-9)))
    assert result.left[0].why.startswith("measuring at takes about 60 seconds; left of the budget: less")
