"""Type checkers hold a plugin's hooks and components against the contract, as it is installed from the wheel."""

import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
from collections.abc import Mapping

import attrs
import my_plugin
from dlm_plugins import (
    AttentionBias, Claim, Loss, LossOutput, LossView, Masking, NoiseSchedule, NoiseType, OptimizerFactory,
    ProvidesAttentionBiases, ProvidesLosses, ProvidesMaskings, ProvidesNoiseSchedules, ProvidesNoiseTypes,
    ProvidesOptimizers, ProvidesRemaskers, Remasker, hookimpl,
)
from torch import Tensor
"""
SCHEDULE = """

@attrs.frozen(kw_only=True)
class Schedule:
    slope: float = 1.0

    def mask_rate(self, t: Tensor) -> Tensor:
        return self.slope * t

    def mask_rate_derivative(self, t: Tensor) -> Tensor:
        return t
"""
HOOK = """

@hookimpl
def dlm_noise_schedules() -> Mapping[str, type[NoiseSchedule]]:
    return {"mine": Schedule}
"""
CHECKED = "\n\n_: ProvidesNoiseSchedules = my_plugin\n"
RIGHT = HEAD + SCHEDULE + HOOK + CHECKED

WRONG = {
    "a hook of another kind": RIGHT.replace("_: ProvidesNoiseSchedules", "_: ProvidesLosses"),
    "a hook that returns a list": RIGHT.replace(
        "Mapping[str, type[NoiseSchedule]]:", "list[type[NoiseSchedule]]:"
    ).replace('{"mine": Schedule}', "[Schedule]"),
    "a hook that returns instances": RIGHT.replace("type[NoiseSchedule]]:", "NoiseSchedule]:").replace(
        ": Schedule}", ": Schedule()}"
    ),
    "a hook with an argument": RIGHT.replace("dlm_noise_schedules()", "dlm_noise_schedules(config: str)"),
    "a component without a method": RIGHT.replace("def mask_rate_derivative", "def derivative"),
    "a method that needs another argument": RIGHT.replace(
        "def mask_rate(self, t:", "def mask_rate(self, step: int, t:"
    ),
    "a method that returns something else": RIGHT.replace(
        "(self, t: Tensor) -> Tensor:\n        return t", "(self, t: Tensor) -> float:\n        return 1.0"
    ),
    "a component of another kind": RIGHT.replace("type[NoiseSchedule]]:", "type[Masking]]:"),
}


@pytest.fixture(scope="module")
def clean_python(made_once: Callable[[str, Callable[[Path], object]], Path], installed_here: str) -> Path:
    """The interpreter of an environment in which dlm is installed from its wheel, not from the checkout."""
    return python_in(made_once("clean-python", lambda folder: make_environment(folder, installed_here)))


def python_in(folder: Path) -> Path:
    return folder / "environment" / "bin" / "python"


def make_environment(folder: Path, others: str) -> None:
    venv.create(folder / "environment", with_pip=False)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", str(folder), str(ROOT)], check=True, capture_output=True)
    (site_packages,) = (folder / "environment" / "lib").glob("python*/site-packages")
    (wheel,) = folder.glob("dlm-*.whl")
    subprocess.run(
        [*pip, "install", *offline, "--target", str(site_packages), str(wheel)], check=True, capture_output=True
    )
    (site_packages / "others.pth").write_text(others)
    where = [python_in(folder), "-c", "import dlm_plugins; print(dlm_plugins.__file__)"]
    found = subprocess.run(where, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).is_relative_to(site_packages)


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def findings(request: pytest.FixtureRequest, clean_python: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one checker says about all the examples, each a module of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    for source, module in {RIGHT: "right", **{text: module_of(slip) for slip, text in WRONG.items()}}.items():
        (folder / f"{module}.py").write_text(source.replace("my_plugin", module))
    command = {
        "mypy": [
            "mypy",
            "--strict",
            "--python-executable",
            str(clean_python),
            "--cache-dir",
            str(folder / "cache"),
            ".",
        ],
        "pyright": ["pyright", "--pythonpath", str(clean_python), "."],
    }[request.param]
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


def module_of(slip: str) -> str:
    return slip.replace(" ", "_")


def errors_in(module: str, findings: str) -> list[str]:
    return [line for line in findings.splitlines() if f"{module}.py:" in line and "error" in line]


def test_a_right_plugin_type_checks(findings: str) -> None:
    assert errors_in("right", findings) == []


@pytest.mark.parametrize("slip", WRONG)
def test_a_wrong_plugin_is_flagged(slip: str, findings: str) -> None:
    errors = errors_in(module_of(slip), findings)
    assert errors
    assert not any("import" in error for error in errors)
