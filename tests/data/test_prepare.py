"""`prepare` from request to folder: the same bytes every time, whatever happens in between."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.jobs import completed, returned

from sedd_cli.data import encode, writer
from sedd_cli.data import prepare as prepare_module
from sedd_cli.data.corpora import find_corpus
from sedd_cli.data.detokenizers import find_detokenizer
from sedd_cli.data.prepare import PrepareResult, prepare
from sedd_cli.data.prepared import PrepareOptions, catalogue, choices, dataset_folder, find_prepared, inspect, verify
from sedd_cli.data.shards import open_dataset
from sedd_cli.data.tokenizers import train_tokenizer
from sedd_cli.data.writer import SplitWriter
from sedd_cli.errors import DamageError, RequestError, WorkError
from sedd_cli.system.events import Note, Progress, Warn

SMALL = """
from functools import partial
from sedd_cli.data import prepare as module
from sedd_cli.data import encode, writer
from sedd_cli.data.writer import SplitWriter
encode.GROUP_DOCUMENTS = 16
module.SplitWriter = partial(SplitWriter, shard_tokens=2000)
"""


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Small groups and shards, and a home of the test's own."""
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(encode, "GROUP_DOCUMENTS", 16)
    monkeypatch.setattr(prepare_module, "SplitWriter", partial(SplitWriter, shard_tokens=2000))


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "my.txt"
    path.write_text("\n".join(f"line {i} of {i * i} words" for i in range(600)))
    return path


def run(**options) -> PrepareResult:
    return returned(prepare(PrepareOptions(**options)))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def left_in(home: Path) -> list[str]:
    """Files in the data folder, locks aside."""
    return sorted(path.name for path in home.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def test_a_prepared_text_is_used_again_and_stays_byte_for_byte(text):
    first = run(corpus=str(text), tokenizer="char")
    assert first.fresh
    assert first.folder == dataset_folder(PrepareOptions(str(text), tokenizer="char"))
    before = contents(first.folder)
    second = run(corpus=str(text), tokenizer="char")
    assert not second.fresh
    assert (second.folder, second.manifest) == (first.folder, first.manifest)
    assert contents(first.folder) == before
    kinds = {name.split(".")[-1] for name in before}
    assert kinds == {"bin", "idx", "json"}
    assert sorted(name for name in before if name.endswith("json")) == ["manifest.json", "tokenizer.json"]


def test_every_split_reports_its_end(text):
    last = {}
    for event in prepare(PrepareOptions(str(text), tokenizer="char")):
        if isinstance(event, Progress):
            last[event.task] = event
    assert set(last) == {"encode train", "encode validation", "encode test"}
    assert all(event.done == event.total > 0 for event in last.values())


def test_what_is_read_is_the_text(text):
    dataset = open_dataset(run(corpus=str(text), tokenizer="byte").folder)
    found = []
    for name in dataset.splits:
        split = dataset.split(name)
        found += dataset.tokenizer.decode(split.read(0, split.tokens)).removesuffix("\n\n").split("\n\n")
        ids = split.read(0, split.tokens)
        assert [int(end) - 1 for end in split.document_ends()] == [i for i, token in enumerate(ids) if token == 256]
        assert split.characters == split.tokens - split.documents
    assert sorted(found) == sorted(text.read_text().split("\n"))
    assert len(dataset.split("train").info.shards) > 3
    assert dataset.manifest.dtype == "uint16"


def test_one_worker_and_eight_write_the_same(text, tmp_path, monkeypatch):
    results = []
    for workers in (1, 8):
        monkeypatch.setenv("SEDD_HOME", str(tmp_path / f"home{workers}"))
        results.append(contents(run(corpus=str(text), tokenizer="bpe:300", workers=workers).folder))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "change", [{"tokenizer": "byte"}, {"documents": "file"}, {"split": "train"}, {"detokenizer": "lm1b"}]
)
def test_a_changed_option_makes_another_folder(text, change):
    options = {"corpus": str(text), "tokenizer": "char"}
    assert run(**options).folder != run(**{**options, **change}).folder


def test_a_changed_text_makes_another_folder(text):
    before = run(corpus=str(text), tokenizer="char").folder
    text.write_text(text.read_text() + "\nmore")
    assert run(corpus=str(text), tokenizer="char").folder != before


