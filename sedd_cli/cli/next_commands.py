"""Commands that may follow `sedd prepare` and `sedd train`, quoted for pasting."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.cli.view.view import View
from sedd_cli.errors import shell_command

if TYPE_CHECKING:
    from sedd_cli.data.manifest import Manifest
    from sedd_cli.data.prepared import PrepareOptions
    from sedd_cli.recipe import Recipe
    from sedd_cli.training.train import TrainResult


def command_line(words: Sequence[str | Path]) -> str:
    """A command with the parts that were imported for this one, which it needs too."""
    from sedd_cli.recipe.outside import given

    return shell_command(["sedd", *words, *given()])


def say_commands(view: View, commands: Sequence[Sequence[str | Path]], title: str = "Try next:") -> None:
    """Show commands, each on one line of its own."""
    view.say(title)
    for words in commands:
        view.say(f"  {command_line(words)}", "cyan")


def training_of(options: PrepareOptions, manifest: Manifest, folder: Path) -> list[str] | None:
    """The words of a training on what was just prepared; None without text for training.

    A shipped recipe of the same corpus and tokenizer is named as it is; otherwise it is the quickstart with the
    options of the preparation.
    """
    from sedd_cli.recipe.load import shipped
    from sedd_cli.system.documents import read_yaml

    if "train" not in manifest.splits:
        return None
    ready = {name: read_yaml(path) for name, path in shipped().items() if "mini/" not in name}
    known = [name for name, recipe in ready.items() if recipe["data"]["corpus"] == options.corpus]
    alike = [name for name in known if ready[name]["data"].get("tokenizer") == manifest.tokenizer]
    plain = {f.name: f.default for f in dataclasses.fields(options)}
    given = {name: value for name in plain if (value := getattr(options, name)) != plain[name]}
    changed = {key: value for key, value in given.items() if key not in ("corpus", "workers", "split")}
    if alike and set(changed) <= {"tokenizer", "local"}:
        local = [f"data.local={changed['local']}"] if "local" in changed else []
        return ["train", alike[0], *local]
    if "split" in given:  # a recipe has no such option
        words = [f"data.corpus={folder}"]
    else:
        words = [f"data.corpus={options.corpus}", *(f"data.{key}={value}" for key, value in changed.items())]
        if manifest.corpus in {recipe["data"]["corpus"] for recipe in ready.values()} and "tokenizer" not in changed:
            words.append(f"data.tokenizer={manifest.tokenizer}")
    report = ready["quickstart"]["report"]["split"]
    if report not in manifest.splits:
        words.append(f"report.split={'validation' if 'validation' in manifest.splits else 'train'}")
    if (tokens := manifest.splits["train"].tokens) < ready["quickstart"]["model"]["length"]:
        words.append(f"model.length={tokens}")
        if tokens < ready["quickstart"]["report"]["infill"]["length"]:
            words.append("report.infill=null")
    name = f"quickstart-{manifest.corpus}" if manifest.corpus in ready else manifest.corpus  # not the run of a recipe
    return ["train", "quickstart", *words, "--run-dir", str(_free(Path("runs", name), manifest))]


def _free(run: Path, manifest: Manifest) -> Path:
    """`run`, or where this is a run of the text as it was prepared otherwise, a name with the tokenizer's."""
    from sedd_cli.training.runs.text import data_of

    if data_of(run) in (None, manifest.fingerprint):
        return run
    tokenizer = re.sub(r"[^A-Za-z0-9]+", "", manifest.tokenizer.partition("@")[0])
    return run.with_name(f"{run.name}-{tokenizer}")


def after_training(view: View, run: Path, recipe: Recipe) -> None:
    """Commands that may follow a training."""
    from sedd_cli.checkpoints.checkpoint import latest
    from sedd_cli.checkpoints.own_text import infill_length, own_dataset, prompt
    from sedd_cli.recipe.learning_rate import steps_before_decay

    use, last = ["--model", run], latest(run)
    commands: list[list[str | Path]] = [["sample", *use, "-n", "3"]]
    if given := prompt(recipe, own_dataset(last.folder, recipe) if last else None):
        around = {"--prefix": given.prefix, "--suffix": given.suffix}
        words = [word for flag, text in around.items() if text for word in (flag, text)]
        commands.append(["infill", *use, *words, "--length", str(infill_length(recipe)), "--html", "infill.html"])
    commands.append(["eval", *use])
    commands.append(["status", run])
    objective = recipe.objective.make()
    if not (objective.causal or objective.learns_exponents):  # the published layout holds neither
        commands.append(["export", run, "--to", f"{run.name}-exported"])
    longer = ["train", run, f"train.steps={2 * recipe.train.steps}"]
    commands.append([*longer, *([] if steps_before_decay(recipe.train) else ["--extend"])])
    say_commands(view, commands)


def say_result(view: View, result: TrainResult, every: int | None) -> None:
    """Say how long a training took, what it reached, and where everything is. every: the recipe's report.every."""
    from sedd_cli.cli.view.status import first_and_last
    from sedd_cli.training.durations import in_words
    from sedd_cli.training.status import status

    found, report = status(result.run), result.report
    took = f"trained {found.step:,} steps in {in_words(found.seconds)}"
    view.say(f"{took}; the report took {in_words(report.seconds or 0)}" if report else took, "bold")
    for part, marks in found.series.items():
        view.say(f"bound on {part}: {first_and_last(marks)}")
    if all(len(marks) < 2 for marks in found.series.values()):
        have = "one bound of each text, so none" if found.series else "no bound"
        asked = f"report.every={every} of {found.step:,} steps" if every else "no report.every"
        more = f"; report.every={max(1, found.step // 4)} gives more" if found.step > 2 else ""
        view.say(f"{have} to compare with: {asked}{more}")
    stored = [("weights", result.weights)]
    if report:
        stored += [("evaluation", report.evaluation), ("samples", report.samples), ("infill", report.infill)]
    inside = ", ".join(f"{name} {path.relative_to(result.run)}" for name, path in stored if path)
    view.say(f"saved in {result.run}: {inside}, metrics metrics.jsonl, checkpoints checkpoints/")
