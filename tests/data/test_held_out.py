"""A prompt that is cut from a held-out split."""

from __future__ import annotations

import pytest

from sedd_cli.data.held_out import cut
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import Dataset, open_dataset
from sedd_cli.system.events import result_of


def dataset(folder, test: str, tokenizer: str = "byte") -> Dataset:
    (folder / "a.train.txt").write_text("some words to train on\n")
    (folder / "a.test.txt").write_text(test)
    return open_dataset(result_of(prepare(PrepareOptions(str(folder), tokenizer=tokenizer))).folder)


def test_the_words_are_of_the_held_out_split_and_leave_room_for_a_gap(tmp_path):
    line = "the old miller walked to the village before the bells rang and laughed"
    found = cut(dataset(tmp_path, f"{line}\n"), 40)
    assert line.startswith(f"{found.prefix} ")
    assert f" {found.suffix}" in line[:40]
    assert 1 <= len(found.prefix) <= 10
    assert len(found.prefix) + len(found.suffix) < 40


def test_of_short_lines_the_longest_is_cut(tmp_path):
    found = cut(dataset(tmp_path, "to be\n\nor not to be that is\n\nthe question\n"), 200)
    assert (found.prefix, found.suffix) == ("or not", "is")


def test_a_text_without_spaces_is_cut_between_characters(tmp_path):
    found = cut(dataset(tmp_path, "天地玄黄宇宙洪荒日月盈昃\n"), 30)
    assert "天地玄黄宇宙洪荒日月盈昃".startswith(found.prefix)
    assert found.suffix


@pytest.mark.parametrize("text", ["a\n", "a b\n"])
def test_nothing_is_cut_where_there_are_not_three_words(tmp_path, text):
    assert cut(dataset(tmp_path, text), 40) is None