def test_workers_are_no_option_of_the_data(text):
    first = run(corpus=str(text), tokenizer="byte", workers=1)
    assert not run(corpus=str(text), tokenizer="byte", workers=2).fresh
    assert "workers" not in first.manifest.options
    with pytest.raises(RequestError, match="workers must be at least 1, not 0"):
        PrepareOptions("pydocs", workers=0)


def test_closing_in_the_middle_leaves_whole_shards_and_goes_on(text, tmp_path, monkeypatch):
    whole = run(corpus=str(text), tokenizer="bpe:300")
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "second"))
    options = PrepareOptions(str(text), tokenizer="bpe:300")
    _stop_after(options, 300)
    folder = dataset_folder(options)
    partial_folder = folder.with_name(folder.name + ".partial")
    assert not folder.exists()
    finished = json.loads((partial_folder / "train.finished.json").read_text())
    assert {file.name for file in partial_folder.glob("*.bin")} == {entry["shard"]["file"] for entry in finished}
    events, result = completed(prepare(options))
    assert any(isinstance(event, Note) and "resuming" in event.text for event in events)
    # It does not begin again: the first group comes behind the finished shards.
    done_before = sum(entry["shard"]["documents"] for entry in finished)
    assert next(event for event in events if isinstance(event, Progress)).done == done_before + 16
    assert contents(result.folder) == contents(whole.folder)
    assert not partial_folder.exists()


def test_a_kill_in_the_middle_is_recovered_from(text, tmp_path, monkeypatch):
    whole = run(corpus=str(text), tokenizer="char")
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "second"))
    script = SMALL + (
        "import os, sys\n"
        "for event in module.prepare(module.PrepareOptions(sys.argv[1], tokenizer='char')):\n"
        "    if getattr(event, 'done', 0) > 200: os._exit(9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(text)], env=_environment(), check=False)
    assert killed.returncode == 9
    assert contents(run(corpus=str(text), tokenizer="char").folder) == contents(whole.folder)


def _stop_after(options, documents):
    """Prepare until so many documents are done, then close the generator."""
    running = prepare(options)
    for event in running:
        if isinstance(event, Progress) and event.done >= documents:
            break
    running.close()


def _environment():
    return {**os.environ, "PYTHONPATH": ":".join(sys.path)}


def test_a_partial_folder_of_another_version_is_not_mixed_in(text, monkeypatch):
    options = PrepareOptions(str(text), tokenizer="char")
    _stop_after(options, 300)
    monkeypatch.setattr(prepare_module, "__version__", "9.9")
    events, result = completed(prepare(options))
    assert next(event for event in events if isinstance(event, Progress)).done == 16
    assert result.manifest.software == "sedd 9.9"


@pytest.mark.parametrize(("tokenizer", "eos"), [("bpe:3", None), ("char:5", None), ("bpe:300", "</s>"), (None, "</s>")])
def test_a_tokenizer_that_cannot_be_learnt_is_refused_before_any_work(text, tokenizer, eos, monkeypatch):
    monkeypatch.setattr(prepare_module, "_fill", lambda *given: pytest.fail("the work has begun"))
    with pytest.raises(RequestError, match=r"bpe:N with N from|char takes no number|--eos has no effect"):
        run(corpus=str(text), tokenizer=tokenizer, eos=eos)


def test_a_second_preparation_waits_and_uses_what_the_first_has_made(text):
    options = PrepareOptions(str(text), tokenizer="char")
    running = prepare(options)
    next(running)
    waiting = prepare(options)
    assert "another process is preparing" in next(waiting).text
    with ThreadPoolExecutor(1) as other:
        second = other.submit(returned, waiting)
        with pytest.raises(StillRunning):
            second.result(timeout=0.2)
        assert returned(running).fresh
        assert not second.result(timeout=30).fresh


def fill_disk_after(monkeypatch, tokens):
    append = SplitWriter.append

    def full(self, group):
        if self.tokens > tokens:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, group)

    monkeypatch.setattr(SplitWriter, "append", full)


