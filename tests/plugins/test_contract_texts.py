"""Every class, field, method and claim of the contracts has a text, and the reference shows it."""

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

import dlm_plugins
from dlm_plugins import KINDS, Claim, Kind, draws, run_components
from dlm_plugins.contract_texts import Described, common_contract, contract_of
from dlm_plugins.plugin_settings import ALL
from dlm_plugins.reference_page import reference
from dlm_plugins.registry import Registry

DESCRIBED = {each.name: each for kind in KINDS.values() for each in contract_of(kind)} | {
    each.name: each for each in common_contract()
}
MODULES = [run_components, draws, *(sys.modules[kind.protocol.__module__] for kind in KINDS.values())]
CLASSES = [
    value
    for module in MODULES
    for value in vars(module).values()
    if inspect.isclass(value) and value.__module__ == module.__name__ and value is not draws.KeyedDraws
]
SHAPE_AND_TYPE = re.compile(r"(\([A-Z](, [A-Z])*,?\)|Scalar) (bool|int64|float32)\b")

each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_described = pytest.mark.parametrize("described", DESCRIBED.values(), ids=lambda each: each.name)
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)


@pytest.fixture(scope="module")
def page() -> str:
    return reference(Registry.discover(disable=[ALL]))


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    level = len(heading.split()[0])
    below = page.split(f"\n{heading}\n")[1]
    return re.split(rf"^#{{1,{level}}} ", below, maxsplit=1, flags=re.MULTILINE)[0]


def unmarked(text: str) -> str:
    return " ".join(text.replace("\\|", "|").replace("`", "").split())


def members(cls: type) -> Iterator[tuple[str, bool]]:
    """Public names of a class as Python has them, and whether they are fields."""
    for name, value in vars(cls).items():
        if name == "__call__" or (
            not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
        ):
            yield name, not inspect.isfunction(value)
    if attrs.has(cls):
        yield from ((field.name, True) for field in attrs.fields(cls))


@each_class
def test_all_fields_and_methods_of_a_contract_are_described(cls: type) -> None:
    described = DESCRIBED[cls.__name__]
    names = [(each.name, True) for each in described.fields] + [(each.name, False) for each in described.methods]
    assert sorted(names) == sorted(members(cls))


@each_described
def test_each_has_a_text(described: Described) -> None:
    texts = {each.name: each.text for each in (*described.fields, *described.methods)}
    assert described.text.endswith(".")
    assert [name for name, text in texts.items() if not text.endswith(".")] == []


@each_described
def test_each_tensor_has_a_shape_and_a_type(described: Described) -> None:
    tensors = [each for each in described.fields if re.search(r"\bTensor\b", each.code)]
    assert [each.name for each in tensors if not SHAPE_AND_TYPE.match(each.text)] == []


@each_described
def test_whatever_a_type_names_is_described_and_can_be_imported(described: Described) -> None:
    codes = [described.definition, *(each.code for each in (*described.fields, *described.methods))]
    words = {word for code in codes for word in re.findall(r"\w+", code)}
    assert words & set(dlm_plugins.__all__) <= set(DESCRIBED)
    assert described.name in dlm_plugins.__all__


@each_kind
def test_all_claims_belong_to_the_kind(kind: Kind) -> None:
    module = vars(sys.modules[kind.protocol.__module__])
    assert [value for value in module.values() if isinstance(value, Claim)] == [*kind.claims]


@each_kind
def test_the_reference_shows_the_whole_contract(kind: Kind, page: str) -> None:
    contract = section(page, f"### Contract of {kind.name}")
    for described in contract_of(kind):
        heading = f"#### {'type' if described.definition else 'class'} {described.name}"
        shown = unmarked(section(page, heading))
        for each in (*described.fields, *described.methods):
            assert unmarked(each.code) in shown
            assert unmarked(each.text) in shown
        assert heading in contract
    for claim in kind.claims:
        assert f"| `{claim.name}` | " in contract
        assert unmarked(claim.help) in unmarked(contract)


def test_tables_keep_their_columns_and_links_lead_somewhere(page: str) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE)
    assert len(tables) > len(KINDS)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    headings = [each.lower().replace(" ", "-") for each in re.findall(r"^#+ (.+)$", page, re.MULTILINE)]
    assert len(set(headings)) == len(headings)
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) == set(KINDS) <= set(headings)


SOURCE = '''
from typing import Protocol, TypeAlias

import attrs

Ids: TypeAlias = list[int]
"""Ids
of tokens."""


@attrs.frozen
class Request:
    bare: int
    told: int | None = None
    """How ``many``."""
    _hidden: int = 0


class Rule(Protocol):
    """A rule."""

    @property
    def rate(self) -> float:
        """A rate."""
        ...

    def decide(self, request: Request, *, limit: int = 3) -> Ids:
        ...
'''


def module_of(source: str, path: Path) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_texts_are_read_from_the_source_and_missing_ones_are_empty(tmp_path: Path) -> None:
    module: Any = module_of(SOURCE, tmp_path / "contract_of_a_rule.py")
    try:
        kind = Kind(name="rule", hook="dlm_rules", protocol=module.Rule, key="rule", decides="nothing")
        rule, ids, request = contract_of(kind)
    finally:
        del sys.modules["contract_of_a_rule"]
    assert (ids.name, ids.definition, ids.text) == ("Ids", "list[int]", "Ids\nof tokens.")
    assert [attrs.astuple(each) for each in rule.fields] == [("rate", "float", "A rate.")]
    (decide,) = rule.methods
    assert (decide.code, decide.text) == ("decide(request: Request, *, limit: int = 3) -> Ids", "")
    assert request.text == ""
    assert [attrs.astuple(each) for each in request.fields] == [
        ("bare", "int", ""),
        ("told", "int | None = None", "How ``many``."),
    ]
