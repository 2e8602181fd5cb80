"""A model card shows names of others as text: no table, code block, heading, link or HTML comes out of them."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
import yaml
from markdown_it import MarkdownIt
from support.published_models import save_published

from sedd_cli import load_model
from sedd_cli.checkpoints import model_card
from sedd_cli.checkpoints.model_card import ModelCard, escaped, fenced
from sedd_cli.checkpoints.portable.layout import published_layout
from sedd_cli.core.schedules import Geometric, LogLinear

HOSTILE = [
    "a | b | c", "`code` ``` x", "two\nlines\n\n# heading", "<img src=x onerror=alert(1)>", "<!-- hidden", "[a](http://b)",
    "![a](b)", "*bold* __bold__ ~~gone~~", "a\\", "&lt;b&gt;", "-- | --", "\x1b[31mred", "a\u202eb", "# title #",
]  # fmt: skip


def tokens(text: str):
    """All tokens of a Markdown text, inline ones too."""
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        yield token
        yield from token.children or ()


@pytest.mark.parametrize("name", HOSTILE)
def test_an_escaped_name_is_one_text_of_its_characters(name):
    found = [token.type for token in tokens(escaped(name))]
    assert set(found) <= {"paragraph_open", "inline", "text", "paragraph_close"}
    shown = "".join(token.content for token in tokens(escaped(name)) if token.type == "text")
    assert shown == model_card.printable(" ".join(name.split()))
    row = [token.type for token in tokens(f"| a | b |\n|---|---|\n| {escaped(name)} | end |")]
    assert row.count("td_open") == 2
    assert row.count("tr_open") == 2


@pytest.mark.parametrize("name", HOSTILE)
def test_a_fence_is_longer_than_what_it_holds(name):
    (block,) = (token for token in tokens(fenced(name)) if token.type != "inline")
    assert block.type == "fence"
    assert block.content == name + "\n"


def test_the_card_claims_of_the_original_code_only_what_was_checked(tmp_path):
    """It knows the loglinear schedule, with one ε, and the geometric one; that it runs was not tried."""

    @dataclasses.dataclass(frozen=True)
    class Own(LogLinear):
        name = "own"

    save_published(tmp_path / "m")
    model = load_model(tmp_path / "m")
    words = {
        LogLinear(): "should read it: .* was not run",
        Geometric(): "should read it: .* was not run",
        LogLinear(eps=0.01): "takes it for another model",
        Own(): "does not read this model",
    }
    for schedule, claim in words.items():
        changed = dataclasses.replace(model, schedule=schedule)
        text = ModelCard(changed, "m", use=published_layout(changed).use).text()
        (line,) = [line for line in text.splitlines() if "original code" in line]
        assert re.search(claim, line), line


def test_the_results_of_an_export_do_not_tell_the_command_line(tmp_path):
    save_published(tmp_path / "m")
    model = load_model(tmp_path / "m")
    bound = {"tokens": 9, "bits_per_char": 1.0, "bits_per_char_error": 0.1, "perplexity": 2.0, "perplexity_error": 0.1}
    result = dict.fromkeys(model_card.KEYS, "x") | {
        "model_fingerprint": model.fingerprint,
        "bounds": {"rigorous": bound},
    }
    result["made_by"] = {"command": "sedd eval /home/me", "date": "2026-01-01", "software": {}, "revision": None}
    (tmp_path / "m" / "results.json").write_text(json.dumps([result]))
    (found,) = model_card.results_of(model)
    assert found["made_by"] == {"date": "2026-01-01", "software": {}, "revision": None}


@pytest.mark.parametrize("change", [{"perplexity": None}, {"tokens": "x"}, {"bits_per_char": float("inf")}])
def test_results_that_are_not_finite_are_not_shown_and_stop_no_export(tmp_path, change):
    save_published(tmp_path / "m")
    model = load_model(tmp_path / "m")
    bound = dict.fromkeys(model_card.BOUND_KEYS, 1.0) | change
    result = dict.fromkeys(model_card.KEYS, "x") | {
        "model_fingerprint": model.fingerprint,
        "bounds": {"rigorous": bound},
    }
    (tmp_path / "m" / "results.json").write_text(
        json.dumps([result, {**result, "bounds": []}, {**result, "corpus": 1}])
    )
    assert list(model_card.results_of(model)) == []
    assert "## Likelihood" not in ModelCard(model, "m").text()


def test_the_metrics_of_an_index_have_names_of_their_own(tmp_path, monkeypatch):
    """Evaluations in two precisions, of two lengths, and of more and fewer blocks: the one of more blocks stays."""
    save_published(tmp_path / "m")
    model = load_model(tmp_path / "m")
    bound = {"bits_per_char": 1.0, "bits_per_char_error": 0.1, "perplexity_error": 0.1}
    found = [
        {"corpus": "c", "split": "test", "fingerprint": "f", "estimator": "iid", "precision": precision,
         "length": length, "bounds": {"rigorous": {**bound, "tokens": tokens, "perplexity": float(tokens)}}}
        for precision, length, tokens in (
            ("fp32", model.length, 90), ("fp32", model.length, 9), ("bf16", model.length, 9), ("fp32", 2, 9)
        )
    ]  # fmt: skip
    monkeypatch.setattr(model_card, "results_of", lambda _: found)
    front = yaml.safe_load(ModelCard(model, "m").text().split("\n---\n")[0].removeprefix("---\n"))
    metrics = [m for result in front["model-index"][0]["results"] for m in result["metrics"]]
    assert {m["name"]: m["value"] for m in metrics} == {
        "perplexity per token, upper bound (rigorous)": 90.0,
        "perplexity per token, upper bound (rigorous, in bf16)": 9.0,
        "perplexity per token, upper bound (rigorous, blocks of 2)": 9.0,
    }
    assert len(metrics) == 3


def test_the_bounds_of_two_samplers_stand_side_by_side(tmp_path, monkeypatch):
    save_published(tmp_path / "m")
    model = load_model(tmp_path / "m")
    bound = {"tokens": 9, "bits_per_char": 1.0, "bits_per_char_error": 0.1, "perplexity": 2.0, "perplexity_error": 0.1}
    result = {"corpus": "c", "split": "test", "length": model.length, "precision": "fp32", "fingerprint": "f"}
    found = [
        {**result, "estimator": "iid", "bounds": {"sampler": {**bound, "process": process}}}
        for process in ("tweedie in 16 steps", "tweedie in 16 steps, temperature 0.8", "tweedie in 16 steps")
    ]
    monkeypatch.setattr(model_card, "results_of", lambda _: found)
    front, card = ModelCard(model, "m").text().split("\n---\n", 1)
    assert card.count("| sampler: tweedie in 16 steps | ≤") == 1
    assert card.count("| sampler: tweedie in 16 steps, temperature 0.8 | ≤") == 1
    metrics = yaml.safe_load(front.removeprefix("---\n"))["model-index"][0]["results"]
    assert "perplexity per token, upper bound (sampler: tweedie in 16 steps)" in str(metrics)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_card_with_a_hostile_name_everywhere_keeps_its_form(name, tmp_path, monkeypatch):
    save_published(tmp_path / "m")
    model = load_model(tmp_path / "m")
    plain = ModelCard(dataclasses.replace(model, tokenizer_source="gpt2", facts={"weights": "EMA"}), "m").text()
    bound = {"tokens": 9, "bits_per_char": 1.0, "bits_per_char_error": 0.1, "perplexity": 2.0, "perplexity_error": 0.1}
    result = {"corpus": name, "split": name, "length": 4, "precision": name, "fingerprint": "f", "estimator": name}
    kept = dataclasses.replace(model, tokenizer_source=name, facts={"weights": name})
    form = kinds(ModelCard(kept, name).text())
    assert form == kinds(plain)
    monkeypatch.setattr(
        model_card, "results_of", lambda _: [{**result, "bounds": {"rigorous": bound, "sedd-paper": bound}}]
    )
    card = ModelCard(kept, name).text()
    row = [token.type for token in tokens(card.split("## Likelihood")[1])]
    assert row.count("td_open") == 2 * 5
    assert "html_block" not in row
    assert "html_inline" not in row
    assert row.count("link_open") == 0
    front = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert front["library_name"] == "sedd"


def kinds(card: str) -> list[str]:
    """The form of a card without its front matter: its tokens but for texts and line ends."""
    body = card.split("\n---\n", 1)[1]
    return [token.type for token in tokens(body) if token.type not in ("text", "softbreak", "text_special")]
