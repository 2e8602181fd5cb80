"""Messages are bounded, whatever they quote, and hold nothing that a terminal obeys."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

import sedd_cli
from sedd_cli.cli.outcome import failure, one_line
from sedd_cli.errors import (
    MESSAGE,
    VALUE,
    DamageError,
    RequestError,
    WorkError,
    displayed,
    listed,
    nearest_name,
    not_one_of,
    out_of_memory,
    printable,
    shell_command,
)


def doubled(times: int) -> list:
    """Nested lists that share their parts: 2^times leaves in `times` lists."""
    value: list = ["leaf"]
    for _ in range(times):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    "value", [doubled(60), "x" * 10**7, list(range(10**6)), dict.fromkeys(range(10**4), "y" * 1000)]
)
def test_a_value_costs_no_more_than_it_shows(value):
    began = time.perf_counter()
    assert len(displayed(value)) <= VALUE
    assert time.perf_counter() - began < 1


def test_small_values_are_shown_as_they_are():
    for value in ("a'b", 3, None, [1, 2], {"a": 1.5}, True):
        assert displayed(value) == repr(value)


@pytest.mark.parametrize("kind", [RequestError, WorkError, DamageError, KeyError, ValueError])
def test_no_message_is_longer_than_a_screen(kind):
    error = kind("name " + "z" * 10**7)
    assert len(one_line(error)) <= MESSAGE + 200
    assert len(failure(error)["error"]) <= MESSAGE + 200


@pytest.mark.parametrize("kind", [RequestError, WorkError, DamageError, KeyError, ValueError])
@pytest.mark.parametrize("value", ["z" * 10**6, "words and words " * 10**5, "it's " * 10**5])
def test_no_value_in_a_message_is_longer_than_two_lines(kind, value):
    line = one_line(kind(f"the model's key {value!r} is not known: name one of its keys"))
    assert len(line) < 500
    assert "the model" in line
    assert line.rstrip('"').endswith("is not known: name one of its keys") or kind in (KeyError, ValueError)


def test_prose_and_paths_are_kept():
    for text in (
        "the model's text " + "is prose " * 100 + "and the run's",
        "a/" * 200 + "file: no such file",
        "'short'",
    ):
        assert str(RequestError(text)) == text


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("of a GPU"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 1 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_memory_that_ran_out_is_recognised_on_every_device(error, expected):
    assert out_of_memory(error) == expected


def test_a_list_is_cut_and_says_how_much_is_left():
    assert listed("abc") == "a, b, c"
    assert listed(range(1000)).endswith(" and 988 others")


def test_what_a_terminal_obeys_is_spelled():
    assert printable("a\x1b]0;title\x07\x9b31m\u202eb\ud800\tc\n") == "a\\x1b]0;title\\x07\\x9b31m\\u202eb\\ud800\tc\n"
    assert "\x1b" not in one_line(RequestError("\x1b[2J"))


def test_a_value_that_is_not_accepted_is_answered_with_the_nearest_one():
    assert not_one_of("grid", ("linear", "cosine"), "cosin") == (
        "grid must be one of linear, cosine, found 'cosin'; did you mean 'cosine'?"
    )
    assert not_one_of("grid", ("linear", "cosine"), "xyz") == "grid must be one of linear, cosine, found 'xyz'"
    assert not_one_of("grid", ("linear",), 3) == "grid must be one of linear, found 3"
    assert nearest_name("Frozen-Rate", ("frozen_rates", "euler")) == "frozen_rates"


def test_messages_about_accepted_values_have_one_source():
    """A new option is answered with the nearest right value as well."""
    package = Path(sedd_cli.__file__).parent
    of_their_own = {"errors.py", "core/vocabulary.py"}  # the latter is about a number
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "must be one of" in path.read_text(encoding="utf-8")
    }
    assert found == of_their_own


def test_shown_commands_are_the_words_again():
    words = ["sedd", "train", "runs/it's 2", "plain", "two words", "", "$HOME", 'say "it\'s"', "a\\'b", "it's!"]
    assert shlex.split(shell_command(words)) == words
    assert shell_command(words[:4]) == 'sedd train "runs/it\'s 2" plain'
    assert shell_command(["sedd", "train", Path("-runs/a b"), "-q"]) == "sedd train './-runs/a b' -q"


def test_commands_are_quoted_in_one_place():
    quoting = {p for p in Path(sedd_cli.__file__).parent.rglob("*.py") if "shlex" in p.read_text(encoding="utf-8")}
    assert {path.name for path in quoting} == {"errors.py"}
