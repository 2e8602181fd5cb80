"""Parts from outside the package: how they are imported, recorded and missed."""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import EntryPoint

import pytest
import yaml
from support.outside import PARTS, nothing_imported

from sedd_cli.core.samplers import SAMPLERS
from sedd_cli.core.schedules import SCHEDULES
from sedd_cli.errors import RequestError
from sedd_cli.recipe import dump_recipe, load_recipe, outside
from sedd_cli.recipe.differences import differences


@pytest.fixture(autouse=True)
def _clean():
    with nothing_imported():
        yield


@pytest.fixture
def parts(tmp_path):
    path = tmp_path / "my_parts.py"
    path.write_text(PARTS)
    return path


@pytest.fixture
def recipe(workplace, tmp_path):
    data = yaml.safe_load((workplace / "tiny.yaml").read_text())
    data |= {"noise": {"name": "constant", "sigma_max": 6.0}, "sampler": {"name": "frozen_rates", "steps": 4}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_file_registers_its_parts(parts):
    assert outside.import_parts(str(parts)) == ["noise constant", "sampler frozen_rates"]
    assert SCHEDULES["constant"]().sigma_max == 8.0
    assert outside.import_parts(str(parts)) == ["noise constant", "sampler frozen_rates"]  # a second time


def test_a_module_by_its_name_and_a_file_with_a_helper_beside_it(parts, monkeypatch):
    (parts.parent / "their_helper.py").write_text("LARGEST = 3.0\n")
    parts.write_text("from their_helper import LARGEST\n" + PARTS.replace("8.0", "LARGEST"))
    monkeypatch.chdir(parts.parent)
    assert outside.import_parts("my_parts") == ["noise constant", "sampler frozen_rates"]
    assert SCHEDULES["constant"]().sigma_max == 3.0
    sys.modules.pop("their_helper")


def test_a_recipe_records_the_file_and_its_sha256_and_only_for_parts_from_outside(parts, recipe):
    outside.import_parts(str(parts))
    found = load_recipe(recipe)
    digest = hashlib.sha256(parts.read_bytes()).hexdigest()
    stored = yaml.safe_load(dump_recipe(found))["parts"]
    assert stored == {
        "noise constant": {"source": "my_parts.py", "sha256": digest},
        "sampler frozen_rates": {"source": "my_parts.py", "sha256": digest},
    }
    assert "parts" not in load_recipe("quickstart").to_data()


def test_a_missing_part_is_named_with_what_gives_it(parts, recipe, tmp_path):
    outside.import_parts(str(parts))
    stored = tmp_path / "stored.yaml"
    stored.write_text(dump_recipe(load_recipe(recipe)))
    del SCHEDULES._classes["constant"], SAMPLERS._classes["frozen_rates"]
    with pytest.raises(
        RequestError, match=r"noise 'constant' is of my_parts.py \(sha256 .{12}\).*--import my_parts.py"
    ):
        load_recipe(stored)
    with pytest.raises(RequestError, match=r"sampler 'frozen_rates' is of my_parts.py"):
        load_recipe(stored, ["noise=loglinear"])
    assert load_recipe(stored, ["noise=loglinear", "sampler=tweedie"]).parts == {}


def test_a_changed_file_is_said_and_the_record_of_the_recipe_stays(parts, recipe, tmp_path):
    outside.import_parts(str(parts))
    stored = tmp_path / "stored.yaml"
    stored.write_text(dump_recipe(load_recipe(recipe)))
    SCHEDULES._classes.pop("constant"), SAMPLERS._classes.pop("frozen_rates"), sys.modules.pop("my_parts")
    parts.write_text(PARTS + "# changed\n")
    outside.import_parts(str(parts))
    with pytest.warns(
        UserWarning, match=r"noise constant, sampler frozen_rates have changed: recorded with my_parts\.py .* now "
    ):
        old = load_recipe(stored)
    new = old.with_parts_of_now()
    assert old.parts["noise constant"].sha256 != new.parts["noise constant"].sha256
    assert all(change.within(["parts"]) for change in differences(old.to_data(), new.to_data()))


def test_a_recipe_cannot_name_code_to_import(recipe, parts, monkeypatch):
    """Nothing is imported by itself, also where the file lies beside."""
    monkeypatch.chdir(parts.parent)
    with pytest.raises(RequestError, match=r"unknown noise 'constant'.*--import FILE"):
        load_recipe(recipe)
    assert "my_parts" not in sys.modules


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import nope_nope", "line 1: ModuleNotFoundError: No module named 'nope_nope'"),
        ("x = 1\ndef f(:\n", "line 2: SyntaxError"),
        ("x = 1\n", "registers no part"),
        (PARTS.replace('"constant"', '"loglinear"'), "two classes have the noise name 'loglinear'"),
        (PARTS.replace("@dataclass(frozen=True)\n", ""), "no dataclass"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_line(parts, text, words):
    parts.write_text(text)
    with pytest.raises(RequestError, match=words):
        outside.import_parts(str(parts))
    sys.modules.pop("my_parts", None)


def test_names_that_are_taken_or_nothing_are_refused(tmp_path):
    (tmp_path / "random.py").write_text(PARTS)
    with pytest.raises(RequestError, match="another module has the name random"):
        outside.import_parts(str(tmp_path / "random.py"))
    with pytest.raises(RequestError, match="there is no such file"):
        outside.import_parts(str(tmp_path / "no.py"))
    with pytest.raises(RequestError, match="there is no module of this name"):
        outside.import_parts("no_such_module")
    with pytest.raises(RequestError, match="neither a Python file"):
        outside.import_parts("a/b")


@pytest.fixture
def package(parts, monkeypatch):
    """An installed package that offers parts, and one that fails."""
    (parts.parent / "sedd_fast.py").write_text(PARTS)

    class Dist:
        name, version = "sedd-fast", "1.2"

    entries = []
    for name, value in (("fast", "sedd_fast"), ("broken", "no_such_module_at_all")):
        entry = EntryPoint(name, value, "sedd.parts")
        vars(entry)["dist"] = Dist
        entries.append(entry)
    monkeypatch.syspath_prepend(str(parts.parent))
    monkeypatch.setattr(outside, "offered", lambda: entries)
    for function in (outside.import_installed, outside._packages):
        function.cache_clear()
    yield
    monkeypatch.undo()
    for function in (outside.import_installed, outside._packages):
        function.cache_clear()


def test_an_installed_package_offers_parts_and_one_that_fails_is_left_out(package, recipe):
    with pytest.warns(UserWarning, match="parts no_such_module_at_all of sedd-fast are left out"):
        found = load_recipe(recipe)
    origin = found.parts["noise constant"]
    assert (origin.source, origin.package) == ("sedd_fast.py", "sedd-fast 1.2")
    stored = yaml.safe_load(dump_recipe(found))
    SCHEDULES._classes.pop("constant")
    with pytest.raises(RequestError, match=r"install sedd-fast 1.2"):
        outside.require_parts(stored)
