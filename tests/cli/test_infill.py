"""`sedd infill` and `sedd sample` as they are typed: ways to ask, what is shown, pages, the prompt loop."""

from __future__ import annotations

import builtins
import bz2
import gzip
import io
import json
import lzma
import re
import subprocess
import threading
import time
from html.parser import HTMLParser

import pytest
from rich.console import Console
from support.forked import Forked
from support.jobs import returned

from sedd_cli import load_model
from sedd_cli.cli.interactive import prompt_loop
from sedd_cli.cli.view.denoising.pieces import Pieces
from sedd_cli.cli.view.denoising.recorder import Recorder
from sedd_cli.cli.view.denoising.watch import UNRESOLVED, Watcher
from sedd_cli.cli.view.view import View
from sedd_cli.data.tokenizers import load_tokenizer
from sedd_cli.inference.batch.jobs import fill_jobs
from sedd_cli.inference.batch.lines import job_lines
from sedd_cli.inference.generate import GenerateOptions, generate
from sedd_cli.inference.infill import infill
from sedd_cli.inference.plan import Job
from sedd_cli.inference.sampling import Sampling
from sedd_cli.inference.template import parse_template
from sedd_cli.system.events import Frame, Progress, Seen, observe


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


def document(done):
    assert done.code == 0, done.err
    return json.loads(done.out)


# ------------------------------------------------------------------------------------------------ ways to ask


def test_a_template_is_filled_and_levers_are_named(sedd, tiny_run):
    words = ["infill", "--model", tiny_run, "-t", "the [MASK:3] sat", "--seed", 2]
    (plain,) = document(sedd(*words, "--json"))["samples"]
    assert re.fullmatch(r"the .{3} sat", plain["text"], re.DOTALL)
    # a short gap is filled by first-hitting, whose distribution is that of the normalised model
    assert (plain["sampler"], plain["levers"]) == ("first_hitting", {"normalized": True})
    assert document(sedd(*words, "--sampler", "tweedie", "--json"))["samples"][0]["levers"] == {}
    assert sedd(*words, "--quiet").out == plain["text"] + "\n"
    changed = [
        *words,
        "--temperature",
        "0.5",
        "--top-p",
        "0.9",
        "--remask",
        "0.1",
        "--grid",
        "cosine",
        "--correctors",
        1,
    ]
    (one,) = document(sedd(*changed, "--normalized", "--json"))["samples"]
    assert one["levers"] == {
        "temperature": 0.5, "top_p": 0.9, "eta": 0.1, "grid": "cosine", "correctors": 1, "normalized": True,
    }  # fmt: skip
    shown = sedd(*changed).out
    assert all(
        word in shown for word in ("remdm", "temperature 0.5", "top-p 0.9", "grid cosine", "correctors 1", "eta 0.1")
    )
    assert "draws float32-gumbel" in sedd(*words, "--legacy-float32-gumbel").out


def test_all_candidates_are_shown_best_first(sedd, tiny_run):
    words = ["infill", "--model", tiny_run, "-t", "the [MASK:2-4] sat", "--candidates", 3]
    found = document(sedd(*words, "--all", "--json"))["samples"]
    assert [s["candidate"] for s in found] == [0, 1, 2]
    # of different lengths, those come first that fit the given text best
    assert [s["length_nats"] for s in found] == sorted(s["length_nats"] for s in found)
    assert sorted(s["lengths"] for s in found) == [[2], [3], [4]]
    (best,) = document(sedd(*words, "--json"))["samples"]
    # candidates of the other lengths were not drawn
    assert best == {**found[0], "seconds": best["seconds"], "drawn": 1, "nfe": best["nfe"]}
    assert 0 < best["nfe"] < found[0]["nfe"]
    assert "best of 3" in sedd(*words).out
    assert "candidate 3 of 3" in sedd(*words, "--all").out


