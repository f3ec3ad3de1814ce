"""Packages written by ``dlm plugins new`` are whole: they install, list, pass their own tests and type-check."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import attrs
import pytest
import yaml
from click.testing import CliRunner, Result
from packaging.requirements import Requirement

from dlm_cli.commands.plugins import plugins
from dlm_plugins.kinds import KINDS
from dlm_plugins.scaffold import write_project

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


@pytest.fixture(scope="module")
def own_tests(installed: Installed) -> list[str]:
    """What pytest prints for each test of each project, all run in one process."""
    options = ["-v", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir=."]
    folders = [project.name for project in installed.projects.values()]
    done = installed.run("-m", "pytest", *options, *folders, cwd=installed.folder.parent)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_tests_pass(kind: str, installed: Installed, own_tests: list[str]) -> None:
    lines = [line for line in own_tests if line.startswith(f"{installed.projects[kind].name}/tests/")]
    assert len(lines) > 3
    assert all(" PASSED " in line for line in lines), lines


def test_a_forgotten_marker_fails_the_tests_of_every_kind(installed: Installed, tmp_path: Path) -> None:
    for kind, project in installed.projects.items():
        copy = shutil.copytree(project, tmp_path / kind)
        module = copy / f"dlm_new_{kind}" / "__init__.py"
        text = module.read_text()
        assert "@hookimpl\n" in text
        module.write_text(text.replace("@hookimpl\n", ""))
        shutil.copytree(module.parent, tmp_path / "packages" / module.parent.name)
    packages = attrs.evolve(installed, folder=tmp_path / "packages")
    options = ["-q", "-k", "test_dlm_takes_the_plugin", "-p", "no:cacheprovider", "--import-mode=importlib"]
    done = packages.run("-m", "pytest", *options, *KINDS, cwd=tmp_path)
    assert done.stdout.count("is not marked as a hook; is @hookimpl missing?") >= len(KINDS), done.stdout
    assert f"\n{len(KINDS)} failed, " in done.stdout


def test_what_a_change_breaks_is_shown_with_the_smallest_case_line_by_line(
    installed: Installed, tmp_path: Path
) -> None:
    new("masking", "greedy", "--out", str(tmp_path / "dlm-greedy"))
    component = tmp_path / "dlm-greedy" / "dlm_greedy" / "masking.py"
    component.write_text(component.read_text().replace("corrupted = request.eligible & ", "corrupted = "))
    done = installed.run("-c", "from dlm_cli.main import main; main()", "plugins", "check", f"{tmp_path}/dlm-greedy")
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert done.returncode == 1, done.stderr
    at = lines.index("smallest failing case:")
    assert lines[at - 1].startswith("masking 'greedy': nothing_outside_eligible: GreedyMasking(stride=0.618034): corr")
    assert [line.partition(":")[0] for line in lines[at + 1 : at + 5]] == ["eligible", "p", "spans", "document_id"]


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
    assert value in (NAME, {"name": NAME}, [NAME])
    assert isinstance(value, list) is KINDS[kind].several


def test_what_to_do_next_brings_what_the_tests_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = new("loss", NAME, "--out", "my work/dlm-acme")
    commands = result.output.splitlines()[-1].removeprefix("Next: ").split(" && ")
    assert commands == [
        "pip install -e 'my work/dlm-acme[test]'",
        "pytest 'my work/dlm-acme'",
        "dlm plugins show loss mine",
    ]
    assert (
        "Next: pip install -e './dlm-acme[test]' && pytest ./dlm-acme && "
        in new("loss", NAME, "--out", "dlm-acme").output
    )
    project = tomllib.loads((tmp_path / "dlm-acme" / "pyproject.toml").read_text())["project"]
    assert "pytest" in {Requirement(each).name for each in project["optional-dependencies"]["test"]}


@pytest.mark.parametrize(
    ("running", "accepted", "refused"),
    [
        ("0.1.0", ["0.1.0", "0.1.7"], ["0.2.0", "0.0.9"]),
        ("0.9.3", ["0.9.0"], ["0.10.0", "1.0.0"]),
        ("1.4.2", ["1.4.0", "1.9.0"], ["1.3.9", "2.0.0"]),
    ],
)
def test_it_declares_the_versions_that_cannot_break_it(
    running: str, accepted: list[str], refused: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: running)
    write_project(KINDS["loss"], NAME, tmp_path / "dlm-acme")
    project = tomllib.loads((tmp_path / "dlm-acme" / "pyproject.toml").read_text())["project"]
    (requirement,) = map(Requirement, project["dependencies"])
    assert requirement.name == "dlm"
    assert all(requirement.specifier.contains(version) for version in accepted)
    assert not any(requirement.specifier.contains(version) for version in refused)


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
        ("lss", "mine", "dlm-acme", "remasking, metric, reward, advantage, optimizer; did you mean 'loss'?"),
        ("loss", "elbo", "dlm-acme", "'elbo' is a built-in loss, and a bare name stays the built-in's: only acme:elbo"),
        ("optimizer", "adamw", "dlm-acme", "choose another, e.g. acme_adamw"),
        ("loss", "Mine", "dlm-acme", "'Mine' is no name for a component: lower-case letters"),
        ("loss", "my-loss", "dlm-acme", "'my-loss' is no name for a component"),
        ("loss", "mine", "dlm-builtin", "cannot name a package: the plugin would be called 'builtin'"),
        ("loss", "mine", "2fast", "cannot name a package: the plugin would be called '2fast'"),
        ("loss", "mine", "dlm", "cannot name a package: the plugin would be called 'dlm'"),
        ("loss", "mine", "full", "already holds something; nothing was written"),
        ("loss", "mine", "full/file", "already holds something; nothing was written"),
        ("loss", "mine", "full/file/dlm-acme", "dlm-acme: cannot be written: Not a directory; choose another --out"),
        ("loss", "null", "dlm-acme", "'null' is no name for a component: lower-case letters"),
    ],
)
def test_what_cannot_be_written_is_refused(kind: str, name: str, folder: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    result = new(kind, name, "--out", str(tmp_path / folder))
    assert message in f"{result.output}{result.exception}"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]
