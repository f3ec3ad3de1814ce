"""YAML with the scalars of YAML 1.2 (core schema), within limits, and with the line of every key."""

import re
from collections.abc import Callable
from typing import Any

import attrs
import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from dlm_plugins.problems import join_path, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 20_000

_TAG = "tag:yaml.org,2002:"
SCALAR_PATTERNS: dict[str, tuple[re.Pattern[str], str]] = {
    "null": (re.compile(r"~|null|Null|NULL|"), "~nN\0"),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    "int": (re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"), "-+0123456789"),
    "float": (
        re.compile(
            r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
        ),
        "-+.0123456789",
    ),
}
"""What each type of scalar looks like, and the characters it can begin with; in the order in which they are tried."""


class YamlError(ValueError):
    """Text that is not YAML, or not the YAML that a run file may be; ``line`` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@attrs.frozen
class Fault:
    """One thing wrong with a document that otherwise can be read."""

    line: int
    path: str
    message: str


@attrs.frozen(kw_only=True)
class Document:
    """A parsed document."""

    value: Any
    lines: dict[str, int] = attrs.field(factory=dict)
    """Line of every key and list item, by path; of the document itself under the empty path."""
    faults: list[Fault] = attrs.field(factory=list)
    rest: str = ""
    """What stands behind a value that ends before the text does: a comment."""


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and parser with other scalars, and with limits that hold before anything is built."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML reads it so

    depth: int = 0
    num_nodes: int = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self.depth += 1
        self.num_nodes += 1
        line = self.line + 1
        if self.depth > MAX_DEPTH:
            raise YamlError(line, f"nested more than {MAX_DEPTH} levels deep")
        if self.num_nodes > MAX_NODES:
            raise YamlError(line, f"more than {MAX_NODES} values")
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def add_scalar_resolvers(target: Any) -> None:
    """Teach a loader or dumper of PyYAML the scalars of YAML 1.2; what it knew before is tried afterwards."""
    for kind, (pattern, first) in SCALAR_PATTERNS.items():
        whole = re.compile(rf"(?:{pattern.pattern})\Z")
        target.add_implicit_resolver(_TAG + kind, whole, ["" if char == "\0" else char for char in first])


add_scalar_resolvers(_Loader)


def parse_yaml(text: str) -> Document:
    """Parse one YAML document.

    Raises:
        YamlError: not YAML, more than one document, too deep, too large.
    """
    loader: Any = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except YamlError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, _explained(error)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, f"the character #x{ord(text[error.position]):04x} is not allowed here") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise YamlError(1, f"not readable as YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()
    rest = text[0 if node is None else node.end_mark.index :].strip()
    return attrs.evolve(_Builder().document(node), rest=rest)


def _explained(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "not YAML"
    if "'\\t'" in problem:
        return "a tab cannot be used for indentation; use spaces"
    where = f" ({error.context})" if error.context and error.context != problem else ""
    return f"not valid YAML: {problem}{where}; check indentation, colons and quotes"


class _Builder:
    """Turns nodes into values, noting the line of each."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self.faults: list[Fault] = []
        self.open: list[int] = []
        self.num_values = 0

    def document(self, node: Node | None) -> Document:
        self.lines[""] = 1 if node is None else node.start_mark.line + 1
        value = None if node is None else self.value(node, "")
        return Document(value=value, lines=self.lines, faults=self.faults)

    def value(self, node: Node, path: str) -> Any:
        # Aliases are fine as long as they do not multiply: every use counts.
        self.num_values += 1
        line = node.start_mark.line + 1
        if self.num_values > MAX_NODES:
            raise YamlError(line, f"more than {MAX_NODES} values, aliases included")
        if id(node) in self.open:
            raise YamlError(line, f"{path}: an alias to something that contains it")
        self.open.append(id(node))
        try:
            if isinstance(node, MappingNode) and node.tag == _TAG + "map":
                return self.mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
                return [self.item(item, join_path(path, index)) for index, item in enumerate(node.value)]
            return self.scalar(node, path)
        finally:
            self.open.pop()

    def mapping(self, node: MappingNode, path: str) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self.scalar(key_node, path) if isinstance(key_node, ScalarNode) else None
            if not isinstance(key, str):
                what = shown(key) if isinstance(key_node, ScalarNode) else "a list or a mapping"
                self.faults.append(Fault(line, path, f"a key must be text, not {what}"))
                continue
            place = join_path(path, key)
            if key in result:
                self.faults.append(Fault(line, place, f"given twice, first in line {self.lines[place]}; keep one"))
                continue
            result[key] = self.item(value_node, place, line)
        return result

    def item(self, node: Node, path: str, line: int | None = None) -> Any:
        self.lines[path] = line if line is not None else node.start_mark.line + 1
        return self.value(node, path)

    def scalar(self, node: Node, path: str) -> Any:
        line = node.start_mark.line + 1
        if not isinstance(node, ScalarNode) or node.tag.removeprefix(_TAG) not in _CONVERSIONS:
            self.faults.append(Fault(line, path, f"the tag {shown(node.tag)} is not allowed in a run file"))
            return None
        try:
            return _CONVERSIONS[node.tag.removeprefix(_TAG)](node.value)
        except (ValueError, KeyError):
            self.faults.append(
                Fault(line, path, f"{shown(node.value)} cannot be read as {node.tag.removeprefix(_TAG)}")
            )
            return None


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _real(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(text: str) -> str:
    """Text whose escapes are put together: two halves of a character, as JSON writes them, are one; one is none."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16")


_CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _integer,
    "float": _real,
    "str": _text,
}
