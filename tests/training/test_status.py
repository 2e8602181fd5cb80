"""What a run tells while it goes on and afterwards: metrics, validation, trackers, status and curves."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import sys
import time
import types

import pytest
import torch
from support.jobs import completed, returned

from sedd_cli import load_model
from sedd_cli.cli.view.curve import Line, chart
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.data.prepare import prepare
from sedd_cli.data.prepared import PrepareOptions
from sedd_cli.data.shards import open_dataset
from sedd_cli.errors import RequestError, WorkError
from sedd_cli.evaluation.likelihood.evaluate import EvaluateOptions, evaluate
from sedd_cli.inference.bound import MonteCarloOptions
from sedd_cli.recipe import load_recipe
from sedd_cli.system.events import Sampled, TrainStep, Validated, Warn
from sedd_cli.training import loop, report, trackers
from sedd_cli.training.metrics import Divergence
from sedd_cli.training.runs.curves import OWN, curve_of, curves_of
from sedd_cli.training.status import status
from sedd_cli.training.step import LossByTime, gradients
from sedd_cli.training.trackers import Tracker, open_trackers
from sedd_cli.training.train import TrainOptions, _tracked, train


@pytest.fixture(scope="module")
def watched(workplace, tmp_path_factory):
    """A run validated on the way: (folder, events)."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    recipe = load_recipe(workplace / "tiny.yaml", ["report.every=6", "report.blocks=5", "train.keep=9"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        return folder, list(train(recipe, TrainOptions(folder, "cpu", report=False)))


def lines(folder, kind):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [r for r in records if r["kind"] == kind]


def test_the_loss_is_told_by_noise_level():
    by_time = LossByTime.zero(torch.device("cpu"))
    v = torch.tensor([0.1, 0.19, 0.2, 0.999999], dtype=torch.float64)
    by_time.add(v, torch.tensor([1.0, 3.0, 5.0, 7.0]))
    assert by_time.nats.tolist() == [4, 5, 0, 0, 7]
    assert by_time.sequences.tolist() == [2, 1, 0, 0, 1]


def test_the_bins_of_a_window_average_to_its_loss(watched):
    _, events = watched
    for event in (e for e in events if isinstance(e, TrainStep)):
        # 16 sequences, stratified: every bin holds three or four of them
        assert sum(event.loss_by_t) / 5 == pytest.approx(event.loss, rel=0.2)
        assert event.memory > 10e6
        assert event.mfu is None
        assert event.skipped == 0
        assert event.seconds_left >= 0
    assert event.seconds_left == 0


def test_the_bound_on_the_way_is_that_of_the_checkpoint(watched, workplace):
    folder, events = watched
    (seen,) = [e for e in events if isinstance(e, Validated)]
    assert (seen.step, seen.split, seen.blocks) == (6, "validation", 5)
    model = load_model(folder / "checkpoints" / "step-6", device="cpu")
    made = returned(prepare(PrepareOptions(corpus=model.recipe.data.corpus, tokenizer="char")))
    monte_carlo = MonteCarloOptions(rel_error=1.0, max_nfe=4)
    options = EvaluateOptions("validation", ("rigorous",), monte_carlo, blocks=5, baselines=False)
    again = returned(evaluate(model, open_dataset(made.folder), options))
    assert seen.nats_per_token == again.bounds["rigorous"].nats_per_token
    (line,) = lines(folder, "validation")
    assert line["nats_per_token"] == seen.nats_per_token
    assert line["nats_per_token_error"] > 0


def test_a_sample_is_shown_and_kept_on_the_way(watched):
    folder, events = watched
    (sample,) = [e for e in events if isinstance(e, Sampled)]
    (kept,) = map(json.loads, (folder / "samples" / "step-6.jsonl").open())
    assert kept["text"] == sample.text


