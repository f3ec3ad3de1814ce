"""Limits of the server: sizes of bodies, prompts and answers, rows at once and waiting, seconds."""

import attrs
import torch

from dlm.sampling.resolve import context_of, resolve
from dlm.sampling.session import Session
from dlm.serving.api_errors import refused
from dlm.serving.requests import Wanted

MAX_STEPS_PER_TOKEN = 4
"""More denoising steps than this for a token are refused: they would hold up everybody else."""
LENGTH_WITHOUT_CONTEXT = 4096
"""Tokens of prompt and answer, where neither model nor server say a limit."""


@attrs.frozen(kw_only=True)
class Limits:
    """What one server takes on."""

    max_rows: int
    """Texts that are written at the same time."""
    max_waiting: int
    """Texts that may wait for their turn; further requests get 503."""
    max_length: int | None
    """Tokens of prompt and answer together; None: the model's context, or 4096."""
    max_body: int
    """Bytes of a request."""
    seconds: float
    """From a request to the end of its text."""
    body_seconds: float = 30.0
    """That the body of a request may take to arrive."""


def check_size(wanted: Wanted, session: Session, limits: Limits) -> None:
    """Refuse what does not fit the model, or is too much for this server, before it waits for its turn.

    Raises:
        ApiError: more than the limits allow.
        UserInputError: prompts or settings that do not fit the model.
    """
    num_rows = len(wanted.prompts) * wanted.body.num_samples
    if num_rows > limits.max_waiting:
        raise refused(f"{num_rows} texts are more than the {limits.max_waiting} that may wait here", "n")
    longest = limits.max_length or context_of(session.model.config) or LENGTH_WITHOUT_CONTEXT
    for ids in wanted.prompts:
        resolved = resolve(session.model, torch.tensor([ids], dtype=torch.long), wanted.settings, None)
        length = len(ids) + resolved.gen_length
        if length > longest:
            raise refused(
                f"prompt ({len(ids)} tokens) and answer ({resolved.gen_length}) exceed this server's limit of "
                f"{longest} tokens",
                "max_tokens",
                "context_length_exceeded",
            )
        if resolved.steps > MAX_STEPS_PER_TOKEN * max(length, 1):
            raise refused(f"steps must be at most {MAX_STEPS_PER_TOKEN * length} here", "dlm.steps")
