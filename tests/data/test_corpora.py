"""Every corpus from files of its original form, from a stand-in for the hub, and the splits in between."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet
from support.toys import ALL

from sedd_cli.data.corpora import CORPORA, EMBEDDED, Request, find_corpus, hub, openwebtext, pycode, pydocs, text8
from sedd_cli.data.corpora.base import by_share, share_of
from sedd_cli.data.corpora.download import download
from sedd_cli.data.corpora.files import named_split
from sedd_cli.errors import DamageError, RequestError


def read(request: Request) -> dict[str, list[str]]:
    source = find_corpus(request).open(request)
    return {split: list(documents()) for split, documents in source.splits.items()}


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.fixture
def on_hub(monkeypatch):
    """Put {split: {column: rows}} on a stand-in for the hub; returns the list of what was asked for."""
    import datasets

    asked = []

    def put(tables, answering=lambda name, revision: True):
        def revision(name, asked_revision):
            asked.append((name, asked_revision))
            if not answering(name, asked_revision):
                raise hub.UnreachableError("ConnectError: no network")
            return "c0ffee"

        def load(name, config, revision):
            asked.append((name, config, revision))
            return {split: datasets.Dataset.from_dict(columns) for split, columns in tables.items()}

        monkeypatch.setattr(hub, "_revision", revision)
        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return put


@pytest.fixture
def no_network(on_hub, monkeypatch):
    import urllib.error
    import urllib.request

    def unreachable(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    on_hub({}, answering=lambda name, revision: False)


# Splits by hash and by name


def test_shares_are_90_5_5_and_follow_the_text_alone():
    documents = [f"document {i}" for i in range(4000)]
    splits = {split: list(reader()) for split, reader in by_share(lambda: iter(documents)).items()}
    assert sorted(document for part in splits.values() for document in part) == sorted(documents)
    # Three standard deviations of a binomial are 57 and 41 documents.
    assert len(splits["train"]) == pytest.approx(3600, abs=57)
    assert len(splits["validation"]) == pytest.approx(200, abs=41)
    backwards = by_share(lambda: reversed(documents))
    assert {split: sorted(reader()) for split, reader in backwards.items()} == {
        split: sorted(part) for split, part in splits.items()
    }


def test_the_hash_stays_what_it_is():
    assert [share_of(text) for text in ("text 0", "text 15", "text 8")] == ["train", "validation", "test"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("wiki.test.raw", "test"),
        ("ptb.valid.txt", "validation"),
        ("1b_benchmark.dev.tokens", "validation"),
        ("news.en.heldout-00001-of-00050", "validation"),
        ("train-00000-of-00080.parquet", "train"),
        ("contest.txt", None),
        ("device.txt", None),
    ],
)
def test_names_that_tell_a_split(name, split):
    assert named_split(name) == split


# Local text


def test_a_single_file_is_dealt_out(tmp_path):
    path = write(tmp_path / "my.txt", "\n\n".join(f"paragraph {i}\nof two lines" for i in range(200)))
    splits = read(Request(str(path)))
    assert set(splits) == {"train", "validation", "test"}
    assert sum(map(len, splits.values())) == 200
    assert all(share_of(document) == split for split, part in splits.items() for document in part)
    only = read(Request(str(path), split="validation"))
    assert only == {"validation": splits["validation"]}


def test_a_file_named_for_evaluation_is_that_split(tmp_path):
    assert read(Request(str(write(tmp_path / "my.test.txt", "a\nb")))) == {"test": ["a", "b"]}
    assert set(read(Request(str(write(tmp_path / "train.txt", "a\nb"))))) == {"train", "validation", "test"}


def test_a_folder_of_named_files(tmp_path):
    write(tmp_path / "d" / "a.txt", "a")
    write(tmp_path / "d" / "train-1.jsonl", '{"text": "b"}')
    write(tmp_path / "d" / "sub" / "valid.txt", "c\nd")
    write(tmp_path / "d" / ".hidden.txt", "no")
    write(tmp_path / "d" / "README", "no")
    assert read(Request(str(tmp_path / "d"))) == {"train": ["a", "b"], "validation": ["c", "d"]}


def test_in_a_folder_of_articles_a_file_is_a_document(tmp_path):
    texts = [f"one\n\ntwo {i}" for i in range(9)]
    for i, text in enumerate(texts):
        write(tmp_path / "d" / f"{i}.txt", text)
    splits = read(Request(str(tmp_path / "d")))
    assert sorted(document for part in splits.values() for document in part) == texts


@pytest.mark.parametrize("content", ["", "  \n\n \t\n"])
def test_a_file_of_white_space_is_refused(tmp_path, content):
    with pytest.raises(RequestError, match="holds no text"):
        read(Request(str(write(tmp_path / "my.txt", content))))


def test_local_paths_without_text_or_without_a_file_are_refused_with_a_hint(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="holds no file that can be read"):
        find_corpus(Request(str(tmp_path / "empty"))).identity(Request(str(tmp_path / "empty")))
    with pytest.raises(RequestError, match=r"no split 'x'.*it has train, validation, test"):
        read(Request(str(write(tmp_path / "my.txt", "a\nb")), split="x"))
    for missing in ("missing.txt", "some/missing.jsonl", "wikitxt2"):
        with pytest.raises(RequestError, match=r"is no file, no hub id .*wikitext2"):
            find_corpus(Request(missing))
    with pytest.raises(RequestError, match="did you mean wikitext2"):
        find_corpus(Request("wikitxt2"))
    with pytest.raises(RequestError, match="--from goes with a known corpus"):
        find_corpus(Request(str(tmp_path), local=tmp_path))
    with pytest.raises(RequestError, match="nothing that --from could give"):
        find_corpus(Request("pydocs", local=tmp_path))


def test_identity_follows_content_and_not_place(tmp_path):
    first, same, other = (
        Request(str(write(tmp_path / name / "my.txt", text))) for name, text in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    identity = {request.corpus: find_corpus(request).identity(request) for request in (first, same, other)}
    assert identity[first.corpus] == identity[same.corpus] != identity[other.corpus]


# The hub


def test_a_hub_dataset_is_read_at_its_revision_and_configuration(on_hub):
    asked = on_hub({"train": {"text": ["a", "b"], "id": [1, 2]}, "valid": {"text": ["c"], "id": [3]}})
    request = Request("me/mine", revision="v2", config="en")
    source = find_corpus(request).open(request)
    assert {split: list(documents()) for split, documents in source.splits.items()} == {
        "train": ["a", "b"],
        "validation": ["c"],
    }
    assert source.counts == {"train": 2, "validation": 1}
    assert source.revision == "c0ffee"
    assert asked == [("me/mine", "v2"), ("me/mine", "en", "c0ffee")]


def test_a_hub_dataset_without_splits_is_dealt_out(on_hub):
    rows = [f"row {i}" for i in range(100)]
    on_hub({"train": {"body": rows}})
    dealt = read(Request("me/mine", field="body"))
    assert sorted(row for part in dealt.values() for row in part) == sorted(rows)
    assert set(dealt) == {"train", "validation", "test"}
    assert read(Request("me/mine", field="body", split="train")) == {"train": rows}


def test_a_hub_dataset_without_the_field_the_split_or_the_hub_is_refused(on_hub):
    on_hub({"train": {"body": ["a"], "id": [1]}})
    with pytest.raises(RequestError, match=r"no field 'text' .*found: body, id"):
        read(Request("me/mine"))
    with pytest.raises(RequestError, match=r"no split 'test' .*it has train"):
        read(Request("me/mine", field="body", split="test"))
    on_hub({}, answering=lambda name, revision: False)
    with pytest.raises(RequestError, match=r"huggingface\.co/datasets/me/mine"):
        read(Request("me/mine"))


def test_two_splits_of_the_hub_for_one_are_refused_with_their_names(on_hub):
    rows = {"text": ["a", "b"]}
    on_hub({"train": rows, "validation_matched": rows, "validation_mismatched": {"text": ["c"]}})
    with pytest.raises(RequestError, match=r"2 splits for validation: validation_matched, .*; name one \(--split\)"):
        read(Request("me/mine"))
    assert read(Request("me/mine", split="validation_mismatched")) == {"validation": ["c"]}


def test_splits_of_the_hub_of_other_names_are_said_to_be_left_out(on_hub):
    rows = {"text": ["a"]}
    on_hub({"train": rows, "test": rows, "extra": rows})
    request = Request("me/mine")
    source = find_corpus(request).open(request)
    assert set(source.splits) == {"train", "test"}
    assert source.notes == ("splits of other names are left out: extra (--split)",)
    on_hub({"english": rows, "german": rows})
    with pytest.raises(RequestError, match=r"no split for training or evaluation but english, german; name one"):
        read(request)
    assert sum(map(len, read(Request("me/mine", split="german")).values())) == 1


@pytest.mark.parametrize("name", sorted(set(CORPORA) - {corpus.name for corpus in EMBEDDED}))
def test_out_of_reach_every_corpus_says_what_and_how_to_go_on(name, no_network, tmp_path, monkeypatch):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path))
    with pytest.raises(RequestError, match=rf"huggingface.co/datasets/\w.*sedd prepare {name} --from PATH") as caught:
        read(Request(name))
    assert "\n" not in str(caught.value)


# The named corpora: original files give what the hub's copy gives


def test_wikitext_is_the_same_from_its_files_and_from_the_hub(tmp_path, on_hub):
    lines = [" \n", " = Title = \n", " \n", " A line , and more . \n"]
    rows = ["", " = Title = \n", "", " A line , and more . \n"]
    for split in ("train", "valid", "test"):
        write(tmp_path / "wikitext-2-raw" / f"wiki.{split}.raw", "".join(lines))
    asked = on_hub({split: {"text": rows} for split in ("train", "validation", "test")})
    expected = dict.fromkeys(("train", "validation", "test"), rows)
    assert read(Request("wikitext2", local=tmp_path)) == expected
    assert read(Request("wikitext2")) == expected
    assert read(Request("wikitext103")) == expected
    configurations = [entry[1] for entry in asked if len(entry) == 3]
    assert configurations == ["wikitext-2-raw-v1", "wikitext-103-raw-v1"]
    one = Request("wikitext2", local=tmp_path / "wikitext-2-raw" / "wiki.test.raw")
    assert read(one) == {"test": rows}


def test_two_corpora_in_one_folder_are_not_mixed(tmp_path):
    for folder in ("wikitext-2-raw", "wikitext-103-raw"):
        write(tmp_path / folder / "wiki.test.raw", "a\n")
    with pytest.raises(RequestError, match=r"more than one file for test: .*103.*2-raw.*name one folder"):
        read(Request("wikitext2", local=tmp_path))


def snapshot(root: Path, names: list[str]) -> Path:
    """A folder of files of one row each, which is the file's path; parquet where the name ends so."""
    for name in names:
        path = write(root / name, json.dumps({"text": name}) + "\n" if name.endswith("jsonl") else f"{name}\n")
        if name.endswith(".parquet"):
            parquet.write_table(pa.table({"text": [name]}), path)
    return root