def test_the_time_of_a_validation_includes_that_of_its_sample(workplace, tmp_path, monkeypatch):
    def slow(*_):
        time.sleep(0.5)
        raise WorkError("no room")
        yield

    monkeypatch.setattr(report, "generate", slow)
    recipe = load_recipe(workplace / "tiny.yaml", ["report.every=6", "report.blocks=2"])
    events = list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
    (seen,) = [e for e in events if isinstance(e, Validated)]
    assert seen.seconds > 0.5
    assert lines(tmp_path / "run", "validation")[0]["seconds"] == seen.seconds
    assert [e.text for e in events if isinstance(e, Warn)][-1] == "step 6: no sample: no room"


class Refusing(Tracker):
    """A tracker whose service does not answer."""

    closed = 0

    def numbers(self, step, values):
        raise OSError("no answer")

    def text(self, step, text):
        pass

    def close(self):
        self.closed += 1
        raise OSError("no answer")


class Silent(Refusing):
    def numbers(self, step, values):
        pass


def seen_by_trackers(result):
    yield Validated(1, "test", *(1.0,) * 5, 1, 1.0)
    return result()


def test_trackers_that_cannot_be_closed_do_not_end_a_training(tmp_path):
    mixed = [kind(tmp_path, None, 0) for kind in (Refusing, Silent, Silent)]
    everyone = list(mixed)
    events, result = completed(_tracked(seen_by_trackers(lambda: "trained"), mixed))
    assert result == "trained"
    assert [tracker.closed for tracker in everyone] == [1, 1, 1]
    assert [e.text for e in events if isinstance(e, Warn)] == [
        "Refusing is left out from now on: no answer", *["Silent could not be closed: no answer"] * 2,
    ]  # fmt: skip


def test_a_training_that_fails_closes_its_trackers_and_keeps_its_error(tmp_path):
    def fail():
        raise WorkError("of the training")

    silent = [Silent(tmp_path, None, 0), Silent(tmp_path, None, 0)]
    with pytest.raises(WorkError, match="of the training"):
        list(_tracked(seen_by_trackers(fail), silent))
    assert [tracker.closed for tracker in silent] == [1, 1]


def test_where_a_tracker_cannot_be_opened_the_others_are_closed(tmp_path, monkeypatch):
    opened = []

    def open_(*options):
        opened.append(Silent(*options))
        return opened[-1]

    def fail(*_):
        raise OSError("no service")

    monkeypatch.setattr(trackers, "TRACKERS", {"a": open_, "b": fail})
    with pytest.raises(OSError, match="no service"):
        open_trackers(["a", "b"], tmp_path, None, 0)
    assert [tracker.closed for tracker in opened] == [1]


def test_looking_does_not_change_the_training(watched, tiny_run):
    watched_weights = load_model(watched[0], device="cpu").net.state_dict()
    plain = load_model(tiny_run, device="cpu").net.state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in watched_weights.items())


def test_the_exported_file_is_the_average(watched):
    from safetensors.torch import load_file

    exported, model = load_file(watched[0] / "ema.safetensors"), load_model(watched[0], device="cpu")
    assert exported.keys() == dict(model.net.named_parameters()).keys()
    assert all(torch.equal(exported[name], p) for name, p in model.net.named_parameters())


def test_status_of_a_finished_a_stopped_and_a_running_run(watched, workplace, tmp_path):
    found = status(watched[0])
    assert (found.state, found.step, found.steps, found.checkpoint) == ("finished", 12, 12, "step-12")
    assert [r["step"] for r in found.train] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in found.validation] == [6]
    job = train(load_recipe(workplace / "tiny.yaml"), TrainOptions(tmp_path / "run", "cpu", report=False))
    while not isinstance(next(job), TrainStep):
        pass
    assert status(tmp_path / "run").state == "running"
    job.close()
    assert status(tmp_path / "run").state == "stopped"
    with pytest.raises(RequestError, match="is not a run"):
        status(tmp_path)