def test_jobs_come_from_a_file_or_standard_input(sedd, tiny_run, tmp_path, monkeypatch):
    lines = '{"template": "the [MASK:3] sat", "n": 2}\nnonsense\n{"prefix": "a dog", "length": 12}\n'
    (tmp_path / "jobs.jsonl").write_text(lines)
    words = ["infill", "--model", tiny_run, "--out", tmp_path / "r.jsonl", "--input"]
    done = sedd(*words, tmp_path / "jobs.jsonl")
    assert done.code == 2
    assert f"1 of 3 lines of {tmp_path / 'jobs.jsonl'} were refused (the others are done): 2" in done.err
    assert "line 2: is not JSON" in done.err
    kept = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert sorted((r["job"]["line"], r["index"]) for r in kept) == [(1, 0), (1, 1), (3, 0)]
    assert re.findall(r"--- (line \d(?:, infill \d)?) ", done.out) == ["line 1", "line 1, infill 1", "line 3"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.replace("nonsense\n", "").encode())))
    again = sedd(*words, "-", "--json")
    assert json.loads(again.out)["from_before"] == 3
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3


def test_several_templates_are_filled_one_after_another(sedd, tiny_run, tmp_path):
    templates = ["the [MASK:14] sat", "a [MASK:2] ran"]
    files = {option: tmp_path / f"f.{option}" for option in ("html", "svg", "gif")}
    to = [word for option, file in files.items() for word in (f"--{option}", file)]
    words = ["infill", "--model", tiny_run, *templates, "-n", 2, "--out", tmp_path / "r.jsonl"]
    done = sedd(*words, *to)
    assert done.code == 0, done.err
    titles = re.findall(r"--- (template \d(?:, infill \d)?) ", done.out)
    assert titles == ["template 1", "template 1, infill 1", "template 2", "template 2, infill 1"]
    kept = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [one["template"] for one in kept] == [name for name in templates for _ in range(2)]
    alone = document(sedd("infill", "--model", tiny_run, templates[1], "-n", 2, "--json"))["samples"]
    assert [one["text"] for one in kept[2:]] == [one["text"] for one in alone]
    assert document(sedd(*words, "--json"))["samples"][2]["template"] == templates[1]
    assert "template 2, infill 1" in files["html"].read_text()
    assert all(file.stat().st_size for file in files.values())
    assert sedd("infill", "--model", tiny_run, templates[1], "no gap [MASK:99]").code == 2


def test_quiet_results_stand_behind_the_id_of_their_line(sedd, tiny_run, tmp_path):
    lines = [
        '{"template": "the [MASK:2]", "id": "q 1"}',
        '{"template": "a [MASK:2]", "id": 7}',
        '{"template": "so [MASK:2]"}',
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines))
    shown = sedd("infill", "--model", tiny_run, "--input", tmp_path / "jobs.jsonl", "-q").out
    assert re.fullmatch(r"q 1\tthe ..\n7\ta ..\nso ..\n", shown, re.DOTALL)


