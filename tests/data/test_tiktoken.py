"""The swift encoder against the plain expression that it replaces, on text made to trip it."""

from __future__ import annotations

import random

import pytest

from sedd_cli.data.tokenizers.tiktoken import GPT2Encoder

# GPT-2's published split, look-ahead and all.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPACES = [*" \n\t\r\v\f", "  ", "\n\n", " \n"]
WORDS = [*"ab'sLé漢12²٣!.…🎉\u200b\x1c", "'s", "'ll", " the", "<|endoftext|>"]
RARE = [*"\x1e\x1f\x85\xa0\u1680\u2003\u2028\u205f\u3000"]


@pytest.fixture(scope="module")
def encoding():
    import tiktoken

    pieces = [bytes([byte]) for byte in range(256)]
    pieces += [b" a", b"ab", b" ab", b"\n\n", b"  ", b"   ", b" \n", b"th", b"the", b" the", b"'s", b"ll", b"'ll"]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    return tiktoken.Encoding("t", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)})


@pytest.mark.parametrize("alphabet", [SPACES + WORDS, SPACES * 3 + WORDS, SPACES + WORDS + RARE, RARE])
def test_random_texts_get_the_ids_of_tiktoken(encoding, alphabet):
    swift = GPT2Encoder(encoding)
    draw = random.Random(0)
    for _ in range(150):
        texts = ["".join(draw.choices(alphabet, k=draw.randint(0, 12))) for _ in range(20)]
        assert [ids.tolist() for ids in swift(texts)] == [encoding.encode_ordinary(text) for text in texts]


def test_every_character_that_is_white_space_somewhere(encoding):
    swift = GPT2Encoder(encoding)
    # Surrogates aside: no text holds them.
    candidates = [chr(point) for point in range(0x3100) if chr(point).isspace() or not chr(point).isprintable()]
    texts = [f"a{character}{character}b {character}c{character}" for character in candidates]
    assert [ids.tolist() for ids in swift(texts)] == [encoding.encode_ordinary(text) for text in texts]


def test_no_texts_and_an_empty_text_have_no_ids(encoding):
    assert GPT2Encoder(encoding)([]) == []
    assert [ids.tolist() for ids in GPT2Encoder(encoding)([""])] == [[]]
