"""Batches of templates from a file: strict lines, results as they come, resuming, order."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json

import pytest
import torch
from support.jobs import completed

from sedd_cli import load_model
from sedd_cli.data.tokenizers.characters import CharTokenizer
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.inference.batch import jobs, planned
from sedd_cli.inference.batch.jobs import fill_jobs
from sedd_cli.inference.batch.lines import job_lines
from sedd_cli.inference.batch.stored import StoredFillings
from sedd_cli.inference.plan import plan_job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.recipe.part import SamplerPart
from sedd_cli.system.events import Filled, Progress, Warn

LINES = [
    '{"template": "the [MASK:3] sat", "id": "first"}',
    '{"template": "a [MASK:2-4] ran", "seed": 7}',
    '{"prefix": "the", "suffix": "list", "n": 3, "length": 20}',
    '{"template": "[MASK:5]", "n": 2, "candidates": 2}',
    '{"template": "the [MASK:3] sat"}',
]


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


def fill(model, lines, out=None, resume=True, every=False, **options):
    read = list(job_lines([line.encode() for line in lines], "jobs.jsonl", model.length))
    return completed(fill_jobs(model, read, Sampling(**options), every, out, resume, watch=False))


def records(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(record):
    """What a result is about, and what it is: all but the line it came from and the time it took."""
    return (
        record["template"], record["seed"], record["index"], record["candidate"], record["text"],
        tuple(record["tokens"]), record["nfe"], record["bound"],
    )  # fmt: skip


def test_every_line_is_filled_with_its_own_n_and_seed(model, tmp_path):
    out = tmp_path / "r.jsonl"
    _, result = fill(model, LINES, out)
    found = records(out)
    assert sorted((r["job"]["line"], r["index"]) for r in found) == [
        (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (5, 0),
    ]  # fmt: skip
    by_line = {r["job"]["line"]: r for r in found}
    assert by_line[1]["job"]["id"] == "first"
    assert by_line[2]["seed"] == 7
    assert by_line[2]["candidates"] == 8
    assert len(by_line[3]["tokens"]) == 20
    assert by_line[1]["text"] == by_line[5]["text"]
    assert (result.lines, result.fillings, result.from_before, result.refused) == (5, 8, 0, [])
    assert sorted(map(content, result.samples)) == sorted(map(content, found))
    # and as the same jobs one by one
    assert by_line[1]["text"] == model.infill("the [MASK:3] sat")[0].text
    assert by_line[2]["text"] == model.infill("a [MASK:2-4] ran", seed=7)[0].text


def test_results_do_not_depend_on_order_or_batch(model, tmp_path):
    fill(model, LINES, tmp_path / "a.jsonl")
    fill(model, LINES[::-1], tmp_path / "b.jsonl")
    fill(model, LINES, tmp_path / "c.jsonl", batch=1)
    a, b, c = (sorted(map(content, records(tmp_path / f"{name}.jsonl"))) for name in "abc")
    assert a == b == c


def test_an_interrupted_batch_goes_on_where_it_was(model, tmp_path):
    fill(model, LINES, tmp_path / "whole.jsonl")
    out = tmp_path / "r.jsonl"
    read = list(job_lines([line.encode() for line in LINES], "jobs.jsonl", model.length))
    running = fill_jobs(model, read, Sampling(batch=1), False, out, True, watch=False)
    for _ in running:
        if out.exists() and len(records(out)) == 4:
            break
    running.close()
    assert len(records(out)) == 4
    with out.open("a", encoding="utf-8") as file:
        file.write('{"index": 0, "text": "cut sho')  # killed while writing
    events, _ = fill(model, LINES[::-1], out)  # and the file of jobs was sorted meanwhile
    assert sum(isinstance(e, Filled) for e in events) == 4
    assert sorted(map(content, records(out))) == sorted(map(content, records(tmp_path / "whole.jsonl")))
    events, again = fill(model, LINES, out)
    assert [type(e).__name__ for e in events] == ["Note"]
    assert again.from_before == 8
    assert sorted(map(content, again.samples)) == sorted(map(content, records(out)))


def test_results_of_other_options_are_not_mixed(model, tmp_path):
    out = tmp_path / "r.jsonl"
    fill(model, LINES[:1], out)
    fill(model, LINES[:1], out, batch=3)  # changes no result
    before = out.read_bytes()
    for options, word in (
        ({"steps": 2}, "steps not set, now 2"),
        ({"temperature": 0.5}, "temperature not set, now 0.5"),
    ):
        with pytest.raises(RequestError, match=f"other options.*{word}.*--fresh begins it anew, or name another file"):
            fill(model, LINES[:1], out, **options)
    with pytest.raises(RequestError, match="all False, now True"):
        fill(model, LINES[:1], out, every=True)
    assert out.read_bytes() == before
    fill(model, LINES[:1], out, resume=False, steps=2)
    (record,) = records(out)
    assert (record["sampler"], record["steps"]) == ("tweedie", 2)
    assert record["job"]["options"] == {"steps": 2, "all": False}


def test_draws_of_another_version_are_not_mixed(model, tmp_path, monkeypatch):
    out = tmp_path / "r.jsonl"
    fill(model, LINES[:1], out)
    old = records(out)
    for record in old:
        del record["job"]["samples_version"]  # as the first version stored them
    out.write_text("".join(json.dumps(record) + "\n" for record in old), encoding="utf-8")
    _, again = fill(model, LINES[:1], out)
    assert again.from_before == again.fillings > 0
    monkeypatch.setattr(jobs, "SAMPLES_VERSION", 2)
    with pytest.raises(RequestError, match="another version of the samplers"):
        fill(model, LINES[:1], out)


def test_results_of_another_model_are_not_mixed(model, tmp_path):
    out = tmp_path / "r.jsonl"
    fill(model, LINES, out)
    named = records(out)[0]["job"]["model"]
    assert named["fingerprint"] == model.fingerprint
    assert (named["source"], named["step"]) == (model.source, 12)
    before = out.read_bytes()
    other = dataclasses.replace(model)
    other.__dict__["fingerprint"] = "f" * 64
    with pytest.raises(RequestError, match=f"another model .{model.fingerprint[:12]}, step 12.*--fresh"):
        fill(other, LINES, out)
    assert out.read_bytes() == before
    fill(other, LINES, out, resume=False)
    assert {r["job"]["model"]["fingerprint"] for r in records(out)} == {"f" * 64}
    # the same model in another place is the same model
    moved = dataclasses.replace(other, source="elsewhere")
    moved.__dict__["fingerprint"] = "f" * 64
    assert fill(moved, LINES, out)[1].from_before == 8


def test_results_come_in_the_order_of_the_lines(model, tmp_path):
    """Batches go by length, so that late lines finish early."""
    lines = [f'{{"template": "the [MASK:{12 - i}] sat", "id": {i}, "n": 2}}' for i in range(11)]
    events, result = fill(model, lines, tmp_path / "r.jsonl")
    order = [(i, k) for i in range(11) for k in range(2)]
    assert [(e.job["id"], e.index) for e in events if isinstance(e, Filled)] == order
    assert [(r["job"]["id"], r["index"]) for r in records(tmp_path / "r.jsonl")] == order
    assert [(r["job"]["id"], r["index"]) for r in result.samples] == order
    # with the lines in another order, the same results are taken up and put into it
    again = [lines[5], *lines[:5], *lines[6:], '{"template": "a [MASK:2]", "id": 11}']
    events, result = fill(model, again, tmp_path / "r.jsonl")
    assert result.from_before == 22
    stored = records(tmp_path / "r.jsonl")
    assert [r["job"]["id"] for r in stored] == [i for i in (5, 0, 1, 2, 3, 4, *range(6, 11)) for _ in range(2)] + [11]
    assert [r["job"]["line"] for r in stored] == sorted(r["job"]["line"] for r in stored)
    made = [r.pop("made_by") for r in stored]
    assert [one.get("made_by", made[-1]) for one in result.samples] == made  # the new one says it in the document
    assert stored == json.loads(json.dumps([{k: v for k, v in r.items() if k != "made_by"} for r in result.samples]))
    # what the input no longer holds stays, comes last, and is named
    events, _ = fill(model, again[3:], tmp_path / "r.jsonl")
    assert "6 fillings of jobs that the input does not hold" in next(e.text for e in events if isinstance(e, Warn))
    assert [r["job"]["id"] for r in records(tmp_path / "r.jsonl")][-6:] == [5, 5, 0, 0, 1, 1]


def test_candidates_stay_together_in_the_order_of_the_lines(model, tmp_path):
    lines = ['{"template": "a [MASK:2-4] ran", "id": 0}', '{"template": "[MASK:1] sat", "candidates": 2, "id": 1}']
    events, _ = fill(model, lines, tmp_path / "r.jsonl", every=True)
    found = [(e.job["id"], e.candidate) for e in events if isinstance(e, Filled)]
    assert found == [(0, i) for i in range(8)] + [(1, 0), (1, 1)]


def test_other_keys_are_passed_to_the_results(model, tmp_path):
    out = tmp_path / "r.jsonl"
    extra = {"label": "x", "text": "mine", "line": 7, "nested": {"a": [1, None]}}
    (line,) = ({"template": "the [MASK:3] sat", "id": "q"} | extra for _ in range(1))
    fill(model, [json.dumps(line)], out)
    (record,) = records(out)
    assert record["job"]["extra"] == extra
    assert (record["job"]["id"], record["job"]["line"]) == ("q", 1)
    # they change no result: it is taken up with those of today
    _, result = fill(model, [json.dumps(line | {"label": "y"})], out)
    assert result.from_before == 1
    (again,) = records(out)
    assert again["job"]["extra"]["label"] == "y"
    assert content(again) == content(record)


def test_a_key_that_looks_misspelt_is_said_once(model, tmp_path):
    lines = [f'{{"template": "the [MASK:3] {i}", "sede": 1, "source": "a"}}' for i in range(3)]
    events, result = fill(model, lines, tmp_path / "r.jsonl")
    (warning,) = [e.text for e in events if isinstance(e, Warn)]
    assert warning.startswith("lines 1-3: found 'sede', did you mean 'seed'?")
    assert result.fillings == 3


def test_every_misspelt_key_is_named_and_in_the_result(model):
    events, result = fill(model, ['{"template": "the [MASK:3]", "candidate": 4, "seeed": 3, "Id": 1}'])
    (warning,) = [e.text for e in events if isinstance(e, Warn)]
    assert all(f"found {a!r}, did you mean {b!r}?" in warning for a, b in
               (("candidate", "candidates"), ("seeed", "seed"), ("Id", "id")))  # fmt: skip
    assert result.to_dict()["warnings"] == [warning]


def test_ids_stand_at_the_top_and_former_results_of_an_id_are_marked(model, tmp_path):
    out = tmp_path / "r.jsonl"
    fill(model, ['{"template": "the [MASK:3]", "id": "a", "n": 2}', '{"template": "so [MASK:3]", "id": "b"}'], out)
    assert [(r["id"], r["index"]) for r in records(out)] == [("a", 0), ("a", 1), ("b", 0)]
    edited = '{"template": "a dog [MASK:3]", "id": "a", "n": 2}'
    events, _ = fill(model, [edited], out)
    former, other = [e.text for e in events if isinstance(e, Warn)]
    assert "2 fillings of former lines of a: " in former
    assert "--fresh" in former
    assert "1 fillings of jobs that the input does not hold" in other
    found = records(out)
    assert [r["text"][:5] for r in found if r["id"] == "a" and "former" not in r["job"]] == ["a dog"] * 2
    assert [r["id"] for r in found if "former" in r["job"]] == ["a", "a"]
    again, _ = fill(model, [edited], out)
    assert former in [e.text for e in again if isinstance(e, Warn)]
    # the line as it was: its result is today's again
    fill(model, ['{"template": "the [MASK:3]", "id": "a", "n": 2}'], out)
    assert [r["text"][:3] for r in records(out) if r["id"] == "a" and "former" not in r["job"]] == ["the"] * 2


def test_fewer_fillings_than_are_stored_are_still_those_of_the_line(model, tmp_path):
    out, line = tmp_path / "r.jsonl", '{"template": "the [MASK:3] sat", "id": "one", "n": 3}'
    fill(model, [line], out)
    events, _ = fill(model, [line.replace("3}", "1}")], out)
    assert not [e for e in events if isinstance(e, Warn)]
    assert [(r["index"], "former" in r["job"]) for r in records(out)] == [(0, False), (1, False), (2, False)]


def test_results_are_read_where_they_lie_after_an_incomplete_set_was_taken_out(model, tmp_path):
    out, line = tmp_path / "r.jsonl", '{"template": "the [MASK:3] sat", "candidates": 2, "n": 3}'
    fill(model, [line], out, every=True)
    whole = records(out)
    out.write_text("".join(json.dumps(r) + "\n" for r in whole[1:]))  # killed between two candidates
    there = StoredFillings(out, every=True)
    there.tidy()
    job = whole[0]["job"]
    assert not there.take(job["key"], 0, job, keep=True)
    assert there.take(job["key"], 2, job, keep=True)
    assert [(r["index"], r["candidate"]) for r in there.kept] == [(2, 0), (2, 1)]


def test_an_id_on_two_lines_is_said_once(model):
    lines = [
        '{"template": "the [MASK:3]", "id": "a"}',
        '{"template": "so [MASK:3]"}',
        '{"template": "a [MASK:3]", "id": "a"}',
    ] * 2
    events, result = fill(model, lines)
    said = [e.text for e in events if isinstance(e, Warn)]
    assert said == ["several lines have the same id, and so will their results: a (lines 1, 3-4, 6)"]
    assert result.fillings == 6


def test_a_line_may_be_a_template(model, tmp_path):
    lines = ["the [MASK:3] sat", "", '{"template": "a [MASK:2] ran", "id": "j"}', "\\[MASK\\] no gap", "a[MASK:2]8"]
    _, result = fill(model, lines, tmp_path / "r.jsonl")
    assert [one.line for one in result.refused] == [4]
    found = records(tmp_path / "r.jsonl")
    assert [(r["job"]["line"], r["job"]["id"]) for r in found] == [(1, None), (3, "j"), (5, None)]
    assert found[0]["text"] == model.infill("the [MASK:3] sat")[0].text
    assert found[2]["template"] == "a[MASK:2]8"
    # in a file that begins with JSON, debris of a line is no template
    _, result = fill(model, [LINES[0], '"template": "the [MASK:3] sat"}'], tmp_path / "s.jsonl")
    assert [one.reason.split(":")[0] for one in result.refused] == ["is not JSON"]
    read = list(job_lines(["\ufeffthe [MASK:1] sat\r\n".encode()], "jobs.txt", model.length))
    assert str(read[0].job.template) == "the [MASK:1] sat"


def test_short_gaps_cost_an_evaluation_a_token(model, tmp_path):
    """Where nothing is said about steps: jobs of a few tokens do not pay the recipe's steps."""
    sampler = SamplerPart.from_data({"name": "tweedie", "steps": 256}, "sampler")
    slow = dataclasses.replace(model, recipe=dataclasses.replace(model.recipe, sampler=sampler))
    slow.__dict__["fingerprint"] = model.fingerprint
    fill(slow, [f"the[MASK:{3 + i % 6}]sat" for i in range(50)], tmp_path / "r.jsonl")
    assert [r["nfe"] for r in records(tmp_path / "r.jsonl")] == [3 + i % 6 for i in range(50)]


