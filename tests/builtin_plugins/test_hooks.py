"""The built-in plugin as a whole."""

import importlib
import pkgutil
from types import ModuleType

import attrs
import pytest

import dlm_builtin_plugins
from dlm_plugins import KINDS
from dlm_plugins.registry import Registry

NAMES = {
    "loss": {"guidelines", "dllm", "soft_ce", "elbo", "hybrid", "dpo", "policy_clip", "policy_weighted"},
    "noise_schedule": {"uniform", "cosine", "power", "sigmoid"},
    "masking": {"all", "bernoulli", "complementary", "contiguous", "semi_ar", "trace", "two_stage"},
    "noise_type": {"mask", "random_replace"},
    "attention_bias": {"full", "block", "block_causal", "alternating", "per_layer", "annealed"},
    "remasking": {
        "low_confidence",
        "random",
        "random_topk",
        "threshold",
        "dynamic_threshold",
        "factor",
        "confidence_temperature",
        "entropy",
        "margin",
        "remdm",
    },
    "metric": {"elbo", "accuracy", "exact_match", "contains", "number", "pattern", "distinct_n", "entropy"},
    "reward": {"exact", "number", "pattern", "ends", "length", "tests"},
    "advantage": {"group", "value"},
    "optimizer": {"adamw", "adamw8bit", "lion8bit"},
}


def built_ins() -> list[tuple[str, str, type]]:
    return [
        (kind.name, name, cls)
        for kind in KINDS.values()
        for name, cls in getattr(dlm_builtin_plugins, kind.hook)().items()
    ]


def packages() -> list[ModuleType]:
    found = (info.name for info in pkgutil.iter_modules(dlm_builtin_plugins.__path__) if info.ispkg)
    return [importlib.import_module(f"dlm_builtin_plugins.{name}") for name in found]


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_the_package_of_a_kind_lists_all_components_of_its_files(package):
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    ]
    classes = {
        cls
        for module in modules
        for cls in vars(module).values()
        if attrs.has(cls) and cls.__module__ == module.__name__
    }
    assert set(package.COMPONENTS.values()) == classes


def test_the_hooks_offer_what_the_packages_list():
    offered = [dict(getattr(dlm_builtin_plugins, kind.hook)()) for kind in KINDS.values()]
    listed = [dict(package.COMPONENTS) for package in packages()]
    assert sorted(offered, key=str) == sorted(listed, key=str)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_built_ins_and_the_entry_point_finds_them(kind):
    entries = [entry for entry in Registry.discover(disable=["all"]).entries(kind) if entry.plugin == "builtin"]
    assert {entry.name for entry in entries} == NAMES[kind]


@pytest.mark.parametrize(("kind", "name", "cls"), built_ins())
def test_components_are_frozen_documented_and_complete_by_default(kind, name, cls):
    component = cls()
    assert component == cls()
    assert hash(component) == hash(cls())
    assert cls.__doc__.strip().splitlines()[0].endswith((".", ")"))
    for field in attrs.fields(cls):
        assert field.kw_only
        assert field.validator is not None
        assert field.metadata["help"].endswith(".")
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(component, field.name, getattr(component, field.name))
