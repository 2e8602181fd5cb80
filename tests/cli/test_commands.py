"""The command contract: exit codes, one clear line, JSON alone on standard output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from sedd_cli.cli.outcome import one_line


@pytest.mark.parametrize(
    "command", [[], ["train"], ["eval"], ["sample"], ["infill"], ["mauve"], ["doctor"], ["prepare"]]
)
def test_help_shows_an_example_without_importing_torch(command):
    script = (
        "import sys; sys.argv = ['sedd', *sys.argv[1:], '--help']\n"
        "from sedd_cli.__main__ import main\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not command or f"sedd {command[0]}" in done.stdout.split("Example:")[1]


def test_a_model_is_sampled_without_importing_a_compiler_or_distributed_tensors(tiny_run):
    """Either takes a second, as long as everything else before the first sample."""
    script = (
        "import sys\n"
        "from sedd_cli.__main__ import main\n"
        "try: main()\n"
        "finally: assert not {'torch._dynamo', 'torch.distributed.tensor', 'sympy', 'pandas'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", script, "sample", "--model", tiny_run, "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_json_is_alone_on_standard_output(sedd, tiny_run, workplace):
    for words in (
        ["sample", "--model", tiny_run, "-n", 2],
        ["infill", "--model", tiny_run, "--prefix", "the cat"],
        ["eval", "--model", tiny_run, "--rel-error", 0.5],
        ["train", workplace / "tiny.yaml", "--dry-run"],
        ["train", workplace / "tiny.yaml", "--run-dir", tiny_run],
        ["doctor"],
        ["prepare", "--list"],
    ):
        done = sedd(*words, "--json")
        assert done.code == 0, done.err
        json.loads(done.out)


def test_quiet_prints_the_text_alone(sedd, tiny_run):
    done = sedd("infill", "--model", tiny_run, "--prefix", "the cat", "--length", 12, "--quiet")
    assert done.out.startswith("the cat")
    assert done.err == ""


def test_a_seed_repeats_the_output(sedd, tiny_run):
    outputs = [sedd("sample", "--model", tiny_run, "--seed", s, "--quiet").out for s in (1, 1, 2)]
    assert outputs[0] == outputs[1] != outputs[2]


def test_without_a_model_the_newest_run_is_taken_and_named(sedd, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run.parents[1])
    done = sedd("sample")
    assert done.code == 0
    assert done.err.startswith("model runs/tiny")


def test_samples_can_be_kept_in_a_file(sedd, tiny_run, tmp_path):
    assert sedd("sample", "--model", tiny_run, "-n", 3, "--out", tmp_path / "s.jsonl", "--quiet").code == 0
    kept = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [s["index"] for s in kept] == [0, 1, 2]


def test_doctor_names_versions_devices_and_what_to_do(sedd):
    import torch

    done = sedd("doctor", "--json")
    found = {f["check"]: f for f in json.loads(done.out)}
    assert done.code == 0
    assert {"matplotlib", "pillow", "scipy", "tqdm"} <= found.keys()
    assert not {"pytest", "ruff", "wandb"} & found.keys()
    assert found["torch"]["found"] == torch.__version__
    assert found["torch"]["state"] == "ok"
    assert "sedd[flash]" in found["flash-attn"]["advice"] or found["flash-attn"]["state"] == "ok"


@pytest.mark.parametrize(
    ("package", "version", "state", "said"),
    [
        ("torch", "1.0", "bad", "torch 1.0, needed is"),
        ("torch", "99.0+cpu", "bad", "torch 99.0+cpu, needed is"),
        ("scipy", None, "missing", "scipy missing"),
        ("flash-attn", None, "optional", ""),
    ],
)
def test_doctor_ends_with_1_where_a_required_package_does_not_do(package, version, state, said, sedd, monkeypatch):
    from sedd_cli.evaluation import environment

    known = environment._version
    monkeypatch.setattr(environment, "_version", lambda name: version if name == package else known(name))
    done = sedd("doctor", "--json")
    (found,) = [f for f in json.loads(done.out) if f["check"] == package]
    assert (found["state"], done.code) == (state, 1 if said else 0)
    assert said in done.err
    if said:
        assert found["advice"].startswith(f"pip install '{package}")


def test_doctor_ends_with_1_where_the_data_folder_cannot_be_written(sedd, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "file" / "home"))
    done = sedd("doctor")
    assert done.code == 1
    assert "the installation is not in order: data folder" in done.err
    assert "set SEDD_HOME to a folder you can write to" in done.out


def test_doctor_works_where_the_package_is_not_installed(sedd, monkeypatch):
    import importlib.metadata

    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    done = sedd("doctor", "--json")
    assert (done.code, json.loads(done.out)[0]["state"]) == (0, "odd")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "{home}/tiny.yaml", "train.stepz=3"], 2, "did you mean 'train.steps'"),
        (["train", "{home}/none.yaml"], 2, "no file"),
        (["train", "{home}/tiny.yaml", "graph=uniform", "graph.scale_by_sigma=true"], 2, "scale_by_sigma"),
        (["train", "{home}/tiny.yaml", "data.corpus={home}/none.txt"], 2, "none.txt"),
        (["train", "{home}/tiny.yaml", "data.corpus={home}/empty.txt"], 2, "empty"),
        (["train", "{home}/tiny.yaml", "data.corpus={home}/binary.txt"], 2, "not a text file"),
        (["train", "{home}/tiny.yaml", "model.length=100000"], 2, "longer than"),
        (["train", "{home}/tiny.yaml", "--run-dir", "/proc/nowhere/run"], 2, "cannot write"),
        (["train", "{home}/tiny.yaml", "--run-dir", "{run}", "seed=5"], 2, "another recipe"),
        (["train", "{home}/tiny.yaml", "--device", "abacus"], 2, "abacus"),
        (["sample", "--model", "{run}", "--steps", "0"], 2, "steps"),
        (["sample", "--model", "{run}", "--block", "25"], 2, "24"),
        (["sample", "--model", "{run}", "--seed", "-1"], 2, "seed"),
        (["sample", "--model", "{run}", "--out", "{home}/no/such/file"], 2, "does not exist"),
        (["sample", "--model", "{home}"], 2, "is not a model"),
        (["sample", "--model", "{run}", "--precision", "int3"], 2, "precision"),
        (["infill", "--model", "{run}"], 2, "--prefix"),
        (["infill", "--model", "{run}", "--prefix", "the cat sat on the mat and more"], 2, "nothing is left"),
        (["eval", "--model", "{run}", "--split", "dev"], 2, "train, validation, test"),
        (["eval", "--model", "{run}", "--rel-error", "0"], 2, "rel-error"),
        (["eval", "--model", "{run}", "--protocol", "best"], 2, "rigorous"),
        (["eval", "--model", "{broken}"], 1, "sha256"),
        (["eval", "--model", "{foreign}"], 1, "does not belong to it"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_a_wrong_request_gets_one_clear_line(sedd, tiny_run, workplace, tmp_path, words, code, message):
    import shutil

    (workplace / "empty.txt").write_bytes(b"")
    (workplace / "binary.txt").write_bytes(bytes(range(256)) * 50)
    if "{broken}" in words:
        shutil.copytree(tiny_run, tmp_path / "broken")
        (tmp_path / "broken" / "checkpoints" / "step-12" / "shard-00001-model-00001-of-00001.safetensors").write_bytes(
            b"gone"
        )
    if "{foreign}" in words:
        shutil.copytree(tiny_run, tmp_path / "foreign")
        shutil.copy(tiny_run / "ema.safetensors", tmp_path / "foreign" / "checkpoints" / "step-12")
    places = {"home": workplace, "run": tiny_run, "broken": tmp_path / "broken", "foreign": tmp_path / "foreign"}
    done = sedd(*(w.format(**places) for w in words))
    assert done.code == code, done.err + done.out
    assert message in done.err
    assert "Traceback" not in done.err
    if done.err.startswith("error:"):
        assert done.err.count("\n") == 1


def test_debug_shows_where_an_error_comes_from(sedd, tiny_run):
    done = sedd("sample", "--model", tiny_run, "--steps", 0, "--debug")
    assert done.code == 2
    assert done.err.startswith("Traceback")
    assert "at least 1" in done.err.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix" or not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_reported_in_one_line(sedd, tiny_run):
    done = sedd("sample", "--model", tiny_run, "--out", "/dev/full")
    assert done.code == 1
    assert "No space left" in done.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory: use a smaller batch"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1024 bytes."),
            "1024 bytes more",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "2.00 GiB more were requested"),
    ],
)
def test_lack_of_memory_is_reported_in_plain_words(error, words):
    assert words in one_line(error)


def test_bounds_of_different_samplers_are_stored_side_by_side(sedd, tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("eval-*"))
    for steps in (2, 3, 2):
        words = ("--protocol", "sampler", "--steps", steps, "--blocks", 2, "--no-baselines")
        assert sedd("eval", "--model", run, *words).code == 0
    found = [json.loads(file.read_text())["bounds"]["sampler"]["process"] for file in run.glob("results/eval-*.json")]
    assert sorted(found) == ["tweedie in 2 steps", "tweedie in 3 steps"]


def test_several_datasets_are_evaluated_though_one_fails(sedd, tiny_run, workplace, tmp_path):
    (workplace / "more.txt").write_text("\n".join(f"the dog sat on the hill {i}" for i in range(300)), encoding="utf-8")
    words = ["eval", "--model", tiny_run, "--no-baselines", "--out", tmp_path / "all.json", "--json"]
    done = sedd(*words, "--dataset", "nowhere.txt", "--dataset", workplace / "more.txt")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("error: 1 of 2 datasets failed, the others are done: nowhere.txt;")
    found = json.loads(done.out)
    assert len(found["results"]) == 1
    assert (found.pop("exit"), found.pop("error")) == (2, done.err.splitlines()[-1].removeprefix("error: "))
    assert json.loads((tmp_path / "all.json").read_text()) == found
    assert [f["dataset"] for f in found["failed"]] == ["nowhere.txt"]
    assert "perplexity/token" in done.err  # the table, and one row of a dataset


def test_a_single_block_is_evaluated(sedd, tiny_run, workplace, monkeypatch):
    from sedd_cli.checkpoints import loaded_model as module

    monkeypatch.setattr(module, "autocast_dtype", lambda name, device: None if name == "fp32" else torch.bfloat16)
    (workplace / "one.test.txt").write_text("hi", encoding="utf-8")
    done = sedd("eval", "--model", tiny_run, "--dataset", workplace / "one.test.txt", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["bounds"]["rigorous"]["tokens"] == 3
    done = sedd("eval", "--model", tiny_run, "--blocks", 1, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["bounds"]["rigorous"]["blocks"] == 1
    assert "the first 1 blocks: 24 tokens" in done.err


def test_quiet_prints_the_result_alone(sedd, tiny_run):
    done = sedd("eval", "--model", tiny_run, "--no-baselines", "--quiet")
    assert done.code == 0
    assert "SEDD ≤ (rigorous)" in done.out
    assert done.err == ""


def test_from_names_its_dataset_among_several(sedd, tiny_run, tmp_path):
    lines = "\n".join([" = the dog = \n", " a dog ran over the hill . \n"] * 60)
    (tmp_path / "wiki.test.raw").write_text(lines, encoding="utf-8")
    words = ["eval", "--model", tiny_run, "--dataset", "markov", "--dataset", "wikitext2", "--json", "--rel-error", 0.5]
    done = sedd(*words, "--blocks", 4, "--from", f"wikitext2={tmp_path / 'wiki.test.raw'}")
    assert done.code == 0, done.err
    assert [r["corpus"] for r in json.loads(done.out)["results"]] == ["markov", "wikitext2"]
    assert sedd(*words, "--from", tmp_path / "wiki.test.raw").code == 2


def test_from_goes_with_its_dataset(sedd, tiny_run, tmp_path):
    lines = "\n".join([" = the cat = \n", " a dog ran over the hill . \n"] * 60)
    (tmp_path / "wiki.test.raw").write_text(lines, encoding="utf-8")
    words = ["eval", "--model", tiny_run, "--dataset", "wikitext2", "--from", tmp_path / "wiki.test.raw", "--json"]
    done = sedd(*words, "--rel-error", 0.5)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["corpus"], found["detokenizer"], found["split"]) == ("wikitext2", "wikitext", "test")
    assert str(tmp_path) in found["source"]