def test_the_share_of_the_work_is_honest(model):
    """A bar that counts finished fillings would stand at 0 while the first batch is drawn."""
    read = list(
        job_lines([b"the [MASK:2] sat"] * 4 + [b"the [MASK:12] sat"] * 2 + [b"[MASK:2-9]a"], "jobs", model.length)
    )
    events, _ = completed(fill_jobs(model, read, Sampling(), False, None, True, watch=False))
    bar = [e for e in events if isinstance(e, Progress)]
    assert {e.total for e in bar} == {7}
    shares = [e.share for e in bar]
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1
    assert len([share for share in shares if share < 1]) > 10
    assert sum(b < a for a, b in itertools.pairwise(shares)) <= 16  # it falls at a repeated draw alone


def test_candidates_are_kept_all_or_none(model, tmp_path):
    out = tmp_path / "r.jsonl"
    fill(model, LINES[1:2], out, every=True)
    whole = records(out)
    assert [r["candidate"] for r in whole] == list(range(8))
    out.write_text("".join(json.dumps(r) + "\n" for r in whole[:5]))
    fill(model, LINES[1:2], out, every=True)
    assert list(map(content, records(out))) == list(map(content, whole))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("nonsense", "is not JSON"),
        ('{"template": "no gap"}', "no gap to fill"),
        ('{"template": "[MASK:99]"}', "longer than the model's 24"),
        ('{"tempalte": "[MASK:2]"}', "did you mean 'template'?"),
        ('{"template": 3}', "expected text"),
        ('{"template": "[MASK]", "n": 0}', "n must be at least 1"),
        ('{"template": "[MASK]", "seed": -1}', "seed must lie"),
        ('{"template": "[MASK]", "prefix": "a"}', "either a template"),
        ("{}", "either a template"),
        ("[1]", "no JSON object but a list"),
        (r'{"template": "\ud800 [MASK]"}', "is no character"),
        ('{"template": "[MASK:%s]"}' % ("9" * 5000), "is no gap"),
        ('{"template": "Ω [MASK]"}', "'Ω'"),
        ('{"prefix": "the cat", "length": 7}', "nothing is left"),
    ],
)
def test_a_line_that_cannot_be_done_is_named_and_the_others_are_done(model, tmp_path, line, word):
    events, result = fill(model, [LINES[0], line, "", LINES[4]], tmp_path / "r.jsonl")
    (warning,) = [e.text for e in events if isinstance(e, Warn)]
    assert warning.startswith("line 2: ")
    assert word in warning
    assert warning.count("line 2") == 1
    assert sorted(r["job"]["line"] for r in records(tmp_path / "r.jsonl")) == [1, 4]
    (refused,) = result.refused
    assert refused.line == 2