def test_a_line_that_is_being_written_is_left_out(watched, tmp_path):
    import shutil

    shutil.copytree(watched[0], tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 14, "lo')
    assert status(tmp_path / "run").step == 12


def test_before_the_first_checkpoint_the_curve_is_in_the_units_of_the_bound_already(sedd, watched, tmp_path):
    copy = shutil.copytree(watched[0], tmp_path / "run")
    (copy / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines(watched[0], "train")))
    for left in ("latest", "checkpoints", "results"):
        path = copy / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    whole, cut = status(watched[0]), status(copy)
    assert cut.checkpoint is None
    assert cut.data == whole.data
    assert cut.bits_of_a_nat == pytest.approx(whole.bits_of_a_nat, rel=0.05)
    assert "bits/char" in sedd("status", copy).out


def test_the_status_command_shows_the_curve_and_draws_it(sedd, watched):
    done = sedd("status", watched[0], "--plot")
    assert done.code == 0, done.err
    assert "finished at step 12 of 12" in done.out
    assert "training loss" in done.out
    assert "by noise level" in done.out
    assert (watched[0] / "curve.png").read_bytes().startswith(b"\x89PNG")
    asked = sedd("status", watched[0], "--json")
    assert json.loads(asked.out)["train"][-1]["step"] == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "which recipe"),
        (["status", "{run}/samples"], "is not a run"),
    ],
)
def test_wrong_requests_of_status(sedd, watched, words, message):
    done = sedd(*(w.format(run=watched[0]) for w in words))
    assert done.code == 2
    assert message in done.err


def test_a_curve_falls_from_its_first_label_to_its_last():
    line = Line([(0, 8.0), (50, 4.0), (100, 2.0)], {"o": [(100, 2.0)]})
    drawn = chart([line], {}, width=20, height=5).plain.splitlines()
    assert drawn[0].startswith("    8.000 ┤")
    assert drawn[4].startswith("    2.000 ┤")
    assert drawn[4].endswith("o")
    filled = [[c for c, mark in enumerate(line[11:]) if mark not in " o"] for line in drawn[:5]]
    assert max(filled[0]) < min(filled[4])
    assert chart([Line([(5, 1.0)])], {}).plain.count("\n") == 14  # a single point is a curve too


def test_marks_that_fall_into_one_cell_stand_side_by_side():
    marks = {"o": [(100, 2.0), (99.9, 2.0)], "x": [(100, 2.01)], "+": [(0, 8.0)], "*": [(0, 8.0)]}
    drawn = chart([Line([(0, 8.0), (100, 2.0)], marks)], {}, width=20, height=5).plain.splitlines()
    assert drawn[4].endswith("xo")
    assert drawn[0][11] == "*"  # no room further left


def test_tensorboard_holds_the_numbers_of_the_metrics(workplace, tmp_path):
    pytest.importorskip("tensorboard", reason="the tensorboard extra is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = load_recipe(workplace / "tiny.yaml", ["report.every=6"])
    list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False, trackers=("tensorboard",))))
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    logged = lines(tmp_path / "run", "train")
    points = [(e.step, e.value) for e in board.Scalars("train/loss")]
    assert points == [(r["step"], pytest.approx(r["loss"])) for r in logged]
    (bound,) = board.Scalars("validation/bits_per_char")
    assert bound.value == pytest.approx(lines(tmp_path / "run", "validation")[0]["bits_per_char"])
    assert "train/loss at t 0.0-0.2" in board.Tags()["scalars"]
    assert any("sample" in tag for tag in board.Tags()["tensors"])


