"""`sedd mauve`: references, generations, features, score."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sedd_cli.checkpoints.loaded_model import LoadedModel
from sedd_cli.evaluation.mauve.features import features, scores
from sedd_cli.evaluation.mauve.generations import generations
from sedd_cli.evaluation.mauve.options import MauveOptions
from sedd_cli.evaluation.mauve.references import encoded, read_references
from sedd_cli.evaluation.mauve.writers import writer_for
from sedd_cli.evaluation.scorers.causal import CausalModel
from sedd_cli.evaluation.scorers.reader import Reader, load_reader
from sedd_cli.system.events import Event, Finished, Note, Warn
from sedd_cli.system.software import software

#: Samples a side below which the score is noticeably biased: the advice of mauve-text, after Pillutla et al. 2021.
ENOUGH = 5000
#: Below this many there are hardly clusters to compare.
FEW = 500


def mauve(
    model: LoadedModel | CausalModel, options: MauveOptions, device: str = "auto", reader: Reader | None = None
) -> Iterator[Event]:
    """Generate, featurise, cluster; the last event is Finished with everything to repeat it.

    Features come from `reader` where one is given, else from the model that the options name, on `device`.
    Generations are kept as they come, and a run that was interrupted goes on behind the last whole batch; features
    are kept too. Raises RequestError for a request that cannot be met, WorkError for features that are not finite.
    """
    writer = writer_for(model, options)
    references = read_references(writer, options)
    reader = reader or load_reader(options.features, device)  # before the work: it may be out of reach
    reader.encode([""])  # so may its tokenizer
    yield Note(
        f"{options.count:,} references of {options.length} tokens, passed over: {references.short:,} shorter ones"
        + (f", {references.unknown:,} that the tokenizer cannot express" if references.unknown else "")
    )
    made = yield from generations(writer, references, options)
    sides, changed = [], {}
    for side, rows in (("references", references.rows), ("generations", [one["tokens"] for one in made])):
        if len(rows) < ENOUGH:
            few = ", and of so few says next to nothing" if len(rows) < FEW else ""
            yield Warn(f"{len(rows):,} {side}, fewer than {ENOUGH:,}: the score is biased{few} (Pillutla et al. 2021)")
        read = (
            rows
            if writer.ids is not None and writer.ids == reader.ids
            else list(encoded(reader, map(writer.decode, rows)))
        )
        changed[side] = sum(len(ids) != options.length for ids in read)
        sides.append(
            (yield from features(reader, [ids[: reader.feature_context] for ids in read], side, options.batch))
        )
    if any(changed.values()):
        yield Note(
            f"{changed['references']:,} references and {changed['generations']:,} generations have another length in "
            f"the tokens of {reader.source}"
        )
    found = yield from scores(*sides, options.seeds)
    yield Finished(
        {
            **found,
            "mode": options.mode,
            "prompt": options.prompt,
            "new": options.new,
            "references": {
                "source": options.references,
                "split": references.split,
                "fingerprint": references.fingerprint,
                "count": len(references.rows),
                "short": references.short,
                "unknown": references.unknown,
            },
            "generations": {"count": len(made), "of_each": options.generations},
            "model": model.source,
            "seed": options.seed,
            "sampler": {
                **writer.sampler_facts,
                "nfe_mean": float(np.mean([one["nfe"] for one in made])),
                "draw_precision": "float64",
            },
            "precision": writer.precision,
            "features": {"model": reader.source, "fingerprint": reader.fingerprint, "changed_length": changed},
            "software": software("torch", *model.libraries, *reader.libraries, "mauve-text"),
        }
    )