def test_of_a_snapshot_of_the_hub_the_folder_of_the_configuration_is_read(tmp_path):
    shards = [f"wikitext-103-raw-v1/train-0000{i}-of-00002.parquet" for i in range(2)]
    folders = ("wikitext-2-raw-v1", "wikitext-2-v1", "wikitext-103-raw-v1", "wikitext-103-v1")
    root = snapshot(tmp_path / "all", [*(f"{folder}/test-00000-of-00001.parquet" for folder in folders), *shards])
    assert read(Request("wikitext2", local=root)) == {"test": ["wikitext-2-raw-v1/test-00000-of-00001.parquet"]}
    found = read(Request("wikitext103", local=root))
    assert found == {"train": shards, "test": ["wikitext-103-raw-v1/test-00000-of-00001.parquet"]}
    cased = Request("wikitext2", local=root, config="wikitext-2-v1")
    assert read(cased) == {"test": ["wikitext-2-v1/test-00000-of-00001.parquet"]}
    identities = [find_corpus(one).identity(one) for one in (Request("wikitext2", local=root), cased)]
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    ("corpus", "names"),
    [
        ("wikitext2", ["a/test-00000-of-00001.parquet", "b/test-00000-of-00001.parquet"]),
        ("wikitext2", ["wiki.test.raw", "test-00000-of-00001.parquet"]),
        ("wikitext2", ["wikitext2.test.jsonl", "wikitext103.test.jsonl"]),
        ("ptb", ["test-00000-of-00001.parquet", "test-00000-of-00002.parquet"]),
        ("lambada", ["lambada_test_de.jsonl", "lambada_test_fr.jsonl"]),
        ("lm1b", ["news.en.heldout-00000-of-00050", "test-00000-of-00001.parquet"]),
        ("lm1b", ["a/test-0.parquet", "b/test-0.parquet"]),
    ],
)
def test_files_of_one_split_that_are_not_of_one_set_are_refused(tmp_path, corpus, names):
    with pytest.raises(RequestError, match=r"more than one file for test: .*test.*, .*test.*; name one") as caught:
        read(Request(corpus, local=snapshot(tmp_path, names)))
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("corpus", "names"),
    [
        ("ptb", ["test/0000.parquet", "test/0001.parquet"]),
        ("wikitext2", ["wikitext2.test-1.jsonl", "wikitext2.test-2.jsonl"]),
        ("lm1b", ["test-a.jsonl", "test-b.jsonl"]),
    ],
)
def test_several_files_of_records_make_one_split(tmp_path, corpus, names):
    assert read(Request(corpus, local=snapshot(tmp_path, names), field="text")) == {"test": names}


