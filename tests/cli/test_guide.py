"""`sedd guide` lists and shows the guides that ship with the package."""

from __future__ import annotations

import json
import re

import pytest

from sedd_cli.cli.commands.guide import GUIDES, TOPICS


def test_every_guide_of_the_package_is_a_topic():
    assert {path.stem for path in GUIDES.glob("*.md")} == set(TOPICS)


def test_every_limit_that_a_refusal_names_is_in_the_table_once():
    sources = "".join(path.read_text(encoding="utf-8") for path in GUIDES.parent.rglob("*.py"))
    named = set(re.findall(r"\(the limit ([A-Z_]+)\)", sources))
    rows = re.findall(r"^\| ([A-Z][A-Z_, ]+) \|", (GUIDES / "reliability.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [name for row in rows for name in row.split(", ")]
    assert len(named) > 15
    assert named - set(listed) == set()
    assert len(set(listed)) == len(listed)


def test_without_a_topic_it_lists_all_with_a_line_each(sedd):
    outcome = sedd("guide")
    assert outcome.code == 0
    assert all(any(topic in line for line in outcome.out.splitlines()) for topic in TOPICS)
    listed = json.loads(sedd("guide", "--json").out)["guides"]
    assert [one["topic"] for one in listed] == list(TOPICS)
    assert all(one["title"] and one["summary"].endswith(".") and "\n" not in one["summary"] for one in listed)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_guide_is_printed_as_it_is_where_there_is_no_terminal(sedd, topic):
    outcome = sedd("guide", topic)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == (GUIDES / f"{topic}.md").read_text(encoding="utf-8")


def test_as_json_it_is_one_document(sedd):
    document = json.loads(sedd("guide", "sampling", "--json").out)
    assert document["title"] == "Sampling and infilling"
    assert document["text"] == (GUIDES / "sampling.md").read_text(encoding="utf-8")


def test_in_a_terminal_it_is_formatted(sedd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    out = sedd("guide", "models").out
    assert "Models and formats" in out
    assert "# Models and formats" not in out
    assert "|---|" not in out
    assert "hf download" in out  # the end of a long item of a list


def test_an_unknown_topic_is_refused_with_the_known_ones(sedd):
    outcome = sedd("guide", "cooking")
    assert outcome.code == 2
    assert "'cooking'" in outcome.err
    assert all(topic in outcome.err for topic in TOPICS)


def test_the_help_names_every_topic(sedd):
    out = sedd("guide", "--help").out
    assert all(topic.removesuffix("s") in out for topic in TOPICS)
