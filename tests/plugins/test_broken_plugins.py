"""A matrix of broken plugins: each is reported in one line, dropped whole, and hurts nobody else."""

import contextlib
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result
from hatchling.build import build_wheel

from dlm_cli.commands.plugins import plugins as plugins_command
from dlm_cli.main import cli
from dlm_plugins import plugin_loading
from dlm_plugins.errors import ComponentLookupError
from dlm_plugins.registry import Registry

HEAD = """
import attrs
from dlm_plugins import hookimpl

@attrs.frozen(kw_only=True)
class Schedule:
    '''A schedule.'''

    def mask_rate(self, t):
        return t

    def mask_rate_derivative(self, t):
        return t * 0 + 1
"""

GOOD_HOOK = "@hookimpl\ndef dlm_noise_schedules():\n    return {'theirs': Schedule}\n"


@attrs.frozen(kw_only=True)
class Broken:
    """Source of a broken plugin, and what has to be said about it."""

    source: str
    error: str
    phase: str
    status: str = "broken"
    requires: Sequence[str] = ()
    plugins: Mapping[str, str] = {"broken": "dlm_broken"}


MATRIX = {
    "import_error": Broken(
        source="import a_module_that_nobody_has",
        error="import: ModuleNotFoundError: No module named 'a_module_that_nobody_has'",
        phase="import",
    ),
    "missing_dependency": Broken(
        source="import flash_attn_nobody_has",
        requires=["flash-attn-nobody-has>=2"],
        error="import: ModuleNotFoundError: No module named 'flash_attn_nobody_has' "
        "(not installed: flash-attn-nobody-has>=2)",
        phase="import",
    ),
    "missing_module": Broken(
        source="",
        plugins={"broken": "dlm_brokn"},
        error="import: ModuleNotFoundError: No module named 'dlm_brokn'",
        phase="import",
    ),
    "missing_attribute": Broken(
        source="",
        plugins={"broken": "dlm_broken:plugin"},
        error="import: AttributeError: module 'dlm_broken' has no attribute 'plugin'",
        phase="import",
    ),
    "syntax_error": Broken(source="def (", error="import: SyntaxError: ", phase="import"),
    "exit_at_import": Broken(source="import sys\nsys.exit(3)", error="import: SystemExit: 3", phase="import"),
    "incompatible": Broken(
        source="raise AssertionError('imported')",
        requires=["dlm<0.1"],
        status="incompatible",
        error="needs dlm<0.1, this is dlm ",
        phase="metadata",
    ),
    "unknown_hook": Broken(
        source=HEAD + "@hookimpl\ndef dlm_noise_schedule():\n    return {}\n",
        error="unknown hook 'dlm_noise_schedule'; did you mean 'dlm_noise_schedules'?",
        phase="register",
    ),
    "no_marker": Broken(
        source=HEAD + "def dlm_noise_schedules():\n    return {'theirs': Schedule}\n",
        error="'dlm_noise_schedules' is not marked as a hook; is @hookimpl missing?",
        phase="register",
    ),
    "no_hooks": Broken(source=HEAD, error="no hook implementation found; is @hookimpl missing?", phase="register"),
    "hook_with_arguments": Broken(
        source=HEAD + "@hookimpl\ndef dlm_noise_schedules(config):\n    return {'theirs': Schedule}\n",
        error="hook 'dlm_noise_schedules' takes (config); hooks are called without arguments",
        phase="register",
    ),
    "exception_in_hook": Broken(
        source=HEAD + "@hookimpl\ndef dlm_noise_schedules():\n    return {'theirs': 1 / 0}\n",
        error="hook: ZeroDivisionError: division by zero",
        phase="hook",
    ),
    "exit_in_hook": Broken(
        source=HEAD + "import sys\n@hookimpl\ndef dlm_noise_schedules():\n    sys.exit()\n",
        error="hook: SystemExit",
        phase="hook",
    ),
    "wrong_return_type": Broken(
        source=HEAD + "@hookimpl\ndef dlm_noise_schedules():\n    return [Schedule]\n",
        error="hook 'dlm_noise_schedules' returned [<class 'dlm_broken.Schedule'>]; "
        "it must return a mapping {name: class}",
        phase="hook",
    ),
    "instance_for_class": Broken(
        source=HEAD + "@hookimpl\ndef dlm_noise_schedules():\n    return {'theirs': Schedule()}\n",
        error="noise_schedule 'theirs': is Schedule(), not a class",
        phase="component",
    ),
    "wrong_signature": Broken(
        source=HEAD.replace("mask_rate(self, t)", "mask_rate(self, t, step)") + GOOD_HOOK,
        error="noise_schedule 'theirs': Schedule.mask_rate takes (t, step), the contract passes (t)",
        phase="component",
    ),
    "option_called_name": Broken(
        source=HEAD.replace("    def mask_rate(", "    name: str = 'x'\n\n    def mask_rate(") + GOOD_HOOK,
        error="noise_schedule 'theirs': option 'name' is reserved",
        phase="component",
    ),
    "bad_component_name": Broken(
        source=HEAD + GOOD_HOOK.replace("theirs", "Their-s"),
        error="noise_schedule 'Their-s': a name has lower-case letters, digits and underscores only",
        phase="component",
    ),
    "raises_in_constructor": Broken(
        source=HEAD + "    def __attrs_post_init__(self):\n        raise RuntimeError('no GPU')\n\n" + GOOD_HOOK,
        error="noise_schedule 'theirs': Schedule cannot be built with its defaults: RuntimeError: no GPU",
        phase="component",
    ),
    "good_and_bad_component": Broken(
        source=HEAD + GOOD_HOOK + "@hookimpl\ndef dlm_losses():\n    return {'none': None}\n",
        error="loss 'none': is None, not a class",
        phase="component",
    ),
    "reserved_plugin_name": Broken(
        source=HEAD + GOOD_HOOK,
        plugins={"builtin": "dlm_broken"},
        error="plugin name 'builtin' is reserved for dlm",
        phase="metadata",
    ),
    "bad_plugin_name": Broken(
        source=HEAD + GOOD_HOOK,
        plugins={"Bro-ken": "dlm_broken"},
        error="plugin name 'Bro-ken' is not allowed",
        phase="metadata",
    ),
    "taken_plugin_name": Broken(
        source=HEAD + GOOD_HOOK,
        plugins={"acme": "dlm_broken"},
        error="plugin name 'acme' is taken by dlm-acme 0.3.1 already",
        phase="metadata",
    ),
}

