"""Hostile input without end: `python -m tests.support.fuzz --minutes 10`, in the folder that holds tests/.

Valid files are mutated and read: recipes, overrides, templates, jobs, JSON lines, tokenizers, configurations, weights,
pickles, corpora, manifests. Each input must give a value or an error of ours, in 10 seconds and 2 GB, and touch nothing
outside a scratch folder. What does not is reported with the number of its input; `--only N` repeats it.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

#: Limits of one input.
SECONDS, BYTES = 10.0, 2 << 30

RECIPE = """\
name: tiny
data: {corpus: a.txt, tokenizer: byte}
graph: {name: absorbing, scale_by_sigma: true}
noise: {name: loglinear, eps: 0.001}
model: {n_blocks: 1, hidden_size: 16, n_heads: 2, cond_dim: 8, dropout: 0.0, length: 16}
train: {steps: 2, batch: 4, warmup: 1, betas: [0.9, 0.95], keep_every: null, compile: false}
report: {samples: 1, infill: {prefix: a, suffix: b, length: 8}}
"""
OVERRIDES = (
    "train.steps=10",
    "train.betas=[0.9, 0.95]",
    "graph=uniform",
    "data.corpus=wiki #2.txt",
    "seed=1",
    "noise.name=geometric",
    "report.infill=null",
    "graph={name: absorbing, scale_by_sigma: true}",
)
TEMPLATES = ("The [MASK:12] sat on [MASK:5-20], because [MASK].", r"\[x\] [MASK] \\", "[MASK:1]")
JOB = '{"template": "a [MASK:3] b", "id": 1, "n": 2, "seed": 3, "candidates": 2}'
TEXT = "alpha beta gamma\n\ndelta eps\n\n" * 20
#: Pieces that mutations insert.
NASTY = (
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"NaN",
    b"1e999",
    b"-1",
    b"9" * 400,
    b"0",
    b"1" + b"0" * 30,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"&a [*a]",
    b"*a",
    b"<<: ",
    b"!!python/object:os.system",
    b"\x1b]0;x\x07",
    b"../../x",
    b"/proc/self/mem",
    b"\r",
    b"\n",
    b"\xe2\x80\xa8",
    b"'",
    b'"',
    b"(a+)+$",
    b"1:30",
    b"~",
    b"a" * 5000,
    b"\xf0\x9f\x98\x80",
    b"# ",
    b"--- ",
    b"? ",
    b": ",
    b", ",
    b"}",
    b"]",
    b"%",
    b"\t",
    b"-" * 3000,
)

Target = Callable[[random.Random, Path], Any]


def mutated(rng: random.Random, raw: bytes) -> bytes:
    """The bytes after a few cuts, copies, insertions and flips; sometimes as they are."""
    data = bytearray(raw)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 4, 40, 4000)))
        match rng.randrange(6):
            case 0:
                del data[at:end]
            case 1:
                data[at:at] = rng.choice(NASTY)
            case 2:
                data[at:end] = rng.choice(NASTY)
            case 3:
                data[at:at] = data[at:end] * rng.choice((1, 2, 50))
            case 4 if data:
                data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
            case _:
                data[at:end] = rng.randbytes(rng.choice((1, 2, 8)))
    return bytes(data)


def text(rng: random.Random, words: tuple[str, ...]) -> str:
    return mutated(rng, rng.choice(words).encode()).decode("utf-8", rng.choice(("replace", "surrogateescape")))


def json_mutated(rng: random.Random, value: Any) -> Any:
    """A JSON value with one part exchanged: what a mutation of bytes seldom hits."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        odd = (
            None,
            -1,
            0,
            1e308,
            2**63,
            10**30,
            "",
            "x" * 10**5,
            [],
            {},
            [[[]]],
            True,
            "\ud800",
            "../x",
            0.5,
            [value, value],
        )
        return rng.choice(odd)
    key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
    value[key] = json_mutated(rng, value[key])
    return value


