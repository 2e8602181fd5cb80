"""Characters and bytes of scored spans, against the text that a slow walk over every token finds in them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from sedd_cli.data import text_size as module
from sedd_cli.data.encode import encode_group
from sedd_cli.data.manifest import SplitInfo
from sedd_cli.data.text_size import TextSize, scored_size
from sedd_cli.data.tokenizers import load_tokenizer, train_tokenizer
from sedd_cli.evaluation.likelihood.protocols import Blocks

DOCUMENTS = [
    "Größe ≤ 3 €, naïve café — 你好, 世界!",
    "",
    "a",
    "plain ASCII text, some words of it again and again, again and again",
    "🙂🙃 emoji 🙂 take four bytes",
    "x" * 40 + " → " + "y" * 40,
]


class Split:
    """Documents as a split of one shard, in memory."""

    name = "test"

    def __init__(self, tokenizer, documents=DOCUMENTS):
        self._encoded = encode_group(list(documents), tokenizer, str)
        self.tokens, self.characters = self._encoded.ids.size, self._encoded.characters
        self.info = SplitInfo(len(documents), self.tokens, self.characters, self._encoded.bytes, 0, ())

    def read(self, start, stop):
        return self._encoded.ids[start:stop].astype(np.int64)

    def document_ends(self):
        return self._encoded.ends.astype(np.int64)


def tokenizers():
    yield "byte", load_tokenizer("byte")
    yield "char", train_tokenizer("char", DOCUMENTS)
    yield "char with unknown ones", train_tokenizer("char", ["plain ASCII text"])
    yield "bpe", train_tokenizer("bpe:280", DOCUMENTS * 20)


TOKENIZERS = dict(tokenizers())


def ends_of_characters(tokenizer, split):
    """For each id of the split: how many characters, and bytes, of the documents begin in it. One id at a time."""
    counts, document = [], []
    for token in split.read(0, split.tokens):
        if token == tokenizer.eos:
            counts.append((0, 0))
            document = []
            continue
        before, after = (tokenizer.decode_run(np.array(ids, dtype=np.int64)) for ids in (document, [*document, token]))
        document.append(token)
        counts.append((len(after) - len(before), len(after.encode()) - len(before.encode())))
    return np.array(counts)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("start", "stop"), [(0, 7), (3, 9), (0, 30), (11, 90), (5, None), (0, None)])
def test_characters_of_a_span_are_those_that_begin_in_it(name, start, stop):
    tokenizer = TOKENIZERS[name]
    split = Split(tokenizer)
    stop = stop or split.tokens
    truth = ends_of_characters(tokenizer, split)
    found = scored_size(split, tokenizer, np.array([[start, stop]]))
    assert found.characters == truth[start:stop, 0].sum()
    if name != "char with unknown ones":  # U+FFFD has more bytes than what it stands for
        assert found.bytes == truth[start:stop, 1].sum()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_whole_split_has_the_characters_of_its_documents(name):
    split = Split(TOKENIZERS[name])
    found = scored_size(split, TOKENIZERS[name], np.array([[0, split.tokens]]))
    assert found.characters == sum(map(len, DOCUMENTS))
    assert found.bytes == sum(len(text.encode()) for text in DOCUMENTS)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("piece", [1, 5, 1 << 18])
def test_neighbouring_spans_add_up_and_the_size_of_pieces_changes_nothing(name, piece, monkeypatch):
    tokenizer = TOKENIZERS[name]
    split = Split(tokenizer)
    monkeypatch.setattr(module, "PIECE", piece)
    cuts = [0, 4, 9, 10, 33, 60, split.tokens]
    parts = [scored_size(split, tokenizer, np.array([[a, b]])) for a, b in pairwise(cuts)]
    assert sum(part.characters for part in parts) == sum(map(len, DOCUMENTS))
    apart = scored_size(split, tokenizer, np.array([[4, 9], [10, 33]]))
    assert apart == parts[1] + parts[3]


@pytest.mark.parametrize("protocol", ["rigorous", "sedd-paper", "mdlm"])
@pytest.mark.parametrize("limit", [None, 1, 3])
def test_every_protocol_counts_the_text_of_its_blocks(protocol, limit):
    tokenizer = TOKENIZERS["bpe"]
    split = Split(tokenizer)
    blocks = Blocks.cut(split, protocol, 13, tokenizer, limit)
    truth = ends_of_characters(tokenizer, split)
    start, stop = int(blocks.spans[0, 0]), int(blocks.spans[-1, 1])
    assert stop < split.tokens or protocol == "rigorous"
    assert blocks.size == TextSize(*map(int, truth[start:stop].sum(0)))


def test_a_tokenizer_without_separator():
    tokenizer = load_tokenizer("text8")
    split = Split(tokenizer, ["anarchism originated as a term of abuse"])
    assert scored_size(split, tokenizer, np.array([[2, 9]])) == TextSize(7, 7)
    assert scored_size(split, tokenizer, np.array([[2, split.tokens]])) == TextSize(split.tokens - 2, split.tokens - 2)


def test_word_pieces_count_the_spaces_between_words(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = load_tokenizer(str(tmp_path / "vocab.txt"))
    split = Split(tokenizer, ["The cats sat.", "the cat sat"])
    assert split.read(0, 7).tolist() == [5, 6, 7, 8, 9, 3, 5]
    assert scored_size(split, tokenizer, np.array([[1, 4]])).characters == len(" cats sat")
    # a part is decoded, however large; the whole was counted in its own text
    assert scored_size(split, tokenizer, np.array([[0, 8]])).characters == len("the cats sat.") + len("the cat")
    assert scored_size(split, tokenizer, np.array([[0, split.tokens]])).characters == split.characters


def test_parts_of_a_text_that_is_not_restored_add_up_to_the_original(tmp_path):
    """BERT gives "don't" back as "don ' t": parts are not to be longer than the text that they are of."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "don", "'", "t"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = load_tokenizer(str(tmp_path / "vocab.txt"))
    split = Split(tokenizer, ["don't don't", "don't"])
    assert (split.tokens, split.characters) == (11, 16)
    halves = [scored_size(split, tokenizer, np.array([[a, b]])).characters for a, b in ((0, 7), (7, 11))]
    assert halves == [11, 5]


def test_unknown_characters_never_make_sizes_negative():
    tokenizer = TOKENIZERS["char with unknown ones"]
    documents = ["plain ASCII text"] * 30 + ["0123456789"] * 30
    split = Split(tokenizer, documents)
    split.info = dataclasses.replace(split.info, unknown=300)
    for stop in range(1, split.tokens, 37):
        found = scored_size(split, tokenizer, np.array([[0, stop]]))
        decoded = tokenizer.decode_run(np.array([i for i in split.read(0, stop) if i != tokenizer.eos]))
        assert found == TextSize(len(decoded), len(decoded.encode()))


@pytest.mark.parametrize("measure", [scored_size, module.decoded_characters])
def test_the_index_is_read_once_for_many_spans(measure, monkeypatch):
    tokenizer = TOKENIZERS["bpe"]
    split, reads = Split(tokenizer), []
    ends = split.document_ends()
    monkeypatch.setattr(split, "document_ends", lambda: reads.append(1) or ends)
    measure(split, tokenizer, np.array([[start, start + 4] for start in range(0, 40, 5)]))
    assert len(reads) == 1
