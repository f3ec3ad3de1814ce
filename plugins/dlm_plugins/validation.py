"""Whether a class keeps the contract of its kind, as far as that can be told without running it on data."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_origin

import attrs

from dlm_plugins.attention_bias import ChangingAttentionBias, LayeredAttentionBias
from dlm_plugins.kinds import Kind
from dlm_plugins.run_components import ChecksRun

_OPTIONAL_PROTOCOLS: tuple[type, ...] = (ChecksRun, LayeredAttentionBias, ChangingAttentionBias)
"""Their methods are checked where a component has them."""


def component_problems(kind: Kind, cls: object) -> list[str]:
    """Everything that keeps ``cls`` from being a component of ``kind``, one sentence each; empty when nothing does."""
    if not isinstance(cls, type):
        return [f"is {cls!r}, not a class: give the class itself, the framework builds it from its options"]
    if not attrs.has(cls):
        return [f"{cls.__qualname__} is not an attrs class; decorate it with @attrs.frozen(kw_only=True)"]
    problems = [*_docstring_problems(cls), *_option_problems(kind, cls), *_method_problems(kind, cls)]
    return problems or [*_instance_problems(kind, cls)]


def _docstring_problems(cls: type) -> Iterator[str]:
    if not (cls.__doc__ or "").strip():
        yield f"{cls.__qualname__} has no docstring; its first sentence is what `dlm plugins list` shows"


def _option_problems(kind: Kind, cls: type[attrs.AttrsInstance]) -> Iterator[str]:
    try:
        attrs.resolve_types(cls)
    except Exception as error:
        yield f"the types of its options cannot be resolved: {error}"
    for field in attrs.fields(cls):
        if not field.init:
            continue
        if field.name == "name" or field.name in kind.reserved:
            yield f"option {field.name!r} is reserved: the run file uses this key itself; call it something else"
        if field.name.startswith("_"):
            yield f"option {field.name!r} starts with an underscore, so no run file can name it well"
        if field.type is None:
            yield f"option {field.name!r} has no type; annotate it"
        if field.default is attrs.NOTHING:
            yield f"option {field.name!r} has no default; every option needs one"
        if not field.kw_only:
            yield f"option {field.name!r} is not keyword-only; decorate the class with @attrs.frozen(kw_only=True)"


def _method_problems(kind: Kind, cls: type) -> Iterator[str]:
    for name, member in _members(kind.protocol):
        own = _implementation(cls, name)
        if own is None:
            what = "attribute or option" if isinstance(member, property) else "method"
            yield f"{cls.__qualname__} has no {what} {name!r}, which the contract of {kind.name} asks for"
        elif not isinstance(member, property):
            yield from _signature_problems(cls, name, own, member)
    for protocol in _OPTIONAL_PROTOCOLS:
        if protocol is ChecksRun or kind.protocol in protocol.__mro__:
            for name, member in vars(protocol).items():
                own = _implementation(cls, name)
                if inspect.isfunction(member) and not name.startswith("_") and own is not None:
                    yield from _signature_problems(cls, name, own, member)


def _members(protocol: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties that a protocol asks for."""
    for base in reversed(protocol.__mro__):
        for name, member in vars(base).items():
            is_public = name == "__call__" or not name.startswith("_")
            if is_public and (inspect.isfunction(member) or isinstance(member, property)):
                yield name, member


def _implementation(cls: type, name: str) -> object | None:
    """What ``cls`` has under ``name``; a stub inherited from a protocol is not an implementation."""
    for base in cls.__mro__:
        if name in vars(base):
            return None if getattr(base, "_is_protocol", False) else vars(base)[name]
    return None


def _signature_problems(cls: type, name: str, own: object, contract: Callable[..., Any]) -> Iterator[str]:
    expected = list(inspect.signature(contract).parameters)[1:]
    is_static = isinstance(own, staticmethod)
    function = own.__func__ if isinstance(own, staticmethod | classmethod) else own
    if not callable(function):
        yield f"{cls.__qualname__}.{name} is {own!r}, not a method"
        return
    try:
        parameters = list(inspect.signature(function).parameters.values())[0 if is_static else 1 :]
    except (TypeError, ValueError):
        return  # a method written in C: its parameters have no names to compare
    passed, others = parameters[: len(expected)], parameters[len(expected) :]
    fits = [each.name for each in passed if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD] == expected
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if not fits or any(each.default is each.empty and each.kind not in variadic for each in others):
        takes = ", ".join(str(each.replace(annotation=each.empty)) for each in parameters)
        yield f"{cls.__qualname__}.{name} takes ({takes}), the contract passes ({', '.join(expected)})"


def _instance_problems(kind: Kind, cls: type) -> Iterator[str]:
    try:
        component = cls()
    except Exception as error:
        yield f"{cls.__qualname__} cannot be built with its defaults: {type(error).__name__}: {error}"
        return
    try:
        component.name = None  # never an option, see above: frozen classes refuse, and nothing else can be hit
    except attrs.exceptions.FrozenInstanceError:
        pass
    except AttributeError:
        yield f"{cls.__qualname__} is not frozen; decorate it with @attrs.frozen(kw_only=True)"
    else:
        yield f"{cls.__qualname__} is not frozen; decorate it with @attrs.frozen(kw_only=True)"
    for claim in kind.claims:
        if _returns(_implementation(cls, claim.name), type(claim.default)):
            continue  # asked when it matters; the contract tests ask too
        value = claim.of(component)
        # bool is a kind of int for isinstance, but `num_views = True` is a slip
        if type(value) is not type(claim.default):
            yield f"{cls.__qualname__}.{claim.name} is {value!r}; the claim is of type {type(claim.default).__name__}"


def _returns(member: object, wanted: type) -> bool:
    """Whether it is a property that says so of itself."""
    if not isinstance(member, property):
        return False
    hint = inspect.signature(member.fget, eval_str=True).return_annotation if member.fget else None
    return (get_origin(hint) or hint) is wanted
