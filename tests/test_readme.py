"""README and the guides tell the truth: commands run, examples work, links lead somewhere, recipes are listed.

Commands run in a folder where small stand-ins have the names of what the documents speak of: a model that trained for a
few steps is `runs/quickstart` and `louaaron/sedd-small`, an autoregressive one is `gpt2` and `gpt2-large`, and a recipe
of a tiny network has the name of every recipe that is trained.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
import yaml

from sedd_cli import __version__
from sedd_cli.cli.app import app
from sedd_cli.cli.commands.guide import GUIDES, TOPICS
from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.recipe import load_recipe, recipe_from, shipped

ROOT = Path(__file__).parents[1]
DOCUMENTS = {"README": ROOT / "README.md"} | {name: GUIDES / f"{name}.md" for name in TOPICS}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in DOCUMENTS.items()}
TORCHRUN = "torchrun --standalone --nproc-per-node=8 -m sedd_cli"

#: Commands that are parsed and not run: a pattern, and why.
NOT_RUN = {
    r"^torchrun ": "eight processes; tests/training/test_distributed.py runs two",
    r"--processes 8": "eight processes; tests/cli/test_processes.py runs two",
    r"^sedd bench ": "minutes; tests/bench runs small ones",
    r"^sedd sweep --exact": "half a minute; tests/evaluation/exact runs small ones",
    r"--run all": "trains models for minutes to hours; tests/tables runs small ones",
    r"--dataset (wikitext|ptb)(?!.*--from)": "needs the hub",
    r"--tokenizer gpt2": "needs the hub",
    r"GSAI-ML/|kuleshov-group/": "needs the hub",
    r"--import my_parts": "tests/cli/test_importing.py walks this path",
    r"path/to/": "a file of another project; tests/checkpoints/formats makes small ones",
    r"^sedd infill --interactive$": "reads templates from a person; tests/cli/test_infill.py answers it",
}
#: What makes a command small enough to run here.
SMALLER = {
    r"train\.steps=\d+": "train.steps=4",
    r"train\.warmup=\d+": "train.warmup=1",
    r"model\.length=\d+": "model.length=32",
    r"--length 4096 --block 1024 --stride 512": "--length 256 --block 128 --stride 64",
    r"32,64,\.\.\.,2048": "2,4",
    r"-n (32|64|100|200)": "-n 4",
    r"--max-nfe 128": "--max-nfe 8",
    r"--candidates 32": "--candidates 4",
    r"^sedd status runs/measure": "sedd status runs/quickstart",
    r"--blocks 64": "--blocks 8",
    r"--judge runs/reader": "--judge runs/judge",
    r"--dataset pydocs": "--dataset my.txt",
    r"^(sedd eval (?!.*--blocks ).*)": r"\1 --blocks 8",
    r"^(sedd mauve (?!.* -n ).*)": r"\1 -n 8",
    r"train\.steps=4 train\.decay=\d+": "train.steps=8 train.decay=4",
    r"train\.decay=200 --run-dir runs/longer": "train.decay=2 --run-dir runs/decayed",
}
#: What stands for the words in capitals.
PLACEHOLDERS = {
    "sedd judge FILE --judge MODEL": "sedd judge samples.jsonl --judge gpt2-large",
    "RECIPE [key=value ...]": "quickstart",
    "RUN [train.steps=N]": "runs/quickstart",
    "compare A B …": "compare runs/quickstart runs/markov",
    "compare A B": "compare runs/quickstart runs/markov",
    "[FOLDER]": "runs",
    "RECIPE": "quickstart",
    "RUN": "runs/quickstart",
    "MODEL": "runs/quickstart",
    "FILE": "webtext.jsonl",
    "FOLDER": "exported",
    "TOPIC": "models",
}


def spoken(text: str) -> set[str]:
    """The commands in a document: indented lines, and whatever stands in backquotes."""
    found = re.findall(r"^    (.*)$|`((?:sedd|torchrun) [^`]+)`", text, re.MULTILINE)
    words = (command.strip() for line in found for command in "".join(line).split("&&"))
    return {command for command in words if command.startswith(("sedd ", "torchrun "))}


COMMANDS = sorted(set().union(*map(spoken, TEXTS.values())))
#: A name alone is a mention, but for these.
ALONE = ("sedd table", "sedd guide", "sedd doctor")
WHOLE = [command for command in COMMANDS if len(command.split()) > 2 or command in ALONE]
RUN = [command for command in WHOLE if not any(re.search(pattern, command) for pattern in NOT_RUN)]


def filled(command: str) -> str:
    for placeholder, meant in PLACEHOLDERS.items():
        command = re.sub(rf"(?<!\w){re.escape(placeholder)}(?!\w)", meant, command)
    return command.replace(TORCHRUN, "sedd")


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory, workplace) -> Path:
    """A folder with the models, recipes and texts that the commands name, all of them tiny."""
    from sedd_cli.training.train import TrainOptions, train

    here = tmp_path_factory.mktemp("documents")
    recipe = yaml.safe_load((workplace / "tiny.yaml").read_text())
    recipe |= {"name": "quickstart", "data": {"corpus": str(here / "my.txt"), "tokenizer": "byte"}}
    recipe["model"]["length"] = 128
    recipe["train"] |= {"steps": 4, "save_every": 4, "log_every": 1}
    texts = [f"Return the item {i} of the list.\nThe file {i} does not exist, or is missing." for i in range(600)]
    (here / "my.txt").write_text("\n\n".join(texts), encoding="utf-8")
    for name in ("wiki.test.raw", "1b_benchmark.dev.tokens", "prompts.txt"):
        (here / name).write_text("\n".join(texts[:40] if name != "prompts.txt" else ["The", "Return"]) + "\n")
    lines = "".join(f'{{"text": "{" ".join(text.split()) * 4}"}}\n' for text in texts[:40])
    for name in ("samples.jsonl", "webtext.jsonl"):
        (here / name).write_text(lines)
    jobs = re.findall(r"^\{.*\}$", TEXTS["sampling"], re.MULTILINE)
    (here / "jobs.jsonl").write_text("\n".join(jobs) + "\n")
    (here / "templates.txt").write_text("Return the [MASK:2] list.\nIf [MASK:3]\n")
    for name in ("recipes/quickstart.yaml", "recipes/gpt2_small.yaml", *shipped()):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(yaml.safe_dump(recipe))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        for run, change in {"runs/quickstart": [], "gpt2": ["objective=autoregressive"]}.items():
            options = TrainOptions(here / run, "cpu", report=False)
            for _ in train(load_recipe(here / "quickstart", change), options):
                pass
    shutil.copytree(here / "runs/quickstart", here / "louaaron/sedd-small")
    for name in ("markov", "longer"):
        shutil.copytree(here / "runs/quickstart", here / "runs" / name)
    for name in ("gpt2-large", "runs/judge"):
        shutil.copytree(here / "gpt2", here / name)
    return here


@pytest.fixture
def here(stand_ins, tmp_path, monkeypatch) -> Path:
    """A copy of the stand-ins, as the working folder; the quickstart's is the newest run."""
    shutil.copytree(stand_ins, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "runs/quickstart").rglob("*"):
        path.touch()
    (tmp_path / "runs/quickstart").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_placeholder_is_left():
    assert not [name for name, text in TEXTS.items() if re.search(r"@[A-Z]+@|TODO|FIXME", text)]