RUN_FILE = """
model:
  name_or_path: null
  config:
    hidden_size: 32
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    num_key_value_heads: 2
    head_dim: 16
    max_position_embeddings: 64
  tokenizer: {train: {vocab_size: 280}}
training: {output_dir: FOLDER/out, max_steps: 2, batch_size: 2}
dataset: {name: FOLDER/text.txt, max_length: 16}
evaluation: {do_eval_loss: false, sample_prompts: []}
"""


def run(folder: Path, *arguments: str) -> Result:
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200)
    (folder / "run.yaml").write_text(RUN_FILE.replace("FOLDER", str(folder)))
    return CliRunner().invoke(cli, ["run", str(folder / "run.yaml"), *arguments])


def weights_of(folder: Path) -> str:
    return hashlib.sha256((folder / "out" / "final" / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def untroubled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the weights that come out without any other plugin."""
    folder = tmp_path_factory.mktemp("untroubled")
    assert run(folder).exit_code == 0
    return weights_of(folder)


PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "{version}"
dependencies = {requires}

[project.entry-points."dlm.plugins"]
{entry_points}

[tool.hatch.build.targets.wheel]
only-include = ["{module}.py"]
"""

Pip = Callable[[Path, Path], None]


def project(
    folder: Path, name: str, source: str, version: str, plugins: Mapping[str, str], requires: Sequence[str] = ()
) -> Path:
    """A plugin as its author has it: one module and a pyproject.toml."""
    folder.mkdir(parents=True)
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    entry_points = "\n".join(f'{plugin} = "{target}"' for plugin, target in plugins.items())
    text = PROJECT.format(
        name=name, version=version, module=module, requires=json.dumps(list(requires)), entry_points=entry_points
    )
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def good_packages(
    tmp_path_factory: pytest.TempPathFactory, pip_install: Pip, schedule_plugin: Callable[..., str]
) -> Path:
    """Where pip has installed a plugin that works."""
    root = tmp_path_factory.mktemp("good")
    pip_install(project(root / "source", "dlm-acme", schedule_plugin(), "0.3.1", {"acme": "dlm_acme"}), root / "site")
    return root / "site"


def install_wheel(project: Path, packages: Path) -> None:
    """What pip does, for a project without scripts, in a hundredth of the time: build the wheel and unpack it."""
    with contextlib.chdir(project):
        wheel = build_wheel("dist")
        zipfile.ZipFile(Path("dist", wheel)).extractall(packages)


@pytest.fixture(scope="module", params=MATRIX)
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Broken]:
    """Where a broken plugin is installed."""
    broken = MATRIX[request.param]
    root = tmp_path_factory.mktemp("broken")
    source = project(root / "source", "dlm-broken", broken.source, "2.0", broken.plugins, broken.requires)
    install_wheel(source, root / "site")
    return root / "site", broken


@pytest.fixture(name="broken")
def _broken(installed: tuple[Path, Broken], good_packages: Path, visible_packages: Callable[[Path], Any]) -> Broken:
    """A broken plugin that this process sees, installed beside a good one."""
    packages, broken = installed
    visible_packages(good_packages)
    visible_packages(packages)
    return broken


def test_a_broken_plugin_is_recorded_and_dropped_whole(broken: Broken) -> None:
    registry = Registry.discover()
    (record,) = [each for each in registry.plugins if each.distribution == "dlm-broken"]
    assert (record.status, record.phase, record.version) == (broken.status, broken.phase, "2.0")
    assert record.error.startswith(broken.error)
    assert "\n" not in record.error
    assert record.entries == ()


def test_the_others_work_beside_a_broken_plugin(broken: Broken) -> None:
    registry = Registry.discover()
    assert registry.resolve("noise_schedule", "straight").plugin == "acme"
    assert registry.resolve("noise_schedule", "uniform").plugin == "builtin"
    (line,) = registry.warnings()
    assert line.startswith(f"plugin {next(iter(broken.plugins))} (dlm-broken 2.0) is {broken.status} and left out: ")


def test_what_a_broken_plugin_was_to_provide_is_refused_with_its_state(broken: Broken) -> None:
    state = rf"dlm-broken 2\.0\) is {broken.status} \(see `dlm plugins check`\)"
    with pytest.raises(ComponentLookupError, match=state):
        Registry.discover().resolve("noise_schedule", "theirs")


def test_list_and_check_have_the_line_of_a_broken_plugin(broken: Broken) -> None:
    listed = CliRunner().invoke(plugins_command, ["list"])
    assert listed.exit_code == 0
    line = f"dlm-broken 2.0  {broken.status}  {broken.error}"
    assert line in listed.stdout
    checked = CliRunner().invoke(plugins_command, ["check", "dlm-broken"])
    assert checked.exit_code == 1
    assert line in checked.stdout


def test_check_names_the_phase_in_json(broken: Broken) -> None:
    checked = CliRunner().invoke(plugins_command, ["check", "dlm-broken", "--json"])
    document = json.loads(checked.stdout)
    assert checked.exit_code == 1
    assert document["ok"] is False
    assert [(each["status"], each["phase"]) for each in document["plugins"]] == [(broken.status, broken.phase)]


def test_a_run_that_does_not_need_it_is_bit_identical_and_says_one_line(
    untroubled: str, broken: Broken, tmp_path: Path
) -> None:
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "dlm-broken" in line]
    assert broken.error in line
    assert weights_of(tmp_path) == untroubled


