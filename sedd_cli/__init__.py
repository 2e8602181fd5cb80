"""Score entropy discrete diffusion (SEDD) language models.

    >>> from sedd_cli import load_model
    >>> model = load_model("runs/quickstart")
    >>> model.infill(prefix="Return the ", suffix=" of the list.", length=24)

Importing the package does not import torch: the public names are resolved on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "evaluate", "load_model", "prepare", "train"]
#: Public name → module that holds it.
_WHERE = {
    "Model": "sedd_cli.inference.model",
    "load_model": "sedd_cli.inference.model",
    "evaluate": "sedd_cli.api.work",
    "prepare": "sedd_cli.api.work",
    "train": "sedd_cli.api.work",
}

if TYPE_CHECKING:
    from sedd_cli.api.work import evaluate, prepare, train
    from sedd_cli.inference.model import Model, load_model


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
