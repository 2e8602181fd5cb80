"""Options that take one value and are given twice."""

from __future__ import annotations

import pytest
import typer.main
from cli.test_help import commands

from sedd_cli.cli.app import app
from sedd_cli.cli.repeated import refuse_repeated
from sedd_cli.errors import RequestError

SINGLE = [
    (name, param.opts[0])
    for name, command in commands().items()
    for param in command.params
    if param.param_type_name == "option" and not (param.multiple or param.is_flag or param.count)
]


@pytest.mark.parametrize(("name", "flag"), SINGLE)
def test_an_option_of_one_value_is_refused_twice(name, flag):
    group, words = typer.main.get_command(app), name.split()
    refuse_repeated(group, [*words, flag, "1"])
    with pytest.raises(RequestError, match="is given 2 times"):
        refuse_repeated(group, [*words, flag, "1", flag, "2"])
    with pytest.raises(RequestError, match="is given 2 times"):
        refuse_repeated(group, [*words, "argument", flag, "1", flag, "2"])


def test_several_models_are_refused_and_compare_is_named(sedd, tiny_run):
    done = sedd("sample", "--model", tiny_run, "-m", tiny_run, "-n", "1")
    assert done.code == 2
    assert done.err.strip() == (
        "error: --model is given 2 times, sedd sample takes one; sedd compare A B compares runs"
    )
    assert not done.out


def test_several_models_behind_a_template_are_refused_too(sedd, tiny_run):
    done = sedd("infill", "the [MASK:2]", "--model", tiny_run, "--model", tiny_run)
    assert (done.code, done.out) == (2, "")
    assert "--model is given 2 times, sedd infill takes one" in done.err


def test_what_may_be_repeated_is(sedd, tiny_run):
    refuse_repeated(
        typer.main.get_command(app), ["eval", "--protocol", "rigorous", "--protocol", "mdlm", "--quiet", "-q"]
    )
    assert sedd("sample", "--model", tiny_run, "-n", "1", "--quiet", "--quiet").code == 0


def test_words_after_the_dashes_are_arguments():
    refuse_repeated(typer.main.get_command(app), ["train", "--device", "cpu", "--", "--device", "cpu"])