def test_lambada_beside_its_translations_is_the_english_original(tmp_path):
    names = [f"data/lambada_test{language}.jsonl" for language in ("", "_de", "_en", "_fr")]
    assert read(Request("lambada", local=snapshot(tmp_path, names))) == {"test": names[:1]}


def test_ptb_is_the_same_from_its_files_and_from_the_hub(tmp_path, on_hub):
    sentences = ["mr. <unk> is N years old", "it fell"]
    for split in ("train", "valid", "test"):
        write(tmp_path / f"ptb.{split}.txt", "".join(f" {sentence} \n" for sentence in sentences))
    on_hub({split: {"sentence": sentences} for split in ("train", "validation", "test")})
    assert read(Request("ptb", local=tmp_path)) == read(Request("ptb"))
    request = Request("ptb", local=tmp_path)
    assert "Linguistic Data Consortium" in find_corpus(request).open(request).remarks[0]


def test_lambada_is_the_same_from_its_file_and_from_the_hub(tmp_path, on_hub):
    texts = ["“Stop,” he said.", "a\nb"]
    write(tmp_path / "lambada_test.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    on_hub({"test": {"text": texts}})
    assert (
        read(Request("lambada", local=tmp_path / "lambada_test.jsonl")) == read(Request("lambada")) == {"test": texts}
    )


def test_lm1b_is_the_same_from_its_archive_folders_and_from_the_hub(tmp_path, on_hub):
    train, held = tmp_path / "training-monolingual.x", tmp_path / "heldout-monolingual.x"
    write(train / "news.en-00002-of-00100", "third .\n")
    write(train / "news.en-00001-of-00100", "first .\nsecond .\n")
    write(held / "news.en.heldout-00000-of-00050", "held .\n")
    write(tmp_path / "README", "no")
    on_hub({"train": {"text": ["first .", "second .", "third ."]}, "test": {"text": ["held ."]}})
    assert read(Request("lm1b", local=tmp_path)) == read(Request("lm1b"))


def test_openwebtext_holds_out_the_last(tmp_path, on_hub, monkeypatch):
    monkeypatch.setattr(openwebtext, "HELD_OUT", 3)
    pages = [f"page {i}\n\nend" for i in range(100)]
    on_hub({"train": {"text": pages}})
    expected = {"train": pages[:97], "validation": pages[97:]}
    assert read(Request("openwebtext")) == expected
    for i, page in enumerate(pages):
        write(tmp_path / "txt" / f"{i:04d}.txt", page.replace("\n\n", "\n\n\n\n") + "\n")
    assert read(Request("openwebtext", local=tmp_path / "txt")) == expected
    write(tmp_path / "a.jsonl", "".join(json.dumps({"text": page}) + "\n" for page in pages))
    assert read(Request("openwebtext", local=tmp_path / "a.jsonl")) == expected
    assert openwebtext.held_out(40) == 2


def test_openwebtext_says_what_is_lost(tmp_path):
    lines = [json.dumps({"text": f"page {i}"}) + "\n" for i in range(40)]
    request = Request("openwebtext", local=write(tmp_path / "a.jsonl", "".join(lines) + '{"text": "half \\ud800"}\n'))
    source = find_corpus(request).open(request)
    assert [line for line in source.tally.remarks() if "1 halves of surrogate pairs" in line]


# Downloads


class Response(io.BytesIO):
    """What a server answers: the content, and how many bytes it declares."""

    def __init__(self, content: bytes, declared: int | None, error: Exception | None = None):
        super().__init__(content)
        self.headers = {} if declared is None else {"Content-Length": str(declared)}
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        if self.error is not None and not piece:
            raise self.error
        return piece


@pytest.mark.parametrize(
    ("answer", "size", "message"),
    [
        (Response(b"abc", 5), None, "3 bytes came instead of 5"),
        (Response(b"abc", 3), 5, "3 bytes came instead of 5"),
        (Response(b"abc", None, http.client.IncompleteRead(b"")), None, "IncompleteRead"),
    ],
)
def test_a_download_that_is_cut_short_is_not_kept(tmp_path, monkeypatch, answer, size, message):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: answer)
    with pytest.raises(hub.UnreachableError, match=message):
        download("https://example.org/a.txt", size)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    for declared in (3, None):
        monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout, n=declared: Response(b"abc", n))
        assert download(f"https://example.org/{declared}.txt").read_bytes() == b"abc"