def test_a_run_that_needs_it_is_refused_before_anything_is_written(broken: Broken, tmp_path: Path) -> None:
    result = run(tmp_path, "training.noise.schedule=theirs")
    assert getattr(result.exception, "exit_code", None) == 2
    (line,) = str(result.exception).splitlines()
    assert "training.noise.schedule: unknown noise_schedule 'theirs'" in line
    assert f"(dlm-broken 2.0) is {broken.status}" in line
    assert not (tmp_path / "out").exists()


def test_a_run_can_be_strict_or_leave_the_plugin_out(broken: Broken, tmp_path: Path) -> None:
    name = next(iter(broken.plugins))
    strict = run(tmp_path, "--strict-plugins", "--dry-run")
    assert getattr(strict.exception, "exit_code", None) == 2
    assert broken.error in str(strict.exception)
    if name in ("acme", "builtin"):  # switching these off would take a working plugin away as well
        return
    left_out = run(tmp_path, "--strict-plugins", "--no-plugin", name, "--dry-run")
    assert left_out.exit_code == 0, left_out.exception
    assert "dlm-broken" not in left_out.stderr


def test_a_hook_of_ten_seconds_only_costs_ten_seconds(
    untroubled: str,
    request: pytest.FixtureRequest,
    visible_packages: Callable[[Path], Any],
    tmp_path: Path,
) -> None:
    if not request.config.getoption("--full"):
        pytest.skip("waits for half a minute; run pytest --full")
    source = HEAD + GOOD_HOOK.replace("return", "import time; time.sleep(10); return")
    install_wheel(project(tmp_path / "source", "dlm-slow", source, "1.0", {"slow": "dlm_slow"}), tmp_path / "site")
    packages = visible_packages(tmp_path / "site")
    trained = run(tmp_path)
    assert trained.exit_code == 0, trained.output
    (line,) = trained.stderr.splitlines()
    assert "plugin slow (dlm-slow 1.0): hook dlm_noise_schedules took 10." in line
    assert weights_of(tmp_path) == untroubled
    for command in ("list", "check"):
        done = packages.run("plugins", command, *(["slow"] if command == "check" else []))
        assert done.returncode == 0, done.stderr
        assert "hook dlm_noise_schedules took 10." in done.stdout + done.stderr


