"""The prepared text of a run: which it is, what is known of it on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.checkpoint import latest_name
from sedd_cli.data.folders import prepared
from sedd_cli.errors import DamageError
from sedd_cli.system.documents import read_json
from sedd_cli.training.runs.stored import StoredBound, stored_bounds


def data_of(run: Path, own: Sequence[StoredBound] = (), train: Sequence[dict[str, Any]] = ()) -> str | None:
    """The fingerprint of the data that a run was trained on; None where no checkpoint, result or record has it."""
    try:
        if (name := latest_name(run)) is not None:
            return str(read_json(run / "checkpoints" / name / "state.json")["data"])
    except (OSError, KeyError, TypeError, DamageError):
        pass
    if own:
        return own[-1].fingerprint
    return next((record["data"] for record in reversed(train) if isinstance(record.get("data"), str)), None)


def bits_of_a_nat(data: str) -> float | None:
    """Bits per character that one nat per token makes in the held-out text; None where it is not on this machine."""
    for _, manifest in prepared():
        if manifest.fingerprint == data:
            name = next((n for n in ("test", "validation", "train") if n in manifest.splits), None)
            split = manifest.splits[name] if name else None
            return split.tokens / split.characters / math.log(2) if split and split.characters else None
    return None


def baselines_beside(run: Path, data: str) -> dict[str, float]:
    """Bits per character of n-gram models on this text, from the results of the runs beside this one."""
    beside = [path.parent.parent for path in sorted(run.absolute().parent.glob("*/results/*.json"))]
    found = [one for folder in dict.fromkeys(beside) for one in stored_bounds(folder) if one.fingerprint == data]
    known = [one for one in found if one.baselines]
    return max(known, key=lambda one: one.split == "test").baselines if known else {}
