"""Batches as torch tensors, read ahead on a thread."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sedd_cli.data.loader import Loader

if TYPE_CHECKING:
    from torch import Tensor


def prefetch(
    loader: Loader, step: int, start: int = 0, stop: int | None = None, depth: int = 2, pin: bool | None = None
) -> Generator[Tensor, None, None]:
    """Rows start to stop of the batches from `step` on, int64 tensors [stop - start, length] on the CPU, without end.

    A thread keeps `depth` batches ready, so that reading costs the training loop no time. pin: put them in
    page-locked memory, from which a GPU copies while it computes (None: where there is a GPU). An error of the
    loader is raised at the batch it belongs to. Closing the iterator ends the thread.
    """
    import torch

    pin = torch.cuda.is_available() if pin is None else pin

    def load(step: int):
        batch = torch.from_numpy(loader.batch(step, start, stop))
        return batch.pin_memory() if pin else batch

    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        ready = [thread.submit(load, step + ahead) for ahead in range(depth)]
        try:
            while True:
                step += 1
                ready.append(thread.submit(load, step + depth - 1))
                yield ready.pop(0).result()
        finally:
            for future in ready:
                future.cancel()