@pytest.mark.parametrize("where", ["import", "hook dlm_noise_schedules"])
def test_a_slow_plugin_works_and_gets_a_warning(
    where: str, site_packages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_loading, "SLOW_SECONDS", 0.2)
    nap = "import time; time.sleep(0.3)\n"
    hook = GOOD_HOOK if where == "import" else GOOD_HOOK.replace("return", nap.strip() + "; return")
    site_packages.install("dlm-slow", {"dlm_slow.py": (nap if where == "import" else "") + HEAD + hook})
    registry = Registry.discover()
    assert registry.resolve("noise_schedule", "theirs").plugin == "slow"
    (line,) = registry.warnings()
    assert line.startswith(f"plugin slow (dlm-slow 0.1): {where} took 0.")


def test_two_packages_with_one_name_stop_only_a_run_that_uses_it(
    untroubled: str, site_packages: Any, schedule_plugin: Callable[..., str], tmp_path: Path
) -> None:
    for name in ("acme", "bolt"):
        site_packages.install(f"dlm-{name}", {f"dlm_{name}.py": schedule_plugin()})
    unaffected = run(tmp_path)
    assert unaffected.exit_code == 0, unaffected.output
    assert unaffected.stderr == ""
    assert weights_of(tmp_path) == untroubled
    refused = run(tmp_path, "training.noise.schedule=straight", "training.output_dir=unused", "--dry-run")
    assert "'acme:straight' or 'bolt:straight'" in str(refused.exception)
    chosen = run(tmp_path, "training.noise.schedule=bolt:straight", f"training.output_dir={tmp_path}/new", "--dry-run")
    assert chosen.exit_code == 0, chosen.exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plugins.disable=[nobody]",), "no plugin 'nobody' is installed"),
        (("--no-plugin", "nobody"), "no plugin 'nobody' is installed"),
        (("plugins.require=[dlm-nobody>=1]",), "pip install 'dlm-nobody>=1'"),
    ],
)
def test_a_run_refuses_settings_that_name_nobody(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = run(tmp_path, *arguments)
    assert getattr(result.exception, "exit_code", None) == 2
    (line,) = str(result.exception).splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