def test_bytes_that_are_no_text_are_a_line_like_any_other(model):
    read = list(job_lines([LINES[0].encode(), b'{"template": "\xff [MASK]"}'], "jobs.jsonl", model.length))
    assert "is not UTF-8" in read[1].refusal


def test_no_jobs_and_what_no_line_could_mend_are_refused(model, tmp_path):
    with pytest.raises(RequestError, match="holds no jobs"):
        list(job_lines([b"", b"  "], "jobs.jsonl", 24))
    with pytest.raises(RequestError, match="unknown sampler"):
        fill(model, LINES, tmp_path / "r.jsonl", sampler="plms")
    assert not (tmp_path / "r.jsonl").exists()


def test_a_link_stays_a_link(model, tmp_path):
    (tmp_path / "there").mkdir()
    out, target = tmp_path / "r.jsonl", tmp_path / "there" / "real.jsonl"
    target.touch()
    out.symlink_to(target)
    fill(model, LINES[:1], out)
    fill(model, LINES[:2], out)
    assert out.is_symlink()
    assert len(records(target)) == 2


def test_a_file_of_something_else_is_left_alone(model, tmp_path):
    out = tmp_path / "notes.jsonl"
    out.write_text('{"mine": 1}\n')
    with pytest.raises(RequestError, match="holds something else"):
        fill(model, LINES, out)
    assert out.read_text() == '{"mine": 1}\n'


