"""The output of ``dlm plugins``, in this process and in a fresh one."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from click.testing import CliRunner, Result

from dlm_cli.commands.plugins import plugins
from dlm_plugins.kinds import KINDS
from dlm_plugins.registry import Registry

COMPONENTS = [(entry.kind, entry.name) for entry in Registry.discover(disable=["all"]).entries()]
PYPROJECT = """
[project]
name = "dlm-acme"
version = "0.3.1"
dependencies = ["dlm"]

[project.entry-points."dlm.plugins"]
acme = "dlm_acme"
"""
SCHEDULE = '''
import attrs
from dlm_plugins import hookimpl

@attrs.frozen(kw_only=True)
class Schedule:
    """A straight line. With a second sentence."""

    power: float = attrs.field(
        default=1.0, validator=[attrs.validators.ge(1), attrs.validators.lt(9)], metadata={"help": "Bend upwards."}
    )

    def mask_rate(self, t):
        return t**self.power

    def mask_rate_derivative(self, t):
        return self.power * t ** (self.power - 1)

@hookimpl
def dlm_noise_schedules():
    return {"NAME": Schedule}
'''


def dlm_plugins(*arguments: str) -> Result:
    return CliRunner().invoke(plugins, list(arguments))


def test_list_has_a_row_for_every_component_and_no_colour() -> None:
    result = dlm_plugins("list")
    assert result.exit_code == 0
    rows = [re.split(r"\s{2,}", line) for line in result.stdout.splitlines()]
    assert rows[0] == ["KIND", "NAME", "PLUGIN", "DISTRIBUTION", "SUMMARY"]
    assert [(row[0], row[1]) for row in rows[1 : len(COMPONENTS) + 1]] == COMPONENTS
    assert "\x1b" not in result.stdout
    assert "…" not in result.stdout


def test_list_can_be_narrowed_to_a_kind_and_a_plugin(site_packages: Any) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": SCHEDULE.replace("NAME", "straight")}, version="0.3.1")
    by_kind = dlm_plugins("list", "--kind", "noise_schedule").stdout.splitlines()
    assert {line.split()[0] for line in by_kind[1:]} == {"noise_schedule"}
    by_plugin = dlm_plugins("list", "--plugin", "acme").stdout.splitlines()
    assert [line.split()[1] for line in by_plugin[1:]] == ["straight"]
    assert by_plugin[1].endswith("dlm-acme 0.3.1  A straight line.")


def test_list_marks_a_shadowed_component_and_gives_the_name_to_use(site_packages: Any) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": SCHEDULE.replace("NAME", "cosine")})
    assert re.search(
        r"^noise_schedule  acme:cosine .*\(shadowed by builtin\)", dlm_plugins("list").stdout, re.MULTILINE
    )


def test_list_as_json_has_components_and_plugins(site_packages: Any) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": SCHEDULE.replace("NAME", "straight")})
    site_packages.install("dlm-bad", {"dlm_bad.py": "print('noise'); 1 / 0"})
    document = json.loads(dlm_plugins("list", "--json").stdout)
    (component,) = [each for each in document["components"] if each["plugin"] == "acme"]
    assert component["qualified_name"] == "acme:straight"
    assert (component["module"], component["class"]) == ("dlm_acme", "Schedule")
    assert {each["plugin"]: each["status"] for each in document["plugins"]} == {
        "builtin": "ok",
        "acme": "ok",
        "bad": "broken",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--kind", "losses"), "unknown kind 'losses'; the kinds are loss, "),
        (("list", "--plugin", "nobody"), "no plugin 'nobody' is installed; the plugins are builtin"),
        (("list", "--plugin", "nobody", "--no-load"), "no plugin 'nobody' is installed; the plugins are builtin"),
        (("list", "--kind", "loss", "--no-load"), "--kind needs the plugins loaded"),
        (("show", "losses", "elbo"), "unknown kind 'losses'"),
        (("check", "nobody"), "no plugin 'nobody' is installed and there is no such folder"),
        (("check", "./nowhere"), "there is no folder ./nowhere"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_is_allowed(arguments: tuple[str, ...], message: str) -> None:
    result = dlm_plugins(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_the_yaml_that_show_prints_selects_the_component_with_its_defaults(kind: str, name: str) -> None:
    document = json.loads(dlm_plugins("show", kind, name, "--json").stdout)
    value = yaml.safe_load(document["yaml"])
    for key in KINDS[kind].key.split("."):
        (value,) = [value[key]]
    if KINDS[kind].several:
        (value,) = value
    options = {option["name"]: option["default"] for option in document["options"]}
    assert value in (name, {"name": name, **options})
    registry = Registry.discover(disable=["all"])
    component = registry.resolve(kind, name).cls()
    for option, default in options.items():
        assert as_written(getattr(component, option), registry) == default


def as_written(value: object, registry: Registry) -> object:
    """An option as the run file holds it."""
    if isinstance(value, tuple):
        return [as_written(each, registry) for each in value]
    return registry.entry_of(value).name if attrs.has(type(value)) else value


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_every_option_of_a_built_in_has_a_type_and_a_help_text(kind: str, name: str) -> None:
    for option in json.loads(dlm_plugins("show", kind, name, "--json").stdout)["options"]:
        assert option["type"]
        assert option["help"]


def test_show_prints_options_yaml_claims_source_and_docstring(site_packages: Any) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": SCHEDULE.replace("NAME", "cosine")}, version="0.3.1")
    text = dlm_plugins("show", "noise_schedule", "acme:cosine").stdout
    assert text.startswith("cosine (noise_schedule) from acme, dlm-acme 0.3.1: dlm_acme.Schedule\n")
    assert "A straight line. With a second sentence." in text
    assert re.search(r"^power   float  1.0      >= 1, < 9  Bend upwards.$", text, re.MULTILINE)
    assert "  training:\n    noise:\n      schedule: {name: 'acme:cosine', power: 1.0}\n" in text
    assert re.search(r"^covers_unit_interval  true ", text, re.MULTILINE)
    assert re.search(r"^Source\n  .*dlm_acme\.py:\d+$", text, re.MULTILINE)


def test_check_reads_a_project_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "dlm_project.py").write_text(SCHEDULE.replace("NAME", "straight"))
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.replace('"dlm_acme"', '"dlm_project"'))
    result = dlm_plugins("check", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "acme    dlm-acme 0.3.1  ok      1 component, loaded in " in result.stdout
    monkeypatch.delitem(sys.modules, "dlm_project")


@pytest.mark.parametrize(
    ("pyproject", "message"),
    [
        (None, "holds no pyproject.toml"),
        ("[project", "pyproject.toml: "),
        ("\udcff", "pyproject.toml: 'utf-8' codec can't decode"),
        ("project = 3", "announces no plugin"),
        ("[project]\nentry-points = 3", "announces no plugin"),
        (PYPROJECT.replace('"dlm_acme"', '"no module"'), "the entry point 'acme' is 'no module', not a module"),
        ("[project]\nname = 'dlm-acme'", "announces no plugin"),
        (PYPROJECT, "names module 'dlm_acme', which is neither here nor in src/"),
    ],
)
def test_check_says_why_a_folder_is_not_a_plugin(tmp_path: Path, pyproject: str | None, message: str) -> None:
    if pyproject is not None:
        (tmp_path / "pyproject.toml").write_text(pyproject, errors="surrogateescape")
    result = dlm_plugins("check", str(tmp_path))
    assert message in str(result.exception)
    assert getattr(result.exception, "exit_code", None) == 2


def test_check_tries_the_contract_and_fails_where_a_component_breaks_it(site_packages: Any) -> None:
    falling = SCHEDULE.replace("return t**self.power", "return (1 - t) ** self.power").replace("NAME", "falling")
    site_packages.install("dlm-acme", {"dlm_acme.py": falling})
    result = dlm_plugins("check", "acme")
    assert result.exit_code == 1
    assert "acme    dlm-acme 0.1  failed  1 component" in result.stdout
    assert "noise_schedule 'falling': " in result.stdout
    document = json.loads(dlm_plugins("check", "DLM_acme", "--json").stdout)
    assert document["plugins"][0]["components"][0]["failures"]


def test_check_passes_over_a_plugin_that_is_switched_off(site_packages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site_packages.install("dlm-bad", {"dlm_bad.py": "1 / 0"})
    monkeypatch.setenv("DLM_DISABLE_PLUGINS", "bad")
    assert dlm_plugins("check", "bad").exit_code == 0


def test_check_shows_the_traceback_on_request(site_packages: Any) -> None:
    site_packages.install("dlm-bad", {"dlm_bad.py": "def divide():\n    return 1 / 0\n\ndivide()\n"})
    assert "in divide" not in dlm_plugins("check", "bad").stdout
    assert "in divide" in dlm_plugins("check", "bad", "--traceback").stdout


def test_a_lookup_error_ends_the_command_in_one_line(site_packages: Any) -> None:
    result = site_packages.run("plugins", "show", "loss", "gidelines")
    assert result.returncode == 2
    assert result.stderr.startswith("dlm: unknown loss 'gidelines'; did you mean 'guidelines'? available: ")
    assert len(result.stderr.splitlines()) == 1


def test_listing_without_loading_imports_no_plugin_and_no_torch(site_packages: Any) -> None:
    for number in range(30):
        site_packages.install(f"dlm-many{number}", {f"dlm_many{number}.py": "raise AssertionError('imported')"})
    site_packages.install("torch", {"torch/__init__.py": "raise AssertionError('torch imported')"}, plugins={})
    result = site_packages.run("plugins", "list", "--no-load")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 32


@pytest.mark.parametrize("package", ["transformers", "datasets", "accelerate", "peft", "bitsandbytes"])
def test_listing_imports_torch_and_nothing_else_that_is_large(site_packages: Any, package: str) -> None:
    broken = f"raise AssertionError('{package} imported')"
    site_packages.install(package, {f"{package}/__init__.py": broken}, plugins={})
    site_packages.install("dlm-one", {"dlm_one.py": SCHEDULE.replace("NAME", "one")})
    result = site_packages.run("plugins", "list")
    assert result.returncode == 0, result.stderr
    assert "dlm-one" in result.stdout
    assert f"{package} imported" not in result.stdout + result.stderr
