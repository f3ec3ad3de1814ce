"""``dlm plugins check``: load, validate and try every component of every plugin."""

import json
import sys
import time
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import click

from dlm_cli.tables import format_table, screen_width

if TYPE_CHECKING:
    from dlm_plugins.discovery import Entry, PluginRecord


@attrs.frozen(kw_only=True)
class ComponentCheck:
    """What trying one component showed."""

    entry: "Entry"
    failures: Sequence[str]
    seconds: float


@attrs.frozen(kw_only=True)
class PluginCheck:
    """What loading one plugin and trying its components showed."""

    record: "PluginRecord"
    components: Sequence[ComponentCheck]

    @property
    def status(self) -> str:
        """The plugin's status, or ``failed`` where it loads and a component breaks its contract."""
        return "failed" if any(each.failures for each in self.components) else self.record.status

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return self.status in ("ok", "disabled")


@click.command(short_help="Load plugins and try their contracts.")
@click.argument("plugin", required=False, metavar="[PLUGIN|PATH]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--traceback", "with_traceback", is_flag=True, help="Print where a broken plugin failed.")
def check(plugin: str | None, as_json: bool, with_traceback: bool) -> None:
    """Load plugins, validate their components and try the contract's properties on each.

    PLUGIN is the name of an installed plugin or of its distribution; PATH is the folder of one that is not installed
    yet. Without either, everything installed is checked. Exit status 1 when anything fails.

    \b
    Examples:
      dlm plugins check
      dlm plugins check acme
      dlm plugins check ./dlm-acme --traceback
    """
    import torch

    torch.set_num_threads(1)  # thousands of tiny tensors: threads would only wait for each other
    checks = [_check_plugin(record) for record in _records(plugin)]
    if as_json:
        document = {"ok": all(each.passed for each in checks), "plugins": [_as_json(each) for each in checks]}
        click.echo(json.dumps(document, indent=2))
    else:
        _print_table(checks)
        if with_traceback:
            _print_tracebacks(checks)
    if not all(each.passed for each in checks):
        raise click.exceptions.Exit(1)


def _records(plugin: str | None) -> "list[PluginRecord]":
    from packaging.utils import canonicalize_name

    from dlm.user_paths import user_path
    from dlm_plugins.plugin_loading import load_plugin
    from dlm_plugins.registry import Registry
    from dlm_plugins.uninstalled import find_in_project

    folder = None if plugin is None else user_path(plugin)
    if folder is not None and ("/" in str(plugin) or folder.is_dir()):
        if not folder.is_dir():
            raise click.UsageError(f"there is no folder {plugin}")
        return [load_plugin(candidate) for candidate in find_in_project(folder)]
    records = Registry.discover().plugins
    if plugin is None:
        return list(records)
    name = canonicalize_name(plugin)
    chosen = [each for each in records if plugin == each.name or name == canonicalize_name(each.distribution)]
    if not chosen:
        installed = ", ".join(each.name for each in records)
        raise click.UsageError(f"no plugin {plugin!r} is installed and there is no such folder; installed: {installed}")
    return chosen


def _check_plugin(record: "PluginRecord") -> PluginCheck:
    return PluginCheck(record=record, components=[_check_component(each) for each in record.entries])


def _check_component(entry: "Entry") -> ComponentCheck:
    from dlm_plugins.testing import check_component

    _show_progress(f"trying {entry.kind} {entry.qualified_name}")
    started = time.perf_counter()
    try:
        failures = check_component(entry.kind, entry.cls)
    except Exception as error:
        failures = [f"{type(error).__name__}: {error}\n{traceback.format_exc()}"]
    _show_progress("")
    return ComponentCheck(entry=entry, failures=failures, seconds=time.perf_counter() - started)


def _show_progress(text: str) -> None:
    """Replace the line that is shown while a component is tried, where somebody is watching."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", nl=False, err=True)


def _print_table(checks: Sequence[PluginCheck]) -> None:
    rows: list[tuple[str, str, str, str]] = []
    for each in checks:
        details = _details(each)
        rows.append((each.record.name, f"{each.record.distribution} {each.record.version}", each.status, details[0]))
        rows += [("", "", "", detail) for detail in details[1:]]
    click.echo(format_table(("PLUGIN", "DISTRIBUTION", "STATUS", "DETAIL"), rows, screen_width()))


def _details(checked: PluginCheck) -> list[str]:
    from dlm_plugins.plugin_loading import SLOW_SECONDS

    record = checked.record
    if record.status != "ok":
        return [record.error + (" (--traceback for more)" if record.traceback else "")]
    shadowed = sum(entry.shadowed for entry in record.entries)
    seconds = sum(each.seconds for each in checked.components)
    summary = (
        f"{len(record.entries)} component{'' if len(record.entries) == 1 else 's'}, "
        f"loaded in {record.seconds:.2f} s, tried in {seconds:.1f} s"
        + (f", {shadowed} shadowed" if shadowed else "")
        + (", slow to load" if record.seconds > SLOW_SECONDS else "")
    )
    failures = [
        line
        for each in checked.components
        for failure in each.failures
        for line in f"{each.entry.kind} {each.entry.name!r}: {failure}".splitlines()
    ]
    return [summary, *record.notes, *failures]


def _print_tracebacks(checks: Sequence[PluginCheck]) -> None:
    for each in checks:
        if each.record.traceback:
            click.echo(f"\n{each.record}:\n{each.record.traceback.rstrip()}")


def _as_json(checked: PluginCheck) -> dict[str, object]:
    record = checked.record
    return {
        "plugin": record.name,
        "distribution": record.distribution,
        "version": record.version,
        "status": checked.status,
        "phase": record.phase,
        "error": record.error,
        "traceback": record.traceback,
        "notes": list(record.notes),
        "seconds": round(record.seconds, 4),
        "components": [
            {
                "kind": each.entry.kind,
                "name": each.entry.name,
                "seconds": round(each.seconds, 4),
                "failures": list(each.failures),
            }
            for each in checked.components
        ],
    }
