"""Benches: both paths do the same work, and the report adds up. How fast they are is for the machine to say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sedd_cli.errors import RequestError
from sedd_cli.runs.bench import text as bench
from sedd_cli.runs.bench.compare import BenchOptions, compare
from sedd_cli.runs.events import Finished, Progress
from sedd_cli.text.tokenizers import load_tokenizer


def test_prepare_against_map(workplace):
    options = bench.PrepareBench(1, str(workplace / "corpus.txt"), "byte", megabytes=0.2, workers=2)
    events = list(bench.bench_prepare(options))
    result = events[-1].result
    assert isinstance(events[-1], Finished)
    # every byte is a token, plus one a document; the text is read until 0.2 million characters are full
    assert 200_000 < result["tokens"] < 220_000
    rates = [found["tokens_per_second"] for found in result["paths"].values()]
    assert result["ratio"] == pytest.approx(rates[0] / rates[1])
    assert [e.done for e in events if isinstance(e, Progress)] == [0, 1, 2, 3, 4]


def test_the_loaders_rows_are_those_of_the_plain_loop():
    *_, last = bench.bench_loader(bench.LoaderBench(repeats=1, length=16, batch=4, tokens=4096))
    assert last.result["tokens"] == 4096
    assert set(last.result["paths"]) == {"loader", "block by block"}


def test_paths_that_disagree_are_an_error():
    paths = {"one": lambda: 1, "two": lambda: 2}
    with pytest.raises(AssertionError, match="disagree"):
        list(compare("x", paths, BenchOptions(1), {}))


def test_memory_is_what_a_path_takes_beyond_what_was_held():
    held = np.ones(2**24)  # 128 MiB that neither path takes

    def large() -> int:
        return len(np.ones(2**25) + 1) and 1  # 256 MiB

    *_, last = compare("x", {"small": lambda: 1, "large": large}, BenchOptions(1), {})
    extra = {path: found["extra_mib"] for path, found in last.result["paths"].items()}
    assert 240 < extra["large"] < 300
    assert extra["small"] < 20
    assert held.sum() == 2**24


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: bench.PrepareBench(repeats=0), "repeats"),
        (lambda: bench.PrepareBench(megabytes=0), "megabytes"),
        (lambda: bench.PrepareBench(tokenizer="bpe:100"), "trained first"),
        (lambda: bench.LoaderBench(length=0), "length"),
    ],
)
def test_a_wrong_request_is_refused(make, word):
    with pytest.raises(RequestError, match=word):
        make()


def test_the_command_prints_a_table_and_json(sedd):
    assert "ratio" in sedd("bench", "loader", "--repeats", 1, "--batch", 512).out
    assert json.loads(sedd("bench", "loader", "--repeats", 1, "--batch", 512, "--json").out)["bench"] == "loader"


def test_byte_tokens_of_both_paths_are_the_same(workplace, tmp_path):
    import datasets

    documents = ["the cat", "", "a mat Ω"]
    tokenizer = load_tokenizer("byte")
    dataset = datasets.Dataset.from_dict({"text": documents})
    assert bench.encode_to_shards(iter(documents), tokenizer, 2, tmp_path) == bench.encode_by_map(dataset, tokenizer, 1)
