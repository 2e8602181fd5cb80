"""A tokenizer whose ids are the states of a model."""

from __future__ import annotations

import numpy as np
import pytest

from sedd_cli.data.tokenizers import open_tokenizer, train_tokenizer
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
