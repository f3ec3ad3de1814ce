"""Every component that comes with the framework keeps its contract."""

import pytest

from dlm_plugins.registry import Entry, Registry
from dlm_plugins.testing import check_component

BUILT_INS = [entry for entry in Registry.discover().entries() if entry.distribution == "dlm"]


@pytest.mark.parametrize("entry", BUILT_INS, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_built_in_keeps_its_contract(entry: Entry) -> None:
    assert check_component(entry.kind, entry.cls) == []


def test_every_kind_has_a_built_in() -> None:
    assert {entry.kind for entry in BUILT_INS} == {
        "attention_bias",
        "loss",
        "masking",
        "noise_schedule",
        "noise_type",
        "optimizer",
        "remasking",
    }