def test_openwebtext_falls_back_to_the_converted_copy(on_hub):
    asked = on_hub({"train": {"text": ["a"] * 40}}, answering=lambda name, revision: revision != "main")
    assert len(read(Request("openwebtext"))["train"]) == 38
    assert [entry[1] for entry in asked if len(entry) == 2] == ["main", "refs/convert/parquet"]


@pytest.fixture
def small_text8(monkeypatch):
    monkeypatch.setattr(text8, "SIZES", {"train": 90, "validation": 5, "test": 5})
    monkeypatch.setattr(text8, "_PIECE", 16)
    return "".join(" abcdefghi"[i % 10] for i in range(100))


def test_text8_is_cut_into_its_splits_from_file_zip_and_hub(tmp_path, on_hub, small_text8):
    write(tmp_path / "text8", small_text8)
    with zipfile.ZipFile(tmp_path / "text8.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text8", small_text8)
    on_hub({"train": {"text": [small_text8[:50], small_text8[50:90]]}, "validation": {"text": [small_text8[90:95]]}})
    for name in ("text8", "text8.zip"):
        splits = read(Request("text8", local=tmp_path / name))
        assert ["".join(splits[split]) for split in ("train", "validation", "test")] == [
            small_text8[:90],
            small_text8[90:95],
            small_text8[95:],
        ]
    assert "".join(read(Request("text8"))["train"]) == small_text8[:90]


