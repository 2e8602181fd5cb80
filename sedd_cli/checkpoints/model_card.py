"""The model card of an export: facts, use, likelihoods and recipe."""

from __future__ import annotations

import json
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.checkpoints.own_text import own_dataset, prompt
from sedd_cli.core.protocols import protocol_name, sign
from sedd_cli.data.held_out import Cut
from sedd_cli.errors import MESSAGE, DamageError, plus_minus, printable, shell_command, shortened
from sedd_cli.recipe import dump_recipe
from sedd_cli.system.documents import read_json
from sedd_cli.system.json_lines import is_number

PAPER = "[Lou, Meng and Ermon 2024](https://arxiv.org/abs/2310.16834)"
ABOUT_BOUNDS = """\
≤ marks an upper bound on −log p: *rigorous* is one of the reverse process in continuous time, which samplers approach
with many steps; *sampler* is one of a sampler in its own steps, which stand behind it. ≈ marks an estimate that is no
bound: *sedd-paper* and *mdlm* are published protocols, which leave two terms out. ± is the Monte-Carlo standard
error."""


#: What stands before a number → the name of its metric.
WORDS = {"≤": "upper bound", "≈": "estimate", "=": "exact"}
#: The file of an export with the evaluations that its card shows.
RESULTS = "results.json"
#: Keys that a stored result must have to be shown, those of texts among them, and the numbers of a bound in it.
KEYS = ("model_fingerprint", "fingerprint", "corpus", "split", "length", "precision", "bounds")
TEXTS = ("fingerprint", "corpus", "split", "precision")
BOUND_KEYS = ("tokens", "bits_per_char", "bits_per_char_error", "perplexity", "perplexity_error")