def test_prompts_come_from_options_files_and_standard_input(sedd, tiny_run, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("a dog\r\n\nthe list\n")
    words = ["sample", "--model", tiny_run, "--length", 14, "--json"]
    found = document(sedd(*words, "--prompt", "the cat", "--prompts", tmp_path / "p.txt", "-n", 2))["samples"]
    assert [s["text"][: s["given"][0][1]] for s in found] == ["the cat"] * 2 + ["a dog"] * 2 + ["the list"] * 2
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a dog\n")))
    (one,) = document(sedd(*words, "--prompts", "-"))["samples"]
    assert one["text"] == found[2]["text"]


def test_long_samples_are_drawn_in_blocks(sedd, tiny_run):
    words = ["sample", "--model", tiny_run, "--length", 60, "--block", 20, "--stride", 8]
    (one,) = document(sedd(*words, "--json"))["samples"]
    assert len(one["tokens"]) == 60
    assert "60 tokens in blocks of 20, each of which sees 12 before it and adds 8" in sedd(*words).err


@pytest.mark.parametrize(
    "words", [["infill", "-t", "a [MASK:3]", "--length", 9], ["sample", "--block", 999], ["sample", "--temperature", 0]]
)
def test_a_refused_request_leaves_what_stood_in_the_file(sedd, tiny_run, tmp_path, words):
    out = tmp_path / "mine.jsonl"
    out.write_text("precious\n")
    assert sedd(*words, "--model", tiny_run, "--out", out).code == 2
    assert out.read_text() == "precious\n"


def test_two_processes_do_not_share_a_file(sedd, tiny_run, tmp_path):
    from sedd_cli.inference.resumable import writing

    with writing(tmp_path / "s.jsonl"):
        done = sedd("sample", "--model", tiny_run, "--out", tmp_path / "s.jsonl")
    assert (done.code, "another process writes" in done.err) == (2, True)
    assert sedd("sample", "--model", tiny_run, "--out", tmp_path / "s.jsonl").code == 0
    assert "replacing the file" in sedd("sample", "--model", tiny_run, "--out", tmp_path / "s.jsonl").err


def test_quiet_refusals_say_why(sedd, tiny_run, tmp_path):
    (tmp_path / "jobs.jsonl").write_text("{nonsense\n")
    done = sedd("infill", "--model", tiny_run, "--input", tmp_path / "jobs.jsonl", "--quiet")
    assert done.code == 2
    assert f"1 of 1 lines of {tmp_path / 'jobs.jsonl'} were refused: 1; line 1: is not JSON" in done.err


def test_results_are_written_as_they_come(tiny_run, model, tmp_path):
    from sedd_cli.inference.resumable import stored

    out = tmp_path / "s.jsonl"
    running = stored(generate(model, GenerateOptions(n=3, sampling=Sampling(batch=1))), out)
    seen = 0
    for event in running:
        if type(event).__name__ == "Sampled":
            seen += 1
            assert len(out.read_text().splitlines()) == seen
    (record, *_) = (json.loads(line) for line in out.read_text().splitlines())
    assert {"text", "tokens", "seed", "nfe", "seconds", "sampler", "steps", "draws", "levers"} <= record.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name one of TEMPLATE, --template"),
        (["a [MASK]", "--template", "[MASK]"], "found TEMPLATE and --template"),
        (["a", "[MASK]"], '2 words are given: put the template in quotes, as in "To be [MASK:2]"'),
        (["no gap"], "no gap to fill"),
        (["{jobs}"], "is a file: --input"),
        (["[MASK]", "--fresh"], "--no-resume/--fresh has no effect with TEMPLATE"),
        (["[MASK]", "--watch", "--quiet"], "--quiet the results alone"),
        (["[MASK]", "--svg", "a b"], "--svg writes a file that ends in .svg, found a b"),
        (["[MASK]", "--svg", "x.gif"], "--svg writes a file that ends in .svg, found x.gif; --gif writes .gif"),
        (["[MASK]", "--gif", "x.png"], "--gif writes a file that ends in .gif, found x.png"),
        (["[MASK]", "--html", "x.svg"], "--html writes a file that ends in .html, found x.svg; --svg writes .svg"),
        (["[MASK]", "--gif", "/no/such/folder/f.gif"], "does not exist"),
        (["--interactive", "--gif", "x.gif"], "--gif has no effect with --interactive"),
        (["--template", "[MASK]", "--prefix", "a"], "found --template and --prefix"),
        (["--template", "no gap"], "no gap to fill"),
        (["--template", "a [MASK:3"], "unbalanced '['"),
        (["--template", "[MASK:0]"], "one token or more"),
        (["--template", "[MASK:99]"], "longer than the model's 24"),
        (["--template", "Ω [MASK]"], "'Ω'"),
        (["--template", "[MASK:3]", "--length", "9"], "no gap of the template is open"),
        (["--template", "[MASK]", "--no-resume"], "--no-resume/--fresh has no effect with --template"),
        (["--template", "[MASK]", "--all", "--candidates", "1"], "leaves nothing to show"),
        (["[MASK:3]", "the [MASK]", "--all"], "without a range of lengths there is one: give --candidates"),
        (["--prefix", "the", "--all"], "without a range of lengths there is one: give --candidates"),
        (["--input", "{jobs}", "--fresh"], "--no-resume/--fresh has no effect with --input without --out"),
        (["--input", "{jobs}", "--resume"], "--resume has no effect with --input without --out"),
        (["--interactive", "--watch"], "--watch has no effect with --interactive"),
        (["--template", "[MASK]", "--out", "/no/such/folder/f"], "does not exist"),
        (["--template", "[MASK]", "--html", "/no/such/folder/f"], "does not exist"),
        (["--input", "/no/such/file"], "cannot read /no/such/file"),
        (["--input", "{jobs}", "--out", "{jobs}"], "--input and --out are the same file"),
        (["--template", "[MASK]", "--out", "x.jsonl", "--html", "./x.jsonl"], "--out and --html are the same file"),
        (["--template", "caf\udce9 [MASK]"], "is it UTF-8"),
        (["--input", "{jobs}", "--length", "9"], "--length has no effect with --input"),
        (["--interactive", "--out", "r.jsonl"], "--out has no effect with --interactive"),
    ],
)
def test_a_wrong_request_gets_one_clear_line(sedd, tiny_run, tmp_path, words, message):
    (tmp_path / "jobs.jsonl").write_text('{"template": "[MASK]"}\n')
    done = sedd("infill", "--model", tiny_run, *(w.format(jobs=tmp_path / "jobs.jsonl") for w in words))
    assert done.code == 2
    assert message in done.err
    assert sum(line.startswith("error:") for line in done.err.splitlines()) == 1


