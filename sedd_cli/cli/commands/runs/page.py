"""A comparison of runs as a page, with its figure inside."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from sedd_cli.cli.view.runs import comparison_rows, spelled
from sedd_cli.errors import printable

if TYPE_CHECKING:
    from sedd_cli.training.runs.compare import Comparison

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .8rem; text-align: left; vertical-align: top; }}
th {{ border-bottom: 1px solid #888; }} tr td:first-child {{ color: #666; }} img {{ max-width: 100%; }}
</style></head><body>
<h1>{title}</h1>
<table><tr><th></th>{heads}</tr>
{rows}
</table>
<ul>{verdicts}</ul>
<img alt="Learning curves in {unit}" src="data:image/png;base64,{figure}">
</body></html>
"""


def comparison_page(found: Comparison) -> str:
    """The table, the verdicts and the curves as HTML without links to other files."""
    from sedd_cli.system.plotting import as_png
    from sedd_cli.training.runs.figure import curves_figure

    rows = (
        f"<tr><td>{escape(printable(key))}</td>{''.join(f'<td>{escape(printable(v))}</td>' for v in values)}</tr>"
        for key, values in comparison_rows(found).items()
    )
    return PAGE.format(
        title=escape(printable(" and ".join(str(one.run) for one in found.runs))),
        heads="".join(f"<th>{letter}</th>" for letter in found.letters),
        rows="\n".join(rows),
        verdicts="".join(f"<li>{escape(printable(spelled(one)))}</li>" for one in found.verdicts),
        unit=found.curves[0].unit,
        figure=base64.b64encode(as_png(curves_figure(found))).decode(),
    )