def test_full_disk_before_the_first_shard_leaves_nothing(text, tmp_path, monkeypatch):
    fill_disk_after(monkeypatch, 1000)
    with pytest.raises(WorkError, match=r"disk of .* is full: about \d+ MiB more are needed"):
        run(corpus=str(text), tokenizer="char")
    assert left_in(tmp_path / "home") == []


def test_full_disk_later_keeps_finished_shards(text, monkeypatch):
    with monkeypatch.context() as during:
        fill_disk_after(during, 5000)
        with pytest.raises(WorkError, match="the same command resumes after them"):
            run(corpus=str(text), tokenizer="char")
    events = list(prepare(PrepareOptions(str(text), tokenizer="char")))
    assert next(event for event in events if isinstance(event, Progress)).done > 16


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from sedd_cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("limit", "tokenizer", "file"),
    [(20, "char", "origin.json"), (700, "bpe:300", "tokenizer.json"), (2000, "char", "train-00000.bin")],
)
def test_a_write_that_fails_names_its_file_and_leaves_nothing(text, tmp_path, limit, tokenizer, file):
    words = [str(limit), "prepare", str(text), "--tokenizer", tokenizer, "--quiet"]
    done = subprocess.run([sys.executable, "-B", "-c", LIMITED, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{file} cannot be written: File too large" in done.stderr
    assert left_in(tmp_path / "home") == []
    assert run(corpus=str(text), tokenizer="char").fresh


def test_a_shard_that_cannot_be_closed_is_not_believed(text, tmp_path, monkeypatch):
    def full(stream):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as during:
        during.setattr(writer, "sync", full)
        with pytest.raises(WorkError, match=r"train-00000\.bin cannot be written: Input/output error"):
            run(corpus=str(text), tokenizer="char")
    assert left_in(tmp_path / "home") == []


def test_losses_are_said_again_of_a_stored_corpus(tmp_path):
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps({"text": f"line {i} \ud800"}) + "\n" for i in range(600)))
    said = []
    for _ in range(2):
        events, result = completed(prepare(PrepareOptions(str(path), tokenizer="char")))
        said.append([event.text for event in events if isinstance(event, Warn)])
    assert not result.fresh
    assert said[0] == said[1] == list(result.manifest.warnings)
    assert "600 halves of surrogate pairs" in said[0][0]
    events, _ = completed(prepare(PrepareOptions(str(result.folder))))
    assert [event.text for event in events if isinstance(event, Warn)] == said[0]


def test_a_manifest_without_warnings_is_stored_as_before(text):
    result = run(corpus=str(text), tokenizer="char")
    assert "warnings" not in json.loads((result.folder / "manifest.json").read_text())


def test_a_home_that_cannot_be_written_is_refused_with_its_variable(text, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "file"))
    with pytest.raises(RequestError, match="cannot be written: choose another folder with SEDD_HOME"):
        run(corpus=str(text), tokenizer="char")


def test_from_local_files_is_found_without_them(tmp_path):
    raw = tmp_path / "wiki.test.raw"
    raw.write_text(" \n = Title = \n A line , with a point . \n")
    made = run(corpus="wikitext2", tokenizer="byte", local=raw)
    assert made.manifest.detokenizer == "wikitext"
    assert made.manifest.options["detokenizer_edition"] == 2  # older ones kept the spaces of a degree sign
    assert made.manifest.splits["test"].documents == 3
    found = run(corpus="wikitext2", tokenizer="byte")
    assert (found.folder, found.fresh) == (made.folder, False)
    dataset = open_dataset(found.folder)
    assert dataset.tokenizer.decode(dataset.split("test").read(0, 12)) == "\n\n = Title =\n"[:13]


def wikitext2(tmp_path: Path, place: str, text: str, *splits: str) -> PrepareResult:
    """A local copy of WikiText-2, prepared."""
    (tmp_path / place).mkdir()
    for split in splits:
        (tmp_path / place / f"wiki.{split}.raw").write_text(f"{text} \n")
    return run(corpus="wikitext2", tokenizer="byte", local=tmp_path / place)


def test_of_several_prepared_copies_the_one_with_the_splits_of_all_is_taken(tmp_path):
    parts = [wikitext2(tmp_path, name, name, name) for name in ("test", "train")]
    whole = wikitext2(tmp_path, "whole", "a", "train", "valid", "test")
    again = wikitext2(tmp_path, "again", "a", "train", "valid", "test")
    assert len({made.folder for made in (*parts, whole)}) == 3
    assert run(corpus="wikitext2", tokenizer="byte").manifest.fingerprint == whole.manifest.fingerprint
    assert again.manifest.fingerprint == whole.manifest.fingerprint


