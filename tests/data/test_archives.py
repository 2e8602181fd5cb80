"""Archives are read as a folder of their members would be; what is left out, locked or packed twice is named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from sedd_cli.data.corpora import Request, find_corpus
from sedd_cli.data.formats import ReadOptions, files, read_documents
from sedd_cli.errors import DamageError, RequestError

PACKINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))


def laid(root: Path, contents: dict[str, bytes]) -> Path:
    for name, raw in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(raw)
    return root


def packed(path: Path, contents: dict[str, bytes]) -> Path:
    """An archive whose members lie in the order of the mapping."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, raw in contents.items():
                archive.writestr(name, raw)
        return path
    with tarfile.open(path, "w:" + {".tgz": "gz", ".tar": ""}.get(path.suffix, path.suffix[1:])) as archive:
        for name, raw in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def parquet(texts: list[str]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": texts}), out)
    return out.getvalue()


def opened(path: Path, **options):
    request = Request(str(path), **options)
    return find_corpus(request).open(request)


def read(path: Path, **options) -> dict[str, list[str]]:
    return {split: list(documents()) for split, documents in opened(path, **options).splits.items()}


def nested() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in ("z.txt", "a.txt", ".no.txt", "README.md"):
            archive.writestr(name, f"first line of {name}\n\nand more")
    return out.getvalue()


WITH_SPLITS = {
    "z.txt": b"one\n\ntwo", "my.test.txt": b"for tests", "valid.jsonl": b'{"text": "held"}\n', "a.txt": b"a",
}  # fmt: skip
MANY = {
    "b/2.txt": b"two\n\nparts", "b/1.txt": b"one", "README.md": b"about", "LICENSE": b"free", ".hidden.txt": b"no",
    "__MACOSX/b/._1.txt": b"\0\5", "b/._2.txt": b"\0", ".git/x.txt": b"no", ".git/y.txt": b"no", "photo.PNG": b"?",
    "c.parquet": parquet(["p", "q"]), "d.jsonl.gz": gzip.compress(b'{"text": "g"}\n'), "in.zip": nested(),
}  # fmt: skip


@pytest.mark.parametrize("ending", PACKINGS)
@pytest.mark.parametrize(
    "contents", [WITH_SPLITS, MANY, {"one.txt": b"a\n\nb\n\nc"}], ids=["with splits", "many", "one"]
)
def test_a_folder_and_its_archive_give_the_same(contents, ending, tmp_path):
    folder = laid(tmp_path / "texts", contents)
    archive = packed(tmp_path / f"texts{ending}", contents)
    wrapped = packed(tmp_path / f"wrapped{ending}", {f"./top/{name}": raw for name, raw in contents.items()})
    expected = read(folder)
    assert read(archive) == read(wrapped) == expected
    assert any(expected.values())
    said = opened(folder).notes
    assert [line.replace(str(archive), str(folder)).replace("members", "files") for line in opened(archive).notes] == [
        *said
    ]


@pytest.mark.parametrize("hold_out", ["hash", "tail"])
def test_documents_of_an_archive_are_cut_and_blank_ones_left_out_as_in_a_folder(tmp_path, monkeypatch, hold_out):
    monkeypatch.setattr("sedd_cli.data.formats.LONGEST", 8)
    monkeypatch.setattr("sedd_cli.data.corpora.base.LONGEST", 8)
    rows = ["abcdefghijkl", "", "  ", "mnopq", "rstuvwxyz0123456789", "end"]
    contents = {"a.jsonl": "".join(json.dumps({"text": row}) + "\n" for row in rows).encode()}
    expected = read(laid(tmp_path / "folder", contents), hold_out=hold_out)
    assert read(packed(tmp_path / "archive.zip", contents), hold_out=hold_out) == expected
    assert all(text.strip() and len(text) <= 8 for texts in expected.values() for text in texts)


def test_what_is_hidden_is_counted_and_said(tmp_path):
    folder = laid(tmp_path / "texts", MANY)
    line = opened(folder).notes[0]
    assert line.startswith(f"{folder}: 5 files are read, 7 files are left out (4 hidden, ")
    for kind in ("1 .png", "1 .md", "1 without ending"):
        assert kind in line
    texts = [text for part in read(folder).values() for text in part]
    assert [text for text in texts if "README" in text or ".no" in text] == []


def test_a_nested_archive_says_what_it_leaves_out(tmp_path):
    for path in (laid(tmp_path / "texts", MANY), packed(tmp_path / "texts.tgz", MANY)):
        source = opened(path)
        for documents in source.splits.values():
            list(documents())
        (line,) = source.tally.remarks()
        assert "in.zip" in line
        assert "2 members are left out (1 hidden, 1 .md)" in line


def test_an_archive_named_for_a_split_is_that_split(tmp_path):
    assert set(read(packed(tmp_path / "my.test.zip", {"a.txt": b"a", "b.txt": b"b"}))) == {"test"}


def test_links_and_devices_in_a_tar_are_counted_by_kind(tmp_path):
    path = tmp_path / "texts.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in [
            ("a.txt", tarfile.REGTYPE), ("s.txt", tarfile.SYMTYPE), ("h.txt", tarfile.LNKTYPE),
            ("p.txt", tarfile.FIFOTYPE), ("d.txt", tarfile.CHRTYPE), ("folder", tarfile.DIRTYPE),
        ]:  # fmt: skip
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.txt"
            info.size = 5 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"hello"))
    line = opened(path).notes[0]
    assert "1 members are read, 4 members are left out" in line
    for kind in ("2 devices or pipes", "1 symbolic links", "1 hard links"):
        assert kind in line
    reading = ReadOptions(as_stored=True)
    assert list(read_documents(path, reading)) == ["hello"]
    assert "4 members are left out" in reading.tally.remarks()[0]


