"""`sedd prepare`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from sedd_cli.cli import options as o
from sedd_cli.cli.next_commands import command_line, say_commands, training_of
from sedd_cli.cli.option_groups import reading_options, refuse_unused
from sedd_cli.cli.outcome import continues, output
from sedd_cli.cli.view.view import View
from sedd_cli.errors import RequestError
from sedd_cli.system.software import recorded

if TYPE_CHECKING:
    from sedd_cli.data.manifest import Manifest

_SHOWING = "Showing what is prepared"
#: Options that have an effect on --list.
OF_THE_LIST = {"show_list", "imports", "json", "quiet"}
#: Shown after Ctrl-C.
RESUME = partial(continues, "finished shards are kept")


@reading_options
def prepare(
    context: typer.Context,
    reading: dict[str, Any],
    corpus: Annotated[
        str | None,
        typer.Argument(
            metavar="CORPUS", help="A known corpus (--list), a text, .jsonl, .csv or .parquet file, a folder, a hub id."
        ),
    ] = None,
    local: Annotated[
        Path | None, typer.Option("--from", metavar="PATH", help="Local copy of the original files of a known corpus.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="char, bpe:N, byte, text8, gpt2, a tiktoken or hub name, a file, a folder or a run. Default: bpe:N by "
            "the size of a text of your own; for others see --list.",
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Prepare only this split.")] = None,
    hold_out: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How a text of your own is divided: hash (5 % of the documents each for validation and test), tail "
            "(the last 10 % of the text for validation).",
        ),
    ] = "hash",
    workers: Annotated[
        int | None, typer.Option(metavar="INT", help="Threads; their number never changes the result.")
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List known and prepared corpora.", rich_help_panel=_SHOWING)
    ] = False,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Show counts and a few decoded blocks.", rich_help_panel=_SHOWING)
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the sha256 of every file.", rich_help_panel=_SHOWING)
    ] = False,
    json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Tokenise a text into shards, once; a corpus that is prepared is recognised.

    After an interruption the same command continues. Data live under $SEDD_HOME. The command for a training on the
    text is shown at the end.

    Example: sedd prepare my.txt --tokenizer bpe:4096
    """
    from sedd_cli.data import prepared as datasets
    from sedd_cli.data.prepare import prepare as job
    from sedd_cli.data.shards import open_dataset

    view = View(json, quiet)
    if show_list:
        unused = {param.name for param in context.command.params if param.name} - OF_THE_LIST
        refuse_unused(context, unused, "--list")
        _show_catalogue(view, datasets.catalogue())
        return
    if corpus is None:
        raise RequestError("name a corpus, as in: sedd prepare pydocs; sedd prepare --list shows those that are known")
    options = datasets.PrepareOptions(
        corpus=corpus,
        local=local,
        split=split,
        hold_out=hold_out,
        tokenizer=tokenizer,
        workers=workers,
        **reading,
    )
    result = view.run(job(options), RESUME)
    document = result.to_dict()
    output.stored = not (verify or inspect)
    view.say(f"{'prepared' if result.fresh else 'already prepared'}: {result.folder}", "bold")
    view.result(_counts(result.manifest))
    if not result.fresh and (said := [line for line in result.manifest.remarks if line.startswith("splits by")]):
        view.say(said[0], "dim")
    if verify:
        verified = view.run(datasets.verify(result.folder), "interrupted: the prepared text is kept")
        document["verified"] = verified.to_dict()
        view.say(f"verified: {verified.files} files are unchanged", "green")
    if inspect:
        document["inspected"] = datasets.inspect(open_dataset(result.folder))
        _show_blocks(view, document["inspected"])
    if words := training_of(options, result.manifest, result.folder):
        document["train"] = command_line(words)
        say_commands(view, [words])
    view.document(recorded(document))


def _counts(manifest: Manifest) -> Table:
    """The sizes of each split."""
    made = f"{manifest.corpus} in {manifest.tokenizer}, detokenizer {manifest.detokenizer}"
    table = Table(title=made, title_justify="left", header_style="bold")
    table.add_column("split")
    for name in ("documents", "tokens", "characters", "unknown", "shards"):
        table.add_column(name, justify="right")
    for split, info in manifest.splits.items():
        counts = (info.documents, info.tokens, info.characters, info.unknown, len(info.shards))
        table.add_row(split, *(f"{count:,}" for count in counts))
    return table


def _show_blocks(view: View, found: dict[str, Any]) -> None:
    """The first blocks of every split, as text. Their lines are not broken."""
    heading = f"vocabulary {found['vocab_size']:,}  {found['dtype']}  fingerprint {found['fingerprint'][:12]}"
    shown = [Text(heading, "dim")]
    for split, info in found["splits"].items():
        for number, block in enumerate(info["blocks"]):
            shown += [Text(f"--- {split}, block {number} ---", "dim"), Text(block)]
    if view.shows_result:
        view.console.print(*shown, sep="\n", soft_wrap=True)


def _show_catalogue(view: View, found: dict[str, Any]) -> None:
    """Known corpora, then prepared ones."""
    from sedd_cli.cli.view.two_lines import INDENT, shortened_to, two_lines

    width = view.console.width
    heads, room = ("name", "size", "tokenizer", "licence"), width - len(INDENT)
    known = [([Text(c[head]) for head in heads], shortened_to(c["about"], room)) for c in found["corpora"]]
    view.result(two_lines(heads, known, width))
    if found["prepared"]:
        view.result(Text(f"\nprepared in {found['folder']}:", "bold"))
        for entry in found["prepared"]:  # the name is whole, to be copied
            tokens = ", ".join(f"{split} {count:,}" for split, count in entry["splits"].items())
            made = shortened_to(f"{entry['corpus']} in {entry['tokenizer']}, tokens: {tokens}", room)
            view.result(Text(Path(entry["folder"]).name).append(f"\n{INDENT}{made}", "dim"))
    else:
        view.say(f"nothing is prepared yet in {found['folder']}; begin with: sedd prepare pydocs")
    view.document(found)
