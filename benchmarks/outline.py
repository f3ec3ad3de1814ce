"""Every file of ours with the first line of its docstring: all that a stranger sees before opening one.

    python benchmarks/outline.py            # the sources
    python benchmarks/outline.py --tests    # and the tests

Give the output to somebody who does not know the code, name a change, and ask which file they would open.
"""

import argparse
import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def first_line(path: Path) -> str:
    """The first line of a module's docstring; empty where there is none."""
    lines = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()
    return lines[0] if lines else ""


def outline(*, tests: bool) -> list[tuple[str, str]]:
    """Paths below the root with their first lines, of all tracked Python files."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.split() if tests or not path.startswith("tests/")]
    return [(path, first_line(ROOT / path)) for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tests", action="store_true", help="also list the tests")
    for path, line in outline(tests=parser.parse_args().tests):
        print(f"{path}: {line}" if line else path)


if __name__ == "__main__":
    main()
