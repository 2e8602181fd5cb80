"""What commands print in a terminal of 80 columns: no word is broken, no row of a table takes more than two lines."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table

from sedd_cli.cli.commands.quality.mauve import _table as mauve_table
from sedd_cli.cli.outcome import say_error
from sedd_cli.cli.view.denoising import sample
from sedd_cli.cli.view.findings import findings_table
from sedd_cli.cli.view.quality import Phrases, exact_table, sweep_table, sweep_verdict
from sedd_cli.cli.view.results import bounds_table
from sedd_cli.cli.view.two_lines import as_many
from sedd_cli.cli.view.view import View
from sedd_cli.data.corpora import CORPORA
from sedd_cli.evaluation.diagnosis import health_checks
from sedd_cli.evaluation.exact.contenders import CONTENDERS
from sedd_cli.evaluation.exact.distances import Distance
from sedd_cli.evaluation.exact.results import ExactPoint, ExactResult
from sedd_cli.system.events import Filled, Progress
from sedd_cli.system.process import show_warning

WIDTH = 80


def shown(what, width: int = WIDTH) -> list[str]:
    """The lines that a terminal shows."""
    console = Console(file=io.StringIO(), force_terminal=False, width=width, legacy_windows=False)
    console.print(what)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def terminal() -> tuple[View, io.StringIO]:
    view, drawn = View(), io.StringIO()
    view.console = view.aside = Console(file=drawn, force_terminal=True, width=WIDTH, height=24, highlight=False)
    return view, drawn


def bare(drawn: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue())


def check_table(table: Table, words: str) -> None:
    """All words stand in the table unbroken."""
    lines = shown(table)
    assert max(map(len, lines)) <= WIDTH
    there = set(" ".join(lines).split())
    assert not set(words.split()) - there


def test_the_line_of_a_model_breaks_between_words():
    view, drawn = terminal()
    line = (
        "model /home/someone/experiments/runs/speedrun-quickstart: absorbing (scale_by_sigma true), loglinear "
        "(eps 0.001), 7,277,825 parameters, length 64, fp32, sdpa attention, bpe:8192, step 1600, weights EMA"
    )
    view.say(line)
    lines = bare(drawn).splitlines()
    assert [word for one in lines for word in one.split()] == line.split()
    assert max(map(len, lines)) <= WIDTH


def test_a_path_and_a_command_stay_in_one_piece():
    """They are copied from the terminal, which wraps them itself."""
    view, drawn = terminal()
    path, command = "wrote /" + "x" * 100, "  sedd infill --prefix '" + "a word " * 20 + "'"
    view.say(path)
    view.say(command)
    assert bare(drawn).splitlines() == ["wrote", path.split()[1], command]


@pytest.mark.parametrize("candidates", [1, 8])
@pytest.mark.parametrize("levers", [{}, {"normalized": True}, {"temperature": 0.5, "top_p": 0.9, "correctors": 1}])
def test_a_title_loses_nothing_at_the_edge_of_its_frame(candidates, levers):
    one = Filled(
        0, "the cat sat", [1], 16, 0.2, [(0, 3)], levers=levers, sampler="first_hitting", candidates=candidates,
        lengths=[2, 3], bound=3.5, bound_error=0.15,
    )  # fmt: skip
    lines = shown(sample.panel(one, WIDTH))
    text = " ".join(line.strip("╭╮╰╯│─ ") for line in lines)
    for fact in sample.title_of(one):
        assert fact in text
    assert max(map(len, lines)) == WIDTH


def test_fifty_results_of_a_batch_take_a_line_each_beside_their_names():
    view, drawn = terminal()
    way = {"sampler": "first_hitting", "levers": {"normalized": True}}
    for i in range(50):
        job = {"id": f"q{i:02}", "line": i + 1, "key": "k"}
        view.show(Filled(0, f"Return the first item of list {i}", [1], 5, 0.1, job=job, **way))
    lines = [line.rstrip() for line in bare(drawn).splitlines()]
    assert lines[0] == "by first-hitting · normalized"
    assert lines[1:] == [f"q{i:02}  Return the first item of list {i}" for i in range(50)]


def test_a_bar_keeps_its_time_left_beside_long_metrics():
    view, drawn = terminal()

    def job():
        for done in range(3):
            metrics = {"bits/char": "1.554 ± 0.017", "perplexity/token": "129.57 ± 3.66"}
            yield Progress("rigorous and sedd-paper bound", done, 256, "draws", metrics, done / 256)

    view.run(job())
    lines = bare(drawn).replace("\r", "\n").splitlines()
    bars = [line for line in lines if "0/256" in line]
    assert bars
    assert all(line.rstrip().endswith(" left") and "…" not in line for line in bars)
    assert any("perplexity/token 129.57 ± 3.66" in line for line in lines)


def test_the_table_of_likelihoods_with_the_papers_values():
    bound = {
        "bits_per_char": 1.557, "bits_per_char_error": 0.009, "between_documents_error": 0.029, "bits_per_byte": 1.557,
        "perplexity": 129.57, "perplexity_error": 3.66, "tokens": 1, "characters": 1, "blocks": 4,
    }  # fmt: skip
    grams = {"unigram": 2.25, "5-gram": 1.61, "5-gram, in one piece": 1.594}
    result = {
        "corpus": "wikitext103", "split": "validation", "tokens": 24_536, "characters": 103_000, "estimator": "iid",
        "bounds": {"rigorous": bound, "sedd-paper": bound}, "baselines": grams, "model": "runs/a",
        "paper": {"split": "test", "value": 40.62, "unit": "perplexity"},
    }  # fmt: skip
    words = "SEDD ≤ (rigorous) ≈ (sedd-paper) 129.57 ± 3.66 bits/byte 5-gram, in one piece"
    for paper in (result["paper"], None):
        table = bounds_table(result | {"paper": paper})
        check_table(table, words + (" ppl/token 40.62 ppl on test" if paper else " (of train) perplexity/token"))
        header, footer = (2, 1) if paper else (4, 1)
        assert len(shown(table)) <= header + footer + 2 * len(table.rows)


def test_the_findings_of_inspect_take_two_lines_each():
    counts = {"moved": 9, "guessed": 3, "blind": 1}
    levels = [
        type("L", (), {"lam": lam, "finite": True, "log_score": (-34.1, 6.1), "beyond": 9.0, **counts})
        for lam in (0.01, 0.1, 0.25, 0.5, 0.75)
    ]
    entropy = type("E", (), {"entropy": 3.79, "error": 0.03, "length": 1024, "text": 3.69, "most": 4.16})
    found = [
        health_checks.scores(levels),
        health_checks.guesses(levels, True),
        health_checks.entropy(entropy),
        health_checks.finding(
            "louaaron/sedd-medium", "optional", "not cached", "fetched on first use; offline, pass --model"
        ),
    ]
    for one in found:
        table = findings_table([one])
        assert len(shown(table)) <= 1 + 2 * len(table.rows)
        check_table(table, f"{one['check']} {one['found']} {one['advice']}")


def judged(name: str, perplexity: float, marks: list[str]) -> SimpleNamespace:
    """What a table of the quality of samples shows of some texts."""
    found = SimpleNamespace(
        per_sequence=SimpleNamespace(perplexity=perplexity, error=perplexity / 8), nfe=1024.5,
        unigram_entropy=SimpleNamespace(nats=3.31), distinct={"2": 0.996}, self_bleu=0.0131,
    )  # fmt: skip
    return SimpleNamespace(name=name, judged=found, marks=marks)


def test_the_table_of_a_sweep():
    points = [
        SimpleNamespace(sampler=sampler, steps=1024, temperature=0.85, judged=judged("", 11685.8, []).judged)
        for sampler in ("frozen_rates", "tweedie")
    ]
    controls = [judged("repeated phrase", 8.6, ["low entropy", "alike"]), judged("5-gram, T 0.8", 51.3, [])]
    comparison = SimpleNamespace(real=judged("real text", 60.7, []), controls=controls)
    swept = SimpleNamespace(
        settings=SimpleNamespace(model="runs/own"),
        judge="runs/judge",
        points=points,
        comparison=comparison,
        marks=lambda point: ["low entropy", "alike"],
    )
    table = sweep_table(swept)
    words = "frozen_rates, 1,024 steps, T 0.85 11686 ± 1461 low entropy, alike repeated phrase self- BLEU"
    check_table(table, words)
    assert len(shown(table)) <= 6 + 2 * len(table.rows)
    assert sum("T 0.85" in line for line in shown(table)) == 2  # not T on one line and 0.85 on the next


def test_a_name_breaks_behind_commas_alone():
    name = Phrases("tweedie, 16 steps, T 0.5")
    assert name.lines(80) == [name.text]
    assert name.lines(23) == ["tweedie, 16 steps,", "T 0.5"]
    assert name.lines(12) == ["tweedie,", "16 steps,", "T 0.5"]


def test_all_marked_points_are_named_below_a_sweep():
    def point(steps, perplexity):
        found = judged("", perplexity, []).judged
        return SimpleNamespace(sampler="tweedie", steps=steps, temperature=None, judged=found)

    points = [point(16, 9.0), point(32, 8.0), point(64, 70.0)]
    marks = {16: ["low entropy"], 32: ["low entropy", "alike"]}
    swept = SimpleNamespace(
        points=points,
        comparison=SimpleNamespace(better=lambda found: []),
        marks=lambda point: marks.get(point.steps, []),
    )
    low, alike = sweep_verdict(swept)
    assert low.startswith("the perplexity of tweedie, 16 steps; tweedie, 32 steps does not count: their unigram")
    assert alike.startswith("the perplexity of tweedie, 32 steps does not count: their self-BLEU")


def test_the_table_of_exact_distances():
    graphs, budgets = ("absorbing", "uniform"), (4, 8, 16, 32)
    points = [
        ExactPoint(graph, contender.label, budget, float(budget), {}, Distance(0.1187, 0.1702))
        for graph in graphs
        for contender in CONTENDERS
        for budget in budgets
    ]
    drawn = ExactPoint("uniform", "drawn", 4, 4.0, {}, Distance(0.174, 0.3, 4000, 0.0105, 0.002, 0.02))
    result = ExactResult("a source", 6, "the source's own", 0.0, 1.0, (*points, drawn))
    table = exact_table(result)
    check_table(table, " ".join(one.label for one in CONTENDERS) + " ~0.1740 (0.0105)")
    lines = shown(table)
    assert len(lines) <= 2 + 4 + 2 * len(table.rows) + 3


def test_the_table_of_mauve():
    texts = SimpleNamespace(entropy=3.309, distinct={"2": 0.992}, self_bleu=0.014)
    found = SimpleNamespace(
        mode="infill", prompt=50, new=50, model="runs/a-rather-long-name-of-a-run-of-someone",
        score=SimpleNamespace(mauve=0.9123, mauve_std=0.0042, values=[1] * 5, clusters=500),
        references=SimpleNamespace(count=5000), generations=SimpleNamespace(count=25000),
        sampler={"nfe_mean": 102.4}, features=SimpleNamespace(model="runs/another-rather-long-name-of-a-run"),
        diversity=SimpleNamespace(generations=texts, references=texts, marks=["low entropy", "alike"]),
    )  # fmt: skip
    table = mauve_table(found)
    check_table(
        table, "0.9123 ± 0.0042 over 5 seeds of k-means 25,000, 102.4 evaluations each entropy, dist-2, self-BLEU"
    )
    assert len(shown(table)) <= 3 + 2 * len(table.rows)


def test_an_error_and_a_warning_break_between_words_in_a_terminal_alone(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 2

    monkeypatch.setattr("os.get_terminal_size", lambda fd: SimpleNamespace(columns=WIDTH))
    line = "error: runs/quickstart holds a run of another recipe: choose another folder with --run-dir, or start anew"
    for stream, lines in ((Terminal(), 2), (io.StringIO(), 1)):
        monkeypatch.setattr("sys.stderr", stream)
        say_error(line)
        show_warning(line.removeprefix("error: "))
        drawn = stream.getvalue().splitlines()
        assert len(drawn) == 2 * lines
        assert " ".join(drawn[:lines]) == line


@pytest.mark.parametrize("width", [80, 120])
def test_prepared_texts_are_listed_in_two_lines_each_under_names_that_can_be_copied(sedd, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("SEDD_HOME", str(tmp_path / "home"))
    text = tmp_path / "a-collection-of-the-verses-of-many-poets-of-the-north.txt"
    text.write_text("\n\n".join(f"The {i} crows sat on the {i} walls of the town." for i in range(400)))
    assert sedd("prepare", text, "--tokenizer", "bpe:300").code == 0
    (folder,) = [path.name for path in (tmp_path / "home" / "data").iterdir() if path.is_dir()]
    lines = [line.rstrip() for line in sedd("prepare", "--list").out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("prepared in "))
    assert lines[start + 1] == folder
    assert len(lines) == start + 3
    known = lines[: start - 1]
    assert len(known) == 1 + 2 * len(CORPORA)
    assert max(map(len, [*known, *lines[start + 1 :]])) <= width
    assert {line.split()[0] for line in known[1::2]} == set(CORPORA)


def test_a_line_of_parts_says_how_many_it_leaves_out():
    parts = ["recipe: corpus=a.txt", "batch=4", "steps=60000"]
    assert as_many(parts, 80) == ", ".join(parts)
    assert as_many(parts, 39) == "recipe: corpus=a.txt, batch=4, … 1 more"
    assert as_many(parts, 31) == "recipe: corpus=a.txt, … 2 more"