@pytest.mark.parametrize("packed", [gzip, bz2, lzma])
def test_prompts_come_from_compressed_files(sedd, tiny_run, tmp_path, packed):
    ending = {gzip: ".gz", bz2: ".bz2", lzma: ".xz"}[packed]
    (tmp_path / f"p.txt{ending}").write_bytes(packed.compress(b"the cat\n\na dog\n"))
    words = ["sample", "--model", tiny_run, "--length", 14, "--json", "--prompts", tmp_path / f"p.txt{ending}"]
    assert [one["prompt"] for one in document(sedd(*words))["samples"]] == ["the cat", "a dog"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt.gz", gzip.compress(b"the cat\n" * 99, mtime=0)[:-9], "p.txt.gz cannot be read, it is damaged"),
        ("p.txt.gz", b"the cat\n", "p.txt.gz cannot be read, it is damaged"),
        (
            "p.txt.gz",
            gzip.compress(b"the cat\n\xff\n", mtime=0),
            "p.txt.gz is not UTF-8: byte 0 of line 2 does not decode",
        ),
        ("p.txt.zst", b"\x28\xb5\x2f\xfd the cat\n", "p.txt.zst holds zstandard data, no text: unpack it"),
        ("p.txt", gzip.compress(b"the cat\n", mtime=0), "p.txt holds gzip data, no text: unpack it"),
    ],
)
def test_a_compressed_file_of_prompts_that_cannot_be_read_is_named(sedd, tiny_run, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    done = sedd("sample", "--model", tiny_run, "--prompts", tmp_path / name)
    errors = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.code == (1 if "damaged" in message else 2)
    assert (len(errors), message in done.err) == (1, True), done.err


@pytest.mark.parametrize("line", [b"a \xff [MASK]", b'{"template": "a \xff [MASK]"}'])
def test_a_line_of_jobs_that_is_no_utf8_is_named_with_its_file(sedd, tiny_run, tmp_path, line):
    first = b'{"template": "the [MASK]"}' if line.startswith(b"{") else b"the [MASK]"
    (tmp_path / "jobs.txt").write_bytes(first + b"\n" + line + b"\n")
    done = sedd("infill", "--model", tiny_run, "--input", tmp_path / "jobs.txt", "--quiet")
    (error,) = [one for one in done.err.splitlines() if one.startswith("error:")]
    assert done.code == 2
    assert f"1 of 2 lines of {tmp_path / 'jobs.txt'} were refused (the others are done): 2; line 2: " in error
    assert "is not UTF-8" in error
    assert "does not decode" in error
    assert done.out.startswith("the ")


@pytest.mark.parametrize(
    ("content", "message"), [(b"\n \n", "holds no prompt"), (b"\xff\n", "is not UTF-8"), (None, "cannot read")]
)
def test_prompts_that_cannot_be_read_are_refused(sedd, tiny_run, tmp_path, content, message):
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    done = sedd("sample", "--model", tiny_run, "--prompts", tmp_path / "p.txt")
    assert (done.code, message in done.err) == (2, True), done.err


# ------------------------------------------------------------------------------------------------ as it happens


def terminal(width: int = 80, height: int = 24) -> tuple[View, io.StringIO]:
    """A view on a terminal of that size, and what is drawn on it."""
    view, drawn = View(), io.StringIO()
    view.console = view.aside = Console(file=drawn, force_terminal=True, width=width, height=height, highlight=False)
    return view, drawn


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 60)])
def test_a_watched_text_fits_the_terminal(model, width, height):
    view, _ = terminal(width, height)
    watcher, heights = Watcher(view, model), []
    real = watcher._frame
    for event in generate(model, GenerateOptions(6, 100, block=24, stride=12), watch=True):
        if isinstance(event, Frame):
            watcher._note(event)
            lines = view.console.render_lines(real(event))
            heights.append(len(lines))
            assert all(sum(segment.cell_length for segment in line) <= width for line in lines)
    assert heights
    assert max(heights) <= height - 2


