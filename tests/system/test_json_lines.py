"""Files of JSON lines after a crash, and among lines of other programs."""

from __future__ import annotations

import json

import pytest

from sedd_cli.system.json_lines import json_lines, json_text, not_finite, read_json_lines

RECORDS = [{"kind": "train", "text": "é\u2028"}, {"kind": "train", "step": 2}]


def test_records_are_read_back_whatever_their_text(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(json_lines(RECORDS), encoding="utf-8")
    assert [line.record for line in read_json_lines(path)] == RECORDS
    assert all(line.ended for line in read_json_lines(path))
    assert read_json_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("length", range(1, len(json_lines(RECORDS[1:]))))
def test_a_record_that_was_cut_anywhere_is_told_by_its_beginning(tmp_path, length):
    path = tmp_path / "lines.jsonl"
    path.write_text(json_lines(RECORDS) + json_lines(RECORDS[1:])[:length], encoding="utf-8")
    *whole, last = read_json_lines(path)
    assert [line.record for line in whole] == RECORDS
    assert not last.ended
    assert last.cut_short('{"kind": "') is (last.record is None)


@pytest.mark.parametrize("raw", [b"a note", b"[1, 2]", b'"text"', b'{"loss": 1', b"\xff\xfe"])
def test_a_foreign_line_is_no_record_and_not_cut_short(tmp_path, raw):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(raw)
    (line,) = read_json_lines(path)
    assert (line.raw, line.record, line.cut_short('{"kind": "')) == (raw, None, False)


def test_what_becomes_null_is_known_by_name():
    value = {"a": 1.0, "b": [{"c": float("nan")}, {"c": 2.0}], "d": (float("inf"),), "e": "nan", "f": None}
    assert not_finite(value) == ["b.0.c", "d.0"]
    assert json.loads(json_text(value)) == {
        "a": 1.0,
        "b": [{"c": None}, {"c": 2.0}],
        "d": [None],
        "e": "nan",
        "f": None,
    }
