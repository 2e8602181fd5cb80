"""Features of both sides, kept; and the score of their clusters."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sedd_cli.errors import WorkError
from sedd_cli.evaluation.scorers.reader import Reader
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Note, Progress
from sedd_cli.system.files import save_array
from sedd_cli.system.home import home


def features(reader: Reader, rows: list[list[int]], side: str, batch: int) -> Generator[Event, None, np.ndarray]:
    """[n, D] float32 of texts in the feature model's ids; kept under the fingerprint of the model and of the ids."""
    path = home() / "features" / f"{digest([reader.fingerprint, rows])}.npy"
    if (kept := _kept_features(path, len(rows))) is not None:
        yield Note(f"features of the {side} are there: {path}")
        return kept
    parts = []
    for start in range(0, len(rows), batch):
        parts.append(reader.features(rows[start : start + batch], batch))
        yield Progress(f"features of the {side}", min(start + batch, len(rows)), len(rows), "texts")
    found = np.concatenate(parts)
    if bad := int((~np.isfinite(found)).any(1).sum()):
        raise WorkError(f"{reader.source} gave features that are not finite for {bad:,} of {len(found):,} {side}")
    try:
        save_array(path, found)
    except OSError as error:
        raise WorkError(f"cannot keep features in {path.parent}: {error.strerror}; choose another SEDD_HOME") from None
    return found


def _kept_features(path: Path, count: int) -> np.ndarray | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or damaged
        return None
    return found if found.ndim == 2 and len(found) == count else None


def scores(p: np.ndarray, q: np.ndarray, seeds: int) -> Generator[Event, None, dict[str, Any]]:
    """MAUVE of features p, q [n, D] for each seed of k-means; the spread over seeds is a standard deviation (n − 1)."""
    from mauve import compute_mauve

    found = []
    for seed in range(seeds):
        yield Progress("clustering", seed, seeds, "seeds")
        with _hushed():
            found.append(compute_mauve(p_features=p, q_features=q, seed=seed, verbose=False))
    yield Progress("clustering", seeds, seeds, "seeds")
    values = [float(one.mauve) for one in found]
    if not np.isfinite(values).all():
        raise WorkError(f"mauve-text gave {values}: the features cannot be clustered")
    return {
        "mauve": float(np.mean(values)),
        "mauve_std": float(np.std(values, ddof=1)) if seeds > 1 else 0.0,
        "values": values,
        "clusters": int(found[0].num_buckets),
        "frontier_integral": float(np.mean([one.frontier_integral for one in found])),
    }


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what faiss writes to standard error itself: a cluster for every ten points is MAUVE's own choice."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
