"""``dlm plugins show``: everything about one component."""

import inspect
import json
from typing import TYPE_CHECKING

import click

from dlm_cli.tables import format_table, screen_width

if TYPE_CHECKING:
    from dlm_plugins.discovery import Entry
    from dlm_plugins.options import Option


@click.command(short_help="Show one component and its options.")
@click.argument("kind")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(kind: str, name: str, as_json: bool) -> None:
    """Show one component: what it does, its options, and YAML to paste into a run file.

    \b
    Examples:
      dlm plugins show loss soft_ce
      dlm plugins show noise_schedule acme:clipped
    """
    from dlm_plugins.kinds import KINDS
    from dlm_plugins.options import as_yaml, options_of
    from dlm_plugins.registry import Registry
    from dlm_plugins.suggestions import did_you_mean

    if kind not in KINDS:
        raise click.UsageError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    registry = Registry.discover()
    for warning in registry.warnings():
        click.echo(f"dlm: warning: {warning}", err=True)
    entry = registry.resolve(kind, name)
    options = options_of(entry.cls, registry)
    component = entry.cls()
    claims = {claim.name: claim.of(component) for claim in KINDS[kind].claims}
    if as_json:
        click.echo(json.dumps(_as_json(entry, options, claims), indent=2))
        return
    title = f"{entry.name} ({kind}) from {entry.plugin}, {entry.distribution} {entry.version}: {_path(entry)}"
    click.echo(f"{title}\n\n{inspect.cleandoc(entry.cls.__doc__ or '')}\n")
    click.echo(_option_table(options))
    if claims:
        rows = [(claim.name, as_yaml(claims[claim.name]), claim.help) for claim in KINDS[kind].claims]
        click.echo("\n" + format_table(("CLAIM", "VALUE", "MEANING"), rows, _width()))
    click.echo(f"\nYAML\n{_indented(snippet(entry, options))}\nSource\n  {_source(entry)}")


def snippet(entry: "Entry", options: "tuple[Option, ...]") -> str:
    """YAML that selects a component with all its options at their defaults, nested as in the run file."""
    import yaml

    from dlm_plugins.kinds import KINDS

    value: object = entry.selecting_name
    key = KINDS[entry.kind].key
    if options or "." not in key:  # a section of its own, such as `optim`, is always a mapping
        value = {"name": entry.selecting_name, **{option.name: option.default for option in options}}
    if KINDS[entry.kind].several:
        value = [value]
    for part in reversed(key.split(".")):
        value = {part: value}
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None if options else False, width=100)


def _option_table(options: "tuple[Option, ...]") -> str:
    if not options:
        return "No options."
    from dlm_plugins.options import as_yaml

    rows = [(each.name, each.type, as_yaml(each.default), each.check, each.help) for each in options]
    return format_table(("OPTION", "TYPE", "DEFAULT", "CHECK", "HELP"), rows, _width())


def _width() -> int:
    return screen_width() or 80  # help texts are prose: a fixed width keeps them readable in a file as well


def _indented(text: str) -> str:
    return "".join(f"  {line}" for line in text.splitlines(keepends=True))


def _path(entry: "Entry") -> str:
    return f"{entry.cls.__module__}.{entry.cls.__qualname__}"


def _source(entry: "Entry") -> str:
    try:
        return f"{inspect.getsourcefile(entry.cls)}:{inspect.getsourcelines(entry.cls)[1]}"
    except (OSError, TypeError):
        return "not available"


def _as_json(entry: "Entry", options: "tuple[Option, ...]", claims: dict[str, object]) -> dict[str, object]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "qualified_name": entry.qualified_name,
        "shadowed": entry.shadowed,
        "plugin": entry.plugin,
        "distribution": entry.distribution,
        "version": entry.version,
        "class": _path(entry),
        "summary": entry.summary,
        "docstring": inspect.cleandoc(entry.cls.__doc__ or ""),
        "options": [
            {"name": each.name, "type": each.type, "default": each.default, "check": each.check, "help": each.help}
            for each in options
        ],
        "claims": claims,
        "yaml": snippet(entry, options),
        "source": _source(entry),
    }