def test_readme_is_short():
    assert len(TEXTS["README"].splitlines()) <= 150


def test_the_documents_name_every_command():
    named = {command.split()[1] for command in COMMANDS}
    assert named >= {name for name, one in typer.main.get_command(app).commands.items() if not one.hidden}


@pytest.mark.parametrize("name", sorted({command.split()[1] for command in COMMANDS if command.startswith("sedd ")}))
def test_a_command_exists(name):
    assert name in typer.main.get_command(app).commands


REGISTRIES = GRAPHS, SCHEDULES, OBJECTIVES, SAMPLERS


@pytest.fixture(scope="module")
def registered() -> list[dict]:
    """The registries with the parts that the guide `extending` adds; its code also tests them, so it runs once."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in REGISTRIES:
            patch.setattr(registry, "_classes", dict(registry._classes))
        for code in re.findall(r"```python\n(.*?)```", TEXTS["extending"], re.DOTALL):
            exec(compile(code, "extending.md", "exec", dont_inherit=True), {"__name__": "extending_example"})
        return [dict(registry._classes) for registry in REGISTRIES]


@pytest.fixture
def examples(registered, monkeypatch) -> None:
    """The parts that the guide `extending` adds, registered for one test."""
    for registry, classes in zip(REGISTRIES, registered, strict=True):
        monkeypatch.setattr(registry, "_classes", dict(classes))


@pytest.mark.parametrize("command", WHOLE)
@pytest.mark.usefixtures("examples")
def test_a_command_parses(command):
    # `examples` registers what is imported; --help ends a command before it is parsed
    verb, *words = shlex.split(filled(command).replace("--import my_parts.py", "").replace("--help", ""))[1:]
    context = typer.main.get_command(app).commands[verb].make_context(verb, words)
    assert context.params is not None
    if (recipe := context.params.get("recipe")) and not recipe.startswith("runs/"):
        load_recipe(ROOT / recipe if recipe.startswith("recipes/") else recipe, context.params["overrides"] or [])


@pytest.mark.parametrize("command", RUN)
@pytest.mark.usefixtures("examples")
def test_a_command_runs(command, here, sedd):
    command = filled(command)
    for pattern, small in SMALLER.items():
        command = re.sub(pattern, small, command)
    outcome = sedd(*shlex.split(command)[1:])
    assert outcome.code == 0, f"{command}\n{outcome.err}"


@pytest.mark.parametrize("pattern", NOT_RUN)
def test_what_is_not_run_is_in_the_documents(pattern):
    assert any(re.search(pattern, command) for command in WHOLE)


@pytest.mark.parametrize(
    ("name", "code"),
    [(name, code) for name, text in TEXTS.items() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)],
)
def test_a_python_example_runs(name, code, here, monkeypatch):
    for registry in REGISTRIES:  # what an example registers is forgotten again
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    exec(compile(code, f"{name}.md", "exec", dont_inherit=True), {"__name__": f"{name}_example"})


def test_the_guide_shows_each_kind_of_part_in_less_than_forty_lines():
    blocks = re.findall(r"```python\n(.*?)```", TEXTS["extending"], re.DOTALL)
    for registry in ("GRAPHS", "SCHEDULES", "SAMPLERS", "OBJECTIVES"):
        (block,) = (block for block in blocks if f"@{registry}.register" in block)
        assert len(block.splitlines()) < 40


def test_the_example_of_a_schedule_is_one(monkeypatch):
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", TEXTS["extending"], re.DOTALL) if "Schedule" in code)
    monkeypatch.setattr(SCHEDULES, "_classes", dict(SCHEDULES._classes))
    scope = {"__name__": "extending_example"}
    exec(compile(code, "extending.md", "exec", dont_inherit=True), scope)
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64, requires_grad=True)
    schedule = scope["Constant"]()
    sigma, dsigma = schedule(t)
    torch.testing.assert_close(torch.autograd.grad(sigma.sum(), t)[0], dsigma)
    torch.testing.assert_close(schedule.t(sigma), t)
    assert SCHEDULES["constant"] is scope["Constant"]


@pytest.mark.usefixtures("examples")
def test_the_loss_of_the_guide_refuses_weights_that_it_cannot_apply():
    loss = OBJECTIVES["capped_score_entropy"]
    loss(weighting="flat").check(GRAPHS["absorbing"](vocab_size=4))
    with pytest.raises(ValueError, match="weighting=dynamic has one a position"):
        loss(weighting="dynamic").check(GRAPHS["absorbing"](vocab_size=4))


@pytest.mark.usefixtures("examples")
def test_the_parts_of_the_guide_are_trained_evaluated_and_sampled(here, sedd):
    words = "graph=ring data.tokenizer=char", "noise={name: constant, sigma_max: 4}", "train.precision=fp32"
    more = "--no-report", "--run-dir", "runs/ring"
    assert sedd("train", "quickstart", *words[0].split(), *words[1:], *more).code == 0
    outcome = sedd("eval", "--model", "runs/ring", "--blocks", "2", "--json")
    assert outcome.code == 0, outcome.err
    assert 0 < next(iter(json.loads(outcome.out)["bounds"].values()))["nats_per_token"] < 100
    for sampler in ("frozen_rates", "tweedie"):
        outcome = sedd("sample", "--model", "runs/ring", "--sampler", sampler, "--steps", "3", "-n", "2", "--json")
        assert outcome.code == 0, outcome.err


@pytest.mark.slow
def test_the_parts_of_the_guide_pass_the_tests_that_it_names():
    """In a run of their own, whose registries hold them from the start; a tenth of the tests stands for all."""
    tests = ["tests/core/graphs", "tests/core/samplers/test_samplers.py", "tests/core/test_schedules.py"]
    words = "ring or (frozen_rates and ring) or (frozen_rates and absorbing) or constant"
    words = f"({words}) and not (samples_follow or the_fast_path)"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "support.extended",
        "-p",
        "no:cacheprovider",
        "-q",
        "-n",
        "0",
        "-k",
        words,
    ]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([*command, *tests], cwd=ROOT, env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-3000:]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)#]+)\)", TEXTS[name]):
        assert target.startswith("https://") or (DOCUMENTS[name].parent / target).exists(), target


@pytest.mark.parametrize("name", ["README", "paper"])
def test_the_map_of_the_paper_names_files_that_exist(name):
    rows = re.findall(r"^\|.*", TEXTS[name], re.MULTILINE)
    files = [file for row in rows for file in re.findall(r"`([\w/]+\.py)`", row)]
    assert len(files) > 10
    assert not [file for file in files if not (ROOT / "sedd_cli" / file).is_file()]


def test_every_shipped_recipe_is_in_the_guide_as_it_is():
    rows = re.findall(r"^\| (`.*?) \| (\w+) \| .* \| (\d+) × (\d+) \|", TEXTS["recipes"], re.MULTILINE)
    told = {name: row[1:] for row in rows for name in re.findall(r"`(.+?)`", row[0])}
    for name in shipped():
        recipe = load_recipe(name)
        graph = recipe.graph.name if told[name][0] != "both" else "both"
        assert told[name] == (graph, str(recipe.train.batch), str(recipe.model.length)), name


def test_the_guide_tells_the_defaults_of_recipes():
    least = {"name": "any", "data": {"corpus": "pydocs"}, "train": {"steps": 1}, "model": {}}
    usual = recipe_from(least | {"graph": "absorbing", "noise": "loglinear"}).to_data()
    section = TEXTS["recipes"].partition("## Keys\n")[2].partition("## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    told = [pair for keys, values in rows for pair in zip(keys.split(","), values.split(","), strict=True)]
    assert len(told) > 20
    for key, value in told:
        found: Any = usual
        for part in key.strip(" `").split("."):
            found = found[part]
        shown = value.strip(" `")
        if shown == "–":  # it has none
            assert key.strip(" `") in ("data.corpus", "train.steps")
        elif isinstance(found, int | float) and not isinstance(found, bool):
            assert float(shown) == found, key
        else:
            assert shown == {None: "null", False: "false", True: "true"}.get(found, found), key


def test_the_set_up_commands_are_the_gates():
    gate = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[dev]' && pytest" in TEXTS["README"]
    assert "-e '.[dev]'" in gate
    assert re.search(r"^pytest$", gate, re.MULTILINE)
    assert "pip install -e . && sedd train recipes/quickstart.yaml" in TEXTS["README"]


def test_what_to_cite_is_this_version_and_these_authors():
    entries = re.findall(r"^@(\w+)\{(\w+),(.*?)^\}", TEXTS["paper"], re.MULTILINE | re.DOTALL)
    assert [(kind, key) for kind, key, _ in entries] == [("inproceedings", "lou2024discrete"), ("software", "sedd")]
    ours = dict(re.findall(r"(\w+)\s*= \{+([^{}]*)\}+", entries[1][2]))
    assert ours["version"] == __version__
    year, authors = re.search(r"Copyright \(c\) (\d+) (.*)", (ROOT / "LICENSE").read_text()).groups()
    assert (ours["year"], ours["author"].lower()) == (year, authors)
    assert "arXiv 2310.16834" in TEXTS["README"]
