"""Texts, names and tokenizers of others: one table of readers, decisions said, limits, one line of error."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from support.jobs import completed

from sedd_cli.data import formats
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.corpora.files import file_splits
from sedd_cli.data.formats import files, read_documents, read_samples
from sedd_cli.data.formats.files import ReadOptions
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.data.tokenizers import guard, load_tokenizer, train_tokenizer
from sedd_cli.data.tokenizers.bpe import LONGEST_RUN
from sedd_cli.data.tokenizers.tiktoken import TiktokenTokenizer
from sedd_cli.errors import DamageError, RequestError
from sedd_cli.system.events import Note, Warn

DOCS = [f"alpha beta {i}" for i in range(200)]
JSONL = "".join(json.dumps({"text": doc, "body": doc.upper()}) + "\n" for doc in DOCS)
CSV = "id,text\n" + "".join(f'{i},"{doc}"\n' for i, doc in enumerate(DOCS))


def read(path: Path, raw: bytes | str, **options) -> list[str]:
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    return list(read_documents(path, ReadOptions(**options)))


def prepared(path: Path, tokenizer: str = "byte", **options):
    events, result = completed(prepare(PrepareOptions(str(path), tokenizer=tokenizer, **options)))
    return open_dataset(result.folder), [event.text for event in events if isinstance(event, Note)]


def packed(name: str, members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, raw in members.items():
                archive.writestr(member, raw)
    else:
        with tarfile.open(fileobj=out, mode="w:gz" if name.endswith("gz") else "w") as archive:
            for member, raw in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("a.txt", "\n\n".join(DOCS)),
        ("a.TXT", "\r\n\r\n".join(DOCS)),
        ("a.jsonl", JSONL),
        ("a.NDJSON", JSONL),
        ("a.json", JSONL),
        ("b.json", json.dumps([{"text": doc} for doc in DOCS])),
        ("a.csv", "\ufeff" + CSV),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)),
        ("a.csv.xz", lzma.compress(CSV.encode())),
        ("a.txt.bz2", bz2.compress("\n\n".join(DOCS).encode())),
        ("a.tar", packed("a.tar", {"x.jsonl": JSONL.encode()})),
        ("a.tar.gz", packed("a.tar.gz", {"x.csv.gz": gzip.compress(CSV.encode(), mtime=0)})),
        ("a.zip", packed("a.zip", {"x.jsonl": JSONL.encode()})),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "raw",  # archives hold the time
)
def test_every_format_gives_the_same_documents(name, raw, tmp_path):
    assert read(tmp_path / name, raw) == DOCS


def test_every_format_cuts_long_documents_and_leaves_out_blank_ones(tmp_path, monkeypatch):
    for module in (files, formats, formats.plain):
        monkeypatch.setattr(module, "LONGEST", 10, raising=False)
    long = "0123456789abcdefghij-tail"
    texts = [long, " ", "", "\ud800x"]
    found = [
        read(tmp_path / "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts)),
        read(tmp_path / "a.json", json.dumps([{"text": text} for text in texts])),
        read(
            tmp_path / "a.tar", packed("a.tar", {f"{i}.txt": t.encode("utf-8", "replace") for i, t in enumerate(texts)})
        ),
    ]
    assert found[0] == found[1] == ["0123456789", "abcdefghij", "-tail", "\ufffdx"]
    assert found[2][:3] == found[0][:3]


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    text = "a\rb\x85c\u2028d\x0ce\nnext\r\n"
    assert read(tmp_path / "a.txt", text, documents="line") == ["a\rb\x85c\u2028d\x0ce", "next"]


@pytest.mark.parametrize("name", ["a.log", "a", "a.py", "a.jsonl.zst", "a.doc.gz"])
def test_unknown_endings_are_no_prose_unless_asked(name, tmp_path):
    if name != "a.doc.gz":
        with pytest.raises(RequestError, match="--format text"):
            read(tmp_path / name, "a text")
    assert read(tmp_path / "a.log", "one\ntwo", format="text") == ["one", "two"]


def test_a_file_packed_in_a_way_that_is_not_read_is_to_be_unpacked_and_not_called_a_text(tmp_path):
    with pytest.raises(RequestError, match="it holds zstandard data: unpack it"):
        read(tmp_path / "a.txt.zst", b"\x28\xb5\x2f\xfd\x04\0")


def test_a_tar_whose_header_declares_more_than_memory_holds_is_refused(tmp_path):
    info = tarfile.TarInfo("a")
    info.type, info.size = tarfile.XHDTYPE, 1 << 62
    with pytest.raises(RequestError, match=r"a\.tar has a header of more than 1 MiB \(the limit TAR_HEADER_BYTES\)"):
        read(tmp_path / "a.tar", info.tobuf(tarfile.GNU_FORMAT) + b"30 path=x\n" * 100)


@pytest.mark.parametrize("name", ["gone", "loop", "gone.txt"])
def test_a_link_that_leads_nowhere_is_named_as_one_and_not_guessed_at(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).symlink_to(name if name == "loop" else "nothing")
    for given in (name, tmp_path / name):
        with pytest.raises(RequestError, match=r"it is a link that leads to no file$"):
            find_corpus(PrepareOptions(str(given)))


def test_rows_without_text_count_as_unpacked_bytes_too(tmp_path, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet

    column = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int8()), pa.array([""]))
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    monkeypatch.setattr(files, "EXPANDED_FREE", 1 << 19)
    monkeypatch.setattr(files, "EXPANSION", 1)
    with pytest.raises(RequestError, match="the limit EXPANSION"):
        list(read_documents(tmp_path / "a.parquet", ReadOptions()))


@pytest.mark.parametrize("digits", [5_000, 10**6])
def test_a_whole_number_of_too_many_digits_is_refused_in_words_for_a_user(tmp_path, digits):
    with pytest.raises(RequestError, match=r"line 1 of .* a whole number of over 4,300 digits is refused$"):
        read(tmp_path / "a.jsonl", '{"text": ' + "9" * digits + "}")


def test_samples_are_read_by_the_same_table(tmp_path):
    for name in ("s.jsonl", "s.ndjson", "s.JSONL", "s.json"):
        (tmp_path / name).write_text('{"text": "a", "tokens": [1]}\n')
        assert [record["text"] for _, record in formats.read_samples(tmp_path / name)] == ["a"]
    for wrong in ('{"tokens": [99999999999999999999]}', '{"text": "a", "draws": [1]}', "[]", '{"tokens": "x"}'):
        (tmp_path / "s.jsonl").write_text(wrong)
        with pytest.raises(RequestError, match=r"line 1 of .*s\.jsonl"):
            list(formats.read_samples(tmp_path / "s.jsonl"))


@pytest.mark.parametrize(
    ("name", "raw", "options", "message"),
    [
        ("a.txt", "a", {"encoding": "utf-16"}, "is not utf-16"),
        ("a.txt", "a", {"encoding": "rot13"}, "'rot13'"),
        ("a.txt", "a", {"encoding": "a\0b"}, "not known"),
        ("a.csv", 'text\n"never closed', {}, "no table|unexpected end"),
        ("a.csv", "a,text\n1\n", {}, "line 2"),
        ("a.jsonl", "[" * 100_000, {}, "nested too deeply"),
        ("a.jsonl", '{"text": ' + "9" * 5000 + "}", {}, "line 1"),
        ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", {}, "no parquet file"),
        ("a.zip", b"PK\3\4" + b"x" * 50, {}, "damaged"),
        ("a.txt.gz", b"no gzip", {}, "damaged"),
        ("a.xz", lzma.compress(b"no tar"), {}, "damaged"),
    ],
)
def test_errors_of_libraries_become_one_line_that_names_the_file(name, raw, options, message, tmp_path):
    with pytest.raises((RequestError, DamageError), match=message) as caught:
        read(tmp_path / name, raw, **options)
    assert "\n" not in str(caught.value)


def test_what_unpacks_without_limit_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "EXPANDED_FREE", 1 << 20)
    bomb = b"word " * (1 << 20)
    for name, raw in {
        "a.txt.gz": gzip.compress(bomb), "a.zip": packed("a.zip", {"x.txt": bomb}),
        "a.txt.bz2": bz2.compress(bomb), "a.tgz": packed("a.gz", {"x.txt": bomb}),
    }.items():  # fmt: skip
        with pytest.raises(RequestError, match="EXPANSION"):
            read(tmp_path / name, raw)


def test_equal_texts_of_a_parquet_file_are_counted(tmp_path, monkeypatch):
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr(files, "EXPANDED_FREE", 1 << 20)
    parquet.write_table(pyarrow.table({"text": ["word " * 1000] * 100_000}), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(RequestError, match="EXPANSION"):
        list(read_documents(tmp_path / "a.parquet", ReadOptions()))


def test_members_left_out_are_counted_and_named(tmp_path):
    members = {f"{i}.txt": doc.encode() for i, doc in enumerate(DOCS)} | {"photo.png": b"?", "b.bin": b"?"}
    (tmp_path / "a.tar").write_bytes(packed("a.tar", members))
    dataset, said = prepared(tmp_path / "a.tar")
    line = next(line for line in said if "left out" in line)
    assert "2 members" in line
    assert "photo.png" in line
    assert line in dataset.manifest.remarks


def test_what_a_folder_gives_is_said(tmp_path):
    (tmp_path / "f" / "sub").mkdir(parents=True)
    (tmp_path / "real").mkdir()
    for name in ("f/a.txt", "real/b.txt", "f/sub/c.txt"):
        (tmp_path / name).write_text("\n".join(DOCS))
    (tmp_path / "f" / "linked").symlink_to("../real")
    (tmp_path / "f" / "sub" / "again").symlink_to("..")
    (tmp_path / "f" / "README.md").write_text("a card")
    (tmp_path / "f" / "x.png").write_bytes(b"?")
    dataset, said = prepared(tmp_path / "f", documents="line")
    assert sum(split.documents for split in dataset.manifest.splits.values()) == 3 * len(DOCS)
    line = next(line for line in said if "are left out" in line)
    assert "3 files are read" in line
    assert "README.md" in line
    assert "x.png" in line
    assert line in dataset.manifest.remarks
    (tmp_path / "f" / "d.txt").symlink_to("nowhere")
    with pytest.raises(RequestError, match="link to nothing"):
        prepared(tmp_path / "f")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.txt", "b.txt", "c.txt", "the driving test.txt"], [None] * 4),
        (["a.txt", "b.txt", "unit_test_notes.txt", "c.txt"], [None] * 4),
        (["my.txt", "my.test.txt"], [None, "test"]),
        (["corpus.txt", "test.txt", "valid.txt"], [None, "test", "validation"]),
        (["train_x.jsonl", "val_x.jsonl"], ["train", "validation"]),
        (["test-00000-of-00001.parquet", "x.parquet"], ["test", None]),
        (["only_test.jsonl"], ["test"]),
        (["the driving test.txt"], [None]),
    ],
)
def test_a_word_in_a_name_decides_only_where_it_is_meant(names, expected):
    assert list(file_splits([Path(name) for name in names]).values()) == expected


def test_options_without_effect_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(DOCS))
    for option in ("field", "config", "revision"):
        with pytest.raises(RequestError, match=f"--{option} has no effect"):
            prepared(tmp_path / "a.txt", **{option: "x"})


def test_a_mistyped_path_does_not_go_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/missing", "data/my.json", "data/my"):
        with pytest.raises(RequestError, match="data is a folder without"):
            find_corpus(PrepareOptions(name))
    with pytest.raises(RequestError, match="no such file"):
        load_tokenizer("data/tok")


def test_what_was_prepared_with_options_can_be_named_again(tmp_path):
    (tmp_path / "c.jsonl").write_text(JSONL)
    dataset, _ = prepared(tmp_path / "c.jsonl", field="body", eos=None)
    again = find_corpus(PrepareOptions(str(dataset.folder)))
    assert again.prepared == dataset.folder
    assert completed(prepare(PrepareOptions(str(dataset.folder))))[1].folder == dataset.folder
    with pytest.raises(RequestError, match="--field has no effect"):
        find_corpus(PrepareOptions(str(dataset.folder), field="text"))


# Tokenizers


def engine(tmp_path: Path, kind=None, name: str = "t.json", special=(), **parts):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["alpha", "beta", "[UNK]"]
    made = Tokenizer(kind or models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special))
    content = json.loads(made.to_str()) | parts
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(json.dumps(content))
    return str(tmp_path / name)


@pytest.mark.parametrize("text", [5, 1.5, True, ["a"], {"a": 1}])
def test_a_sample_whose_text_is_no_text_is_refused_beside_its_tokens_too(tmp_path, text):
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({"text": None, "tokens": [1]}) + "\n" + json.dumps({"text": text, "tokens": [1, 2]}))
    found = read_samples(path)
    assert next(found)[1] == {"text": None, "tokens": [1]}
    with pytest.raises(RequestError, match=r'line 2 of .*s\.jsonl: "text" is no text, found '):
        next(found)


def test_unknown_text_is_counted_for_every_model(tmp_path):
    from tokenizers import models

    unigram = models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0)], unk_id=0)
    assert load_tokenizer(engine(tmp_path, unigram)).unknown == 0
    words = load_tokenizer(engine(tmp_path))
    assert words.unknown == 2
    assert words.unknown_parts("alpha wrong beta never") == ["wrong", "never"]


def test_what_a_tokenizer_loses_is_said_and_kept(tmp_path):
    from tokenizers import models

    (tmp_path / "a.txt").write_text("\n".join(f"alpha \u65e5 {i}" for i in range(200)))
    letters = {c: i for i, c in enumerate("abcdefghlp")}
    dataset, said = prepared(tmp_path / "a.txt", engine(tmp_path, models.BPE(letters, [])))
    assert [line for line in said if "does not give back" in line]
    assert [line for line in dataset.manifest.remarks if "does not give back" in line]
    assert [line for line in said if "without a separator" in line]


def test_the_separator_is_found_beside_the_file_or_named(tmp_path):
    path = engine(tmp_path, name="dir/tokenizer.json", special=["<stop>", "<|end_of_text|>"])
    assert load_tokenizer(path).eos == load_tokenizer(path, "<|end_of_text|>").eos
    config = {"eos_token": {"content": "<stop>"}}
    (tmp_path / "dir" / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(path).token(load_tokenizer(path).eos) == "<stop>"
    with pytest.raises(RequestError, match="no token '<end>'; special ones: <stop>"):
        load_tokenizer(path, "<end>")


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
HOSTILE = {
    "no model": {"model": None},
    "a wrong model": {"model": {"type": "BPE"}},
    "tokens that are no list": {"added_tokens": 3},
    "a large id": {"model": {"type": "WordLevel", "vocab": {"a": 2**31}, "unk_token": "a"}},
    "a pattern that never ends": {
        "pre_tokenizer": SPLIT | {"pattern": {"Regex": "(a|aa)+$|(a+)+\\1!"}}
    },
    "a broken map of characters": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}},
    "a replacement that multiplies": {
        "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 5000}
    },
    "a replacement of what no usual text holds": {
        "normalizer": {"type": "Replace", "pattern": {"String": "q\u00e9z"}, "content": "q\u00e9z" * 5000}
    },
    "an empty pattern": {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 1000}},
    "replacements that double again and again": {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40}
    },
    "a kind that is no name": {"normalizer": {"type": ["NFC"]}},
    "a kind that is not named": {"normalizer": {"pattern": {"String": "a"}, "content": "a" * 5000}},
    "a long text before each": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
    "a decoder that multiplies": {
        "decoder": {"type": "Replace", "pattern": {"String": "t"}, "content": "t" * 50_000}
    },
    "a token that is a book": {
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b" * 10**6: 1}, "unk_token": "a"}
    },
    "a word without end": {
        "model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a", "continuing_subword_prefix": "#",
                  "max_input_chars_per_word": 10**9}
    },
}  # fmt: skip


@pytest.mark.parametrize("parts", HOSTILE.values(), ids=HOSTILE)
def test_hostile_tokenizers_are_refused_in_one_line(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "TRIAL_SECONDS", 3)
    began = time.perf_counter()
    with pytest.raises((RequestError, DamageError)) as caught:
        load_tokenizer(engine(tmp_path, **parts))
    assert time.perf_counter() - began < 40
    assert len(str(caught.value)) < 600


def test_replacements_that_do_not_grow_a_text_take_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "_try", lambda *_: pytest.fail("tried"))
    llama = {
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
    }  # fmt: skip
    assert load_tokenizer(engine(tmp_path, **llama)).vocab_size == 3


def test_replacements_that_grow_a_text_a_little_are_tried_and_loaded(tmp_path):
    quotes = {"type": "Replace", "pattern": {"String": '"'}, "content": "''"}
    assert load_tokenizer(engine(tmp_path, normalizer=quotes)).vocab_size == 3


@pytest.mark.parametrize("kind", ["bert", "json"])
def test_tokenizer_files_that_are_too_large_or_pipes_are_refused(tmp_path, monkeypatch, kind):
    path = tmp_path / ("vocab.txt" if kind == "bert" else "tokenizer.json")
    os.mkfifo(path)
    with pytest.raises(RequestError, match="is no regular file, but a pipe"):
        load_tokenizer(str(path))
    path.unlink()
    path.write_text("[UNK]\n[CLS]\n[SEP]\na\n" if kind == "bert" else '{"model": {}}')
    monkeypatch.setattr(guard, "TOKENIZER_BYTES", 4)
    with pytest.raises(RequestError, match="the limit TOKENIZER_BYTES"):
        load_tokenizer(str(path))


def test_a_bpe_file_whose_merges_lack_a_piece_is_damaged_when_it_is_opened(tmp_path):
    made = train_tokenizer("bpe:260", ["the theme of the thesis"])
    made.merges.append(("the", "#"))
    made.save(tmp_path)
    with pytest.raises(DamageError, match=r"tokenizer\.json is damaged"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("wrong", [3, None, 1.5, [], "0" * 64])
def test_a_fingerprint_of_any_type_is_compared(wrong, tmp_path):
    load_tokenizer("byte").save(tmp_path)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(record | {"fingerprint": wrong}))
    with pytest.raises(DamageError, match="was changed"):
        load_tokenizer(str(tmp_path))


def test_names_come_before_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("byte", "gpt2"):
        (tmp_path / name).mkdir()
    (tmp_path / "char").write_text("hi")
    assert load_tokenizer("byte").vocab_size == 257
    assert train_tokenizer("char", ["ab"]).vocab_size == 4
    with pytest.raises(RequestError, match="the folder holds none"):
        load_tokenizer("./gpt2")
    engine(tmp_path, name="byte/tokenizer.json")
    assert load_tokenizer("./byte").vocab_size == 3


def test_ids_without_a_piece_decode_as_the_replacement_sign():
    import tiktoken

    special = {"<|endoftext|>": 257, "<|endofprompt|>": 276}
    ranks = {bytes([i]): i for i in range(256)}
    holey = tiktoken.Encoding("holey", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens=special)
    assert TiktokenTokenizer("holey", holey).decode([97, 269, 98]) == "a\ufffdb"


@pytest.mark.slow
def test_training_takes_time_linear_in_a_run():
    texts = ["-" * 60 * LONGEST_RUN, "word " * 100, "\u4e2d\u6587" * 4 * LONGEST_RUN]
    began = time.perf_counter()
    tokenizer = train_tokenizer("bpe:300", texts)
    assert time.perf_counter() - began < 30
    assert tokenizer.decode(tokenizer.encode(texts[0])) == texts[0]


def test_a_name_that_is_no_utf8_can_be_prepared(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    path.write_text("\n".join(DOCS))
    dataset, _ = prepared(path)
    assert dataset.manifest.splits["train"].documents


def test_warnings_are_events_of_their_kind(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(DOCS))
    events, _ = completed(prepare(PrepareOptions(str(tmp_path / "a.txt"), tokenizer="byte")))
    notes = [event.text for event in events if isinstance(event, Note) and not isinstance(event, Warn)]
    assert any("splits by a hash" in line for line in notes)


@pytest.mark.parametrize("size", ["1048577", "4000000000", "9" * 400, "٣٠٠", "256"])
def test_a_size_of_bpe_beyond_its_limits_is_refused(size):
    with pytest.raises(RequestError, match=r"write bpe:N with N from 257 .* to 1,048,576 \(the limit MOST_PIECES\)"):
        train_tokenizer(f"bpe:{size}", ["text"])


@pytest.mark.parametrize("columns", [{"text": ["word " * 1000] * 1000}, {"text": [None], "tokens": [[7] * 10**6]}])
def test_equal_samples_of_a_parquet_file_are_counted(tmp_path, monkeypatch, columns):
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr(files, "EXPANDED_FREE", 1 << 20)
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(RequestError, match="EXPANSION"):
        list(read_samples(tmp_path / "a.parquet"))


def test_samples_of_a_parquet_file_are_its_rows(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [{"text": "a", "tokens": [1, 2], "nfe": 3}, {"text": "b", "tokens": [4], "nfe": 5}]
    parquet.write_table(pyarrow.Table.from_pylist([{**row, "other": "x"} for row in rows]), tmp_path / "a.parquet")
    assert [record for _, record in read_samples(tmp_path / "a.parquet")] == rows
    parquet.write_table(pyarrow.table({"text": ["a"], "tokens": [["x"]]}), tmp_path / "b.parquet")
    with pytest.raises(RequestError, match="are no lists of token ids"):
        list(read_samples(tmp_path / "b.parquet"))
