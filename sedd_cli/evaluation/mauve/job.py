"""`sedd mauve`: references, generations, features, score."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.errors import RequestError
from sedd_cli.evaluation.controls import marks
from sedd_cli.evaluation.diversity import Diversity
from sedd_cli.evaluation.mauve.features import features, scores
from sedd_cli.evaluation.mauve.generations import Keeping, generations
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.mauve.references import encoded, read_references
from sedd_cli.evaluation.mauve.results import DiversityFacts, FeatureFacts, GenerationFacts, MauveResult, ReferenceFacts
from sedd_cli.evaluation.mauve.writers import Writer, writer_for
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.scorer import Scorer, load_scorer
from sedd_cli.system.events import Event, Note, Warn
from sedd_cli.system.software import software

#: Texts a side below which the score is noticeably biased, as mauve-text recommends after Pillutla et al. 2021.
ENOUGH = 5000
#: Texts a side below which there are hardly any clusters to compare.
FEW = 500


def mauve(
    model: LoadedModel | CausalModel, options: MauveOptions, device: str = "auto", reader: Scorer | None = None
) -> Generator[Event, None, MauveResult]:
    """Generate texts, compute features, cluster them.

    Generations and features are cached: an interrupted run resumes after the last whole batch.

    Args:
        reader: gives the features; by default the model that the options name, loaded on `device`.

    Raises:
        RequestError: for a request that cannot be met.
        WorkError: for features that are not finite.
    """
    writer = writer_for(model, options)
    references = read_references(writer, options)
    if references.note:
        yield Note(references.note)
    reader = reader or load_scorer(options.features, device)  # before the work, since it may be unreachable
    reader.encode([""])  # so may its tokenizer
    if options.length > reader.feature_context:
        raise RequestError(
            f"{reader.source}, which gives the features, reads {reader.feature_context:,} tokens, and the texts have "
            f"{options.length:,}: shorten --prompt or --new"
        )
    yield Note(
        f"{options.count:,} references of {options.length} tokens, skipped: {references.short:,} shorter ones"
        + (f", {references.unknown:,} that the tokenizer cannot express" if references.unknown else "")
    )
    keeping = Keeping()
    made = yield from generations(writer, references, options, keeping)
    generated = [one.tokens for one in made]
    real_features, real_changed = yield from _side("references", references.rows, writer, reader, options, keeping)
    own_features, own_changed = yield from _side("generations", generated, writer, reader, options, keeping)
    if real_changed or own_changed:
        yield Note(
            f"{real_changed:,} references and {own_changed:,} generations have another length in the tokens of "
            f"{reader.source}"
        )
    score = yield from scores(real_features, own_features, options.seeds)
    real, own = Diversity.of(references.rows), Diversity.of(generated[:: options.generations])
    nfe = float(np.mean([one.nfe for one in made]))
    return MauveResult(
        score=score,
        mode=options.mode,
        prompt=options.prompt,
        new=options.new,
        references=ReferenceFacts(
            source=options.references,
            split=references.split,
            fingerprint=references.fingerprint,
            count=len(references.rows),
            short=references.short,
            unknown=references.unknown,
        ),
        generations=GenerationFacts(len(made), options.generations),
        model=model.source,
        seed=options.seed,
        sampler={**writer.sampler_facts, "nfe_mean": nfe, "draw_precision": writer.draws},
        precision=writer.precision,
        features=FeatureFacts(
            reader.source, reader.fingerprint, {"references": real_changed, "generations": own_changed}
        ),
        software=software("torch", *model.libraries, *reader.libraries, "mauve-text"),
        diversity=DiversityFacts(real, own, list(marks(own, real))),
    )


def _side(
    name: str, rows: list[list[int]], writer: Writer, reader: Scorer, options: MauveOptions, keeping: Keeping
) -> Generator[Event, None, tuple[np.ndarray, int]]:
    """Features [n, D] of the texts of one side, and how many have another length in the reader's ids.

    rows: the texts as the writer's ids.
    """
    if len(rows) < ENOUGH:
        few = " and hardly means anything" if len(rows) < FEW else ""
        yield Warn(f"{len(rows):,} {name}, fewer than {ENOUGH:,}: the score is biased{few} (Pillutla et al. 2021)")
    same_ids = writer.ids is not None and writer.ids == reader.ids
    read = rows if same_ids else list(encoded(reader, map(writer.decode, rows)))
    changed = sum(len(ids) != options.length for ids in read)
    if cut := sum(len(ids) > reader.feature_context for ids in read):
        yield Warn(f"{cut:,} {name} are cut to the {reader.feature_context:,} tokens that {reader.source} reads")
    rows = [ids[: reader.feature_context] for ids in read]
    found = yield from features(reader, rows, name, options.batch, keeping)
    return found, changed