@pytest.mark.parametrize("splits", [("test", "test"), ("train", "test")])
def test_several_prepared_copies_of_other_texts_are_refused_with_their_folders(tmp_path, splits):
    made = [wikitext2(tmp_path, place, place, split) for place, split in zip("ab", splits, strict=True)]
    with pytest.raises(RequestError, match=r"2 prepared texts are called wikitext2: name one by its folder") as caught:
        run(corpus="wikitext2", tokenizer="byte")
    for one, place in zip(made, "ab", strict=True):
        assert f"{one.folder.name} (of {tmp_path / place})" in str(caught.value)
        assert run(corpus=one.folder.name).folder == one.folder
        assert run(corpus="wikitext2", tokenizer="byte", local=tmp_path / place).folder == one.folder


def test_a_corpus_of_this_machine_is_found_only_where_its_text_is_the_same(monkeypatch):
    options = PrepareOptions(corpus="pydocs", tokenizer="byte")
    folder = dataset_folder(options)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("")
    monkeypatch.setattr("platform.python_version", lambda: "3.99.0")
    manifest = SimpleNamespace(options=choices(options), corpus="pydocs")
    monkeypatch.setattr("sedd_cli.data.prepared.prepared", lambda: iter([(folder, manifest)]))
    assert dataset_folder(options) != folder
    assert find_prepared(options) is None


def test_same_text_from_elsewhere_has_the_same_fingerprint(tmp_path):
    made = []
    for place in ("a", "b"):
        raw = tmp_path / place / "wiki.test.raw"
        raw.parent.mkdir()
        raw.write_text(" = Title = \n" + " \n" * (place == "c"))
        made.append(run(corpus="wikitext2", tokenizer="byte", local=raw).manifest)
    assert made[0].fingerprint == made[1].fingerprint


def test_the_tokenizer_of_another_dataset(text, tmp_path):
    first = run(corpus=str(text), tokenizer="char")
    other = tmp_path / "other.test.txt"
    other.write_text("line ÿ\nline 2")
    second = run(corpus=str(other), tokenizer=str(first.folder))
    assert second.manifest.tokenizer_fingerprint == first.manifest.tokenizer_fingerprint
    assert second.manifest.splits["test"].unknown == 1
    assert second.folder.name.startswith("other.test-char-")


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_a_tokenizer_is_trained_on_the_text_that_it_encodes(tmp_path, tokenizer):
    path = tmp_path / "wiki.train.raw"
    path.write_text("".join(f" one @-@ half , of {i} ° \n" for i in range(50)))
    made = run(corpus="wikitext2", tokenizer=tokenizer, local=path)
    learnt = open_dataset(made.folder).tokenizer
    assert learnt.decode(learnt.encode(" one-half, of 7°\n")) == " one-half, of 7°\n"
    texts = [find_detokenizer("wikitext")(row) for row in path.read_text().splitlines(keepends=True)]
    assert learnt.fingerprint == train_tokenizer(tokenizer, texts).fingerprint


def test_only_tokenizers_trained_on_detokenized_text_have_an_edition(tmp_path):
    options = PrepareOptions("wikitext2", tokenizer="char")
    assert choices(options)["tokenizer_edition"] == 2
    for other in ({"tokenizer": "gpt2"}, {"detokenizer": "none"}):
        assert "tokenizer_edition" not in choices(dataclasses.replace(options, **other))


def test_training_a_tokenizer_needs_a_train_split(tmp_path):
    path = tmp_path / "my.test.txt"
    path.write_text("a\nb")
    with pytest.raises(RequestError, match="'bpe:300' is trained on the train split"):
        run(corpus=str(path), tokenizer="bpe:300")


