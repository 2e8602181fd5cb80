"""What a kill leaves behind: beside files, in locks, in samples that are kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sedd_cli.errors import RequestError
from sedd_cli.inference import resumable
from sedd_cli.inference.generate import as_json
from sedd_cli.inference.resumable import resumable_samples, writing
from sedd_cli.system.events import Sampled
from sedd_cli.system.files import new_folder, whole_file, write_whole
from sedd_cli.system.json_lines import json_lines

KILLED = """
import os, signal, sys
from pathlib import Path
from sedd_cli.system.files import whole_file
with whole_file(Path(sys.argv[1])) as beside:
    beside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_writing(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -9


def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_the_file(tmp_path):
    path = tmp_path / "s.json"
    path.write_text("old")
    killed_while_writing(path)
    others = tmp_path / ".other.json.01234567.partial"
    others.write_text("of another file")
    assert len(list(tmp_path.iterdir())) == 3
    write_whole(path, "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == [others.name, "s.json"]
    assert path.read_text() == "new"


def test_what_a_living_process_writes_is_not_removed(tmp_path):
    path = tmp_path / "s.json"
    with whole_file(path) as beside, new_folder(path) as folder:
        beside.write_text("one")
        write_whole(path, "two")
        assert beside.read_text() == "one"
        assert folder.is_dir()
    assert path.read_text() == "one"
    assert os.listdir(tmp_path) == ["s.json"]


def test_a_lock_lies_beside_what_it_guards_and_goes_with_the_command(tmp_path, monkeypatch):
    out = tmp_path / "f.jsonl"
    script = (
        "import sys; from pathlib import Path; from sedd_cli.inference.resumable import writing\n"
        "with writing(Path(sys.argv[1])): print('held')"
    )
    with writing(out):
        other = subprocess.run(
            [sys.executable, "-c", script, str(out)], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True,
            check=False,
        )  # fmt: skip
        assert b"another process writes" in other.stderr
    assert not list(tmp_path.iterdir())


def test_a_planted_link_in_place_of_a_lock_is_not_followed(tmp_path):
    (tmp_path / ".f.jsonl.lock").symlink_to(tmp_path / "victim")
    with pytest.raises((OSError, RequestError)), writing(tmp_path / "f.jsonl"):
        pass
    assert not (tmp_path / "victim").exists() or not (tmp_path / "victim").read_bytes()


def test_kept_samples_survive_a_kill_while_they_are_taken_up(tmp_path, monkeypatch):
    path = tmp_path / "tweedie-2.jsonl"
    samples = [Sampled(i, "text", [1], 1, 0.0) for i in range(3)]
    whole = json_lines(map(as_json, samples))
    path.write_text(whole + '{"index": 3, "te')

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(resumable, "write_whole", die)
    with pytest.raises(KeyboardInterrupt):
        list(resumable_samples(path, 4, lambda first: iter(()), "point"))
    assert path.read_text().startswith(whole)


@pytest.mark.parametrize("line", ["{}", '{"index": 0}', '{"index": "0"}', "[" * 10**5, "NaN"])
def test_a_foreign_line_ends_the_kept_samples(line, tmp_path):
    path = tmp_path / "tweedie-2.jsonl"
    path.write_text(line + "\n")
    assert resumable._stored_samples(path) == []


def test_checkpoints_open_under_any_name(tiny_run, tmp_path):
    from sedd_cli import load_model

    (tmp_path / "best").symlink_to(tiny_run / "checkpoints" / "step-12")
    assert load_model(tmp_path / "best", device="cpu").facts["step"] == 12


def test_a_checkpoint_names_files_of_its_own_only(tiny_run, tmp_path):
    import shutil

    from sedd_cli.checkpoints.checkpoint import open_checkpoint
    from sedd_cli.errors import DamageError

    for name in ("../../x", "/proc/self/environ", "a/b"):
        shutil.copytree(tiny_run / "checkpoints" / "step-12", tmp_path / "c", dirs_exist_ok=True)
        manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
        manifest["sha256"][name] = "0" * 64
        (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(DamageError, match="no file of its own"):
            open_checkpoint(tmp_path / "c")


def test_a_sweep_that_was_killed_as_it_began_goes_on(tmp_path):
    """Its folder then holds a lock, or its settings in the making; a kill found this."""
    from sedd_cli.evaluation.sweep import holds_sweep
    from sedd_cli.system.outputs import check_folder

    (tmp_path / ".lock").touch()
    (tmp_path / ".settings.json.0123abcd.partial").write_text("{")
    check_folder("--out", tmp_path, holds_sweep, "a folder of a sweep")
    (tmp_path / ".mine.partial").touch()
    with pytest.raises(RequestError, match="holds files"):
        check_folder("--out", tmp_path, holds_sweep, "a folder of a sweep")


def test_a_sweep_writes_its_settings_before_its_samples(tmp_path, monkeypatch):
    from sedd_cli.evaluation import sweep

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "write_document", die)
    with pytest.raises(KeyboardInterrupt):
        sweep._claim(sweep.SweepOptions(tmp_path, (2,)), {})
    assert not list(tmp_path.iterdir())