@dataclass(frozen=True)
class ModelCard:
    """The card of a model.

    Attributes:
        model: The exported model.
        named: What users pass as --model.
        moved: How rounding to bf16 moves log-scores (root mean square, maximum); None without rounding.
        use: How other code loads it, NAME standing for what users pass.
    """

    model: LoadedModel
    named: str
    moved: tuple[float, float] | None = None
    use: str = ""

    def text(self) -> str:
        """The content of README.md."""
        model, found = self.model, list(results_of(self.model))
        name = Path(self.named).name
        parts = [
            f"---\n{self._metadata(name, found)}\n---",
            f"# {escaped(name)}",
            self._kind(),
            self._facts(),
            f"## Use\n\n{self._use()}",
        ]
        if found:
            parts.append(f"## Likelihood\n\n{_likelihood(found)}\n\n{ABOUT_BOUNDS}{self._rounded()}")
        if model.recipe is not None:
            parts.append(f"## Recipe\n\n{fenced(printable(dump_recipe(model.recipe)).rstrip(), 'yaml')}")
        return "\n\n".join(parts) + "\n"

    def _kind(self) -> str:
        """What it is, in a sentence."""
        if self.model.exact:
            return "An autoregressive language model: it writes text from left to right."
        what = "it fills gaps anywhere in a text, and writes text by filling one large gap."
        if self.model.vocabulary is None and self.model.objective.parametrization == "score":
            return f"A score entropy discrete diffusion (SEDD) language model after {PAPER}: {what}"
        layout = self.model.facts.get("layout")
        origin = f" (loaded from the layout {escaped(str(layout))})" if self.model.vocabulary else ""
        return f"A discrete diffusion language model{origin}: {what}"

    def _metadata(self, name: str, found: list[dict[str, Any]]) -> str:
        from huggingface_hub import EvalResult, ModelCardData

        # of equal names the one of most tokens
        named = {
            (Path(result["corpus"]).name, result["split"], self._metric(result, protocol)): bound
            for result, protocol, bound in sorted(_bounds(found), key=lambda one: one[2]["tokens"])
        }
        scores = [
            EvalResult(
                task_type="text-generation",
                dataset_type=corpus,
                dataset_name=corpus,
                dataset_split=split,
                metric_type="perplexity",
                metric_name=metric,
                metric_value=round(bound["perplexity"], 4),
            )
            for (corpus, split, metric), bound in named.items()
        ]
        tags = ["sedd", "discrete-diffusion", "text-generation", "text-infilling"]
        base = self.model.recipe.init_from if self.model.recipe else None
        if base is not None and (base.count("/") != 1 or Path(base).exists()):
            base = None  # a folder, not a hub id
        data = ModelCardData(
            library_name="sedd", tags=tags, model_name=name, base_model=base, eval_results=scores or None
        )
        return data.to_yaml()

    def _metric(self, result: dict[str, Any], protocol: str) -> str:
        """The name of a metric: how it was computed, as far as that is not as usual."""
        blocks = f", blocks of {result['length']}" if result["length"] != self.model.length else ""
        return f"perplexity per token, {WORDS[sign(protocol, _exact(result))]} ({_way(result, protocol)}{blocks})"

    def _facts(self) -> str:
        model = self.model
        rows = {
            "graph": model.graph.name,
            "noise": model.schedule.name,
            "parameters": f"{sum(p.numel() for p in model.net.parameters()):,}",
            "length": f"{model.length:,} tokens",
            "tokenizer": self._tokenizer() or f"not named ({model.vocab_size:,} tokens)",
            **{key: f"{value:,}" if key == "step" else value for key, value in model.facts.items() if key != "layout"},
            "stored as": "bfloat16" if self.moved else model.facts.get("stored", "float32"),
            "fingerprint": f"`{model.fingerprint[:16]}`" + (" (before rounding)" if self.moved else ""),
        }
        return "\n".join(
            [
                "| | |",
                "|---|---|",
                *(
                    f"| {escaped(key)} | {value if key == 'fingerprint' else escaped(str(value))} |"
                    for key, value in rows.items()
                ),
            ]
        )

    def _tokenizer(self) -> str | None:
        """The name of the tokenizer, even if its files are not available here."""
        return self.model.tokenizer.spec if self.model.tokenizer else self.model.tokenizer_source

    def _use(self) -> str:
        wanted = self._prompt()
        around = (wanted.prefix, wanted.suffix) if wanted else ("The", "of the")
        texts = [re.sub(r"([\[\]\\])", r"\\\1", one.strip()) for one in around]  # brackets are gaps
        template = " [MASK:8] ".join(texts).strip()
        option = [] if self._tokenizer() else ["--tokenizer", "FILE"]
        files = (
            sorted({o.source for o in self.model.recipe.parts.values() if not o.package}) if self.model.recipe else []
        )
        option += [word for file in files for word in ("--import", file)]
        coded = printable(self.named).replace("`", "'").replace("\n", " ")
        commands = [shell_command(["sedd", "sample", "--model", self.named, "-n", "3", *option])]
        if not self.model.exact:
            commands.append(shell_command(["sedd", "infill", "--model", self.named, "--template", template, *option]))
        code = [
            "from sedd_cli import load_model",
            *(f"{_import_line(file)}  # before loading: it registers parts of the model" for file in files),
            "",
            f"model = load_model({json.dumps(printable(self.named))})",
            "print(model.sample(2, seed=1)[0].text)"
            if self._tokenizer()
            else "print(model.sample(2, seed=1)[0].tokens)",
        ]
        lines = [
            fenced(printable("\n".join(commands))),
            "",
            fenced("\n".join(code), "python"),
            "",
            self.use.replace("NAME", f'"{coded}"'),
        ]
        return "\n".join(lines)

    def _prompt(self) -> Cut | None:
        """The recipe's own infill, else words of the held-out text that the model was trained beside, if it is here."""
        recipe = self.model.recipe
        places = map(Path, filter(None, (self.model.tokenizer_source, self.model.source)))
        own = next(filter(None, (own_dataset(place, recipe) for place in places)), None) if recipe else None
        return prompt(recipe, own) if recipe else None

    def _rounded(self) -> str:
        if self.moved is None:
            return ""
        rms, most = self.moved
        return (
            "\n\nMeasured before the weights were rounded to bfloat16, which moves log-scores of the base distribution "
            f"by {rms:.2g} (root mean square), at most {most:.2g}."
        )