def test_what_is_watched_is_given_unresolved_or_new(model):
    view, _ = terminal()
    watcher = Watcher(view, model)
    a, b, c = model.tokenizer.encode("abc"[:1] + "cd")
    mask = model.graph.mask
    for step, x in enumerate([[a, mask, mask], [a, b, mask], [a, b, c]], 1):
        frame = Frame(step, 3, float(step), [Seen(0, 0, (a, None, None), x, step)], 3)
        watcher._note(frame)
        text, _ = watcher._text(0, frame.sequences[0], frame.seconds)
        styles = [str(text.spans[i].style) for i in range(len(text.spans))]
        assert styles[0] == "cyan"
        assert text.plain.count(UNRESOLVED) == x.count(mask)
        assert styles.count("bold black on green") == (0 if step == 1 else 1)
    watcher._frame(frame)
    assert watcher._metrics(frame) == {"evaluations": "3", "tokens": "2 of 2", "tokens/s": "1"}


def test_watching_draws_frames_in_a_terminal_and_changes_nothing(model):
    job = Job(parse_template("the [MASK:9] sat"), n=2)
    plain = returned(infill(model, [job], Sampling())).samples
    view, drawn = terminal()
    watched = view.run(Watcher(view, model).watch(infill(model, [job], Sampling(), watch=True))).samples
    assert [one.tokens for one in watched] == [one.tokens for one in plain]
    assert UNRESOLVED in drawn.getvalue()
    assert "infills" not in drawn.getvalue()


def test_there_is_one_bar_while_texts_are_watched_and_it_counts_the_steps_that_were_asked_for(model):
    five = Sampling(steps=5)
    jobs = (
        generate(model, GenerateOptions(3, 18, sampling=five), watch=True),
        infill(model, [Job(parse_template("the [MASK:9] sat"), n=3)], five, watch=True),
    )
    for job in jobs:
        view, _ = terminal()
        events = [event for event in Watcher(view, model).watch(job) if isinstance(event, Progress)]
        assert {event.task for event in events} == {"denoising"}
        assert [(event.done, event.total) for event in events] == [(k, 5) for k in (1, 2, 3, 4, 5, 5)]
        assert all(event.metrics.keys() >= {"evaluations", "tokens", "tokens/s"} for event in events[:4])


def test_steps_are_those_that_were_asked_for(model):
    """What removes the noise that is left after the last of them is no step of its own."""
    recorder = Recorder(model)
    for steps in (1, 4):
        seen: list[str] = []
        for event in generate(model, GenerateOptions(1, 18, sampling=Sampling(steps=steps)), watch=True):
            recorder.see(event)
            if isinstance(event, Progress) and "step" in event.metrics:
                seen.append(event.metrics["step"])
        assert seen == [f"{k} of {steps}" for k in (*range(1, steps + 1), steps)]
    assert [len(strand.evaluations) for strand in recorder.replay("t").strands] == [1, 4]


def test_each_watched_text_has_its_title(model):
    """Of several prompts or templates one sees which is which, and how many there is no room for."""
    view, _ = terminal(80, 24)
    watcher, titles = Watcher(view, model), set()

    def see(event):
        if isinstance(event, Frame):
            watcher._note(event)
            lines = ["".join(s.text for s in line).strip() for line in view.console.render_lines(watcher._frame(event))]
            titles.update(line.strip("─ ") for line in lines if line.startswith("──"))

    returned(observe(generate(model, GenerateOptions(1, 18, ("the cat", "a dog ran over")), watch=True), see))
    assert titles == {"sample 0 of 'the cat'", "sample 0 of 'a dog ran over'"}
    titles.clear()
    job = Job(parse_template("the [MASK:3] sat"), candidates=2)
    returned(observe(infill(model, [job], Sampling(), watch=True), see))
    assert titles == {"infill 0, candidate 1", "infill 0, candidate 2"}
    titles.clear()
    read = list(job_lines([b"the [MASK:3] ran", b'{"template": "the [MASK:3] sat", "id": "q7", "n": 2}'], "f", 24))
    returned(observe(fill_jobs(model, read, Sampling(), False, None, True, watch=True), see))
    assert titles == {"line 1", "q7", "q7, infill 1"}
    frame = Frame(1, 1, 1.0, [Seen(i, 0, (None,) * 3, [1, 2, 3], 1, f"q{i}") for i in range(50)], 1)
    watcher._note(frame)
    watcher._frame(frame)
    assert watcher._metrics(frame)["texts shown"].endswith(" of 50")