def test_two_at_once_are_refused(model, tmp_path):
    out = tmp_path / "r.jsonl"
    read = list(job_lines([LINES[0].encode()], "jobs.jsonl", model.length))
    running = fill_jobs(model, read, Sampling(), False, out, True, watch=True)
    next(running)
    with pytest.raises(RequestError, match="another process writes"):
        fill(model, LINES, out)
    running.close()
    fill(model, LINES, out)


def test_a_full_disk_is_said_and_what_is_finished_stays(model, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file, self.lines = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.lines += 1
            if self.lines > 2:
                raise OSError(28, "No space left on device")
            self.file.write(text)

        def flush(self):
            self.file.flush()

        def close(self):
            self.file.close()
            raise OSError(28, "No space left on device")

    out = tmp_path / "r.jsonl"
    real = type(out).open
    monkeypatch.setattr(
        type(out),
        "open",
        lambda path, mode="r", **k: Full(real(path, mode, **k)) if mode == "a" else real(path, mode, **k),
    )
    with pytest.raises(WorkError, match="No space left on device; what is finished is in it"):
        fill(model, LINES, out)
    monkeypatch.undo()
    assert len(records(out)) == 2
    fill(model, LINES, out)
    assert len(records(out)) == 8


def keyed(model, read, every=False, **options):
    plans = [(line, plan_job(model, line.job, Sampling(**options))) for line in read]
    return planned.keyed(model, plans, every)


def test_equal_lines_are_told_apart(model):
    read = list(job_lines([LINES[0].encode()] * 3, "jobs.jsonl", model.length))
    keys = [key for _, _, key in keyed(model, read)]
    assert len(set(keys)) == 3


def test_whatever_changes_a_result_is_in_its_key(model):
    asked = [{}, {"seed": 3}, {"length": 20}, {"candidates": 2}, {"id": 5}]
    lines = [json.dumps({"template": "the [MASK] sat", **more}).encode() for more in asked]
    read = list(job_lines([*lines, b'{"template": "the [MASK] sat on"}'], "jobs.jsonl", model.length))
    keys = [key for every in (False, True) for _, _, key in keyed(model, read, every)]
    assert len({key for key in keys if "-" not in key}) == 12


def test_the_model_its_tokenizer_and_its_recipe_are_in_the_key(model):
    """Equal weights with another vocabulary, precision or usual sampler give other results."""
    read = list(job_lines([LINES[0].encode()], "jobs.jsonl", model.length))

    def key(model, **options):
        return next(iter(keyed(model, read, **({"sampler": "tweedie"} | options))))[2]

    def other(**changes):
        made = dataclasses.replace(model, **changes)
        made.__dict__["fingerprint"] = model.fingerprint
        return made

    letters = CharTokenizer("char", model.tokenizer.alphabet + "~")
    part = SamplerPart.from_data({"name": "tweedie", "steps": 9}, "sampler")
    weights = other()
    weights.__dict__["fingerprint"] = "of other weights"
    changed = [other(tokenizer=letters), other(recipe=dataclasses.replace(model.recipe, sampler=part)), weights]
    assert len({key(model), *map(key, changed)}) == 4
    assert key(model, steps=4) == key(model)  # the recipe's own
    assert key(model, batch=3) == key(model)
    low = other(net=copy.deepcopy(model.net))
    low.net.autocast = torch.bfloat16
    assert key(low) != key(model)


def test_a_foreign_last_line_is_not_taken_for_a_result_that_was_cut_short(model, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("my notes, without a newline")
    with pytest.raises(RequestError, match="line 1 is no result of --input"):
        fill(model, LINES[:1], out)
    assert out.read_text() == "my notes, without a newline"


def test_a_value_that_is_nested_deeper_than_results_hold_is_refused_with_its_line_alone(model, tmp_path):
    deep = [f'{{"template": "a [MASK:2]", "id": {"[" * n + "]" * n}}}' for n in (64, 65, 300, 490, 2000)]
    _, result = fill(
        model, [*deep, '{"template": "a [MASK:2]", "mine": ' + "[" * 400 + "]" * 400 + "}"], tmp_path / "r"
    )
    assert [one.line for one in result.refused] == [2, 3, 4, 5, 6]
    assert len(records(tmp_path / "r")) == 1


@pytest.mark.parametrize("change", [{"candidate": None}, {"candidate": "0"}, {"index": 1.0}, {"candidates": None}])
def test_a_record_without_its_numbers_is_none_of_ours(model, tmp_path, change):
    out = tmp_path / "r.jsonl"
    fill(model, LINES[:1], out)
    (record,) = records(out)
    kept = {key: value for key, value in (record | change).items() if value is not None or key not in change}
    out.write_text(json.dumps(kept) + "\n")
    with pytest.raises(RequestError, match="line 1 is no result of --input"):
        fill(model, LINES[:1], out)


def test_a_text_that_the_tokenizer_cannot_encode_is_refused_with_its_line_alone(model, tmp_path, monkeypatch):
    def plan(model, job, sampling):
        if job.seed == 7:
            raise WorkError("the tokenizer cannot encode a text: Missing [UNK] token")
        return plan_job(model, job, sampling)

    monkeypatch.setattr(planned, "plan_job", plan)
    _, result = fill(model, LINES[:2], tmp_path / "r")
    assert [(one.line, "Missing [UNK]" in one.reason) for one in result.refused] == [(2, True)]
    assert len(records(tmp_path / "r")) == 1