class Kit:
    """Valid inputs, made once in the scratch folder."""

    def __init__(self, scratch: Path):
        import numpy as np
        import pyarrow
        import torch
        from pyarrow import parquet
        from safetensors.torch import save_file
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

        from sedd_cli.data.prepare import prepare
        from sedd_cli.data.prepared import PrepareOptions
        from sedd_cli.models.dit import DiT
        from sedd_cli.models.shape import DiTConfig
        from sedd_cli.recipe import load_recipe
        from sedd_cli.system.events import result_of
        from sedd_cli.training.train import TrainOptions, train

        torch.set_num_threads(1)
        np.random.seed(0)
        self.at = scratch / "kit"
        self.at.mkdir()
        (self.at / "a.txt").write_text("\n\n".join(f"alpha beta gamma {i}" for i in range(200)))
        (self.at / "tiny.yaml").write_text(RECIPE.replace("a.txt", str(self.at / "a.txt")))
        for _ in train(load_recipe(self.at / "tiny.yaml"), TrainOptions(self.at / "run", "cpu", report=False)):
            pass
        self.data = result_of(prepare(PrepareOptions(str(self.at / "a.txt"), tokenizer="byte"))).folder
        shape = {"hidden_size": 16, "cond_dim": 8, "length": 16, "n_blocks": 1, "n_heads": 2, "dropout": 0.1}
        self.config = {
            "tokens": 257,
            "graph": {"type": "absorb"},
            "noise": {"type": "loglinear"},
            "model": {**shape, "scale_by_sigma": True},
        }
        net = DiT(DiTConfig(**shape), 258)
        state = {name: value.contiguous() for name, value in net.state_dict().items()}
        save_file(state, self.at / "model.safetensors")
        torch.save(state, self.at / "pytorch_model.bin")
        ema = {"shadow_params": [v for k, v in state.items() if "rotary" not in k]}
        torch.save({"model": state, "ema": ema, "step": 3}, self.at / "checkpoint.pth")
        engine = Tokenizer(models.BPE({c: i for i, c in enumerate("abcdefgh ")}, [("a", "b")] if False else []))
        engine.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.Digits()])
        engine.normalizer, engine.decoder = normalizers.NFC(), decoders.ByteLevel()
        engine.add_special_tokens(["</s>"])
        self.tokenizer = json.loads(engine.to_str())
        records = "".join(json.dumps({"text": f"text {i}", "tokens": [1, 2], "nfe": 3}) + "\n" for i in range(20))
        table = "id,text\n" + "".join(f'{i},"text {i}"\n' for i in range(20))
        parquet.write_table(pyarrow.table({"text": ["a", "b"] * 30}), self.at / "a.parquet")
        tar, packed = io.BytesIO(), io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for name, raw in (("a.txt", b"one"), ("b.jsonl", records.encode()), ("c.png", b"?")):
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.txt", TEXT)
            archive.writestr("b.csv", table)
        self.corpora = {
            "a.txt": TEXT.encode(),
            "a.jsonl": records.encode(),
            "a.json": f"[{','.join(records.split())}]".encode(),
            "a.csv": table.encode(),
            "a.tsv": table.replace(",", "\t").encode(),
            "a.tar": tar.getvalue(),
            "a.tar.gz": gzip.compress(tar.getvalue()),
            "a.zip": packed.getvalue(),
            "a.txt.gz": gzip.compress(TEXT.encode()),
            "a.jsonl.xz": lzma.compress(records.encode()),
            "a.txt.bz2": bz2.compress(TEXT.encode()),
            "a.parquet": (self.at / "a.parquet").read_bytes(),
            "a.xz": lzma.compress(tar.getvalue()),
        }

    def targets(self) -> dict[str, Target]:
        """What is read, by name; each makes its input in a folder and reads it."""
        from sedd_cli import load_model
        from sedd_cli.checkpoints.checkpoint import open_checkpoint
        from sedd_cli.data.formats import ReadOptions, read_documents, read_samples
        from sedd_cli.data.shards import open_dataset
        from sedd_cli.data.tokenizers import load_tokenizer
        from sedd_cli.inference.batch.lines import job_lines
        from sedd_cli.inference.template import parse_template
        from sedd_cli.recipe import load_recipe

        def put(path: Path, raw: bytes) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
            return path

        def either(rng: random.Random, value: Any) -> bytes:
            if rng.random() < 0.5:
                return mutated(rng, json.dumps(value).encode())
            return json.dumps(json_mutated(rng, json.loads(json.dumps(value)))).encode()

        def published(rng: random.Random, at: Path, config: bytes, name: str, weights: bytes) -> Any:
            put(at / "config.json", config)
            put(at / name, weights)
            if rng.random() < 0.2:
                put(at / "recipe.yaml", mutated(rng, RECIPE.encode()))
            return load_model(at, device="cpu")

        good = json.dumps(self.config).encode()
        weights = {name: (self.at / name).read_bytes() for name in ("model.safetensors", "pytorch_model.bin")}

        def copied(rng: random.Random, at: Path, source: Path, names: list[str]) -> Path:
            shutil.copytree(source, at / "copy")
            name = rng.choice(names)
            raw = (at / "copy" / name).read_bytes()
            put(at / "copy" / name, either(rng, json.loads(raw)) if name.endswith(".json") else mutated(rng, raw))
            return at / "copy"

        def corpus(rng: random.Random, at: Path) -> Any:
            name = rng.choice(list(self.corpora))
            options = ReadOptions(
                rng.choice((None, None, "text", "x")),
                rng.choice(("utf-8", "latin-1", "utf-16", "cp1252", "utf-7")),
                rng.choice(("auto", "blank", "line", "file")),
                rng.choice(("auto", "auto", "text", "jsonl", "csv", "archive")),
            )
            return list(read_documents(put(at / name, mutated(rng, self.corpora[name])), options))

        def training_folder(rng: random.Random, at: Path) -> Any:
            put(at / ".hydra/config.yaml", either(rng, self.config))
            raw = (self.at / "checkpoint.pth").read_bytes()
            put(at / "checkpoints-meta/checkpoint.pth", mutated(rng, raw) if rng.random() < 0.3 else raw)
            return load_model(at, device="cpu")

        step = self.at / "run/checkpoints/step-2"
        return {
            "recipe": lambda rng, at: load_recipe(put(at / "r.yaml", mutated(rng, RECIPE.encode()))),
            "override": lambda rng, at: load_recipe(put(at / "r.yaml", RECIPE.encode()), [text(rng, OVERRIDES)]),
            "template": lambda rng, at: parse_template(text(rng, TEMPLATES)),
            "jobs": lambda rng, at: list(job_lines([mutated(rng, JOB.encode()) for _ in range(5)], "jobs", 64)),
            "samples": lambda rng, at: list(read_samples(put(at / "s.jsonl", mutated(rng, self.corpora["a.jsonl"])))),
            "corpus": corpus,
            "tokenizer": lambda rng, at: load_tokenizer(str(put(at / "t.json", either(rng, self.tokenizer)))).encode(
                "a 1b"
            ),
            "config": lambda rng, at: published(
                rng, at, either(rng, self.config), "model.safetensors", weights["model.safetensors"]
            ),
            "safetensors": lambda rng, at: published(
                rng,
                at,
                good,
                "model.safetensors",
                mutated(rng, weights["model.safetensors"][:3000]) + weights["model.safetensors"][3000:],
            ),
            "pickle": lambda rng, at: published(
                rng, at, good, "pytorch_model.bin", mutated(rng, weights["pytorch_model.bin"])
            ),
            "training folder": training_folder,
            "checkpoint": lambda rng, at: open_checkpoint(
                copied(rng, at, step, ["manifest.json", "state.json", "recipe.yaml"])
            ),
            "dataset": lambda rng, at: (
                open_dataset(copied(rng, at, self.data, ["manifest.json", "tokenizer.json"])).tokenizer
            ),
        }


