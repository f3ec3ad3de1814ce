"""Where each key is at home, to help with keys in the wrong section."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import attrs

from dlm.config.optim import DEFAULT_OPTIMIZER
from dlm.config.run import RunConfig
from dlm_plugins import KINDS
from dlm_plugins.problems import join_path
from dlm_plugins.registry import Registry
from dlm_plugins.strict_objects import UNSTRUCTURED_DEFAULT, fields_by_key
from dlm_plugins.strict_unions import is_union


def places_of(registry: Registry) -> dict[str, str]:
    """Dotted path by key, for every key that only one place has; options of components included."""
    paths = list(dict.fromkeys((*_paths_below(RunConfig, ""), *_option_paths(registry))))
    count = Counter(path.rpartition(".")[2] for path in paths)
    return {key: path for path in paths if count[key := path.rpartition(".")[2]] == 1}


def component_defaults() -> dict[str, str]:
    """The name that stands for each key that selects a component, when the run file says nothing."""
    return {"optim": DEFAULT_OPTIMIZER, **dict(_default_names(RunConfig, ""))}


def sections_of(expected: Any) -> list[Any]:
    """The attrs classes that a key of this type may hold."""
    return [member for member in (get_args(expected) if is_union(expected) else (expected,)) if attrs.has(member)]


def _paths_below(cls: Any, path: str) -> Iterator[str]:
    for key, field in fields_by_key(cls).items():
        place = join_path(path, key)
        # Fine-tuning's noise has the keys of pre-training's: a key means the latter.
        if key == "sft_noise":
            continue
        yield place
        for section in sections_of(field.type):
            yield from _paths_below(section, place)


def _default_names(cls: Any, path: str) -> Iterator[tuple[str, str]]:
    for key, field in fields_by_key(cls).items():
        default = field.metadata.get(UNSTRUCTURED_DEFAULT)
        if isinstance(default, str):
            yield join_path(path, key), default
        for section in sections_of(field.type):
            yield from _default_names(section, join_path(path, key))


def _option_paths(registry: Registry) -> Iterator[str]:
    for entry in registry.entries():
        for key in fields_by_key(entry.cls):
            yield join_path(KINDS[entry.kind].key, key)
