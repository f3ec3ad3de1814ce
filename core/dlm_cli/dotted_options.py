"""Options of components on the command line: ``--remasking.temperature 0.5``."""

from typing import Any

import click

DOTTED = "dlm_cli.dotted_options"
"""Where the context keeps them: ``ctx.meta[DOTTED]``, a dict from ``remasking.temperature`` to the text given."""


class DottedCommand(click.Command):
    """A command some of whose options have options: what looks like ``--option.key VALUE`` is set aside.

    Only options of the command may stand before the dot; anything else is left for click to refuse.
    """

    def __init__(self, *args: Any, dotted: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dotted = dotted

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the dotted options out, and parse the rest as usual."""
        rest: list[str] = []
        found: dict[str, str] = {}
        queue = iter(args)
        for argument in queue:
            name, equals, value = argument.removeprefix("--").partition("=")
            option, dot, key = name.partition(".")
            option = option.replace("-", "_")
            if not (argument.startswith("--") and dot and key and option in self.dotted):
                rest.append(argument)
                continue
            if not equals:
                following = next(queue, None)
                if following is None:
                    raise click.UsageError(f"option --{name} needs a value", ctx)
                value = following
            found[f"{option}.{key.replace('-', '_')}"] = value
        ctx.meta[DOTTED] = found
        return super().parse_args(ctx, rest)
