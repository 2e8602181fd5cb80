"""The commands, their options, and their help."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer.main

from sedd_cli.cli.app import PANELS, app

#: Every command with its arguments and options, apart from --json, --quiet and -q, which all of them have.
FLAGS = {
    "prepare": (
        "CORPUS --config --detokenizer --documents --encoding --eos --field --format --from --hold-out --inspect "
        "--list --revision --split --tokenizer --verify --workers"
    ),
    "train": (
        "KEY=VALUE RECIPE --autotune --device --dry-run --extend --fresh --no-report --processes --report --run-dir "
        "--tensorboard --wandb"
    ),
    "recipes show": "NAME",
    "status": "RUN --plot",
    "runs": "FOLDER",
    "compare": "RUN --html --out",
    "sample": (
        "--all-rows --beta --block-length --chat --entropy-bound --guidance --kappa --order --quota --sweeps "
        "--threshold "
        "--batch --block --correctors --device --gif --grid --html --judge --last-step --legacy-float32-gumbel "
        "--length --model --no-thinning --normalized --out --precision --prompt --prompts --reference --remask "
        "--sampler --no-self-bleu --seed --self-bleu --steps --stride --svg --temperature --mask-token --tokenizer "
        "--top-p --watch -m -n"
    ),
    "infill": (
        "--all-rows --beta --block-length --entropy-bound --guidance --kappa --order --quota --sweeps --threshold "
        "TEMPLATE --all --batch --candidates --correctors --device --fresh --gif --grid --html --input --interactive "
        "--last-step --legacy-float32-gumbel --length --model --no-resume --no-thinning --normalized --out "
        "--precision --prefix --remask --resume --sampler --seed --steps --suffix --svg --temperature "
        "--template --mask-token --tokenizer --top-p --watch -i -m -n -t"
    ),
    "export": "MODEL --dry-run --half --private --push --to --mask-token --tokenizer --transformers",
    "inspect": "MODEL --device --precision --seed --text --mask-token --tokenizer",
    "eval": (
        "--baselines --blocks --config --correctors --dataset --detokenizer --device --documents --encoding --eos "
        "--estimator --field --format --from --grid --last-step --length --max-nfe --model --no-baselines --no-resume "
        "--normalized --out --precision --protocol --rel-error --remask --resume --revision --sampler --seed --split "
        "--steps --temperature --mask-token --tokenizer --top-p -m"
    ),
    "judge": "FILE --format --device --judge --no-self-bleu --out --reference --seed --self-bleu --tokenizer",
    "sweep": (
        "--device --exact --given --graph --judge --length --letters --model --no-resume --noise --no-self-bleu --out "
        "--plot --precision --reference --resume --sampler --seed --self-bleu --steps --mask-token --temperature "
        "--tokenizer -m -n"
    ),
    "cloze": (
        "--config --detokenizer --documents --encoding --eos --field --format --revision "
        "--candidates --dataset --device --from --model --out --precision --seed --split --mask-token --tokenizer -m "
        "-n"
    ),
    "mauve": (
        "--batch --device --features --generations --mode --model --new --normalized --precision --prompt "
        "--references --sampler --seed --seeds --split --steps --temperature --mask-token --tokenizer --top-p "
        "--windows -m -n"
    ),
    "table": "NAME --budget --device --dry-run --markdown --mini --out --plot --rel-error --run --runs --seeds",
    "doctor": "",
    "guide": "TOPIC",
    "bench train": "KEY=VALUE --batch --device --recipe --repeats",
    "bench loss": "KEY=VALUE --batch --device --recipe --repeats",
    "bench sample": "KEY=VALUE --batch --device --normalized --recipe --repeats --steps",
    "bench prepare": "CORPUS --megabytes --repeats --tokenizer --workers",
    "bench loader": "--batch --length --repeats",
    "bench speedrun": "KEY=VALUE --device --minutes --out --recipe --run-dir",
    "bench report": "KEY=VALUE --device --larger --minutes --only --out --recipe",
}  # fmt: skip


def commands() -> dict:
    """The commands by name, those of `bench` too."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {own}": c for own, c in inner.items()} if inner else {name: command}
    return found


