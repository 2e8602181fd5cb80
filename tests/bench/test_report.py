"""The report: its figures, its checks, and that it keeps what it has whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.jobs import completed, returned, without_origin
from support.toys import ALL

from sedd_cli.bench.report import checks, heads, measurement, outcome, parts, run, training, trajectory
from sedd_cli.bench.report.measurement import Figure, Measurement, Setting, Sizes
from sedd_cli.bench.report.outcome import ReportOptions
from sedd_cli.bench.report.run import bench_report
from sedd_cli.bench.train import fresh_state
from sedd_cli.core.fast import tiles
from sedd_cli.errors import RequestError
from sedd_cli.models.attention import sdpa
from sedd_cli.models.head import Readout
from sedd_cli.recipe import load_recipe
from sedd_cli.training.state import TrainState

TINY = ["model.n_blocks=1", "model.hidden_size=32", "model.n_heads=2", "model.cond_dim=8", "model.length=16"]
WORDS = [*TINY, "data.tokenizer=byte"]
SIZES = Sizes(train=(1, 2), plain=(2,), loss=1, sample=(1, 2), steps=(2, 4), likelihood=2, check=8, attention=1)


@pytest.fixture(autouse=True)
def _no_measurement_of_the_peak(monkeypatch):
    monkeypatch.setattr(measurement, "matmul_peak", lambda device: 1e12)


@pytest.fixture
def _not_compiled(monkeypatch):
    from sedd_cli.training import state

    monkeypatch.setattr(state, "compile_blocks", lambda net, batch: "NoCompiler: g++ was not found")


def tiny(*words):
    return load_recipe("gpt2_small", [*WORDS, *words])


def options(folder: Path, **changed) -> ReportOptions:
    recipe = tiny()
    return ReportOptions(
        **{"recipe": recipe, "larger": recipe, "out": folder / "report.json", "device": "cpu", "sizes": SIZES} | changed
    )


def setting() -> Setting:
    return Setting(tiny(), tiny(), torch.device("cpu"), SIZES)


def plan(monkeypatch, *works, seconds=0.0, memory=0.0, share=0.2):
    """Replace the measurements by these functions."""
    made = [
        Measurement(work.__name__, "table", work, lambda s: seconds, share=share, memory=lambda s: memory)
        for work in works
    ]
    monkeypatch.setattr(outcome, "MEASUREMENTS", tuple(made))


def good(setting):
    yield Figure("first", 2.0, "m", baseline=1.0)
    yield Figure("second", 1.0)


def stored(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def states(folder: Path) -> dict[str, str]:
    return {m["name"]: m["state"] for m in stored(folder)["measurements"]}


@pytest.mark.slow
@pytest.mark.usefixtures("_not_compiled")
def test_everything_but_compiling_is_measured_on_a_small_network(tmp_path, monkeypatch):
    for name in ("datasets", "mauve"):  # a machine with a GPU need not have them
        monkeypatch.setitem(sys.modules, name, None)
    _, report = completed(bench_report(options(tmp_path, minutes=3)))
    document = report.to_dict()
    assert document == without_origin(stored(tmp_path)) | {"seconds": document["seconds"]}
    found = {m["name"]: m for m in document["measurements"]}
    unfinished = {name: m["reason"] for name, m in found.items() if m["state"] != "done"}
    reason = "torch.compile does not work here, training continues without it (NoCompiler: g++ was not found)"
    assert unfinished == {"check-compiled": reason, "sampling-compiled": "measured on GPUs only"}
    assert document["checks"] > 15
    assert document["checks_failed"] == 0, [f for o in report.outcomes for f in o.figures if f.passed is False]
    training = {f["what"]: f for f in found["training"]["figures"]}
    plain = training["plain path in float32, 2 sequences"]["value"]
    rows = [f for f in found["training"]["figures"] if f["what"] == "training"]
    assert rows[0]["baseline"] == plain
    assert rows[0]["ratio"] == pytest.approx(rows[0]["value"] / plain)
    assert rows[0]["note"].endswith("eager; baseline: plain in float32")
    assert training["compiled blocks"]["note"] == reason
    sampled = [f["what"] for f in found["sampling"]["figures"]]
    assert sampled == ["1 texts, 2 steps", "2 texts, 2 steps"]
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# sedd bench report: cpu")
    for heading in ("## Machine", "## Checks", "## Training by part", "## Head and loss alone", "## Not finished"):
        assert heading in text


# Checks can fail


def figures(events) -> list[Figure]:
    return [event for event in events if isinstance(event, Figure)]


def test_the_checks_of_losses_hold_and_a_wrong_gradient_fails(monkeypatch):
    found = figures(heads.check_losses(setting()))
    assert all(f.passed for f in found)
    assert {f.what.rpartition(",")[0] for f in found} >= {
        "loss: score_entropy, absorbing", "loss: d3pm, uniform", "loss: genmd4, state_dependent",
    }  # fmt: skip
    product = Readout.product
    monkeypatch.setattr(Readout, "product", lambda self, a, b, out=None: product(self, a * 1.05, b, out))
    wrong = [f for f in figures(heads.check_losses(setting())) if "score_entropy" in f.what or "genmd4" in f.what]
    assert len({f.what for f in wrong}) >= 3
    assert not any(f.passed for f in wrong)


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="takes half a minute; set SEDD_ALL_TESTS=1")
def test_the_check_of_compiled_blocks_holds():
    found = figures(checks.check_compiled(setting()))
    assert [f.passed for f in found] == [True, True]


@pytest.mark.parametrize("right", [True, False])
def test_compiled_blocks_that_compute_something_else_fail_their_check(right, monkeypatch):
    from sedd_cli.training import state

    def compiled(net, batch):
        net.blocks[1].register_forward_hook(lambda module, given, made: made if right else made + 0.2 * made.flip(-1))

    monkeypatch.setattr(state, "compile_blocks", compiled)
    found = figures(checks.check_compiled(setting()))
    assert [f.passed for f in found] == [right, right]


def test_a_loss_that_does_not_run_fails_its_check_only(monkeypatch):
    def broken(self, a, b, out=None):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(Readout, "product", broken)
    found = figures(heads.check_losses(setting()))
    assert not any(f.passed for f in found)
    assert found[0].note == "RuntimeError: no kernel image"
    assert found[0].to_dict()["value"] == "inf"


def test_a_loss_that_falls_back_to_uncompiled_tiles_fails_its_check(monkeypatch):
    def broken(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(heads, "readout_of", lambda weight, bias, mixed: Readout(weight, bias, mixed, compiled=True))
    monkeypatch.setattr(tiles, "_compiled_tile", lambda kind: broken)
    with pytest.warns(UserWarning, match="runs uncompiled"):
        found = figures(heads.check_losses(setting()))
    tiles.FAILURES.clear()
    failed = [f for f in found if not f.passed]
    assert {"loss: score_entropy, absorbing, float32", "loss: d3pm, uniform, float32"} <= {f.what for f in failed}
    assert {f.note for f in failed} == {"the loss runs uncompiled (no compiler)"}


def test_the_checks_of_attention_hold_and_a_wrong_kernel_fails(monkeypatch):
    found = {f.what: f for f in figures(checks.check_attention(setting())) if f.tolerance is not None}
    assert all(f.passed for f in found.values())
    assert {"attention: plain, float32", "attention: sdpa math, float32, causal"} <= set(found)
    monkeypatch.setitem(checks.ATTENTION, "sdpa", lambda q, k, v, causal: sdpa(1.1 * q, k, v, causal))
    found = {f.what: f for f in figures(checks.check_attention(setting()))}
    assert not found["attention: sdpa math, float32"].passed
    assert found["attention: plain, float32"].passed


def test_a_resumed_training_is_the_same_and_lost_moments_are_noticed(monkeypatch):
    assert [f.passed for f in figures(checks.check_resume(setting()))] == [True, True]
    tensors = TrainState.tensors
    monkeypatch.setattr(
        TrainState, "tensors", lambda self: {k: v for k, v in tensors(self).items() if not k.startswith("adamw")}
    )
    assert [f.passed for f in figures(checks.check_resume(setting()))] == [False, False]


@pytest.mark.slow
def test_two_processes_train_like_one():
    found = figures(checks.check_processes(setting()))
    assert [f.passed for f in found] == [True, True]


def test_a_difference_that_is_not_a_number_fails():
    assert Figure("x", float("nan"), tolerance=1.0).passed is False
    assert heads.worst([0.1, float("nan")]) == float("inf")


# Whatever happens


def test_what_fails_is_recorded_and_the_next_measurement_runs(tmp_path, monkeypatch):
    def full(setting):
        yield Figure("before", 1.0)
        raise MemoryError

    def broken(setting):
        raise ValueError("two\nlines")
        yield

    plan(monkeypatch, full, broken, good)
    returned(bench_report(options(tmp_path)))
    found = stored(tmp_path)["measurements"]
    assert [(m["state"], m["reason"]) for m in found] == [
        ("failed", "not enough memory"), ("failed", "ValueError: two"), ("done", ""),
    ]  # fmt: skip
    assert [f["what"] for f in found[0]["figures"]] == ["before"]
    assert found[2]["figures"][0] == {
        "what": "first", "value": 2.0, "unit": "m", "baseline": 1.0, "ratio": 2.0,
    }  # fmt: skip
    assert "| broken | failed | ValueError: two |" in (tmp_path / "report.md").read_text()


def test_a_gpu_that_no_longer_answers_leaves_the_report(tmp_path, monkeypatch):
    def broken(setting):
        raise RuntimeError("CUDA error: device-side assert triggered")

    plan(monkeypatch, good)
    monkeypatch.setattr(run, "release", broken)
    returned(bench_report(options(tmp_path)))
    assert states(tmp_path) == {"good": "done"}


def test_a_measurement_that_needs_more_than_is_left_is_skipped(tmp_path, monkeypatch):
    plan(monkeypatch, good, seconds=90.0)
    returned(bench_report(options(tmp_path, minutes=1)))
    reason = stored(tmp_path)["measurements"][0]["reason"]
    assert reason.startswith("needs about 90 s, 5")
    plan(monkeypatch, good, memory=2.0**50)
    returned(bench_report(options(tmp_path, minutes=1)))
    assert stored(tmp_path)["measurements"][0]["reason"].startswith("needs about 1048576.0 GiB of memory")


def test_what_makes_a_network_is_skipped_where_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(measurement, "free_memory", lambda device: 2 * 2**30)
    large = replace(setting(), recipe=load_recipe("gpt2_small", []), larger=load_recipe("gpt2_medium", []))
    skipped = {one.name for one in outcome.MEASUREMENTS if measurement.lacks(large, one.memory(large))}
    assert skipped == {
        "training", "training-larger", "sampling", "sampling-compiled", "sampling-long", "likelihood", "check-compiled",
    }  # fmt: skip


def test_the_first_compiled_size_counts_where_the_second_does_not_fit(monkeypatch):
    state = fresh_state(setting().bench(tiny(), 4), compiled=False)
    state.compiled, tried = True, []

    def timed(setting, recipe, size):
        tried.append(size)
        if len(tried) == 2:
            raise MemoryError
        return state, 2.0, 5
        yield

    monkeypatch.setattr(training, "_timed", timed)
    monkeypatch.setattr(Setting, "cuda", lambda self: True)
    events, found = completed(training._fastest_compiled(setting(), tiny(), 4))
    assert (tried, found) == ([4, 2], (state, 2.0, 5))
    assert [e.value for e in events if isinstance(e, Figure)] == ["does not fit into memory"]


def test_a_measurement_that_overruns_is_stopped_and_keeps_its_figures(tmp_path, monkeypatch):
    def endless(setting):
        yield Figure("before", 1.0)
        while True:
            with suppress(Exception):  # as a compiler's fallback would
                time.sleep(0.1)

    monkeypatch.setattr("sedd_cli.bench.report.run.GRACE", 0.0)
    plan(monkeypatch, endless, good, share=0.01)
    began = time.monotonic()
    returned(bench_report(options(tmp_path, minutes=0.5)))
    assert time.monotonic() - began < 20
    assert states(tmp_path) == {"endless": "stopped", "good": "done"}
    assert stored(tmp_path)["measurements"][0]["figures"][0]["what"] == "before"


HANGING = """
import signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_report as t
from sedd_cli.bench.report import outcome
def hangs(setting):
    yield t.Figure("before", 1.0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(100)
outcome.MEASUREMENTS = (t.Measurement("hangs", "table", hangs, lambda s: 0.0, share=0.01),)
sys.argv = ["sedd", "bench", "report", "--json", "--minutes", "0.1", "--device", "cpu", "--out", {out!r}]
from sedd_cli.__main__ import main
main()
"""


@pytest.mark.slow
def test_a_call_that_never_returns_is_ended_with_the_process(tmp_path):
    code = HANGING.format(tests=str(Path(__file__).parent), out=str(tmp_path / "report.json"))
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("the time is over; the report so far is in") == 1
    document = json.loads(done.stdout)
    assert (document["exit"], document["measurements"][0]["state"]) == (1, "stopped")
    assert "the time is over; the report so far is in" in document["error"]
    assert states(tmp_path) == {"hangs": "stopped"}
    assert stored(tmp_path)["measurements"][0]["figures"][0]["what"] == "before"


def test_the_time_ends_where_standard_error_cannot_be_written(tmp_path, monkeypatch):
    def gone(fd, text):
        raise BrokenPipeError

    ended = threading.Event()
    monkeypatch.setattr(run.os, "write", gone)
    monkeypatch.setattr(run.os, "_exit", lambda code: ended.set())
    report = outcome.Report(options(tmp_path), "cpu", [outcome.Outcome("hangs", "table")])
    with run._hard_stop(report, end=0.0):
        assert ended.wait(20)
    assert report.outcomes[0].state == "stopped"
    ended.clear()
    report.outcomes[0].state = "done"  # what hangs comes behind it
    with run._hard_stop(report, end=0.0):
        assert ended.wait(20)
    assert report.outcomes[0].state == "done"


def test_an_interrupt_says_where_the_report_is(sedd, tmp_path, monkeypatch):
    def interrupted(setting):
        yield Figure("before", 1.0)
        raise KeyboardInterrupt

    plan(monkeypatch, good, interrupted)
    done = sedd("bench", "report", "--out", tmp_path / "report.json", "--device", "cpu", *WORDS)
    assert done.code == 130
    assert "the report so far is in" in done.err
    assert states(tmp_path) == {"good": "done", "interrupted": "interrupted"}


def test_a_failed_check_ends_the_command_with_an_error(sedd, tmp_path, monkeypatch):
    def check(setting):
        yield Figure("a | b", 1.0, tolerance=0.5)

    plan(monkeypatch, check)
    done = sedd("bench", "report", "--out", tmp_path / "report.json", "--device", "cpu", "--json", *WORDS)
    assert done.code == 1
    assert json.loads(done.out)["error"] == "1 of 1 checks failed"
    assert "| a \\| b | 1 |  | ≤ 0.5 | FAILED |  |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(("state", "failed"), [("failed", 1), ("stopped", 1), ("skipped", 0), ("done", 0)])
def test_checks_that_are_stopped_have_not_held(tmp_path, state, failed):
    ended = outcome.Outcome("check-losses", outcome.CHECKS, state, figures=[Figure("one", 0.0, tolerance=1.0)])
    document = outcome.Report(options(tmp_path), "cpu", [ended]).to_dict()
    assert (document["checks"], document["checks_failed"]) == (1 + failed, failed)


def test_a_check_that_crashes_has_failed(sedd, tmp_path, monkeypatch):
    def crashing(setting):
        yield Figure("before", 0.1, tolerance=0.5)
        raise ValueError("no such tensor")

    plan(monkeypatch, good, crashing)
    monkeypatch.setattr(outcome, "CHECKS", "table")
    done = sedd("bench", "report", "--out", tmp_path / "report.json", "--device", "cpu", "--json", *WORDS)
    assert done.code == 1
    assert json.loads(done.out)["error"] == "1 of 2 checks failed"
    text = (tmp_path / "report.md").read_text()
    assert "1 of 2 checks hold" in text
    assert "| crashing | failed | ValueError: no such tensor |" in text


@pytest.mark.parametrize(("given", "threads"), [(None, "1"), ("3", "3")])
def test_each_of_two_processes_has_one_thread_unless_the_user_names_another_number(
    given, threads, tmp_path, monkeypatch
):
    class Started(Exception):  # noqa: N818
        pass

    def started(*words, env, **options):
        raise Started(env["OMP_NUM_THREADS"])

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(trajectory.subprocess, "Popen", started)
    with pytest.raises(Started, match=threads):
        trajectory.two_processes(tiny(), torch.device("cpu"), tmp_path, 1.0)


def test_the_parts_of_a_step_are_measured_for_an_objective_of_two_corruptions():
    recipe = tiny("objective=genmd4", "graph=state_dependent")
    state = fresh_state(setting().bench(recipe, 1), compiled=False)
    found = list(parts.parts_of_a_step(replace(setting(), recipe=recipe), state, 1.0))
    assert [f.what for f in found][-2:] == ["head and loss, with gradients", "clipping, optimizer and EMA"]


def test_the_command_prints_a_table_for_each_part(sedd, tmp_path, monkeypatch):
    plan(monkeypatch, good)
    done = sedd("bench", "report", "--out", tmp_path / "report.json", "--device", "cpu", "--only", "good", *WORDS)
    assert done.code == 0, done.err
    assert "first" in done.out
    assert "2.00" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "minutes must be positive"),
        (["--out", "report.md"], "must end in .json"),
        (["--only", "machine,nothing"], "--only must be one of machine, check-losses"),
        (["--larger", "nothing"], "no shipped recipe"),
        (["--out", "absent/report.json"], "does not exist"),
    ],
)
def test_wrong_requests_are_refused(sedd, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = sedd("bench", "report", *words)
    assert done.code == 2
    assert message in done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "content"), [("report.json", "{}"), ("report.json", "[1]"), ("report.md", "# mine")])
def test_a_file_that_is_no_report_is_not_replaced(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(RequestError, match="is no earlier report"):
        options(tmp_path)


def test_an_earlier_report_is_replaced(tmp_path, monkeypatch):
    plan(monkeypatch, good)
    for _ in range(2):
        returned(bench_report(options(tmp_path)))
    assert states(tmp_path) == {"good": "done"}


def test_the_estimates_are_numbers_and_grow_with_the_network():
    small, large = setting(), replace(setting(), recipe=load_recipe("gpt2_small", []))
    for one in outcome.MEASUREMENTS:
        assert 0 <= one.seconds(small) <= one.seconds(large)
        assert 0 <= one.memory(small) <= one.memory(large)


BLOCKED = """
import sys
for name in ("datasets", "mauve"):
    sys.modules[name] = None
import torch
torch.set_num_threads(1)
from sedd_cli.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.slow
def test_in_a_process_of_its_own_datasets_and_mauve_are_not_needed(tmp_path):
    words = ["bench", "report", "--out", str(tmp_path / "report.json"), "--device", "cpu", "--minutes", "10"]
    words += ["--only", "check-resume", *WORDS]
    done = subprocess.run([sys.executable, "-c", BLOCKED, *words], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert set(states(tmp_path).values()) == {"done"}
