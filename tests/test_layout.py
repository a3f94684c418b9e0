"""The package's rooms, and the direction in which they may import each other."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "iql_fast"

#: Floors from below: a room imports from itself and from those below it, and not from its
#: neighbours on the same floor. ``commands`` are the modules at the top of the package.
FLOORS = (
    {"support", "policies", "formulas"},
    {"ops", "tasks"},
    {"environments"},
    {"data"},
    {"methods"},
    {"engines"},
    {"runs"},
    {"reports", "sweeps"},
    {"experiments", "commands"},
)


def room(module: str) -> str:
    """The room of a module by its dotted name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else "commands"


def imports(path: Path, package: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, for types alone included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = package.parent.joinpath(*module.split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                found.add(f"{module}.{alias.name}" if is_module else module)
    return {name for name in found if name.partition(".")[0] == "iql_fast"}


def upward_imports(package: Path) -> list[str]:
    """What imports from its own floor or from above it."""
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = []
    for path in sorted(package.rglob("*.py")):
        own = room(".".join(path.relative_to(package.parent).with_suffix("").parts))
        for name in sorted(imports(path, package)):
            other = room(name)
            if name != "iql_fast" and other != own and floor[other] >= floor[own]:
                wrong.append(f"{path.relative_to(package)} ({own}) imports {name} ({other})")
    return wrong


def test_imports_go_one_way():
    assert upward_imports(PACKAGE) == []


def test_every_folder_is_a_room():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/*.py")}
    assert folders == set().union(*FLOORS) - {"commands"}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("data/dataset.py", "from iql_fast.engines import base"),
        ("tasks/catalogue.py", "from iql_fast.environments.scoring import Scoring"),
        ("runs/folder.py", "import iql_fast.train"),
        ("policies/policy.py", "def later():\n    from iql_fast.support import files"),
    ],
)
def test_an_import_turned_round_is_found(tmp_path, file, line):
    package = tmp_path / "iql_fast"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.so", "behaviour"))
    path = package / file
    path.write_text(path.read_text() + "\n" + line + "\n")
    assert len(upward_imports(package)) == 1


def test_no_source_file_is_too_long():
    """600 lines: more has more than one subject."""
    root = PACKAGE.parent
    suffixes = {".py", ".cpp", ".h", ".cu"}
    folders = ("iql_fast", "csrc", "bench", "tools", "tests", "examples", "build_backend")
    files = [p for folder in folders for p in (root / folder).rglob("*") if p.suffix in suffixes]
    assert len(files) > 100
    assert [str(p) for p in files if len(p.read_text().splitlines()) > 600] == []
