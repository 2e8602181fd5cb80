"""A tokenizer whose ids are the states of a model."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from sedd_cli.data.corpora import Source
from sedd_cli.data.remarks import tokenizer_remarks
from sedd_cli.data.tokenizers import load_tokenizer, open_tokenizer, train_tokenizer
from sedd_cli.data.tokenizers.reindexed import ReindexedTokenizer
from sedd_cli.errors import RequestError


@pytest.fixture(scope="module")
def base():
    return train_tokenizer("char", ["abcdef"])


def test_text_goes_around_mask_and_spare_rows_say_nothing(base):
    free = base.vocab_size  # MASK before and behind the known ids
    tokenizer = ReindexedTokenizer(base, free + 4, free + 1)
    assert tokenizer.vocab_size == free + 3
    assert tokenizer.decode(tokenizer.encode("abcdef")) == "abcdef"
    assert tokenizer.decode([*tokenizer.encode("a"), free + 1, *tokenizer.encode("b")]) == "ab"


def test_ids_behind_mask_move_down(base):
    (mask,) = base.encode("c")
    tokenizer = ReindexedTokenizer(base, base.vocab_size, mask)
    assert tokenizer.encode("abdef") == [i - (i > mask) for i in base.encode("abdef")]
    assert tokenizer.decode(np.array(tokenizer.encode("fed"))) == "fed"
    with pytest.raises(RequestError, match="uses as MASK"):
        tokenizer.encode("abc")


def test_it_is_saved_and_opened(base, tmp_path):
    tokenizer = ReindexedTokenizer(base, base.vocab_size + 3, base.vocab_size)
    tokenizer.save(tmp_path)
    opened = open_tokenizer(tmp_path)
    assert opened.fingerprint == tokenizer.fingerprint
    assert opened.encode("fade") == tokenizer.encode("fade")


WORDS = ["one", "<mask>", "two", "stop"]


@pytest.fixture
def words(tmp_path):
    """A tokenizer of the hub for WORDS, without a token for other words and without one that ends a text."""
    engine = Engine(models.WordLevel({word: number for number, word in enumerate(WORDS)}))
    engine.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    engine.save(str(tmp_path / "words.json"))
    return ReindexedTokenizer(load_tokenizer(str(tmp_path / "words.json")), len(WORDS), WORDS.index("<mask>"))


def test_another_token_can_separate_its_documents(words, tmp_path):
    words.save(tmp_path / "saved")
    separated = load_tokenizer(str(tmp_path / "saved"), eos="stop")
    assert (words.eos, separated.eos) == (None, separated.encode("stop")[0])
    with pytest.raises(RequestError, match="token that the model uses as MASK"):
        load_tokenizer(str(tmp_path / "saved"), eos="<mask>")
    with pytest.raises(RequestError, match="no token 'end'"):
        load_tokenizer(str(tmp_path / "saved"), eos="end")


def test_what_separates_its_documents_is_said(words):
    source = Source("text", None, {"train": lambda: iter(["one two"])})
    (said,) = tokenizer_remarks(words, source, str)
    assert "names no end-of-text token" in said.text
    (said,) = tokenizer_remarks(words.separated_by("stop"), source, str)
    assert said.text == "documents are separated by the token 'stop'"


def test_words_that_it_cannot_encode_say_nothing_on_spaces(words):
    assert not words.joins_spaces
    assert words.keeps_spaces