class WandbDouble(types.ModuleType):
    """A double of the package: like wandb it keeps a run by its id, and drops steps below its current one."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace(name="wandb")
        self.began, self.logged, self.ended, self.ids = [], {}, 0, itertools.count(1)
        self.util = types.SimpleNamespace(generate_id=lambda: f"run-{next(self.ids)}")

    def Html(self, text):
        return "html", text

    def init(self, **options):
        self.began.append(options)
        history = self.logged.setdefault(options["id"], {})

        def log(values, step):
            if step >= max(history, default=0):
                history[step] = history.get(step, {}) | values

        def finish():
            self.ended += 1

        return types.SimpleNamespace(log=log, finish=finish)

    def losses(self, name):
        return {step: values["train/loss"] for step, values in self.logged[name].items() if "train/loss" in values}


def test_wandb_is_told_the_same_and_resumed_under_the_same_name(workplace, tmp_path, monkeypatch):
    double = WandbDouble()
    monkeypatch.setitem(sys.modules, "wandb", double)
    for steps in (6, 12):
        recipe = load_recipe(workplace / "tiny.yaml", [f"train.steps={steps}", "report.every=4"])
        list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False, trackers=("wandb",))))
    assert [b["id"] for b in double.began] == ["run-1", "run-1"]
    assert double.began[0]["config"]["train"]["steps"] == 6
    assert double.ended == 2
    assert double.losses("run-1") == {r["step"]: r["loss"] for r in lines(tmp_path / "run", "train")}
    assert any("sample" in values for values in double.logged["run-1"].values())


def test_wandb_has_the_new_course_of_a_training_that_went_back(tiny_run, tmp_path, monkeypatch):
    double = WandbDouble()
    monkeypatch.setitem(sys.modules, "wandb", double)
    recipe = load_model(tiny_run, device="cpu").recipe
    longer = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=2 * recipe.train.steps))

    def log(recipe, start, steps, loss):
        (tracker,) = open_trackers(["wandb"], tmp_path, recipe, start)
        for step in range(start + 1, start + steps + 1):
            tracker.numbers(step, {"train/loss": loss})
        tracker.close()

    log(recipe, 0, 6, 3.0)
    log(recipe, 4, 1, 3.0)  # killed, and killed again: what is logged a second time is the same
    assert double.losses("run-1") == dict.fromkeys(range(1, 7), 3.0)
    log(longer, 4, 4, 2.0)
    assert double.losses("run-2") == dict.fromkeys(range(5, 9), 2.0)
    log(longer, 8, 1, 1.0)
    assert double.losses("run-2")[9] == 1.0


def test_a_tracker_without_its_package_is_refused_at_once(sedd, workplace, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = sedd("train", workplace / "tiny.yaml", "--wandb", "--run-dir", tmp_path / "run")
    assert done.code == 2
    assert "sedd[wandb]" in done.err
    assert not (tmp_path / "run").exists()


def test_divergence_is_said_once_when_two_windows_are_beyond_the_untrained_loss(tiny_run):
    model = load_model(tiny_run, device="cpu")
    state = types.SimpleNamespace(model=model, recipe=model.recipe, step=1)
    watch = Divergence(state)
    base = dict.fromkeys(TrainStep.__dataclass_fields__, 0) | {"loss_by_t": []}
    warned = []
    for step, loss in enumerate([3.4, 9.0, 3.4, 9.0, 9.0, 9.0, 9.0], 1):
        warned += [(step, e) for e in watch.see(TrainStep(**base | {"step": step, "loss": loss}))]
    ((step, warning),) = warned
    assert step == 5
    assert isinstance(warning, Warn)
    assert "training has diverged" in warning.text


def test_a_resumed_training_without_a_bound_is_not_watched_and_no_training_is_warned_twice(tiny_run):
    model = load_model(tiny_run, device="cpu")
    base = dict.fromkeys(TrainStep.__dataclass_fields__, 0) | {"loss_by_t": []}

    def warnings(objective, losses):
        changed = types.SimpleNamespace(objective=OBJECTIVES[objective](), graph=model.graph)
        watch = Divergence(types.SimpleNamespace(model=changed, recipe=model.recipe, step=1))
        return sum(len(list(watch.see(TrainStep(**base | {"step": 2, "loss": loss})))) for loss in losses)

    assert warnings("concrete_score", [300.0] * 4) == 0
    assert warnings("score_entropy", [9.0, 9.0, 3.4, 9.0, 9.0]) == 1


def test_a_loss_beyond_that_of_an_untrained_network_is_said_to_diverge(workplace, tmp_path, monkeypatch):
    """What is recorded rises, as under a learning rate that is too high, which no two machines do alike."""

    def warned(factor: float, run: str) -> list[str]:
        def risen(state, batch, rows):
            by_time = gradients(state, batch, rows)
            by_time.nats *= factor if state.step >= 10 else 1.0
            return by_time

        monkeypatch.setattr(loop, "gradients", risen)
        recipe = load_recipe(workplace / "tiny.yaml", ["train.steps=40", "train.lr=1e-6"])
        events = list(train(recipe, TrainOptions(tmp_path / run, "cpu", report=False)))
        return [e.text for e in events if isinstance(e, Warn) and "training has diverged" in e.text]

    assert len(warned(5.0, "high")) == 1
    assert warned(1.2, "ordinary") == []


def test_a_finished_run_goes_on_when_its_schedule_is_constant(workplace, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    list(train(load_recipe(workplace / "tiny.yaml"), TrainOptions(whole, "cpu", report=False)))
    for steps in (6, 12):
        recipe = load_recipe(workplace / "tiny.yaml", [f"train.steps={steps}"])
        list(train(recipe, TrainOptions(parts, "cpu", report=False)))
    assert (whole / "ema.safetensors").read_bytes() == (parts / "ema.safetensors").read_bytes()
    for changes, message in ((["train.steps=4"], "beyond train.steps=4"), (["train.schedule=cosine"], "schedule")):
        with pytest.raises(RequestError, match=message):
            list(train(load_recipe(workplace / "tiny.yaml", changes), TrainOptions(parts, "cpu", report=False)))


def test_a_decaying_schedule_binds_the_number_of_steps(workplace, tmp_path):
    for steps in (2, 4):
        recipe = load_recipe(workplace / "tiny.yaml", ["train.schedule=cosine", f"train.steps={steps}"])
        if steps == 4:
            with pytest.raises(RequestError, match=r"train.steps: 2 → 4"):
                list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))
        else:
            list(train(recipe, TrainOptions(tmp_path / "run", "cpu", report=False)))


def test_checkpoints_at_multiples_of_keep_every_stay(workplace, tmp_path):
    changes = ["train.save_every=2", "train.keep=1", "train.keep_every=4"]
    list(train(load_recipe(workplace / "tiny.yaml", changes), TrainOptions(tmp_path / "run", "cpu", report=False)))
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["step-12", "step-4", "step-8"]
    with pytest.raises(RequestError, match="multiple of save_every"):
        load_recipe(workplace / "tiny.yaml", ["train.keep_every=4"])


def test_a_loss_that_is_no_bound_has_a_curve_of_its_own(sedd, watched, workplace, tmp_path):
    """No baselines, bounds or unit of likelihood stand beside it; the training says so, once."""
    recipe = load_recipe(workplace / "tiny.yaml", ["objective=concrete_score", "train.steps=6"])
    events = list(train(recipe, TrainOptions(tmp_path / "own", "cpu")))
    said = [e.text for e in events if "no bound on the likelihood" in getattr(e, "text", "")]
    assert len(said) == 1
    found = status(tmp_path / "own")
    assert found.bound is not None
    alone = curve_of(found)
    assert (alone.unit, alone.marks, alone.levels) == (OWN, {}, {})
    assert [y for _, y in alone.raw] == [record["loss"] for record in found.train]
    folder, _ = watched
    assert curve_of(status(folder)).unit == "bits/char"
    assert {c.unit for c in curves_of([status(folder), found], "AB")} == {OWN}
    shown = sedd("status", tmp_path / "own").out
    assert "no likelihood" in shown
    assert "nats/token\n" not in shown.partition("training loss  ")[2].partition("gradient")[0]
    stored = tmp_path / "own" / "recipe.yaml"
    foreign = "objective:\n  name: mine\n"
    stored.write_text(re.sub(r"objective:\n(  .*\n)+", foreign, stored.read_text()) + PARTS_OF_MINE)
    assert not status(tmp_path / "own").loss_is_bound


PARTS_OF_MINE = "parts:\n  objective mine: {source: mine.py, sha256: '00'}\n"
