"""One self-contained Python file out of several modules of ours: definitions, and all that they need, in order.

What a published folder brings as its modelling code is made of the library's own source: the definitions that are asked
for, whatever these name, and so on, each as it stands. Imports of packages of ours go, those of other packages are
collected at the top. Names that stand in annotations only, which are never evaluated, are not followed.
"""

import ast
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import attrs

from dlm.errors import ModelError

Place: TypeAlias = tuple[str, str]
"""A module, and a name that is defined in it; no name: the module itself."""

_OURS = ("dlm", "dlm_plugins", "dlm_builtin_plugins")
_WIDTH = 120


@attrs.frozen(kw_only=True, eq=False)
class _Source:
    """A module of ours, and what its names mean."""

    lines: tuple[str, ...]
    body: tuple[ast.stmt, ...]
    definitions: Mapping[str, ast.stmt]
    imports: Mapping[str, Place]
    """What a name stands for, wherever in the module it is imported."""
    stars: tuple[str, ...]
    """Modules all of whose names are passed on."""


@lru_cache(maxsize=256)
def _source(module: str) -> _Source:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModelError(f"{module}: its source, of which the published file is made, is not here")
    text = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(text)
    imports = [pair for each in ast.walk(tree) for pair in _imported(each)]
    return _Source(
        lines=tuple(text.splitlines()),
        body=tuple(tree.body),
        definitions={name: each for each in tree.body for name in _defined(each)},
        imports={name: place for name, place in imports if name != "*"},
        stars=tuple(module for name, (module, _) in imports if name == "*"),
    )