#: Of the commands that compute with a network.
COMPILED = dict.fromkeys(("sample", "infill", "eval", "sweep", "cloze", "mauve"), ("--compile",))


def flags(command) -> list[str]:
    """The arguments and the spellings of the options of a command."""
    found = []
    for parameter in command.params:
        argument = parameter.param_type_name == "argument"
        found += [parameter.metavar] if argument else [*parameter.opts, *parameter.secondary_opts]
    return sorted(name for name in found if name.strip())


def help_of(sedd, monkeypatch, *words: str) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    done = sedd(*words, "--help")
    assert done.code == 0, done.err
    return done.out


def test_commands_and_options_are_those_of_the_table():
    found = {name: flags(command) for name, command in commands().items()}
    assert found == {
        name: sorted([*words.split(), *COMPILED.get(name, []), "--import", "--json", "--quiet", "-q"])
        for name, words in FLAGS.items()
    }


def test_the_help_lists_every_command_in_its_panel(sedd, monkeypatch):
    panels = re.split(r"╭─ (.*?) ─+╮", help_of(sedd, monkeypatch))
    shown = {
        name: re.findall(r"^│ (\w+) ", body, re.MULTILINE)
        for name, body in zip(panels[1::2], panels[2::2], strict=True)
    }
    del shown["Options"]
    assert shown == {panel: list(inside) for panel, inside in PANELS.items()}


@pytest.mark.parametrize("name", ["", "bench", *FLAGS])
def test_help_at_80_columns_breaks_no_word(name, sedd, monkeypatch):
    text = help_of(sedd, monkeypatch, *name.split())
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"[\w.-]…", text), "a word is cut"
    shown = set(re.findall(r"[\w./*-]+", text))
    for command in [commands()[name]] if name in FLAGS else []:
        assert {flag for flag in flags(command) if flag.startswith("-")} <= shown
        words = {word for p in command.params for word in re.findall(r"[\w./-]+", getattr(p, "help", None) or "")}
        assert words <= shown, "a word is broken over two lines"


def test_paragraphs_of_help_fill_their_lines(sedd, monkeypatch):
    before, _, after = help_of(sedd, monkeypatch, "eval").partition("An autoregressive model of")
    assert before.count("\n")
    assert after.startswith(" transformers"), "the line breaks of the docstring are kept"


def test_help_imports_none_of_the_libraries_that_take_long():
    script = (
        "import sys; sys.argv = ['sedd', '--help']\n"
        "from sedd_cli.__main__ import main\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules = done.stderr.split()
    assert "sedd_cli.cli.app" in modules
    slow = {"torch", "numpy", "yaml", "datasets", "transformers", "tokenizers", "tiktoken", "safetensors", "matplotlib"}
    assert not {module.split(".")[0] for module in modules} & slow


@pytest.mark.parametrize("name", FLAGS)
def test_every_command_shows_an_example(name, sedd, monkeypatch):
    assert f"Example: sedd {name}" in " ".join(help_of(sedd, monkeypatch, *name.split()).split())


def test_the_help_of_the_sampler_lists_the_registry():
    from sedd_cli.cli.option_groups import SAMPLING
    from sedd_cli.core.samplers import SAMPLERS

    annotation, _ = SAMPLING["sampler"]
    listed = annotation.__metadata__[0].help.partition(".")[0].split(", ")
    assert listed == sorted(name.replace("_", "-") for name in SAMPLERS)


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_every_precision_is_named(sedd, monkeypatch, command):
    assert "fp32, tf32, bf16, or auto" in " ".join(help_of(sedd, monkeypatch, command).replace("│", " ").split())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sweep", "else louaaron/sedd-small; --exact: a built-in source."),
        ("infill", "Replaces the file; with --input, continues it."),
    ],
)
def test_the_help_says_where_an_option_differs(command, said, sedd, monkeypatch):
    assert said in " ".join(help_of(sedd, monkeypatch, command).replace("│", " ").split())
