"""A small trained run that many tests read, and the command line as a function."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from support.forked import RUNNING

SENTENCES = (
    "the cat sat on the mat", "a dog ran over the hill", "the list is sorted in place",
    "return the first item of the list", "raise an error if the file is missing",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread is fastest for the tiny tensors of the tests, here and in the processes that they start."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory) -> Path:
    """A folder with a corpus and a tiny recipe; it also holds the data home."""
    folder = tmp_path_factory.mktemp("workplace")
    lines = [f"{SENTENCES[i % 5]} {i}" for i in range(2000)]
    (folder / "corpus.txt").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "name": "tiny",
        "data": {"corpus": str(folder / "corpus.txt"), "tokenizer": "char"},
        "graph": {"name": "absorbing"},
        "noise": {"name": "loglinear"},
        "model": {"n_blocks": 1, "hidden_size": 16, "n_heads": 2, "cond_dim": 8, "dropout": 0.1, "length": 24},
        "train": {
            "steps": 12,
            "batch": 8,
            "lr": 3e-3,
            "warmup": 2,
            "precision": "fp32",
            "log_every": 2,
            "save_every": 6,
        },
        "sampler": {"name": "tweedie", "steps": 4},
        "report": {"split": "test", "samples": 1, "rel_error": 0.5},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(autouse=True)
def _own_home(workplace, monkeypatch) -> None:
    """No test uses the user's data or the network."""
    # `datasets.map` with several workers replaces os.environ by a copy; rich goes on reading the first one
    monkeypatch.setattr(os, "environ", os.environ)
    monkeypatch.setenv("SEDD_HOME", str(workplace / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def _no_fork_is_left() -> Iterator[None]:
    """Forks of a test that fails end with it."""
    yield
    while RUNNING:
        RUNNING.pop().end()


@pytest.fixture(scope="session")
def tiny_run(workplace) -> Path:
    """A finished run of the tiny recipe. Read only."""
    from sedd_cli.recipe import load_recipe
    from sedd_cli.training.train import TrainOptions, train

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEDD_HOME", str(workplace / "home"))
        for _ in train(load_recipe(workplace / "tiny.yaml"), TrainOptions(workplace / "runs" / "tiny", "cpu")):
            pass
    return workplace / "runs" / "tiny"


@pytest.fixture
def sedd(monkeypatch, capsys) -> Callable[..., Outcome]:
    """`sedd("eval", "--json")` in this process, through the same entry as the console script."""
    from sedd_cli.__main__ import main

    # ending the interpreter at once would end the tests
    monkeypatch.setattr("sedd_cli.__main__._exit_at_once", lambda code: None)

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sedd", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
