"""How samples read to another language model, and how varied they are."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sedd_cli.data.formats import ReadOptions
from sedd_cli.data.formats.plain import read_text
from sedd_cli.data.formats.records import read_samples
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.diversity import distinct, self_bleu, unigram_entropy
from sedd_cli.evaluation.scorers.reader import Reader
from sedd_cli.system.events import Event, Progress, Sampled, Warn
from sedd_cli.system.software import software

#: Tokens that the judge reads at once.
TOKENS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Samples:
    """Texts, or token ids of `tokenizer`, or both; what is known of how they were drawn."""

    texts: list[str | None]
    tokens: list[list[int] | None]
    tokenizer: Tokenizer | None = None
    nfe: tuple[int, ...] = ()
    draws: str | None = None

    @classmethod
    def of(cls, sampled: Sequence[Sampled], tokenizer: Tokenizer | None) -> Samples:
        """Samples of ours."""
        texts, tokens = [s.text for s in sampled], [s.tokens for s in sampled]
        return cls(texts, tokens, tokenizer, tuple(s.nfe for s in sampled), _one_of(s.draws for s in sampled))

    @classmethod
    def read(cls, path: Path, tokenizer: Tokenizer | None = None) -> Samples:
        """A .jsonl file as `sedd sample --out` writes it (text, tokens, or both), or a text a line.

        tokenizer: what the file's token ids mean. RequestError names the line that cannot be read.
        """
        try:
            if path.suffix == ".jsonl":
                records = [record for _, record in read_samples(path)]
            else:
                records = [{"text": text} for text in read_text(path, ReadOptions(documents="line"))]
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from None
        if not records:
            raise RequestError(f"{path} holds no samples")
        return cls(
            [r.get("text") for r in records],
            [r.get("tokens") for r in records],
            tokenizer,
            tuple(r["nfe"] for r in records if isinstance(r.get("nfe"), int)),
            _one_of(r.get("draws") for r in records),
        )


def _one_of(values: Iterable[str | None]) -> str | None:
    """What all of the values are, None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def judge(reader: Reader, samples: Samples, with_self_bleu: bool) -> Generator[Event, None, dict[str, Any]]:
    """Generative perplexity in both conventions, and diversity; all with what is needed to repeat them.

    The first token of a sample is given, the others are predicted. Where the samples' ids are the judge's own they
    are judged as they are (the paper's way); else their texts are encoded anew. Longer ones than the judge reads are
    judged in stretches that overlap by one token.
    """
    rows, judged = _ids(reader, samples)
    predicted = [row for row in rows if len(row) > 1]
    if not predicted:
        raise RequestError("no sample has two tokens or more: there is nothing to predict")
    if left_out := len(rows) - len(predicted):
        yield Warn(f"{left_out} samples have fewer than two tokens and are left out of the perplexities")
    nats = yield from _nats(reader, predicted)
    counts = np.array([len(row) - 1 for row in predicted])
    if not np.isfinite(nats).all():
        raise RequestError(f"{reader.source} gives {int((~np.isfinite(nats)).sum())} samples no finite likelihood")
    own = [t for t in samples.tokens if t is not None]
    whose = "sampler" if len(own) == len(rows) else "judge"
    own = own if whose == "sampler" else rows
    entropy, entropy_error = unigram_entropy(own)
    result = {
        "judge": reader.source,
        "judge_fingerprint": reader.fingerprint,
        "judge_precision": reader.precision,
        "judged": judged,
        "diversity_in_tokens_of": whose,
        "samples": len(predicted),
        "tokens": int(counts.sum()),
        **_perplexities(nats, counts),
        "unigram_entropy": {"nats": entropy, "error": entropy_error},
        "distinct": {str(n): distinct(own, n) for n in (1, 2, 3)},
        "nfe": float(np.mean(samples.nfe)) if samples.nfe else None,
        "draws": samples.draws,
        "software": software("torch", *reader.libraries),
    }
    if with_self_bleu:
        result["self_bleu"] = self_bleu(own)
    return result


def _ids(reader: Reader, samples: Samples) -> tuple[list[list[int]], str]:
    """What the judge reads of each sample, and whether these are the samples' own ids."""
    ours = samples.tokenizer
    if ours is not None and ours.ids == reader.ids and all(t is not None for t in samples.tokens):
        return [list(t) for t in samples.tokens], "ids"
    texts = [
        text if text is not None else (ours.decode(tokens) if ours is not None else None)
        for text, tokens in zip(samples.texts, samples.tokens, strict=True)
    ]
    if None in texts:
        raise RequestError("samples without a text: name the tokenizer of their ids with --tokenizer")
    return reader.encode(texts), "text"


def _nats(reader: Reader, rows: list[list[int]]) -> Generator[Event, None, np.ndarray]:
    """Nats of each row given its first token, [n]."""
    stretches = [
        (number, row[start : start + reader.context])
        for number, row in enumerate(rows)
        for start in range(0, len(row) - 1, reader.context - 1)
    ]
    stretches.sort(key=lambda stretch: len(stretch[1]))
    nats, done = np.zeros(len(rows)), 0
    while done < len(stretches):
        length = len(stretches[done][1])
        group = [s for s in stretches[done : done + max(1, TOKENS_AT_ONCE // length)] if len(s[1]) == length]
        found = reader.nats_given_first(torch.tensor([ids for _, ids in group], device=reader.device))
        np.add.at(nats, [number for number, _ in group], found.cpu().numpy())
        done += len(group)
        yield Progress("judge", done, len(stretches), "stretches")
    return nats


def _perplexities(nats: np.ndarray, counts: np.ndarray) -> dict[str, Any]:
    """Both conventions with standard errors over samples: the mean of exp(nats/token) of each (SEDD), and exp of all
    nats over all tokens (MDLM; its error by the delta method for a ratio)."""
    n = len(nats)
    each = np.exp(np.minimum(nats / counts, 700.0))
    pooled = math.exp(min(nats.sum() / counts.sum(), 700.0))
    residuals = nats - nats.sum() / counts.sum() * counts
    wide = n > 1
    pooled_error = pooled * math.sqrt(n / (n - 1) * (residuals**2).sum()) / counts.sum() if wide else None
    return {
        "per_sequence": {"perplexity": float(each.mean()), "error": float(each.std(ddof=1) / n**0.5) if wide else None},
        "pooled": {"perplexity": pooled, "error": pooled_error},
    }
