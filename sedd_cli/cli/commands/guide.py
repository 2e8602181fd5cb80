"""`sedd guide`: the manual that ships with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown
from rich.table import Table

from sedd_cli.cli import options as o
from sedd_cli.cli.outcome import output
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError, not_one_of

GUIDES = Path(__file__).parents[2] / "guides"
#: The guides in reading order; each is a file `TOPIC.md` that opens with its title and a paragraph of one line.
TOPICS = (
    "models",
    "sampling",
    "recipes",
    "evaluation",
    "paper",
    "scale",
    "speed",
    "exactness",
    "reliability",
    "extending",
)


def guide(
    topic: Annotated[
        str | None, typer.Argument(metavar="TOPIC", help="Which guide; without a topic, the list of guides.")
    ] = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Read the manual: models, sampling, recipes, evaluation, paper, scale, speed, exactness, reliability, extending.

    In a terminal the guide is formatted; elsewhere its Markdown is printed as it is.

    Example: sedd guide sampling
    """
    view = View(json, quiet)
    if topic is None:
        found = [(name, *_heading(_read(name))) for name in TOPICS]
        table = Table("topic", "what it covers", box=None, pad_edge=False)
        for name, _, summary in found:
            table.add_row(name, summary)
        view.result(table)
        keys = ("topic", "title", "summary")
        view.document({"guides": [dict(zip(keys, entry, strict=True)) for entry in found]})
        return
    if topic not in TOPICS:
        raise RequestError(not_one_of("the guide", TOPICS, topic))
    text = _read(topic)
    if json:
        view.document({"topic": topic, "title": _heading(text)[0], "text": text})
    elif view.console.is_terminal:
        view.console.print(Markdown(text), soft_wrap=False)
    else:
        output.write(text)


def _read(topic: str) -> str:
    return (GUIDES / f"{topic}.md").read_text(encoding="utf-8")


def _heading(text: str) -> tuple[str, str]:
    """The title of a guide and its first paragraph in one line."""
    title, summary = text.split("\n\n", 2)[:2]
    return title.removeprefix("# "), " ".join(summary.split())
