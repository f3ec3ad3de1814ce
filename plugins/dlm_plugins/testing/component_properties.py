"""What every component keeps, of whatever kind: it is its options, and they survive being written down."""

import functools
import pickle
from typing import Any

import attrs
import yaml

from dlm_plugins.registry import Registry
from dlm_plugins.structuring import make_converter, unstructure
from dlm_plugins.testing.instances import variants
from dlm_plugins.testing.property_tools import contract_property


@contract_property
def check_frozen(component: attrs.AttrsInstance) -> None:
    """Options cannot be changed after construction, and are passed by keyword."""
    fields = [field for field in attrs.fields(type(component)) if field.init]
    for field in fields:
        try:
            setattr(component, field.name, getattr(component, field.name))
        except attrs.exceptions.FrozenInstanceError:
            continue
        raise AssertionError(f"option {field.name!r} can be assigned to; use @attrs.frozen(kw_only=True)")
    positional = [field.name for field in fields if not field.kw_only]
    if positional:
        raise AssertionError(f"options {positional} can be passed by position; use @attrs.frozen(kw_only=True)")


@contract_property
def check_equality(component: Any) -> None:
    """Components are equal where their options are, and then hash alike."""
    twin = attrs.evolve(component)
    if twin != component:
        raise AssertionError("differs from a component with the same options")
    if hash(twin) != hash(component):
        raise AssertionError("hashes differently from a component with the same options")
    for other in variants(type(component)):
        if (other == component) != (_options(other) == _options(component)):
            raise AssertionError(f"equality with {other!r} is not that of their options")


@contract_property
def check_pickle_round_trip(component: attrs.AttrsInstance) -> None:
    """Pickling gives an equal component back."""
    found = pickle.loads(pickle.dumps(component))
    if found != component:
        raise AssertionError(f"comes back from pickle as {found!r}")


@contract_property
def check_yaml_round_trip(component: attrs.AttrsInstance) -> None:
    """Its options written as YAML and read again give an equal component."""
    registry = _installed()
    text = yaml.safe_dump(unstructure(registry, component))
    found = make_converter(registry).structure(yaml.safe_load(text), type(component))
    if found != component:
        raise AssertionError(f"comes back from YAML as {found!r}; the YAML was {text!r}")


@contract_property
def check_documented(component: attrs.AttrsInstance) -> None:
    """The class has a docstring, and every option a default and a help text (``metadata={"help": ...}``)."""
    cls = type(component)
    if not (cls.__doc__ or "").strip():
        raise AssertionError("has no docstring; its first line is the summary that `dlm plugins list` prints")
    for field in (field for field in attrs.fields(cls) if field.init):
        if field.default is attrs.NOTHING:
            raise AssertionError(f"option {field.name!r} has no default")
        if not str(field.metadata.get("help", "")).strip():
            raise AssertionError(f'option {field.name!r} has no help text; add metadata={{"help": "..."}}')


def _options(component: Any) -> dict[str, Any]:
    return attrs.asdict(component, recurse=False)


@functools.cache
def _installed() -> Registry:
    """Where components find those they are made of."""
    return Registry.discover()


PROPERTIES = (
    check_frozen,
    check_equality,
    check_pickle_round_trip,
    check_yaml_round_trip,
    check_documented,
)
