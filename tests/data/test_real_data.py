"""Real corpora, where they are at hand: set SEDD_REAL_DATA to a folder with the files named below.

bert/vocab.txt  lm1b/1b_benchmark.dev.tokens  tiktoken/ (a cache with GPT-2's files)
tinyshakespeare/input.txt  tinystories/tiny_stories.txt  webtext/webtext.valid.jsonl  wikitext-2/wiki.test.raw
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from support.jobs import returned

from sedd_cli.data.detokenizers import find_detokenizer
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.data.tokenizers import load_tokenizer

REAL = os.environ.get("SEDD_REAL_DATA")
pytestmark = pytest.mark.skipif(not REAL, reason="SEDD_REAL_DATA names no folder of real corpora")


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.setenv("SEDD_HOME", str(tmp_path))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(Path(REAL) / "tiktoken"))


def real(name: str) -> Path:
    path = Path(REAL) / name
    if not path.exists():
        pytest.skip(f"{path} is missing")
    return path


def counts(**options) -> dict[str, tuple[int, int, int]]:
    made = returned(prepare(PrepareOptions(**options)))
    splits = made.manifest.splits
    return {name: (split.documents, split.tokens, split.characters) for name, split in splits.items()}


def test_wikitext2_is_what_the_slow_way_gives():
    import tiktoken

    raw = real("wikitext-2/wiki.test.raw")
    assert counts(corpus="wikitext2", local=raw) == {"test": (4358, 274_794, 1_239_940)}
    made = returned(prepare(PrepareOptions("wikitext2", local=raw)))
    split = open_dataset(made.folder).split("test")
    encoding = tiktoken.get_encoding("gpt2")
    detokenize = find_detokenizer("wikitext")
    slow = []
    for line in raw.read_text(encoding="utf-8").split("\n")[:-1]:
        slow += [*encoding.encode_ordinary(detokenize(line + "\n") if line.strip() else ""), 50256]
    np.testing.assert_array_equal(split.read(0, split.tokens), slow)


def test_one_billion_words_in_word_pieces():
    found = counts(corpus="lm1b", local=real("lm1b/1b_benchmark.dev.tokens"), tokenizer=str(real("bert/vocab.txt")))
    assert found == {"validation": (12_216, 361_818, 1_623_853)}


def test_webtext_and_openwebtext_have_their_counts():
    assert counts(corpus=str(real("webtext/webtext.valid.jsonl"))) == {"validation": (4724, 302_336, 1_339_401)}
    held = counts(corpus="openwebtext", local=real("webtext"))
    assert held == {"train": (4488, 287_232, 1_271_622), "validation": (236, 15_104, 67_779)}


@pytest.mark.parametrize(
    ("name", "documents", "characters"),
    [("tinyshakespeare/input.txt", 7222, 1_100_949), ("tinystories/tiny_stories.txt", 4667, 933_300)],
)
@pytest.mark.parametrize("tokenizer", ["gpt2", "byte", "char", "bpe:1000"])
def test_books_have_the_same_counts_with_every_tokenizer(name, documents, characters, tokenizer):
    found = counts(corpus=str(real(name)), tokenizer=tokenizer)
    assert tuple(np.sum(list(found.values()), axis=0)[[0, 2]]) == (documents, characters)


def test_gpt2_survives_saving(tmp_path):
    real("tiktoken")
    tokenizer = load_tokenizer("gpt2")
    assert (tokenizer.vocab_size, tokenizer.eos) == (50257, 50256)
    tokenizer.save(tmp_path / "saved")
    opened = load_tokenizer(str(tmp_path / "saved"))
    text = "It's 2024 — the “quick” brown fox\n\n\tjumps <|endoftext|> over 漢字 🎉"
    assert opened.encode(text) == tokenizer.encode(text)
    assert opened.decode(opened.encode(text)) == text


def test_a_model_is_evaluated_on_wikitext2_and_one_billion_words(sedd, tiny_run, tmp_path):
    words = ["eval", "--model", tiny_run, "--blocks", 30, "--json", "--out", tmp_path / "found.json"]
    for name, file in (("wikitext2", "wikitext-2/wiki.test.raw"), ("lm1b", "lm1b/1b_benchmark.dev.tokens")):
        words += ["--dataset", name, "--from", real(file)]
    done = sedd(*words)
    assert done.code == 0, done.err
    found = json.loads(done.out)["results"]
    assert [(r["corpus"], r["split"], r["detokenizer"]) for r in found] == [
        ("wikitext2", "test", "wikitext"),
        ("lm1b", "validation", "lm1b"),
    ]
    assert all(r["bounds"]["rigorous"]["blocks"] == 30 for r in found)
    assert json.loads((tmp_path / "found.json").read_text()) == found