def test_a_corpus_too_small_to_split(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text("text 15")  # one document, which falls to validation
    with pytest.raises(RequestError, match="has 1 document, too few to fill train"):
        run(corpus=str(path), tokenizer="byte")
    path.write_text("text 0\ntext 1")
    events, result = completed(prepare(PrepareOptions(str(path), tokenizer="byte")))
    assert any(isinstance(event, Warn) and "too small" in event.text for event in events)
    assert open_dataset(result.folder).splits == ("train",)


@pytest.mark.parametrize(("text", "split"), [("text 15", "train"), ("text 0", "validation")])
def test_too_few_documents_are_refused_before_a_tokenizer_is_trained(text, split, tmp_path, monkeypatch):
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    monkeypatch.setattr("sedd_cli.data.prepare.train_tokenizer", None)
    options = PrepareOptions(str(path), tokenizer="bpe:300", split=None if split == "train" else split)
    with pytest.raises(RequestError, match=f"has 1 document, too few to fill {split}; hold out its end") as error:
        completed(prepare(options))
    assert "--documents" not in str(error.value)  # each record is a document


def test_wrong_names_are_refused_before_anything_is_written(text, tmp_path):
    for options, message in (
        ({"corpus": "wikitxt"}, "none of pydocs"),
        ({"corpus": str(text), "tokenizer": "byte", "detokenizer": "x"}, "detokenizer 'x'"),
        ({"corpus": str(text), "tokenizer": "byte", "split": "x"}, "no split 'x'"),
    ):
        with pytest.raises(RequestError, match=message):
            run(**options)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a"}\n' * 500 + "{")
    with pytest.raises(RequestError, match="line 501 of"):
        run(corpus=str(broken), tokenizer="byte")
    assert left_in(tmp_path / "home") == []


def test_an_unreachable_source_keeps_what_is_finished(text, tmp_path, monkeypatch):
    options = PrepareOptions(str(text), tokenizer="char")
    _stop_after(options, 300)
    before = left_in(tmp_path / "home")

    def unreachable(request):
        raise RequestError("out of reach")

    corpus = dataclasses.replace(find_corpus(options), open=unreachable)
    monkeypatch.setattr(prepare_module, "find_corpus", lambda request: corpus)
    with pytest.raises(RequestError, match="out of reach"):
        list(prepare(options))
    assert left_in(tmp_path / "home") == before
    assert any(name.endswith(".bin") for name in before)


def test_verify_finds_a_changed_shard(text):
    made = run(corpus=str(text), tokenizer="char")
    assert returned(verify(made.folder)).fingerprint == made.manifest.fingerprint
    shard = made.folder / "train-00001.bin"
    raw = bytearray(shard.read_bytes())
    raw[7] ^= 1
    shard.write_bytes(raw)
    assert not run(corpus=str(text), tokenizer="char").fresh
    with pytest.raises(DamageError, match=r"train-00001\.bin was changed"):
        list(verify(made.folder))
    shard.write_bytes(raw[:-2])
    with pytest.raises(DamageError, match=r"train-00001\.bin has \d+ bytes instead"):
        run(corpus=str(text), tokenizer="char")


def test_inspect_counts_and_decodes(text):
    made = run(corpus=str(text), tokenizer="byte")
    found = inspect(open_dataset(made.folder), blocks=2, length=64)
    assert {split: info["tokens"] for split, info in found["splits"].items()} == {
        split: info.tokens for split, info in made.manifest.splits.items()
    }
    assert all(block.count("line") for info in found["splits"].values() for block in info["blocks"])
    json.dumps(found)


def test_the_catalogue_lists_known_corpora_and_prepared_folders(text):
    made = run(corpus=str(text), tokenizer="byte")
    found = catalogue()
    assert {corpus["name"] for corpus in found["corpora"]} >= {"pydocs", "openwebtext", "text8"}
    assert all(corpus["licence"] and corpus["size"] and corpus["tokenizer"] for corpus in found["corpora"])
    assert [entry["folder"] for entry in found["prepared"]] == [str(made.folder)]
    json.dumps(found)


def test_a_text_of_the_longest_name_is_prepared(tmp_path):
    text = tmp_path / ("b" * 251 + ".txt")
    text.write_text("a line\n" * 100)
    found = run(corpus=str(text), tokenizer="byte", hold_out="tail")
    assert found.manifest.corpus == "b" * 251
    assert find_prepared(PrepareOptions(str(text), tokenizer="byte", hold_out="tail")) == found.folder
