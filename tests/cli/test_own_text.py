"""From a text of one's own to a model, as a user walks: prepare, the command it shows, train, the commands it shows."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from sedd_cli.api.work import evaluate
from sedd_cli.checkpoints.load import open_model
from sedd_cli.checkpoints.own_text import text_of
from sedd_cli.data.corpora import Corpus
from sedd_cli.recipe import load_recipe
from sedd_cli.training.runs.stored import stored_bounds
from sedd_cli.training.status import status

WHO = ["the fox", "a girl", "the miller", "a king", "the river", "my mother", "the crow"]
DID = ["walked to the village", "found a key", "sang until the morning", "opened the door", "asked for bread"]
TINY = (
    "model.n_blocks=1", "model.hidden_size=16", "model.n_heads=2", "model.cond_dim=8", "train.steps=4",
    "train.warmup=1", "train.batch=4", "sampler.steps=4", "report.rel_error=0.5", "report.samples=1", "report.every=2",
    "report.blocks=2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path) -> Path:
    """A folder with stories.jsonl, whose text is under `story`, and a data home of its own."""
    chance = random.Random(0)
    with (tmp_path / "stories.jsonl").open("w") as file:
        for number in range(300):
            text = " ".join(f"{chance.choice(WHO)} {chance.choice(DID)}." for _ in range(8))
            file.write(json.dumps({"id": number, "story": text}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))
    return tmp_path


def shown_commands(text: str) -> list[list[str]]:
    """The commands that an output shows for pasting, without `sedd`."""
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("  sedd ")]


@pytest.mark.parametrize("words", [3, 60])
def test_the_command_that_prepare_shows_trains_on_a_text_shorter_than_a_block(sedd, place, words):
    Path("small.txt").write_text("a b c d e\n" * 2 + " ".join("pqrstuvwxy"[i % 10] for i in range(words)) + "\n")
    prepared = sedd("prepare", "small.txt")
    assert prepared.code == 0, prepared.err
    assert re.search(r"by the size of the text, [1-9]\d* bytes", prepared.err)
    (command,) = shown_commands(prepared.err)
    trained = sedd(*command, *TINY)
    assert trained.code == 0, trained.err


def test_the_command_that_prepare_shows_trains_a_model_whose_report_speaks_of_the_text(sedd, place):
    prepared = sedd("prepare", "stories.jsonl", "--field", "story")
    assert prepared.code == 0, prepared.err
    assert "bpe:512, by the size of the text" in prepared.err
    assert "splits by a hash of each document" in prepared.err
    (command,) = shown_commands(prepared.err)

    trained = sedd(*command, *TINY)
    assert trained.code == 0, trained.err
    said = trained.out + trained.err
    assert "training the tokenizer" not in said  # what was prepared is used
    assert not re.search("list of|file does not exist", said)  # the quickstart's own words

    run = place / "runs" / "stories"
    (filled,) = [json.loads(line) for line in (run / "samples" / "infill-step-4.jsonl").read_text().splitlines()]
    prefix, suffix = filled["template"].split("[MASK]")
    test = held_out(place)
    assert any(text.startswith(prefix.strip()) and suffix.strip() in text for text in test)

    assert re.search(r"trained 4 steps in .*second.*; the report took .*second", said)
    assert re.search(r"bound on validation \(first \d+ blocks\): ≤ [\d.]+ .* at step 2\n", said)
    assert re.search(r"bound on test: ≤ [\d.]+ .* bits/char at step 4\n", said)
    assert "one bound of each text, so none to compare with: report.every=2 of 4 steps; report.every=1 gives" in said
    (again,) = [words for words in shown_commands(said) if words[0] == "infill"]
    option = dict(pairwise(again))
    assert (option["--prefix"], option["--suffix"]) == (prefix, suffix)
    assert prefix.endswith(" ")
    assert suffix.startswith(" ")
    assert int(option["--length"]) == len(filled["tokens"])
    for stored in ("ema.safetensors", "results/test-step-4.json", "samples/infill-step-4.jsonl"):
        assert stored in said
        assert (run / stored).is_file()


def held_out(place: Path) -> list[str]:
    """The documents of the test split."""
    from sedd_cli.data.corpora.base import share_of

    texts = [json.loads(line)["story"] for line in (place / "stories.jsonl").read_text().splitlines()]
    return [text for text in texts if share_of(text) == "test"]


def test_each_command_that_a_training_shows_works(sedd, place):
    trained = sedd("train", "quickstart", "data.corpus=stories.jsonl", "data.field=story", *TINY)
    commands = shown_commands(trained.err)
    assert [words[0] for words in commands] == ["sample", "infill", "eval", "status", "export", "train"]
    for words in commands:
        done = sedd(*words, *(["--rel-error", "0.5"] if words[0] == "eval" else []))
        assert done.code == 0, (words, done.err)
    assert (place / "infill.html").is_file()
    (card,) = [p.read_text() for p in place.glob("*-exported/README.md")]
    template = re.search(r"--template '(.*) \[MASK:8\] (.*)'", card)
    assert template
    assert any(text.startswith(template[1]) and template[2] in text for text in held_out(place))


@pytest.mark.parametrize(("every", "said"), [("600", "report.every=600 of 4 steps"), ("null", "no report.every")])
def test_a_run_that_is_too_short_for_a_first_bound_is_told_why(sedd, every, said):
    short = [*TINY, f"report.every={every}", "--no-report"]
    words = [word for word in short if word != "report.every=2"]
    trained = sedd("train", "quickstart", "data.corpus=stories.jsonl", "data.field=story", *words)
    assert trained.code == 0, trained.err
    assert f"no bound to compare with: {said}; report.every=1 gives more" in trained.err


def test_the_commands_after_an_autoregressive_training_work_too(sedd):
    words = ["data.corpus=stories.jsonl", "data.field=story", "objective=autoregressive", "report.every=null"]
    trained = sedd("train", "quickstart", *words, *(word for word in TINY if "every" not in word))
    commands = shown_commands(trained.err)
    assert [words[0] for words in commands] == ["sample", "eval", "status", "train"]
    for words in commands:
        assert sedd(*words).code == 0, words


def test_a_folder_with_another_run_is_refused_before_the_text_is_prepared(sedd, place):
    words = ["data.corpus=stories.jsonl", "data.field=story", *TINY, "--no-report"]
    assert sedd("train", "quickstart", *words).code == 0
    (place / "other.txt").write_text("\n".join(f"a crow sang {i} times" for i in range(100)))
    before = sorted((place / "home").rglob("*"))
    refused = sedd("train", "quickstart", "data.corpus=other.txt", *TINY, "--run-dir", "runs/stories")
    assert refused.code == 2
    assert "another recipe" in refused.err
    assert sorted((place / "home").rglob("*")) == before


def test_runs_of_two_texts_do_not_collide_and_are_found_by_the_names_that_are_listed(sedd, place):
    (place / "other.txt").write_text("\n".join(f"a crow sang {i} times" for i in range(100)))
    (place / "markov.txt").write_text("\n".join(f"a crow found {i} keys" for i in range(100)))
    words = {"stories": ["data={corpus: stories.jsonl, field: story}"], "other": ["data.corpus=other.txt"]}
    words["quickstart-markov"] = ["data.corpus=markov.txt"]  # a shipped recipe has the name markov
    for name, text in words.items():
        trained = sedd("train", "quickstart", *text, *TINY, "--no-report")
        assert trained.code == 0, trained.err
        assert f"the run is named after its text: runs/{name} (--run-dir names another folder)" in trained.err
        assert (place / "runs" / name / "latest").is_file()
    listed = sedd("runs", "--quiet").out
    assert all(name in listed for name in words)
    assert sedd("compare", "stories", "other").code == 0
    assert "runs/other: quickstart, finished" in sedd("status", "other").out
    assert sedd("sample", "--model", "other", "-n", "1", "--json").out.startswith('{\n "model": "runs/other"')
    measured = sedd("eval", "--model", "other", "--rel-error", "0.5", "--no-baselines", "--json")
    assert json.loads(measured.out)["model"] == "runs/other"
    assert "train.steps=8 --extend" in sedd("train", "other", "--no-report").err  # there is nothing left to train
    assert "did you mean 'runs/stories'?" in sedd("sample", "--model", "runs/storys").err
    assert "did you mean 'runs/stories'?" in sedd("status", "runs/storys").err


def test_a_model_is_evaluated_on_its_own_text_from_any_folder(sedd, place, monkeypatch):
    """Its recipe names the file as seen from where it was trained."""
    words = ["data.corpus=stories.jsonl", "data.field=story", *TINY, "--no-report"]
    assert sedd("train", "quickstart", *words).code == 0
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    done = sedd("eval", "--model", place / "runs" / "stories", "--rel-error", "0.5", "--no-baselines", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["corpus"] == "stories"


def test_another_text_of_the_name_of_a_runs_own_is_not_measured_as_its_own(sedd, place):
    words = ["data.corpus=stories.jsonl", "data.field=story", "data.tokenizer=char", *TINY, "--no-report"]
    assert sedd("train", "quickstart", *words).code == 0
    run = place / "runs" / "stories"
    own = json.loads((run / "checkpoints" / "step-4" / "state.json").read_text())["data"]
    lines = (place / "stories.jsonl").read_text().splitlines()
    (place / "stories.jsonl").write_text("\n".join(lines[:200]) + "\n")
    few = ["--model", run, "--rel-error", "0.5", "--no-baselines", "--blocks", "4", "--json"]

    kept = sedd("eval", *few)  # of what the run was trained on
    assert json.loads(kept.out)["fingerprint"] == own, kept.err
    assert evaluate(run, rel_error=0.5, baselines=False, blocks=4, progress=False).text.fingerprint == own
    assert status(run).bound is not None

    shutil.rmtree(place / "home" / "data")
    shutil.rmtree(run / "results")
    for command in (["eval", *few], ["cloze", "--model", run, "-n", "1"]):
        refused = sedd(*command)
        assert refused.code == 2
        last = refused.err.strip().splitlines()[-1]
        assert f"stories.jsonl is not the text that {run} was trained on" in last
        assert "--dataset" in last
    model = open_model(run, "cpu")
    named = sedd("eval", *few, "--dataset", "stories.jsonl", "--field", "story")
    assert json.loads(named.out)["fingerprint"] != own
    assert [one.corpus for one in stored_bounds(run)] == ["stories", "stories"]
    assert status(run).bound is None  # nor does its stored result speak for the run
    assert text_of(model) is None  # what `sedd inspect` scores and samples are compared with
    (place / "stories.jsonl").write_text("\n".join(lines) + "\n")
    again = sedd("eval", *few)  # prepared again
    assert json.loads(again.out)["fingerprint"] == own, again.err
    assert status(run).bound.fingerprint == own


def test_a_run_under_the_name_of_its_recipe_is_gone_on_with(sedd, place):
    """Earlier versions made it there; the same command goes on to resume it."""
    words = ["data.corpus=stories.jsonl", "data.field=story", *TINY, "--no-report"]
    assert sedd("train", "quickstart", *words, "--run-dir", "runs/quickstart").code == 0
    again = sedd("train", "quickstart", *words)
    assert "→ runs/quickstart" in again.err
    assert not (place / "runs" / "stories").exists()
    assert sedd("train", "quickstart", *words, "name=mine").code == 0
    assert (place / "runs" / "mine").is_dir()


def test_a_prepared_text_that_is_taken_for_a_recipe_is_answered_with_the_command_for_it(sedd):
    sedd("prepare", "stories.jsonl", "--field", "story", "--tokenizer", "byte")
    refused = sedd("train", "stories")
    assert refused.code == 2
    assert "stories is a prepared text, not a recipe: sedd train quickstart data.corpus=stories" in refused.err


def test_a_misspelt_text_is_answered_with_the_one_that_is_there(sedd):
    assert "did you mean stories.jsonl" in sedd("prepare", "storis.jsonl").err


def test_one_long_document_is_told_how_it_can_be_divided(sedd, place):
    (place / "one.txt").write_text("a long text. " * 300)
    assert "--hold-out tail" in sedd("prepare", "one.txt", "--tokenizer", "char").err
    (place / "one.txt").write_text("part 14")  # of the test split, which leaves none for training
    refused = sedd("prepare", "one.txt", "--tokenizer", "byte")
    assert refused.code == 2
    assert "--hold-out tail" in refused.err
    (place / "one.txt").write_text("a long text. " * 300)
    assert sedd("prepare", "one.txt", "--tokenizer", "char", "--hold-out", "tail").code == 0


@pytest.mark.parametrize("named", ["stories", "{folder}", "{path}"])
def test_a_prepared_corpus_is_trained_on_by_its_name_and_by_its_folder(sedd, place, named):
    document = json.loads(sedd("prepare", "stories.jsonl", "--field", "story", "--json").out)
    (place / "stories.jsonl").unlink()
    named = named.format(folder=Path(document["folder"]).name, path=document["folder"])
    refused = sedd("train", "quickstart", f"data.corpus={named}", "data.field=id", *TINY)
    assert "--field has no effect" in refused.err
    # what the preparation was given may be said again
    trained = sedd("train", "quickstart", f"data.corpus={named}", "data.field=story", *TINY)
    assert trained.code == 0, trained.err
    assert json.loads((place / "runs/stories/results/test-step-4.json").read_text())["bounds"]
    assert sedd("eval", "--model", "runs/stories", "--rel-error", "0.5", "--no-baselines").code == 0


def test_a_name_that_several_prepared_corpora_have_is_refused_with_what_to_add_for_each(sedd):
    for tokenizer in ("char", "byte"):
        sedd("prepare", "stories.jsonl", "--field", "story", "--tokenizer", tokenizer)
    refused = sedd("train", "quickstart", "data.corpus=stories", *TINY)
    assert refused.code == 2
    for tokenizer in ("char", "byte"):
        assert re.search(rf"stories-{tokenizer}-\w+ \(data\.tokenizer={tokenizer}\)", refused.err)
        words = [f"data.tokenizer={tokenizer}", "--run-dir", f"runs/{tokenizer}", "--no-report"]
        assert sedd("train", "quickstart", "data.corpus=stories", *words, *TINY).code == 0


def test_a_dry_run_shows_the_tokenizer_that_is_chosen_by_the_size_of_the_text(sedd):
    words = ["train", "quickstart", "data.corpus=stories.jsonl", "data.field=story", "data.tokenizer=null", *TINY]
    shown = sedd(*words, "--dry-run")
    assert "\n  tokenizer: null  # by default: bpe:512\n" in shown.out, shown.err
    assert yaml.safe_load(shown.out.partition("\n\n")[0])["data"]["tokenizer"] is None


def test_of_two_divisions_of_a_text_the_one_with_its_tail_held_out_is_chosen_by_its_key(sedd):
    for way in ("hash", "tail"):
        sedd("prepare", "stories.jsonl", "--field", "story", "--tokenizer", "byte", "--hold-out", way)
    words = ["train", "quickstart", "data.corpus=stories", "data.tokenizer=byte", "report.split=validation"]
    refused = sedd(*words, "--dry-run")
    assert refused.code == 2
    assert len(re.findall(r"stories-byte-\w+", refused.err)) == 2
    assert re.search(r"stories-byte-\w+ \(data\.hold_out=tail\)", refused.err)
    assert sedd(*words, "data.hold_out=tail", *TINY[:4], "--dry-run").code == 0


def test_a_run_goes_on_and_is_evaluated_where_its_text_has_been_prepared_again(sedd, place):
    sedd("prepare", "stories.jsonl", "--field", "story", "--tokenizer", "char")
    assert sedd("train", "quickstart", "data.corpus=stories", *TINY, "--no-report").code == 0
    sedd("prepare", "stories.jsonl", "--field", "story", "--tokenizer", "byte")
    longer = sedd("train", "stories", "train.steps=6", "--extend", "--no-report")
    assert longer.code == 0, longer.err
    words = ["--model", "stories", "--dataset", "stories", "--rel-error", "0.5", "--no-baselines"]
    evaluated = sedd("eval", *words, "--json")
    assert evaluated.code == 0, evaluated.err
    assert "no effect" not in evaluated.err
    tuned = ["init_from=runs/stories", "--run-dir", "runs/tuned", "--no-report"]
    assert sedd("train", "quickstart", "data.corpus=stories", *tuned, *TINY).code == 0
    kinds = [json.loads(path.read_text())["kind"] for path in place.glob("runs/*/checkpoints/step-*/tokenizer.json")]
    assert set(kinds) == {"char"}


def test_the_next_command_after_another_preparation_names_another_run(sedd, place):
    for tokenizer, run in (("char", "runs/stories"), ("byte", "runs/stories-byte")):
        prepared = sedd("prepare", "stories.jsonl", "--field", "story", "--tokenizer", tokenizer)
        (command,) = shown_commands(prepared.err)
        assert command[-2:] == ["--run-dir", run]
        assert sedd(*command, *TINY, "--no-report").code == 0
        again = sedd("prepare", "stories.jsonl", "--field", "story", "--tokenizer", tokenizer)
        assert shown_commands(again.err) == [command]


def test_a_text_without_the_split_of_the_report_is_refused_before_it_is_prepared(sedd, place):
    (place / "one.jsonl").write_text('{"text": "a long text."}\n')
    refused = sedd("train", "quickstart", "data.corpus=one.jsonl", *TINY)
    assert refused.code == 2
    assert "report.split: one has no split 'test', it has train; set data.hold_out=tail report.split=" in refused.err
    assert not (place / "home").exists()


def test_the_tail_of_a_text_can_be_held_out_in_one_piece(sedd, place):
    text = "".join(f"line {i} of a long text that has one order\n" for i in range(400))
    (place / "shake.txt").write_text(text)
    words = ["prepare", "shake.txt", "--tokenizer", "char", "--hold-out", "tail", "--documents", "file"]
    prepared = sedd(*words)
    assert "splits by place" in prepared.err
    document = json.loads(sedd(*words, "--json").out)
    sizes = {name: split["characters"] for name, split in document["splits"].items()}
    border = int(0.9 * len(text))  # as nanoGPT divides Shakespeare
    assert sizes == {"train": border, "validation": len(text) - border}
    (command,) = shown_commands(prepared.err)
    assert "report.split=validation" in command
    assert sedd(*command, *TINY).code == 0


def test_the_tokenizer_of_a_run_can_be_taken_and_is_with_init_from(sedd, place):
    sedd("train", "quickstart", "data.corpus=stories.jsonl", "data.field=story", "--run-dir", "runs/a", *TINY)
    (place / "other.txt").write_text("\n".join(f"a miller sang to the crow {i} times" for i in range(300)))
    taken = json.loads(sedd("prepare", "other.txt", "--tokenizer", "runs/a", "--json").out)
    tuned = sedd(
        "train", "quickstart", "data.corpus=other.txt", "init_from=runs/a", "--run-dir", "runs/b", "--no-report", *TINY
    )
    assert tuned.code == 0, tuned.err
    assert "newly initialised" not in tuned.err
    state = json.loads((place / "runs/b/checkpoints/step-4/state.json").read_text())
    assert state["data"] == taken["fingerprint"]
    assert sedd("train", "runs/b").code == 0
    assert sedd("eval", "--model", "runs/b", "--rel-error", "0.5", "--no-baselines").code == 0


def test_a_run_goes_on_with_its_tokenizer_though_another_is_the_default_now(sedd, place, monkeypatch):
    def former(**given) -> Corpus:
        return Corpus(**{**given, "tokenizer": "byte", "why": ""})

    words = ["train", "quickstart", "data.corpus=stories.jsonl", "data.field=story", *TINY]
    with monkeypatch.context() as before:
        before.setattr("sedd_cli.data.corpora.local.Corpus", former)
        assert sedd(*words, "--no-report").code == 0
    run = place / "runs" / "stories"
    longer = sedd("train", run, "train.steps=8", "--extend")
    assert longer.code == 0, longer.err
    assert "byte" in longer.err
    assert json.loads((run / "checkpoints/step-8/tokenizer.json").read_text())["kind"] == "byte"
    assert sedd("eval", "--model", run, "--rel-error", "0.5", "--no-baselines").code == 0


def test_a_recipe_of_ones_own_keeps_its_tokenizer_with_another_text(place):
    (place / "mine.yaml").write_text(
        "data: {corpus: stories.jsonl, field: story, tokenizer: 'bpe:300'}\ngraph: absorbing\nnoise: loglinear\n"
        "model: {n_blocks: 1, hidden_size: 16, n_heads: 2, cond_dim: 8, dropout: 0, length: 16}\ntrain: {steps: 2}\n"
    )
    (place / "b.jsonl").write_text('{"story": "x"}\n')
    kept = load_recipe("mine.yaml", ["data.corpus=b.jsonl"]).data
    assert (kept.tokenizer, kept.field) == ("bpe:300", "story")
    assert load_recipe("quickstart", ["data.corpus=b.jsonl"]).data.tokenizer is None
    assert load_recipe("quickstart", ["data.corpus=b.jsonl", "data.tokenizer=char"]).data.tokenizer == "char"
    assert load_recipe("gpt2_small", ["data.corpus=b.jsonl"]).data.tokenizer == "gpt2"
    assert load_recipe("quickstart").report.infill.prefix == "Return a list of "
