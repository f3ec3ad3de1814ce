"""Write ``docs/reference.md``, contracts and components in Markdown: ``python -m dlm_plugins.reference_page``."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from dlm_plugins.contract_texts import Described, common_contract, contract_of
from dlm_plugins.discovery import Entry
from dlm_plugins.kinds import KINDS, Kind
from dlm_plugins.options import as_yaml, options_of
from dlm_plugins.plugin_settings import ALL
from dlm_plugins.registry import Registry
from dlm_plugins.testing import PROPERTIES, component_properties
from dlm_plugins.testing.property_tools import property_name

_HEAD = """\
# Reference of contracts and built-in components

Written by `python -m dlm_plugins.reference_page > docs/reference.md`; a test keeps it equal to the code. For every
kind it says what is asked of a component (methods, claims, properties), lists all fields of what it is handed and
returns, and then the built-in components with their options. How to add one is in [plugins.md](plugins.md).
`dlm plugins show KIND NAME` prints a component's part for everything that is installed.

All classes named here are imported from `dlm_plugins`; `Tensor`, `nn` and `Optimizer` are PyTorch's. In shapes, B
stands for rows, L for positions, V for the vocabulary, N for scored positions, K for the positions of the active block.
"""

_COMMON = """\
## Every kind

Components of every kind have these properties, which `dlm_plugins.testing` and `dlm plugins check` try with the default
options and with others; those of each kind follow below.
"""

_SHARED = """\
### Contract of every kind

Whatever is random comes from `Draws`. A component may refuse to work with others, which it sees as `RunComponents`.
"""


def reference(registry: Registry) -> str:
    """A page with every component of ``registry`` and its options."""
    times = Counter(entry.name for entry in registry.entries())
    sections = [_section(kind, registry, times) for kind in KINDS.values()]
    common = map(_property, component_properties.PROPERTIES)
    shared = [line for each in common_contract() for line in _described(each)]
    return "\n".join([_HEAD, *_overview(registry), "", _COMMON, *common, "", _SHARED, *shared, *sections])


def _overview(registry: Registry) -> Iterator[str]:
    rows = (
        (
            f"[`{kind.name}`](#{kind.name})",
            f"`{kind.key}`",
            ", ".join(f"`{each.name}`" for each in registry.entries(kind.name)),
        )
        for kind in KINDS.values()
    )
    return _table(("Kind", "Key in the run file", "Components"), rows)


def _section(kind: Kind, registry: Registry, times: Mapping[str, int]) -> str:
    lines = [f"## {kind.name}", "", f"Decides {kind.decides}. Key `{kind.key}`, hook `{kind.hook}`.", ""]
    lines += [f"### Contract of {kind.name}", "", f"A component keeps the protocol `{kind.protocol.__name__}`.", ""]
    for described in contract_of(kind):
        lines += _described(described)
    if kind.claims:
        claims = ((f"`{claim.name}`", as_yaml(claim.default), claim.help) for claim in kind.claims)
        lines += ["Claims, attributes or properties that a component may have:", ""]
        lines += [*_table(("Claim", "Silence means", "Meaning"), claims), ""]
    own = [check for check in PROPERTIES[kind.name] if check not in component_properties.PROPERTIES]
    lines += ["Properties that the contract kit tries:", "", *map(_property, own), ""]
    for entry in registry.entries(kind.name):
        # A link finds one heading of a name.
        heading = entry.name if times[entry.name] == 1 else f"{entry.name} ({kind.name})"
        lines += _component(kind, entry, heading, registry)
    return "\n".join(lines)


def _described(each: Described) -> Iterator[str]:
    yield from (f"#### {'type' if each.definition else 'class'} {each.name}", "")
    if each.definition:
        yield from (f"`{each.definition}`", "")
    yield from (_markdown(each.text), "")
    if each.methods:
        yield from (*(f"- `{method.code}`: {_paragraph(method.text)}" for method in each.methods), "")
    if each.fields:
        rows = ((f"`{field.name}`", f"`{field.code}`", _paragraph(field.text)) for field in each.fields)
        yield from (*_table(("Field", "Type", "Meaning"), rows), "")


def _property(check: Callable[..., None]) -> str:
    statement = inspect.cleandoc(check.__doc__ or "").split("\n\n")[0]
    return f"- `{property_name(check)}`: {_paragraph(statement)}"


def _component(kind: Kind, entry: Entry, heading: str, registry: Registry) -> Iterator[str]:
    yield from (f"### {heading}", "", _markdown(inspect.cleandoc(entry.cls.__doc__ or "")), "")
    built = entry.cls()
    claims = [
        f"`{claim.name}: {as_yaml(claim.of(built))}`" for claim in kind.claims if claim.of(built) != claim.default
    ]
    if claims:
        yield from (f"Claims {', '.join(claims)}.", "")
    options = options_of(entry.cls, registry)
    if options:
        rows = ((f"`{each.name}`", each.type, as_yaml(each.default), each.check, each.help) for each in options)
        yield from (*_table(("Option", "Type", "Default", "Check", "Help"), rows), "")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(_cell(text) for text in row)} |"


def _cell(text: str) -> str:
    return _markdown(text).replace("|", "\\|")


def _paragraph(text: str) -> str:
    return _markdown(" ".join(text.split()))


def _markdown(text: str) -> str:
    return text.replace("``", "`")


if __name__ == "__main__":
    print(reference(Registry.discover(disable=[ALL])).rstrip())
