"""An error nobody expected says whose code took part; the user's own mistakes stay as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlm.config import LoadedConfig, load_mapping
from dlm.errors import UserInputError
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
