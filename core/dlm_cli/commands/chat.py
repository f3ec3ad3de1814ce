"""``dlm chat``: a conversation in the terminal, and what may be typed in it (/reset, /system, ...)."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from dlm_cli.dotted_options import DottedCommand
from dlm_cli.sampling_options import DOTTED_OPTIONS, open_session, sampling_options
from dlm_plugins.streams import has_no_reader

if TYPE_CHECKING:
    from dlm.sampling.chat import Chat

EXAMPLES = """\b
Examples:
  dlm chat --model runs/sft/final
  dlm chat --model runs/sft/final --watch --temperature 0.7 --system "Answer in one sentence."
"""
HELP = "/reset forgets the conversation, /system TEXT sets the system text, /exit ends."


@click.command(cls=DottedCommand, dotted=DOTTED_OPTIONS, epilog=EXAMPLES)
@click.option("--system", metavar="TEXT", help="System text to begin with.")
@click.option("--watch", is_flag=True, help="Redraw the answer while it is denoised.")
@sampling_options
def chat(system: str | None, watch: bool, **options: Any) -> None:
    """Talk with a trained model, turn by turn.

    /reset forgets the conversation, /system TEXT sets the system text, /exit ends. When the conversation outgrows the
    model's context, its oldest exchanges are left out. Lines can also be piped in.
    """
    if sys.stdin is None:
        raise click.UsageError("nothing to answer: type, or pipe lines in; the standard input is closed")
    session = open_session(click.get_current_context(), options)
    from dlm.sampling.chat import Chat

    conversation = Chat(session, system=system)
    if conversation.session.rendering is None:
        click.echo("note: this model was not fine-tuned on conversations; it continues text", err=True)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        click.echo(HELP, err=True)
    for line in _typed_lines() if is_terminal else _piped_lines():
        command, _, rest = line.strip().partition(" ")
        if command == "/exit" or has_no_reader():
            return
        if command in COMMANDS:
            click.echo(COMMANDS[command](conversation, rest.strip()), err=True)
        elif command.startswith("/"):
            click.echo(f"unknown command {command}. {HELP}", err=True)
        elif command:
            _answer(conversation, line.strip(), watch)


def _piped_lines() -> Iterator[str]:
    from dlm.data.text_files import numbered_lines

    # As bytes: the locale says nothing about the encoding of what is piped in.
    for _, line in numbered_lines(sys.stdin.buffer, "standard input"):
        yield line


def _typed_lines() -> Iterator[str]:
    with suppress(ImportError):
        # Gives input() a history and editing keys; Windows does without.
        import readline  # noqa: F401
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except UnicodeDecodeError:
            click.echo("dlm: what was typed is not in the encoding of the terminal; type it again", err=True)


def _answer(conversation: "Chat", text: str, watch: bool) -> None:
    from dlm.errors import UserInputError
    from dlm_cli.generation import watcher

    try:
        batch, states = conversation.ask(text)
        *_, state = watcher(conversation.session)(batch, states) if watch else states
    except UserInputError as error:
        click.echo(f"dlm: {error}", err=True)
        return
    except KeyboardInterrupt:
        conversation.forget_question()
        click.echo("(broken off)", err=True)
        return
    if conversation.num_left_out:
        click.echo(f"note: the first {conversation.num_left_out} exchanges no longer fit and were left out", err=True)
    click.echo(conversation.finish(batch, state))


def _reset(conversation: "Chat", _: str) -> str:
    conversation.reset()
    return "forgotten"


def _system(conversation: "Chat", text: str) -> str:
    conversation.system = text or None
    return f"system text: {text or 'none'}"


COMMANDS = {"/reset": _reset, "/system": _system}
