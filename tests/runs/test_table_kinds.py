"""Tables of samples: judged, compared by MAUVE, and shown; rows that share runs, judges that are trained."""

from __future__ import annotations

import json
import math

import pytest

from sedd_cli import load_model
from sedd_cli.errors import DamageError
from sedd_cli.recipe import table as tables
from sedd_cli.recipe.column import Quality
from sedd_cli.recipe.table import build_table
from sedd_cli.runs.events import Finished
from sedd_cli.runs.generate import GenerateOptions, generate_all
from sedd_cli.runs.judge import Samples, judge
from sedd_cli.runs.reader import load_reader
from sedd_cli.runs.sampling import Sampling
from sedd_cli.runs.table.cells import look, read_record, write_result
from sedd_cli.runs.table.frontier import frontier
from sedd_cli.runs.table.job import RunOptions, make, measuring_seconds
from sedd_cli.runs.table.place import places_of
from sedd_cli.runs.table.plot import plot
from sedd_cli.runs.table.summary import markdown, summary

FEW = ["train.steps=4", "train.save_every=4", "report.every=4", "report.blocks=4"]


@pytest.fixture
def known(workplace, monkeypatch):
    """name → table: one whose rows are trained, and three that measure its runs."""
    trained = {"recipe": str(workplace / "tiny.yaml")}
    corpus = str(workplace / "corpus.txt")
    left_to_right = {
        "name": "causal",
        "label": "Causal",
        "mini_run": "base/causal",
        "how": {"sampler": "left_to_right"},
    }
    one = {"name": "one", "label": "One", "mini_run": "base/one"}
    judge_ = "base/causal/1000"
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
            "columns": [{"name": "WebText", "references": "webtext.jsonl", "features": "gpt2-large"}],
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
            "columns": [{"name": "behind", "template": "the cat[MASK:6]"}],
            "mini": {
                "columns": [{"name": n, "template": t} for n, t in (("in", "the[MASK:4]sat"), ("at", "a[MASK:3]"))]
            },
            "rows": [one],
        },
    }
    found = {name: build_table({"name": name, "title": name, **of}, name) for name, of in data.items()}
    monkeypatch.setattr(tables, "load_table", lambda name: found[name])
    return found


def made(table, runs, seeds=1, **options):
    """Everything of the small form; what is left."""
    every = places_of(table, True, seeds, runs)
    *_, last = make([p for of in every.values() for p in of], RunOptions("cpu", rel_error=0.5, **options))
    assert isinstance(last, Finished)
    return every, last.result["left"]


def returned(job):
    while True:
        try:
            next(job)
        except StopIteration as end:
            return end.value


def test_runs_of_another_table_are_trained_there_and_once(known, tmp_path):
    every, left = made(known["quality"], tmp_path)
    assert left == []
    trained = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.glob("mini/*/*/*/recipe.yaml")}
    assert trained == {"mini/base/one/seed-0", "mini/base/causal/seed-0", "mini/base/causal/seed-1000"}
    assert every["one"][0].result_file(known["quality"].mini.columns[0]).is_file()
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert made(known["quality"], tmp_path)[1] == []
    assert stamps == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    base = places_of(known["base"], True, 1, tmp_path)
    assert [look(of[0]).state for of in base.values()] == ["trained", "trained"]


