"""What this machine has, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sedd_cli import __version__
from sedd_cli.errors import shell_word
from sedd_cli.evaluation.diagnosis.results import Finding, finding
from sedd_cli.system.home import home, nearest_existing

if TYPE_CHECKING:
    from packaging.requirements import Requirement

#: What tiktoken's cache calls GPT-2's vocab.bpe and encoder.json: the sha1 of their addresses.
GPT2_FILES = ("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6")
EXTRAS = {
    "flash-attn": "never needed; on a GPU: pip install 'sedd[flash]'",
}


def examine() -> list[Finding]:
    """Findings {check, state, found, advice}; state is ok, odd, missing, optional or bad."""
    return [*_software(), *_devices(), *_storage(), *_caches()]


def _software() -> list[Finding]:
    required = _requirements()
    findings = [finding("sedd", "ok", __version__)]
    if required is None:
        advice = "pip install -e . in the folder of its pyproject.toml"
        findings = [finding("sedd", "odd", f"{__version__}, not installed: what it requires is not known", advice)]
    good = sys.version_info >= (3, 11)
    advice = "" if good else "install Python 3.11 or newer"
    findings.append(finding("python", "ok" if good else "bad", platform.python_version(), advice))
    findings += map(_required, required or [])
    for name, advice in EXTRAS.items():
        version = _version(name)
        findings.append(finding(name, "ok", version) if version else finding(name, "optional", "", advice))
    return findings


def _requirements() -> list[Requirement] | None:
    """What this package requires here, without its extras; None where it runs without being installed."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("sedd") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = map(Requirement, lines)
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def _required(wanted: Requirement) -> Finding:
    """Whether a package is there, in a version that is accepted."""
    version, advice = _version(wanted.name), f"pip install {shell_word(f'{wanted.name}{wanted.specifier}')}"
    if version is None:
        return finding(wanted.name, "missing", "", advice)
    if not wanted.specifier.contains(version, prereleases=True):
        return finding(wanted.name, "bad", f"{version}, needed is {wanted.specifier}", advice)
    return finding(wanted.name, "ok", version)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[Finding]:
    if _version("torch") is None:
        return []
    import torch

    from sedd_cli.models.precision import native_bf16

    bf16 = "native bf16" if native_bf16(torch.device("cpu")) else "no native bf16, fp32 is used"
    found = [finding("cpu", "ok", f"{torch.get_num_threads()} threads, {bf16}")]
    if not torch.cuda.is_available():
        return [*found, finding("cuda", "optional", "no GPU that torch can use", "the CPU does everything, slower")]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(finding(f"cuda:{i}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    return found


def _storage() -> list[Finding]:
    folder = home()
    existing = nearest_existing(folder)
    free = shutil.disk_usage(existing).free / 2**30
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    advice = "" if writable else "set SEDD_HOME to a folder you can write to"
    return [finding("data folder", "ok" if writable else "bad", f"{folder}, {free:.0f} GiB free", advice)]


def _caches() -> list[Finding]:
    """What is at hand without a network."""
    findings = []
    tiktoken = Path(os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR") or "")
    if tiktoken.name and all((tiktoken / name).is_file() for name in GPT2_FILES):
        findings.append(finding("gpt2 tokenizer", "ok", f"cached in {tiktoken}"))
    else:
        advice = "fetched on first use; offline, set TIKTOKEN_CACHE_DIR to a filled cache"
        findings.append(finding("gpt2 tokenizer", "optional", "no cache named", advice))
    if _version("huggingface_hub") is not None:
        from huggingface_hub import constants, try_to_load_from_cache

        for name in ("louaaron/sedd-small", "louaaron/sedd-medium"):
            cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
            where = f"cached in {constants.HF_HUB_CACHE}" if cached else "not cached"
            advice = "" if cached else "fetched on first use; offline, pass a folder as --model"
            findings.append(finding(name, "ok" if cached else "optional", where, advice))
    data = home() / "data"
    prepared = sorted(p.parent.name for p in data.glob("*/manifest.json")) if data.is_dir() else []
    if prepared:
        return [*findings, finding("prepared corpora", "ok", ", ".join(prepared))]
    return [*findings, finding("prepared corpora", "optional", "none", "sedd prepare pydocs needs no network")]
