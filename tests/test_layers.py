"""Imports go downwards only, read from the source, and the package itself imports light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sedd_cli

PACKAGE = Path(sedd_cli.__file__).parent

#: The rooms from the bottom to the top. Each may import those before it, `errors` and the package's own version.
ORDER = (
    "system", "core", "models", "data", "recipe", "checkpoints", "inference", "evaluation", "training", "bench",
    "tables", "cli",
)  # fmt: skip
BELOW = {room: set(ORDER[:place]) for place, room in enumerate(ORDER)} | {"core": set(), "models": {"core"}}
#: Third-party packages a room may import; None: any but those of ONLY.
THIRD_PARTY = {room: {"core": {"torch"}, "models": {"torch", "flash_attn"}}.get(room) for room in ORDER}
#: Packages with a single home.
ONLY = {"typer": "cli", "rich": "cli"}


def files(layer: str) -> list[Path]:
    return sorted((PACKAGE / layer).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside functions, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(layer: str, path: Path) -> list[str]:
    bad = []
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "sedd_cli":
            below = rest[0] if rest else ""
            if below in BELOW and below != layer and below not in BELOW[layer]:
                bad.append(name)
        elif top not in sys.stdlib_module_names:
            allowed = THIRD_PARTY[layer]
            if (allowed is not None and top not in allowed) or ONLY.get(top, layer) != layer:
                bad.append(name)
    return bad


@pytest.mark.parametrize("layer", BELOW)
def test_imports_go_downwards_only(layer):
    assert files(layer), f"no files in {layer}"
    bad = {str(path.relative_to(PACKAGE)): found for path in files(layer) if (found := violations(layer, path))}
    assert not bad


def test_every_folder_is_a_layer():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*/*.py")}
    assert folders == set(BELOW)


def test_files_outside_the_layers_leave_typer_and_rich_to_the_command_line():
    bad = {
        path.name: found
        for path in PACKAGE.glob("*.py")
        if (found := {name for name in imports(path) if name.split(".")[0] in ONLY})
    }
    assert not bad


@pytest.mark.parametrize(
    "line", ["import rich.table", "def f():\n    from sedd_cli.training.train import train", "import numpy"]
)
def test_a_violation_in_the_mathematics_is_seen(line, tmp_path):
    """The check itself can fail."""
    (tmp_path / "broken.py").write_text(line)
    assert violations("core", tmp_path / "broken.py")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, sedd_cli; print(sorted({'torch', 'numpy', 'typer', 'rich'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == "[]"


def test_the_mathematics_imports_without_the_rest():
    code = (
        "import sys, sedd_cli.core.samplers, sedd_cli.core.losses, sedd_cli.models.dit; "
        "print([m for m in sys.modules if m.split('.')[0] in ('typer', 'rich', 'yaml', 'datasets', 'transformers')"
        " or m.startswith(('sedd_cli.data', 'sedd_cli.inference', 'sedd_cli.cli', 'sedd_cli.recipe'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert out.stdout.strip() == "[]"
