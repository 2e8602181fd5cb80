"""MAUVE end to end on tiny models: both modes, both kinds of model, caches, resumption, refusals."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.causal_models import save_tiny_causal
from support.jobs import completed, returned

from sedd_cli import load_model
from sedd_cli.cli.commands.quality import mauve as command
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.mauve import job as mauve_job
from sedd_cli.evaluation.mauve.features import scores
from sedd_cli.evaluation.mauve.job import mauve
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.mauve.references import read_references
from sedd_cli.evaluation.mauve.results import MauveScore
from sedd_cli.evaluation.mauve.writers import Continuer, Denoiser
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.continuation import continue_prompts
from sedd_cli.evaluation.scorers.pretrained import load_causal
from sedd_cli.recipe.part import SamplerPart
from sedd_cli.system.events import Note, Progress, Warn
from sedd_cli.system.home import home


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory):
    return save_tiny_causal(tmp_path_factory.mktemp("models") / "causal")


@pytest.fixture(scope="module")
def model(tiny_run):
    return load_model(tiny_run, device="cpu")


@pytest.fixture(scope="module")
def causal(tiny_causal):
    return load_causal(tiny_causal, "cpu")


@pytest.fixture(scope="module")
def lines(workplace) -> list[str]:
    """Forty references of at least 16 characters, each behind one that is too short."""
    sentences = (workplace / "corpus.txt").read_text(encoding="utf-8").splitlines()[:40]
    return [text for sentence in sentences for text in ("too short", sentence)]


@pytest.fixture(scope="module")
def options(tiny_causal, lines, tmp_path_factory) -> MauveOptions:
    path = tmp_path_factory.mktemp("references") / "references.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    small = {"count": 40, "generations": 2, "prompt": 8, "new": 8, "seeds": 2, "batch": 16}
    return MauveOptions(references=str(path), features=str(tiny_causal), **small)


@pytest.fixture(autouse=True)
def _empty_caches():
    for name in ("mauve", "features"):
        shutil.rmtree(home() / name, ignore_errors=True)


def run(model, options, **changed) -> tuple[dict, list]:
    """The result, and all events."""
    events, result = completed(mauve(model, dataclasses.replace(options, **changed), "cpu"))
    return result.to_dict(), events


def stored():
    """The one file of generations, and what it holds."""
    (path,) = (home() / "mauve").glob("*/generations.jsonl")
    return path, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_clustering_runs_beside_the_thread_that_hears_ctrl_c(monkeypatch):
    threads = []

    def clustering(**_):
        threads.append(threading.current_thread())
        return SimpleNamespace(mauve=0.5, num_buckets=2, frontier_integral=0.1)

    monkeypatch.setattr("mauve.compute_mauve", clustering)
    assert returned(scores(np.zeros((2, 2)), np.zeros((2, 2)), 1)).mauve == 0.5
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


def texts_of(lines, count=40) -> list[str]:
    return [line[:16] for line in lines if len(line) >= 16][:count]


def test_standard_mode_continues_the_first_tokens(model, options, lines, tiny_causal):
    result, events = run(model, options)
    json.dumps(result, allow_nan=False)
    assert 0 < result["mauve"] < 1
    assert len(result["values"]) == 2
    assert result["mauve"] == pytest.approx(np.mean(result["values"]))
    assert result["mauve_std"] == pytest.approx(np.std(result["values"], ddof=1))
    assert result["clusters"] == 4
    assert 0 < result["frontier_integral"] < 1
    assert result["references"] | {"fingerprint": ""} == {
        "source": options.references, "split": None, "fingerprint": "", "count": 40, "short": 40, "unknown": 0,
    }  # fmt: skip
    assert result["generations"] == {"count": 80, "of_each": 2}
    assert {k: result[k] for k in ("mode", "prompt", "new", "seed", "precision")} == {
        "mode": "standard", "prompt": 8, "new": 8, "seed": 0, "precision": "fp32",
    }  # fmt: skip
    assert result["sampler"]["name"] == "tweedie"
    assert result["sampler"]["steps"] == 4  # the recipe's
    assert 1 <= result["sampler"]["nfe_mean"] <= 5
    assert result["features"]["changed_length"]["references"] == 0  # a character is a byte here, on both sides
    assert result["features"]["fingerprint"] == load_causal(tiny_causal, "cpu").fingerprint
    assert set(result["software"]) == {"sedd", "mauve-text", "transformers", "torch"}
    _, made = stored()
    for one in made:
        text = texts_of(lines)[one["number"] // 2]
        assert len(one["tokens"]) == 16
        assert one["text"].startswith(text[:8])
    assert any(made[2 * i]["text"] != made[2 * i + 1]["text"] for i in range(40))
    assert {e.task for e in events if isinstance(e, Progress)} == {
        "generating", "features of the references", "features of the generations", "clustering",
    }  # fmt: skip
    assert sum("fewer than 5,000" in e.text for e in events if isinstance(e, Warn)) == 2


def test_infill_mode_keeps_both_ends(model, options, lines):
    result, _ = run(model, options, mode="infill", steps=3, normalized=True, seed=4)
    assert result["sampler"]["steps"] == 3
    assert result["sampler"]["normalized"] is True
    for one in stored()[1]:
        text = texts_of(lines)[one["number"] // 2]
        assert one["text"].startswith(text[:4])
        assert one["text"].endswith(text[-4:])
    assert len({one["text"][4:12] for one in stored()[1]}) > 60
    assert not {one["text"] for one in stored()[1]} & set(texts_of(lines))


def test_the_given_positions_are_those_of_the_protocol(options):
    def where(**changed) -> list[int]:
        return dataclasses.replace(options, **changed).where.nonzero()[:, 0].tolist()

    assert where(prompt=50, new=50) == list(range(50))
    assert where(prompt=50, new=50, mode="infill") == [*range(25), *range(75, 100)]
    assert where(prompt=2, new=3, mode="infill") == [0, 4]


@pytest.mark.parametrize("normalized", [False, True])
def test_generations_are_those_of_the_same_prompt_and_number(model, options, lines, normalized):
    """What `sedd infill` draws as sample number i · generations + j."""
    run(model, options, seed=9, normalized=normalized)
    made = stored()[1]
    for number in range(0, 80, 7):
        prompt = texts_of(lines)[number // 2][:8]
        (one,) = model.infill(prefix=prompt, length=16, seed=9, first=number, normalized=normalized)
        assert one.tokens == made[number]["tokens"]
        assert one.nfe == made[number]["nfe"]


def test_what_is_to_be_filled_is_not_passed_on(model, options):
    rows, drawn = torch.randint(2, model.graph.vocab_size, (2, 16)), []
    for other in (rows, rows.where(options.where, 5)):
        work = Denoiser(model, options).write(other, torch.arange(2))
        drawn.append(returned(work)[0].tolist())
    assert drawn[0] == drawn[1]


def test_the_result_names_the_precision_of_the_recipes_draws(model, options):
    part = SamplerPart.from_data({"name": "tweedie", "draws": "float32-gumbel"}, "sampler")
    published = dataclasses.replace(model, recipe=dataclasses.replace(model.recipe, sampler=part))
    result, _ = run(published, options, count=4, generations=1, seeds=1)
    assert result["sampler"]["draw_precision"] == "float32-gumbel"


def test_a_causal_baseline_continues(causal, options, lines):
    result, _ = run(causal, options, temperature=0.7)
    assert 0 < result["mauve"] < 1
    assert result["sampler"] == {
        "name": "nucleus", "top_p": 0.95, "temperature": 0.7, "nfe_mean": 8.0, "draw_precision": "float64",
    }  # fmt: skip
    made = stored()[1]
    ids = causal.encode(texts_of(lines))
    wanted = continue_prompts(causal, torch.tensor([ids[3][:8]] * 2), 8, 0.95, 0.7, 0, torch.tensor([6, 7]))
    assert [one["tokens"] for one in made[6:8]] == [ids[3][:8] + row for row in wanted.tolist()]


def test_equal_sides_score_one_and_different_ones_less():
    generator = np.random.default_rng(0)
    p, far = generator.normal(size=(300, 8)), generator.normal(size=(300, 8)) + 4
    q = generator.normal(size=(300, 8)) + 1

    def score(a, b) -> MauveScore:
        return returned(scores(a.astype(np.float32), b.astype(np.float32), 3))

    assert score(p, p).mauve == pytest.approx(1, abs=1e-3)
    assert score(p, p).mauve_std == pytest.approx(0, abs=1e-3)
    assert score(p, far).mauve < score(p, q).mauve < 0.99
    assert score(p, far).mauve < 0.05
    assert score(p, q).clusters == 30
    assert len(set(score(p, q).values)) == 3  # another k-means each


@pytest.mark.parametrize("left", [0.5, 0.02], ids=["half", "less than a batch"])
def test_an_interrupted_run_resumes_after_the_last_whole_batch(model, options, left):
    whole, _ = run(model, options)
    path, made = stored()
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * left)])  # within a line
    shutil.rmtree(home() / "features")
    again, events = run(model, options)
    assert again == whole
    assert stored()[1] == made
    notes = [e.text for e in events if isinstance(e, Note)]
    assert any("resuming after 32 of 80" in text for text in notes) == (left == 0.5)
    # nothing is left to do, and nothing is done
    finished, events = run(model, options)
    assert finished == whole
    assert [e.done for e in events if isinstance(e, Progress) and e.task == "generating"] == [80]


def test_generations_by_another_version_of_the_samplers_are_not_used(model, options, monkeypatch):
    run(model, options, count=4, generations=1, seeds=1)
    monkeypatch.setattr("sedd_cli.evaluation.mauve.generations.SAMPLES_VERSION", 1000)
    _, events = run(model, options, count=4, generations=1, seeds=1)
    assert not any("resuming" in e.text for e in events if isinstance(e, Note))
    assert len(list((home() / "mauve").glob("*/generations.jsonl"))) == 2


def test_damaged_lines_are_drawn_again(model, options):
    whole, _ = run(model, options)
    path, made = stored()
    for broken in ('{"number": 20, "text": "…'.encode()[:-1], path.read_bytes().split(b"\n")[3], b"20"):
        rows = path.read_bytes().split(b"\n")
        rows[20] = broken
        path.write_bytes(b"\n".join(rows))
        assert run(model, options)[0] == whole
        assert stored()[1] == made


def test_a_generation_of_another_length_is_an_error(model, options):
    run(model, options)
    path, made = stored()
    made[30]["tokens"].append(3)
    path.write_text("".join(json.dumps(one) + "\n" for one in made), encoding="utf-8")
    with pytest.raises(WorkError, match=r"generation 30 .* has not 16 tokens"):
        run(model, options)


def test_whatever_changes_generations_makes_new_ones(model, causal, options, tiny_run):
    changes = [{}, {"seed": 1}, {"steps": 2}, {"normalized": True}, {"mode": "infill"}, {"count": 30}, {"new": 7}]
    for changed in changes:
        run(model, options, **changed)
    for changed in ({}, {"top_p": 0.5}, {"temperature": 2.0}):
        run(causal, options, **changed)
    other = load_model(tiny_run, device="cpu")
    other.net.vocab_embed.embedding.data += 0.01
    run(other, options)
    assert len(list((home() / "mauve").iterdir())) == len(changes) + 4
    run(model, options, features=options.features, batch=10, seeds=1)  # neither changes a generation
    assert len(list((home() / "mauve").iterdir())) == len(changes) + 4


def test_features_are_kept_and_a_damaged_file_is_made_anew(model, options, monkeypatch):
    calls = []
    taken = CausalModel.features
    monkeypatch.setattr(CausalModel, "features", lambda self, rows, n: calls.append(len(rows)) or taken(self, rows, n))
    result, _ = run(model, options)
    assert sum(calls) == 120
    assert run(model, options)[0] == result
    assert sum(calls) == 120
    (kept,) = (file for file in (home() / "features").glob("*.npy") if len(np.load(file)) == 40)
    kept.write_bytes(kept.read_bytes()[:200])
    assert run(model, options)[0] == result
    assert sum(calls) == 160
    run(model, options, seed=1)
    assert sum(calls) == 240  # the references stay


def test_features_of_other_weights_are_others(model, options, tmp_path):
    first, _ = run(model, options)
    second, _ = run(model, options, features=str(save_tiny_causal(tmp_path, seed=5)))
    assert second["features"]["fingerprint"] != first["features"]["fingerprint"]
    assert second["values"] != first["values"]
    assert len(list((home() / "features").glob("*.npy"))) == 4


def test_features_of_a_model_that_reads_less_than_the_texts_are_refused_before_any_is_drawn(model, options, tmp_path):
    short = str(save_tiny_causal(tmp_path, n_positions=15))
    with pytest.raises(RequestError, match="reads 15 tokens, and the texts have 16: shorten --prompt or --new"):
        run(model, options, features=short)
    assert not (home() / "mauve").exists()


def test_texts_that_grow_beyond_what_is_read_are_cut_with_a_warning(model, options, monkeypatch):
    monkeypatch.setattr(mauve_job, "encoded", lambda reader, texts: [[1] * 5000 for _ in texts])
    _, events = run(model, options)
    said = [e.text for e in events if isinstance(e, Warn) and "are cut to" in e.text]
    assert [text.split(" are")[0] for text in said] == ["40 references", "80 generations"]


def test_references_come_from_json_lines(model, options, lines, tmp_path):
    path = tmp_path / "references.jsonl"
    rows = [{"text": line} if i % 4 else {"tokens": model.tokenizer.encode(line)} for i, line in enumerate(lines)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    writer = Denoiser(model, options)
    found = read_references(writer, dataclasses.replace(options, references=str(path)))
    assert found == read_references(writer, options)
    assert [model.tokenizer.decode(row) for row in found.rows] == texts_of(lines)


def test_references_that_the_tokenizer_cannot_express_are_passed_over(model, options, tmp_path):
    path = tmp_path / "references.txt"
    path.write_text("the Ω sat on the mat and\nthe cat sat on the mat Ω\n" * 3, encoding="utf-8")
    found = read_references(Denoiser(model, options), dataclasses.replace(options, references=str(path), count=2))
    assert (found.unknown, found.short, len(found.rows)) == (2, 0, 2)


def test_references_come_from_a_prepared_corpus(model, causal, options, workplace, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # "corpus" is no file here
    named = dataclasses.replace(options, references="corpus", split="train")
    found = read_references(Denoiser(model, named), named)
    assert found.split == "train"
    texts = [model.tokenizer.decode(row) for row in found.rows]
    beginnings = {line[:16] for line in (workplace / "corpus.txt").read_text(encoding="utf-8").splitlines()}
    assert len(texts) == 40
    assert set(texts) <= beginnings
    # a model with other ids reads the same documents as text
    theirs = read_references(Continuer(causal, named), named)
    assert [causal.decode(row) for row in theirs.rows] == texts
    assert read_references(Denoiser(model, named), dataclasses.replace(named, split=None, count=5)).split == "test"
    with pytest.raises(RequestError, match="no split 'dev'"):
        read_references(Denoiser(model, named), dataclasses.replace(named, split="dev"))


#: Of letters that the tiny run knows.
PAIRS = [f"{a}{b}" for a in "hatcsrmo" for b in "dehilnor"]


def prepare_lines(path, lines, model) -> None:
    from sedd_cli.data.prepare import prepare
    from sedd_cli.data.prepared import PrepareOptions

    path.write_text("\n".join(lines), encoding="utf-8")
    for _ in prepare(PrepareOptions(corpus=str(path), tokenizer=model.tokenizer_source)):
        pass


def test_a_corpus_whose_ids_lose_characters_is_no_reference_for_other_ids(
    model, causal, options, monkeypatch, tmp_path
):
    prepare_lines(tmp_path / "lossy.txt", [f"the Ω sat on the {pair}" for pair in PAIRS], model)
    monkeypatch.chdir(tmp_path / "..")
    named = dataclasses.replace(options, references="lossy", split="train", count=20)
    with pytest.raises(RequestError, match=r"those of char lose [0-9]+ characters"):
        read_references(Continuer(causal, named), named)
    with pytest.raises(RequestError, match=r"0 usable .* not expressible"):
        read_references(Denoiser(model, named), named)


def test_the_separator_of_documents_is_no_part_of_a_reference(model, causal, options, monkeypatch, tmp_path):
    lines = [f"the cat on a {pair}{'' if i % 2 else 's'}" for i, pair in enumerate(PAIRS)]
    prepare_lines(tmp_path / "fifteen.txt", lines, model)
    monkeypatch.chdir(tmp_path / "..")
    named = dataclasses.replace(options, references="fifteen", split="train", count=20)
    for writer in (Denoiser(model, named), Continuer(causal, named)):
        found = read_references(writer, named)
        assert found.short > 5
        assert {writer.decode(row) for row in found.rows} <= {line for line in lines if len(line) == 16}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"count": 41}, ["40 usable", "41 were requested", "-n"]),
        ({"prompt": 20, "new": 8}, ["20 + 8", "24"]),
        ({"mode": "fill"}, ["standard, infill", "'fill'"]),
        ({"mode": "infill", "prompt": 7}, ["even", "7"]),
        ({"count": 0}, ["-n", "at least 1"]),
        ({"seed": -1}, ["seed"]),
        ({"top_p": 1.1}, ["top_p"]),
        ({"sampler": "plms"}, ["tweedie"]),
        ({"references": "nowhere"}, ["nowhere", "sedd prepare nowhere"]),
        ({"split": "test"}, ["--split"]),
        ({"features": "nobody/nothing"}, ["cannot fetch nobody/nothing", "pass their folder"]),
    ],
)
def test_a_wrong_request_is_refused_with_the_reason(model, options, changed, words):
    with pytest.raises(RequestError) as refused:
        run(model, options, **changed)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)
    assert not (home() / "mauve").exists()  # before the work begins


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"mode": "infill"}, ["cannot infill", "standard"]),
        ({"steps": 3}, ["--steps", "--top-p"]),
        ({"prompt": 100, "new": 29}, ["100 + 29", "128"]),
    ],
)
def test_a_causal_model_is_refused_what_it_cannot_do(causal, options, changed, words):
    with pytest.raises(RequestError) as refused:
        run(causal, options, **changed)
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"text": 3}', "line 2"),
        ('{"tokens": [1, 2.5]}', "line 2"),
        ('{"tokens": [1, 9999]}', "line 2"),
        ("[1, 2]", "line 2"),
        ("{", "not JSON"),
    ],
)
def test_a_wrong_line_of_references_is_named(model, options, tmp_path, line, word):
    path = tmp_path / "references.jsonl"
    path.write_text('{"text": "the cat sat on the mat"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(RequestError, match=word):
        read_references(Denoiser(model, options), dataclasses.replace(options, references=str(path)))


def test_features_that_are_not_finite_are_an_error(model, options, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_tiny_causal(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.wpe.weight"][15] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WorkError, match=rf"{folder} gave features that are not finite for 40 of 40 references"):
        run(model, options, features=str(folder))
    assert not (home() / "features").exists()


def test_two_processes_do_not_write_one_file(model, options):
    running = mauve(model, options, "cpu")
    next(event for event in running if isinstance(event, Progress))
    with pytest.raises(RequestError, match="another process is writing"):
        run(model, options)
    running.close()
    run(model, options)


def read_only(*_):
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("at", ["home", "generations", "lock", "features"])
def test_a_cache_that_cannot_be_written_costs_one_warning(model, options, monkeypatch, tmp_path, at):
    wanted, _ = run(model, options)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "file" if at == "home" else tmp_path))
    if at in ("generations", "features"):
        (tmp_path / {"generations": "mauve"}.get(at, at)).touch()
    if at == "lock":  # as on a file system that is read-only: the folder is there
        monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    found, events = run(model, options)
    (warning,) = [one.text for one in events if isinstance(one, Warn) and "kept" in one.text]
    assert "cannot write" in warning
    assert str(tmp_path) in warning
    assert (found["mauve"], found["values"]) == (wanted["mauve"], wanted["values"])


def test_complete_generations_are_read_where_nothing_can_be_written(model, options, monkeypatch):
    run(model, options)
    path, _ = stored()
    with path.open("a") as stream:
        stream.write("cut sh")  # what a killed process left would be removed
    before = path.read_bytes()
    monkeypatch.setattr("filelock.FileLock.acquire", read_only)
    monkeypatch.setattr(Denoiser, "write", None)
    run(model, options)
    assert path.read_bytes() == before


def words(options, *more) -> list[str]:
    found = ["--references", options.references, "--features", options.features, "-n", "20", "--generations", "2"]
    return [*found, "--prompt", "8", "--new", "8", "--seeds", "2", "--device", "cpu", *map(str, more)]


@pytest.fixture
def sedd_mauve():
    """The command by itself: (exit code, standard output, standard error, error)."""
    import typer
    from typer.testing import CliRunner

    app = typer.Typer()
    app.command()(command.mauve)
    return lambda *args: CliRunner().invoke(app, list(args))


def test_the_command_prints_one_json_document(options, tiny_run, tiny_causal, sedd_mauve):
    found = sedd_mauve(*words(options, "--model", tiny_run, "--mode", "infill", "--json"))
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert (result["model"], result["mode"], result["generations"]["count"]) == (str(tiny_run), "infill", 40)
    assert "fewer than 5,000" in found.stderr
    beside = result["diversity"]
    assert set(beside) == {"references", "generations", "marks"}
    assert beside["references"]["entropy"] > 0
    assert 0 <= beside["generations"]["self_bleu"] <= 1
    found = sedd_mauve(*words(options, "--model", tiny_causal, "--top-p", 0.5, "--json"))
    assert json.loads(found.stdout)["sampler"]["top_p"] == 0.5


def test_the_command_shows_the_score_with_its_spread(options, tiny_run, tiny_causal, sedd_mauve):
    found = sedd_mauve(*words(options, "--model", tiny_causal, "--quiet"))
    assert found.exit_code == 0, found.output
    assert "MAUVE" in found.stdout
    assert " ± " in found.stdout
    assert isinstance(sedd_mauve(*words(options, "--model", tiny_causal, "--mode", "infill")).exception, RequestError)
    assert isinstance(
        sedd_mauve(*words(options, "--model", tiny_causal, "--tokenizer", "byte")).exception, RequestError
    )
    assert "Example:" in sedd_mauve("--help").stdout
