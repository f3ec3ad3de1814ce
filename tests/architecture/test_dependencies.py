"""Everything that is imported is declared in pyproject.toml."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("core/dlm", "core/dlm_cli", "plugins/dlm_plugins", "builtin_plugins/dlm_builtin_plugins")
OWN = {"dlm", "dlm_cli", "dlm_plugins", "dlm_builtin_plugins"}


def imported_packages(folder: Path) -> set[str]:
    """Top-level packages that the files of a folder import."""
    found = set()
    for file in folder.rglob("*.py"):
        if "template" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(str(node.module).split(".")[0])
    return found - OWN - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_import_is_a_declared_dependency(package: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {canonicalize_name(Requirement(each).name) for group in groups for each in group}
    distributions = packages_distributions()
    undeclared = {
        name
        for name in imported_packages(ROOT / package)
        if not {canonicalize_name(each) for each in distributions.get(name, [name])} & declared
    }
    assert undeclared == set()


def test_constraints_pin_every_direct_dependency_that_is_used_in_ci() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {
        canonicalize_name(Requirement(each).name)
        for group in (project["dependencies"], *project["optional-dependencies"].values())
        for each in group
    } - {"dlm"}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    assert wanted - pinned == set()