def test_a_point_is_what_the_judge_says_of_the_samples(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    reader = load_reader(every["one"][0].readers[0].folder, "cpu")
    ours = {row["name"]: row["ours"] for row in summary(known["quality"], every, True)["rows"]}
    assert list(ours["causal"]) == ["12"]  # as many steps as tokens, neither more nor less
    assert list(ours["one"]) == ["2", "4", "12"]
    for name, sampling, column in (("one", Sampling(4, "euler"), "4"), ("causal", Sampling(), "12")):
        model = load_model(every[name][0].source, "cpu")
        sampled = generate_all(model, GenerateOptions(5, 12, seed=0, sampling=sampling))
        expected = returned(judge(reader, Samples.of(sampled, model.tokenizer), False))["per_sequence"]
        assert ours[name][column]["mean"] == pytest.approx(expected["perplexity"])
        assert ours[name][column]["error"] == pytest.approx(expected["error"])


def test_a_figure_is_drawn_and_told(known, tmp_path):
    table = known["quality"]
    empty = summary(table, places_of(table, True, 1, tmp_path), True)
    commands = [entry["command"] for row in empty["rows"] for entry in row["commands"]]
    assert sum(command.startswith("sedd train") for command in commands) == 4  # two runs, and the judge of either
    with pytest.raises(Exception, match="nothing to plot"):
        plot(empty, [], tmp_path / "x.png")
    every, _ = made(table, tmp_path)
    found = summary(table, every, True)
    (line,) = found["frontier"]
    assert line["row"] == "one"
    assert set(line["matches"]) == {"causal"}
    plot(found, [], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("level", "steps"), [(0.9, None), (3.0, 16), (100.0, 4)])
def test_the_frontier_is_the_line_through_the_logarithms(level, steps):
    columns = [Quality(str(n), n, 16, "judge") for n in (4, 8, 16)]
    ours = {str(n): {"mean": 40.0 / n} for n in (4, 8, 16)}
    rows = [
        {"name": "one", "ours": ours},
        {"name": "causal", "ours": {"16": {"mean": level}}},
        {"name": "no", "ours": {}},
    ]
    (found,) = frontier(rows, columns)
    assert found["slope"] == pytest.approx(-1.0)
    assert found["explained"] == pytest.approx(1.0)
    assert found["matches"] == {"causal": steps}
    ours["8"]["mean"] *= 2
    (bent,) = frontier(rows, columns)
    x, y = ([math.log(v) for v in values] for values in ((4, 8, 16), (10.0, 10.0, 2.5)))
    assert bent["slope"] == pytest.approx((y[2] - y[0]) / (x[2] - x[0]))  # of three even steps the outer two say it
    assert 0 < bent["explained"] < 1


def test_mauve_of_continued_and_filled_prompts(known, tmp_path):
    every, left = made(known["mauve"], tmp_path)
    assert left == []
    found = summary(known["mauve"], every, True)
    for row in found["rows"]:
        result = read_record(every[row["name"]][0], known["mauve"].mini.columns[0])["result"]
        value = row["ours"]["tiny"]
        assert value["mean"] == pytest.approx(result["mauve"])
        assert value["error"] == pytest.approx(result["mauve_std"])
        assert result["mode"] == ("infill" if row["name"] == "one" else "standard")
        assert result["features"]["model"].endswith("base/causal/seed-1000")
    assert len(found["order"]) == 1
    assert [row["name"] for row in found["rows"]] == ["causal", "one"]  # what is quoted is quoted at full size


def test_texts_around_prompts(known, tmp_path, sedd):
    every, _ = made(known["texts"], tmp_path)
    found = summary(known["texts"], every, True)
    (row,) = found["rows"]
    for name, begin, end in (("in", "the", "sat"), ("at", "a", "")):
        ((text,)) = row["ours"][name]["texts"]
        assert text["text"].startswith(begin)
        assert text["text"].endswith(end)
        assert [text["text"][a:b] for a, b in text["given"]] == [part for part in (begin, end) if part]
    assert found["order"] == found["frontier"] == []
    assert "| One |" in markdown(found)
    shown = sedd("table", "texts", "--mini", "--runs", tmp_path)
    assert shown.code == 0, shown.err
    assert row["ours"]["at"]["texts"][0]["text"].split("\n")[0] in shown.out
    assert "commands" in found["rows"][0]


def test_a_judgement_by_other_weights_is_not_counted(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    one, column = every["one"][0], known["quality"].mini.columns[0]
    (manifest,) = (one.readers[0].folder / "checkpoints").glob("step-4/manifest.json")
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(DamageError, match="of other weights, or of another measurement"):
        read_record(one, column)
    assert look(one).state == "trained"


def test_another_way_of_sampling_is_another_measurement(known, tmp_path):
    every, _ = made(known["quality"], tmp_path)
    one, column = every["one"][0], known["quality"].mini.columns[0]
    path = one.result_file(column)
    record = json.loads(path.read_text())
    assert record["of"]["how"]["sampler"] == "euler"
    assert record["of"]["steps"] == 2
    other = places_of(known["texts"], True, 1, tmp_path)["one"][0]
    other.result_file(known["texts"].mini.columns[0]).parent.mkdir(parents=True)
    other.result_file(known["texts"].mini.columns[0]).write_text(json.dumps(record))
    with pytest.raises(DamageError, match="was changed or damaged"):  # no filling in it
        read_record(other, known["texts"].mini.columns[0])


def test_what_measuring_takes_counts_in_the_budget(known, tmp_path):
    table = known["texts"]
    every, _ = made(table, tmp_path, seeds=2)
    first, second = every["one"]
    for column in table.mini.columns:
        write_result(first, column, read_record(first, column)["result"], 60.0)
        second.result_file(column).unlink()
    assert measuring_seconds(look(second), [look(first), look(second)]) == pytest.approx(120.0)
    assert measuring_seconds(look(second), [look(second)]) is None
    *_, last = make([first, second], RunOptions("cpu", budget=100))
    assert "about 2.0 minutes of work, 1.7 are left" in last.result["left"][0]["why"]
    (command,) = summary(table, every, True)["rows"][0]["commands"]
    assert command["cost"] == "about 2 minutes here"