def test_a_text8_of_another_length_is_damage(tmp_path, on_hub, small_text8):
    with pytest.raises(DamageError, match="ends 1 characters too early"):
        read(Request("text8", local=write(tmp_path / "text8", small_text8[:-1])))
    with pytest.raises(DamageError, match="has 101 characters: text8 has exactly 100"):
        read(Request("text8", local=write(tmp_path / "text8", small_text8 + "\n"), split="train"))
    with pytest.raises(DamageError, match="no zip archive"):
        read(Request("text8", local=write(tmp_path / "text8.zip", b"PK but not really")))
    on_hub({"train": {"text": [small_text8[:89]]}})
    with pytest.raises(DamageError, match="89 characters in train instead of 90"):
        read(Request("text8"))


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_damaged_zip_of_text8_is_damage(tmp_path, small_text8, kind):
    with zipfile.ZipFile(tmp_path / "text8.zip", "w", kind) as archive:
        archive.writestr("text8", small_text8)
        end = len("text8") + 30 + archive.getinfo("text8").compress_size
    raw = (tmp_path / "text8.zip").read_bytes()
    for at in range(len("text8") + 30, end - 3):  # the last bytes may say only that the text ends
        path = write(tmp_path / "damaged" / "text8.zip", bytes((*raw[:at], raw[at] ^ 0xFF, *raw[at + 1 :])))
        with pytest.raises(DamageError, match=r"text8\.zip (is damaged: |ends |has )"):
            read(Request("text8", local=path))


