"""What reading loses or cannot read is said: other types, other encodings, repeated names, halves of characters."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from sedd_cli.data.formats import ReadOptions, read_documents, read_samples
from sedd_cli.errors import RequestError
from sedd_cli.inference.batch.lines import job_lines


def read(path: Path, raw: bytes | str, **options) -> tuple[list[str], list[str]]:
    """The documents of a file, and what is said about it."""
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    reading = ReadOptions(**options)
    return list(read_documents(path, reading)), reading.tally.remarks()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (pyarrow.array([["a"], ["b"]]), "a list"),
        (pyarrow.array([["a"], ["b"]], pyarrow.list_(pyarrow.string(), 1)), "a list"),
        (pyarrow.array([{"a": 1}]), "a struct"),
        (pyarrow.array([[("a", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64())), "a map"),
        (pyarrow.array([b"a"]), "values of type binary"),
        (pyarrow.array([1.5]), "values of type double"),
        (pyarrow.array([None]), "values of type null"),
        (pyarrow.array([1, 2]).dictionary_encode(), "values of type int64"),
    ],
    ids=str,
)
def test_a_column_of_another_type_is_refused_by_its_name(values, what, tmp_path):
    parquet.write_table(pyarrow.table({"text": values, "id": ["x"] * len(values)}), tmp_path / "a.parquet")
    with pytest.raises(RequestError, match=rf"column 'text' of .*a\.parquet holds no text but {what};.*--field"):
        list(read_documents(tmp_path / "a.parquet", ReadOptions()))
    assert list(read_documents(tmp_path / "a.parquet", ReadOptions(field="id"))) == ["x"] * len(values)


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string(), None])
def test_every_type_of_text_is_read(kind, tmp_path):
    values = pyarrow.array(["a", "b"]).dictionary_encode() if kind is None else pyarrow.array(["a", "b"], kind)
    parquet.write_table(pyarrow.table({"text": values}), tmp_path / "a.parquet")
    assert list(read_documents(tmp_path / "a.parquet", ReadOptions())) == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_halves_of_characters_are_counted(name, tmp_path):
    lines = [r'{"text": "\ud800 and \udc00 and \ufffd"}', r'{"text": "\ud83c\udf89"}', r'{"text": "a\udfff"}']
    raw = "\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]"
    found, said = read(tmp_path / name, raw)
    assert found == ["\ufffd and \ufffd and \ufffd", "🎉", "a\ufffd"]
    assert said == [f"{tmp_path / name}: 3 halves of surrogate pairs, which UTF-8 cannot hold, became U+FFFD"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_keys_that_stand_twice(name, tmp_path):
    with pytest.raises(RequestError, match=r"1 of .*the key 'text' more than once"):
        read(tmp_path / name, '{"text": "a", "text": "b"}\n' if name == "a.jsonl" else '[{"text": "a", "text": "b"}]')
    found, said = read(tmp_path / name, '{"id": 1, "text": "a", "id": 2, "m": {"text": 1, "text": 2}}\n' * 2)
    assert found == ["a", "a"]
    assert len(said) == 1
    assert "'id' (2 times)" in said[0]
    (tmp_path / name).write_text('{"text": "a", "tokens": [1], "tokens": [2]}\n')
    with pytest.raises(RequestError, match="the key 'tokens' more than once"):
        list(read_samples(tmp_path / name))


def test_a_job_with_a_key_twice_is_refused():
    (line,) = job_lines([b'{"template": "a [MASK:2]", "n": 1, "n": 2}'], "jobs", 8)
    assert "'n' more than once" in str(line)


@pytest.mark.parametrize("value", ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 2}}]'])
def test_a_job_with_a_key_twice_inside_its_id_is_refused(value):
    (line,) = job_lines([b'{"template": "a [MASK:2]", "id": %s}' % value.encode()], "jobs", 8)
    assert line.job is None
    assert "'a' more than once" in line.refusal


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_columns_that_stand_twice(name, separator, tmp_path):
    table = separator.join(["id", "text", "id"]) + "\n" + separator.join("xyz") + "\n"
    found, said = read(tmp_path / name, table)
    assert found == ["y"]
    assert "'id'" in said[0]
    with pytest.raises(RequestError, match="2 columns 'id'"):
        read(tmp_path / name, table, field="id")


def test_columns_of_a_parquet_file_that_stand_twice(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"]), pyarrow.array(["y"]), pyarrow.array(["z"])], list("aba"))
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(RequestError, match="2 columns 'a'"):
        list(read_documents(tmp_path / "a.parquet", ReadOptions(field="a")))
    reading = ReadOptions(field="b")
    assert list(read_documents(tmp_path / "a.parquet", reading)) == ["y"]
    assert "'a'" in reading.tally.remarks()[0]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_record_over_several_lines_is_called_that(name, tmp_path):
    with pytest.raises(RequestError, match=r"line 1 of .* is not JSON: the record does not end in this line.*jq -c"):
        read(tmp_path / name, json.dumps({"text": "a", "id": 1}, indent=2))
    pretty = json.dumps([{"text": "a"}, {"text": "b"}], indent=2)
    if name == "a.json":
        assert read(tmp_path / name, pretty)[0] == ["a", "b"]
    else:
        with pytest.raises(RequestError, match="the list does not end in this line"):
            read(tmp_path / name, pretty)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_called_what_they_are(name, encoding, tmp_path):
    text = {"a.csv": "text\nhello\n", "a.txt": "hello"}.get(name, '{"text": "hello"}\n')
    with pytest.raises(RequestError, match=f"is UTF-.*--encoding {encoding}"):
        read(tmp_path / name, text.encode(encoding))
    assert read(tmp_path / name, text.encode(encoding), encoding=encoding)[0] == ["hello"]


def test_a_list_of_records_in_another_encoding_is_read(tmp_path):
    raw = json.dumps([{"text": "é"}, {"text": "b"}], indent=1, ensure_ascii=False)
    assert read(tmp_path / "a.json", raw.encode("utf-16"), encoding="utf-16")[0] == ["é", "b"]
    assert read(tmp_path / "a.json", raw.encode("latin-1"), encoding="latin-1")[0] == ["é", "b"]


@pytest.mark.parametrize("at", [0, 70_000, (1 << 20) + 5, 3 << 20])
def test_a_zero_byte_anywhere_is_no_text(at, tmp_path):
    with pytest.raises(RequestError, match=f"not a text file: byte {at:,} is zero"):
        read(tmp_path / "a.txt", b"word " * (at // 5) + b"x" * (at % 5) + b"\0 and more text")
