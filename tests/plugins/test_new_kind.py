"""A kind is a row of the table and a protocol: everything else follows, and nothing has to be written for it."""

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from dlm_cli.commands.plugins import plugins
from dlm_plugins import KINDS, Kind, kinds
from dlm_plugins.reference_page import reference
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import make_converter, unstructure_component
from dlm_plugins.testing import PROPERTIES, Contract, check_component, check_plugin

PROTOCOL = '''
"""Contract of a toy: how loud an answer is."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor


@attrs.frozen(kw_only=True)
class ToyRequest:
    """What a toy is handed."""

    answers: Sequence[str]
    """Texts."""


@runtime_checkable
class Toy(Protocol):
    """Measures answers."""

    def measure(self, request: ToyRequest) -> Tensor:
        """(B,) float32: loudness of each answer.

        Pure.
        """
        ...
'''

PLUGIN = '''
"""A plugin with one toy."""

import attrs
import torch

from dlm_plugins import hookimpl


@attrs.frozen(kw_only=True)
class Drum:
    """As loud as the answer is long."""

    volume: float = attrs.field(default=1.0, validator=attrs.validators.ge(0), metadata={"help": "At least 0."})

    def measure(self, request):
        return torch.tensor([len(answer) * self.volume for answer in request.answers])


@hookimpl
def dlm_toys():
    """Toys by name."""
    return {"drum": Drum}
'''


@attrs.frozen
class World:
    """A kind that was added to the table, and a plugin of that kind."""

    kind: Kind
    protocol: ModuleType
    plugin: ModuleType


def run(*arguments: str) -> Result:
    return CliRunner().invoke(plugins, [*arguments])


@pytest.fixture
def world(site_packages: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    site_packages.install("dlm-toys", {"toy_plugin.py": PLUGIN, "toy_protocol.py": PROTOCOL})
    protocol = importlib.import_module("toy_protocol")
    kind = Kind(name="toy", hook="dlm_toys", protocol=protocol.Toy, key="evaluation.toy", decides="how loud it is")
    monkeypatch.setitem(kinds._BY_NAME, "toy", kind)
    return World(kind, protocol, importlib.import_module("toy_plugin"))


def test_the_registry_takes_and_checks_its_components(world: World) -> None:
    entry = Registry.discover().resolve("toy", "drum")
    assert entry.cls is world.plugin.Drum
    assert entry.qualified_name == "toys:drum"
    assert check_plugin(world.plugin) == []


def test_a_component_that_breaks_the_protocol_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: object, texts: object) -> None: ...

    monkeypatch.setattr(world.plugin.Drum, "measure", measure)
    (problem,) = check_plugin(world.plugin)
    assert "Drum.measure takes (texts), the contract passes (request)" in problem


def test_a_section_with_a_field_of_its_protocol_is_structured(world: World) -> None:
    registry = Registry.discover()
    section = attrs.make_class("Section", {"toy": attrs.field(type=world.kind.protocol)})
    built: Any = make_converter(registry).structure({"toy": {"name": "drum", "volume": 2.0}}, section)
    assert built.toy == world.plugin.Drum(volume=2.0)
    assert unstructure_component(registry, "toy", built.toy) == {"name": "toys:drum", "volume": 2.0}
    listed = make_converter(registry).structure(["drum", {"name": "drum", "volume": 0.5}], list[world.kind.protocol])
    assert listed == [world.plugin.Drum(), world.plugin.Drum(volume=0.5)]


def test_the_commands_know_it(world: World) -> None:
    listed = json.loads(run("list", "--json").stdout)["components"]
    assert ("toy", "toys:drum") in {(each["kind"], each["qualified_name"]) for each in listed}
    shown = run("show", "toy", "drum")
    assert shown.exit_code == 0, shown.output
    assert "As loud as the answer is long." in shown.output
    assert "evaluation:" in shown.output
    checked = run("check", "toys")
    assert checked.exit_code == 0, checked.output
    assert "1 component, " in checked.output


def test_the_reference_has_its_contract_and_components(world: World) -> None:
    page = reference(Registry.discover())
    assert "Decides how loud it is. Key `evaluation.toy`, hook `dlm_toys`." in page
    assert "- `measure(request: ToyRequest) -> Tensor`: (B,) float32" in page
    assert "### drum" in page


def test_the_contract_class_tries_what_every_component_keeps(world: World) -> None:
    assert PROPERTIES["toy"] == PROPERTIES["loss"][: len(PROPERTIES["toy"])]
    assert set(PROPERTIES) == set(KINDS)
    assert check_component("toy", world.plugin.Drum) == []

    class TestDrum(Contract):
        kind = "toy"
        component = world.plugin.Drum

    tests: list[Callable[[TestDrum], None]] = [
        test for name, test in inspect.getmembers(TestDrum, inspect.isfunction) if name.startswith("test_")
    ]
    assert len(tests) == len(PROPERTIES["toy"])
    for test in tests:
        test(TestDrum())


def test_a_package_to_start_from_loads_and_says_what_is_to_be_written(
    world: World, tmp_path: Path, visible_packages: Callable[[Path], Any]
) -> None:
    written = run("new", "toy", "horn", "--out", str(tmp_path / "dlm-brass"))
    assert written.exit_code == 0, written.output
    checked = run("check", str(tmp_path / "dlm-brass"))
    assert checked.exit_code == 0, checked.output
    assert "1 component, " in checked.output
    visible_packages(tmp_path / "dlm-brass")
    horn = importlib.import_module("dlm_brass.toy").HornToy()
    assert isinstance(horn, world.protocol.Toy)
    with pytest.raises(NotImplementedError):
        horn.measure(world.protocol.ToyRequest(answers=["a"]))
    tests: dict[str, Any] = {"__name__": "test_contract"}
    exec((tmp_path / "dlm-brass" / "tests" / "test_contract.py").read_text(), tests)
    tests["test_dlm_takes_the_plugin"]()
    assert tests["TestHornToy"].kind == "toy"


def test_nothing_of_it_is_left_behind() -> None:
    assert "toy" not in KINDS
    assert "toy" not in {entry.kind for entry in Registry.discover().entries()}