def test_what_is_hidden_and_papers_are_left_out_of_a_tar_in_its_own_order_too(tmp_path):
    names = ["./b.txt", "README.md", ".no.txt", "./.git/x.txt", "__MACOSX/._a.txt", "a/LICENSE.txt", "a/z.txt", "a.txt"]
    path = packed(tmp_path / "texts.tar", {name: name.encode() for name in names})
    reading = ReadOptions(as_stored=True)
    assert list(read_documents(path, reading)) == ["./b.txt", "a/z.txt", "a.txt"]
    (line,) = reading.tally.remarks()
    assert "5 members are left out (3 hidden, " in line
    papers = packed(tmp_path / "papers.tar", {"README.md": b"one", "a/NOTICE.txt": b"two", ".no.txt": b"no"})
    reading = ReadOptions(as_stored=True)
    assert list(read_documents(papers, reading)) == list(read_documents(papers, ReadOptions())) == ["one", "two"]
    assert "1 hidden" in reading.tally.remarks()[0]


def test_a_link_in_a_zip_is_no_text(tmp_path):
    path = tmp_path / "texts.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
        link = zipfile.ZipInfo("s.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "a.txt")
    assert "1 symbolic links" in opened(path).notes[0]
    assert [text for part in read(path).values() for text in part] == ["hello"]


def test_a_pipe_in_a_folder_is_counted(tmp_path):
    folder = laid(tmp_path / "texts", {"a.txt": b"a"})
    os.mkfifo(folder / "p.txt")
    assert "1 devices or pipes" in opened(folder).notes[0]


def test_of_members_of_one_name_the_last_counts(tmp_path):
    path = tmp_path / "texts.tar"
    for text in (b"old", b"new"):
        with tarfile.open(path, "a") as archive:
            info = tarfile.TarInfo("a.txt")
            info.size = 3
            archive.addfile(info, io.BytesIO(text))
    assert [text for part in read(path).values() for text in part] == ["new"]
    assert "1 replaced by a later one of its name" in opened(path).notes[0]


def test_an_encrypted_zip_is_called_that(tmp_path):
    path = packed(tmp_path / "texts.zip", {"a.txt": b"hello", "b.png": b"?"})
    raw = bytearray(path.read_bytes())
    for start, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        raw[raw.index(start) + offset] |= 1
    path.write_bytes(raw)
    with pytest.raises(RequestError, match=r"texts\.zip is encrypted \(a\.txt\)"):
        opened(path)
    with pytest.raises(RequestError, match=r"is encrypted \(a\.txt\)"):
        list(read_documents(path, ReadOptions()))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        (
            "a.tgz",
            gzip.compress(gzip.compress(b"x" * 100, mtime=0), mtime=0),
            "compressed twice, as gzip data in gzip data",
        ),
        ("a.tar.xz", lzma.compress(bz2.compress(b"x" * 100)), "compressed twice, as bzip2 data in xz data"),
        ("a.txt.gz", gzip.compress(gzip.compress(b"x" * 100, mtime=0), mtime=0), "holds gzip data, no text"),
        ("a.jsonl.xz", lzma.compress(b"\x28\xb5\x2f\xfd" + b"x" * 100), "holds zstandard data"),
        ("a.zip", b"7z\xbc\xaf\x27\x1c" + b"x" * 100, "holds 7z data"),
        ("a.tar", b"Rar!\x1a\x07\x01\0" + b"x" * 100, "holds RAR data"),
        ("a.tar", b"Salted__" + b"x" * 100, "holds encrypted"),
        ("a.txt", b"PK\3\4" + b"x" * 100, "holds zip data"),
    ],
    ids=range(8),
)
def test_packed_data_is_called_what_it_is(name, raw, message, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(RequestError, match=message):
        opened(tmp_path / name)


def test_a_member_packed_twice_is_named(tmp_path):
    path = packed(tmp_path / "texts.tar", {"notes.gz": gzip.compress(gzip.compress(b"x" * 100)), "a.txt": b"a"})
    with pytest.raises(RequestError, match=r"notes\.gz in .*texts\.tar is compressed twice"):
        read(path)


def test_a_text_without_text_names_what_was_left_out(tmp_path):
    for path in (
        packed(tmp_path / "texts.zip", {"a.txt": b" ", "b.docx": b"?"}),
        laid(tmp_path / "texts", {"a.txt": b" ", "b.docx": b"?"}),
    ):
        with pytest.raises(RequestError, match=r"holds no text.*1 (members|files) are left out \(1 \.docx\): b\.docx"):
            opened(path)
    with pytest.raises(RequestError, match=r"no file that can be read \(2 members are left out \(2 \.docx\)"):
        opened(packed(tmp_path / "b.tar", {"a.docx": b"?", "b.docx": b"?"}))


def test_members_are_read_in_any_order_without_unpacking_again(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_IN_MEMORY", 1000)
    contents = {f"{i}.txt": bytes([65 + i]) * 3000 for i in (2, 0, 1)}
    path = packed(tmp_path / "texts.tgz", contents)
    found = sorted(text for part in read(path).values() for text in part)
    assert found == sorted(raw.decode() for raw in contents.values())
    assert list((tmp_path / "home").iterdir()) == [], "the unpacked file has no name"


def test_a_tar_that_is_cut_short_is_damaged(tmp_path):
    path = packed(tmp_path / "texts.tar.gz", {"a.txt": os.urandom(5000).hex().encode()})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DamageError, match="damaged"):
        opened(path)
