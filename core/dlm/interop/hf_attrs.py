"""The little of the package attrs that sampling uses, on dataclasses: stands in for it in a published modelling file.

transformers can be installed without attrs, and a published model asks for nothing else.
"""

import dataclasses
import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

Validator = Callable[[Any, Any, Any], None]


class _Computed:
    """The default of a field that has none, until ``@name.default`` says how it is computed."""

    compute: Callable[[Any], Any] | None = None

    def __call__(self, compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
        self.compute = compute
        return compute


def field(
    *,
    default: Any = dataclasses.MISSING,
    init: bool = True,
    converter: Any = None,
    validator: Any = None,
    metadata: Any = None,
    **more: Any,
) -> Any:
    """``attrs.field``."""
    if "factory" in more:
        more["default_factory"] = more.pop("factory")
    elif type(default).__hash__ is None:
        # dataclasses take it for one that instances would change.
        value, default = default, dataclasses.MISSING
        more["default_factory"] = lambda: value
    elif default is dataclasses.MISSING and init:
        default = _Computed()
    validators = [each for each in (validator if isinstance(validator, list) else [validator]) if each is not None]
    own = {"converter": converter, "validators": validators}
    return dataclasses.field(default=default, init=init, metadata={**(metadata or {}), **own}, **more)


def define(cls: Any = None, **options: Any) -> Any:
    """``attrs.define``."""
    if cls is None:
        return lambda cls: define(cls, **options)
    for each in vars(cls).values():
        if isinstance(each, dataclasses.Field) and isinstance(each.default, _Computed) and not each.default.compute:
            each.default = dataclasses.MISSING
    cls.__post_init__ = _convert_and_validate
    return dataclasses.dataclass(**options)(cls)


def frozen(cls: Any = None, **options: Any) -> Any:
    """``attrs.frozen``."""
    return define(cls, frozen=True, **options)


def _convert_and_validate(instance: Any) -> None:
    """What attrs does with the values of a new instance."""
    fields = [each for each in dataclasses.fields(instance) if each.init]
    for each in fields:
        value = getattr(instance, each.name)
        # A frozen instance lets nothing else in.
        if isinstance(value, _Computed) and value.compute is not None:
            object.__setattr__(instance, each.name, value.compute(instance))
        if each.metadata.get("converter") is not None:
            object.__setattr__(instance, each.name, each.metadata["converter"](getattr(instance, each.name)))
    for each in fields:
        for validator in each.metadata.get("validators", ()):
            validator(instance, each, getattr(instance, each.name))
    if hasattr(instance, "__attrs_post_init__"):
        instance.__attrs_post_init__()


def _bound(compare: Callable[[Any, Any], bool], sign: str) -> Callable[[Any], Validator]:
    def with_limit(limit: Any) -> Validator:
        def check(instance: Any, attribute: Any, value: Any) -> None:
            if not compare(value, limit):
                raise ValueError(f"{attribute.name} must be {sign} {limit}, not {value!r}")

        return check

    return with_limit


ge, gt, le, lt = (
    _bound(compare, sign)
    for compare, sign in ((operator.ge, ">="), (operator.gt, ">"), (operator.le, "<="), (operator.lt, "<"))
)


def in_(allowed: Any) -> Validator:
    """``attrs.validators.in_``."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value not in allowed:
            raise ValueError(f"{attribute.name} must be one of {', '.join(map(str, allowed))}, not {value!r}")

    return check


def instance_of(kind: Any) -> Validator:
    """``attrs.validators.instance_of``."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if not isinstance(value, kind):
            raise ValueError(f"{attribute.name} must be {kind}, not {value!r}")

    return check


def and_(*validators: Validator) -> Validator:
    """``attrs.validators.and_``."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        for validator in validators:
            validator(instance, attribute, value)

    return check


def optional(validator: Any) -> Validator:
    """``attrs.validators.optional``."""
    chosen = and_(*validator) if isinstance(validator, list) else validator

    def check(instance: Any, attribute: Any, value: Any) -> None:
        if value is not None:
            chosen(instance, attribute, value)

    return check


def deep_iterable(member_validator: Validator) -> Validator:
    """``attrs.validators.deep_iterable``."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        for member in value:
            member_validator(instance, attribute, member)

    return check


attrs = SimpleNamespace(
    NOTHING=dataclasses.MISSING,
    define=define,
    evolve=dataclasses.replace,
    field=field,
    fields=dataclasses.fields,
    frozen=frozen,
    validators=SimpleNamespace(
        and_=and_, deep_iterable=deep_iterable, ge=ge, gt=gt, in_=in_, instance_of=instance_of, le=le, lt=lt,
        optional=optional,
    ),
)  # fmt: skip
"""Under this name definitions know the package."""
