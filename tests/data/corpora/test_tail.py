"""The end of a text as validation split, and where the parts of long documents go."""

from __future__ import annotations

import json

import pytest

from sedd_cli.data import formats
from sedd_cli.data.corpora import base, find_corpus
from sedd_cli.data.formats import plain
from sedd_cli.data.prepared import PrepareOptions


@pytest.fixture
def short(monkeypatch):
    """Documents are cut at 10,000 characters."""
    for module in (base, formats, plain):
        monkeypatch.setattr(module, "LONGEST", 10_000)


@pytest.mark.parametrize("size", [9_990, 10_000, 10_010, 30_500, 211_000])
def test_the_tail_of_one_long_text_is_one_document(size, tmp_path, short):
    """Reading cuts documents at LONGEST; the pieces of one are put together, and cut from where the split begins."""
    text = "".join(f"line {i}\n" for i in range(40_000))[:size]
    (tmp_path / "long.txt").write_text(text)
    options = PrepareOptions(str(tmp_path / "long.txt"), tokenizer="char", documents="file", hold_out="tail")
    source = find_corpus(options).open(options)
    train, held_out = (list(source.splits[name]()) for name in ("train", "validation"))
    border = int(0.9 * size)
    assert "".join(train) == text[:border]
    assert "".join(held_out) == text[border:]
    assert [len(part) for part in train[:-1]] == [10_000] * (len(train) - 1)
    assert len(held_out) == -(-(size - border) // 10_000)


@pytest.mark.parametrize("form", ["jsonl", "blank", "line", "file"])
def test_the_parts_of_a_long_document_fall_into_one_split(form, tmp_path, short):
    books = [" ".join(f"book {book} word {i}" for i in range(3_000)) for book in range(20)]
    if form == "blank":
        books = [book.replace(" word", "\nword") for book in books]
    if form == "jsonl":
        (tmp_path / "books.jsonl").write_text("".join(json.dumps({"text": book}) + "\n" for book in books))
    elif form == "file":
        (tmp_path / "books").mkdir()
        for number, book in enumerate(books):
            (tmp_path / "books" / f"{number:02d}.txt").write_text(book)
    else:
        (tmp_path / "books.txt").write_text(("\n\n" if form == "blank" else "\n").join(books))
    name = {"jsonl": "books.jsonl", "file": "books"}.get(form, "books.txt")
    options = PrepareOptions(str(tmp_path / name), tokenizer="char", documents="auto" if form == "jsonl" else form)
    source = find_corpus(options).open(options)
    splits = {split: "".join(documents()) for split, documents in source.splits.items()}
    for book in books:
        assert [split for split, text in splits.items() if book in text] == [base.share_of(book[:10_000])]
    assert sum(map(len, splits.values())) == sum(map(len, books))
    assert all(splits.values())