def test_watching_without_a_terminal_is_nothing(sedd, tiny_run):
    words = ["infill", "--model", tiny_run, "-t", "the [MASK:3] sat"]
    watched, plain = sedd(*words, "--watch"), sedd(*words)
    assert re.sub(r"\d\.\d s", "", watched.out) == re.sub(r"\d\.\d s", "", plain.out)
    assert "--watch shows the texts in a terminal, which this output is not" in watched.err


def test_pieces_are_the_text_even_where_tokens_share_a_character(model):
    tokenizer = load_tokenizer("byte")
    made = type("M", (), {"tokenizer": tokenizer, "graph": type("G", (), {"vocab_size": 257})})
    row = tokenizer.encode("aü🙂b")
    assert "".join(Pieces(made)(row)) == "aü🙂b"
    assert Pieces(made)(row)[:4] == ["a", "ü", "", "🙂"]
    row[2] = 257  # half of a character is still missing
    assert Pieces(made)(row)[:4] == ["a", "\ufffd", None, "🙂"]


# --------------------------------------------------------------------------------------------------- as a page


def replayed(recorder, sample) -> str:
    """The text that the page's own record leads to, and that every given position was there from the start."""
    strand = recorder._strand(sample)
    row = list(strand.start)
    for step, i, piece in strand.changes:
        assert i not in strand.given
        assert 1 <= step <= len(strand.evaluations)
        row[i] = piece
    assert len(strand.seconds) == len(strand.evaluations)
    assert strand.evaluations == sorted(strand.evaluations)
    assert strand.evaluations[-1] == sample.nfe
    return "".join(row)


def test_a_page_replays_what_was_drawn(model):
    recorder = Recorder(model)
    job = Job(parse_template("the [MASK:9] sat"), n=3)
    for event in observe(infill(model, [job], Sampling(steps=9, remask=0.3), watch=True), recorder.see):
        if hasattr(event, "tokens"):
            assert replayed(recorder, event) == event.text
    replay = recorder.replay("sedd infill")
    assert len(replay.strands) == 3
    assert replay.facts["sampler"] == "remdm"
    assert replay.facts["eta"] == "0.3"


def test_a_page_replays_blocks_one_behind_the_other(model):
    recorder = Recorder(model)
    options = GenerateOptions(2, 50, block=20, stride=8, prompts=("the cat",))
    for event in observe(generate(model, options, watch=True), recorder.see):
        if hasattr(event, "tokens"):
            assert replayed(recorder, event) == event.text


def test_a_page_tells_sequences_of_one_text_apart(model):
    """Fillings of equal text and different ways: each strand is the way of its own number."""
    recorder = Recorder(model)
    job = Job(parse_template("the [MASK:1] sat"), n=40)
    done = returned(observe(infill(model, [job], Sampling(), watch=True), recorder.see)).samples
    assert len({one.text for one in done}) < 40
    for event, strand in recorder._found:
        assert strand.evaluations[-1] == event.nfe
        assert strand.label == f"infill {event.index}"


def test_a_page_says_how_many_it_left_out(model):
    recorder = Recorder(model)
    job = Job(parse_template("[MASK:2]"), n=60)
    returned(observe(infill(model, [job], Sampling(steps=1), watch=True), recorder.see))
    replay = recorder.replay("sedd infill")
    assert len(replay.strands) == 50
    assert replay.facts["shown"] == "the first 50 of 60"


