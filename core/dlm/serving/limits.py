"""Limits of the server: sizes of bodies, prompts and answers, rows at once and waiting, seconds; defaults fitted in."""

from collections.abc import Collection, Sequence
from typing import Any

import attrs
import torch

from dlm.config.sampling_settings import SamplingSettings
from dlm.sampling.resolve import DEFAULT_GEN_LENGTH, context_of, resolve
from dlm.serving.api_errors import refused

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

    def longest(self, config: Any) -> int:
        """Tokens of prompt and answer that a model with this configuration may have here."""
        own = [each for each in (self.max_length, context_of(config)) if each is not None]
        return min(own, default=LENGTH_WITHOUT_CONTEXT)


def fitted(
    settings: SamplingSettings, said: Collection[str], ids: Sequence[int], model: Any, limits: Limits
) -> SamplingSettings:
    """The settings for one prompt, checked before it waits for its turn.

    What the server was started with is no reason against a request that does not say it: length of the answer, of the
    blocks, and steps give way to what fits.

    Args:
        settings: the server's, with what the request says on top.
        said: which of them the request says.
        ids: of the prompt.
        model: the one that is served.
        limits: of the server.

    Raises:
        ApiError: more than the limits allow.
        UserInputError: a prompt or settings that do not fit the model.
    """
    longest = limits.longest(model.config)
    room = longest - len(ids)
    if room > 0 and ("gen_length" not in said or settings.gen_length is None):
        most = DEFAULT_GEN_LENGTH if settings.gen_length is None else settings.gen_length
        settings = attrs.evolve(settings, gen_length=min(most, room))
    num_places = settings.gen_length or len(ids)
    if "block_length" not in said and settings.block_length is not None and num_places:
        settings = attrs.evolve(settings, block_length=min(settings.block_length, num_places))
    most_steps = MAX_STEPS_PER_TOKEN * max(len(ids) + (settings.gen_length or 0), 1)
    if "steps" not in said and settings.steps is not None:
        settings = attrs.evolve(settings, steps=min(settings.steps, most_steps))
    resolved = resolve(model, torch.tensor([ids], dtype=torch.long), settings, None)
    if len(ids) + resolved.gen_length > longest:
        raise refused(
            f"prompt ({len(ids)} tokens) and answer ({resolved.gen_length}) exceed this server's limit of "
            f"{longest} tokens",
            "max_tokens",
            "context_length_exceeded",
        )
    if resolved.steps > most_steps:
        raise refused(f"steps must be at most {most_steps} here", "dlm.steps")
    return settings
