"""Documents out of files of every format, and one clear line for every broken one."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

from sedd_cli.data.formats import ReadOptions, plain, read_documents, read_lines
from sedd_cli.errors import DamageError, RequestError


def documents(path, **reading):
    return list(read_documents(path, ReadOptions(**reading)))


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("separation", "expected"),
    [
        ("line", ["a", "b", "c", " d"]),
        ("blank", ["a\nb", "c\n d"]),
        ("auto", ["a\nb", "c\n d"]),
        ("file", ["\na\nb\n \nc\n d\n\n"]),
    ],
)
def test_documents_are_lines_blocks_between_blank_lines_or_whole_files(tmp_path, separation, expected):
    path = write(tmp_path / "my.txt", "\r\na\r\nb\n \nc\n d\n\n")
    assert documents(path, documents=separation) == expected


def test_auto_takes_lines_where_none_is_empty(tmp_path):
    assert documents(write(tmp_path / "my.txt", "a\nb\n")) == ["a", "b"]


def test_an_unknown_separation_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(RequestError, match=r"'page'.*auto, blank, line, file"):
        documents(write(tmp_path / "my.txt", "a"), documents="page")


@pytest.mark.parametrize("separation", ["line", "blank", "file"])
def test_long_documents_are_cut_and_nothing_is_lost(tmp_path, monkeypatch, separation):
    monkeypatch.setattr(plain, "LONGEST", 10)
    text = "0123456789abcdefghij-tail"
    cut = documents(write(tmp_path / "my.txt", text), documents=separation)
    assert "".join(cut) == text
    assert max(map(len, cut)) == 10


def test_lines_keep_their_ends_and_blank_ones(tmp_path):
    assert list(read_lines(write(tmp_path / "a.raw", "a\n \n\nb"), ReadOptions())) == ["a\n", " \n", "\n", "b"]


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 1])
def test_the_offset_of_a_byte_that_is_not_utf8(tmp_path, before):
    path = write(tmp_path / "my.txt", b"\xc3\xa9" * (before // 2) + b"a" * (before % 2) + b"\xe9t\xe9")
    with pytest.raises(RequestError, match=rf"not utf-8: byte {before:,} does not decode.*--encoding"):
        documents(path)


def test_a_character_cut_off_at_the_end_is_named(tmp_path):
    with pytest.raises(RequestError, match="byte 3 "):
        documents(write(tmp_path / "my.txt", b"abc\xe2\x82"))


def test_a_file_is_read_in_its_encoding_and_an_unknown_one_is_refused(tmp_path):
    assert documents(write(tmp_path / "my.txt", b"\xe9t\xe9"), encoding="latin-1") == ["été"]
    assert documents(write(tmp_path / "my.txt", "été".encode("utf-16")), encoding="utf-16") == ["été"]
    assert documents(write(tmp_path / "my.txt", "\ufeffété".encode())) == ["été"]
    with pytest.raises(RequestError, match="'utf-9'"):
        documents(tmp_path / "my.txt", encoding="utf-9")


def test_binary_files_are_refused(tmp_path):
    with pytest.raises(RequestError, match="byte 2 is zero"):
        documents(write(tmp_path / "my.txt", b"ab\0cd"))


def test_the_texts_of_json_lines_are_documents_and_lone_surrogates_are_replaced(tmp_path):
    rows = ['{"text": "a\\n\\nb", "id": 1}', "", '{"id": 2, "text": "ü\\ud83c\\udf89"}', '{"text": "\\ud800 lone"}']
    path = write(tmp_path / "my.jsonl", "\n".join(rows))
    assert documents(path) == ["a\n\nb", "ü🎉", "\ufffd lone"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "line 2 of .* is not JSON"),
        ('["a"]', "line 2 of .* no JSON object but a list"),
        ('{"body": "a", "title": "b"}', "no field 'text' in line 2 of .*found: body, title"),
        ('{"text": 3}', "field 'text' in line 2 of .* a int"),
        (b'{"text": "\xe9"}', "line 2 of .* not UTF-8.* byte 25 "),
    ],
)
def test_broken_jsonl_names_the_line(tmp_path, line, message):
    raw = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path / "my.jsonl", b'{"text": "ok"}\n' + raw + b"\n")
    with pytest.raises(RequestError, match=message):
        documents(path)


def test_a_named_field_of_json_lines_is_read(tmp_path):
    path = write(tmp_path / "my.jsonl", json.dumps({"body": "a"}))
    assert documents(path, field="body") == ["a"]


def parquet(path, **columns):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


def test_a_column_of_texts_is_read_from_parquet_and_another_kind_is_refused(tmp_path):
    path = parquet(tmp_path / "my.parquet", text=["a", "", "c"], id=[1, 2, 3])
    assert documents(path) == ["a", "c"], "blank documents are left out, as in text files"
    with pytest.raises(RequestError, match=r"no field 'body'.*found: text, id"):
        documents(path, field="body")
    with pytest.raises(RequestError, match=r"'id'.*no text but values of type int64"):
        documents(path, field="id")
    with pytest.raises(RequestError, match=r"'text'.*empty"):
        documents(parquet(tmp_path / "none.parquet", text=["a", None]))


@pytest.mark.parametrize("keep", [0, 10, -20])
def test_a_truncated_parquet_file_is_damage_in_one_line(tmp_path, keep):
    path = parquet(tmp_path / "my.parquet", text=["a"] * 100)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamageError, match="no parquet file, or a damaged one") as caught:
        documents(path)
    assert "\n" not in str(caught.value)


def tar_bytes(members: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def test_tar_of_txt_and_of_archives(tmp_path):
    inner = tar_bytes({"2.txt": b"two", "1.txt": b"one", "x.bin": b"?"}, "w:xz")
    path = write(tmp_path / "my.tar", tar_bytes({"a/0.txt": b"zero", "b.xz": inner}, "w"))
    assert documents(path) == ["zero", "one", "two"]


def test_a_broken_tar_and_a_broken_text_in_one_are_named(tmp_path):
    whole = tar_bytes({"0.txt": b"zero" * 1000}, "w:xz")
    for name, raw in {"a.tar": b"no archive", "b.tar.xz": whole[: len(whole) // 2]}.items():
        with pytest.raises(DamageError, match="tar archive"):
            documents(write(tmp_path / name, raw))
    bad = write(tmp_path / "c.tar", tar_bytes({"0.txt": b"ab\xe9"}, "w"))
    with pytest.raises(RequestError, match=r"0\.txt in .*byte 2 "):
        documents(bad)
