"""``dlm serve``: a trained model behind an HTTP server in OpenAI's form: address, API key, limits, grace."""

import math
from typing import Any

import click

from dlm_cli.dotted_options import DottedCommand
from dlm_cli.sampling_options import DOTTED_OPTIONS, open_session, settings_options

EXAMPLES = """\b
Examples:
  dlm serve runs/sft/final
  dlm serve runs/sft/final --port 9000 --temperature 0.7 --block_length 32
  DLM_API_KEY=secret dlm serve runs/sft/final --host 0.0.0.0
\b
And ask it, from another terminal:
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
      -d '{"prompt": "What is diffusion LM?", "max_tokens": 64}'
"""
_HERE = ("127.0.0.1", "::1", "localhost")


class Seconds(click.FloatRange):
    """A finite time above zero: not-a-number is outside no range, and would never run out."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As its parent, and refuse what is not finite."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value} is no finite number of seconds", param, ctx)
        return seconds


@click.command(cls=DottedCommand, dotted=DOTTED_OPTIONS, epilog=EXAMPLES)
@click.argument("model", metavar="MODEL")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, metavar="N", help="0: any free one.  [default: 8000]"
)
@click.option("--name", metavar="NAME", help="Name of the model for clients.  [default: MODEL]")
@click.option("--api-key", envvar="DLM_API_KEY", metavar="KEY", help="What clients must send; also DLM_API_KEY.")
@click.option("--no-auth", is_flag=True, help="Let everybody ask who reaches an address other than this machine's.")
@click.option("--max-rows", type=click.IntRange(min=1), default=8, metavar="N", help="Texts at once.  [default: 8]")
@click.option(
    "--max-waiting", type=click.IntRange(min=1), default=64, metavar="N", help="Texts in the queue.  [default: 64]"
)
@click.option(
    "--max-length",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most tokens of prompt and answer.  [default: the context]",
)
@click.option(
    "--max-body", type=click.IntRange(min=1), default=1 << 20, metavar="BYTES", help="Of a request.  [default: 1 MiB]"
)
@click.option(
    "--timeout",
    type=Seconds(),
    default=600.0,
    metavar="SECONDS",
    help="Longest time for a request.  [default: 600]",
)
@click.option(
    "--grace",
    type=click.IntRange(min=0),
    default=30,
    metavar="SECONDS",
    help="Time for running requests to end after SIGTERM or Ctrl-C.  [default: 30]",
)
@settings_options
def serve(
    host: str,
    port: int,
    name: str | None,
    api_key: str | None,
    no_auth: bool,
    max_rows: int,
    max_waiting: int,
    max_length: int | None,
    max_body: int,
    timeout: float,
    grace: int,
    **options: Any,
) -> None:
    """Serve a trained model over HTTP, in the form of OpenAI's interface.

    Paths: / (a page to try it), /v1/completions, /v1/chat/completions, /v1/infill, /v1/models, /health, /metrics. The
    options of the sampler below hold where a request says nothing else; where neither gives a seed, each request draws
    its own.
    """
    if api_key is not None and (not api_key or not api_key.isascii() or not api_key.isprintable()):
        raise click.UsageError("--api-key: printable ASCII characters, at least one")
    if host not in _HERE and api_key is None and not no_auth:
        raise click.UsageError(f"--host {host} lets others in: give --api-key KEY, or --no-auth if all of them may ask")
    try:
        from dlm.serving.app import Service
        from dlm.serving.server import listening
        from dlm.serving.server import serve as serve_until_signal
    except ImportError as error:
        raise click.UsageError(f"needs the package {error.name}: pip install 'dlm[serve]'") from error
    from dlm.sampling.arguments import keys_in
    from dlm.serving.engine import Engine
    from dlm.serving.limits import Limits

    session = open_session(click.get_current_context(), options)
    limits = Limits(
        max_rows=max_rows, max_waiting=max_waiting, max_length=max_length, max_body=max_body, seconds=timeout
    )
    engine = Engine(model=session.model, max_rows=max_rows, max_waiting=max_waiting)
    service = Service(
        session=session,
        engine=engine,
        limits=limits,
        name=name or options["model"],
        api_key=api_key,
        draws_seeds=options["seed"] is None and "seed" not in keys_in(options["config"]),
    )
    serve_until_signal(service, listening(host, port), grace=grace)
