"""Downloads of single files, kept for later."""

from __future__ import annotations

import http.client
import urllib.request
from pathlib import Path

from sedd_cli.data.corpora.hub import UnreachableError
from sedd_cli.errors import disk_full, unwritable
from sedd_cli.system.files import whole_file
from sedd_cli.system.home import home

_PIECE = 1 << 20
_TIMEOUT = 20.0


def download(url: str, size: int | None = None) -> Path:
    """The file behind `url`, kept in $SEDD_HOME/downloads. Raises UnreachableError where it cannot be read completely.

    size: its bytes, if known; otherwise what the server declares is expected. WorkError where the disk is full.
    """
    target = home() / "downloads" / url.rsplit("/", 1)[1]
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, whole_file(target) as beside:
            with beside.open("wb") as out:
                while piece := response.read(_PIECE):
                    out.write(piece)
            found = beside.stat().st_size
            declared = response.headers.get("Content-Length", "")
            expected = int(declared) if size is None and declared.isdecimal() else size
            if expected is not None and found != expected:
                raise UnreachableError(f"{url}: {found:,} bytes came instead of {expected:,}")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and disk_full(error):
            raise unwritable(target, error) from error
        raise UnreachableError(f"{url}: {error}") from error
    return target
