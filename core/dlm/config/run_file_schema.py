"""JSON Schema of the run file for editors: types, bounds (minimum, maxLength), defaults; from the classes that read."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import attrs

from dlm.config.run_config import RunConfig
from dlm_plugins import KINDS
from dlm_plugins.discovery import Entry
from dlm_plugins.field_metadata import UNSTRUCTURED_DEFAULT
from dlm_plugins.registry import Registry
from dlm_plugins.strict_types import (
    component_beside,
    fields_by_key,
    is_mapping,
    is_required,
    is_sequence,
    is_union,
)
from dlm_plugins.structuring import unstructure

Schema = dict[str, Any]

_SCALARS: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    type(None): {"type": "null"},
}
_COMPARISONS = {"<": "exclusiveMaximum", "<=": "maximum", ">": "exclusiveMinimum", ">=": "minimum"}


def json_schema(registry: Registry) -> Schema:
    """The schema (draft 2020-12) of a run file, given the plugins that are installed."""
    builder = _SchemaBuilder(registry)
    schema = builder.object(RunConfig)
    definitions = {kind: builder.component(kind) for kind in sorted(builder.nested)}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dlm run file"}
    return {**head, **schema, **({"$defs": definitions} if definitions else {})}


@attrs.frozen
class _SchemaBuilder:
    registry: Registry
    nested: set[str] = attrs.field(factory=set, init=False)
    """Kinds whose components may hold others of the same kind: these refer to a definition, which has no end."""
    _open: list[str] = attrs.field(factory=list, init=False)

    def object(self, cls: Any, extra: Mapping[str, Schema] | None = None, required: tuple[str, ...] = ()) -> Schema:
        """An attrs class, with ``extra`` properties in front."""
        fields = fields_by_key(cls)
        needed = [*required, *(key for key, field in fields.items() if _is_needed(field))]
        return {
            "type": "object",
            "properties": {**(extra or {}), **{key: self.field(field) for key, field in fields.items()}},
            "additionalProperties": False,
            **({"required": needed} if needed else {}),
        }

    def field(self, field: "attrs.Attribute[Any]") -> Schema:
        """One key: type, range, default, description."""
        schema = {**self.type(field.type), **_checks_of(field.validator)}
        if "help" in field.metadata:
            schema["description"] = field.metadata["help"]
        default = field.metadata.get(UNSTRUCTURED_DEFAULT, field.default)
        if not _is_needed(field) and not hasattr(default, "takes_self"):
            schema["default"] = unstructure(self.registry, default)
        return schema

    def type(self, expected: Any) -> Schema:
        """The values of one type."""
        kind = next((kind.name for kind in KINDS.values() if kind.protocol is expected), None)
        if kind is not None:
            return self.component(kind)
        beside = component_beside(expected) if attrs.has(expected) else None
        if beside is not None:
            return self.flat(expected, beside)
        if is_union(expected):
            return _any_of([self.type(member) for member in get_args(expected)])
        if get_origin(expected) is Literal:
            return {"enum": list(get_args(expected))}
        if isinstance(expected, type) and issubclass(expected, Enum):
            return {"enum": [member.value for member in expected]}
        if is_sequence(expected):
            return self.sequence(expected)
        if is_mapping(expected):
            return {"type": "object"}
        return self.object(expected) if attrs.has(expected) else dict(_SCALARS.get(expected, {}))

    def flat(self, cls: Any, beside: "attrs.Attribute[Any]") -> Schema:
        """A class one of whose components is written flat, beside its other keys."""
        others = {key: self.field(field) for key, field in fields_by_key(cls).items() if key != beside.name}
        kind = next(kind.name for kind in KINDS.values() if kind.protocol is beside.type)
        return self.component(kind, others, names_required=is_required(beside))

    def sequence(self, expected: Any) -> Schema:
        """Lists of one type, or of a fixed number of types."""
        arguments = get_args(expected)
        if get_origin(expected) is tuple and arguments[-1] is not Ellipsis:
            items = [self.type(argument) for argument in arguments]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        return {"type": "array", **({"items": self.type(arguments[0])} if arguments else {})}

    def component(self, kind: str, core: Mapping[str, Schema] | None = None, names_required: bool = True) -> Schema:
        """A name, or a mapping with a name and the options of that component; ``core`` keys stand beside them."""
        if kind in self._open:
            self.nested.add(kind)
            return {"$ref": f"#/$defs/{kind}"}
        self._open.append(kind)
        entries = [(entry, self._names(entry)) for entry in self.registry.entries(kind)]
        short = [
            name
            for entry, names in entries
            for name in names
            if not any(map(is_required, fields_by_key(entry.cls).values()))
        ]
        required = ("name",) if names_required else ()
        long = [
            {
                **self.object(entry.cls, {"name": {"enum": names}, **(core or {})}, required),
                "description": entry.summary,
            }
            for entry, names in entries
        ]
        self._open.pop()
        return {"anyOf": [{"enum": short}, *long]}

    def _names(self, entry: Entry) -> list[str]:
        bare = [other for other in self.registry.entries(entry.kind) if other.name == entry.name and not other.shadowed]
        return [entry.name, entry.qualified_name] if bare == [entry] else [entry.qualified_name]


def _is_needed(field: "attrs.Attribute[Any]") -> bool:
    """Required itself, or a section that cannot be left out because something in it is required."""
    is_section = field.default is attrs.NOTHING and field.type is not None and attrs.has(field.type)
    inside = fields_by_key(field.type).values() if is_section else ()
    return is_required(field) or any(map(_is_needed, inside))


def _any_of(members: list[Schema]) -> Schema:
    if all(set(member) == {"type"} for member in members):
        return {"type": [member["type"] for member in members]}
    if all(set(member) <= {"enum"} or member == {"type": "null"} for member in members):
        return {"enum": [value for member in members for value in member.get("enum", [None])]}
    return {"anyOf": members}


def _checks_of(validator: Any) -> dict[str, Any]:
    """Keywords that hold a value to ``validator``, as far as JSON Schema can express it.

    Every keyword returned here applies to one type only (numbers, strings, arrays), so that the keywords of an optional
    value let null pass.
    """
    parts = getattr(validator, "_validators", None)  # and_; attrs has no public way to look inside
    if parts is not None:
        return {keyword: bound for part in parts for keyword, bound in _checks_of(part).items()}
    if hasattr(validator, "compare_op"):  # gt, ge, lt, le
        return {_COMPARISONS[validator.compare_op]: validator.bound}
    if hasattr(validator, "min_length"):
        return {"minLength": validator.min_length, "minItems": validator.min_length}
    if hasattr(validator, "max_length"):
        return {"maxLength": validator.max_length, "maxItems": validator.max_length}
    if type(validator).__name__ == "_OptionalValidator":  # not_ has a `validator` too, with the opposite meaning
        return _checks_of(validator.validator)
    return {}
