"""The arrows between the packages: dlm_cli -> dlm -> dlm_plugins <- dlm_builtin_plugins."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "dlm": ROOT / "core" / "dlm",
    "dlm_cli": ROOT / "core" / "dlm_cli",
    "dlm_plugins": ROOT / "plugins" / "dlm_plugins",
    "dlm_builtin_plugins": ROOT / "builtin_plugins" / "dlm_builtin_plugins",
}
MAY_IMPORT = {
    "dlm": {"dlm", "dlm_plugins"},
    "dlm_cli": {"dlm_cli", "dlm", "dlm_plugins"},
    "dlm_plugins": {"dlm_plugins"},
    "dlm_builtin_plugins": {"dlm_builtin_plugins", "dlm_plugins"},
}
EXCEPTION = PACKAGES["dlm"] / "__main__.py"
"""It hands over to the command line, so that ``python -m dlm`` works."""
SERVER = ("dlm.serving", "starlette", "uvicorn", "prometheus_client")
CONTRACT_MAY_DEPEND_ON = {"attrs", "cattrs", "pluggy", "yaml", "hypothesis", "torch", "packaging"}


def imported_roots(file: Path) -> Iterator[tuple[str, int]]:
    """Top-level packages a file imports, with line numbers; those inside functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            yield str(node.module).split(".")[0], node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_it_may(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {root}"
        for file in PACKAGES[package].rglob("*.py")
        if file != EXCEPTION and "template" not in file.parts
        for root, line in imported_roots(file)
        if root in PACKAGES and root not in MAY_IMPORT[package]
    ]
    assert wrong == []


def test_the_contract_depends_on_little() -> None:
    import sys

    allowed = CONTRACT_MAY_DEPEND_ON | {"dlm_plugins"} | set(sys.stdlib_module_names)
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {root}"
        for file in PACKAGES["dlm_plugins"].rglob("*.py")
        if "template" not in file.parts
        for root, line in imported_roots(file)
        if root not in allowed
    ]
    assert wrong == []


def test_files_hold_one_idea() -> None:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for package in PACKAGES.values()
        for file in package.rglob("*.py")
    }
    assert {str(file.relative_to(ROOT)): lines for file, lines in lengths.items() if lines > 400} == {}
    assert sorted(lengths.values())[len(lengths) // 2] < 100


def test_the_server_is_imported_by_its_command_alone() -> None:
    """So that `import dlm`, `dlm --help` and plain runs do without the extra that it needs."""
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in PACKAGES.values()
        for file in package.rglob("*.py")
        if file.parent != PACKAGES["dlm"] / "serving"
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(name.startswith(SERVER) for name in (getattr(node, "module", "") or "", *(a.name for a in node.names)))
    ]
    assert wrong == []
