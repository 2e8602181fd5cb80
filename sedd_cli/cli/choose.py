"""Which model a command works on: the one named, else the newest run, else the published small one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli.cli.view import View

if TYPE_CHECKING:
    from sedd_cli.runs.exact import ExactModel
    from sedd_cli.runs.model import Model

PUBLISHED = "louaaron/sedd-small"


def choose_model(view: View, named: str | None, device: str, precision: str, tokenizer: str | None) -> Model:
    """Load the model and say in one line what it is."""
    from sedd_cli.runs.model import load_model
    from sedd_cli.runs.rundir import newest_run

    source = named or newest_run(Path("runs"))
    if source is None:
        view.say(f"no run under ./runs (sedd train quickstart makes one): taking {PUBLISHED}")
        source = PUBLISHED
    model = load_model(source, device, precision, tokenizer)
    view.say(f"model {model.describe()}", "dim")
    return model


def choose_any(view: View, named: str | None, device: str, precision: str, tokenizer: str | None) -> Model | ExactModel:
    """As `choose_model`, or a causal language model of transformers where one is named."""
    from sedd_cli.runs.exact import load_exact
    from sedd_cli.runs.pretrained import is_causal

    if named is None or not is_causal(named):
        return choose_model(view, named, device, precision, tokenizer)
    model = load_exact(named, device, precision, tokenizer)
    view.say(f"model {model.describe()}", "dim")
    return model
