"""Discovery and lookup by name."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from dlm_plugins.discovery import Entry, PluginRecord
from dlm_plugins.errors import ComponentLookupError
from dlm_plugins.kinds import KINDS
from dlm_plugins.registry import Registry

Source = Callable[..., str]


@attrs.frozen(kw_only=True)
class Anything:
    """A class to be looked up."""


def record(plugin: str, *names: str, kind: str = "loss") -> PluginRecord:
    entries = tuple(
        Entry(kind=kind, name=name, plugin=plugin, distribution=f"dlm-{plugin}", version="1", cls=Anything, summary="")
        for name in names
    )
    return PluginRecord(name=plugin, distribution=f"dlm-{plugin}", version="1", status="ok", entries=entries)


def test_an_installed_plugin_is_found_with_its_provenance(site_packages: Any, schedule_plugin: Source) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": schedule_plugin()}, version="0.3.1")
    entry = Registry.discover().resolve("noise_schedule", "straight")
    assert entry.qualified_name == "acme:straight"
    assert (entry.plugin, entry.distribution, entry.version) == ("acme", "dlm-acme", "0.3.1")
    assert entry.summary == "Straight line."
    assert entry.cls.__module__ == "dlm_acme"
    assert not entry.shadowed


def test_bare_and_qualified_names_select_the_same_component(site_packages: Any, schedule_plugin: Source) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": schedule_plugin()})
    registry = Registry.discover()
    assert registry.resolve("noise_schedule", "acme:straight") is registry.resolve("noise_schedule", "straight")


def test_a_component_and_its_class_lead_back_to_the_entry(site_packages: Any, schedule_plugin: Source) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": schedule_plugin()})
    registry = Registry.discover()
    entry = registry.resolve("noise_schedule", "straight")
    assert registry.entry_of(entry.cls) is registry.entry_of(entry.cls(slope=2.0)) is entry
    with pytest.raises(ComponentLookupError, match="Anything is not provided by any loaded plugin"):
        registry.entry_of(Anything())


def test_the_built_ins_come_through_the_entry_point_and_first() -> None:
    first = Registry.discover().plugins[0]
    assert (first.name, first.distribution, first.status) == ("builtin", "dlm", "ok")


def test_the_built_ins_implement_every_kind() -> None:
    kinds = {entry.kind for entry in Registry.discover(disable=["all"]).entries()}
    assert kinds == set(KINDS)


def test_a_third_party_never_takes_the_name_of_a_built_in(site_packages: Any, schedule_plugin: Source) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": schedule_plugin("uniform")})
    registry = Registry.discover()
    assert registry.resolve("noise_schedule", "uniform").plugin == "builtin"
    theirs = registry.resolve("noise_schedule", "acme:uniform")
    assert theirs.plugin == "acme"
    assert theirs.shadowed
    assert theirs.selecting_name == "acme:uniform"


def test_one_name_from_two_third_parties_fails_only_when_used(site_packages: Any, schedule_plugin: Source) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": schedule_plugin()})
    site_packages.install("dlm-bolt", {"dlm_bolt.py": schedule_plugin()})
    registry = Registry.discover(strict=True)
    assert registry.resolve("noise_schedule", "bolt:straight").plugin == "bolt"
    with pytest.raises(ComponentLookupError, match="say which: 'acme:straight' or 'bolt:straight'"):
        registry.resolve("noise_schedule", "straight")


@pytest.mark.parametrize("name", ["null", "true", "false"])
def test_a_name_that_yaml_does_not_read_as_text_is_refused(
    site_packages: Any, schedule_plugin: Source, name: str
) -> None:
    site_packages.install("dlm-acme", {"dlm_acme.py": schedule_plugin(name)})
    (warning,) = Registry.discover().warnings()
    assert f"noise_schedule '{name}': a name has lower-case letters, digits and underscores only" in warning


def test_names_of_different_kinds_do_not_meet() -> None:
    registry = Registry((record("acme", "same"), record("bolt", "same", kind="masking")))
    assert registry.resolve("loss", "same").plugin == "acme"
    assert registry.resolve("masking", "same").plugin == "bolt"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fokal", "unknown loss 'fokal'; did you mean 'focal'?"),
        ("acme:fokal", "unknown loss 'acme:fokal'; did you mean 'focal'?"),
        ("nothing_like_it", "available: elbo, focal"),
        ("words", "there is a masking of that name"),
        ("gone:focal", "no plugin 'gone' is installed"),
        ("xyz", r"not loaded: sparse \(dlm-sparse 2\) is broken"),
        ("sparse:focal", r"not loaded: sparse \(dlm-sparse 2\) is broken"),
    ],
)
def test_a_name_that_nobody_has_gets_a_helpful_answer(name: str, message: str) -> None:
    broken = PluginRecord(name="sparse", distribution="dlm-sparse", version="2", status="broken", error="import: no")
    registry = Registry(
        (record("builtin", "elbo"), record("acme", "focal"), record("bolt", "words", kind="masking"), broken)
    )
    with pytest.raises(ComponentLookupError, match=message):
        registry.resolve("loss", name)


def test_entries_are_in_one_order_whatever_was_found_first() -> None:
    records = (record("builtin", "b", "a"), record("acme", "c", "a"), record("bolt", "a", kind="masking"))
    names = [entry.qualified_name for entry in Registry(records).entries()]
    assert names == ["builtin:a", "builtin:b", "acme:a", "acme:c", "bolt:a"]
    assert names == [entry.qualified_name for entry in Registry(records[::-1]).entries()]
    assert [entry.name for entry in Registry(records).entries("masking")] == ["a"]


def test_what_a_plugin_prints_at_import_does_not_reach_standard_output(
    site_packages: Any, schedule_plugin: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    site_packages.install("dlm-loud", {"dlm_loud.py": schedule_plugin() + "\nprint('hello')\n"})
    Registry.discover()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "hello" in captured.err
