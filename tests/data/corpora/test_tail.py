"""The end of a text as validation split."""

from __future__ import annotations

import pytest

from sedd_cli.data import formats
from sedd_cli.data.corpora import base, find_corpus
from sedd_cli.data.formats import plain
from sedd_cli.data.prepared import PrepareOptions


@pytest.mark.parametrize("size", [9_990, 10_000, 10_010, 30_500, 211_000])
def test_the_tail_of_one_long_text_is_one_document(size, tmp_path, monkeypatch):
    """Reading cuts documents at LONGEST; the pieces of one are put together, and cut from where the split begins."""
    for module in (base, formats, plain):
        monkeypatch.setattr(module, "LONGEST", 10_000)
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
