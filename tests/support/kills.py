"""Kills at random moments: `python -m tests.support.kills --kills 100`, in the folder that holds tests/.

prepare, train, eval, sweep, infill and export are started, killed with −9 at a random moment, and started again until
they end. What they leave has to equal what the same commands leave without a kill; nothing half-written stays.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

RECIPE = """\
name: tiny
data: {corpus: a.txt, tokenizer: byte}
graph: absorbing
noise: loglinear
model: {n_blocks: 1, hidden_size: 16, n_heads: 2, cond_dim: 8, length: 32}
train: {steps: 60, batch: 4, warmup: 10, save_every: 4, log_every: 4, compile: false, precision: fp32}
report: {samples: 2, rel_error: 0.2}
"""
#: The commands, in order: each reads what those before it made.
COMMANDS = {
    "prepare": "prepare b.txt --tokenizer bpe:300",
    "train": "train tiny.yaml --run-dir run --device cpu",
    "eval": "eval --model run --dataset a.txt --split train --max-nfe 8 --precision fp32 --out eval.json --device cpu",
    "sweep": "sweep --model run --judge judge --steps 2,4 -n 12 --out sweep --device cpu",
    "infill": "infill --model run --input jobs.jsonl --steps 4 --out filled.jsonl --device cpu",
    "export": "export run --to exported",
}
#: Fields for when and where, not what. `data`, the fingerprint of the text, stands in the first record of each start.
PASSING = {"seconds", "tokens_per_second", "seconds_left", "memory", "mfu", "machine", "folder", "time", "date", "data"}


def prepare_folder(at: Path, judge: Path | None) -> None:
    """The files that the commands read."""
    rng = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    for name, count in (("a.txt", 300), ("b.txt", 20_000)):
        (at / name).write_text("\n\n".join(" ".join(rng.choices(words, k=12)) for _ in range(count)))
    (at / "tiny.yaml").write_text(RECIPE)
    jobs = (json.dumps({"template": f"alpha [MASK:3] {word} {i}", "id": i}) for i, word in enumerate(words * 8))
    (at / "jobs.jsonl").write_text("\n".join(jobs) + "\n")
    if judge:
        shutil.copytree(judge, at / "judge")


def start(words: str, at: Path) -> int:
    """Start a command in a fork, which has imported all that it needs; its process."""
    if process := os.fork():
        return process
    os.chdir(at)
    os.environ.update(SEDD_HOME=str(at / "home"), HF_HUB_OFFLINE="1", NO_COLOR="1")
    err = os.open(at.parent / "err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(err, 2)
    code = 1
    try:
        from sedd_cli.cli.app import run

        code = run(words.split())
    finally:
        os._exit(code)


def ended(process: int, seconds: float = 600.0) -> int | None:
    """The exit code of a process that ends within so many seconds; None for one that does not."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def run(words: str, at: Path) -> float:
    """Run a command to its end; its seconds."""
    began = time.monotonic()
    if code := ended(start(words, at)):
        raise SystemExit(f"sedd {words} ended with {code}: {(at.parent / 'err').read_text()[-2000:]}")
    return time.monotonic() - began


def preload() -> None:
    """Import what the commands import, so that forks begin at once."""
    import torch
    import torch.distributed.checkpoint.staging

    from sedd_cli.evaluation.likelihood import evaluate
    from sedd_cli.inference.batch import jobs
    from sedd_cli.training import train

    assert all((evaluate, jobs, train))
    torch.set_num_threads(1)


def plain(value: Any) -> Any:
    """A JSON value without what differs between two runs of the same work."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if key not in PASSING}
    return [plain(one) for one in value] if isinstance(value, list) else value


def content(at: Path) -> dict[str, str]:
    """A digest of every result, by path. Lines of results are sorted: they are stored as they finish."""
    from safetensors.torch import load_file

    found = {}
    for path in sorted(at.rglob("*")):
        name = path.relative_to(at).as_posix()
        if not path.is_file() or name.startswith("home/evaluations") or path.name == ".lock" or "/." in f"/{name}":
            continue
        raw = path.read_bytes()
        if path.suffix == ".jsonl":
            lines = {json.dumps(plain(json.loads(line)), sort_keys=True) for line in raw.split(b"\n") if line}
            raw = "\n".join(sorted(lines)).encode()
        elif path.suffix == ".json" and path.name != "manifest.json":
            raw = json.dumps(plain(json.loads(raw)), sort_keys=True).encode()
        elif path.suffix == ".safetensors":  # the order of tensors in a file means nothing
            tensors = sorted(load_file(path).items())
            raw = b"".join(
                name.encode() + str(value.dtype).encode() + value.numpy().tobytes() for name, value in tensors
            )
        elif path.suffix in (".png", ".md"):
            continue
        elif path.name == "manifest.json":
            continue  # digests of files that say when
        found[name] = hashlib.sha256(raw).hexdigest()
    return found


def left(at: Path) -> list[str]:
    """Files in the making that nobody finished."""
    return [str(path.relative_to(at)) for path in at.rglob("*.partial")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    preload()
    rng, scratch = random.Random(asked.seed), Path(tempfile.mkdtemp(prefix="sedd-kills-"))
    try:
        calm, wild = scratch / "calm", scratch / "wild"
        calm.mkdir()
        prepare_folder(calm, None)
        run("train tiny.yaml objective=autoregressive train.steps=20 --run-dir judge --no-report --device cpu", calm)
        seconds = {name: run(words, calm) for name, words in COMMANDS.items()}
        expected, kills, rounds = content(calm), Counter[str](), 0
        while kills.total() < asked.kills:
            rounds += 1
            wild.mkdir()
            prepare_folder(wild, calm / "judge")
            shutil.copytree(calm / "home" / "data", wild / "home" / "data", ignore=lambda at, names: [
                name for name in names if name.startswith("b-")
            ])  # fmt: skip
            for name, words in COMMANDS.items():
                for _ in range(min(3, asked.kills - kills.total())):
                    process = start(words, wild)
                    code = ended(process, rng.uniform(0.0, 1.0) * seconds[name])
                    if code is None:
                        os.kill(process, signal.SIGKILL)
                        code = ended(process)
                        kills[name] += code == -signal.SIGKILL
                    if code not in (0, -signal.SIGKILL):
                        err = (scratch / "err").read_text()[-2000:]
                        raise SystemExit(f"round {rounds}: sedd {words} ended with {code}: {err}")
                    if name == "export" and (made := wild / "exported").exists():
                        # a kill may come after its last rename; an export is whole or absent, and never written over
                        if content(made) != content(calm / "exported"):
                            raise SystemExit(f"round {rounds}: an export was left half-written")
                        shutil.rmtree(made)
                run(words, wild)
            found = content(wild)
            wrong = [path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)]
            if wrong or left(wild):
                raise SystemExit(f"round {rounds}, {kills}: differs: {sorted(wrong)}; left: {left(wild)}")
            shutil.rmtree(wild)
            print(f"round {rounds}: {kills.total()} kills, results equal", flush=True)
        each = ", ".join(f"{name} {count}" for name, count in kills.items())
        print(f"{kills.total()} kills ({each}): nothing lost, {len(expected)} files equal in every round, nothing left")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
