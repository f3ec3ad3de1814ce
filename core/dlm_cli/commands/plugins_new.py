"""``dlm plugins new``: a package to start from."""

import shlex

import click


@click.command(short_help="Write a package to start from.")
@click.argument("kind")
@click.argument("name")
@click.option("--out", required=True, help="Folder to write, e.g. dlm-acme.")
def new(kind: str, name: str, out: str) -> None:
    """Write a complete package with one component, its contract test and its entry point.

    It installs, lists, passes its own tests and type-checks as it is; then it is yours to change. NAME is one that no
    built-in of the kind has.

    \b
    Examples:
      dlm plugins new loss focal_elbo --out dlm-acme
      dlm plugins new noise_schedule clipped --out my/dlm-clipped
    """
    from dlm.user_paths import user_path
    from dlm_plugins.kinds import KINDS
    from dlm_plugins.scaffold import write_project
    from dlm_plugins.suggestions import did_you_mean

    if kind not in KINDS:
        raise click.UsageError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    for path in write_project(KINDS[kind], name, user_path(out)):
        click.echo(f"Wrote {path}")
    # Both are paths to pip and pytest, never the name of a package; `[test]` brings pytest.
    folder = str(user_path(out)) if "/" in out else f"./{out}"
    install = shlex.join(["pip", "install", "-e", f"{folder}[test]"])
    click.echo(f"Next: {install} && pytest {shlex.quote(folder)} && dlm plugins show {kind} {name}")
