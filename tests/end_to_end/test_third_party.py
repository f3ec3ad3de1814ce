"""A third party's package from installation to removal: listed, run, resumed, and named when it is missing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "dlm-acme"
SHORT = (
    "training.max_steps=4",
    "training.batch_size=4",
    "training.checkpoint.every_steps=2",
    "evaluation.do_eval_loss=false",
    "evaluation.sample_prompts=[]",
    "model.config.hidden_size=32",
    "model.config.intermediate_size=32",
    "model.config.num_hidden_layers=1",
)


@attrs.frozen
class Environment:
    """A folder that the package is installed into, and one to run in."""

    packages: Path
    folder: Path

    def dlm(self, *arguments: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.packages) if installed else ""}
        command = [sys.executable, "-c", "from dlm_cli.main import main; main()", *arguments]
        return subprocess.run(
            command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=600, check=False
        )

    def run(self, *overrides: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        (self.folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 400)
        data = f"dataset.name={self.folder / 'text.txt'}"
        return self.dlm("run", str(EXAMPLE / "run.yaml"), *SHORT, data, *overrides, installed=installed)

    def weights(self, output: str) -> bytes:
        return (self.folder / output / "final" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def acme(
    tmp_path_factory: pytest.TempPathFactory,
    made_once: Callable[[str, Callable[[Path], object]], Path],
    pip_install: Callable[[Path, Path], None],
) -> Environment:
    packages = made_once("acme", lambda folder: pip_install(EXAMPLE, folder))
    return Environment(packages, tmp_path_factory.mktemp("acme"))


def test_the_package_brings_one_component_of_every_kind(acme: Environment) -> None:
    document = json.loads(acme.dlm("plugins", "list", "--json").stdout)
    names = {each["kind"]: each["qualified_name"] for each in document["components"] if each["plugin"] == "acme"}
    assert names == {
        "loss": "acme:focal",
        "noise_schedule": "acme:clipped",
        "masking": "acme:whole_word",
        "noise_type": "acme:mixed",
        "attention_bias": "acme:sliding_window",
        "remasking": "acme:annealed_confidence",
        "metric": "acme:rouge_l",
        "reward": "acme:word_overlap",
        "advantage": "acme:ranked",
        "optimizer": "acme:lion",
    }
    assert {each["distribution"] for each in document["plugins"]} == {"dlm", "dlm-acme"}


def test_its_components_keep_their_contracts(acme: Environment) -> None:
    done = acme.dlm("plugins", "check", "acme", "--json")
    failures = [each["failures"] for each in json.loads(done.stdout)["plugins"][0]["components"]]
    assert failures == [[]] * 10
    assert done.returncode == 0


def test_its_run_file_runs_and_resumes_to_the_same_weights(acme: Environment) -> None:
    whole = acme.run("training.output_dir=whole")
    assert whole.returncode == 0, whole.stderr
    resumed = acme.run("training.output_dir=resumed", "training.checkpoint.resume=whole/checkpoints/step-2")
    assert resumed.returncode == 0, resumed.stderr
    assert acme.weights("resumed") == acme.weights("whole")


def test_without_the_package_the_run_file_says_what_to_install(acme: Environment) -> None:
    done = acme.run("training.output_dir=missing", installed=False)
    assert done.returncode == 2
    assert "requires 'dlm-acme>=0.3'" in done.stderr
    assert "pip install 'dlm-acme>=0.3'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (acme.folder / "missing").exists()
