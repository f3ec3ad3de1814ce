"""In which section each key is at home, to help with keys in the wrong section ("did you mean")."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import attrs

from dlm.config.optim_section import DEFAULT_OPTIMIZER
from dlm.config.run_config import RunConfig
from dlm_plugins import KINDS
from dlm_plugins.problems import join_path
from dlm_plugins.registry import Registry
from dlm_plugins.strict_types import UNSTRUCTURED_DEFAULT, fields_by_key, is_component, is_required, is_union


def places_of(registry: Registry) -> dict[str, str]:
    """Dotted path by key, for every key that only one place has; options of components included."""
    paths = list(dict.fromkeys((*_paths_below(RunConfig, ""), *_option_paths(registry))))
    count = Counter(path.rpartition(".")[2] for path in paths)
    return {key: path for path in paths if count[key := path.rpartition(".")[2]] == 1}


def short_forms() -> dict[str, str | None]:
    """Keys whose value may be a name or a mapping with ``name``, each with the name that stands there by default."""
    return {"optim": DEFAULT_OPTIMIZER, **dict(_short_forms(RunConfig, ""))}


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


def _short_forms(cls: Any, path: str) -> Iterator[tuple[str, str | None]]:
    for key, field in fields_by_key(cls).items():
        members = get_args(field.type) if is_union(field.type) else (field.type,)
        has_name = len(members) > 1 and any(map(_has_name, members))
        if not is_required(field) and (has_name or any(map(is_component, members))):
            default = field.metadata.get(UNSTRUCTURED_DEFAULT, field.default)
            yield join_path(path, key), default if isinstance(default, str) else None
        for section in sections_of(field.type):
            yield from _short_forms(section, join_path(path, key))


def _has_name(member: Any) -> bool:
    return attrs.has(member) and "name" in fields_by_key(member)


def _option_paths(registry: Registry) -> Iterator[str]:
    for entry in registry.entries():
        for key in fields_by_key(entry.cls):
            yield join_path(KINDS[entry.kind].key, key)
