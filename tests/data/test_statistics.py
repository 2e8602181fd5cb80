"""Statistics of a prepared text, and embeddings from files."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.jobs import returned

from sedd_cli.data import statistics
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.data.statistics import CorpusStatistics, read_embedding
from sedd_cli.errors import RequestError


@pytest.mark.parametrize("part", [7, 1 << 20])
def test_counts_and_pairs_are_those_of_the_training_split(workplace, monkeypatch, part):
    monkeypatch.setattr(statistics, "PART", part)
    monkeypatch.setattr(statistics, "COUNTED", 500)
    dataset = open_dataset(
        returned(prepare(PrepareOptions(corpus=str(workplace / "corpus.txt"), tokenizer="char"))).folder
    )
    ids, found = dataset.split("train").read(0, 500).tolist(), CorpusStatistics(dataset)
    assert found.counts().tolist() == [ids.count(a) for a in range(dataset.tokenizer.vocab_size)]
    pairs = found.pairs()
    assert float(pairs.sum()) == 499
    neighbours = list(itertools.pairwise(ids))
    for a, b in neighbours[:20]:
        assert pairs[a, b] == neighbours.count((a, b))


def test_an_embedding_is_read_from_npy_and_safetensors(tmp_path):
    matrix = torch.randn(5, 3)
    np.save(tmp_path / "a.npy", matrix.numpy())
    save_file({"w": matrix.bfloat16(), "norm": torch.ones(3)}, tmp_path / "a.safetensors")
    torch.testing.assert_close(read_embedding(tmp_path / "a.npy"), matrix.double(), rtol=0, atol=0)
    torch.testing.assert_close(read_embedding(tmp_path / "a.safetensors"), matrix.bfloat16().double(), rtol=0, atol=0)


def header(shape: tuple[int, int]) -> bytes:
    """A .npy file that declares a matrix and holds two numbers."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return out.getvalue() + bytes(16)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.npy", None, r"^the embedding \S+gone\.npy: no such file$"),
        ("whole.npy", np.arange(6).reshape(3, 2), "its numbers are int64"),
        ("flat.npy", np.zeros(6), r"must be a matrix .* found float64 \[6\]"),
        ("nan.npy", np.full((3, 2), np.nan), "not finite"),
        ("objects.npy", np.array([{}, {}], dtype=object), "cannot be read"),
        ("text.npy", b"no array", "is no .npy file"),
        ("large.npy", header((1 << 30, 1 << 10)), "cannot be read"),
        ("larger.npy", header((1 << 60, 1 << 20)), "cannot be read"),
        ("largest.npy", header((1 << 70, 1)), "cannot be read"),
        ("text.safetensors", b"no tensors at all", "cannot be read"),
        ("two.safetensors", {"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, "holds 2 matrices"),
    ],
)
def test_what_is_no_embedding_is_refused_by_name(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        save_file(content, path)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(RequestError, match=message) as error:
        read_embedding(path)
    assert name in str(error.value)
