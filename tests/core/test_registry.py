"""A registry refuses what could not be used later, and names files that nobody imports."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from sedd_cli.core.graphs import GRAPHS
from sedd_cli.core.losses import OBJECTIVES
from sedd_cli.core.registry import Registry
from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES, Schedule


def test_a_class_is_found_under_its_name():
    registry = Registry("thing")

    @registry.register
    @dataclass(frozen=True)
    class One:
        name: ClassVar[str] = "one"

    assert registry["one"] is One
    assert registry.register(One) is One  # a module may be loaded anew


def test_a_second_class_of_a_name_is_refused():
    @dataclass(frozen=True)
    class Other(Schedule):
        name: ClassVar[str] = "geometric"

    with pytest.raises(ValueError, match=r"two classes have the noise name 'geometric': .*Geometric and .*Other"):
        SCHEDULES.register(Other)


def test_a_class_without_a_name_is_refused():
    @dataclass(frozen=True)
    class Nameless(Schedule):
        pass

    with pytest.raises(TypeError, match=r"Nameless has no name: .*name: ClassVar\[str\] = \"\.\.\.\""):
        SCHEDULES.register(Nameless)


def test_a_class_that_is_no_frozen_dataclass_of_its_own_is_refused():
    class Bare(Schedule):
        name = "bare"
        sigma_max: float = 8.0

    with pytest.raises(TypeError, match=r"Bare is no dataclass: write @dataclass\(frozen=True\) below"):
        SCHEDULES.register(Bare)


@pytest.mark.parametrize("registry", [GRAPHS, SCHEDULES, OBJECTIVES, SAMPLERS], ids=lambda one: one.kind)
def test_every_file_of_a_part_is_imported(registry):
    folder = Path(sys.modules[registry.package].__file__).parent if registry.package else Path("nowhere")
    assert not any(registry.forgotten(path.stem) for path in folder.glob("*.py"))


def test_a_file_without_an_import_line_is_named_where_it_is_the_one_that_is_wanted(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    for name in ("__init__", "used", "new", "helper"):
        (tmp_path / "parts" / f"{name}.py").write_text("" if name == "helper" else "@PARTS.register\nclass New: ...\n")
    (tmp_path / "parts" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    import parts  # noqa: F401

    registry = Registry("part", "parts")
    assert registry.forgotten("new") == "; new.py is not imported in parts/__init__.py"
    assert [registry.forgotten(name) for name in ("other", "helper", "../new", "a b")] == [""] * 4
