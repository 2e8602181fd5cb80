"""A wrong name is answered with the right one: options, runs, texts, tokenizers, files, keys of a line."""

from __future__ import annotations

import json
import shutil

import pytest

from sedd_cli.cli.unknown_options import INSTEAD
from sedd_cli.errors import ITEMS


@pytest.fixture
def here(tiny_run, tmp_path, monkeypatch):
    """A folder with the run `mywiki` under ./runs, a text and a file of jobs."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, tmp_path / "runs" / "mywiki")
    (tmp_path / "my.txt").write_text("the cat sat on the mat\nit: is, so\n" * 20)
    (tmp_path / "jobs.jsonl").write_text('{"story": "the [MASK:2]", "page": 1}\n' * 50)
    (tmp_path / "half.yaml").write_text("train:\n  steps: [1\nx: 2\n")
    return tmp_path


#: Command line → what its one line of error says.
WRONG = {
    "infill x[MASK] --chat hello": "sedd infill has no --chat: it is an option of sedd sample",
    "train quickstart --gif f.gif": "sedd train has no --gif: it is an option of sedd sample and infill",
    "compare a b --png c.png": "sedd compare has no --png: --out FILE.png",
    "status a --html c.html": "sedd status has no --html: --plot writes RUN/curve.png",
    "train my.txt": "my.txt is a text, not a recipe: sedd train quickstart data.corpus=my.txt",
    "train quickstart my.txt": "a text is named by data.corpus=my.txt",
    "train half.yaml": "half.yaml is not YAML: line 3, expected",
    "train mywki": "no file mywki, and no shipped recipe or run of that name; did you mean 'mywiki'?",
    "train quikstart": "did you mean 'quickstart'?",
    "train charcters": "did you mean 'mini/characters'?",
    "train quickstart train.schedule=wsd": "warm-up, stable, decay is constant with train.decay",
    "train quickstart data.tokenizer=gtp2 --dry-run": "there is no tokenizer 'gtp2'; did you mean 'gpt2'?",
    "prepare my.txt --tokenizer bpe4096": "did you mean 'bpe:4096'?",
    "prepare my.txt --tokenizer runs/mywki": "no such file or folder; did you mean 'runs/mywiki'?",
    "prepare jobs.jsonl --field stroy": "found: story, page; did you mean 'story'?",
    "infill --model mywiki --input jbos.jsonl": "did you mean 'jobs.jsonl'?",
    "sample --model mywiki --prompts my.tx": "did you mean 'my.txt'?",
    "sample --model mywiki --tokenizer gpt2": "runs/mywiki has its own tokenizer, char: leave out gpt2",
    "sample --model mywki": "did you mean 'mywiki'?",
    "sample --model runs/mywki": "did you mean 'runs/mywiki'?",
    "sample --model elsewhere": "the runs under runs are mywiki",
    "eval --model mywki": "did you mean 'mywiki'?",
    "status mywki": "did you mean 'mywiki'?",
    "status elsewhere": "the runs under runs are mywiki",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_name_is_answered_with_the_right_one(line, here, sedd):
    done = sedd(*line.split())
    assert done.code == 2, done.err
    assert WRONG[line] in done.err.splitlines()[-1]


def test_of_many_commands_with_an_option_the_first_are_named(sedd):
    line = sedd("runs", "--device", "cpu").err
    assert line.count(",") == ITEMS - 1
    assert line.endswith(" others\n")


@pytest.mark.parametrize(("command", "option"), INSTEAD)
def test_what_stands_instead_of_an_option_is_no_option_there(command, option, sedd):
    assert f"sedd {command} has no {option}: " in sedd(command, "a", option).err


def test_a_prepared_corpus_is_among_the_names(here, sedd):
    (here / "my.txt").rename(here / "mynotes.txt")
    assert sedd("prepare", "mynotes.txt", "--tokenizer", "char").code == 0
    assert "did you mean mynotes?" in sedd("train", "quickstart", "data.corpus=mynots").err


def test_status_takes_the_newest_run(here, sedd):
    assert json.loads(sedd("status", "--json").out)["run"] == "runs/mywiki"
    shutil.rmtree(here / "runs")
    done = sedd("status")
    assert (done.code, "no run under ./runs" in done.err) == (2, True)


def test_equal_complaints_about_lines_are_one(here, sedd):
    done = sedd("infill", "--model", "mywiki", "--input", "jobs.jsonl")
    said = [line for line in done.err.splitlines() if "either a template" in line]
    assert said == ["warning: lines 1-50: it takes either a template, or prefix, suffix or both; found 'story', 'page'"]
    assert "50 of 50 lines of jobs.jsonl were refused: 1-50; " in done.err
    (here / "jobs.jsonl").write_text('{"text": "the [MASK:2]"}\n')
    assert "found 'text'; did you mean 'template'?" in sedd("infill", "--model", "mywiki", "--input", "jobs.jsonl").err


def test_the_name_of_a_models_own_tokenizer_changes_nothing(here, sedd):
    assert sedd("sample", "--model", "mywiki", "--tokenizer", "char", "-q").out == sedd("sample", "-q").out != ""
