"""Folders of tiny networks that other projects' code has saved, with what it makes of them (`io.npz`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

#: Beside the repository, unless the environment says where.
PEERS = Path(os.environ.get("SEDD_PEERS", Path(__file__).parents[3] / "shared" / "data" / "peers"))


def peer(name: str) -> tuple[Path, Any]:
    """The folder of a name and its arrays; the test is skipped where they are absent."""
    if not (PEERS / name / "io.npz").is_file():
        pytest.skip(f"no folder {name} of other projects' networks: SEDD_PEERS names where they are")
    return PEERS / name, np.load(PEERS / name / "io.npz")
