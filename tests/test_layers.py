"""The structure of the package, read from its source: the order of rooms, circles, names, sizes, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import pytest

import sedd_cli

PACKAGE = Path(sedd_cli.__file__).parent
TESTS = Path(__file__).parent

#: The rooms from the bottom to the top. Each may import those before it, `errors` and the package's own version.
ORDER = (
    "system", "core", "testing", "models", "data", "recipe", "checkpoints", "inference", "evaluation", "training",
    "bench", "tables", "api", "cli",
)  # fmt: skip
BELOW = {room: set(ORDER[:place]) for place, room in enumerate(ORDER)} | {
    "core": set(),
    "testing": {"core"},
    "models": {"core"},
}
#: Third-party packages that a room may import; None: any but those of ONLY.
THIRD_PARTY = {
    room: {"core": {"torch"}, "testing": {"torch"}, "models": {"torch", "flash_attn"}}.get(room) for room in ORDER
}
#: Packages that a single room imports.
ONLY = {"typer": "cli", "rich": "cli"}

#: The most lines of the package that one room holds, as a share, and the most modules
#: of one folder, not counting `__init__`.
ROOM_SHARE = 1 / 5
FOLDER_FILES = 16

# What the package still breaks of the rules below. An entry that no longer applies fails its test: remove it.
KNOWN_CIRCLES: list[set[str]] = []
KNOWN_CLASSES: dict[str, set[str]] = {}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules() -> dict[str, Path]:
    """Dotted name within the package → file. A package goes by its folder, the top-level package by ""."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path) -> set[str]:
    """Every name that a file imports, as a dotted name: at the top, inside functions and under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


# The order of rooms


def violations(room: str, path: Path) -> list[str]:
    bad = []
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "sedd_cli":
            below = rest[0] if rest else ""
            if below in BELOW and below != room and below not in BELOW[room]:
                bad.append(name)
        elif top not in sys.stdlib_module_names:
            allowed = THIRD_PARTY[room]
            if (allowed is not None and top not in allowed) or ONLY.get(top, room) != room:
                bad.append(name)
    return bad


@pytest.mark.parametrize("room", BELOW)
def test_imports_go_downwards_only(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files, f"no files in {room}"
    bad = {str(path.relative_to(PACKAGE)): found for path in files if (found := violations(room, path))}
    assert not bad


def test_every_folder_is_a_room_of_the_order():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*/*.py")}
    assert folders == set(BELOW)


def test_files_outside_the_rooms_import_neither_typer_nor_rich():
    bad = {
        path.name: found
        for path in PACKAGE.glob("*.py")
        if (found := {name for name in imports(path) if name.split(".")[0] in ONLY})
    }
    assert not bad


@pytest.mark.parametrize(
    "line", ["import rich.table", "def f():\n    from sedd_cli.training.train import train", "import numpy"]
)
def test_a_forbidden_import_is_found(line, tmp_path):
    (tmp_path / "broken.py").write_text(line)
    assert violations("core", tmp_path / "broken.py")


def test_the_truths_that_parts_are_checked_with_import_nothing_of_the_package():
    assert not [name for name in imports(PACKAGE / "testing" / "reference.py") if name.startswith("sedd_cli")]


# Circles


def module_graph() -> dict[str, set[str]]:
    """Module → modules of the package that it imports, without the top-level package."""
    files = modules()

    def module_of(name: str) -> str:
        name = name.removeprefix("sedd_cli").removeprefix(".")
        while name not in files:  # the last part of a name may be a class or function of the module
            name = name.rpartition(".")[0]
        return name

    graph = {}
    for module, path in files.items():
        targets = {module_of(name) for name in imports(path) if name.split(".")[0] == "sedd_cli"}
        graph[module] = targets - {module, ""}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in number:
                visit(target)
                lowest[node] = min(lowest[node], lowest[target])
            elif target in stack:
                lowest[node] = min(lowest[node], number[target])
        if lowest[node] == number[node]:
            at = stack.index(node)
            component = set(stack[at:])
            del stack[at:]
            if len(component) > 1:
                found.append(component)

    for node in graph:
        if node not in number:
            visit(node)
    return found


def test_no_modules_import_each_other_in_a_circle():
    assert [sorted(circle) for circle in circles(module_graph())] == []


def test_no_rooms_import_each_other_in_a_circle():
    rooms = defaultdict(set)
    for module, targets in module_graph().items():
        rooms[room_of(module)] |= {room_of(target) for target in targets} - {room_of(module)}
    assert not circles(rooms)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [{"a", "b"}]),
        ({"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}}, [{"a", "b", "c"}, {"d", "e"}]),
    ],
)
def test_circles_are_found(graph, expected):
    assert sorted(circles(graph), key=min) == expected


def test_imports_under_type_checking_and_in_functions_count(tmp_path):
    lines = ("if TYPE_CHECKING:\n    from a import b", "def f():\n    import c.d")
    (tmp_path / "late.py").write_text("\n".join(lines))
    assert imports(tmp_path / "late.py") == {"a.b", "c.d"}


# Names and sizes


def test_no_class_name_is_defined_twice():
    defined = defaultdict(set)
    for module, path in modules().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                assert module not in defined[node.name], f"{node.name} is defined twice in {module}"
                defined[node.name].add(module)
    twice = {name: where for name, where in defined.items() if len(where) > 1}
    new = {name: where for name, where in twice.items() if not where <= KNOWN_CLASSES.get(name, set())}
    assert not new
    assert not KNOWN_CLASSES.keys() - twice.keys(), "remove these from KNOWN_CLASSES"


def test_no_room_holds_more_than_a_fifth_of_the_package():
    lines = Counter()
    for module, path in modules().items():
        lines[room_of(module)] += len(path.read_text(encoding="utf-8").splitlines())
    shares = {room: count / lines.total() for room, count in lines.items()}
    assert {room: share for room, share in shares.items() if share > ROOM_SHARE} == {}


def test_no_folder_holds_more_than_sixteen_files():
    paths = [path for path in modules().values() if path.name != "__init__.py"]
    files = Counter(path.parent.relative_to(PACKAGE).as_posix() for path in paths)
    assert {folder: count for folder, count in files.items() if count > FOLDER_FILES} == {}


def test_tests_mirror_the_folders_of_the_package():
    package = {path.parent.relative_to(PACKAGE).as_posix() for path in modules().values()}
    tests = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    assert not tests - package, "test folders without a folder of the package"
    assert not set(ORDER) - {room_of(folder.replace("/", ".")) for folder in tests}, "rooms without tests"


def bound(path: Path) -> set[str]:
    """The names that a file binds."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def test_what_tests_import_of_the_package_exists():
    """Also where no test runs the import: in what the guide on reliability runs by hand, for one."""
    files, missing = modules(), []
    for path in TESTS.rglob("*.py"):
        for name in imports(path):
            top, _, below = name.partition(".")
            module, _, last = below.rpartition(".")
            unknown = top == "sedd_cli" and below and below not in files
            if unknown and (module not in files or last not in bound(files[module])):
                missing.append((path.name, name))
    assert not missing


# Light imports


def output_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return done.stdout.strip()


def test_importing_the_package_does_not_import_torch():
    code = "import sys, sedd_cli; print(sorted({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules)))"
    assert output_of(code) == "[]"


def test_the_mathematics_imports_without_the_rest():
    code = (
        "import sys, sedd_cli.core.samplers, sedd_cli.core.losses, sedd_cli.models.dit; "
        "print([m for m in sys.modules if m.split('.')[0] in ('typer', 'rich', 'yaml', 'datasets', 'transformers')"
        " or m.startswith(('sedd_cli.data', 'sedd_cli.inference', 'sedd_cli.cli', 'sedd_cli.recipe'))])"
    )
    assert output_of(code) == "[]"
