"""The contract of each kind in words, read from the source of its module, where every text is written once.

The text of a class, a method or a property is its docstring; that of a field or a type alias the string below it.
"""

import ast
import inspect
from collections.abc import Iterator, Sequence
from types import ModuleType

import attrs

from dlm_plugins import draws, run_components
from dlm_plugins.kinds import Kind


@attrs.frozen
class Member:
    """A field or a method."""

    name: str
    code: str
    """The type of a field, with its default; how a method is called."""
    text: str


@attrs.frozen(kw_only=True)
class Described:
    """A class of a contract, or a type alias."""

    name: str
    text: str
    definition: str = ""
    """What a type alias stands for."""
    fields: tuple[Member, ...] = ()
    methods: tuple[Member, ...] = ()


def contract_of(kind: Kind) -> tuple[Described, ...]:
    """The protocol of ``kind``, then whatever else its module hands over or takes."""
    described = _described(inspect.getmodule(kind.protocol))
    return (described.pop(kind.protocol.__name__), *described.values())


def common_contract() -> tuple[Described, ...]:
    """What components of several kinds are given, or may have."""
    return (_described(draws)["Draws"], *reversed(_described(run_components).values()))


def _described(module: ModuleType | None) -> dict[str, Described]:
    """Public classes and type aliases by name, in the order of the source."""
    if module is None:
        raise AssertionError("a protocol without a module")
    body = ast.parse(inspect.getsource(module)).body
    found = [_class(node) for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    aliases = [
        Described(name=target, definition=ast.unparse(node.value), text=text)
        for node, target, text in _annotated(body)
        if ast.unparse(node.annotation) == "TypeAlias" and node.value is not None
    ]
    return {each.name: each for each in (*aliases, *found)}


def _class(node: ast.ClassDef) -> Described:
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef) and _is_public(each.name)]
    properties = [each for each in functions if "property" in map(ast.unparse, each.decorator_list)]
    return Described(
        name=node.name,
        text=ast.get_docstring(node) or "",
        fields=(
            *(Member(each.name, _returned(each), ast.get_docstring(each) or "") for each in properties),
            *(Member(name, _type(field), text) for field, name, text in _annotated(node.body) if _is_public(name)),
        ),
        methods=tuple(
            Member(each.name, _call(each), ast.get_docstring(each) or "")
            for each in functions
            if each not in properties
        ),
    )


def _annotated(body: Sequence[ast.stmt]) -> Iterator[tuple[ast.AnnAssign, str, str]]:
    """Annotated names, each with the string below it; an empty one where there is none."""
    for node, below in zip(body, (*body[1:], ast.Pass()), strict=True):
        if isinstance(node, ast.AnnAssign):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield node, ast.unparse(node.target), inspect.cleandoc(text)
                case _:
                    yield node, ast.unparse(node.target), ""


def _is_public(name: str) -> bool:
    return name == "__call__" or not name.startswith("_")


def _type(node: ast.AnnAssign) -> str:
    default = f" = {ast.unparse(node.value)}" if node.value else ""
    return f"{ast.unparse(node.annotation)}{default}"


def _call(node: ast.FunctionDef) -> str:
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix(", ").replace("=", " = ")
    return f"{node.name}({arguments}) -> {_returned(node)}"


def _returned(node: ast.FunctionDef) -> str:
    return ast.unparse(node.returns) if node.returns else ""
