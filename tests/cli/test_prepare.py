"""`sedd prepare` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sedd_cli.cli.commands.prepare import prepare
from sedd_cli.errors import DamageError, RequestError


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("\n".join(f"line {i} of [bold]many[/bold]" for i in range(200)))
    return str(path)


def run(*words: str):
    app = typer.Typer()
    app.command()(prepare)
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


def test_help_shows_an_example():
    result = run("--help")
    assert result.exit_code == 0
    assert "Example: sedd prepare" in result.output


def test_first_and_second_time(text):
    first, second = run(text, "--tokenizer", "char"), run(text, "--tokenizer", "char")
    assert first.exit_code == second.exit_code == 0
    assert "already" not in first.output
    assert "already prepared" in second.output
    assert "validation" in first.output


def test_json_is_one_document(text):
    result = run(text, "--tokenizer", "byte", "--json", "--inspect", "--verify", "--workers", "2")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["fresh"]
    assert document["tokenizer"] == "byte"
    assert document["verified"]["fingerprint"] == document["fingerprint"]
    assert document["inspected"]["splits"]["train"]["blocks"]


def test_inspect_shows_text_as_it_is(text):
    result = run(text, "--tokenizer", "byte", "--inspect")
    assert "of [bold]many[/bold]" in result.output
    quiet = run(text, "--tokenizer", "byte", "--inspect", "--quiet").stdout
    assert "of [bold]many[/bold]" in quiet, "the blocks are what was requested"
    assert "already prepared" not in quiet


def test_the_list_names_known_corpora_tokenizers_and_what_is_prepared(text):
    assert "nothing is prepared yet" in run("--list").output
    run(text, "--tokenizer", "char")
    result = run("--list")
    assert result.exit_code == 0
    for word in ("pydocs", "openwebtext", "bert-base-uncased", "LDC User Agreement", "my", "char"):
        assert word in result.output
    listed = json.loads(run("--list", "--json").stdout)
    assert [entry["corpus"] for entry in listed["prepared"]] == ["my"]


def test_options_reach_the_job(tmp_path):
    path = tmp_path / "my.test.jsonl"
    path.write_bytes(json.dumps({"body": "a , b"}).encode())
    result = run(str(path), "--tokenizer", "byte", "--field", "body", "--detokenizer", "wikitext", "--json")
    document = json.loads(result.stdout)
    assert document["splits"]["test"]["characters"] == len("a, b")
    assert document["options"]["field"] == "body"


def test_from_names_the_local_files_of_a_known_corpus(tmp_path):
    (tmp_path / "wiki.valid.raw").write_text(" = A = \n")
    result = run("wikitext2", "--from", str(tmp_path), "--tokenizer", "byte", "--split", "validation", "--json")
    assert json.loads(result.stdout)["corpus"] == "wikitext2"


def test_ctrl_c_says_how_to_go_on(text, monkeypatch, sedd):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("sedd_cli.data.encode.encode_group", interrupted)
    result = sedd("prepare", text, "--tokenizer", "byte")
    assert result.code == 130
    assert "the same command continues" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "name a corpus"),
        (("nothing",), "'nothing' is no file"),
        (("pydocs", "--tokenizer", "bpe:3"), "bpe:N with N"),
        (("pydocs", "--workers", "0"), "workers must be at least 1"),
        (("pydocs", "--list"), "CORPUS has no effect with --list"),
        (("--list", "--tokenizer", "char"), "--tokenizer has no effect with --list"),
        (("--list", "--verify"), "--verify has no effect with --list"),
        (("--list", "--field", "body"), "--field has no effect with --list"),
    ],
)
def test_a_wrong_request_is_one_line_with_the_reason(words, message):
    result = run(*words)
    assert isinstance(result.exception, RequestError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_verify_finds_damage(text, tmp_path):
    run(text, "--tokenizer", "byte")
    (shard,) = (tmp_path / "home").rglob("train-00000.bin")
    raw = bytearray(shard.read_bytes())
    raw[0] ^= 1
    shard.write_bytes(raw)
    assert run(text, "--tokenizer", "byte").exit_code == 0
    assert isinstance(run(text, "--tokenizer", "byte", "--verify").exception, DamageError)


def test_a_folder_without_its_manifest_is_refused_before_the_work(sedd, text):
    done = sedd("prepare", text, "--tokenizer", "byte", "--json")
    folder = Path(json.loads(done.out)["folder"])
    (folder / "manifest.json").unlink()
    again = sedd("prepare", text, "--tokenizer", "byte")
    assert again.code == 2
    assert f"{folder} exists, without an intact manifest.json: move it away" in again.err
    assert list(folder.iterdir())
