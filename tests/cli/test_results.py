"""Tables of results: values with their errors, beside those of the paper."""

from __future__ import annotations

import pytest
from rich.console import Console

from sedd_cli.cli.view.results import bounds_table, comparison, model_name
from sedd_cli.errors import plus_minus


def printed(table) -> str:
    console = Console(width=110, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.fixture
def result():
    metrics = {
        "bits_per_char": 1.234, "bits_per_char_error": 0.004, "bits_per_byte": 1.23, "between_documents_error": 0.05,
        "perplexity": 41.5, "perplexity_error": 0.125,
    }  # fmt: skip
    return {
        "model": "louaaron/sedd-small", "estimator": "count", "corpus": "wikitext2", "split": "test", "tokens": 1000,
        "characters": 4000, "bounds": {"rigorous": metrics, "sedd-paper": metrics | {"perplexity": 41.25}},
    }  # fmt: skip


def test_the_papers_value_stands_beside_its_own_protocol_with_its_split(result):
    result["paper"] = {"value": 41.84, "unit": "perplexity", "split": "train", "table": 1}
    rigorous, paper = (line for line in printed(bounds_table(result)).splitlines() if "SEDD " in line)
    assert "SEDD ≤ (rigorous)" in rigorous
    assert "SEDD ≈ (sedd-paper)" in paper
    assert "41.84" not in rigorous
    assert "41.84 ppl on train" in paper
    assert "41.25 ± 0.12" in paper
    result["split"] = "train"
    assert "41.84 ppl " in printed(bounds_table(result))
    assert "on train" not in printed(bounds_table(result))


def test_the_sampler_stands_beside_its_bound(result):
    result["bounds"] = {"sampler": result["bounds"]["rigorous"] | {"process": "tweedie in 16 steps"}}
    assert "SEDD ≤ (sampler: tweedie in 16 steps)" in printed(bounds_table(result))
    assert "sampler: tweedie in 16 steps" in printed(comparison([result, result]))


def test_the_gap_to_a_known_source_is_that_of_the_true_bound(result):
    result["baselines"] = {"5-gram": 1.5, "the source itself": 1.2, "entropy rate": 1.1}
    text = printed(bounds_table(result))
    (gap,) = (line for line in text.splitlines() if "gap to the source" in line)
    assert "0.034 ± 0.004" in gap
    assert "5-gram (of train)" in text


def test_an_exact_likelihood_is_no_bound_and_has_no_error(result):
    del result["estimator"]
    for metrics in result["bounds"].values():
        metrics["bits_per_char_error"] = metrics["perplexity_error"] = 0.0
    text = printed(bounds_table(result))
    assert "sedd-small = (rigorous)" in text
    assert "≤" not in text
    assert "≈" not in text
    assert "±" not in text.replace("± text", "")


def test_where_the_choice_of_text_is_lost_among_the_draws_the_table_says_so(result):
    assert "lost in the error" not in printed(bounds_table(result)) + printed(comparison([result, result]))
    result["bounds"]["rigorous"] |= {"between_documents_error": None, "blocks": 64}
    for table in (bounds_table(result), comparison([result, result])):
        assert "± text -: lost in the error of the draws" in " ".join(printed(table).split())
    result["bounds"]["rigorous"]["blocks"] = 1
    assert "lost in the error" not in printed(bounds_table(result))


def test_several_texts_in_one_table(result):
    other = result | {"corpus": "ptb", "paper": {"value": 114.24, "unit": "perplexity", "split": "test", "table": 1}}
    text = printed(comparison([result, other]))
    assert text.count("wikitext2 test") == 2
    assert text.count("114.24") == 1


def test_a_value_without_an_error_stands_alone():
    assert plus_minus(1.25, None, 1) == "1.2"
    assert plus_minus(1.25, 0.5, 2) == "1.25 ± 0.50"


@pytest.mark.parametrize(
    ("error", "digits", "shown"), [(4e-4, 3, "<0.0005"), (6e-4, 3, "0.001"), (1e-9, 2, "<0.005"), (0.3, 0, "<0.5")]
)
def test_no_error_is_rounded_to_nothing(error, digits, shown):
    assert plus_minus(1, error, digits).endswith(f" ± {shown}")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("absorbing", "SEDD"), ("uniform", "SEDD"), ("", "SEDD"), ("autoregressive", "autoregressive"),
        ("plug_in_score_entropy uniform", "plug-in"), ("masked_cross_entropy absorbing", "masked CE"),
        ("my_own_loss hybrid", "my own loss"),
    ],
)  # fmt: skip
def test_a_model_bears_the_name_of_its_objective_and_only_one_of_score_entropy_that_of_sedd(result, kind, name):
    assert model_name(kind) == name
    result["kind"] = kind
    assert f"{name} ≤ (rigorous)" in printed(bounds_table(result))


def test_no_registered_objective_but_score_entropy_is_called_sedd():
    from sedd_cli.core.losses import OBJECTIVES

    kinds = [f"{name} uniform" for name in OBJECTIVES if name not in ("score_entropy", "autoregressive")]
    assert all(model_name(kind) != "SEDD" for kind in kinds)
