"""``dlm plugins list``: every component that can be chosen by name."""

import json
from importlib import metadata
from typing import TYPE_CHECKING

import click

from dlm_cli.tables import format_table, screen_width
from dlm_plugins.suggestions import did_you_mean

if TYPE_CHECKING:
    from dlm_plugins.discovery import Entry, PluginRecord
    from dlm_plugins.registry import Registry


@click.command("list", short_help="List what can be chosen by name.")
@click.option("--kind", metavar="KIND", help="Only components of one kind, e.g. loss.")
@click.option("--plugin", metavar="NAME", help="Only what one plugin provides.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-load", is_flag=True, help="Read metadata only: name the plugins without importing them.")
def list_components(kind: str | None, plugin: str | None, as_json: bool, no_load: bool) -> None:
    """List the components that can be chosen by name, with the plugin each comes from.

    \b
    Examples:
      dlm plugins list
      dlm plugins list --kind loss
      dlm plugins list --no-load
    """
    if no_load:
        if kind is not None:
            raise click.UsageError("--kind needs the plugins loaded: leave out --no-load")
        _list_metadata(plugin, as_json)
    else:
        _list_loaded(kind, plugin, as_json)


def _list_metadata(plugin: str | None, as_json: bool) -> None:
    # The group's name is written out: importing the contract package for it would import torch.
    found = sorted(metadata.entry_points(group="dlm.plugins"), key=lambda each: (each.name != "builtin", each.name))
    if plugin is not None:
        _require_known(plugin, [each.name for each in found])
        found = [each for each in found if each.name == plugin]
    rows = [
        {
            "plugin": each.name,
            "distribution": each.dist.name if each.dist else "unknown",
            "version": each.dist.version if each.dist else "unknown",
            "entry_point": each.value,
        }
        for each in found
    ]
    if as_json:
        click.echo(json.dumps({"plugins": rows}, indent=2))
    else:
        header = ("PLUGIN", "DISTRIBUTION", "ENTRY POINT")
        cells = [(row["plugin"], f"{row['distribution']} {row['version']}", row["entry_point"]) for row in rows]
        click.echo(format_table(header, cells, screen_width()))


def _list_loaded(kind: str | None, plugin: str | None, as_json: bool) -> None:
    from dlm_plugins.kinds import KINDS
    from dlm_plugins.registry import Registry

    if kind is not None and kind not in KINDS:
        raise click.UsageError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    registry = Registry.discover()
    if plugin is not None:
        _require_known(plugin, [record.name for record in registry.plugins])
    entries = [each for each in registry.entries(kind) if plugin in (None, each.plugin)]
    records = [each for each in registry.plugins if plugin in (None, each.name)]
    if as_json:
        document = {
            "components": [_component_as_json(each) for each in entries],
            "plugins": [_plugin_as_json(each) for each in records],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        _print_tables(entries, records)
        _print_notes(registry)


def _print_tables(entries: list["Entry"], records: list["PluginRecord"]) -> None:
    rows = [
        (
            each.kind,
            each.selecting_name,
            each.plugin,
            f"{each.distribution} {each.version}",
            f"(shadowed by builtin) {each.summary}" if each.shadowed else each.summary,
        )
        for each in entries
    ]
    if rows:
        click.echo(format_table(("KIND", "NAME", "PLUGIN", "DISTRIBUTION", "SUMMARY"), rows, screen_width()))
    else:
        click.echo("No components.")
    missing = [each for each in records if each.status != "ok"]
    if missing:
        click.echo(f"\n{len(missing)} plugin{'s are' if len(missing) > 1 else ' is'} not available:")
        left_out = [(each.name, f"{each.distribution} {each.version}", each.status, each.error) for each in missing]
        click.echo(format_table(("", "", "", ""), left_out, screen_width(), indent="  "))
        if any(each.failed for each in missing):
            click.echo("Run `dlm plugins check` for details.")


def _print_notes(registry: "Registry") -> None:
    for record in registry.plugins:
        for note in record.notes:
            click.echo(f"dlm: warning: plugin {record}: {note}", err=True)


def _require_known(plugin: str, installed: list[str]) -> None:
    if plugin not in installed:
        hint = did_you_mean(plugin, installed)
        raise click.UsageError(f"no plugin {plugin!r} is installed; the plugins are {', '.join(installed)}{hint}")


def _component_as_json(entry: "Entry") -> dict[str, object]:
    return {
        "kind": entry.kind,
        "name": entry.name,
        "qualified_name": entry.qualified_name,
        "shadowed": entry.shadowed,
        "plugin": entry.plugin,
        "distribution": entry.distribution,
        "version": entry.version,
        "module": entry.cls.__module__,
        "class": entry.cls.__qualname__,
        "summary": entry.summary,
    }


def _plugin_as_json(record: "PluginRecord") -> dict[str, object]:
    return {
        "plugin": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "status": record.status,
        "phase": record.phase,
        "error": record.error,
        "notes": list(record.notes),
        "seconds": round(record.seconds, 4),
    }