def work(scratch: Path, first: int, last: int | None, seed: int) -> None:
    """Read inputs one after another; a line of JSON on standard output before and after each."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from sedd_cli.cli.outcome import one_line
    from sedd_cli.errors import RequestError, WorkError, printable

    kit = Kit(scratch)
    targets = kit.targets()
    touched: list[str] = []
    allowed = (str(scratch), "/dev/null", "/dev/shm", "/proc/self")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        named = arguments[:1]
        if event == "open":
            writes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            named = named if writes else ()
        elif event not in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.symlink"):
            return
        for name in named:
            if isinstance(name, str | bytes | Path) and not os.path.abspath(os.fsdecode(name)).startswith(allowed):
                touched.append(f"{event} {os.fsdecode(name)}")

    sys.addaudithook(watch)
    number = first
    while last is None or number < last:
        rng = random.Random(f"{seed} {number}")
        name = rng.choice(list(targets))
        at = scratch / "input"
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir()
        out.write(json.dumps({"begun": number, "target": name}) + "\n")
        out.flush()
        touched.clear()
        ended, wrong = "read", ""
        try:
            targets[name](rng, at)
        except (RequestError, WorkError) as error:
            ended, said = "refused", str(error)
            if len(said) > 5000 or "\n" in one_line(error) or printable(one_line(error)) != one_line(error):
                wrong = f"a message of {len(said)} characters"
        except OSError as error:
            ended = "refused"
            wrong = "" if error.filename else f"OSError without a file: {error}"
        except BaseException:
            ended, wrong = "failed", traceback.format_exc()[-1500:]
        if touched:
            wrong = f"touched {touched[:3]}"
        out.write(json.dumps({"ended": number, "target": name, "how": ended, "wrong": wrong}) + "\n")
        out.flush()
        number += 1


def memory(process: int) -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{process}/status").read_text().split("\n")
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return 0


def supervise(minutes: float, seed: int, first: int, last: int | None) -> int:
    """Run workers until the time is over; report. The number of findings."""
    scratch = Path(tempfile.mkdtemp(prefix="sedd-fuzz-"))
    ends, counts, findings, number = time.monotonic() + 60 * minutes, Counter[str](), list[str](), first
    slowest, largest = 0.0, 0
    try:
        while time.monotonic() < ends and (last is None or number < last):
            folder = scratch / f"worker-{number}"
            for name in ("home", "tmp"):
                (folder / name).mkdir(parents=True)
            settings = {
                "HOME": folder / "home",
                "TMPDIR": folder / "tmp",
                "SEDD_HOME": folder / "home",
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": folder / "home",
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
            }
            words = ["--work", str(folder), "--first", str(number), "--seed", str(seed)]
            words += [] if last is None else ["--last", str(last)]
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.support.fuzz", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **{key: str(value) for key, value in settings.items()}},
            )
            assert worker.stdout is not None
            os.set_blocking(worker.stdout.fileno(), False)
            begun, since, pending, target, before = None, time.monotonic(), b"", "", sum(counts.values())
            while True:
                pending += worker.stdout.read() or b""
                *lines, pending = pending.split(b"\n")
                for line in map(json.loads, lines):
                    if "begun" in line:
                        begun, target, since = line["begun"], line["target"], time.monotonic()
                        continue
                    number, begun = line["ended"] + 1, None
                    slowest = max(slowest, time.monotonic() - since)
                    counts[f"{line['target']}: {line['how']}"] += 1
                    if line["wrong"]:
                        findings.append(f"input {line['ended']} ({line['target']}): {line['wrong']}")
                largest = max(largest, used := memory(worker.pid))
                late = begun is not None and time.monotonic() - since > SECONDS
                if late or used > BYTES or worker.poll() is not None or time.monotonic() > ends:
                    break
                time.sleep(0.02)
            if begun is not None and (late or used > BYTES or worker.poll() not in (None, 0)):
                why = (
                    f"more than {SECONDS:g} s"
                    if late
                    else f"{used:,} bytes"
                    if used > BYTES
                    else f"exit {worker.poll()}"
                )
                findings.append(f"input {begun} ({target}): {why}")
                number = begun + 1
            elif worker.poll() and sum(counts.values()) == before:
                raise SystemExit(f"the worker ended with {worker.poll()} before its first input")
            worker.kill()
            worker.wait()
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for finding in findings:
        print(finding)
    for name, count in sorted(counts.items()):
        print(f"{count:>8,}  {name}")
    print(
        f"{sum(counts.values()):,} inputs, {len(findings)} findings; slowest {slowest:.1f} s, "
        f"most memory {largest / 1e9:.2f} GB"
    )
    return len(findings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, help="Stop before this input.")
    parser.add_argument("--only", type=int, help="One input.")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        return work(asked.work, asked.first, asked.last, asked.seed)
    first, last = (asked.only, asked.only + 1) if asked.only is not None else (asked.first, asked.last)
    sys.exit(bool(supervise(asked.minutes, asked.seed, first, last)))


if __name__ == "__main__":
    main()
