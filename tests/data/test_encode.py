"""Encoding in groups: the same ids whatever the number of threads, and never more than a few groups in memory."""

from __future__ import annotations

import numpy as np
import pytest

from sedd_cli.data import encode
from sedd_cli.data.encode import encode_group, encode_stream, groups
from sedd_cli.data.tokenizers import load_tokenizer, train_tokenizer

DOCUMENTS = [f"document {i} " * (i % 17) for i in range(500)]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(encode, "GROUP_DOCUMENTS", 16)
    monkeypatch.setattr(encode, "GROUP_CHARACTERS", 2000)


def identity(text):
    return text


def test_groups_close_by_number_and_by_size():
    sizes = [len(group) for group in groups(["a"] * 40)]
    assert sizes == [16, 16, 8]
    assert [len(group) for group in groups(["a" * 1500] * 5)] == [2, 2, 1]
    assert [document for group in groups(DOCUMENTS) for document in group] == DOCUMENTS


def test_one_thread_and_eight_give_the_same():
    tokenizer = train_tokenizer("bpe:300", DOCUMENTS)
    one, eight = (list(encode_stream(DOCUMENTS, tokenizer, str.upper, workers)) for workers in (1, 8))
    assert len(one) == len(eight) > 20
    for left, right in zip(one, eight, strict=True):
        np.testing.assert_array_equal(left.ids, right.ids)
        np.testing.assert_array_equal(left.ends, right.ends)


def test_a_group_is_its_documents_each_with_a_separator():
    tokenizer = load_tokenizer("byte")
    found = encode_group(["ab", "", "é"], tokenizer, identity)
    assert found.ids.tolist() == [97, 98, 256, 256, 0xC3, 0xA9, 256]
    assert found.ends.tolist() == [3, 4, 7]
    assert (found.characters, found.bytes, found.unknown) == (3, 4, 0)


def test_without_separator_documents_join():
    found = encode_group(["ab", "c"], load_tokenizer("text8"), identity)
    assert found.ids.tolist() == [1, 2, 3]
    assert found.ends.tolist() == [2, 3]


def test_unknown_characters_are_counted():
    tokenizer = train_tokenizer("char", ["abc"])
    assert encode_group(["abx", "yz"], tokenizer, identity).unknown == 3


def test_texts_are_cleaned_before_they_are_counted_and_encoded():
    assert encode_group(["AB"], load_tokenizer("text8"), str.lower).characters == 2
    assert encode_group(["AB"], load_tokenizer("text8"), str.lower).ids.tolist() == [1, 2]


@pytest.mark.parametrize("workers", [1, 3])
def test_only_a_few_groups_are_held(workers):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield "word"

    stream = encode_stream(endless(), load_tokenizer("byte"), identity, workers)
    for number, _ in zip(range(1, 30), stream, strict=False):
        assert read <= (number + 2 * workers) * 16
    stream.close()


def test_an_error_of_a_worker_is_raised():
    with pytest.raises(ValueError, match="text8 has no symbol"):
        list(encode_stream(["ok", "NOT"], load_tokenizer("text8"), identity, 2))