def _import_line(source: str) -> str:
    """The line of Python that registers the parts of a file or module, as `--import` does."""
    name = source.removesuffix(".py")
    if all(word.isidentifier() and not keyword.iskeyword(word) for word in name.split(".")):
        return f"import {name}"
    return f"from sedd_cli.recipe.outside import import_parts; import_parts({json.dumps(printable(source))})"


def escaped(text: str) -> str:
    """Text of others in Markdown: it stays text, whatever it spells, and a bounded one."""
    return re.sub(r"([\\`*_\[\]<>#|&~$])", r"\\\1", printable(" ".join(shortened(text, MESSAGE).split())))


def fenced(text: str, language: str = "") -> str:
    """A block of code, whose fence is longer than any in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def results_of(model: LoadedModel) -> Iterator[dict[str, Any]]:
    """Stored evaluations of exactly these weights, from the run or export that holds the model, newest last."""
    source = Path(model.source)
    runs = [source, *source.absolute().parents[:2]]  # the run is two folders above a checkpoint
    files = [p for run in runs if (run / "results").is_dir() for p in (run / "results").glob("*.json")]
    stored = [_read(path) for path in sorted(files, key=lambda p: (p.stat().st_mtime, p.name))]
    if isinstance(exported := _read(source / RESULTS), list):
        stored += exported
    for found in stored:
        if isinstance(found, dict) and found.get("model_fingerprint") == model.fingerprint and _can_be_shown(found):
            yield _without_command(found)


def _can_be_shown(found: dict[str, Any]) -> bool:
    """Whether a file holds an evaluation as this package writes it, whose numbers are finite: others are null."""
    if not set(KEYS) <= set(found) or not isinstance(found["bounds"], dict):
        return False
    bounds = list(found["bounds"].values())
    return all(isinstance(found[key], str) for key in TEXTS) and all(
        isinstance(bound, dict) and all(is_number(bound.get(key)) for key in BOUND_KEYS) for bound in bounds
    )


def _without_command(found: dict[str, Any]) -> dict[str, Any]:
    """A result without the command line that made it, which may name paths of this machine."""
    made_by = found.get("made_by")
    if not isinstance(made_by, dict):
        return found
    return {**found, "made_by": {key: value for key, value in made_by.items() if key != "command"}}


def _read(path: Path) -> Any:
    """The content of a JSON file; None if it cannot be read."""
    try:
        return read_json(path)
    except (OSError, DamageError):
        return None


def _bounds(found: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """(result, protocol, bound): the last one for each text, protocol or sampler, and number of tokens."""
    last: dict[tuple[Any, ...], tuple[dict[str, Any], str, dict[str, Any]]] = {}
    for result in found:
        for protocol, bound in result["bounds"].items():
            names = ("fingerprint", "split", "length", "precision")
            way = protocol_name(protocol, bound.get("process"))
            key = *(result[name] for name in names), way, bound["tokens"]
            last[key] = result, protocol, bound
    yield from last.values()


def _exact(result: dict[str, Any]) -> bool:
    """Whether the result is a likelihood rather than a bound."""
    return "estimator" not in result


def _way(result: dict[str, Any], protocol: str) -> str:
    """The protocol, with the sampler where it is of one, and the precision where it is not fp32."""
    way = protocol_name(protocol, result["bounds"][protocol].get("process"))
    return way if result["precision"] == "fp32" else f"{way}, in {result['precision']}"


def _likelihood(found: list[dict[str, Any]]) -> str:
    lines = ["| text | tokens | protocol | bits per character | perplexity per token |", "|---|---|---|---|---|"]
    for result, protocol, bound in _bounds(found):
        mark = sign(protocol, _exact(result))
        lines.append(
            f"| {escaped(Path(result['corpus']).name)} {escaped(str(result['split']))} | {bound['tokens']:,} | "
            f"{escaped(_way(result, protocol))} | "
            f"{mark} {plus_minus(bound['bits_per_char'], bound['bits_per_char_error'], 3)} | "
            f"{mark} {plus_minus(bound['perplexity'], bound['perplexity_error'], 2)} |"
        )
    return "\n".join(lines)
