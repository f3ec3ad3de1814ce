"""``dlm run``: train as a run file says: overrides, dry run, allowed changes when resuming."""

import click

from dlm_cli.run_file import plugin_options

EXAMPLES = """\b
Examples:
  dlm run configs/pretrain.yaml
  dlm run configs/pretrain.yaml training.max_steps=50 optim.lr=1e-3
  dlm run configs/pretrain.yaml --dry-run
  accelerate launch --multi_gpu --num_processes 2 -m dlm run configs/pretrain.yaml
"""


@click.command(epilog=EXAMPLES)
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="Build everything, print what would run, write nothing.")
@click.option(
    "--allow-change",
    multiple=True,
    metavar="KEY",
    help="Resume although KEY differs from the checkpoint. Repeatable.",
)
@plugin_options
@click.option("--trust-remote-code", is_flag=True, help="Let code that comes with the model run. Only if you read it.")
@click.option(
    "--allow-code-execution", is_flag=True, help="Let a reward run code that the model writes. See docs/rewards.md."
)
def run(
    config: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    allow_change: tuple[str, ...],
    no_plugin: tuple[str, ...],
    strict_plugins: bool,
    trust_remote_code: bool,
    allow_code_execution: bool,
) -> None:
    """Train as the run file CONFIG says; KEY=VALUE overrides a key of it, e.g. optim.lr=1e-3.

    Run the same command again after an interruption: with training.checkpoint.resume set to latest it continues at
    exactly the next batch. Exit codes: 0 done, 2 your input, 3 a damaged checkpoint, 4 training went non-finite or
    found nothing to learn from, 5 out of memory, 6 the final state could not be saved, 70 a bug or a lost process,
    129, 130 and 143 ended by a closed terminal, Ctrl-C or SIGTERM after saving.
    """
    from dlm.config import load_config
    from dlm.training.dry_run import describe_run
    from dlm.training.run import run as run_config

    loaded = load_config(config, overrides, disable=no_plugin, strict=strict_plugins)
    if dry_run:
        described = describe_run(
            loaded,
            allow_change=allow_change,
            trust_remote_code=trust_remote_code,
            allow_code_execution=allow_code_execution,
        )
        click.echo(described, nl=bool(described))
    else:
        run_config(
            loaded,
            allow_change=allow_change,
            trust_remote_code=trust_remote_code,
            allow_code_execution=allow_code_execution,
        )
        click.get_current_context().exit(0)  # whether or not its lines could be printed
