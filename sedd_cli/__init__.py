"""Score entropy discrete diffusion (SEDD) language models.

    >>> from sedd_cli import load_model
    >>> model = load_model("runs/quickstart")
    >>> model.infill(prefix="Return the ", suffix=" of the list.", length=24)

Importing the package does not import torch: the public names are resolved on first use.
"""

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load_model"]


def __getattr__(name: str) -> object:
    if name == "Model":
        from sedd_cli.inference.model import Model

        return Model
    if name == "load_model":
        from sedd_cli.inference.model import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
