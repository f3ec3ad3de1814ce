"""An error nobody expected says whose code took part; the user's own mistakes stay as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlm.config import LoadedConfig, load_mapping
from dlm.errors import OutOfMemoryError, UserInputError
from dlm.training.failures import explained

RUN = {
    "model": {"name_or_path": "somewhere"},
    "training": {"output_dir": "out", "max_steps": 1},
    "dataset": {"name": "python-docs"},
}
PLUGIN = """
import attrs
from dlm_plugins import hookimpl

@attrs.frozen(kw_only=True)
class Straight:
    '''A schedule.'''

    def mask_rate(self, t):
        return t

    def mask_rate_derivative(self, t):
        return t * 0 + 1

@hookimpl
def dlm_noise_schedules():
    return {"straight": Straight}
"""


@pytest.fixture
def loaded(site_packages: Any, tmp_path: Path) -> Callable[[str], LoadedConfig]:
    site_packages.install("dlm-acme", {"dlm_acme.py": PLUGIN})
    return lambda schedule: load_mapping(RUN, [f"training.noise.schedule={schedule}"])


def notes_of(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", []))


def test_an_unexpected_error_names_the_third_party_components_and_how_to_check_them(
    loaded: Callable[[str], LoadedConfig],
) -> None:
    with pytest.raises(AttributeError) as caught, explained(loaded("straight")):
        raise AttributeError("'float' object has no attribute 'clamp'")
    (note,) = notes_of(caught.value)
    assert "noise_schedule acme:straight" in note
    assert "`dlm plugins check acme`" in note


@pytest.mark.parametrize(
    ("schedule", "error"), [("uniform", AttributeError("ours")), ("straight", UserInputError("the user's"))]
)
def test_nothing_is_added_to_our_own_errors_and_to_mistakes_of_the_user(
    loaded: Callable[[str], LoadedConfig], schedule: str, error: Exception
) -> None:
    with pytest.raises(type(error)) as caught, explained(loaded(schedule)):
        raise error
    assert notes_of(caught.value) == []


def said_of_memory(*overrides: str) -> list[str]:
    """The settings that are named where memory runs out."""
    with pytest.raises(OutOfMemoryError) as caught, explained(load_mapping(RUN, overrides)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    first, *settings = str(caught.value).splitlines()
    assert "Tried to allocate 2 GiB" in first
    return [line.strip().partition(": ")[0] for line in settings]


def test_where_memory_runs_out_what_is_named_can_be_set_and_is_not_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, checkpointing, eight_bit, shorter = said_of_memory()
    assert rows == "training.batch_size=4 training.gradient_accumulation_steps=2"
    assert (checkpointing, eight_bit) == ("training.gradient_checkpointing=true", "optim.name=adamw8bit")
    assert shorter == "dataset.max_length=256"
    (odd, *_) = said_of_memory("training.batch_size=3", "training.gradient_accumulation_steps=2")
    assert odd == "training.batch_size=1 training.gradient_accumulation_steps=6"
    assert said_of_memory("training.batch_size=1", checkpointing, eight_bit) == [shorter]
    for each in said_of_memory():
        load_mapping(RUN, each.split())
    monkeypatch.setenv("WORLD_SIZE", "8")  # a shard has no state in 8 bits
    assert said_of_memory() == [rows, checkpointing, shorter]
    assert said_of_memory("training.parallel.shard=1") == [rows, checkpointing, eight_bit, shorter]
