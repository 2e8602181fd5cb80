"""Files that hold more values or members than their bytes suggest are refused by name, within small memory."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import pytest

from sedd_cli.data.formats import files, read_documents, read_samples
from sedd_cli.data.formats.files import ReadOptions
from sedd_cli.data.formats.json_list import list_values
from sedd_cli.data.tokenizers import guard
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.system.documents import read_json


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))


def read(path, raw: bytes, **options) -> list[str]:
    path.write_bytes(raw)
    return list(read_documents(path, ReadOptions(**options)))


def tar(names, members: Callable[[str], tarfile.TarInfo] = tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(members(name))
    return out.getvalue()


# JSON

MANY = {
    "zeros": b"[" + b"0," * 1000 + b"0]",
    "lists": b"[" + b"[]," * 1000 + b"0]",
    "keys": b"{" + b",".join(b'"%d":1' % i for i in range(1000)) + b"}",
}


@pytest.mark.parametrize("values", MANY.values(), ids=MANY)
@pytest.mark.parametrize("form", ['{"text": "a", "b": %s}', '[{"text": "a", "b": %s}]'])
def test_a_record_of_very_many_values_is_refused_by_the_name_of_the_limit(values, form, tmp_path, monkeypatch):
    monkeypatch.setattr("sedd_cli.data.formats.json_list.MOST_VALUES", 1000)
    raw = form.encode().replace(b"%s", values)
    with pytest.raises(RequestError, match=r"(line|record) 1 of .* more than 1,000 JSON values .*MOST_VALUES.*jq"):
        read(tmp_path / "a.json", raw)


def test_marks_within_a_text_are_no_values(tmp_path):
    text = ',:[{"\\' * 700_000
    raw = json.dumps({"text": text}).encode()
    assert "".join(read(tmp_path / "a.jsonl", raw)) == "".join(read(tmp_path / "a.json", b"[" + raw + b"]")) == text


@pytest.mark.parametrize("values", MANY.values(), ids=MANY)
def test_documents_of_very_many_values_are_refused(values, tmp_path, monkeypatch):
    monkeypatch.setattr("sedd_cli.system.documents.MOST_VALUES", 1000)
    (tmp_path / "config.json").write_bytes(values)
    with pytest.raises(DamageError, match=r"config\.json holds more than 1,000 JSON values \(the limit MOST_V"):
        read_json(tmp_path / "config.json")


def test_a_tokenizer_may_hold_more_values_and_not_any_number(tmp_path, monkeypatch):
    merges = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]] * 1000}}
    monkeypatch.setattr("sedd_cli.system.documents.MOST_VALUES", 1000)
    guard.checked(json.dumps(merges), "t.json")
    monkeypatch.setattr("sedd_cli.system.documents.TOKENIZER_VALUES", 1000)
    with pytest.raises(DamageError, match=r"t\.json holds more than 1,000 JSON values \(the limit TOKENIZER_V"):
        guard.checked(json.dumps(merges), "t.json")


def test_the_records_of_a_list_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b'{"text": "a b"},' * (1 << 17) + b"nonsense")
    records = read_samples(path)
    assert [next(records)[1] for _ in range(2)] == [{"text": "a b"}] * 2
    with pytest.raises(RequestError, match=r"record 131,073 of .* is not JSON: Expecting value at character 2,097,153"):
        list(records)


@pytest.mark.parametrize("piece", [4, 7, 1000])
def test_a_list_is_the_same_in_pieces_of_any_size(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PIECE", piece)
    records = [{"text": 'a"\\é\U0001f600\n', "n": [1.5e-7, -12, None, True, {}]}, {"text": "b" * 50, "tokens": [1, 23]}]
    path = tmp_path / "a.json"
    for text in (json.dumps(records), json.dumps(records, indent=2, ensure_ascii=False), " [ ] \n"):
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert [record for _, record in read_samples(path)] == json.loads(text)


@pytest.mark.parametrize("text", ["[1.5e-7, 2]", "[12.5]", "[-1e+5]"])
def test_no_number_is_cut_where_a_piece_ends(text):
    for at in range(1, len(text)):
        assert [value for _, value in list_values(iter([text[:at], text[at:]]), "a", dict)] == json.loads(text)


def test_a_number_is_as_long_as_a_line_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr("sedd_cli.data.formats.json_list.LINE_BYTES", 1000)
    pieces = iter(["[0."] + ["1" * 100] * 100)
    with pytest.raises(RequestError, match="LINE_BYTES"):
        list(list_values(pieces, "a", dict))
    assert len(list(pieces)) > 50


def test_no_more_than_a_step_is_read_at_once_for_a_long_record(monkeypatch):
    monkeypatch.setattr("sedd_cli.data.formats.json_list.STEP", 1000)
    read = 0

    def pieces():
        nonlocal read
        for piece in ["[", '"' + "a" * 8000 + '",'] + ["[],"] * 1000:
            read += len(piece)
            yield piece

    next(list_values(pieces(), "a", dict))
    assert read < 9100


WRONG = {
    '[{"text": "a"}': "the list does not end",
    '[{"text": "a"},': "the list does not end",
    '[{"text": "a': "Unterminated string starting at character 10",
    '[{"text": "a"} {"text": "b"}]': "Expecting ',' or ']' at character 15",
    '[{"text": "a"},]': "Expecting value at character 15",
    '[{"text": "a"}] x': "Extra data after the list at character 16",
    "[" * 100_000: "it is nested too deeply",
    "[" + "1" * 5000 + "]": "a whole number of over 4,300 digits is refused",
}


@pytest.mark.parametrize(("text", "reason"), WRONG.items(), ids=range(len(WRONG)))
def test_a_list_that_is_none_is_refused_with_the_place(text, reason, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RequestError) as caught:
        list(read_samples(tmp_path / "a.json"))
    assert str(caught.value).endswith(f"a.json is not JSON: {reason}")


def test_a_record_of_a_list_is_as_long_as_a_line_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr("sedd_cli.data.formats.json_list.LINE_BYTES", 1 << 21)
    with pytest.raises(RequestError, match=r"record 2 of .* is longer than 2 MiB \(the limit LINE_BYTES\)"):
        read(tmp_path / "a.json", b'[{"text": "a"}, {"text": "' + b"a" * (1 << 23) + b'"}]')


# archives


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_archive_of_too_many_members_is_refused_by_the_name_of_the_limit(name, stored, tmp_path, monkeypatch):
    def packed(count: int) -> bytes:
        names = [f"{i}.bin" for i in range(count)]
        if name != "a.zip":
            return gzip.compress(tar(names)) if name.endswith("gz") else tar(names)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for one in names:
                archive.writestr(one, b"")
        return out.getvalue()

    monkeypatch.setattr("sedd_cli.data.formats.members.MEMBERS", 50)
    assert read(tmp_path / name, packed(50), as_stored=stored) == []
    with pytest.raises(RequestError, match=r"^\S*a\.\S+ holds more than 50 members \(the limit MEMBERS\): put many"):
        read(tmp_path / name, packed(52), as_stored=stored)


def test_folders_of_an_archive_count_as_members(tmp_path, monkeypatch):
    def folder(name: str) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type = tarfile.DIRTYPE
        return info

    monkeypatch.setattr("sedd_cli.data.formats.members.MEMBERS", 50)
    with pytest.raises(RequestError, match="MEMBERS"):
        read(tmp_path / "a.tar", tar(map(str, range(60)), members=folder))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("kind", ["x", "g", "L"])
def test_the_headers_of_a_member_are_bounded(kind, stored, tmp_path):
    info = tarfile.TarInfo("a")
    info.type, info.size = kind.encode(), 3 << 20
    raw = info.tobuf(tarfile.GNU_FORMAT) + b"30 path=xxxxxxxxxxxxxxxxxxxxx\n" * ((3 << 20) // 30)
    with pytest.raises(RequestError, match=r"has a header of more than 1 MiB \(the limit TAR_HEADER_BYTES\)"):
        read(tmp_path / "a.tar", raw, as_stored=stored)


def test_values_for_all_members_are_bounded(tmp_path):
    def header(i: int) -> bytes:
        text = "".join(f"{len(f'00 {i:02}{j:04}=1') + 1} {i:02}{j:04}=1\n" for j in range(600)).encode()
        info = tarfile.TarInfo("g")
        info.type, info.size = tarfile.XGLTYPE, len(text)
        return info.tobuf(tarfile.GNU_FORMAT) + text.ljust(-(-len(text) // 512) * 512, b"\0")

    member = tarfile.TarInfo("a.txt").tobuf()
    assert read(tmp_path / "a.tar", header(1) + member) == []
    with pytest.raises(RequestError, match=r"sets more than 1,000 values for all members \(the limit GLOBAL_VALUES\)"):
        read(tmp_path / "a.tar", header(1) + header(2) + member)


def test_what_is_left_out_of_a_packed_tar_counts_as_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "EXPANDED_FREE", 1 << 20)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("a.bin")
        info.size = 16 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(RequestError, match="the limit EXPANSION"):
        read(tmp_path / "a.tar.gz", out.getvalue(), as_stored=True)


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_read_of_a_packed_tar_counts_once(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "EXPANDED_FREE", 1 << 20)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 900 << 10
        archive.addfile(info, io.BytesIO(b"a" * info.size))
    assert len("".join(read(tmp_path / "a.tar.gz", out.getvalue(), as_stored=stored))) == info.size


def test_what_archives_inside_an_archive_unpack_to_counts_for_the_outer_one(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "EXPANDED_FREE", 1 << 20)
    inner = gzip.compress(tar(["a.txt"]) + bytes(900 << 10))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for i in range(40):
            info = tarfile.TarInfo(f"{i}.tar.gz")
            info.size = len(inner)
            archive.addfile(info, io.BytesIO(inner))
    with pytest.raises(RequestError, match="the limit EXPANSION"):
        read(tmp_path / "a.tar.xz", lzma.compress(out.getvalue()))
