"""Packages written by ``dlm plugins new`` are whole: they install, list, pass their own tests and type-check."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest
import yaml
from click.testing import CliRunner, Result

from dlm_cli.commands.plugins import plugins
from dlm_plugins.kinds import KINDS

NAME = "mine"


@attrs.frozen
class Installed:
    """A generated project for each kind, all installed into one folder."""

    projects: dict[str, Path]
    folder: Path

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        paths = {"PYTHONPATH": str(self.folder), "MYPYPATH": str(self.folder)}
        environment = {**os.environ, **paths, "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *command],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def new(*arguments: str) -> Result:
    return CliRunner().invoke(plugins, ["new", *arguments])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    root = tmp_path_factory.mktemp("projects")
    projects = {kind: root / f"dlm-new-{kind.replace('_', '-')}" for kind in KINDS}
    for kind, project in projects.items():
        result = new(kind, NAME, "--out", str(project))
        assert result.exit_code == 0, result.output
    everything = Installed(projects, root / "site-packages")
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    done = everything.run(*pip, "--target", str(everything.folder), *map(str, projects.values()))
    assert done.returncode == 0, done.stderr
    return everything


def test_every_kind_is_listed_once_installed(installed: Installed) -> None:
    done = installed.run("-c", "from dlm_cli.main import main; main()", "plugins", "list", "--json")
    document = json.loads(done.stdout)
    listed = {(each["kind"], each["qualified_name"]) for each in document["components"] if each["name"] == NAME}
    assert listed == {(kind, f"new_{kind}:{NAME}") for kind in KINDS}
    assert {each["status"] for each in document["plugins"]} == {"ok"}


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind: str, installed: Installed) -> None:
    done = installed.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=installed.projects[kind])
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_type_checks(kind: str, installed: Installed) -> None:
    cache = str(installed.folder.parent / "mypy-cache")
    done = installed.run("-m", "mypy", "--cache-dir", cache, cwd=installed.projects[kind])
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith("Success: no issues found in 3 source files")


@pytest.mark.parametrize("kind", KINDS)
def test_its_readme_says_how_to_select_it(kind: str, installed: Installed) -> None:
    readme = (installed.projects[kind] / "README.md").read_text()
    value = yaml.safe_load(readme.split("```yaml\n")[1].split("```")[0])
    for key in KINDS[kind].key.split("."):
        value = value[key]
    assert value in (NAME, {"name": NAME})


def test_the_folder_names_the_package(tmp_path: Path) -> None:
    result = new("loss", "focal_elbo", "--out", str(tmp_path / "Acme.Lab"))
    assert result.exit_code == 0
    project = tomllib.loads((tmp_path / "Acme.Lab" / "pyproject.toml").read_text())["project"]
    assert project["name"] == "acme-lab"
    assert project["entry-points"]["dlm.plugins"] == {"acme_lab": "dlm_acme_lab"}
    assert "class FocalElboLoss:" in (tmp_path / "Acme.Lab" / "dlm_acme_lab" / "loss.py").read_text()


@pytest.mark.parametrize("name", ["none", "loss", "optimizer", "class", "focal_loss"])
def test_no_name_makes_a_class_that_clashes_with_the_language_or_the_contract(name: str, tmp_path: Path) -> None:
    for kind in ("loss", "optimizer"):
        folder = tmp_path / f"dlm-{kind}-{name.replace('_', '-')}"
        new(kind, name, "--out", str(folder))
        source = next(folder.glob(f"*/{kind}.py")).read_text()
        compile(source, "component", "exec")
        assert not any(f"class {taken}:" in source for taken in ("None", "Loss", "Optimizer"))


@pytest.mark.parametrize(
    ("kind", "name", "folder", "message"),
    [
        ("losses", "mine", "dlm-acme", "unknown kind 'losses'; the kinds are loss, "),
        ("loss", "Mine", "dlm-acme", "'Mine' is no name for a component: lower-case letters"),
        ("loss", "my-loss", "dlm-acme", "'my-loss' is no name for a component"),
        ("loss", "mine", "dlm-builtin", "cannot name a package: the plugin would be called 'builtin'"),
        ("loss", "mine", "2fast", "cannot name a package: the plugin would be called '2fast'"),
        ("loss", "mine", "dlm", "cannot name a package: the plugin would be called 'dlm'"),
        ("loss", "mine", "full", "already holds something; nothing was written"),
        ("loss", "mine", "full/file", "already holds something; nothing was written"),
    ],
)
def test_what_cannot_be_written_is_refused(kind: str, name: str, folder: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    result = new(kind, name, "--out", str(tmp_path / folder))
    assert message in f"{result.output}{result.exception}"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]
