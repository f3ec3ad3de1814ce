"""``configs/reference.yaml`` has every key, each with its help, its choices and its default."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs
import jsonschema
import pytest

from dlm.config import LoraConfig, OptimConfig, RunConfig, TokenizerConfig, json_schema, load_config
from dlm.config.eval_options import EvalOptions
from dlm.config.yaml12 import parse_yaml
from dlm_plugins import KINDS
from dlm_plugins.field_metadata import UNSTRUCTURED_DEFAULT
from dlm_plugins.registry import Registry
from dlm_plugins.strict_types import fields_by_key
from dlm_plugins.structuring import unstructure

REFERENCE = Path(__file__).parents[3] / "configs" / "reference.yaml"
TEXT = REFERENCE.read_text(encoding="utf-8")
DOCUMENT = parse_yaml(TEXT)
INSIDE: dict[str, type] = {
    "lora": LoraConfig,
    "model.tokenizer": TokenizerConfig,
    "evaluation.at_end": EvalOptions,
}
IN_COMMENTS = ("lora.", "evaluation.at_end.")
"""Below keys whose default is none."""


def fields_below(cls: type, path: str = "") -> Iterator[tuple[str, "attrs.Attribute[Any]"]]:
    for key, field in fields_by_key(cls).items():
        place = f"{path}{key}"
        if key != "optimizer":
            yield place, field
        inside = INSIDE.get(place, field.type)
        if inside is not None and attrs.has(inside):
            yield from fields_below(inside, f"{place}.")


FIELDS = dict(fields_below(RunConfig))


def comment_above(line: int) -> str:
    lines = TEXT.splitlines()
    words: list[str] = []
    for above in reversed(lines[: line - 1]):
        text = above.strip().removeprefix("# ").strip() if above.startswith("# ") else above.strip()
        if not text.startswith("#") and not above.strip().startswith("#"):
            break
        words.insert(0, text.removeprefix("#").strip())
    return " ".join(words)


def line_of(path: str) -> int:
    if path.startswith(IN_COMMENTS):
        section, _, key = path.rpartition(".")
        lines = TEXT.splitlines()
        start = next(i for i, line in enumerate(lines) if line.strip() == f"# {section.split('.')[-1]}:")
        return next(i for i, line in enumerate(lines[start:], start + 1) if line.strip().startswith(f"#   {key}:"))
    return DOCUMENT.lines[path]


def choices(field: "attrs.Attribute[Any]", registry: Registry) -> list[str]:
    kinds = [kind.name for kind in KINDS.values() if kind.protocol is field.type]
    kinds += ["optimizer"] * (field.type is OptimConfig)
    literals = [t for t in (field.type, *get_args(field.type)) if get_origin(t) is Literal]
    named = [entry.name for kind in kinds for entry in registry.entries(kind) if entry.plugin == "builtin"]
    # YAML writes true and false.
    return named + [
        str(value) if isinstance(value, str) else str(value).lower()
        for literal in literals
        for value in get_args(literal)
    ]


def test_it_is_a_valid_run_file_without_remarks(registry: Registry) -> None:
    assert load_config(REFERENCE).notes == ()
    jsonschema.validate(DOCUMENT.value, json_schema(registry))


@pytest.mark.parametrize("path", FIELDS)
def test_every_key_is_there_with_its_help_its_choices_and_its_default(path: str, registry: Registry) -> None:
    field = FIELDS[path]
    comment = comment_above(line_of(path))
    assert field.metadata["help"] in comment
    for choice in choices(field, registry):
        assert choice in comment
    default = field.metadata.get(UNSTRUCTURED_DEFAULT, field.default)
    if path.startswith(IN_COMMENTS) or default is attrs.NOTHING or isinstance(default, dict):
        return
    value = DOCUMENT.value
    for key in path.split("."):
        value = value[key]
    assert value == unstructure(registry, default) or "Default: " in comment


def test_it_has_no_key_twice_and_none_that_does_not_exist() -> None:
    known = set(FIELDS)
    written = {path for path in DOCUMENT.lines if path and "[" not in path}
    of_components = {path for path in written if path.startswith(("model.config.", "optim."))}
    assert written - of_components <= known
