"""What the tests of the run file share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dlm.config import RunFileError, load_config
from dlm_plugins.registry import Registry

MINIMAL = """\
model:
  name_or_path: some/model
training:
  output_dir: runs/x
  max_steps: 10
dataset:
  name: python-docs
"""


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry.discover()


@pytest.fixture
def minimal_text() -> str:
    return MINIMAL


@pytest.fixture
def minimal() -> dict[str, Any]:
    return {
        "model": {"name_or_path": "some/model"},
        "training": {"output_dir": "runs/x", "max_steps": 10},
        "dataset": {"name": "python-docs"},
    }


@pytest.fixture
def complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Load a text as ``run.yaml`` and return the lines of the refusal; empty when it is accepted."""
    monkeypatch.chdir(tmp_path)

    def load(text: str | bytes, overrides: Sequence[str] = ()) -> list[str]:
        Path("run.yaml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        try:
            load_config("run.yaml", overrides)
        except RunFileError as error:
            return str(error).split("\n")
        return []

    return load
