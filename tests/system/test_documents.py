"""JSON and YAML of others: whatever is in them, the end is a value or one line that names the file."""

from __future__ import annotations

import json
import os
import time

import pytest

from sedd_cli.errors import DamageError, RequestError
from sedd_cli.system.documents import (
    YAML_BYTES,
    is_deeper,
    is_plain_name,
    parse_yaml,
    read_json,
    read_yaml,
    strict_json,
)
from sedd_cli.system.json_lines import json_lines, json_text


def bomb(levels: int = 9) -> str:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (bomb(), "alias"),
        ("a: &x [*x]", "alias"),
        ("seed: 3\nseed: 4\n", "'seed' stands twice"),
        ("train:\n  steps: 1\n  steps: 2\n", "line 3"),
        ("[" * 5000, "nested|YAML"),
        ("a: " + "1:" * 100_000 + "1", "digits"),
        ("a: " + "9" * 10_000, "digits"),
        ("a: !!python/object/apply:os.system ['true']", "YAML"),
        ("a: !!timestamp x", "YAML"),
        ("? [a]\n: b", "a key must be a word"),
        ("a: 2024-13-45", "YAML"),
        ("--- a\n--- b\n", "YAML"),
        ("\x00", "YAML"),
        ("a: !!int ''", "YAML"),
    ],
)
def test_hostile_yaml_is_refused_in_one_short_line(text, reason, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    began = time.perf_counter()
    with pytest.raises(RequestError, match=reason) as caught:
        read_yaml(tmp_path / "recipe.yaml")
    assert time.perf_counter() - began < 5
    assert "recipe.yaml" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_ordinary_yaml_is_read():
    assert parse_yaml("a: {b: [1, 2.5, x]}\nc: null\n", "here") == {"a": {"b": [1, 2.5, "x"]}, "c": None}


def test_a_large_file_is_refused_by_its_limit(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"#" * (YAML_BYTES + 1))
    with pytest.raises(RequestError, match="YAML_BYTES"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.json").write_bytes(b" " * 101)
    with pytest.raises(DamageError, match="larger than"):
        read_json(tmp_path / "a.json", most=100)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"9" * 10_000, b"\xff", b"{", b"", b'{"a": 1}{'])
def test_what_is_no_json_is_damage(raw, tmp_path):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(DamageError, match=r"a\.json is not JSON") as caught:
        read_json(tmp_path / "a.json")
    assert len(str(caught.value)) < 500


def test_json_is_written_so_that_everyone_can_read_it():
    record = {"a": float("nan"), "b": [float("inf"), 1.5], "c": "\ud800", "d": "é"}
    raw = json_lines([record]).encode("utf-8")
    assert json.loads(raw) == {"a": None, "b": [None, 1.5], "c": "\ud800", "d": "é"}
    assert json_text({"d": "é"}) == '{"d": "é"}'


def test_a_manifest_names_files_of_its_own_folder_only():
    assert is_plain_name("state.json")
    for name in ("../x", "/proc/self/mem", "a/b", "", ".", "..", "a\0b", 3, None, "..\\x"):
        assert not is_plain_name(name)


def test_of_very_many_keys_one_that_stands_twice_is_found_at_once():
    keys = [f'"{i}": 0' for i in range(200_000)]
    began = time.process_time()
    with pytest.raises(ValueError, match="'199999' stands twice"):
        strict_json("{" + ", ".join([*keys, keys[-1]]) + "}")
    assert time.process_time() - began < 10


def test_a_pipe_is_a_damaged_document(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(DamageError, match="no regular file"):
        read_json(tmp_path / "a.json")


def test_levels_of_nesting_are_counted():
    assert not is_deeper(3, 0)
    assert not is_deeper({"a": [1, {"b": 2}]}, 3)
    assert is_deeper({"a": [1, {"b": 2}]}, 2)
