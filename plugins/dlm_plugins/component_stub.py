"""A component to start from where a kind has no template: its protocol's methods, still to be written."""

import ast
import inspect
from collections.abc import Iterator

import dlm_plugins
from dlm_plugins.kinds import Kind

_STUB = """\
\"\"\"$title.\"\"\"

import attrs
{imports}


@attrs.frozen(kw_only=True)
class $class_name:
    \"\"\"What it does, in one sentence.

    The first sentence is what `dlm plugins list` shows; say below it where the method comes from (paper, section).
    \"\"\"

{methods}
"""


def component_stub(kind: Kind) -> str:
    """The template of a component of ``kind`` that loads, and raises ``NotImplementedError`` when it is used."""
    module = ast.parse(inspect.getsource(inspect.getmodule(kind.protocol) or dlm_plugins))
    protocol = next(
        each for each in module.body if isinstance(each, ast.ClassDef) and each.name == kind.protocol.__name__
    )
    methods = [each for each in protocol.body if isinstance(each, ast.FunctionDef)]
    used = {node.id for method in methods for node in ast.walk(method) if isinstance(node, ast.Name)}
    own = [name for name in _defined(module) if name in used]
    imports = [*_imports(module, used), *([imports_from_contract(kind, *own)] if own else [])]
    shown = "\n\n".join(_indented(ast.unparse(_still_to_write(method))) for method in methods)
    return _STUB.format(imports="\n".join(imports), methods=shown.replace("$", "$$"))


def imports_from_contract(kind: Kind, *names: str) -> str:
    """Import statements for names of the contract, from where they are exported or, failing that, defined."""
    exported = sorted((name for name in names if hasattr(dlm_plugins, name)), key=_import_order)
    others = sorted((name for name in names if not hasattr(dlm_plugins, name)), key=_import_order)
    modules = (("dlm_plugins", exported), (kind.protocol.__module__, others))
    return "\n".join(f"from {module} import {', '.join(found)}" for module, found in modules if found)


def _import_order(name: str) -> tuple[bool, str]:
    return not name[0].isupper(), name


def _defined(module: ast.Module) -> Iterator[str]:
    """Classes and type aliases of a module."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            yield ast.unparse(node.target)


def _imports(module: ast.Module, used: set[str]) -> Iterator[str]:
    """The module's own imports, as far as their names are used."""
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [each for each in node.names if (each.asname or each.name.partition(".")[0]) in used]
            if node.names:
                yield ast.unparse(node)


def _still_to_write(method: ast.FunctionDef) -> ast.FunctionDef:
    """The same signature and text, without an answer."""
    text = ast.get_docstring(method)
    body = ast.parse("raise NotImplementedError").body
    method.body = [ast.Expr(ast.Constant(text.split("\n\n")[0])), *body] if text else body
    return method


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else line for line in text.splitlines())
