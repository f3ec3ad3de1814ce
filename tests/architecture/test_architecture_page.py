"""docs/architecture.md is true: its paths exist, its arrows are the imports, and one can find it."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = ROOT / "core" / "dlm"
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def part(heading: str) -> str:
    """The text under a heading of the page, told by its beginning."""
    (found,) = [text for text in PAGE.split("\n## ") if text.startswith(heading)]
    return found


def rooms_imported_by(room: str) -> set[str]:
    """The other rooms that a room's modules import when they are imported themselves."""
    statements = [
        statement
        for file in (ROOMS / room).rglob("*.py")
        for statement in ast.parse(file.read_text(encoding="utf-8")).body
    ]
    names = {node.module for node in statements if isinstance(node, ast.ImportFrom) and node.module}
    names |= {alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names}
    imported = {name.split(".")[1] for name in names if name.startswith("dlm.")}
    return {name for name in imported - {room} if (ROOMS / name).is_dir()}


def test_paths_exist() -> None:
    paths = re.findall(r"`((?:core|plugins|builtin_plugins|benchmarks|docs)/[^`]*)`", PAGE)
    assert len(paths) > 40
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_arrows_between_rooms_are_the_imports() -> None:
    drawn = dict(re.findall(r"^(\w+) +-> (.+)$", PAGE, re.MULTILINE))
    rooms = {folder.name for folder in ROOMS.iterdir() if (folder / "__init__.py").exists()}
    assert {room: set(others.split()) - {"nothing"} for room, others in drawn.items()} == {
        room: rooms_imported_by(room) for room in rooms
    }


@pytest.mark.parametrize("heading", ["The journey of a batch", "The journey of a prompt"])
def test_a_journey_passes_at_most_twelve_files(heading: str) -> None:
    stations = re.findall(r"^\d+\. `([^`]+\.py)`", part(heading), re.MULTILINE)
    assert 8 <= len(stations) <= 12
    assert len(re.findall(r"^\d+\. ", part(heading), re.MULTILINE)) == len(set(stations))


def test_it_says_where_to_make_twenty_changes() -> None:
    rows = re.findall(r"^\| ([^|]+) \| `([^`]+)` \|$", part("Where do I change"), re.MULTILINE)
    assert len({change for change, _ in rows}) >= 20


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md", "README.zh-TW.md"])
def test_it_is_linked(page: str) -> None:
    assert "(docs/architecture.md)" in (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [target for target in targets if target and not target.startswith("https://")]
    assert [target for target in local if not (page.parent / target).exists()] == []