def _imported(node: ast.AST) -> Iterator[tuple[str, Place]]:
    """The names that an import statement binds, and what they stand for."""
    if isinstance(node, ast.Import):
        yield from ((each.asname or each.name.partition(".")[0], (each.name, "")) for each in node.names)
    if isinstance(node, ast.ImportFrom):
        yield from ((each.asname or each.name, (str(node.module), each.name)) for each in node.names)


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        yield from (each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _OURS


@attrs.define(kw_only=True, eq=False)
class OneFile:
    """A file that grows by what is asked for."""

    instead: Mapping[Place, Place]
    """What stands in for a definition, or for a module of another package and its names."""
    _taken: dict[str, dict[str, ast.stmt]] = attrs.field(init=False, factory=dict)
    """Definitions by module; a module comes after those that it imports."""
    _foreign: dict[str, Place] = attrs.field(init=False, factory=dict)
    """What is imported from other packages."""
    _hints: set[str] = attrs.field(init=False, factory=set)
    """Names in annotations."""

    def need(self, module: str, name: str) -> None:
        """Take a definition, and all that it names.

        Raises:
            ModelError: It is not in the packages of ours, or its source is not here.
        """
        place = self._resolved(module, name)
        if not _is_ours(place[0]):
            raise ModelError(f"{module}.{name} belongs to another package, whose code is not copied")
        self._take(*place)

    def add_import(self, name: str, module: str) -> None:
        """Import a name from another package."""
        self._foreign[name] = (module, name)

    def add_module(self, name: str) -> None:
        """Import another package."""
        self._foreign[name] = (name, "")

    def text(self, heading: str, beginning: str, ending: str) -> str:
        """The file.

        Args:
            heading: Its docstring.
            beginning: Statements after the imports.
            ending: Statements after everything else.

        Raises:
            ModelError: One name means different things in two of the modules.
        """
        names = Counter(name for taken in self._taken.values() for name in taken)
        clashes = {name for name, count in names.items() if count > 1 or name in self._foreign}
        public = sorted(name for name in clashes if not name.startswith("_"))
        if public:
            raise ModelError(f"{public[0]} has two meanings in the code to be published: rename one of them")
        hints = sorted(self._hints - names.keys())
        parts = [f'"""{heading}"""', "from __future__ import annotations", _import_lines(self._foreign)]
        parts += ["\n".join(f"{hint} = Any" for hint in hints)] if hints else []
        return "\n\n\n".join([*parts, beginning, *self._definitions(clashes), ending]) + "\n"

    def _definitions(self, clashes: set[str]) -> Iterator[str]:
        """The text of everything that was taken, in the order in which Python would have run it."""
        for module, taken in self._taken.items():
            own = {name: f"{name}_of_{module.rpartition('.')[2]}" for name in clashes & taken.keys()}
            for text in _definitions(_source(module), taken):
                yield _renamed(text, own)

    def _take(self, module: str, name: str) -> None:
        self._enter(module)
        source, taken = _source(module), self._taken[module]
        if name in taken:
            return
        taken[name] = source.definitions[name]
        evaluated, annotated = _names_in(source.definitions[name])
        for used in sorted(evaluated | annotated):
            if used not in source.definitions and used not in source.imports:
                continue
            place = self._resolved(module, used)
            if not _is_ours(place[0]):
                if self._foreign.setdefault(used, place) != place:
                    raise ModelError(f"{used} has two meanings in the code to be published: rename one of them")
            elif used in evaluated:
                self._take(*place)
            else:
                self._hints.add(used)
                self._foreign["Any"] = ("typing", "Any")

    def _resolved(self, module: str, name: str) -> Place:
        """Where a name of ``module`` is defined."""
        module, name = self.instead.get((module, name), (module, name))
        if not _is_ours(module):
            stand_in = self.instead.get((module, ""))
            return (module, name) if stand_in is None else (stand_in[0], name or stand_in[1])
        source = _source(module)
        if name in source.definitions:
            return module, name
        if name in source.imports:
            return self._resolved(*source.imports[name])
        if source.stars:
            return self._resolved(source.stars[0], name)
        raise ModelError(f"{module} has no {name}, of which the published file would be made")

    def _enter(self, module: str) -> None:
        """Give a module its place, after those that it imports, as Python would run them."""
        if module in self._taken:
            return
        done: dict[str, None] = {}
        self._run(module, set(), done)
        for each in done:
            self._taken.setdefault(each, {})

    def _run(self, module: str, begun: set[str], done: dict[str, None]) -> None:
        """Note the modules in the order in which importing ``module`` would have run them to their end."""
        begun.add(module)
        imported = [place[0] for statement in _source(module).body for _, place in _imported(statement)]
        for each in imported:
            stand_in = self.instead.get((each, ""), (each, ""))[0]
            if _is_ours(stand_in) and stand_in not in begun:
                self._run(stand_in, begun, done)
        done[module] = None


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """A definition with other names for what is private to its module."""
    for old, new in names.items():
        text = re.sub(rf"(?<![\w.]){old}\b", new, text)
    return text


def _names_in(definition: ast.stmt) -> tuple[set[str], set[str]]:
    """Names that are looked up when the definition, or its code, is run, and names in annotations."""
    hints = [
        hint
        for node in ast.walk(definition)
        for hint in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if hint is not None
    ]
    in_hints = {id(node) for hint in hints for node in ast.walk(hint)}
    names = [node for node in ast.walk(definition) if isinstance(node, ast.Name)]
    evaluated = {node.id for node in names if id(node) not in in_hints}
    return evaluated, {node.id for node in names if id(node) in in_hints}


def _import_lines(foreign: Mapping[str, Place]) -> str:
    whole = sorted(
        f"import {module}" + ("" if local == module.partition(".")[0] else f" as {local}")
        for local, (module, name) in foreign.items()
        if not name
    )
    modules: dict[str, list[str]] = {}
    for local, (module, name) in sorted(foreign.items()):
        if name:
            modules.setdefault(module, []).append(name if local == name else f"{name} as {local}")
    chosen = [_import_from(module, names) for module, names in sorted(modules.items())]
    return "\n".join([*whole, *chosen])


def _import_from(module: str, names: Sequence[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _WIDTH:
        return line
    listed = "".join(f"    {name},\n" for name in names)
    return f"from {module} import (\n{listed})"


def _definitions(source: _Source, taken: Mapping[str, ast.stmt]) -> Iterator[str]:
    """The text of definitions as it stands, in their order; assignments that follow each other in one piece."""
    wanted = {id(statement) for statement in taken.values()}
    for index, statement in enumerate(source.body):
        if id(statement) not in wanted:
            continue
        first = min([statement.lineno, *(each.lineno for each in getattr(statement, "decorator_list", ()))]) - 1
        while first and source.lines[first - 1].startswith("#"):
            first -= 1
        last = int(statement.end_lineno or statement.lineno)
        follower = source.body[index + 1] if index + 1 < len(source.body) else None
        if isinstance(follower, ast.Expr) and isinstance(follower.value, ast.Constant):
            last = int(follower.end_lineno or last)  # what an assignment says about its name
        without = _lines_of_imports(statement)
        yield "\n".join(
            line for number, line in enumerate(source.lines[first:last], first + 1) if number not in without
        )


def _lines_of_imports(statement: ast.stmt) -> Iterable[int]:
    """Lines of imports of ours inside a function: in one file they are not needed."""
    return {
        number
        for node in ast.walk(statement)
        if isinstance(node, ast.ImportFrom) and _is_ours(str(node.module))
        for number in range(node.lineno, int(node.end_lineno or node.lineno) + 1)
    }
