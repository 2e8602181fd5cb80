"""Tables of results: values with their errors, beside those of the paper."""

from __future__ import annotations

import pytest
from rich.console import Console

from sedd_cli.cli.view.results import bounds_table, comparison, plus_minus


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


def test_several_texts_in_one_table(result):
    other = result | {"corpus": "ptb", "paper": {"value": 114.24, "unit": "perplexity", "split": "test", "table": 1}}
    text = printed(comparison([result, other]))
    assert text.count("wikitext2 test") == 2
    assert text.count("114.24") == 1


def test_a_value_without_an_error_stands_alone():
    assert plus_minus(1.25, None, 1) == "1.2"
    assert plus_minus(1.25, 0.5, 2) == "1.25 ± 0.50"
