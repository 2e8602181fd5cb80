"""What a process sets before torch is loaded."""

import subprocess
import sys
import warnings

import pytest

from sedd_cli.system import process
from sedd_cli.system.signals import uninterrupted

LINUX = sys.platform == "linux"

MEMORY = """
from sedd_cli.system import allocator
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
{first}
block = bytes(1) * (200 * 2**20)
high = resident()
del block
kept = resident()
{then}
print(high - kept, high - resident())
"""


def freed(first: str, then: str = "") -> list[float]:
    """MiB that went back to the kernel when 200 MiB were freed, and in all at the end."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY.format(first=first, then=then)], capture_output=True, text=True, check=True
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.skipif(not LINUX, reason="only glibc is told anything")
def test_freed_memory_is_kept_until_it_is_given_back():
    assert min(freed("")) > 150  # the C library's own way
    at_once, in_the_end = freed("allocator.keep_freed()", "allocator.give_back()")
    assert at_once < 50
    assert in_the_end > 150


@pytest.mark.skipif(not LINUX, reason="only glibc is told anything")
def test_by_default_inside_and_kept_again_after():
    inside = "allocator.keep_freed()\ncontext = allocator.as_by_default()\ncontext.__enter__()"
    assert freed(inside)[0] > 150
    assert freed(inside + "\ncontext.__exit__(None, None, None)")[0] < 50


@pytest.mark.skipif(not LINUX, reason="only glibc is told anything")
def test_who_set_the_c_librarys_variables_is_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert freed("allocator.keep_freed()")[0] > 150


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", None), ("150000 100000", 2), ("50000 100000", 1), ("", None)]
)
def test_a_containers_share_of_the_processor(monkeypatch, tmp_path, text, cores):
    file = tmp_path / "cpu.max"
    file.write_text(text)
    monkeypatch.setattr(process, "QUOTA", file)
    assert process.quota() == cores


def test_without_a_container_there_is_no_quota_of_processors(monkeypatch, tmp_path):
    monkeypatch.setattr(process, "QUOTA", tmp_path / "absent")
    assert process.quota() is None


@pytest.fixture
def clean(monkeypatch):
    """An environment that names nothing, put back afterwards."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "x")  # remembered, and restored in the end
        monkeypatch.delenv(name)
    monkeypatch.setattr(process.allocator, "keep_freed", lambda: None)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    return monkeypatch


def test_no_more_threads_than_the_share(clean, tmp_path):
    import os

    file = tmp_path / "cpu.max"
    clean.setattr(process, "QUOTA", file)
    clean.setattr(os, "cpu_count", lambda: 8)
    file.write_text("200000 100000")
    process.configure()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    os.environ["OMP_NUM_THREADS"] = "5"  # asked for
    process.configure()
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_warnings_are_one_line(clean, capsys):
    process.configure()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = process.show_warning
        warnings.warn("one\n   two", stacklevel=1)
    assert capsys.readouterr().err == "warning: one two\n"


def test_processes_share_the_quota_unless_the_user_names_a_number(clean):
    clean.setattr(process, "_limit", None)
    clean.setattr(process, "quota", lambda: 8)
    clean.setattr(process.os, "cpu_count", lambda: 64)
    process.configure()
    assert process.os.environ["OMP_NUM_THREADS"] == "8"
    assert process.share_of_threads(4) == {"OMP_NUM_THREADS": "2"}
    clean.setenv("OMP_NUM_THREADS", "3")
    assert process.share_of_threads(4) == {}


def test_a_timeout_of_the_work_is_its_error():
    def late():
        raise TimeoutError("the disk does not answer")

    with pytest.raises(TimeoutError, match="the disk does not answer"):
        uninterrupted(late)
