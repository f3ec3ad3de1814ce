"""Switching plugins off, requiring them, and being strict."""

from collections.abc import Callable
from typing import Any

import pytest

from dlm_plugins.errors import PluginSettingError
from dlm_plugins.registry import Registry

Source = Callable[..., str]


@pytest.fixture(autouse=True)
def _two_plugins(site_packages: Any, schedule_plugin: Source) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": schedule_plugin()}, version="0.3.1")
    site_packages.install("dlm-bolt", {"dlm_bolt.py": "raise AssertionError('imported')"}, version="2.0")


def statuses(registry: Registry) -> dict[str, str]:
    return {record.name: record.status for record in registry.plugins}


def test_a_disabled_plugin_is_not_imported() -> None:
    registry = Registry.discover(disable=["bolt"])
    assert statuses(registry) == {"builtin": "ok", "acme": "ok", "bolt": "disabled"}
    assert registry.warnings() == ()


def test_the_environment_disables_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_DISABLE_PLUGINS", "bolt, acme")
    registry = Registry.discover()
    assert statuses(registry) == {"builtin": "ok", "acme": "disabled", "bolt": "disabled"}
    assert registry.plugins[1].error == "switched off by DLM_DISABLE_PLUGINS"


def test_all_leaves_the_built_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"builtin": "ok", "acme": "disabled", "bolt": "disabled"}
    assert statuses(Registry.discover(disable=["all"])) == expected
    monkeypatch.setenv("DLM_DISABLE_PLUGINS", "all")
    assert statuses(Registry.discover()) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bold", "did you mean 'bolt'"),
        ("dlm-bolt", "did you mean 'bolt'"),
        ("zzz", r"\(installed: acme, bolt, builtin\)"),
    ],
)
def test_an_unknown_name_cannot_be_disabled(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginSettingError, match=message):
        Registry.discover(disable=[name])
    monkeypatch.setenv("DLM_DISABLE_PLUGINS", name)
    with pytest.raises(PluginSettingError, match=f"DLM_DISABLE_PLUGINS: no plugin '{name}' is installed.*{message}"):
        Registry.discover()


def test_a_broken_plugin_is_reported_in_one_line_and_is_fatal_only_when_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry.discover()
    line = "plugin bolt (dlm-bolt 2.0) is broken and left out: import: AssertionError: imported"
    assert registry.warnings() == (line,)
    with pytest.raises(PluginSettingError, match=r"bolt \(dlm-bolt 2.0\) is broken: import: AssertionError"):
        Registry.discover(strict=True)
    monkeypatch.setenv("DLM_STRICT_PLUGINS", "1")
    with pytest.raises(PluginSettingError, match="strict"):
        Registry.discover()
    assert statuses(Registry.discover(disable=["bolt"]))["acme"] == "ok"
    monkeypatch.setenv("DLM_STRICT_PLUGINS", "perhaps")
    with pytest.raises(PluginSettingError, match="must be 1 or 0"):
        Registry.discover()


@pytest.mark.parametrize("requirement", ["dlm-acme", "dlm_acme>=0.3", "DLM-Acme==0.3.1", "dlm"])
def test_a_requirement_that_is_met_says_nothing(requirement: str) -> None:
    assert Registry.discover(require=[requirement]).resolve("noise_schedule", "straight").plugin == "acme"


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("dlm-acme>=0.4", "dlm-acme 0.3.1 is installed: pip install 'dlm-acme>=0.4'"),
        ("dlm-gone>=1", "no plugin of that distribution is installed: pip install 'dlm-gone>=1'"),
        ("pytest", "no plugin of that distribution is installed"),
        ("dlm-bolt", "plugin bolt is broken: import: AssertionError: imported"),
        ("dlm acme", "cannot read the requirement 'dlm acme'"),
    ],
)
def test_a_requirement_that_is_not_met_says_what_to_do(requirement: str, message: str) -> None:
    with pytest.raises(PluginSettingError, match=message):
        Registry.discover(require=[requirement])


def test_a_plugin_cannot_be_required_and_disabled() -> None:
    with pytest.raises(PluginSettingError, match="plugin acme is disabled"):
        Registry.discover(require=["dlm-acme"], disable=["acme"])
