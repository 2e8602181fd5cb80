"""Likelihoods of answers given their prompts, by LLaDA's estimate and over the tokens alone."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.data.formats import ReadOptions
from sedd_cli.data.formats.files import Input
from sedd_cli.data.formats.records import encodable, json_lines_of, repeated_keys
from sedd_cli.data.tokenizers import Tokenizer
from sedd_cli.errors import RequestError, displayed
from sedd_cli.evaluation.likelihood.llada import AnswerLikelihood, answer_likelihoods
from sedd_cli.system.digests import digest
from sedd_cli.system.events import Event, Progress
from sedd_cli.system.files import near


@dataclass(frozen=True)
class Pair:
    """A prompt and its answer."""

    prompt: str
    answer: str

    def tokens(self, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Ids of both, encoded together; spaces that end the prompt begin the answer."""
        context = self.prompt.rstrip()
        whole, first = tokenizer.encode(self.prompt + self.answer), tokenizer.encode(context)
        return whole[: len(first)], whole[len(first) :]


@dataclass(frozen=True)
class AnswersResult:
    """The estimates for each pair: LLaDA's, and those over the tokens alone, as our samplers draw.

    file: where the pairs are from. fingerprint: of their texts.
    """

    model: str
    model_fingerprint: str
    file: str | None
    fingerprint: str
    seed: int
    precision: str
    device: str
    pairs: tuple[tuple[AnswerLikelihood, AnswerLikelihood], ...]

    def to_dict(self) -> dict[str, Any]:
        answers = [{"llada": asdict(theirs), "tokens": asdict(ours)} for theirs, ours in self.pairs]
        known = {"protocol": "llada"} | {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pairs"}
        return {**known, "answers": answers}


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of JSON lines with the fields prompt and answer; RequestError names a wrong line."""
    if not path.is_file():
        raise RequestError(
            f"cannot read {path}: it is a folder" if path.is_dir() else f"cannot read {path}: no such file{near(path)}"
        )
    pairs = []
    for where, record in json_lines_of(Input.of(path), ReadOptions()):
        prompt, answer = (record.get(key) if isinstance(record, dict) else None for key in ("prompt", "answer"))
        if not isinstance(prompt, str) or not isinstance(answer, str) or not answer:
            raise RequestError(f"{where} needs the texts prompt and answer, found {displayed(record)}")
        if twice := repeated_keys(record):
            raise RequestError(f"{where}: the key {displayed(twice[0])} stands twice")
        pairs.append(Pair(encodable(prompt), encodable(answer)))
    if not pairs:
        raise RequestError(f"{path} holds no pairs of prompt and answer")
    return pairs


def score_answers(
    model: LoadedModel, pairs: Sequence[Pair], seed: int, file: Path | None = None
) -> Generator[Event, None, AnswersResult]:
    """Estimate log p(answer | prompt) of every pair; RequestError for one that the model cannot hold.

    file: where the pairs are from, for the result.
    """
    tokenizer = model.text_tokenizer()
    tokens = [pair.tokens(tokenizer) for pair in pairs]
    for number, (prompt, answer) in enumerate(tokens, 1):
        model.check_beginning(prompt)
        if not answer:
            raise RequestError(f"pair {number:,}: the answer has no tokens of its own after the prompt")
        if (length := len(prompt) + len(answer)) > model.length:
            raise RequestError(f"pair {number:,} has {length:,} tokens, more than the model's {model.length:,}")
    found = []
    for number, (prompt, answer) in enumerate(tokens, 1):
        found.append(answer_likelihoods(model, prompt, answer, seed=seed))
        yield Progress("answers", number, len(tokens), "answers")
    return AnswersResult(
        model.source, model.fingerprint, None if file is None else str(file),
        digest([[pair.prompt, pair.answer] for pair in pairs]), seed, model.precision, str(model.device), tuple(found),
    )  # fmt: skip
