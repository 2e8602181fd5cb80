"""Tables of trained rows: status, training and measuring, stored results, the summary, the command."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind
from support.jobs import completed, returned

from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.inference.template import parse_template
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Warn
from sedd_cli.tables.column import Filling, Judge, Likelihood, Mauve, Quality
from sedd_cli.tables.definition import Mini, Row, Table, build_table, load_table, recipe_of, shipped_tables
from sedd_cli.tables.document import NumberCell, RowSummary, SeedValue
from sedd_cli.tables.durations import remaining_training_seconds
from sedd_cli.tables.markdown import markdown
from sedd_cli.tables.measures import base
from sedd_cli.tables.plot import plot
from sedd_cli.tables.row_run import row_runs_of
from sedd_cli.tables.row_status import read_record, row_status, write_result
from sedd_cli.tables.run import RunOptions, make
from sedd_cli.tables.summary import check_order, quantile, summary


@pytest.fixture
def table(workplace) -> Table:
    """Two rows to be trained and one that is quoted, on the tiny corpus."""
    recipe = str(workplace / "tiny.yaml")
    column = Likelihood("tiny", str(workplace / "corpus.txt"), "test", "rigorous")
    few = ("train.steps=4", "train.save_every=2", "report.every=2", "report.blocks=4")
    rows = (
        Row("one", "One", recipe, set=few, mini=few, paper={"tiny": 1.5}),
        Row("causal", "Causal", recipe, set=("objective=autoregressive", *few), mini=None, paper={"tiny": 1.2}),
        Row("old", "Old one", paper={"tiny": 9.0}),
    )
    mini = Mini((column,), "bits_per_char", recipe, minutes=2.0)
    return Table("tabletiny", "Tiny", "bits_per_char", (column,), rows, mini, (("causal", "one"),))


def row_runs(table, folder, seeds=1, mini=False):
    return row_runs_of(table, mini, seeds, folder)


def made(table, folder, names=("one", "causal"), seeds=1, **options):
    every = row_runs(table, folder, seeds)
    options = RunOptions("cpu", rel_error=0.5, max_nfe=8, **options)
    events, result = completed(make([run for name in names for run in every[name]], options))
    return events, [*result.left, *result.failed]


def altered(path: Path, change) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


# The tables that ship


@pytest.mark.parametrize("name", shipped_tables())
def test_a_shipped_table_names_recipes_that_load_and_texts_that_are_known(name, tmp_path):
    from sedd_cli.data.corpora import CORPORA

    found = load_table(name)
    sizes = [False, True] if found.mini else [False]
    every = [run for mini in sizes for of in row_runs_of(found, mini, 3, tmp_path).values() for run in of]
    for run in every:
        if recipe := run.recipe:
            assert recipe.seed == run.seed
            recipe.objective.make().check(recipe.graph.make(vocab_size=5))
        for column in run.columns:
            if isinstance(column, Likelihood):
                assert column.dataset in CORPORA
            if isinstance(column, Quality) and recipe:
                assert column.length <= recipe.model.length
            if isinstance(column, Filling):
                assert parse_template(column.template).gaps
        for scorer in run.scorers:
            assert scorer.recipe.objective.make().causal
            assert scorer.trained.folder != run.trained.folder  # no model is its own judge
    for row in found.rows:
        assert set(row.paper or {}) <= {column.name for column in found.columns}
        assert row.recipe or row.model or row.run or row.paper


def test_a_published_model_has_the_papers_values_of_the_row_it_reproduces():
    for table in map(load_table, shipped_tables()):
        rows = {row.name: row.paper for row in table.rows}
        for size in ("small", "medium"):
            if published := rows.get(f"sedd_{size}_published"):
                assert published == rows[f"sedd_absorb_{size}"]


def test_small_rows_have_equal_budgets():
    found = load_table("2")
    budgets = set()
    for row in found.rows:
        if training := recipe_of(found, row, True, 0):
            recipe = load_recipe(*training)
            budgets.add((recipe.train, recipe.model, recipe.data))
    assert len(budgets) == 1


# The status of a row


def test_the_status_of_a_row_follows_its_run_and_results(table, tmp_path):
    every = row_runs(table, tmp_path)
    assert [row_status(every[name][0]).state for name in ("one", "causal", "old")] == ["missing", "missing", "quoted"]
    made(table, tmp_path)
    assert [row_status(every[name][0]).state for name in ("one", "causal", "old")] == ["measured", "measured", "quoted"]
    one = every["one"][0]
    assert "seed=0" in one.train_command()
    assert one.measure_command() == f"sedd table tiny --run one --runs {tmp_path}"
    (one.folder / "table" / "tiny.json").unlink()
    assert row_status(one).state == "trained"
    (one.folder / "latest").write_text("step-2\n")
    assert row_status(one).state == "training"
    assert "at step 2 of 4" in row_status(one).message


def test_a_run_of_another_recipe_is_not_counted(table, tmp_path):
    made(table, tmp_path, ["one"])
    one = row_runs(table, tmp_path)["one"][0]
    path = one.folder / "recipe.yaml"
    path.write_text(path.read_text().replace("lr: 0.003", "lr: 0.001"))
    found = row_status(one)
    assert found.state == "other"
    assert "is not counted: made with another recipe (train.lr: 0.001 → 0.003)" in found.problems[0]
    _, left = made(table, tmp_path, ["one"])
    assert "remove that folder" in left[0].why


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["result"]["bounds"]["rigorous"].update(bits_per_char=0.5),
        lambda r: r.update(sha256="0"),
        lambda r: r.update(format=99),
        lambda r: r.pop("result"),
        lambda r: r["of"].update(split="train"),
    ],
)
def test_a_result_that_was_edited_is_not_counted(table, tmp_path, change):
    made(table, tmp_path, ["one"])
    one = row_runs(table, tmp_path)["one"][0]
    path = one.result_file(table.columns[0])
    altered(path, change)
    with pytest.raises(DamageError, match="was changed or damaged: not counted"):
        read_record(one, table.columns[0])
    assert row_status(one).state == "trained"
    assert summary(table, row_runs(table, tmp_path), False).rows[0].ours == {}
    made(table, tmp_path, ["one"])  # measured again
    assert row_status(one).state == "measured"


def test_a_result_with_a_number_that_is_not_finite_is_measured_once(table, tmp_path):
    """A perplexity that overflows beside bits per character: JSON holds it as null."""
    made(table, tmp_path, ["one"])
    one, column = row_runs(table, tmp_path)["one"][0], table.columns[0]
    result = read_record(one, column)["result"]
    result["bounds"]["rigorous"] |= {"perplexity": math.inf, "perplexity_error": math.nan}
    write_result(one, column, result)
    assert read_record(one, column)["result"]["bounds"]["rigorous"]["perplexity"] is None
    assert row_status(one).state == "measured"
    stored = one.result_file(column).read_bytes()
    result["bounds"]["rigorous"]["bits_per_char"] = math.nan
    with pytest.raises(WorkError, match="tiny is not finite"):
        write_result(one, column, result)
    assert one.result_file(column).read_bytes() == stored


def test_a_result_of_other_weights_is_not_counted(table, tmp_path):
    """The file of another row is intact, but does not belong to this row."""
    made(table, tmp_path)
    one, causal = (row_runs(table, tmp_path)[name][0] for name in ("one", "causal"))
    column = table.columns[0]
    one.result_file(column).write_bytes(causal.result_file(column).read_bytes())
    with pytest.raises(DamageError, match="is of other weights, or of another measurement"):
        read_record(one, column)


# Training and measuring


def test_a_measured_row_is_not_measured_again(table, tmp_path):
    made(table, tmp_path, ["one"])
    file = row_runs(table, tmp_path)["one"][0].result_file(table.columns[0])
    before = file.stat().st_mtime_ns
    events, left = made(table, tmp_path, ["one"])
    assert events == []
    assert left == []
    assert file.stat().st_mtime_ns == before


def test_a_measured_row_is_measured_again_for_a_smaller_error(table, tmp_path):
    made(table, tmp_path, ["one", "causal"])
    one, causal = (row_runs(table, tmp_path)[name][0] for name in ("one", "causal"))

    def files() -> list[int]:
        return [run.result_file(table.columns[0]).stat().st_mtime_ns for run in (one, causal)]

    before, asked = files(), RunOptions("cpu", rel_error=1e-6, max_nfe=8)
    returned(make([one, causal], asked))
    after = files()
    assert [x == y for x, y in zip(before, after, strict=True)] == [False, True]  # the exact value has no error
    assert read_record(one, table.columns[0])["result"]["bounds"]["rigorous"]["rel_error_asked"] == 1e-6
    returned(make([one, causal], asked))  # though this error is not reached in 8 draws
    returned(make([one, causal], RunOptions("cpu", rel_error=0.5, max_nfe=8)))
    assert files() == after


def test_a_row_that_fails_does_not_stop_the_others(table, tmp_path):
    broken = Row("broken", "Broken", table.rows[0].recipe, set=("model.hidden_size=16", "data.corpus=nowhere.txt"))
    table = Table("tabletiny", "Tiny", "bits_per_char", table.columns, (broken, *table.rows), table.mini)
    events, left = made(table, tmp_path, ["broken", "one"])
    assert [entry.row for entry in left] == ["broken"]
    assert any("nowhere.txt" in e.text for e in events if isinstance(e, Warn))
    assert row_status(row_runs(table, tmp_path)["one"][0]).state == "measured"


def test_a_row_that_does_not_fit_into_memory_does_not_stop_the_others(table, tmp_path, monkeypatch):
    open_model = base.open_model

    def loaded(source, device):
        if "one" in Path(source).parts:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return open_model(source, device)

    monkeypatch.setattr(base, "open_model", loaded)
    events, left = made(table, tmp_path, ["one", "causal"])
    assert [(entry.row, entry.code) for entry in left] == [("one", 1)]
    assert any("not enough memory" in e.text for e in events if isinstance(e, Warn))
    assert row_status(row_runs(table, tmp_path)["causal"][0]).state == "measured"


def test_a_budget_starts_nothing_that_would_exceed_it(table, tmp_path):
    every = [run for of in row_runs(table, tmp_path, mini=True).values() for run in of]
    expected = remaining_training_seconds(every[0], every)
    assert expected == pytest.approx(120)  # the estimate of the table, since no row is trained
    result = returned(make(every, RunOptions("cpu", budget=60)))
    assert "training takes about 2 minutes; left of the budget: 60 seconds" in result.left[0].why
    full = row_runs(table, tmp_path)["one"]
    result = returned(make(full, RunOptions("cpu", budget=60)))
    assert "is not known yet" in result.left[0].why
    made(table, tmp_path, ["one"])
    causal = row_runs(table, tmp_path)["causal"]
    assert remaining_training_seconds(causal[0], [*full, *causal]) < 60  # at the rate of the trained row
    assert made(table, tmp_path, ["one", "causal"], budget=60)[1] == []


def test_the_result_of_a_loaded_model_belongs_to_its_row(table, tmp_path, tiny_run):
    rows = tuple(Row(name, name, model=str(tiny_run), paper={"tiny": 2.0}) for name in ("a", "b"))
    table = Table("tabletiny", "Tiny", "bits_per_char", table.columns, rows)
    made(table, tmp_path, ["a"])
    a, b = (row_runs(table, tmp_path)[name][0] for name in "ab")
    assert row_status(a).state == "measured"
    assert a.train_command() is None
    b.result_file(table.columns[0]).parent.mkdir(parents=True)
    b.result_file(table.columns[0]).write_bytes(a.result_file(table.columns[0]).read_bytes())
    assert "of other weights, or of another measurement" in row_status(b).problems[0]


def test_a_run_that_cannot_be_read_does_not_hide_the_others(table, tmp_path):
    made(table, tmp_path, ["one"])
    causal = row_runs(table, tmp_path)["causal"][0]
    causal.folder.mkdir(parents=True)
    (causal.folder / "recipe.yaml").write_text("novelty: 1")
    found = {row.name: row for row in summary(table, row_runs(table, tmp_path), False).rows}
    assert found["one"].ours
    assert "not counted" in found["causal"].seeds[0].message
    assert found["causal"].commands == ()
    _, left = made(table, tmp_path, ["causal", "one"])
    assert [entry.row for entry in left] == ["causal"]


def test_rows_measured_on_different_texts_give_a_warning(table, tmp_path):

    made(table, tmp_path)
    one, column = row_runs(table, tmp_path)["one"][0], table.columns[0]
    write_result(one, column, {**read_record(one, column)["result"], "fingerprint": "another"})
    (line,) = summary(table, row_runs(table, tmp_path), False).warnings
    assert "2 different copies of the text, or judges" in line


@pytest.mark.parametrize(
    ("gap", "error", "verdict"), [(2.0, 0.1, "holds"), (-2.0, 0.1, "does not hold"), (0.1, 0.1, "not told apart")]
)
def test_the_verdict_on_the_order_respects_the_errors(table, gap, error, verdict):

    def verdicts(column, seeds):
        values = tuple(SeedValue(seed, 0.0, 0.0, "", "", None) for seed in range(seeds))
        cells = {"causal": (1.0, error), "one": (1.0 + gap, 0.0)}
        rows = [
            RowSummary(name, name, False, {}, {"tiny": NumberCell(mean, se, None, "", "", values)})
            for name, (mean, se) in cells.items()
        ]
        return [check.verdict for check in check_order(table, rows, column)]

    assert verdicts(table.columns[0], seeds=1) == [verdict]
    mauve = Mauve("tiny", "references", Judge("gpt2-large"), 4)  # the error of one seed is that of clustering alone
    assert verdicts(mauve, seeds=1) == ["not to be told by one seed"]
    assert verdicts(mauve, seeds=2) == [verdict]


def test_of_equal_models_three_seeds_tell_an_order_in_one_table_of_twenty():
    """Two standard errors would in 11 to 12 of 100: three seeds say little about how far seeds differ."""
    rng, told, by_two_errors, repetitions = np.random.default_rng(0), 0, 0, 4000
    for values in rng.normal(size=(repetitions, 2, 3)):
        seeds = [tuple(SeedValue(i, float(x), 0.0, "", "", None) for i, x in enumerate(v)) for v in values]
        cells = [
            NumberCell(v.mean(), v.std(ddof=1) / math.sqrt(3), None, "", "", of)
            for v, of in zip(values, seeds, strict=True)
        ]
        gap, error = abs(cells[0].mean - cells[1].mean), math.hypot(cells[0].error, cells[1].error)
        assert quantile(*cells) * error == pytest.approx(
            ttest_ind(*values, equal_var=False).confidence_interval(0.95).high - (cells[0].mean - cells[1].mean)
        )
        told += gap > quantile(*cells) * error
        by_two_errors += gap > 2 * error
    assert told / repetitions < 0.055
    assert by_two_errors / repetitions > 0.1


# The summary


def test_the_summary_has_means_spreads_differences_and_the_order(table, tmp_path):
    made(table, tmp_path, seeds=2)
    found = summary(table, row_runs(table, tmp_path, 2), False)
    rows = {row.name: row for row in found.rows}
    one = rows["one"].ours["tiny"]
    values = [entry.value for entry in one.seeds]
    assert len(set(values)) == 2
    assert one.mean == pytest.approx(sum(values) / 2)
    assert one.spread == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert one.error == pytest.approx(one.spread / math.sqrt(2))
    assert one.difference == pytest.approx(one.mean - 1.5)
    assert {entry.measure for entry in one.seeds} == {""}
    assert rows["causal"].ours["tiny"].measure == "exact"
    assert found.warnings == ()
    assert rows["old"].ours == {}
    assert rows["old"].seeds[0].message == "quoted, not run"
    (pair,) = found.order
    gap = one.mean - rows["causal"].ours["tiny"].mean
    assert pair.gap == pytest.approx(gap)
    other = [entry.value for entry in rows["causal"].ours["tiny"].seeds]
    interval = ttest_ind(values, other, equal_var=False).confidence_interval(0.95)
    assert pair.reach == pytest.approx(interval.high - gap)
    expected = "not told apart" if abs(gap) < pair.reach else "holds" if gap > 0 else "does not hold"
    assert pair.verdict == expected
    lines = markdown(found).splitlines()
    assert lines[0] == "| model | tiny: paper | tiny: ours |"
    assert f"| ≤ {one.mean:.3f} ± {one.error:.3f}" in lines[2]
    assert one.to_dict()["bound"]
    assert one.to_dict()["seeds"][0]["sign"] == "≤"
    assert lines[4] == "| Old one | 9.00 | quoted, not run |"
    plot(found, [p for of in row_runs(table, tmp_path, 2).values() for p in of], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_single_seed_has_the_error_of_its_measurement(table, tmp_path):
    made(table, tmp_path, ["one"])
    value = summary(table, row_runs(table, tmp_path), False).rows[0].ours["tiny"]
    assert value.spread is None
    assert value.error == value.seeds[0].error > 0


def test_an_empty_plot_is_refused(table, tmp_path):
    with pytest.raises(RequestError, match="nothing to plot"):
        plot(summary(table, row_runs(table, tmp_path), False), row_runs(table, tmp_path)["one"], tmp_path / "x.png")


@pytest.mark.parametrize("other", ["lr: 0.001", "future: 1"])
def test_a_run_that_is_not_counted_is_not_drawn(table, tmp_path, tiny_run, other):
    run = row_runs(table, tmp_path)["one"][0]
    shutil.copytree(tiny_run, run.folder)
    recipe = run.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("lr: 0.003", other))
    assert row_status(run).state == "other"
    validated = {"kind": "validation", "step": 4, "bits_per_char": 3.0, "bits_per_char_error": 0.1}
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(validated | {"nats_per_token": 2.0, "blocks": 4}) + "\n")
    with pytest.raises(RequestError, match="nothing to plot"):
        plot(summary(table, {"one": [run]}, False), [run], tmp_path / "x.png")


def test_inconsistent_tables_are_refused(table):
    with pytest.raises(RequestError, match="unit must be one of"):
        build_table({"name": "t", "title": "T", "unit": "meters", "columns": [], "rows": []}, "t.yaml")
    with pytest.raises(RequestError, match=r"columns\[0\].tepmlate: unknown key, did you mean 'template'"):
        build_table({"name": "t", "unit": "text", "columns": [{"name": "a", "tepmlate": "x"}]}, "t.yaml")
    with pytest.raises(ValueError, match="must have different names"):
        Table("t", "T", "perplexity", table.columns, (table.rows[0], table.rows[0]))
    with pytest.raises(ValueError, match="order: no row 'two'"):
        Table("t", "T", "perplexity", table.columns, table.rows, table.mini, (("one", "two"),))
    with pytest.raises(ValueError, match="recipe, model and run exclude each other"):
        Row("a", "A", "quickstart", "gpt2")


# The command


def test_the_command_shows_runs_and_writes(sedd, table, tmp_path, monkeypatch):
    from sedd_cli.tables import definition as module

    monkeypatch.setattr(module, "load_table", lambda name: table)
    words = ["table", "tiny", "--runs", tmp_path / "runs"]
    done = sedd(*words)
    assert done.code == 0, done.err
    assert "to be trained" in done.out
    assert "objective=autoregressive" in done.err
    done = sedd(*words, "--run", "one", "--device", "cpu", "--out", tmp_path / "t.json", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found == json.loads((tmp_path / "t.json").read_text())
    assert found["rows"][0]["ours"]["tiny"]["mean"] > 0
    assert "| One |" in sedd(*words, "--markdown").out
    assert "to be trained" in sedd(*words, "--run", "all", "--dry-run").out
    assert "Causal below One" not in done.err
    done = sedd(*words, "--run", "causal", "--device", "cpu")
    assert re.search("Causal below One: .*for one seed", done.err)
    done = sedd(*words, "--run", "all", "--mini", "--budget", "1s")
    assert done.code == 0, done.err
    assert "left of the budget" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["9"], "no table '9'. Accepted: ablations, figure1, figure2, table1, table2, table3, table4, table5"),
        (["2", "--run", "sedd_absorbed"], "did you mean 'sedd_absorb'"),
        (["2", "--run", "bfn"], "is quoted from the paper, not run"),
        (["2", "--mini", "--run", "bfn"], "at full size only"),
        (["3", "--mini"], "has no small form"),
        (["2", "--budget", "30m"], "--budget goes with --run"),
        (["2", "--rel-error", "0.1"], "--rel-error goes with --run"),
        (["2", "--run", "all", "--budget", "soon"], "--budget is a number above 0 and s, m or h"),
        (["2", "--mini", "--run", "sedd_absorbed", "--dry-run"], "did you mean 'sedd_absorb'"),
        (["2", "--run", "all", "--budget", "soon", "--dry-run"], "--budget is a number above 0"),
        (["2", "--seeds", "0"], "--seeds must be at least 1"),
        (["2", "--device", "cpu"], "--device goes with --run"),
        (["2", "--markdown", "--json"], "--markdown and --json are two ways to print the table: name one"),
        (["--seeds", "3"], "which table?"),
        (["--runs", "x"], "which table?"),
        (["--device", "cpu"], "which table?"),
    ],
)
def test_a_wrong_request_is_refused(sedd, words, message):
    done = sedd("table", *words)
    assert done.code == 2
    assert message in done.err


def test_without_a_name_the_tables_are_listed(sedd):
    done = sedd("table")
    assert done.code == 0
    assert "sedd table 2" in done.out
    listed = {one["name"]: one for one in json.loads(sedd("table", "--json").out)}
    assert listed["table2"] == {"name": "table2", "title": load_table("2").title, "mini": True}
    assert not listed["table3"]["mini"]


def test_a_refused_plot_leaves_the_document(sedd, tmp_path):
    done = sedd("table", "2", "--mini", "--runs", tmp_path, "--plot", tmp_path / "p.png", "--json")
    found = json.loads(done.out)
    assert (done.code, found["exit"], found["table"]) == (2, 2, "table2")
    assert "nothing to plot" in found["error"]
