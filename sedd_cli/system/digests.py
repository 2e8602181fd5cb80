"""sha256 of files and of JSON values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from sedd_cli.system.json_lines import finite

_CANONICAL: dict[str, Any] = {"sort_keys": True, "ensure_ascii": True, "separators": (",", ":")}


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, in hexadecimal; the file is read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def digest(value: Any) -> str:
    """sha256 of a JSON value in a canonical spelling (sorted keys, ASCII, no spaces), in hexadecimal.

    NaN and the infinities count as null, which files hold in their place.
    """
    try:
        text = json.dumps(value, allow_nan=False, **_CANONICAL)
    except ValueError:  # rare: going through every value takes longer than writing them
        text = json.dumps(finite(value), **_CANONICAL)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
