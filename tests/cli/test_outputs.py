"""Every command that writes: what it reads, and what belongs to others, is refused before the work."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import shutil
import stat
import threading

import pytest
import yaml
from support.causal_models import save_tiny_causal
from support.outside import PARTS, nothing_imported

from sedd_cli.checkpoints.run_directory import RunDir
from sedd_cli.data.manifest import read_manifest
from sedd_cli.data.prepared import find_prepared
from sedd_cli.recipe import load_recipe


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a text, samples, prompts and jobs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the cat sat on the mat\n" * 40)
    (tmp_path / "wt").mkdir()
    (tmp_path / "wt" / "wiki.test.raw").write_text("a dog ran over the hill\n" * 40)
    (tmp_path / "samples.jsonl").write_text('{"text": "the cat sat"}\n')
    (tmp_path / "prompts.txt").write_text("the\n")
    (tmp_path / "jobs.jsonl").write_text('{"template": "the [MASK:2]"}\n')
    return tmp_path


#: Words of a command that would replace what it reads → the file.
REPLACES = {
    "eval --dataset text.txt --out text.txt": "text.txt",
    "eval --dataset wikitext2 --from wt --out wt/wiki.test.raw": "wt/wiki.test.raw",
    "eval --dataset wikitext2 --from wikitext2=wt/wiki.test.raw --out wt/wiki.test.raw": "wt/wiki.test.raw",
    "judge samples.jsonl --judge JUDGE --out samples.jsonl": "samples.jsonl",
    "judge samples.jsonl --judge JUDGE --out JUDGE/config.json": "JUDGE/config.json",
    "judge samples.jsonl --judge JUDGE --reference text.txt --out text.txt": "text.txt",
    "cloze -n 3 --dataset text.txt --out text.txt": "text.txt",
    "eval --dataset text.txt --out RUN/recipe.yaml": "RUN/recipe.yaml",
    "sample --out RUN/latest": "RUN/latest",
    "sample --html RUN/metrics.jsonl": "RUN/metrics.jsonl",
    "sample --prompts prompts.txt --out prompts.txt": "prompts.txt",
    "infill --input jobs.jsonl --out jobs.jsonl": "jobs.jsonl",
    "infill --template [MASK] --html RUN/recipe.yaml": "RUN/recipe.yaml",
}


@pytest.mark.parametrize("words", REPLACES)
def test_no_output_replaces_what_the_command_reads(words, here, tiny_run, sedd):
    def named(word: str) -> str:
        return word.replace("RUN", str(tiny_run)).replace("JUDGE", str(here / "judge"))

    if "JUDGE" in words:
        save_tiny_causal(here / "judge")
    file = here / named(REPLACES[words])
    before = file.read_bytes()
    model = [] if words.startswith("judge") else ["--model", tiny_run]
    ended = sedd(*map(named, words.split()), *model)
    assert (ended.code, ended.err.count("\n"), ended.err.count("error:")) == (2, 1, 1)
    assert "same file" in ended.err or "would replace a file" in ended.err
    assert file.read_bytes() == before


def test_what_a_benchmarks_recipe_names_is_read(here, workplace, sedd):
    before = (here / "text.txt").read_bytes()
    recipe = ("--recipe", workplace / "tiny.yaml", "data.corpus=text.txt")
    ended = sedd("bench", "speedrun", *recipe, "--run-dir", here / "run", "--out", "text.txt")
    assert (ended.code, "data.corpus and --out are the same file" in ended.err) == (2, True)
    (here / "text.json").write_bytes(before)
    recipe = ("--recipe", workplace / "tiny.yaml", "--larger", workplace / "tiny.yaml", "data.corpus=text.json")
    assert sedd("bench", "report", *recipe, "--only", "machine", "--out", "text.json").code == 2
    assert (here / "text.txt").read_bytes() == (here / "text.json").read_bytes() == before


def test_a_module_of_parts_is_read_too(here, tiny_run, sedd):
    (here / "parts.py").write_text(PARTS)
    with nothing_imported():
        ended = sedd("sample", "--model", tiny_run, "--import", "parts.py", "--out", "parts.py")
    assert (ended.code, "--import and --out are the same file" in ended.err) == (2, True)
    assert (here / "parts.py").read_text() == PARTS


#: Parameters of commands that name no file to read, or name one to write.
NOT_READ = {
    "block_length", "budget", "chat", "config", "detokenizer", "device", "documents", "encoding", "eos",
    "estimator", "field", "folder", "format", "gif", "given", "graph", "grid", "hold_out", "html", "last_step",
    "mask_token", "mode", "name", "noise", "only", "order", "out", "plot", "precision", "prefix", "prompt",
    "protocol", "push", "quota", "revision", "run", "run_dir", "runs", "sampler", "split", "steps", "suffix", "svg",
    "temperature", "template", "to", "topic", "words",
}  # fmt: skip


def test_every_parameter_is_known_as_read_or_not():
    import typer

    from sedd_cli.cli.app import app
    from sedd_cli.cli.checked import Checked
    from sedd_cli.cli.inputs import READ

    def commands(of):
        below = getattr(of, "commands", {})
        return [of] if not below else [found for name in below for found in commands(of.get_command(None, name))]

    found = commands(typer.main.get_command(app))
    assert len(found) > 20
    assert all(isinstance(command, Checked) for command in found)
    named = {p.name for command in found for p in command.params if p.metavar not in ("INT", "FLOAT")}
    flags = {p.name for command in found for p in command.params if getattr(p, "is_flag", False)}
    assert named - flags - READ - NOT_READ == set()
    assert {p.name for command in found for p in command.params} >= READ


def test_the_runs_own_corpus_is_read_too(here, tiny_run, workplace, sedd):
    before = (workplace / "corpus.txt").read_bytes()
    for words in (["eval"], ["cloze", "-n", "2"]):
        ended = sedd(*words, "--model", tiny_run, "--out", workplace / "corpus.txt")
        assert ended.code == 2
        assert "the model's own corpus and --out are the same file" in ended.err
    assert (workplace / "corpus.txt").read_bytes() == before


@pytest.mark.parametrize("words", [["eval", "--max-nfe", "4", "--no-baselines"], ["cloze", "-n", "2"]])
def test_a_result_goes_through_a_pipe_as_one_document(words, here, tiny_run, sedd):
    os.mkfifo(here / "pipe")
    found = []
    reader = threading.Thread(target=lambda: found.append((here / "pipe").read_text()))
    reader.start()
    ended = sedd(*words, "--model", tiny_run, "--out", here / "pipe")
    reader.join(10)
    assert ended.code == 0
    assert isinstance(json.loads(found[0]), dict)
    assert stat.S_ISFIFO((here / "pipe").stat().st_mode)


def test_a_page_follows_a_link(here, tiny_run, sedd):
    (here / "page.html").symlink_to("target.html")
    assert sedd("sample", "--model", tiny_run, "--html", here / "page.html").code == 0
    assert (here / "page.html").is_symlink()
    assert "<html" in (here / "target.html").read_text()


def test_a_run_is_not_made_among_foreign_files(here, workplace, sedd):
    folder = here / "exp"
    (folder / "checkpoints" / "step-2").mkdir(parents=True)
    mine = {
        "recipe.yaml": "# my notes\n" + (workplace / "tiny.yaml").read_text(),
        "checkpoints/step-2/model.pt": "weights", "metrics.jsonl": '{"loss": 1}\n', "ema.safetensors": "mine",
    }  # fmt: skip
    for name, text in mine.items():
        (folder / name).write_text(text)
    ended = sedd("train", folder / "recipe.yaml", "--run-dir", folder, "--no-report", "-q")
    assert ended.code == 2
    assert "exp holds files and is not a run (checkpoints, ema.safetensors, metrics.jsonl, …)" in ended.err
    assert {name: (folder / name).read_text() for name in mine} == mine
    assert sorted(p.name for p in folder.iterdir()) == sorted({name.split("/")[0] for name in mine})


def test_a_run_goes_on_from_the_recipe_in_its_own_folder(here, workplace, sedd):
    folder = here / "run"
    words = ("--run-dir", folder, "--no-report", "-q", "--device", "cpu")
    assert sedd("train", workplace / "tiny.yaml", "train.steps=6", *words).code == 0
    (folder / "notes.txt").write_text("mine")
    assert sedd("train", folder / "recipe.yaml", *words).code == 0
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "checkpoints" / "step-99").mkdir()
    ended = sedd("train", folder / "recipe.yaml", *words)
    assert ended.code == 2
    assert "step-99 is not a checkpoint of sedd" in ended.err


def test_a_run_that_was_killed_before_its_first_checkpoint_is_begun_again(here, workplace, sedd):
    RunDir(here / "run").create()
    (here / "run" / "metrics.jsonl").write_text('{"kind": "train", "step": 1}\n')
    assert sedd("train", workplace / "tiny.yaml", "--run-dir", here / "run", "--no-report", "-q").code == 0


def test_foreign_lines_of_metrics_stay_and_later_steps_go(here, workplace):
    run = RunDir(here / "run")
    run.create()
    lines = [
        '{"kind": "train", "step": 2}', '{"loss": 1}', "no JSON at all", '{"step": 9, "theirs": true}',
        '{"kind": "train", "step": 4}', '{"kind": "validation", "step": 4}', '{"kind": "tra',
    ]  # fmt: skip
    (run.path / "metrics.jsonl").write_text("\n".join(lines))
    run.begin(load_recipe(workplace / "tiny.yaml"), 2)
    assert (run.path / "metrics.jsonl").read_text().splitlines() == lines[:4]


def test_a_sweep_is_not_made_among_foreign_files(here, tiny_run, sedd):
    judge = save_tiny_causal(here / "judge")
    (here / "figures").mkdir()
    (here / "figures" / "sweep.json").write_text("mine")
    words = ("sweep", "--steps", "2", "--judge", judge, "--model", tiny_run, "-n", 1, "--out", here / "figures")
    ended = sedd(*words)
    assert ended.code == 2
    assert "figures holds files and is not a folder of a sweep (sweep.json)" in ended.err
    (here / "figures" / "settings.json").write_text('{"theme": "dark"}')
    assert sedd(*words, "--no-resume").code == 2
    assert (here / "figures" / "sweep.json").read_text() == "mine"


def test_an_exact_sweep_is_not_made_among_foreign_files(here, sedd):
    (here / "mine").mkdir()
    (here / "mine" / "exact.json").write_text('{"my": "thesis"}')
    ended = sedd("sweep", "--exact", "--letters", 2, "--length", 2, "--steps", 2, "--out", here / "mine")
    assert (ended.code, "mine holds files and is not a folder of such a sweep" in ended.err) == (2, True)
    assert (here / "mine" / "exact.json").read_text() == '{"my": "thesis"}'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--steps 100000000", "steps must lie between 1 and 1,048,576, found 100,000,000"),
        ("--graph absorbing,absorbing", "the graph 'absorbing' is named twice"),
        ("--sampler euler,euler", "the sampler 'euler' is named twice"),
        ("--plot x.pdf", "--plot writes a PNG: a name that ends in .png is needed, found x.pdf"),
    ],
)
def test_a_wrong_exact_sweep_is_refused(words, said, here, sedd):
    ended = sedd("sweep", "--exact", "--letters", 2, "--length", 2, *words.split())
    assert (ended.code, ended.err) == (2, f"error: {said}\n")
    assert not (here / "x.pdf").exists()


def test_a_result_is_written_though_its_figure_cannot_be(here, tiny_run, sedd, monkeypatch):
    full = OSError(28, "No space left on device")

    def fails(*_):
        raise full

    monkeypatch.setattr("sedd_cli.system.plotting.write_whole", fails)
    monkeypatch.setattr("sedd_cli.cli.view.denoising.gif.write_whole", fails)
    exact = ("sweep", "--exact", "--letters", 2, "--length", 2, "--steps", 2, "--sampler", "tweedie")
    for words, key in (
        ((*exact, "--plot", here / "a.png"), "points"),
        (("compare", tiny_run, _copy(tiny_run, here / "other"), "--out", here / "b.png"), "verdicts"),
        (("infill", "--model", tiny_run, "-t", "the [MASK:2]", "--steps", 2, "--gif", here / "a.gif"), "samples"),
    ):
        ended = sedd(*words, "--json")
        found = json.loads(ended.out)
        assert (ended.code, found["exit"], "No space left" in found["error"]) == (1, 1, True)
        assert found[key] is not None


def test_a_likelihood_is_shown_though_it_cannot_be_written(here, tiny_run, sedd, monkeypatch):
    def fails(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("sedd_cli.system.files.write_whole", fails)  # of --out and of the cache
    monkeypatch.setattr("sedd_cli.checkpoints.run_directory.write_whole", fails)
    few = ("--max-nfe", 4, "--blocks", 2, "--no-baselines", "--precision", "fp32", "--out", here / "e.json")
    ended = sedd("eval", "--model", tiny_run, *few, "--json")
    found = json.loads(ended.out)
    assert (ended.code, found["error"]) == (1, f"cannot write {here / 'e.json'}: No space left on device")
    assert set(found["bounds"]) == {"rigorous", "sedd-paper"}
    assert "rigorous" in ended.err
    assert not (here / "e.json").exists()


def _copy(run, to):
    shutil.copytree(run, to)
    return to


def test_no_run_and_no_export_gets_a_name_under_which_it_cannot_be_opened(here, tiny_run, workplace, sedd):
    odd = os.fsdecode(b"odd\xff")
    for words in (("train", workplace / "tiny.yaml", "--run-dir", odd), ("export", tiny_run, "--to", odd)):
        ended = sedd(*words)
        assert (ended.code, "is no UTF-8" in ended.err, (here / odd).exists()) == (2, True, False)
    shutil.copytree(tiny_run, here / odd)
    ended = sedd("sample", "--model", odd)
    assert (ended.code, ended.err.count("\n"), "is no UTF-8" in ended.err) == (2, 1, True)


def test_a_table_does_not_replace_its_runs(here, sedd):
    folder = here / "runs" / "mini" / "table2" / "autoregressive" / "seed-0"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("mine")
    ended = sedd("table", "2", "--mini", "--runs", here / "runs", "--out", folder / "recipe.yaml")
    assert ended.code == 2
    assert "would replace a file" in ended.err
    assert (folder / "recipe.yaml").read_text() == "mine"


def test_a_foreign_manifest_does_not_make_a_folder_a_run(here, workplace, sedd):
    folder = here / "exp"
    for number in (2, 9):
        (folder / "checkpoints" / f"step-{number}").mkdir(parents=True)
        (folder / "checkpoints" / f"step-{number}" / "model.pt").write_text("weights")
        (folder / "checkpoints" / f"step-{number}" / "manifest.json").write_text("{}")
    ended = sedd("train", workplace / "tiny.yaml", "--run-dir", folder, "--no-report", "-q")
    assert ended.code == 2
    assert len(list(folder.rglob("model.pt"))) == 2


def test_the_recipe_that_a_run_was_started_from_keeps_its_comments(here, workplace, sedd):
    words = ("--run-dir", here / "run", "--no-report", "-q", "--device", "cpu")
    assert sedd("train", workplace / "tiny.yaml", "train.steps=6", *words).code == 0
    stored = here / "run" / "recipe.yaml"
    mine = here / "mine.yaml"
    mine.write_text("# my notes\n" + stored.read_text())
    stored.unlink()
    stored.symlink_to(mine)
    assert sedd("train", mine, *words).code == 0
    assert mine.read_text().startswith("# my notes")
    assert sedd("train", mine, "train.log_every=3", *words).code == 0  # another recipe is stored, in the link's place
    assert mine.read_text().startswith("# my notes")
    assert not stored.is_symlink()


def test_a_model_named_by_a_file_is_its_folder(here, tiny_run, sedd):
    assert sedd("export", tiny_run, "--to", here / "ex", "-q").code == 0
    before = (here / "ex" / "model.safetensors").read_bytes()
    ended = sedd("sample", "--model", here / "ex" / "config.json", "--out", here / "ex" / "model.safetensors")
    assert ended.code == 2
    assert (here / "ex" / "model.safetensors").read_bytes() == before


def test_the_tokenizer_of_the_runs_recipe_is_read(here, tiny_run, workplace, sedd):
    (here / "mine").mkdir()
    (here / "mine" / "tokenizer.json").write_bytes((tiny_run / "checkpoints/step-12/tokenizer.json").read_bytes())
    words = ("--run-dir", here / "run", "--no-report", "-q")
    assert sedd("train", workplace / "tiny.yaml", f"data.tokenizer={here / 'mine'}", *words).code == 0
    before = (here / "mine" / "tokenizer.json").read_bytes()
    ended = sedd("eval", "--model", here / "run", "--dataset", "text.txt", "--out", here / "mine" / "tokenizer.json")
    assert ended.code == 2
    assert "the model's tokenizer" in ended.err
    assert (here / "mine" / "tokenizer.json").read_bytes() == before


def test_the_plot_of_a_run_follows_no_link_into_it(here, tiny_run, sedd):
    import shutil

    shutil.copytree(tiny_run, here / "run")
    (here / "run" / "curve.png").symlink_to("metrics.jsonl")
    before = (here / "run" / "metrics.jsonl").read_bytes()
    ended = sedd("status", here / "run", "--plot", "-q")
    assert ended.code == 2
    assert (here / "run" / "metrics.jsonl").read_bytes() == before
    (here / "run" / "curve.png").unlink()
    (here / "run" / "curve.png").symlink_to(here / "text.txt")  # nobody has typed this name
    text = (here / "text.txt").read_bytes()
    assert "is no PNG and is not replaced" in sedd("status", here / "run", "--plot", "-q").err
    assert (here / "text.txt").read_bytes() == text
    (here / "copy").mkdir()
    for name in ("recipe.yaml", "metrics.jsonl"):
        (here / "copy" / name).write_bytes((tiny_run / name).read_bytes())
    (here / "copy" / "curve.png").write_text("mine")
    assert sedd("status", here / "copy", "--plot", "-q").code == 2
    assert (here / "copy" / "curve.png").read_text() == "mine"


@pytest.mark.parametrize("to", ["run/checkpoints/step-9", "loop", "text.txt/x", "wt"])
def test_an_export_is_not_made_where_it_would_do_harm(to, here, tiny_run, sedd):
    import shutil

    shutil.copytree(tiny_run, here / "run")
    (here / "loop").symlink_to("loop")
    ended = sedd("export", here / "run", "--to", to, "-q")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert not (here / "run" / "checkpoints" / "step-9").exists()


def test_a_folder_of_text_that_looks_like_a_run_is_read_whole(here, tiny_run, sedd):
    (here / "D" / "checkpoints").mkdir(parents=True)
    (here / "D" / "latest").touch()
    (here / "D" / "z.txt").write_text("the cat\n" * 50)
    ended = sedd("eval", "--model", tiny_run, "--dataset", "D", "--split", "train", "--out", "D/z.txt")
    assert ended.code == 2
    assert (here / "D" / "z.txt").read_text() == "the cat\n" * 50


def test_jobs_resume_where_their_results_lie_in_the_data_home(here, tiny_run, sedd, monkeypatch):
    monkeypatch.setenv("SEDD_HOME", str(here))
    words = ("infill", "--model", tiny_run, "--input", "jobs.jsonl", "--out", "filled.jsonl", "-q")
    assert sedd(*words).code == 0
    assert sedd(*words).code == 0
    assert len((here / "filled.jsonl").read_text().splitlines()) == 1


def test_a_comparison_goes_through_a_pipe_and_needs_the_name_of_a_file(here, tiny_run, sedd):
    other = shutil.copytree(tiny_run, here / "other")
    os.mkfifo(here / "pipe")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append((here / "pipe").read_bytes()))
    reader.start()
    assert sedd("compare", tiny_run, other, "--html", here / "pipe").code == 0
    reader.join(60)
    assert received[0].startswith(b"<!doctype html>")
    assert stat.S_ISFIFO((here / "pipe").stat().st_mode)
    for words in (("compare", tiny_run, other, "--out"), ("bench", "speedrun", "--out")):
        ended = sedd(*words, f"{here}/name.png/")
        assert (ended.code, "names a folder, a file is needed" in " ".join(ended.err.replace("│", " ").split())) == (
            2,
            True,
        )


@pytest.mark.parametrize("key", ["init_from", "graph.embedding"])
def test_the_model_and_the_embedding_of_a_recipe_are_read_too(key, here, workplace, sedd):
    named = {"init_from": "text.txt"}
    if key == "graph.embedding":
        named = {"graph": {"name": "nearest_neighbour", "embedding": "text.txt"}}
    recipe = yaml.safe_load((workplace / "tiny.yaml").read_text()) | named
    (here / "own.yaml").write_text(yaml.safe_dump(recipe))
    ended = sedd("bench", "speedrun", "--recipe", "own.yaml", "--run-dir", here / "run", "--out", "text.txt")
    assert (ended.code, f"{key} and --out are the same file" in ended.err) == (2, True)


def test_a_corpus_whose_name_no_file_can_have_ends_no_evaluation(here, tiny_run, sedd):
    run = shutil.copytree(tiny_run, here / "run")
    prepared = find_prepared(load_recipe(tiny_run / "recipe.yaml").data.prepared())
    text = shutil.copytree(prepared, here / "corpus")
    dataclasses.replace(read_manifest(text), corpus="a\0b").sealed().write(text)
    ended = sedd(
        "eval", "--model", run, "--dataset", text, "--blocks", "1", "--max-nfe", "4", "--no-baselines", "--json"
    )
    assert (ended.code, "the run keeps no copy of the result" in ended.err) == (0, True)
    assert json.loads(ended.out)["corpus"] == "a\0b"


def test_a_bound_is_printed_as_it_is_written_with_its_date(sedd, tiny_run, tmp_path, monkeypatch):
    run = shutil.copytree(tiny_run, tmp_path / "run")  # the result is stored in it
    dates = itertools.count()
    monkeypatch.setattr("sedd_cli.system.software.made_by", lambda: {"date": next(dates)})
    few = ("--max-nfe", "4", "--blocks", "2", "--no-baselines")
    done = sedd("eval", "--model", run, *few, "--out", tmp_path / "found.json", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((tmp_path / "found.json").read_text())
