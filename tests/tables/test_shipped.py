"""`sedd table N --mini` on a machine without results of its own."""

from __future__ import annotations

import json

import pytest

from sedd_cli.recipe.load import recipes_folder

STORED = sorted(path.stem for path in (recipes_folder() / "mini" / "results").glob("*.json"))


@pytest.mark.parametrize("name", STORED)
def test_the_stored_results_are_shown_and_named_as_such(sedd, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shown = sedd("table", name, "--mini")
    assert shown.code == 0, shown.err
    assert "come with the package" in shown.out + shown.err
    stored = json.loads((recipes_folder() / "mini" / "results" / f"{name}.json").read_text())
    means = [cell["mean"] for row in stored["rows"] for cell in row["ours"].values() if "mean" in cell]
    digits = {"bits_per_char": 3, "mauve": 3}.get(stored["unit"], 1)
    assert all(f"{mean:.{digits}f}" in shown.out for mean in means)
    assert bool(means) or stored["rows"][0]["ours"]


def test_as_markdown_they_are_the_same(sedd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = sedd("table", "2", "--mini", "--markdown")
    assert "come with the package" in shown.err
    rows = json.loads(sedd("table", "2", "--mini", "--json").out)["shipped"]["rows"]
    means = [f"{cell['mean']:.3f}" for row in rows for cell in row["ours"].values()]
    assert means
    assert all(mean in shown.out for mean in means)


def test_as_a_document_they_stand_beside_ones_own_results(sedd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = json.loads(sedd("table", "2", "--mini", "--json").out)
    assert all(not row["ours"] for row in document["rows"])
    assert any(row["ours"] for row in document["shipped"]["rows"])


def test_the_full_size_has_none(sedd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "shipped" not in json.loads(sedd("table", "2", "--json").out)
