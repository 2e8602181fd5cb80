"""Documents → token ids on several threads; order and groups do not depend on the number of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.data.writer import Encoded

GROUP_DOCUMENTS = 1024
GROUP_CHARACTERS = 1 << 20


def encode_stream(
    documents: Iterable[str], tokenizer: Tokenizer, clean: Callable[[str], str], workers: int
) -> Generator[Encoded, None, None]:
    """Encode `documents` group by group, in order. Threads suffice: the tokenizers release Python's lock.

    At most two groups per worker are held, so memory does not grow with the corpus.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[Encoded]] = deque()
    try:
        for group in groups(documents):
            waiting.append(pool.submit(encode_group, group, tokenizer, clean))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
        pool.shutdown()
    except BaseException as error:
        # a library that encodes a long text does not notice Ctrl-C: it is not waited for
        pool.shutdown(wait=not isinstance(error, KeyboardInterrupt | GeneratorExit), cancel_futures=True)
        raise


def groups(documents: Iterable[str]) -> Iterator[list[str]]:
    """Consecutive documents in groups of 1,024, or of a million characters where that comes first."""
    group: list[str] = []
    characters = 0
    for document in documents:
        group.append(document)
        characters += len(document)
        if len(group) >= GROUP_DOCUMENTS or characters >= GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def encode_group(documents: list[str], tokenizer: Tokenizer, clean: Callable[[str], str]) -> Encoded:
    """Clean and encode each document, and append the separator, if the tokenizer has one."""
    texts = [clean(document) for document in documents]
    separator = np.array([] if tokenizer.eos is None else [tokenizer.eos], dtype=np.uint32)
    parts = [part for ids in tokenizer.encode_arrays(texts) for part in (ids, separator)]
    ids = np.concatenate(parts)
    lengths = np.array([part.size for part in parts]).reshape(-1, 2).sum(axis=1)
    return Encoded(
        ids=ids,
        ends=np.cumsum(lengths),
        characters=sum(len(text) for text in texts),
        bytes=sum(len(text.encode("utf-8")) for text in texts),
        unknown=0 if tokenizer.unknown is None else int((ids == tokenizer.unknown).sum()),
    )
