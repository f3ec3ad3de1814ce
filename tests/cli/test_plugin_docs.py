"""The documentation of plugins does what it says, and mentions everything."""

import doctest
import importlib
import os
import re
import subprocess
import venv
from pathlib import Path

import attrs
import pytest

from dlm_plugins.kinds import KINDS
from dlm_plugins.plugin_settings import ALL
from dlm_plugins.reference_page import reference
from dlm_plugins.registry import Registry

DOCS = Path(__file__).parents[2] / "docs"
PLUGINS = (DOCS / "plugins.md").read_text(encoding="utf-8")
TUTORIAL = PLUGINS.split("\n## ")[1]
SOURCE_ROOTS = [
    Path(importlib.import_module(name).__path__[0]).parent for name in ("dlm_plugins", "dlm_builtin_plugins", "dlm_cli")
]


@attrs.frozen
class Block:
    """A fenced block: its language, what stands behind it, and its text."""

    language: str
    note: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


@pytest.fixture
def new_user(tmp_path: Path, installed_here: str) -> dict[str, str]:
    """The environment variables of someone who has installed dlm in a virtual environment, and works offline."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    (site_packages,) = (environment / "lib").glob("python*/site-packages")
    (site_packages / "others.pth").write_text(installed_here + "\n".join(map(str, SOURCE_ROOTS)))
    commands = {
        "dlm": "from dlm_cli.main import main",
        "pytest": "from pytest import main",
        "pip": "from pip._internal.cli.main import main",
    }
    for name, line in commands.items():
        script = environment / "bin" / name
        script.write_text(f"#!{environment}/bin/python\nimport sys\n{line}\nsys.exit(main())\n")
        script.chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DLM_", "PYTEST", "PYTHON"))},
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        # Building needs hatchling, which a user's pip fetches into an environment of its own.
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def test_every_block_of_the_tutorial_works_in_order(new_user: dict[str, str], tmp_path: Path) -> None:
    output = ""
    for block in blocks(TUTORIAL):
        if title := re.fullmatch(r'title="(.+)"', block.note):
            (tmp_path / title[1]).write_text(block.text)
        elif block.language == "text":
            flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(block.text, output, flags), output
        else:
            assert block.language == "bash", block
            command = ["bash", "-euc", block.text]
            done = subprocess.run(
                command, cwd=tmp_path, env=new_user, capture_output=True, text=True, timeout=600, check=False
            )
            assert (done.returncode != 0) == (block.note == "fails"), f"{block.text}\n{done.stdout}\n{done.stderr}"
            output = done.stdout
    assert (tmp_path / "runs" / "smoothstep" / "final" / "model.safetensors").is_file()
    assert next((tmp_path / "dist").glob("dlm_acme-*.whl"))


def test_every_hook_method_and_claim_is_documented() -> None:
    for kind in KINDS.values():
        assert f"| `{kind.name}` | `{kind.hook}` |" in PLUGINS
        for claim in kind.claims:
            assert f"`{claim.name}`" in PLUGINS
        methods = [name for name, value in vars(kind.protocol).items() if callable(value) and not name.startswith("_")]
        for method in methods or ["__call__"]:
            assert f"`{method}(" in PLUGINS


def test_links_within_the_documentation_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-")
        for each in re.findall(r"^#+ (.+)$", PLUGINS, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", PLUGINS):
        assert target[1:] in headings if target.startswith("#") else (DOCS / target).exists(), target


def test_the_reference_is_what_the_code_says() -> None:
    written = (DOCS / "reference.md").read_text(encoding="utf-8")
    assert written.rstrip() == reference(Registry.discover(disable=[ALL])).rstrip(), (
        "run its first line's command again"
    )
