"""Features of texts, cached, and the score of their clusters."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from sedd_cli.errors import WorkError
from sedd_cli.evaluation.mauve.generations import Keeping
from sedd_cli.evaluation.mauve.results import MauveScore
from sedd_cli.evaluation.scorers.scorer import Scorer
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Note, Progress
from sedd_cli.system.files import load_array, save_array
from sedd_cli.system.home import home
from sedd_cli.system.signals import uninterrupted


def features(
    reader: Scorer, rows: list[list[int]], side: str, batch: int, keeping: Keeping
) -> Generator[Event, None, np.ndarray]:
    """Features [n, D] float32 of texts in the reader's ids, cached under the digest of its fingerprint and the ids."""
    path = home() / "features" / f"{digest([reader.fingerprint, rows])}.npy"
    if (cached := _cached_features(path, len(rows))) is not None:
        yield Note(f"features of the {side} are read from the cache: {path}")
        return cached
    parts = []
    for start in range(0, len(rows), batch):
        parts.append(reader.features(rows[start : start + batch], batch))
        yield Progress(f"features of the {side}", min(start + batch, len(rows)), len(rows), "texts")
    found = np.concatenate(parts)
    if bad := int((~np.isfinite(found)).any(1).sum()):
        raise WorkError(f"{reader.source} gave features that are not finite for {bad:,} of {len(found):,} {side}")
    try:
        if keeping.on:
            save_array(path, found)
    except OSError as error:
        yield from keeping.stop(path, error)
    return found


def _cached_features(path: Path, count: int) -> np.ndarray | None:
    found = load_array(path)
    return found if found is not None and found.ndim == 2 and len(found) == count else None


def scores(p: np.ndarray, q: np.ndarray, seeds: int) -> Generator[Event, None, MauveScore]:
    """MAUVE of features p, q [n, D] for each of `seeds` seeds of k-means."""
    from mauve import compute_mauve

    found = []
    for seed in range(seeds):
        yield Progress("clustering", seed, seeds, "seeds")
        with _silenced():
            found.append(uninterrupted(partial(compute_mauve, p_features=p, q_features=q, seed=seed, verbose=False)))
    yield Progress("clustering", seeds, seeds, "seeds")
    values = [float(one.mauve) for one in found]
    if not np.isfinite(values).all():
        raise WorkError(f"mauve-text gave {values}: the features cannot be clustered")
    return MauveScore(
        mauve=float(np.mean(values)),
        mauve_std=float(np.std(values, ddof=1)) if seeds > 1 else 0.0,
        values=values,
        clusters=int(found[0].num_buckets),
        frontier_integral=float(np.mean([one.frontier_integral for one in found])),
    )


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence standard error: faiss warns of a cluster for every ten points, which is how MAUVE is defined."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
