"""A sample or filling when it is done: its title, its text, and how both are shown."""

from __future__ import annotations

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sedd_cli.errors import plus_minus
from sedd_cli.inference.names import name_of
from sedd_cli.system.events import Filled, Sampled
from sedd_cli.system.json_lines import json_text

#: Cells that the border of a panel takes from its title, and most of a name beside a text.
BORDER, NAME = 6, 20


def body_of(event: Sampled) -> str:
    """The text of a sample; its ids where the model has no tokenizer."""
    return event.text if event.text is not None else " ".join(map(str, event.tokens))


def row_of(event: Sampled) -> str:
    """What --quiet prints: the text, behind the id and a tab where it fills a line of a batch that has one."""
    named = (event.job or {}).get("id") if isinstance(event, Filled) else None
    if named is None:
        return body_of(event)
    plain = isinstance(named, str) and named.isprintable()
    return f"{named if plain else json_text(named)}\t{body_of(event)}"


def title_of(event: Sampled) -> list[str]:
    """The heading of a sample: its name, its cost, and the options that change its distribution."""
    name = name_of(event) + (f" at step {event.at_step:,}" if event.at_step is not None else "")
    return [name, *_candidate(event), f"{event.nfe} evaluations", f"{event.seconds:.1f} s", *_way(event)]


def panel(event: Sampled, width: int) -> Panel:
    """The text in a frame; what does not fit into its upper edge stands below the text."""
    facts, shown = title_of(event), 1
    while shown < len(facts) and cell_len(" · ".join(facts[: shown + 1])) <= width - BORDER:
        shown += 1
    title, rest = " · ".join(facts[:shown]), " · ".join(facts[shown:])
    inside = Group(_marked(event), Text(rest, "dim")) if rest else _marked(event)
    return Panel(inside, title=Text(title), title_align="left", border_style="dim")


def plain(event: Sampled) -> Text:
    """The text under its title."""
    return Text(f"--- {' · '.join(title_of(event))} ---\n").append(_marked(event)).append("\n")


class BatchRows:
    """The results of a batch, one beside its name each; how they are drawn is printed where it changes."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def row(self, event: Filled) -> RenderableType:
        """What to print for a result."""
        way, candidate, name = _way(event), _candidate(event), name_of(event)
        said = [Text(f"by {' · '.join(way)}", "dim")] if way and way != self._said else []
        self._said = way
        marked = _marked(event)
        text = Group(marked, Text(" · ".join(candidate), "dim")) if candidate else marked
        if cell_len(name) > NAME:
            return Group(*said, Text(name, "bold"), text)
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_row(Text(name, "bold"), text)
        return Group(*said, grid)


def _marked(event: Sampled) -> Text:
    """The text, in which what was given has a colour."""
    body = Text(body_of(event))
    for start, stop in event.given:
        body.stylize("bold cyan", start, stop)
    return body


def _candidate(event: Sampled) -> list[str]:
    """Which candidate a filling is, where there were several."""
    if not isinstance(event, Filled) or event.candidates == 1:
        return []
    which = f"candidate {event.candidate + 1}" if event.candidate else "best"
    found = [f"{which} of {event.candidates}", f"gaps of {' and '.join(map(str, event.lengths))} tokens"]
    assert event.bound is not None  # candidates are compared by it
    return [*found, f"≤ {plus_minus(event.bound, event.bound_error, 2)} nats/token"]


def as_option(name: str) -> str:
    """A name as options spell it."""
    return name.replace("_", "-")


def _way(event: Sampled) -> list[str]:
    """The sampler, where it is not the usual one, and options that change the distribution."""
    found = [as_option(event.sampler)] if event.sampler != "tweedie" else []
    found += [
        as_option(name) if value is True else f"{as_option(name)} {value}" for name, value in event.levers.items()
    ]
    if isinstance(event, Filled) and event.plain_edges:
        found.append("spaces before gaps are tokens of their own")
    return found
