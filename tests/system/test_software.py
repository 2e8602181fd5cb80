"""What results say of the software that made them."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from sedd_cli import __version__
from sedd_cli.system import software


@pytest.fixture
def fresh():
    software.revision.cache_clear()
    yield
    software.revision.cache_clear()


def test_a_result_names_command_date_versions_and_revision(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/sedd", "sample", "--prompt", "two words"])
    found = software.recorded({"value": 1})
    assert found["value"] == 1
    made = found["made_by"]
    assert made["command"] == "sedd sample --prompt 'two words'"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(made["date"])).total_seconds()) < 60
    assert made["software"]["sedd"] == __version__
    assert {"torch", "python"} <= set(made["software"])
    assert made["revision"] is None or re.fullmatch(r"[0-9a-f]{40}(\+changes)?", made["revision"])


def test_outside_a_command_there_is_none(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "secret.json"])
    assert software.made_by()["command"] is None


def test_the_revision_is_that_of_the_checkout_and_says_changes(fresh, tmp_path, monkeypatch):
    package = tmp_path / "sedd_cli"
    package.mkdir()
    (package / "a.py").write_text("x = 1\n")
    monkeypatch.setattr(software, "PACKAGE", package)
    assert software.revision() is None  # an installed package
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    software.revision.cache_clear()
    first = software.revision()
    assert first is not None
    assert re.fullmatch("[0-9a-f]{40}", first)
    (package / "a.py").write_text("x = 2\n")
    software.revision.cache_clear()
    assert software.revision() == f"{first}+changes"