def test_pieces_of_a_tokenizer_that_drops_spaces_read_as_its_text(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", "."]))
    tokenizer = load_tokenizer(str(tmp_path / "vocab.txt"))
    made = type("M", (), {"tokenizer": tokenizer, "graph": type("G", (), {"vocab_size": 8})})
    row = tokenizer.encode("the cats sat.")
    assert "".join(Pieces(made)(row)) == tokenizer.decode(row) == "the cats sat."
    row[1] = 8
    assert Pieces(made)(row)[1] is None


def test_the_command_writes_a_page(sedd, tiny_run, tmp_path):
    done = sedd("infill", "--model", tiny_run, "-t", "the [MASK:3] sat", "--html", tmp_path / "p.html", "--json")
    (sample,) = document(done)["samples"]

    class Texts(HTMLParser):
        found = ""

        def handle_data(self, data):
            self.found += data

    page = Texts()
    page.feed((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert sample["text"] in page.found
    assert str(tiny_run) in page.found


# --------------------------------------------------------------------------------------------- the prompt loop


def loop(model, monkeypatch, *lines) -> str:
    """What the loop prints when it is given these lines."""
    given = iter(lines)

    def ask(prompt=""):
        try:
            return next(given)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(builtins, "input", ask)
    view, drawn = terminal()
    prompt_loop(view, model, Job(parse_template("[MASK]")), Sampling(), every=False)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue())


def test_the_loop_in_a_pipe_does_not_watch(model, monkeypatch, capsys):
    given = iter(["the [MASK:3] sat"])
    monkeypatch.setattr(builtins, "input", lambda prompt="": next(given, ":q"))
    view, drawn = View(), io.StringIO()
    view.console = view.aside = Console(file=drawn, width=100)
    prompt_loop(view, model, Job(parse_template("[MASK]")), Sampling(), every=False)
    assert "sat" in capsys.readouterr().out
    assert "--watch" not in drawn.getvalue()


def test_the_loop_fills_sets_and_survives_mistakes(model, monkeypatch):
    lines = ["the [MASK:3] sat", ":temperature 0.5", "the [MASK:3] sat", "no gap", ":bogus 1", ":n x", ":steps 0", ""]
    seen = loop(model, monkeypatch, *lines, "a [MASK:2]", ":temperature", ":show")
    for seed, temperature in ((0, None), (1, 0.5)):
        (one,) = model.infill("the [MASK:3] sat", seed=seed, temperature=temperature)
        assert one.text in seen
    assert "temperature 0.5" in seen
    assert "no gap to fill" in seen
    assert "cannot set 'bogus'" in seen
    assert "expected a whole number, found 'x'" in seen
    assert "steps must be at least 1" in seen
    assert seen.rstrip().splitlines()[-1].startswith("seed")
    assert "temperature" not in seen.rstrip().splitlines()[-1]


def test_a_value_of_the_loop_is_the_rest_of_its_line(model, monkeypatch):
    seen = loop(model, monkeypatch, ":sampler {name: confidence, order: entropy} ", ":steps 64 128", ":steps 16 ")
    assert "sampler {name: confidence, order: entropy}" in seen
    assert "expected a whole number, found '64 128'" in " ".join(seen.split())
    assert "steps 64," not in seen
    assert "steps 16" in seen


def test_a_seed_that_was_set_is_the_next_one_and_then_they_count_on(model, monkeypatch):
    line = "the [MASK:3] sat"
    seen = loop(model, monkeypatch, line, ":seed 7", line, "", ":seed 18446744073709551615", "", "")
    texts = [model.infill(line, seed=seed)[0].text for seed in (0, 7, 8, 2**64 - 1, 0)]
    places = [seen.find(texts[0])]
    for text in texts[1:]:
        places.append(seen.find(text, places[-1] + 1))
    assert -1 not in places


def test_the_loop_keeps_no_setting_that_the_sampler_refuses(model, monkeypatch):
    seen = loop(model, monkeypatch, ":grid log", ":temperature 0", ":show", ":help")
    assert "linear, cosine, even" in seen
    assert "temperature must be positive" in seen
    assert "seed 0, n 1\n" in seen


def test_ctrl_c_drops_the_line_and_not_the_loop(model, monkeypatch):
    given = iter([KeyboardInterrupt, "the [MASK:3] sat", EOFError])

    def ask(prompt=""):
        one = next(given)
        if isinstance(one, str):
            return one
        raise one

    monkeypatch.setattr(builtins, "input", ask)
    view, drawn = terminal()
    prompt_loop(view, model, Job(parse_template("[MASK]")), Sampling(), every=False)
    assert "infill 0" in drawn.getvalue()


def test_the_loop_ends_when_asked(model, monkeypatch):
    assert "infill" not in loop(model, monkeypatch, ":quit", "the [MASK:3]")


def test_a_live_input_is_answered_line_by_line(tiny_run, tmp_path, sedd):
    """Whoever waits for an answer before writing the next line gets it, and the results are those of a file."""
    lines = [f'{{"template": "the [MASK:3] {i}", "n": 2, "seed": {i}}}' for i in range(4)]
    words = ["infill", "--model", str(tiny_run), "--input"]
    job = Forked(*words, "-", "--out", tmp_path / "live.jsonl", "-q", stdin=subprocess.PIPE, text=True)
    assert job.stdin is not None
    assert job.stdout is not None
    assert job.stderr is not None
    watchdog = threading.Timer(60, job.kill)
    watchdog.start()
    for line in lines[:2]:
        job.stdin.write(line + "\n")
        assert [job.stdout.readline().startswith("the ") for _ in range(2)] == [True, True]
    job.stdin.write("{\n")
    job.stdin.write(lines[2] + "\n")
    assert [job.stdout.readline().startswith("the ") for _ in range(2)] == [True, True]
    job.stdin.write(lines[3])
    out, _ = job.communicate()
    watchdog.cancel()
    assert (job.returncode, out.count("\n")) == (2, 2)
    (tmp_path / "jobs.jsonl").write_text("\n".join([*lines[:2], "{", *lines[2:]]))
    assert sedd(*words, tmp_path / "jobs.jsonl", "--out", tmp_path / "file.jsonl", "-q").code == 2

    def results(name):
        found = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        return sorted((f["job"]["line"], f["index"], f["text"], f["job"]["key"]) for f in found)

    assert results("live.jsonl") == results("file.jsonl")


def test_a_batch_is_killed_goes_on_and_is_not_mixed_with_another(tiny_run, tmp_path, sedd):
    """The way of someone with fifty templates: kill -9 in the middle, the same command, another option, --fresh."""
    jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": f"q{i}", "template": f"the [MASK:{8 - i % 6}] {i}", "label": i % 3} for i in range(50)]
    jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["infill", "--model", str(tiny_run), "--input", str(jobs), "--out", str(out)]
    job = Forked(*words, "--batch", "1", stdout=None, stderr=None)
    ended = time.monotonic() + 120
    while time.monotonic() < ended and not (out.exists() and out.read_bytes().count(b"\n") >= 5):
        time.sleep(0.005)
    job.kill()
    job.wait()
    kept = out.read_bytes().count(b"\n")
    assert 5 <= kept < 50
    done = sedd(*words)
    assert done.code == 0, done.err
    assert f"{kept} of 50 fillings are stored already" in done.err
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["job"]["id"], r["job"]["extra"]) for r in found] == [(f"q{i}", {"label": i % 3}) for i in range(50)]
    assert {(r["job"]["model"]["step"], r["job"]["options"]["seed"]) for r in found} == {(12, 0)}
    before = out.read_bytes()
    for more in (["--seed", 1], ["--temperature", 0.5], ["--all", "--candidates", 2]):
        refused = sedd(*words, *more)
        assert (refused.code, out.read_bytes()) == (2, before)
        assert "--fresh" in refused.err
    assert sedd(*words, "--seed", 1, "--fresh").code == 0
    assert {json.loads(line)["seed"] for line in out.read_text().splitlines()} == {1}


