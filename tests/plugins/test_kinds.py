"""Every kind is complete: a hook, a protocol, claims, a providing protocol, a contract class, properties."""

import inspect
from collections.abc import Mapping
from typing import get_args, get_origin, get_type_hints

import pytest

import dlm_plugins
from dlm_plugins import KINDS, Kind, hookspecs, testing

PROVIDERS = [protocol for name, protocol in vars(hookspecs).items() if name.startswith("Provides")]
CONTRACTS = [
    contract
    for name in testing.__all__
    if inspect.isclass(contract := getattr(testing, name))
    and issubclass(contract, testing.Contract)
    and contract is not testing.Contract
]

each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)


def provided(hook: object) -> object:
    """The protocol P of a hook that returns ``Mapping[str, type[P]]``."""
    returned = get_type_hints(hook)["return"]
    assert get_origin(returned) is Mapping
    name, component = get_args(returned)
    assert name is str
    return get_args(component)[0]


@each_kind
def test_its_hook_is_specified(kind: Kind) -> None:
    hook = getattr(hookspecs.hook_specifications(), kind.hook)
    assert hasattr(hook, "dlm_spec")
    assert hook.__name__ == kind.hook
    assert not inspect.signature(hook).parameters


@each_kind
def test_one_providing_protocol_has_its_hook(kind: Kind) -> None:
    (provider,) = [protocol for protocol in PROVIDERS if hasattr(protocol, kind.hook)]
    assert provided(getattr(provider, kind.hook)) is kind.protocol
    assert provider.__name__ in dlm_plugins.__all__


@each_kind
def test_one_contract_class_runs_all_its_properties(kind: Kind) -> None:
    (contract,) = [each for each in CONTRACTS if each.kind == kind.name]
    methods = {name for name in dir(contract) if name.startswith("test_")}
    assert len(methods) == len(testing.PROPERTIES[kind.name])


@each_kind
def test_claims_have_a_help_text_and_names_of_their_own(kind: Kind) -> None:
    names = [claim.name for claim in kind.claims]
    assert len(set(names)) == len(names)
    assert all(claim.help.endswith((".", "!")) for claim in kind.claims)


def test_nothing_is_left_over() -> None:
    specified = {name for name, value in vars(hookspecs.hook_specifications()).items() if hasattr(value, "dlm_spec")}
    assert specified == {kind.hook for kind in KINDS.values()}
    assert len(PROVIDERS) == len(CONTRACTS) == len(KINDS)
    assert set(testing.PROPERTIES) == set(KINDS)


def test_keys_and_protocols_are_distinct() -> None:
    kinds = KINDS.values()
    assert len({kind.key for kind in kinds}) == len({kind.protocol for kind in kinds}) == len(kinds)


def test_a_claim_is_read_from_the_component_and_silence_means_the_default() -> None:
    claim = dlm_plugins.Claim("num_views", 1, "How many.")

    class Silent:
        pass

    class Speaks:
        @property
        def num_views(self) -> int:
            return 2

    assert claim.of(Silent()) == 1
    assert claim.of(Speaks()) == 2
