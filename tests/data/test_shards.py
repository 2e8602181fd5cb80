"""Shards as written and as read: across shard edges, checked for size, strict about their record."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from sedd_cli.data.manifest import Manifest, read_manifest
from sedd_cli.data.shards import listed_files, open_dataset, verify_file
from sedd_cli.data.tokenizers import load_tokenizer
from sedd_cli.data.writer import Encoded, SplitWriter
from sedd_cli.errors import DamageError, RequestError


def group(lengths, first):
    total = sum(lengths)
    ids = np.arange(first, first + total, dtype=np.uint32)
    return Encoded(ids, np.cumsum(lengths), characters=total * 2, bytes=total * 3, unknown=1)


def write_dataset(folder, dtype="uint16", shard_tokens=10):
    folder.mkdir()
    writer = SplitWriter(folder, "train", dtype, shard_tokens)
    first = 0
    for lengths in ([3, 4], [5], [1, 1, 1], [20], [2]):
        writer.append(group(lengths, first))
        first += sum(lengths)
    tokenizer = load_tokenizer("byte")
    tokenizer.save(folder)
    manifest = Manifest(
        corpus="c",
        source="s",
        revision=None,
        tokenizer="byte",
        tokenizer_fingerprint=tokenizer.fingerprint,
        detokenizer="none",
        options={},
        software="x",
        dtype=dtype,
        splits={"train": writer.finish()},
    ).sealed()
    manifest.write(folder)
    return folder


@pytest.fixture(params=["uint16", "uint32"])
def folder(request, tmp_path):
    return write_dataset(tmp_path / "data", request.param)


def test_tokens_are_read_across_the_borders_of_shards(folder):
    split = open_dataset(folder).split("train")
    assert [shard.tokens for shard in split.info.shards] == [12, 23, 2]
    assert (split.tokens, split.documents, split.characters) == (37, 8, 74)
    assert split.info.unknown == 5
    for start in range(38):
        for stop in range(start, 38):
            found = split.read(start, stop)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, np.arange(start, stop))
    np.testing.assert_array_equal(split.document_ends(), np.cumsum([3, 4, 5, 1, 1, 1, 20, 2]))


def test_reading_outside_is_an_error(folder):
    split = open_dataset(folder).split("train")
    for start, stop in ((-1, 3), (30, 38), (3, 2)):
        with pytest.raises(IndexError):
            split.read(start, stop)


def test_missing_split_and_missing_folder(folder, tmp_path):
    with pytest.raises(RequestError, match=r"no split 'test'.*it has train"):
        open_dataset(folder).split("test")
    with pytest.raises(RequestError, match="sedd prepare"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_sizes_are_always_checked(folder, ending):
    file = folder / f"train-00001.{ending}"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamageError, match=rf"train-00001.{ending} has \d+ bytes instead of \d+"):
        open_dataset(folder)
    file.unlink()
    with pytest.raises(DamageError, match="missing"):
        open_dataset(folder)


@pytest.mark.parametrize("ending", ["bin", "idx"])
def test_a_changed_byte_is_found_by_its_sha256(folder, ending):
    file = folder / f"train-00001.{ending}"
    dataset = open_dataset(folder)
    hashes = {name: sha for name, _, sha in listed_files(dataset.manifest)}
    assert set(hashes) == {f"train-0000{i}.{kind}" for i in range(3) for kind in ("bin", "idx")}
    verify_file(file, hashes[file.name])
    raw = bytearray(file.read_bytes())
    raw[3] ^= 1
    file.write_bytes(raw)
    open_dataset(folder)
    with pytest.raises(DamageError, match="changed"):
        verify_file(file, hashes[file.name])


def test_the_manifest_is_read_strictly(folder):
    manifest = read_manifest(folder)
    assert manifest == Manifest(**{**vars(manifest)})
    file = folder / "manifest.json"
    good = json.loads(file.read_text())

    def broken(**change):
        file.write_text(json.dumps({**good, **change}))
        return pytest.raises(DamageError, match=r"manifest\.json")

    with broken(surplus=1):
        read_manifest(folder)
    with broken(dtype="uint64"):
        read_manifest(folder)
    with broken(splits={"train": {}}):
        read_manifest(folder)
    odd = ({"corpus": "x" * 10**6}, {"splits": {"../train": good["splits"]["train"]}})
    for wrong in ({"fingerprint": 3}, {"corpus": None}, {"options": []}, {"revision": 1.5}, {"tokenizer": True}, *odd):
        with broken(**wrong):
            read_manifest(folder)
    shard = {**good["splits"]["train"]["shards"][0], "file": "../../etc/passwd"}
    with broken(splits={"train": {**good["splits"]["train"], "shards": [shard]}}):
        read_manifest(folder)
    with broken(tokenizer_fingerprint="0"):
        read_manifest(folder)
    file.write_text(json.dumps({**good, "format": 99}))
    with pytest.raises(RequestError, match="format 99"):
        read_manifest(folder)
    file.write_text(file.read_text()[:50])
    with pytest.raises(DamageError, match="damaged"):
        read_manifest(folder)


def test_fingerprint_is_of_the_content_alone(folder):
    manifest = read_manifest(folder)
    fields = {**vars(manifest), "fingerprint": ""}
    assert Manifest(**{**fields, "source": "elsewhere", "software": "y"}).sealed().fingerprint == manifest.fingerprint
    assert Manifest(**{**fields, "tokenizer_fingerprint": "z"}).sealed().fingerprint != manifest.fingerprint


def test_another_tokenizer_in_the_folder_is_damage(folder):
    load_tokenizer("text8").save(folder)
    with pytest.raises(DamageError, match="does not match its manifest"):
        _ = open_dataset(folder).tokenizer


def test_an_interrupted_writer_goes_on_behind_the_last_finished_shard(tmp_path):
    whole = write_dataset(tmp_path / "whole")
    folder = tmp_path / "parts"
    folder.mkdir()
    writer = partial(SplitWriter, folder, "train", "uint16", 10)
    groups, first = [], 0
    for lengths in ([3, 4], [5], [1, 1, 1], [20], [2]):
        groups.append(group(lengths, first))
        first += sum(lengths)
    interrupted = writer()
    for part in groups[:3]:
        interrupted.append(part)
    resumed = writer()
    assert (resumed.documents, resumed.tokens) == (3, 12)
    for part in groups[2:]:
        resumed.append(part)
    resumed.finish()
    for file in ("train-00000.bin", "train-00001.bin", "train-00002.bin", "train-00001.idx"):
        assert (folder / file).read_bytes() == (whole / file).read_bytes()
    assert resumed.finish().shards == read_manifest(whole).splits["train"].shards


def test_an_abandoned_shard_leaves_no_file(tmp_path):
    writer = SplitWriter(tmp_path, "train", "uint16", 10)
    writer.append(group([3], 0))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
