"""Entry point of the ``dlm`` command: the table of commands, each imported when called; how errors are printed."""

import errno
import importlib
import os
import sys
import traceback

import click

from dlm_plugins.streams import steady_streams
from dlm_plugins.suggestions import did_you_mean

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("dlm_cli.commands.run:run", "Train as a run file says: on texts, answers, preferences, rewards."),
    "validate": ("dlm_cli.commands.validate:validate", "Check run files without running them."),
    "config": ("dlm_cli.commands.config:config", "Show a resolved run file, or its JSON Schema."),
    "data": ("dlm_cli.commands.data:data", "Look at rows as the model will see them."),
    "generate": ("dlm_cli.commands.generate:generate", "Generate text from a trained folder."),
    "eval": ("dlm_cli.commands.eval:eval_", "Evaluate trained folders, with intervals and a report."),
    "report": ("dlm_cli.commands.eval:report", "Write the page of a run: curves, samples."),
    "chat": ("dlm_cli.commands.chat:chat", "Talk with a trained model in the terminal."),
    "serve": ("dlm_cli.commands.serve:serve", "Serve a trained model over HTTP, in OpenAI's form."),
    "convert": ("dlm_cli.commands.convert:convert", "Make a diffusion model of a checkpoint, or read a published one."),
    "export": ("dlm_cli.commands.export:export", "Write a trained model for an engine, or to publish it."),
    "merge": ("dlm_cli.commands.merge:merge", "Merge the adapters of a run into their base."),
    "analyze": ("dlm_cli.commands.analyze:analyze", "Compare two checkpoints tensor by tensor."),
    "plugins": ("dlm_cli.commands.plugins:plugins", "List, show and check the components and their plugins."),
    "env": ("dlm_cli.commands.env:env", "Print what an issue report needs."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported only when they run, so that ``--help`` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            ctx.fail(f"no such command {cmd_name!r}{did_you_mean(cmd_name, COMMANDS)}")
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: dlm run configs/pretrain.yaml",
)
@click.version_option(package_name="dlm")
def cli() -> None:
    """Turn an autoregressive decoder into a diffusion language model: convert, train, sample."""


_REFUSALS_OF_THE_SYSTEM = {errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOSPC, errno.EPERM, errno.EROFS}
"""No bug of anybody's: a full disk, files that are not to be written or read, names that no file can have."""


def main() -> None:
    """Run the command line; a user's mistake ends in one message, never in a traceback, a closed pipe in nothing."""
    with steady_streams() as (out, _):
        code = _exit_code()
        out.flush()
        if code is None and out.lost is not None and not out.has_no_reader:
            print(f"dlm: not all of the output could be written: {out.lost.strerror}", file=sys.stderr)
            code = 2
    sys.exit(code)


def _exit_code() -> int | None:
    """Run the command, and print what went wrong; None: it returned without choosing an exit code."""
    try:
        # What `ctx.exit(code)` ends with comes back as the result; a command itself returns nothing.
        result: int | None = cli.main(standalone_mode=False)
        return result
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as error:
        _show_refusal(error)
        return error.exit_code
    except Exception as error:
        # Known errors carry their exit code, those of the contract package too.
        code: int | None = getattr(error, "exit_code", None)
        if code is None and isinstance(error, OSError) and error.errno in _REFUSALS_OF_THE_SYSTEM:
            where = f"{error.filename}: " if error.filename else "the result could not be written: "
            print(f"dlm: {where}{error.strerror}", file=sys.stderr)
            return 2
        if code is None:
            traceback.print_exc()
            print("dlm: this is a bug in dlm or in a plugin; `dlm env` prints what a report needs.", file=sys.stderr)
            return 70
        if not hasattr(error, "lines"):
            print(f"dlm: {error}", file=sys.stderr)
        elif os.environ.get("LOCAL_RANK", "0") == "0":  # every process of a launcher reads the same run file
            print(error, file=sys.stderr)  # as it is: editors and terminals link `file:line:`
        return int(code)


def _show_refusal(error: click.ClickException) -> None:
    """Print what is wrong with the arguments in one line; a group without any prints its help."""
    message = error.format_message()
    if "\n" in message:
        error.show()
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = "dlm" if context is None else context.command_path
    click.echo(f"{command}: {message.rstrip('.')} (see {command} --help)", err=True)
