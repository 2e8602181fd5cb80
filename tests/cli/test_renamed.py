"""Spellings of the previous version still work, and name the new ones."""

from __future__ import annotations

import json

import pytest
from support.causal_models import save_tiny_causal

from sedd_cli.cli.renamed import current_spelling
from sedd_cli.errors import RequestError


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("eval --samples s.jsonl --judge gpt2", "judge s.jsonl --judge gpt2"),
        ("eval --judge gpt2 --samples=s.jsonl", "judge s.jsonl --judge gpt2"),
        ("eval -m run --sweep steps=2,4 --judge gpt2 --out f", "sweep --steps 2,4 -m run --judge gpt2 --out f"),
        ("eval --sweep=steps=2,4 --precision auto", "sweep --steps 2,4"),
        ("eval --cloze 5 --precision=auto --seed 1", "cloze -n 5 --seed 1"),
        ("eval --no-yardsticks --model run", "eval --no-baselines --model run"),
        ("eval --yardsticks", "eval --baselines"),
        ("train --status runs/a --plot", "status runs/a --plot"),
        ("train --fit quickstart", "train --autotune quickstart"),
        ("doctor --model run --json", "inspect run --json"),
        ("doctor -m run", "inspect run"),
        ("doctor -mrun", "inspect run"),
        ("doctor --model=run", "inspect run"),
    ],
)
def test_an_old_spelling_becomes_the_new_one(old, new):
    notes = []
    assert current_spelling(old.split(), notes.append) == new.split()
    (line,) = notes
    assert line.startswith(f"`sedd {old.split()[0]} --")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "eval --model run",
        "eval --model run --samples 2",
        "sample --model run",
        "doctor",
        "train --fresh -- --status",
    ],
)
def test_the_present_spelling_is_left_as_it_is(words):
    notes = []
    assert current_spelling(words.split(), notes.append) == words.split()
    assert not notes


@pytest.mark.parametrize("words", ["eval --samples s --cloze 2", "eval --sweep", "train --status"])
def test_what_means_no_command_is_refused(words):
    with pytest.raises(RequestError):
        current_spelling(words.split(), print)


def both(sedd, old: list, new: list, note: str) -> None:
    """The old and the new spelling give the same document; the old one names the new one in a line."""
    before, after = sedd(*old, "--json"), sedd(*new, "--json")
    assert before.code == after.code == 0, before.err + after.err
    documents = [json.loads(outcome.out) for outcome in (before, after)]
    for document in documents:
        document.pop("made_by", None)  # the command and the time
    assert documents[0] == documents[1]
    assert [line for line in before.err.splitlines() if line.startswith("note:")] == [note]
    assert "note:" not in after.err
    assert "note:" not in sedd(*old, "--quiet").err


def note(old: str, new: str) -> str:
    return f"note: `{old}` is now `{new}`; the old spelling goes with the next version"


def test_old_and_new_commands_do_the_same(sedd, tiny_run, tmp_path):
    judge = save_tiny_causal(tmp_path / "judge")
    (tmp_path / "s.txt").write_text("the cat sat\na dog ran\n")
    end = ["--judge", judge]
    both(
        sedd, ["eval", "--samples", tmp_path / "s.txt", *end], ["judge", tmp_path / "s.txt", *end],
        note("sedd eval --samples", "sedd judge"),
    )  # fmt: skip
    both(
        sedd, ["eval", "--model", tiny_run, "--cloze", 2, "--candidates", 1],
        ["cloze", "--model", tiny_run, "-n", 2, "--candidates", 1], note("sedd eval --cloze", "sedd cloze"),
    )  # fmt: skip
    end = ["--judge", judge, "--model", tiny_run, "-n", 2, "--out", tmp_path / "sweep"]
    both(
        sedd,
        ["eval", "--sweep", "steps=2", *end],
        ["sweep", "--steps", 2, *end],
        note("sedd eval --sweep", "sedd sweep"),
    )
    both(sedd, ["train", "--status", tiny_run], ["status", tiny_run], note("sedd train --status", "sedd status"))
    both(sedd, ["doctor", "--model", tiny_run], ["inspect", tiny_run], note("sedd doctor --model", "sedd inspect"))


def test_old_and_new_options_do_the_same(sedd, tiny_run, workplace):
    words = ["eval", "--model", tiny_run, "--max-nfe", 4]
    old = sedd(*words, "--no-yardsticks", "--json")
    assert note("sedd eval --no-yardsticks", "--no-baselines") in old.err
    assert "baselines" not in json.loads(old.out)
    old = sedd("train", workplace / "tiny.yaml", "--fit", "--dry-run")
    assert old.code == 0
    assert note("sedd train --fit", "--autotune") in old.err