# pydocs


def test_pydocs_takes_docstrings_and_topics_and_imports_nothing(tmp_path):
    long = "A docstring that is long enough to be taken, since it has more than eighty characters in all."
    write(
        tmp_path / "b.py",
        f'"""{long}"""\nraise SystemExit("imported")\ndef f():\n    """Short."""\n'
        f'class C:\n    """{long} C\n\n    back\n      indented\n    """\n'
        f'    async def g(self):\n        """{long} g"""\n',
    )
    write(tmp_path / "a" / "z.py", f'def f():\n    """{long}"""\n    def inner():\n        """{long} inner"""\n')
    write(tmp_path / "a" / "broken.py", "def (:")
    write(tmp_path / "test" / "t.py", f'"""{long} test"""')
    write(tmp_path / "site-packages" / "p.py", f'"""{long} package"""')
    write(tmp_path / "pydoc_data" / "topics.py", "topics = {'b': 'Topic b\\n', 'a': '  Topic a'}")
    assert pydocs.documents_of(tmp_path) == [
        "Topic a",
        "Topic b",
        long,
        f"{long} inner",
        f"{long} C\n\nback\n  indented",
        f"{long} g",
    ]


@pytest.mark.slow
def test_pydocs_of_this_python():
    splits = read(Request("pydocs"))
    characters = sum(len(document) for part in splits.values() for document in part)
    assert 1_000_000 < characters < 4_000_000
    assert splits == read(Request("pydocs"))
    documents = [document for part in splits.values() for document in part]
    assert len(documents) == len(set(documents))
    assert any("list comprehension" in document for document in documents)


# pycomments and pycode


def test_comments_and_code_are_told_apart_and_nothing_is_imported(tmp_path):
    long = "a comment that goes on for long enough to be taken, and says so in its second"
    write(
        tmp_path / "b.py",
        f'#!/usr/bin/env python3\n"""A docstring."""\n# {long}\n#   line\nx = 1  # {long} behind code\n# short\n\n'
        f"def f():\n    '''Only a docstring.'''\n\n    # {long}\n    # third\n"
        f"y = {[str(n) for n in range(20)]}  # {long}\nraise SystemExit('imported')\n# {long}\n#   line\n",
    )
    write(tmp_path / "broken.py", f"def (:\n# {long}\n# {long}\n")
    write(tmp_path / "only.py", f"# {long} in a file of comments\n")
    write(tmp_path / "test" / "t.py", f"# {long} of a test\n")
    assert pycode.comments_of(tmp_path) == [f"{long}\n  line", f"{long}\nthird", f"{long} in a file of comments"]
    (code,) = pycode.code_of(tmp_path)
    assert code.startswith("x = 1\n\ndef f():\n    pass\ny = ['0', ")
    assert "comment" not in code
    assert "docstring" not in code


@pytest.mark.parametrize(("read", "smallest"), [(pycode.comments_of, 20_000), (pycode.code_of, 200_000)])
def test_comments_and_code_of_a_part_of_this_python(read, smallest):
    documents = read(Path(asyncio.__file__).parent)
    assert sum(map(len, documents)) > smallest
    assert len(documents) == len(set(documents))


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="reads the whole library for half a minute: SEDD_ALL_TESTS=1")
@pytest.mark.parametrize(("name", "smallest"), [("pycomments", 200_000), ("pycode", 2_000_000)])
def test_comments_and_code_of_this_python(name, smallest):
    splits = read(Request(name))
    assert set(splits) == {"train", "validation", "test"}
    documents = [document for part in splits.values() for document in part]
    assert sum(map(len, documents)) > smallest
    assert len(documents) == len(set(documents))