def test_before_the_first_result_of_a_fresh_batch_nothing_is_said_to_be_kept(tmp_path):
    from sedd_cli.cli.commands.infill import _kept
    from sedd_cli.system.files import last_written

    out = tmp_path / "f.jsonl"
    out.write_text("{}\n")
    assert (
        _kept(out, False, last_written(out))
        == f"interrupted: nothing was written to {out} yet, the same command begins anew"
    )
    assert "are kept" in _kept(out, False, 0)
    assert "are kept" in _kept(out, False, None)


def test_a_page_of_nothing_is_not_written(tiny_run, tmp_path, sedd):
    (tmp_path / "jobs").write_text('{"template": "a [MASK:2]"}\n')
    words = ["infill", "--model", tiny_run, "--input", tmp_path / "jobs", "--out", tmp_path / "f.jsonl"]
    page = tmp_path / "page.html"
    assert sedd(*words).code == 0
    again = sedd(*words, "--html", page)
    assert (again.code, page.exists()) == (0, False)
    assert f"nothing was drawn: {page} is not written" in again.err
    assert sedd(*words, "--fresh", "--html", page).code == 0
    assert page.exists()


def test_quiet_fillings_come_in_the_order_of_their_numbers(tiny_run, sedd):
    words = ["infill", "--model", tiny_run, "-t", "the [MASK:2-6] sat", "-n", 12]
    texts = [sample["text"] for sample in document(sedd(*words, "--json"))["samples"]]
    assert sedd(*words, "--quiet").out == "\n".join(texts) + "\n"
